"""Exact sums of painted values over scenes, from which their spread follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bestpixel_gpu.engines.contract import TapSource, Window
from bestpixel_gpu.engines.cuda.device import Device, blocks, pitch
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.sources import by_type, upload_sources

THREADS = 128
"""Of a block of ``cuda/spread.cu``."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What has been added so far: device arrays, (rows, cols) of one window and of one pitch.

    Attributes
    ----------
    count : uint32
        Valid values v of a pixel.
    total, squares : uint64
        Sums of v and of v squared; exact for 2**32 values.
    """

    count: Any
    total: Any
    squares: Any


def new_sums(device: Device, rows: int, cols: int) -> Sums:
    """Sums of nothing."""
    made = [device.empty((rows, cols), dtype) for dtype in (np.uint32, np.uint64, np.uint64)]
    for array in made:
        device.fill(array, 0)
    return Sums(*made)


def spread(
    device: Device,
    maps: Maps,
    sums: Sums,
    window: Window,
    sources: Mapping[int, TapSource],
    codes: Mapping[int, Any] | None = None,
) -> None:
    """Add the valid values of some scenes: their samples as they would be painted.

    Parameters
    ----------
    sums : Sums
        Of `window`.
    sources : mapping
        By rank. An invalid or lost sample adds nothing.
    codes : mapping, optional
        By rank, where the scene is usable: uint8 device array, (rows, cols) of score codes at the
        window's pixels, as the contract's ``resample`` makes them. The value is added where the
        code is below ``UNUSABLE_CODE``, everywhere for a rank without codes.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    """
    row0, row1, col0, col1 = window
    shape = row1 - row0, col1 - col0
    arrays = {"count": sums.count, "total": sums.total, "squares": sums.squares}
    arrays |= {f"codes of rank {rank}": array for rank, array in (codes or {}).items()}
    for what, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{what} of {array.shape} for the window {window}")
    steps = {int(pitch(array)) for array in (sums.count, sums.total, sums.squares)}
    if len(steps) > 1:
        raise ValueError(f"sums of different pitches: {steps}")
    if not all(shape):
        return
    grid = blocks(shape[1], THREADS) * shape[0]
    for name, group in by_type(sources).items():
        made = upload_sources(device, maps, group, codes)
        place = map(np.int64, (row0, col0, *shape))
        args = [made.structs, np.int32(made.n), made.slots, *place]
        args += [sums.count, sums.total, sums.squares, pitch(sums.count)]
        device.launch(("spread", f"spread_{name}"), grid, THREADS, args)
