"""Scenes compete for pixels, and are counted."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import (
    NO_KEY,
    NO_SCORE,
    NODATA_CODE,
    SCORE_SHIFT,
    Footprint,
    MaskStatistics,
    MaskTable,
    RankState,
    ScoreRaster,
    Window,
)
from bestpixel_gpu.engines.cpu.codes import strips
from bestpixel_gpu.engines.cpu.jit import inlined, int64, kernel, plane, uint64
from bestpixel_gpu.engines.cpu.native import load_big_endian
from bestpixel_gpu.engines.fixed_point import key_of
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import PixelMap

CELLS = 32
"""Cells along a chunk's side in cell statistics."""
_NO_KEY = np.uint32(NO_KEY)
_NODATA = np.uint8(NODATA_CODE)
_NO_COUNTS, _NO_FLOOR = np.empty(0, np.uint16), np.empty(0, np.uint32)


def rank(
    state: RankState,
    mask: ScoreRaster,
    positions: PixelMap,
    table: MaskTable,
    key_low: int,
    footprint: Footprint | None,
    chunks: ChunkGrid | None,
    barred: NDArray[np.bool_] | None,
) -> None:
    """One scene competes for the pixels of a window; see the contract."""
    row0, _, col0, col1 = state.window
    keys, keys_step = plane(state.keys)
    counts, counts_step = (_NO_COUNTS, 0) if state.counts is None else plane(state.counts)
    floor, floor_step = (_NO_FLOOR, 0) if state.floor is None else plane(state.floor)
    candidates = np.array(
        [NO_KEY if score == NO_SCORE else key_of(int(score), key_low) for score in table.scores], np.uint32
    )
    if barred is None or chunks is None or not barred.any():
        cuts, blocked = np.empty(0, np.int64), None
    else:
        cuts = chunks.row_edges
        blocked = np.repeat(barred, np.diff(chunks.col_edges), axis=1)[:, col0:col1].astype(np.uint8)
    codes_as_scores = _usable_if_scores(table.scores)
    free = np.empty(0, np.uint8)
    for first, strip in strips(mask, positions, state.window, footprint, cuts):
        shut = free
        if blocked is not None:
            shut = blocked[int(np.searchsorted(cuts, first, "right")) - 1]
        at = first - row0
        codes, step = plane(strip)
        compete(codes, step, strip.shape, candidates, codes_as_scores, keys[at * keys_step :], keys_step,
                counts[at * counts_step :], counts_step, floor[at * floor_step :], floor_step,
                shut)  # fmt: skip


def _usable_if_scores(scores: NDArray[np.uint16]) -> int:
    """How many codes are usable, where each is its own score; else 0."""
    usable = int((scores != NO_SCORE).sum())
    return usable if np.array_equal(scores[:usable], np.arange(usable)) else 0


@kernel
def compete(
    codes: Any,
    codes_step: int,
    shape: tuple[int, int],
    candidates: Any,
    codes_as_scores: int,
    keys: Any,
    keys_step: int,
    counts: Any,
    counts_step: int,
    floor: Any,
    floor_step: int,
    shut: Any,
) -> None:
    """``keys = min(keys, candidates[code])`` where the candidate is above the floor; counts grow.

    Parameters
    ----------
    codes, keys, counts, floor : uint8, uint32, uint16, uint32, flat
        From the strip's first pixel on, with the step from row to row in elements; counts and
        floor are empty where there are none.
    shape : (int, int)
        Rows and columns.
    candidates : uint32, (256,)
        Key of each code, :data:`NO_KEY` where unusable.
    codes_as_scores : int
        Where it is not 0, the codes below it are usable and each is its own score, so that
        candidates are computed faster than they are looked up.
    shut : uint8, (cols,) or (0,)
        Columns where the scene is counted but does not compete.
    """
    rows, cols = shape
    bound, low = np.uint8(codes_as_scores), candidates[0]
    for r in range(rows):
        line = codes[r * codes_step : r * codes_step + cols]
        best = keys[r * keys_step : r * keys_step + cols]
        if counts.size:
            seen = counts[r * counts_step : r * counts_step + cols]
            if bound:
                for c in range(cols):
                    seen[c] += np.uint16(line[c] < bound)
            else:
                for c in range(cols):
                    seen[c] += np.uint16(candidates[line[c]] != _NO_KEY)
        if floor.size:
            above = floor[r * floor_step : r * floor_step + cols]
            for c in range(cols):
                key = candidates[line[c]]
                if key > above[c] and not (shut.size and shut[c]):
                    best[c] = min(best[c], key)
        elif shut.size:
            for c in range(cols):
                if not shut[c]:
                    best[c] = min(best[c], candidates[line[c]])
        elif bound:
            for c in range(cols):
                key = np.uint32(np.uint32(line[c]) << np.uint32(SCORE_SHIFT)) | low
                best[c] = min(best[c], key if line[c] < bound else _NO_KEY)
        else:
            for c in range(cols):
                best[c] = min(best[c], candidates[line[c]])


