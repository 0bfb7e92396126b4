"""Painting where every pixel has a position of its own: cell by cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NODATA
from bestpixel_gpu.engines.cpu.jit import inlined, int64, kernel, nearest
from bestpixel_gpu.engines.cpu.lattice import Lattice, Line, Nodes, line_at, nodes_of, piece_end
from bestpixel_gpu.engines.cpu.native import copy_two, moved, prefetch, start_of
from bestpixel_gpu.engines.cpu.sample import (
    Level,
    Rule,
    all_valid,
    finish,
    is_valid,
    mean_of_sums,
    sample,
    scale,
)
from bestpixel_gpu.engines.fixed_point import FULL_WEIGHT, HALF, POSITION_BITS, WEIGHT_BITS

_NODATA = np.uint16(NODATA)
_FULL = FULL_WEIGHT
_WEIGHT_BITS, _WEIGHT_MASK = WEIGHT_BITS, FULL_WEIGHT - 1
_DROPPED_BITS = POSITION_BITS - WEIGHT_BITS
_TO_TAP = (1 << (_DROPPED_BITS - 1)) - HALF
_ROOM = 256
"""Pixels fetched before they are blended."""
_AHEAD = 4
"""Rows further down that are asked for meanwhile: a turned row crosses a new line every few pixels."""


class _Source(NamedTuple):
    """What the samples are taken from; `pool` and `slots` by pointer."""

    pool: Any
    slots: Any
    level: Level
    rule: Rule


class _Tile(NamedTuple):
    """Pixels of the raster that a tile in the pool holds, ends excluded; none if it is lost."""

    left: int
    right: int
    top: int
    bottom: int
    base: int
    """Where the raster's corner were in the pool, if the pool held all of it like this tile."""


class Scratch(NamedTuple):
    """Room for the pixels of a stretch; the caller's, for it is used by pointer."""

    taps: NDArray[Any]
    """(2, 512), of the pool's type."""
    weights: NDArray[np.uint16]
    """(2, 256)"""
    sums: NDArray[Any]
    """(512,), of a type that holds 32768 times any sample."""


def scratch_for(dtype: np.dtype[Any]) -> Scratch:
    """What :func:`paint_lattice` needs for samples of a type."""
    sums = np.int32 if dtype.itemsize < 4 else np.int64
    return Scratch(
        np.empty((2, 2 * _ROOM), dtype), np.empty((2, _ROOM), np.uint16), np.empty(2 * _ROOM, sums)
    )


class _Room(NamedTuple):
    """Neighbours and weights of pixels that await blending, by pointer."""

    upper: Any
    """Two neighbours of each pixel."""
    lower: Any
    wx: Any
    """Weight of the second of the two."""
    wy: Any
    """Weight of the lower row."""
    sums: Any


@kernel
def paint_lattice(
    spans: Any, pool: Any, slots: Any, level: Level, rule: Rule, lattice: Lattice, scratch: Scratch,
    target: Any, step: int,
) -> int:  # fmt: skip
    """Paint one scene's spans; as :func:`~bestpixel_gpu.engines.cpu.paint_axis.paint_axis`."""
    nodes = nodes_of(lattice)
    source = _Source(start_of(pool), start_of(slots), level, rule)
    taps, weights, sums = scratch
    room = _Room(
        start_of(taps[0]), start_of(taps[1]), start_of(weights[0]), start_of(weights[1]), start_of(sums)
    )
    tile = _Tile(0, 0, 0, 0, 0)
    failed = 0
    for s in range(spans.shape[0]):
        row, col, end = int64(spans[s, 0]), int64(spans[s, 1]), int64(spans[s, 2])
        out = moved(start_of(target), row * step)
        first = col  # pixels from here on are in the room
        while col < end:
            stop = min(piece_end(nodes, col, end), col + _ROOM)
            line = line_at(nodes, row, col)
            quick, tile = _one_tile(source, line, stop - col, tile)
            while not quick and tile.left < tile.right and stop - col > 1:  # few pixels need two tiles
                stop = (col + stop) >> 1
                quick, tile = _one_tile(source, line, stop - col, tile)
            if first < col and not (quick and level.bilinear and stop - first <= _ROOM):
                failed += _blend(source, nodes, room, row, first, col, out)
                first = col
            if quick and level.bilinear:
                _fetch(moved(source.pool, tile.base), level, line, room, col - first, stop - col)
            else:
                failed += _paint_piece(source, quick, tile, line, moved(out, col), stop - col)
                first = stop
            col = stop
        if first < end:
            failed += _blend(source, nodes, room, row, first, end, out)
    return failed


@inlined
def _one_tile(source: _Source, line: Line, size: int, tile: _Tile) -> Any:
    """Whether one tile holds all that some pixels of a line need; that tile, or one that holds a part.

    `tile` is tried first. The positions of a piece lie between those of its ends. Where the rule
    erodes, all pixels within its margin must be valid, too.
    """
    if not line.inside:
        return False, _Tile(0, 0, 0, 0, 0)
    level = source.level
    x0, x1 = _place(line.x, line.shift), _place(line.x + (size - 1) * line.dx, line.shift)
    y0, y1 = _place(line.y, line.shift), _place(line.y + (size - 1) * line.dy, line.shift)
    left, right = _tap(min(x0, x1)) - level.margin, _tap(max(x0, x1)) + 2 + level.margin
    top, bottom = _tap(min(y0, y1)) - level.margin, _tap(max(y0, y1)) + 2 + level.margin
    if left < tile.left or right > tile.right or top < tile.top or bottom > tile.bottom:
        tile = _tile_at(source, top, left)
        if left < tile.left or right > tile.right or top < tile.top or bottom > tile.bottom:
            return False, tile
    if level.margin:
        for i in range(top, bottom):
            pixels = moved(source.pool, tile.base + i * level.tile_width + left)
            if not all_valid(pixels, right - left, source.rule):
                return False, _Tile(0, 0, 0, 0, 0)
    return True, tile


