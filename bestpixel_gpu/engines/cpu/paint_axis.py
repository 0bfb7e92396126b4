"""Painting where columns and rows have positions of their own: copy, gather, or two blends."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bestpixel_gpu.engines.contract import NODATA
from bestpixel_gpu.engines.cpu.jit import (
    first_weighed,
    inlined,
    int64,
    kernel,
    last_weighed,
    nearest,
    second_weight,
)
from bestpixel_gpu.engines.cpu.lanes import paint_run
from bestpixel_gpu.engines.cpu.native import copy_two, moved, prefetch, start_of
from bestpixel_gpu.engines.cpu.sample import (
    Level,
    Rule,
    all_valid,
    any_valid,
    finish,
    is_valid,
    mean_of_sums,
    sample,
    scale,
)
from bestpixel_gpu.engines.fixed_point import FULL_WEIGHT

_NODATA = np.uint16(NODATA)
_FULL = FULL_WEIGHT
_CHUNK = 256
"""Output pixels of a row that are tried at once."""
_AHEAD, _LINES, _LINE = 8, 4, 32
"""Samples are asked for so many spans before they are needed; so many cache lines, of 16-bit samples."""
BLEND_COLUMNS = 1024
"""Source columns that a chunk may span before it is sampled pixel by pixel."""
BLEND_ROOM = BLEND_COLUMNS + 2 * _CHUNK
"""Elements of scratch."""

TILE, FIRST, WEIGHT, NEAREST, RUN_END, POINT_END, COPY_END, WITHIN = range(8)
"""Rows of a column table; see :func:`column_table`."""
COLUMN_FIELDS = 8
_OUTSIDE, _EXACT = -2, -1


@kernel
def column_table(x: Any, level: Level, out: Any) -> None:
    """How each column of a window is sampled.

    Parameters
    ----------
    x : int64, (cols,)
        Positions.
    out : int32, (8, cols)
        TILE : the tile column that holds all it needs; -1 if none does, -2 outside the raster.
        FIRST, WEIGHT : two neighbours in that tile, and the weight of the second.
        NEAREST : the nearest pixel.
        WITHIN : the nearest pixel, from the tile's edge.
        RUN_END : end of the columns from here on of the same TILE.
        POINT_END : end of those that need one pixel only of the tile; the column itself if it does not.
        COPY_END : end of those whose pixels are neighbours too.
    """
    cols = x.size
    for c in range(cols):
        out[NEAREST, c] = nearest(x[c])
        out[TILE, c], out[FIRST, c], out[WEIGHT, c] = _column(x[c], level)
    for c in range(cols - 1, -1, -1):
        point = out[TILE, c] >= 0 and (out[WEIGHT, c] == 0 or out[WEIGHT, c] == _FULL)
        out[WITHIN, c] = out[NEAREST, c] - out[TILE, c] * level.tile_width
        out[RUN_END, c] = c + 1
        out[POINT_END, c] = c + 1 if point else c
        out[COPY_END, c] = out[POINT_END, c]
        if c + 1 < cols and out[TILE, c + 1] == out[TILE, c]:
            out[RUN_END, c] = out[RUN_END, c + 1]
            if point and out[POINT_END, c + 1] > c + 1:
                out[POINT_END, c] = out[POINT_END, c + 1]
                if out[NEAREST, c + 1] == out[NEAREST, c] + 1:
                    out[COPY_END, c] = out[COPY_END, c + 1]


@inlined
def _column(x: int, level: Level) -> Any:
    """(tile, first, weight) of one column."""
    left = right = nearest(x)
    if left < 0 or left >= level.width:
        return _OUTSIDE, 0, 0
    if level.bilinear:
        left, right = first_weighed(x), last_weighed(x)
    wide = level.tile_width
    tile = left // wide
    leaves = max(left - level.margin, 0) // wide != tile
    leaves = leaves or min(right + level.margin, level.width - 1) // wide != tile
    if left < 0 or right >= level.width or leaves:
        return _EXACT, 0, 0
    if left < right:
        return tile, left, second_weight(x)
    if (left + 1) // wide == tile and left + 1 < level.width:
        return tile, left, 0
    if left > 0 and (left - 1) // wide == tile:
        return tile, left - 1, _FULL
    return _EXACT, 0, 0


class _Rows(NamedTuple):
    """The source rows of an output row: equal where one of them weighs nothing or is outside."""

    inside: bool
    alone: bool
    """One row is all that a sample needs that needs one column."""
    y: int
    """The position itself."""
    near: int
    top: int
    bottom: int
    weight: int
    """Of the bottom row."""
    upper_tiles: int
    """Index of the first tile of the top row's tile row."""
    upper_offset: int
    """Where the top row starts in its tile, in samples."""
    lower_tiles: int
    lower_offset: int


