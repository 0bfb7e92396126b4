"""The stated arithmetic against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bestpixel_gpu.engines import fixed_point as fp

ONE = 2**32
POSITIONS = (
    st.integers(-(2**52), 2**52)
    | st.integers(-3 * ONE, 3 * ONE)
    | st.integers(-9, 9).map(lambda n: n * ONE // 2)
)


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


@given(POSITIONS)
def test_taps_and_weights(position):
    exact = Fraction(position, ONE)
    assert fp.nearest(position) == math.floor(exact)
    first = math.floor(exact - Fraction(1, 2))
    assert fp.first_tap(position) == first
    weight = half_up((exact - Fraction(1, 2) - first) * 32768)
    assert fp.second_weight(position) == weight
    weighed = [i for i, w in ((first, 32768 - weight), (first + 1, weight)) if w > 0]
    assert (fp.first_weighed(position), fp.last_weighed(position)) == (weighed[0], weighed[-1])
    assert fp.nearest(position) in weighed


@given(POSITIONS, st.integers(0, 4 * ONE))
def test_box_holds_the_pixels_whose_centres_lie_in_it(position, half):
    lo, hi = position - half, position + half
    around = range(lo // ONE - 2, hi // ONE + 3)
    inside = [i for i in around if lo <= i * ONE + ONE // 2 < hi]
    assert list(range(fp.box_edge(lo), fp.box_edge(hi))) == inside


@given(st.tuples(*[st.integers(-(2**52), 2**52)] * 4), st.integers(0, 4), st.data())
def test_lattice_position_is_the_rounded_bilinear_one(nodes, k, data):
    step = 2**k
    fx, fy = data.draw(st.integers(0, step - 1)), data.draw(st.integers(0, step - 1))
    a, b = Fraction(fx, step), Fraction(fy, step)
    n00, n01, n10, n11 = nodes
    exact = (1 - b) * ((1 - a) * n00 + a * n01) + b * ((1 - a) * n10 + a * n11)
    got = fp.lattice_position(n00, n01, n10, n11, fx, fy, k)
    assert got == half_up(exact)
    arrays = [np.array([n], np.int64) for n in nodes]
    assert fp.lattice_position(*arrays, fx, fy, k)[0] == got


@given(st.integers(-(2**61), 2**61), st.integers(1, 2**30))
def test_weighted_mean_rounds_half_up(total, weight):
    exact = Fraction(total, weight)
    got = fp.weighted_mean(total, weight)
    # half of an odd weight is cut: the two differ only where no exact half can occur
    assert got == math.floor((exact * weight + weight // 2) / weight)
    if weight % 2 == 0:
        assert got == half_up(exact)


@given(st.integers(-(2**31), 2**32), st.sampled_from([(1, -1000, 1), (11, -80000, 40), (1, 0, 1), (7, 3, 9)]))
def test_rational_rounds_half_up(value, ratio):
    mul, add, div = ratio
    assert fp.rational(value, mul, add, div) == half_up(Fraction(mul * value + add, div))


def test_keys_sort_by_score_then_selection_then_rank():
    keys = [
        fp.key_of(s, unselected << 16 | rank)
        for s in (0, 1, 32766)
        for unselected in (0, 1)
        for rank in (0, 65535)
    ]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert keys[-1] < 0xFFFFFFFF
