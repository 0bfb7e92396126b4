"""Codes near marked ones, in two sweeps over a mask: from above, then from below."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import Surround
from bestpixel_gpu.engines.cpu.jit import inlined, int64, kernel


def surround(data: NDArray[np.uint8], rule: Surround) -> None:
    """Change codes that are marked or near marked ones; see the contract."""
    widest = int(rule.reach[0])
    # rows over which a marked pixel d columns away is near, d = 0..widest
    height = np.searchsorted(-rule.reach, -np.arange(widest + 1), "right") - 1
    marked, becomes = rule.marked.astype(np.uint8), np.array(rule.becomes, np.uint8)
    for from_below in (False, True):
        sweep(data, marked, becomes, height, from_below)


@kernel
def sweep(data: Any, marked: Any, becomes: Any, height: Any, from_below: bool) -> None:
    """One way over the rows; marked codes keep until the second, from below, has seen them."""
    rows, cols = data.shape
    widest = height.size - 1
    until = np.full(cols, -1, np.int64)  # last step at which something passed is near, by column
    gap = np.empty(cols, np.int64)
    last = int64(-1)
    for step in range(rows):
        line = data[rows - 1 - step] if from_below else data[step]
        if _gaps(line, marked, widest, gap):
            for c in range(cols):
                if gap[c] <= widest:
                    until[c] = max(until[c], step + height[gap[c]])
            last = step + height[0]
        if step <= last:
            for c in range(cols):
                if until[c] >= step and (from_below or not marked[line[c]]):
                    line[c] = becomes[line[c]]


@inlined
def _gaps(line: Any, marked: Any, widest: int, gap: Any) -> Any:
    """Columns to the nearest marked code of a row, cut at ``widest + 1``; whether there is one."""
    found = np.uint8(0)
    for c in range(line.size):
        found |= marked[line[c]]
    if not found:
        return False
    far = int64(widest + 1)
    near = far
    for c in range(line.size):
        near = int64(0) if marked[line[c]] else min(near + 1, far)
        gap[c] = near
    near = far
    for c in range(line.size - 1, -1, -1):
        near = min(gap[c], near + 1)
        gap[c] = near
    return True
