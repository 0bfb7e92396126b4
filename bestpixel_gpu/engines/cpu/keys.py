"""Keys and layers: who won, written down and counted, and taken back where it failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import (
    NO_KEY,
    NO_SCORE,
    NODATA,
    NOT_SELECTED,
    RANK_BITS,
    SCORE_SHIFT,
    Window,
)
from bestpixel_gpu.engines.cpu.jit import inlined, int64, kernel, plane
from bestpixel_gpu.geo.grid import ChunkGrid

_EVERYWHERE = np.empty(0, np.uint8)
_BLOCK = 64
"""Pixels whose winners are compared at once."""
_NO_KEY, _RANK, _EXTRA = np.uint32(NO_KEY), np.uint32(RANK_BITS), np.uint32(NOT_SELECTED)
_SHIFT = np.uint32(SCORE_SHIFT)
_NO_SCORE, _NODATA = np.uint16(NO_SCORE), np.uint16(NODATA)


def settle(keys: Any, quality: Any, winners: Any, n_scenes: int, where: Any) -> NDArray[np.int64]:
    """Write what keys say and count the winners; see the contract."""
    counts = np.zeros(n_scenes + 1, np.int64)
    (k, k_step), (q, q_step), (w, w_step) = plane(keys), plane(quality), plane(winners)
    m, m_step = (_EVERYWHERE, 0) if where is None else plane(where)
    rows, cols = keys.shape
    decode(rows, cols, k, k_step, q, q_step, w, w_step, m, m_step, counts)
    return counts


@kernel
def decode(
    rows: Any,
    cols: Any,
    keys: Any,
    keys_step: Any,
    quality: Any,
    quality_step: Any,
    winners: Any,
    winners_step: Any,
    marks: Any,
    marks_step: Any,
    counts: Any,
) -> None:
    """Quality and winner of each key, and how many each wins."""
    for r in range(rows):
        line = keys[r * keys_step : r * keys_step + cols]
        scores = quality[r * quality_step : r * quality_step + cols]
        ranks = winners[r * winners_step : r * winners_step + cols]
        if marks.size:
            flags = marks[r * marks_step : r * marks_step + cols]
            for c in range(cols):
                if flags[c]:
                    scores[c], ranks[c] = _said_by(line[c])
                    counts[ranks[c]] += 1
        else:
            for c in range(cols):
                scores[c], ranks[c] = _said_by(line[c])
            _count_runs(ranks, counts)


@inlined
def _said_by(key: Any) -> Any:
    """Score and rank, whatever integers they come to lie in."""
    if key == _NO_KEY:
        return int64(_NO_SCORE), int64(-1)
    return int64(key >> _SHIFT), int64(key & _RANK)


@inlined
def _count_runs(ranks: Any, counts: Any) -> None:
    """Add the pixels of each rank to `counts`; those of -1 are its last entry, as in Python.

    Neighbours mostly have one winner: whether a whole block has that of the pixel before is found
    out with vectors, and only the other blocks are looked at pixel by pixel.
    """
    run, last = int64(0), ranks.dtype.type(-1)
    whole = ranks.size // _BLOCK * _BLOCK
    for first in range(0, whole, _BLOCK):
        other = ranks.dtype.type(0)
        for i in range(_BLOCK):
            other |= ranks[first + i] ^ last
        if other == 0:
            run += _BLOCK
        else:
            run, last = _count_each(ranks, first, first + _BLOCK, run, last, counts)
    run, last = _count_each(ranks, whole, ranks.size, run, last, counts)
    counts[last] += run


@inlined
def _count_each(ranks: Any, first: int, end: int, run: int, last: Any, counts: Any) -> Any:
    """Count the runs that end here; the length and the rank of the one that goes on."""
    for c in range(first, end):
        if ranks[c] != last:
            counts[last] += run
            run, last = int64(0), ranks[c]
        run += 1
    return run, last


def extra_wins(keys: Any, window: Window, chunks: ChunkGrid, n_scenes: int) -> NDArray[np.int64]:
    """Pixels that each unselected scene wins in each chunk; see the contract."""
    rows, cols = chunks.edges_in(window)
    wins = np.zeros((n_scenes, len(rows) - 1, len(cols) - 1), np.int64)
    count_extra(*plane(keys), rows, cols, wins)
    return wins


@kernel
def count_extra(keys: Any, step: Any, rows: Any, cols: Any, wins: Any) -> None:
    """Add the unselected winners of each chunk to `wins`, (scene, chunk row, chunk col)."""
    for i in range(rows.size - 1):
        for r in range(rows[i], rows[i + 1]):
            for j in range(cols.size - 1):
                for key in keys[r * step + cols[j] : r * step + cols[j + 1]]:
                    if key & _EXTRA and key != _NO_KEY:
                        wins[int64(key & _RANK), i, j] += 1


def failed(bands: Sequence[Any], winners: Any) -> tuple[Window, NDArray[np.uint8]] | None:
    """Box and marks of the pixels whose winner gave no sample; see the contract."""
    rows, cols = winners.shape
    marks = np.zeros((rows, cols), np.uint8)
    w, w_step = plane(winners)
    m, m_step = plane(marks)
    found = 0
    for b, b_step in map(plane, bands):
        found += mark(rows, cols, b, b_step, w, w_step, m, m_step)
    if not found:
        return None
    down, across = np.flatnonzero(marks.any(axis=1)), np.flatnonzero(marks.any(axis=0))
    box = int(down[0]), int(down[-1]) + 1, int(across[0]), int(across[-1]) + 1
    return box, marks[box[0] : box[1], box[2] : box[3]]


@kernel
def mark(
    rows: Any, cols: Any, band: Any, band_step: Any, winners: Any, winners_step: Any, marks: Any, step: Any
) -> Any:
    """Mark the pixels with a winner and nodata; how many of this band."""
    found = int64(0)
    for r in range(rows):
        values = band[r * band_step : r * band_step + cols]
        ranks = winners[r * winners_step : r * winners_step + cols]
        flags = marks[r * step : r * step + cols]
        for c in range(cols):
            bad = np.uint8(values[c] == _NODATA) & np.uint8(ranks[c] >= 0)
            flags[c] |= bad
            found += bad
    return found


def keys_of(quality: Any, winners: Any, selected: NDArray[np.bool_], where: Any) -> NDArray[np.uint32]:
    """The keys again from the layers, NO_KEY where there is no winner or no mark."""
    ranks = winners.astype(np.int64) & RANK_BITS
    low = ranks | np.where(selected, 0, NOT_SELECTED)[np.minimum(ranks, len(selected) - 1)]
    keys: NDArray[np.uint32] = (quality.astype(np.int64) << SCORE_SHIFT | low).astype(np.uint32)
    keys[(winners < 0) | (where == 0)] = NO_KEY
    return keys


def reopen(bands: Sequence[Any], winners: Any, where: Any, n_scenes: int) -> NDArray[np.int64]:
    """Nodata into the marked pixels of all bands; counts their winners."""
    bad = where != 0
    for band in bands:
        band[bad] = NODATA
    lost = winners[bad].astype(np.int64)
    return np.bincount(np.where(lost < 0, n_scenes, lost), minlength=n_scenes + 1)


def only(winners: Any, where: Any) -> Any:
    """A copy of `winners`, -1 where there is no mark."""
    return np.where(where != 0, winners, winners.dtype.type(-1))