def statistics(
    mask: ScoreRaster,
    positions: PixelMap,
    window: Window,
    chunks: ChunkGrid,
    table: MaskTable,
    footprint: Footprint | None,
    cells: bool,
) -> MaskStatistics:
    """Clear and valid output pixels per chunk, and per cell if asked; see the contract."""
    parts = CELLS if cells else 1
    shape, line_of, col_edges = _cells_of(chunks, window, parts)
    clear = np.zeros((shape[0] * parts, shape[2] * parts), np.int64)
    valid = np.zeros_like(clear)
    runs = _runs_of(table)
    for first, strip in strips(mask, positions, window, footprint, np.empty(0, np.int64)):
        lines = line_of[first - window[0] :][: len(strip)]
        tally(*plane(strip), runs, lines, col_edges, clear, valid)
    per_chunk = [a.reshape(shape).sum(axis=(1, 3)) for a in (clear, valid)]
    if not cells:
        return MaskStatistics(*per_chunk)
    per_cell = [a.reshape(shape).transpose(0, 2, 1, 3).astype(np.uint32) for a in (clear, valid)]
    return MaskStatistics(*per_chunk, *per_cell)


@lru_cache(maxsize=16)
def _runs_of(table: MaskTable) -> NDArray[np.uint8]:
    """(first, last) of the runs of clear codes."""
    edges = np.flatnonzero(np.diff(table.clear.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return (edges - [0, 1]).astype(np.uint8)


@lru_cache(maxsize=16)
def _cells_of(
    chunks: ChunkGrid, window: Window, parts: int
) -> tuple[tuple[int, int, int, int], NDArray[np.int64], NDArray[np.int64]]:
    """How cells cut a window, the same for all masks: their shape, the cell row of each row, column edges."""
    rows, cols = chunks.edges_in(window)
    row_edges, col_edges = _cell_edges(rows, parts), _cell_edges(cols, parts)
    line_of = np.repeat(np.arange(len(row_edges) - 1), np.diff(row_edges))
    return (len(rows) - 1, parts, len(cols) - 1, parts), line_of, col_edges


def _cell_edges(edges: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Start of each part of each chunk, and the end; parts of small chunks may be empty."""
    sizes = np.diff(edges)
    starts = edges[:-1, None] + np.arange(parts) * sizes[:, None] // parts
    return np.append(starts.ravel(), edges[-1])


@kernel
def tally(codes: Any, step: int, runs: Any, line_of: Any, col_edges: Any, clear: Any, valid: Any) -> None:
    """Add a strip's clear and valid pixels to their cells.

    Each column counts for itself in one byte while rows of one cell follow each other: that is
    one comparison of whole vectors per row, however narrow the cells are.

    Parameters
    ----------
    codes : uint8, flat, with `step` elements from row to row
    runs : uint8, (n, 2)
        First and last code of each run of clear codes.
    line_of : int64, (rows,)
        Cell row of each row.
    col_edges : int64, (cell columns + 1,)
    clear, valid : int64, (cell rows, cell columns)
    """
    rows, cols = line_of.size, col_edges[-1]
    room = cols + 8  # the last word of a cell may reach beyond it
    clear_here, valid_here = np.zeros(room, np.uint8), np.zeros(room, np.uint8)
    held = 0
    for r in range(rows):
        line = codes[r * step : r * step + cols]
        for i in range(runs.shape[0]):
            first, span = runs[i, 0], np.uint8(runs[i, 1] - runs[i, 0])
            for c in range(cols):
                clear_here[c] += np.uint8(np.uint8(line[c] - first) <= span)
        for c in range(cols):
            valid_here[c] += np.uint8(line[c] != _NODATA)
        held += 1
        if held == _BYTE_MAX or r + 1 == rows or line_of[r + 1] != line_of[r]:
            _pour(clear_here, col_edges, clear[line_of[r]])
            _pour(valid_here, col_edges, valid[line_of[r]])
            held = 0


_BYTE_MAX = 255


@inlined
def _pour(columns: Any, col_edges: Any, cells: Any) -> None:
    """Add the counts of columns to those of their cells, and set them to zero.

    Cells are too narrow for a loop over bytes to become vectors: eight are added as one word.
    """
    address = columns.ctypes.data
    for cell in range(cells.size):
        total = uint64(0)
        for c in range(col_edges[cell], col_edges[cell + 1], 8):
            beyond = max(c + 8 - col_edges[cell + 1], 0)
            word = load_big_endian(address + c) >> uint64(8 * beyond)
            pairs = (word & _EVEN_BYTES) + (word >> uint64(8) & _EVEN_BYTES)
            total += pairs * _ALL_PAIRS >> uint64(48)
        cells[cell] += int64(total)
    columns[:] = 0


_EVEN_BYTES, _ALL_PAIRS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)
