"""One sample, exactly: the definition that the fast paths of painting must meet.

The pool's samples and the slots come as pointers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bestpixel_gpu.engines.contract import LOST_SLOT, NODATA, SampleRule, TapSource
from bestpixel_gpu.engines.cpu.jit import (
    first_tap,
    first_weighed,
    inlined,
    int64,
    last_weighed,
    nearest,
    rational,
    second_weight,
    weighted_mean,
)
from bestpixel_gpu.engines.fixed_point import FULL_WEIGHT, LARGEST_VALUE, WEIGHT_BITS

MARGIN = 2
"""Pixels around a tap that erosion looks at."""
_VALID, _INVALID, _LOST = 0, 1, 2
_LOST_SLOT = LOST_SLOT
_NODATA = int64(NODATA)
_FULL = FULL_WEIGHT
_LARGEST = LARGEST_VALUE
_SHIFT = 2 * WEIGHT_BITS
_ROUND = 1 << (_SHIFT - 1)


class Level(NamedTuple):
    """A level as kernels take it; `slot_step` in samples."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    across: int
    slot_step: int
    bilinear: int
    margin: int


class Rule(NamedTuple):
    """A :class:`SampleRule` as kernels take it; `nodata` is below `lo` unless it lies in lo..hi."""

    lo: int
    hi: int
    nodata: int
    erode: int
    mul: int
    add: int
    div: int
    narrow: int
    """Samples and what is made of them fit 32 bits, and the divisor is 1."""


def level_of(source: TapSource, slot_step: int) -> Level:
    """Sizes of a source's level, and how it is sampled."""
    grid, rule = source.geometry.grid, source.rule
    return Level(
        grid.width,
        grid.height,
        grid.tile_width,
        grid.tile_height,
        grid.tiles_across,
        slot_step,
        int(rule.bilinear),
        MARGIN if rule.erode else 0,
    )


def rule_of(rule: SampleRule, dtype: np.dtype[Any]) -> Rule:
    """A rule whose bounds fit the kernels' integers."""
    info = np.iinfo(dtype)
    lo, hi = max(rule.lo, int(info.min)), min(rule.hi, int(info.max))
    if lo > hi:
        return Rule(0, 0, 0, int(rule.erode), rule.mul, rule.add, rule.div, 0)  # nothing is valid
    if rule.nodata == lo < hi:  # at an end of the range it need not be asked for
        lo += 1
    largest = max(abs(int(info.min)), int(info.max)) * abs(rule.mul) + abs(rule.add)
    narrow = rule.div == 1 and dtype.itemsize < 4 and largest < 1 << 31
    nodata = lo - 1 if rule.nodata is None or not lo <= rule.nodata <= hi else rule.nodata
    return Rule(lo, hi, nodata, int(rule.erode), rule.mul, rule.add, rule.div, int(narrow))


@inlined
def is_valid(value: Any, rule: Rule) -> Any:
    """The value may be painted."""
    return rule.lo <= value <= rule.hi and value != rule.nodata


@inlined
def all_valid(values: Any, size: int, rule: Rule) -> bool:
    """Every one of `size` > 0 values may be painted."""
    low = high = values[0]
    for i in range(size):  # written so that it becomes vector minima and maxima
        value = values[i]
        low = value if value < low else low
        high = value if value > high else high
    if low < rule.lo or high > rule.hi:
        return False
    if rule.nodata >= rule.lo:
        for i in range(size):
            if values[i] == rule.nodata:
                return False
    return True


@inlined
def any_valid(values: Any, size: int, rule: Rule) -> bool:
    """At least one of `size` values may be painted."""
    for i in range(size):  # noqa: SIM110  (compiled: no generators)
        if is_valid(int64(values[i]), rule):
            return True
    return False


@inlined
def mean_of_sums(first: int, second: int, weight: int) -> int:
    """Mean of two sums that weigh 32768 already, rounded half up; `weight` is that of the second."""
    return ((_FULL - weight) * first + weight * second + _ROUND) >> _SHIFT


@inlined
def finish(value: int, rule: Rule) -> int:
    """The painted value of an interpolated sample."""
    return scale(value, rule) if rule.div == 1 else clamp(rational(value, rule.mul, rule.add, rule.div))


@inlined
def scale(value: int, rule: Rule) -> int:
    """:func:`finish` where the divisor is 1; loops over it become vector code."""
    return clamp(rule.mul * value + rule.add)


@inlined
def clamp(value: int) -> int:
    """Cut to 0..65534."""
    value = value if value > 0 else 0
    return value if value < _LARGEST else _LARGEST


@inlined
def _look(pool: Any, slots: Any, level: Level, rule: Rule, row: int, col: int) -> Any:
    """(state, value) of a pixel inside the raster, for itself."""
    slot = slots[row // level.tile_height * level.across + col // level.tile_width]
    if slot < 0:
        return (_LOST if slot == _LOST_SLOT else _INVALID), int64(0)
    at = slot * level.slot_step + row % level.tile_height * level.tile_width + col % level.tile_width
    value = int64(pool[at])
    return (_VALID if is_valid(value, rule) else _INVALID), value


@inlined
def _worst_state(
    pool: Any, slots: Any, level: Level, rule: Rule, top: int, bottom: int, left: int, right: int
) -> int:
    """Worst state within the margin of a box of pixels (ends included), cut at the raster's edge."""
    worst = _VALID
    for i in range(max(top - level.margin, 0), min(bottom + level.margin + 1, level.height)):
        for j in range(max(left - level.margin, 0), min(right + level.margin + 1, level.width)):
            worst = max(worst, _look(pool, slots, level, rule, i, j)[0])
    return worst


@inlined
def sample(pool: Any, slots: Any, level: Level, rule: Rule, x: int, y: int) -> Any:
    """Painted value at a position of the level, NODATA where it is invalid or lost.

    Lost comes first: a needed pixel (a tap of weight > 0 inside the raster and, where the rule
    erodes, all within its margin) in a lost tile makes the sample lost, whatever the others hold.
    """
    row, col = nearest(y), nearest(x)
    if row < 0 or row >= level.height or col < 0 or col >= level.width:
        return _NODATA
    top, bottom, left, right = row, row, col, col
    if level.bilinear:
        top, bottom = max(first_weighed(y), 0), min(last_weighed(y), level.height - 1)
        left, right = max(first_weighed(x), 0), min(last_weighed(x), level.width - 1)
    around = _worst_state(pool, slots, level, rule, top, bottom, left, right)
    if around == _LOST:
        return _NODATA
    if around == _INVALID and _worst_state(pool, slots, level, rule, row, row, col, col) != _VALID:
        return _NODATA
    if not level.bilinear:
        return finish(_look(pool, slots, level, rule, row, col)[1], rule)
    total, weight = int64(0), int64(0)
    for i in range(top, bottom + 1):
        wy = second_weight(y) if i > first_tap(y) else _FULL - second_weight(y)
        for j in range(left, right + 1):
            wx = second_weight(x) if j > first_tap(x) else _FULL - second_weight(x)
            if around == _VALID or _worst_state(pool, slots, level, rule, i, i, j, j) == _VALID:
                total += wx * wy * _look(pool, slots, level, rule, i, j)[1]
                weight += wx * wy
    return finish(weighted_mean(total, weight), rule)
