"""Painting where every pixel has a position of its own: cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from bestpixel_gpu.engines.contract import NODATA
from bestpixel_gpu.engines.cpu.jit import first_tap, inlined, int64, kernel, nearest, second_weight, uint64
from bestpixel_gpu.engines.cpu.lattice import Lattice, Line, line_at, nodes_of, piece_end
from bestpixel_gpu.engines.cpu.native import moved, start_of
from bestpixel_gpu.engines.cpu.sample import Level, Rule, all_valid, finish, is_valid, sample, scale
from bestpixel_gpu.engines.fixed_point import WEIGHT_BITS

_NODATA = np.uint16(NODATA)
_SHIFT = 2 * WEIGHT_BITS
_ROUND = 1 << (_SHIFT - 1)


@kernel
def paint_lattice(
    spans: Any, pool: Any, slots: Any, level: Level, rule: Rule, lattice: Lattice, target: Any, step: int
) -> int:
    """Paint one scene's spans; as :func:`~bestpixel_gpu.engines.cpu.paint_axis.paint_axis`."""
    nodes = nodes_of(lattice)
    failed = 0
    for s in range(spans.shape[0]):
        row, col, end = int64(spans[s, 0]), int64(spans[s, 1]), int64(spans[s, 2])
        while col < end:
            stop = piece_end(nodes, col, end)
            out = moved(start_of(target), row * step + col)
            line = line_at(nodes, row, col)
            if line.inside:
                failed += _paint_piece(start_of(pool), start_of(slots), level, rule, line, out, stop - col)
            else:
                for i in range(stop - col):
                    out[i] = _NODATA
                failed += stop - col
            col = stop
    return failed


@inlined
def _paint_piece(pool: Any, slots: Any, level: Level, rule: Rule, line: Line, out: Any, size: int) -> int:
    """Pixels of one cell along a row; where one tile holds all taps, without asking for each."""
    quick, base = _common_tile(pool, slots, level, rule, line, size - 1)
    if quick and not level.bilinear:
        return _quick_nearest(moved(pool, base), level, rule, line, out, size)
    if quick and _quick_bilinear(moved(pool, base), level, rule, line, out, size):
        return 0
    failed = 0
    x, y = line.x, line.y
    for i in range(size):
        value = np.uint16(sample(pool, slots, level, rule, x >> line.shift, y >> line.shift))
        out[i] = value
        failed += value == _NODATA
        x += line.dx
        y += line.dy
    return failed


@inlined
def _common_tile(pool: Any, slots: Any, level: Level, rule: Rule, line: Line, last: int) -> Any:
    """Whether one tile holds all taps of a piece, and where the raster's corner were in the pool.

    The positions of a piece lie between those of its ends. Where the rule erodes, all pixels
    within its margin must be valid, too.
    """
    x0, x1 = line.x >> line.shift, (line.x + last * line.dx) >> line.shift
    y0, y1 = line.y >> line.shift, (line.y + last * line.dy) >> line.shift
    left, right = first_tap(min(x0, x1)) - level.margin, first_tap(max(x0, x1)) + 1 + level.margin
    top, bottom = first_tap(min(y0, y1)) - level.margin, first_tap(max(y0, y1)) + 1 + level.margin
    if left < 0 or top < 0 or right >= level.width or bottom >= level.height:
        return False, 0
    row, col = top // level.tile_height, left // level.tile_width
    if bottom >= (row + 1) * level.tile_height or right >= (col + 1) * level.tile_width:
        return False, 0
    slot = int64(slots[row * level.across + col])
    if slot < 0:
        return False, 0
    corner = row * level.tile_height * level.tile_width + col * level.tile_width
    base = slot * level.slot_step - corner
    if level.margin:
        for i in range(top, bottom + 1):
            if not all_valid(moved(pool, base + i * level.tile_width + left), right - left + 1, rule):
                return False, 0
    return True, base


@inlined
def _quick_bilinear(corner: Any, level: Level, rule: Rule, line: Line, out: Any, size: int) -> bool:
    """Blend each pixel's four neighbours; False, with some pixels unpainted, if one is invalid."""
    if rule.div == 1:  # a loop without a division is half as long
        for i in range(size):
            invalid, value = _blend_at(corner, level, rule, line, i)
            if invalid:
                return False
            out[i] = np.uint16(scale(value, rule))
    else:
        for i in range(size):
            invalid, value = _blend_at(corner, level, rule, line, i)
            if invalid:
                return False
            out[i] = np.uint16(finish(value, rule))
    return True


@inlined
def _blend_at(corner: Any, level: Level, rule: Rule, line: Line, i: int) -> Any:
    """(one of the four neighbours is invalid, their mean) of pixel `i` of a line."""
    x, y = (line.x + i * line.dx) >> line.shift, (line.y + i * line.dy) >> line.shift
    at = first_tap(y) * level.tile_width + first_tap(x)
    below = at + level.tile_width
    a, b = int64(corner[at]), int64(corner[at + 1])
    c, d = int64(corner[below]), int64(corner[below + 1])
    wx, wy = second_weight(x), second_weight(y)
    upper, lower = (a << WEIGHT_BITS) + wx * (b - a), (c << WEIGHT_BITS) + wx * (d - c)
    invalid = _beyond(a, rule) | _beyond(b, rule) | _beyond(c, rule) | _beyond(d, rule)
    if rule.nodata >= rule.lo:
        invalid |= (a == rule.nodata) | (b == rule.nodata) | (c == rule.nodata) | (d == rule.nodata)
    return invalid, ((upper << WEIGHT_BITS) + wy * (lower - upper) + _ROUND) >> _SHIFT


@inlined
def _beyond(value: int, rule: Rule) -> Any:
    """The value lies outside lo..hi, by one comparison."""
    return uint64(value - rule.lo) > uint64(rule.hi - rule.lo)


@inlined
def _quick_nearest(corner: Any, level: Level, rule: Rule, line: Line, out: Any, size: int) -> int:
    """Take each pixel's nearest neighbour; returns how many became nodata."""
    failed = 0
    x, y = line.x, line.y
    for i in range(size):
        value = int64(corner[nearest(y >> line.shift) * level.tile_width + nearest(x >> line.shift)])
        painted = np.uint16(finish(value, rule)) if is_valid(value, rule) else _NODATA
        out[i] = painted
        failed += painted == _NODATA
        x += line.dx
        y += line.dy
    return failed