@inlined
def _place(position: int, shift: int) -> int:
    """Position in 1/32768 from the first pixel's centre: a tap and its neighbour's weight.

    Where :func:`~bestpixel_gpu.engines.fixed_point.second_weight` is 32768, the neighbour is the
    tap, and weighs all.
    """
    return (position + (_TO_TAP << shift)) >> (shift + _DROPPED_BITS)


@inlined
def _tap(place: int) -> int:
    return place >> _WEIGHT_BITS


@inlined
def _tile_at(source: _Source, row: int, col: int) -> _Tile:
    """The tile of a pixel."""
    level = source.level
    if row < 0 or col < 0 or row >= level.height or col >= level.width:
        return _Tile(0, 0, 0, 0, 0)
    down, across = row // level.tile_height, col // level.tile_width
    slot = int64(source.slots[down * level.across + across])
    if slot < 0:
        return _Tile(0, 0, 0, 0, 0)
    top, left = down * level.tile_height, across * level.tile_width
    bottom, right = min(top + level.tile_height, level.height), min(left + level.tile_width, level.width)
    return _Tile(left, right, top, bottom, slot * level.slot_step - top * level.tile_width - left)


@inlined
def _fetch(corner: Any, level: Level, line: Line, room: _Room, held: int, size: int) -> None:
    """Put each pixel's four neighbours and their weights behind those that are `held` already."""
    ahead = moved(corner, (_tap(_place(line.y, line.shift)) + _AHEAD) * level.tile_width)
    at = _tap(_place(line.x, line.shift))
    prefetch(moved(ahead, at))
    prefetch(moved(ahead, at + size))
    for i in range(size):
        x = _place(line.x + i * line.dx, line.shift)
        y = _place(line.y + i * line.dy, line.shift)
        upper = moved(corner, _tap(y) * level.tile_width + _tap(x))
        n = held + i
        copy_two(upper, moved(room.upper, 2 * n))
        copy_two(moved(upper, level.tile_width), moved(room.lower, 2 * n))
        room.wx[n] = x & _WEIGHT_MASK
        room.wy[n] = y & _WEIGHT_MASK


@inlined
def _blend(source: _Source, nodes: Nodes, room: _Room, row: int, col: int, end: int, out: Any) -> int:
    """Paint the columns col..end - 1 that are in the room; returns how many became nodata."""
    rule, size = source.rule, end - col
    _blend_all(room, rule, moved(out, col), size)
    if all_valid(room.upper, 2 * size, rule) and all_valid(room.lower, 2 * size, rule):
        return 0
    failed = 0
    for i in range(size):
        valid = 0
        for tap in range(2 * i, 2 * i + 2):
            valid += is_valid(int64(room.upper[tap]), rule)
            valid += is_valid(int64(room.lower[tap]), rule)
        if valid == 0:
            out[col + i] = _NODATA
            failed += 1
        elif valid < 4:
            failed += _sample(source, line_at(nodes, row, col + i), moved(out, col + i), 1)
    return failed


@inlined
def _blend_all(room: _Room, rule: Rule, out: Any, size: int) -> None:
    """The mean of each pixel's four neighbours, as if all were valid."""
    upper, lower, wx, wy, sums = room
    below = moved(sums, _ROOM)
    for i in range(size):
        weight = int64(wx[i])
        sums[i] = (_FULL - weight) * int64(upper[2 * i]) + weight * int64(upper[2 * i + 1])
        below[i] = (_FULL - weight) * int64(lower[2 * i]) + weight * int64(lower[2 * i + 1])
    if rule.div == 1:  # a loop without a division is half as long
        for i in range(size):
            out[i] = np.uint16(scale(mean_of_sums(int64(sums[i]), int64(below[i]), int64(wy[i])), rule))
    else:
        for i in range(size):
            out[i] = np.uint16(finish(mean_of_sums(int64(sums[i]), int64(below[i]), int64(wy[i])), rule))


@inlined
def _paint_piece(source: _Source, quick: bool, tile: _Tile, line: Line, out: Any, size: int) -> int:
    """Pixels that are not blended together; returns how many became nodata."""
    if quick:
        return _nearest(moved(source.pool, tile.base), source, line, out, size)
    if line.inside:
        return _sample(source, line, out, size)
    for i in range(size):
        out[i] = _NODATA
    return size


@inlined
def _nearest(corner: Any, source: _Source, line: Line, out: Any, size: int) -> int:
    """Take each pixel's nearest neighbour; returns how many became nodata."""
    rule, failed = source.rule, 0
    x, y = line.x, line.y
    for i in range(size):
        at = nearest(y >> line.shift) * source.level.tile_width + nearest(x >> line.shift)
        value = int64(corner[at])
        painted = np.uint16(finish(value, rule)) if is_valid(value, rule) else _NODATA
        out[i] = painted
        failed += painted == _NODATA
        x += line.dx
        y += line.dy
    return failed


@inlined
def _sample(source: _Source, line: Line, out: Any, size: int) -> int:
    """Each pixel by the definition; returns how many became nodata."""
    failed = 0
    for i in range(size):
        x, y = (line.x + i * line.dx) >> line.shift, (line.y + i * line.dy) >> line.shift
        value = np.uint16(sample(source.pool, source.slots, source.level, source.rule, x, y))
        out[i] = value
        failed += value == _NODATA
    return failed
