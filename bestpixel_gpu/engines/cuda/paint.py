"""Winners' samples -> the painted band of a window, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestpixel_gpu.engines.contract import TapSource, Window
from bestpixel_gpu.engines.cuda.device import Device, blocks, pitch
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.sources import Sources, by_type, upload_sources

THREADS = 128
"""Of a block of ``cuda/paint.cu``."""
ROWS = 4
"""Rows of each thread of the first kernel."""
WORDS = 8
"""Words of marks that a warp of the second one looks through."""


def paint(
    device: Device,
    maps: Maps,
    target: Any,
    window: Window,
    winners: Any,
    sources: Mapping[int, TapSource],
) -> int:
    """Write the winners' samples, return how many became nodata; see the contract."""
    return failures(device, start_painting(device, maps, target, window, winners, sources))


def start_painting(
    device: Device,
    maps: Maps,
    target: Any,
    window: Window,
    winners: Any,
    sources: Mapping[int, TapSource],
) -> Any:
    """Ask for :func:`paint` and go on; its count is a device array for :func:`failures`.

    Parameters
    ----------
    target : uint16 device array, (rows, cols) of `window`
    winners : int16 or int32 device array, (rows, cols)
    sources : mapping
        By rank; the pools have ``data`` and ``step``, their slots are loaded or will be by work that
        the main stream waits for. The pools must live until the main stream has passed here.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    """
    count = device.empty(1, np.uint64)
    device.fill(count, 0)
    if check_winners(window, winners) and target.shape == winners.shape:
        for name, group in by_type(sources).items():
            _paint(device, name, upload_sources(device, maps, group), target, window, winners, count)
    elif target.shape != winners.shape:
        raise ValueError(f"a target of {target.shape} for winners of {winners.shape}")
    return count


def failures(device: Device, count: Any) -> int:
    """How many pixels became nodata; waits for the main stream."""
    return int(device.download(count)[0])


def check_winners(window: Window, winners: Any) -> bool:
    """Whether the window holds any pixel.

    Raises
    ------
    ValueError
        If the winners are not those of the window.
    """
    row0, row1, col0, col1 = window
    if winners.shape != (row1 - row0, col1 - col0):
        raise ValueError(f"winners of {winners.shape} for the window {window}")
    if winners.dtype not in (np.int16, np.int32):
        raise ValueError(f"winners of type {winners.dtype}: expected int16 or int32")
    return row0 < row1 and col0 < col1


def winner_arguments(winners: Any, sources: Sources) -> list[Any]:
    """``WINNERS_PARAMETERS`` of ``cuda/winners.cuh``."""
    size = np.int32(winners.dtype.itemsize)
    return [winners, pitch(winners), size, sources.index_of, np.int32(sources.ranks)]


def _paint(
    device: Device, name: str, sources: Sources, target: Any, window: Window, winners: Any, count: Any
) -> None:
    row0, row1, col0, col1 = window
    rows, across = row1 - row0, blocks(col1 - col0, THREADS)
    words = rows * across * (THREADS // 32)
    marks = device.empty(words, np.uint32)
    place = map(np.int64, (row0, col0, rows, col1 - col0))
    args = [sources.structs, sources.slots, *winner_arguments(winners, sources)]
    args += [*place, target, pitch(target), marks, count]
    device.launch(("paint", f"paint_{name}"), across * blocks(rows, ROWS), THREADS, args)
    device.launch(("paint", f"paint_rest_{name}"), blocks(words, WORDS * THREADS // 32), THREADS, args)
