"""Top-of-atmosphere reflectance -> surface reflectance, by coefficients of a radiative transfer model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import InputError


def correct_toa(toa: Any, xap: Sequence[float], xbp: Sequence[float], xcp: Sequence[float]) -> Any:
    """Surface reflectance of top-of-atmosphere reflectance.

    ``y = xap toa - xbp``, then ``max(y / (1 + xcp y), 0)``, band by band and each step rounded to
    float32: the Lambertian correction of 6S (Vermote et al. 1997), as in bestpixel 0.3.0.

    Parameters
    ----------
    toa : float32, (bands, rows, cols)
        NumPy array, or CuPy array: then the result is one, too, on the same device.
    xap, xbp, xcp : sequence of float, one for each band
        Of the atmosphere: 1 / (transmittance), path reflectance / transmittance, spherical albedo.

    Returns
    -------
    float32, (bands, rows, cols)
        Not a number where `toa` is not finite.

    Raises
    ------
    TypeError
        If `toa` is not such an array.
    InputError
        If a sequence has another length than there are bands, or holds something that is no number.
    """
    if getattr(toa, "dtype", None) != np.float32 or getattr(toa, "ndim", 0) != 3:
        raise TypeError("toa must be a float32 array of (bands, rows, cols)")
    lines = [_coefficients(n, v, len(toa)) for n, v in (("xap", xap), ("xbp", xbp), ("xcp", xcp))]
    if hasattr(toa, "__cuda_array_interface__"):
        from bestpixel_gpu.engines.cuda.engine import kept_engine

        with toa.device:  # CuPy's current one may be another
            there = toa if toa.flags.c_contiguous else toa.copy()
        there.device.synchronize()  # whoever fills it may work on a stream of its own
        return kept_engine(there.device.id).correct_toa(there, np.array(lines))
    if not isinstance(toa, np.ndarray):
        raise TypeError(f"toa must be a NumPy or CuPy array, got {type(toa).__name__}")
    return _on_host(toa, *lines)


def _coefficients(name: str, values: Sequence[float], n_bands: int) -> NDArray[np.float32]:
    try:
        line = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} must hold numbers, got {values!r}") from None
    if line.shape != (n_bands,):
        raise InputError(f"{name} must hold one number for each of the {n_bands} bands, got {line.shape}")
    return line


def _on_host(
    toa: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> NDArray[np.float32]:
    out = np.empty_like(toa)
    with np.errstate(all="ignore"):
        for band, plane in enumerate(toa):
            y = a[band] * plane - b[band]
            out[band] = np.maximum(y / (np.float32(1) + c[band] * y), np.float32(0))
            out[band][~np.isfinite(plane)] = np.nan
    return out