@inlined
def _rows_at(y: int, level: Level) -> _Rows:
    near = top = bottom = nearest(y)
    if near < 0 or near >= level.height:
        return _Rows(False, False, y, near, 0, 0, 0, 0, 0, 0, 0)
    if level.bilinear:
        top, bottom = max(first_weighed(y), 0), min(last_weighed(y), level.height - 1)
    weight = second_weight(y) if top < bottom else 0
    upper_tiles, upper_offset = _tile_row(level, top)
    lower_tiles, lower_offset = _tile_row(level, bottom)
    return _Rows(
        True,
        top == bottom and level.margin == 0,
        y,
        near,
        top,
        bottom,
        weight,
        upper_tiles,
        upper_offset,
        lower_tiles,
        lower_offset,
    )


@inlined
def _tile_row(level: Level, row: int) -> Any:
    """(index of the row's first tile, start of the row in its tile)."""
    tile_row = row // level.tile_height
    return tile_row * level.across, (row - tile_row * level.tile_height) * level.tile_width


class _Columns(NamedTuple):
    """The fields of a column table, by pointer."""

    tile: Any
    first: Any
    weight: Any
    near: Any
    run_end: Any
    point_end: Any
    copy_end: Any
    within: Any


class _Source(NamedTuple):
    """What the samples are taken from, by pointer."""

    pool: Any
    slots: Any
    x: Any


@kernel
def paint_axis(
    spans: Any, pool: Any, slots: Any, level: Level, rule: Rule, x: Any, y: Any, columns: Any, blend: Any,
    target: Any, step: int,
) -> int:  # fmt: skip
    """Paint one scene's spans; returns how many pixels became nodata.

    Parameters
    ----------
    spans : int32, (n, 3)
    pool : samples, flat
    slots : int32, (tiles,)
    x, y : int64, (cols,), (rows,)
        Positions of the window.
    columns : int32, (8, cols)
        By :func:`column_table`.
    blend : int32 or int64, (BLEND_ROOM,)
        Scratch; its type holds 32768 times any sample.
    target : uint16, flat
        With `step` elements from row to row.
    """
    source = _Source(start_of(pool), start_of(slots), start_of(x))
    table = start_of(columns)
    cols = x.size
    fields = _Columns(
        moved(table, TILE * cols),
        moved(table, FIRST * cols),
        moved(table, WEIGHT * cols),
        moved(table, NEAREST * cols),
        moved(table, RUN_END * cols),
        moved(table, POINT_END * cols),
        moved(table, COPY_END * cols),
        moved(table, WITHIN * cols),
    )
    failed = 0
    row = row_ahead = int64(-1)
    rows = rows_ahead = _rows_at(int64(0), level)
    for s in range(spans.shape[0]):
        if s + _AHEAD < spans.shape[0]:
            if spans[s + _AHEAD, 0] != row_ahead:
                row_ahead = int64(spans[s + _AHEAD, 0])
                rows_ahead = _rows_at(y[row_ahead], level)
            _ask_for(source, level, rows_ahead, fields, int64(spans[s + _AHEAD, 1]))
        if spans[s, 0] != row:
            row = int64(spans[s, 0])
            rows = _rows_at(y[row], level)
        out = moved(start_of(target), row * step)
        failed += _paint_span(
            source,
            level,
            rule,
            rows,
            fields,
            start_of(blend),
            out,
            int64(spans[s, 1]),
            int64(spans[s, 2]),
        )
    return failed


@inlined
def _ask_for(source: _Source, level: Level, rows: _Rows, columns: _Columns, col: int) -> None:
    """Have the first samples of a span on their way: most spans are so short that it is all they wait for."""
    tile = int64(columns.tile[col])
    if tile < 0 or not rows.inside:
        return
    slot = int64(source.slots[rows.upper_tiles + tile])
    if slot >= 0:
        first = moved(source.pool, slot * level.slot_step + rows.upper_offset + columns.within[col])
        for line in range(_LINES):
            prefetch(moved(first, line * _LINE))


@inlined
def _paint_span(
    source: _Source, level: Level, rule: Rule, rows: _Rows, columns: _Columns, blend: Any, out: Any,
    col: int, end: int,
) -> int:  # fmt: skip
    failed = 0
    while col < end:
        tile = int64(columns.tile[col])
        stop = min(int64(columns.copy_end[col]), end)
        if rows.alone and stop > col:  # nothing to look up or to blend: most spans are over in no time
            slot = int64(source.slots[rows.upper_tiles + tile])
            if slot < 0:
                failed += _paint_nothing(out, col, stop)
            else:
                at = slot * level.slot_step + rows.upper_offset + columns.within[col]
                failed += paint_run(moved(source.pool, at), rule, moved(out, col), stop - col)
            col = stop
            continue
        stop = min(int64(columns.run_end[col]), end, col + _CHUNK)
        done = -1
        if tile == _OUTSIDE or not rows.inside:
            done = _paint_nothing(out, col, stop)
        elif tile != _EXACT:
            done = _paint_chunk(source, level, rule, rows, tile, columns, blend, out, col, stop)
        if done < 0:
            done = 0
            for c in range(col, stop):
                value = np.uint16(sample(source.pool, source.slots, level, rule, source.x[c], rows.y))
                out[c] = value
                done += value == _NODATA
        failed += done
        col = stop
    return failed


