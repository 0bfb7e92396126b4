"""Exact sums of painted values over scenes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bestpixel_gpu.engines.contract import NODATA, Sums, TapSource, Window
from bestpixel_gpu.engines.cpu.jit import kernel, plane
from bestpixel_gpu.engines.cpu.paint import paint

_NODATA = np.uint16(NODATA)


def spread(sums: Sums, window: Window, sources: Mapping[int, TapSource], marks: Mapping[int, Any]) -> None:
    """Add the values of some scenes, each painted for itself; see the contract."""
    rows, cols = shape = sums.count.shape
    painted = np.empty(shape, np.uint16)
    for rank, source in sources.items():
        painted.fill(NODATA)
        winners = np.where(marks[rank] != 0, 0, -1).astype(np.int16)
        paint(painted, window, winners, {0: source})
        add(rows, cols, painted, *plane(sums.count), *plane(sums.total), *plane(sums.squares))


@kernel
def add(
    rows: int, cols: int, painted: Any, count: Any, count_step: int, total: Any, total_step: int,
    squares: Any, squares_step: int,
) -> None:  # fmt: skip
    """Sums grow by the values that are there."""
    for r in range(rows):
        line = painted[r]
        for c in range(cols):
            there = np.uint8(line[c] != _NODATA)
            value = np.uint64(line[c]) * np.uint64(there)
            count[r * count_step + c] += np.uint32(there)
            total[r * total_step + c] += value
            squares[r * squares_step + c] += value * value
