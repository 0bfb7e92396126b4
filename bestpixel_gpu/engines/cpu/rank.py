"""Scenes compete for pixels, and are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import (
    NO_KEY,
    NO_SCORE,
    NODATA_CODE,
    ChunkGrid,
    Footprint,
    MaskStatistics,
    MaskTable,
    RankState,
    ScoreRaster,
    Window,
)
from bestpixel_gpu.engines.cpu.codes import strips
from bestpixel_gpu.engines.cpu.jit import int64, kernel, plane
from bestpixel_gpu.engines.fixed_point import key_of
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
    free = np.empty(0, np.uint8)
    for first, codes in strips(mask, positions, state.window, footprint, cuts):
        shut = free
        if blocked is not None:
            shut = blocked[int(np.searchsorted(cuts, first, "right")) - 1]
        at = first - row0
        compete(codes, candidates, keys[at * keys_step :], keys_step, counts[at * counts_step :], counts_step,
                floor[at * floor_step :], floor_step, shut)  # fmt: skip


@kernel
def compete(
    codes: Any,
    candidates: Any,
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
    codes : uint8, (rows, cols)
    candidates : uint32, (256,)
        Key of each code, :data:`NO_KEY` where unusable.
    keys, counts, floor : uint32, uint16, uint32, flat
        From the strip's first pixel on, with the step from row to row in elements; counts and
        floor are empty where there are none.
    shut : uint8, (cols,) or (0,)
        Columns where the scene is counted but does not compete.
    """
    rows, cols = codes.shape
    for r in range(rows):
        line = codes[r]
        best = keys[r * keys_step : r * keys_step + cols]
        if counts.size:
            seen = counts[r * counts_step : r * counts_step + cols]
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
    rows = _edges_inside(chunks.row_edges, window[0], window[1])
    cols = _edges_inside(chunks.col_edges, window[2], window[3])
    parts = CELLS if cells else 1
    row_edges, col_edges = _cell_edges(rows, parts), _cell_edges(cols, parts)
    shape = (len(rows) - 1, parts, len(cols) - 1, parts)
    clear = np.zeros((shape[0] * parts, shape[2] * parts), np.int64)
    valid = np.zeros_like(clear)
    marks = table.clear.astype(np.int64) | (np.arange(256) != NODATA_CODE).astype(np.int64) << _VALID_SHIFT
    n_clear = int(table.clear.sum())
    prefix = n_clear if table.clear[:n_clear].all() else -1  # as for every table made of scores alone
    for first, codes in strips(mask, positions, window, footprint, np.empty(0, np.int64)):
        line_of = np.searchsorted(row_edges, np.arange(first, first + len(codes)) - window[0], "right") - 1
        if prefix >= 0:
            tally_prefix(codes, prefix, line_of, col_edges, clear, valid)
        else:
            tally(codes, marks, line_of, col_edges, clear, valid)
    per_chunk = [a.reshape(shape).sum(axis=(1, 3)) for a in (clear, valid)]
    if not cells:
        return MaskStatistics(*per_chunk)
    per_cell = [a.reshape(shape).transpose(0, 2, 1, 3).astype(np.uint32) for a in (clear, valid)]
    return MaskStatistics(*per_chunk, *per_cell)


_VALID_SHIFT = 32


def _edges_inside(edges: NDArray[np.int64], start: int, end: int) -> NDArray[np.int64]:
    """Chunk edges of a window that starts and ends on one, counted from its start."""
    inside = edges[(edges >= start) & (edges <= end)]
    if len(inside) < 2 or inside[0] != start or inside[-1] != end:
        raise ValueError(f"window {start}..{end} does not start and end on chunk edges")
    return inside - start


def _cell_edges(edges: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Start of each part of each chunk, and the end; parts of small chunks may be empty."""
    sizes = np.diff(edges)
    starts = edges[:-1, None] + np.arange(parts) * sizes[:, None] // parts
    return np.append(starts.ravel(), edges[-1])


@kernel
def tally(codes: Any, marks: Any, line_of: Any, col_edges: Any, clear: Any, valid: Any) -> None:
    """Add the marks of each pixel's code to its cell.

    Parameters
    ----------
    codes : uint8, (rows, cols)
    marks : int64, (256,)
        1 where the code is clear, plus 1 << 32 where it is not nodata.
    line_of : int64, (rows,)
        Cell row of each row.
    col_edges : int64, (cell columns + 1,)
    clear, valid : int64, (cell rows, cell columns)
    """
    for r in range(codes.shape[0]):
        line = codes[r]
        for cell in range(col_edges.size - 1):
            total = int64(0)
            for c in range(col_edges[cell], col_edges[cell + 1]):
                total += marks[line[c]]
            clear[line_of[r], cell] += total & 0xFFFFFFFF
            valid[line_of[r], cell] += total >> _VALID_SHIFT


@kernel
def tally_prefix(codes: Any, n_clear: int, line_of: Any, col_edges: Any, clear: Any, valid: Any) -> None:
    """:func:`tally` where the clear codes are those below `n_clear`: comparisons instead of look-ups."""
    bound = np.uint8(n_clear)
    for r in range(codes.shape[0]):
        line = codes[r]
        for cell in range(col_edges.size - 1):
            clear_here = np.uint32(0)
            valid_here = np.uint32(0)
            for code in line[col_edges[cell] : col_edges[cell + 1]]:
                clear_here += np.uint32(code < bound)
                valid_here += np.uint32(code != _NODATA)
            clear[line_of[r], cell] += np.int64(clear_here)
            valid[line_of[r], cell] += np.int64(valid_here)