@inlined
def _paint_nothing(out: Any, col: int, end: int) -> int:
    for c in range(col, end):
        out[c] = _NODATA
    return end - col


@inlined
def _paint_chunk(
    source: _Source, level: Level, rule: Rule, rows: _Rows, tile: int, columns: _Columns, blend: Any,
    out: Any, col: int, end: int,
) -> int:  # fmt: skip
    """Columns whose taps lie in one tile column; -1 where they must be sampled one by one."""
    slots = source.slots
    upper_slot, lower_slot = (
        int64(slots[rows.upper_tiles + tile]),
        int64(slots[rows.lower_tiles + tile]),
    )
    if upper_slot < 0 or lower_slot < 0:
        near_slot = upper_slot if rows.near == rows.top else lower_slot
        return -1 if near_slot >= 0 else _paint_nothing(out, col, end)
    first = columns.first[col] - tile * level.tile_width
    last = columns.first[end - 1] + 1 - tile * level.tile_width
    if level.margin and not _clean(source, level, rule, rows, first, last, tile):
        return -1
    upper = moved(source.pool, upper_slot * level.slot_step + rows.upper_offset)
    target = moved(out, col)
    if rows.top == rows.bottom and columns.point_end[col] >= end:
        if columns.copy_end[col] >= end:  # where the rule erodes; others come not so far
            return paint_run(moved(upper, columns.within[col]), rule, target, end - col)
        corner = moved(upper, -tile * level.tile_width)
        return _gather(corner, moved(columns.near, col), rule, target, end - col)
    size = last - first + 1
    if size > BLEND_COLUMNS:
        return -1
    upper = moved(upper, first)
    lower = moved(source.pool, lower_slot * level.slot_step + rows.lower_offset + first)
    if not (all_valid(upper, size, rule) and all_valid(lower, size, rule)):
        seen = any_valid(upper, size, rule) or any_valid(lower, size, rule)
        return -1 if seen else _paint_nothing(out, col, end)  # nothing: wholly outside the swath
    _blend_rows(upper, lower, rows.weight, blend, size)
    _blend_columns(blend, moved(columns.first, col), moved(columns.weight, col), rule, target, end - col)
    return 0


@inlined
def _clean(source: _Source, level: Level, rule: Rule, rows: _Rows, first: int, last: int, tile: int) -> bool:
    """All pixels within the margin of the tile's columns first..last are valid."""
    left = max(first - level.margin, 0)
    right = min(last + level.margin + 1, level.tile_width, level.width - tile * level.tile_width)
    for row in range(max(rows.top - level.margin, 0), min(rows.bottom + level.margin + 1, level.height)):
        tiles, offset = _tile_row(level, row)
        slot = int64(source.slots[tiles + tile])
        if slot < 0:
            return False
        line = moved(source.pool, slot * level.slot_step + offset + left)
        if not all_valid(line, right - left, rule):
            return False
    return True


@inlined
def _gather(source: Any, near: Any, rule: Rule, out: Any, size: int) -> int:
    failed = 0
    for i in range(size):
        value = int64(source[near[i]])
        painted = np.uint16(finish(value, rule)) if is_valid(value, rule) else _NODATA
        out[i] = painted
        failed += painted == _NODATA
    return failed


@inlined
def _blend_rows(upper: Any, lower: Any, weight: int, out: Any, size: int) -> None:
    """``32768`` times the mean of two rows."""
    for i in range(size):
        out[i] = (_FULL - weight) * int64(upper[i]) + weight * int64(lower[i])


@inlined
def _blend_columns(blend: Any, first: Any, weight: Any, rule: Rule, out: Any, size: int) -> None:
    pairs = moved(blend, BLEND_COLUMNS)
    for i in range(size):  # apart from the arithmetic, which becomes vector code
        copy_two(moved(blend, int64(first[i]) - int64(first[0])), moved(pairs, 2 * i))
    if rule.div == 1:
        for i in range(size):
            mean = mean_of_sums(int64(pairs[2 * i]), int64(pairs[2 * i + 1]), int64(weight[i]))
            out[i] = np.uint16(scale(mean, rule))
    else:
        for i in range(size):
            mean = mean_of_sums(int64(pairs[2 * i]), int64(pairs[2 * i + 1]), int64(weight[i]))
            out[i] = np.uint16(finish(mean, rule))
