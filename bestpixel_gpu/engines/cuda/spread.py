"""Exact sums of painted values over scenes, from which their spread follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestpixel_gpu.engines.contract import Sums, TapSource, Window
from bestpixel_gpu.engines.cuda.device import Device, blocks, pitch
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.sources import by_type, upload_sources

THREADS = 128
"""Of a block of ``cuda/spread.cu``."""


def spread(
    device: Device,
    maps: Maps,
    sums: Sums,
    window: Window,
    sources: Mapping[int, TapSource],
    marks: Mapping[int, Any] | None = None,
) -> None:
    """Add the valid values of some scenes: their samples as they would be painted.

    Parameters
    ----------
    sums : Sums
        Of `window`.
    sources : mapping
        By rank. An invalid or lost sample adds nothing.
    marks : mapping, optional
        By rank, uint8 device array, (rows, cols) of the window: the value is added where it is not 0,
        everywhere for a rank without marks.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    """
    row0, row1, col0, col1 = window
    shape = row1 - row0, col1 - col0
    arrays = {"count": sums.count, "total": sums.total, "squares": sums.squares}
    arrays |= {f"marks of rank {rank}": array for rank, array in (marks or {}).items()}
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
        made = upload_sources(device, maps, group, marks)
        place = map(np.int64, (row0, col0, *shape))
        args = [made.structs, np.int32(made.n), made.slots, *place]
        args += [sums.count, sums.total, sums.squares, pitch(sums.count)]
        device.launch(("spread", f"spread_{name}"), grid, THREADS, args)
