"""Top-of-atmosphere correction on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cuda.device import Device, blocks

THREADS = 256
"""Of a block of ``cuda/toa.cu``."""


def correct_toa(device: Device, toa: Any, coefficients: NDArray[np.float32]) -> Any:
    """Surface reflectance; see :func:`bestpixel_gpu.correct_toa`.

    Parameters
    ----------
    toa : float32 device array, (bands, rows, cols), contiguous
    coefficients : float32, (3, bands)
    """
    bands, rows, cols = toa.shape
    out = device.empty(toa.shape, np.float32)
    if out.size:
        args = [toa, device.upload(coefficients), np.int64(bands), np.int64(rows * cols), out]
        device.launch(("toa", "correct_toa"), blocks(bands * rows * cols, THREADS), THREADS, args)
    return out
