"""Runs of pixels of one row that one scene won, grouped by scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cpu.jit import inlined, kernel, plane, uint64
from bestpixel_gpu.engines.cpu.native import changes_of_64, lowest_bit, moved, start_of

_ROOM = 1 << 16
_WORD = 64
"""Pixels whose ends of runs are found at once."""


def spans_of(winners: NDArray[Any], ranks: Sequence[int]) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """(rank, spans) of the pixels that `ranks` won; a rank may come several times.

    Parameters
    ----------
    winners : signed integers, (rows, cols)
        Ranks, negative where none.
    ranks : sequence of int

    Yields
    ------
    int, int32 (n, 3)
        Rank; (row, first column, end column) of each span. The memory of the spans is used again.
    """
    rows, cols = winners.shape
    index_of = np.full(max(ranks, default=-1) + 1, -1, np.int32)
    index_of[list(ranks)] = np.arange(len(ranks))
    flat, step = plane(winners)
    found = np.empty((max(_ROOM, cols), 4), np.int32)
    grouped = np.empty((len(found), 3), np.int32)
    row = 0
    while row < rows:
        ends = np.zeros(len(ranks) + 1, np.int64)
        row = find_spans(flat, step, rows, cols, row, index_of, found, grouped, ends)
        for i, rank in enumerate(ranks):
            if ends[i] < ends[i + 1]:
                yield rank, grouped[ends[i] : ends[i + 1]]


@kernel
def find_spans(
    winners: Any,
    step: int,
    rows: int,
    cols: int,
    row: int,
    index_of: Any,
    found: Any,
    grouped: Any,
    ends: Any,
) -> int:
    """Group the spans of as many rows as there is room for; returns the first row that is left.

    Parameters
    ----------
    winners : flat, with `step` elements from row to row
    index_of : int32
        Group of each rank, -1 where it is not wanted.
    found, grouped : int32, (n, 4), (n, 3)
        Room for spans as they come, and as they are grouped.
    ends : int64, (groups + 1,), zero at first
        Group i becomes ``grouped[ends[i] : ends[i + 1]]``.
    """
    n = 0
    groups = index_of.size
    while row < rows and n + cols <= found.shape[0]:
        line = moved(start_of(winners), row * step)
        col = 0
        for at in range(0, cols, _WORD):
            ends_here = _run_ends(line, at, cols)
            while ends_here:
                end = at + lowest_bit(ends_here) + 1
                ends_here &= ends_here - uint64(1)
                rank = line[col]
                group = index_of[rank] if 0 <= rank < groups else -1
                if group >= 0:
                    found[n, 0], found[n, 1], found[n, 2], found[n, 3] = row, col, end, group
                    ends[group + 1] += 1
                    n += 1
                col = end
        row += 1
    for group in range(1, ends.size):
        ends[group] += ends[group - 1]
    at = ends.copy()
    for i in range(n):
        group = found[i, 3]
        for field in range(3):
            grouped[at[group], field] = found[i, field]
        at[group] += 1
    return row


@inlined
def _run_ends(line: Any, at: int, cols: int) -> Any:
    """Bit i is set where pixel ``at + i`` of a row is the last of its run, i < 64."""
    if at + _WORD < cols:
        return changes_of_64(moved(line, at))
    bits = uint64(1) << uint64(cols - 1 - at)
    for i in range(at, cols - 1):
        bits |= uint64(line[i] != line[i + 1]) << uint64(i - at)
    return bits
