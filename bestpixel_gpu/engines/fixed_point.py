"""The arithmetic of every engine, stated once.

All of it is in integers, so two engines that follow these definitions give the same bytes. The CPU
kernels compile the scalar functions of this module as they stand; other engines repeat them. They
work on Python integers and NumPy arrays alike, as long as nothing leaves 64 bits.

Positions are int64 with 32 fractional bits in the pixel-edge convention of
:mod:`bestpixel_gpu.geo.pixel_map`; ``>>`` and ``//`` round towards minus infinity throughout.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Int = TypeVar("Int", int, NDArray[np.int64])

POSITION_BITS = 32
HALF = 1 << (POSITION_BITS - 1)
FRACTION_MASK = (1 << POSITION_BITS) - 1
WEIGHT_BITS = 15
FULL_WEIGHT = 1 << WEIGHT_BITS
"""The two weights of an axis add up to it."""
_DROPPED_BITS = POSITION_BITS - WEIGHT_BITS
_ROUND_WEIGHT = 1 << (_DROPPED_BITS - 1)
LARGEST_VALUE = 65534
"""Painted values are clamped to 0..65534; 65535 is nodata."""


def nearest(position: Int) -> Int:
    """Index of the pixel that holds a position; it decides whether the sample is valid."""
    return position >> POSITION_BITS


def first_tap(position: Int) -> Int:
    """Index i of the left (upper) pixel of the two that bilinear takes; the other is i + 1."""
    return (position - HALF) >> POSITION_BITS


def second_weight(position: Int) -> Int:
    """Weight of pixel i + 1 in 1/32768, rounded half up; 0..32768 (the carry is allowed).

    Pixel i weighs ``32768 - second_weight``. A tap of weight 0 is not read.
    """
    return (((position - HALF) & FRACTION_MASK) + _ROUND_WEIGHT) >> _DROPPED_BITS


def first_weighed(position: Int) -> Int:
    """Index of the first pixel of weight > 0."""
    return first_tap(position) + (second_weight(position) >> WEIGHT_BITS)


def last_weighed(position: Int) -> Int:
    """Index of the last pixel of weight > 0."""
    return first_tap(position) + ((second_weight(position) + FULL_WEIGHT - 1) >> WEIGHT_BITS)


def box_edge(edge: Int) -> Int:
    """First pixel i whose centre i + 1/2 does not lie before `edge`.

    The pixels whose centres lie in [lo, hi) are ``box_edge(lo) .. box_edge(hi) - 1``.
    """
    return (edge + (HALF - 1)) >> POSITION_BITS


def lattice_position(n00: Int, n01: Int, n10: Int, n11: Int, fx: int, fy: int, log2_step: int) -> Int:
    """Bilinear position inside a lattice cell, rounded half up; `fx`, `fy` in 0..2**log2_step - 1."""
    step = 1 << log2_step
    upper = n00 * (step - fx) + n01 * fx
    lower = n10 * (step - fx) + n11 * fx
    half = (1 << (2 * log2_step)) >> 1
    return (upper * (step - fy) + lower * fy + half) >> (2 * log2_step)


def weighted_mean(total: Int, weight: Int) -> Int:
    """``total / weight`` rounded half up, also below zero; `weight` > 0."""
    return (total + weight // 2) // weight


def rational(value: Int, mul: int, add: int, div: int) -> Int:
    """``(mul value + add) / div`` rounded half up, also below zero; not yet clamped; `div` > 0."""
    return (2 * (mul * value + add) + div) // (2 * div)


def key_of(score: int, key_low: int) -> int:
    """Key of an observation: score, then ``(not selected) << 16 | rank``."""
    return (score << 17) | key_low
