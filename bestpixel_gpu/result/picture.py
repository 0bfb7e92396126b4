"""A look at the composite: a small picture, and the table of a notebook."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.request import whole
from bestpixel_gpu.result.composite import NODATA, REFLECTANCE, Composite, Stretch, to_host
from bestpixel_gpu.result.files import staged

if TYPE_CHECKING:
    from PIL.Image import Image

GAMMA = 1.4
"""Lifts the dark half, where land lies."""
PERCENTILES = (2.0, 98.0)
_FINE = 4
"""Pixels averaged along each axis of a picture pixel, at most; more change nothing one can see."""


def quicklook(
    composite: Composite,
    bands: Sequence[str] | None = None,
    *,
    size: int = 800,
    stretch: Stretch = REFLECTANCE,
    gamma: float = GAMMA,
) -> Image:
    """RGBA picture of at most `size` pixels a side, transparent where any shown band has no value.

    Parameters
    ----------
    composite : Composite
    bands : three names, or one for grey
        Default red, green, blue where they are there, else the first band.
    size : int
        Longest side at most; larger grids are averaged in square blocks.
    stretch : "percentile" or (low, high)
        What is black and white: percentiles 2 and 98 of what is seen, or reflectances.
    gamma : float
        Output = input ** (1 / gamma).

    Raises
    ------
    InputError
        If pillow is missing, or bands or stretch cannot be used.
    """
    if find_spec("PIL") is None:
        raise InputError("quicklook needs pillow: pip install 'bestpixel-gpu[plot]'")
    from PIL import Image

    names = _chosen(composite, bands)
    size = whole("size", size, 1)
    factor = -(-max(composite.grid.shape) // size)
    seen = np.stack([shrink(composite.bands[name], factor) for name in names], axis=-1)
    valid: NDArray[np.bool_] = np.asarray(np.isfinite(seen).all(axis=-1))
    low, high = limits(seen[valid], stretch)
    scaled = np.clip((np.where(valid[..., None], seen, low) - low) / (high - low), 0.0, 1.0)
    rgb = np.rint(255.0 * scaled ** (1.0 / gamma)).astype(np.uint8)
    if len(names) == 1:
        rgb = rgb.repeat(3, axis=-1)
    alpha = np.where(valid, 255, 0).astype(np.uint8)
    return Image.fromarray(np.dstack([rgb, alpha]))


def save_quicklook(composite: Composite, path: str | os.PathLike[str], **options: Any) -> Path:
    """Path of the picture file written; `options` are those of :func:`quicklook`."""
    image = quicklook(composite, **options)
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with staged() as files:
        image.save(files.place(final))
    return final


def shrink(band: Any, factor: int) -> NDArray[np.float64]:
    """Reflectance averaged over blocks of at least `factor` pixels a side; NaN where a block has no value.

    Blocks wider than a few pixels are averaged over a regular part of them.
    """
    step = -(-factor // _FINE)
    block = -(-factor // step)
    fine = to_host(band[::step, ::step])
    rows, cols = (-(-n // block) for n in fine.shape)
    padded = np.full((rows * block, cols * block), NODATA, np.uint16)
    padded[: fine.shape[0], : fine.shape[1]] = fine
    tiles = padded.reshape(rows, block, cols, block)
    valid = tiles != NODATA
    count = valid.sum(axis=(1, 3))
    total = np.where(valid, tiles, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1) / 10_000.0, np.nan)


def limits(values: NDArray[np.float64], stretch: Stretch) -> tuple[float, float]:
    """Reflectances of black and white."""
    if stretch == "percentile":
        if not values.size:
            return REFLECTANCE
        low, high = np.percentile(values, PERCENTILES).tolist()
        return low, max(high, low + 1e-4)
    try:
        low, high = map(float, stretch)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise InputError(f"stretch must be 'percentile' or (low, high) reflectances, got {stretch!r}")
    return low, high


def _chosen(composite: Composite, bands: Sequence[str] | None) -> list[str]:
    """The bands to show."""
    there = composite.band_names
    if bands is None:
        rgb = ["red", "green", "blue"]
        return rgb if set(rgb) <= set(there) else there[:1]
    names = [bands] if isinstance(bands, str) else [*bands] if isinstance(bands, Iterable) else []
    if len(names) not in (1, 3) or not set(names) <= set(there):
        raise InputError(f"bands must be one or three of {', '.join(there)}, got {bands!r}")
    return names


def composite_html(composite: Composite) -> str:
    """Table of the facts, with the picture beside it where pillow is there."""
    grid, report = composite.grid, composite.report
    rows, cols = grid.shape
    facts = {
        "grid": f"{cols} x {rows} px of {grid.res_x:g}, {grid.crs[:60]}",
        "bands": ", ".join(composite.band_names),
        "scenes": f"{report.counts['used']} of {report.counts['found']} compete, {composite.collection}",
        "empty": f"{report.empty_pixels} pixels without an observation",
        "lost": f"{report.lost_tiles} tiles, {report.counts['failed']} scenes",
    }
    cells = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in facts.items()
    )
    table = f"<table>{cells}</table>"
    if find_spec("PIL") is None:
        return table
    png = io.BytesIO()
    quicklook(composite, size=320).save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode("ascii")
    picture = f'<img alt="quicklook" src="data:image/png;base64,{data}">'
    return f'<div style="display:flex;gap:1em">{table}{picture}</div>'
