"""Codes of classes, and the pixels that lie near cloud."""

from __future__ import annotations

import numpy as np
import pytest

from bestpixel_gpu.catalog.classes import class_rules
from bestpixel_gpu.plan.scores import score_tables, surround

KINDS = ["scl", "fmask", "qa_pixel", "mcd43"]


def tables_of(kind, by_time=False, cloud=True):
    r = class_rules(kind)
    return score_tables(r.scores, r.clear, r.nodata, r.cloudy if cloud else None, by_time=by_time)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_time", [False, True])
@pytest.mark.parametrize("cloud", [False, True])
def test_codes_say_what_classes_are_worth(kind, by_time, cloud):
    rules, tables = class_rules(kind), tables_of(kind, by_time, cloud)
    codes = tables.rank.codes
    np.testing.assert_array_equal(tables.quality.scores[codes], rules.scores)
    np.testing.assert_array_equal(tables.rank.clear[codes], rules.clear)
    np.testing.assert_array_equal(codes == 255, rules.nodata)
    want = np.where(rules.scores == 1, 0, rules.scores) if by_time else rules.scores
    np.testing.assert_array_equal(tables.rank.scores[codes], want)
    used = tables.rank.scores[tables.rank.scores != 65535].astype(int)
    assert (np.diff(used) >= 0).all(), "codes rise with what decides"
    before = tables.classify.codes
    if not cloud:
        np.testing.assert_array_equal(before, codes)
    np.testing.assert_array_equal(tables.marked[before], rules.cloudy & cloud)
    np.testing.assert_array_equal(np.where(tables.marked[before], tables.becomes[before], before), codes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_time", [False, True])
def test_near_cloud_nothing_is_better_than_marginal(kind, by_time):
    rules, tables = class_rules(kind), tables_of(kind, by_time)
    becomes, before = tables.becomes, tables.classify.codes
    np.testing.assert_array_equal(becomes[becomes], becomes)
    assert not tables.marked[becomes].any()
    near = becomes[before]
    want = np.where(rules.scores <= 1, 1, rules.scores)
    np.testing.assert_array_equal(tables.quality.scores[near], want)
    np.testing.assert_array_equal(tables.rank.scores[near], want)  # by time, too: a rim is not usable first
    assert not tables.rank.clear[near[rules.scores <= 1]].any()
    np.testing.assert_array_equal(near == 255, rules.nodata)


def test_what_counts_as_cloud():
    assert np.flatnonzero(class_rules("scl").cloudy).tolist() == [3, 8, 9, 10]
    fmask = class_rules("fmask").cloudy
    assert not fmask[255]
    assert fmask[[0b1, 0b10, 0b1000]].all()
    assert not fmask[[0, 0b100, 0b10000, 0b100000, 0b11000000]].any()
    assert not class_rules("mcd43").cloudy.any()


@pytest.mark.parametrize(
    ("across", "down", "radius"),
    [
        (20, 20, 100),
        (20, 20, 100.0001),
        (30, 30, 45),
        (10, 20, 71),
        (463.3127165, 463.3127165, 2000),
        (20, 20, 20),
    ],
)
def test_reach_is_nearer_than_the_radius(across, down, radius):
    got = surround(tables_of("scl"), across, down, radius)
    i, j = np.mgrid[:30, :30]
    near = (i * down) ** 2 + (
        j * across
    ) ** 2 < radius**2  # exact here: small numbers, no ties but in integers
    if got is None:
        assert near.sum() == 1
        return
    want = near.sum(axis=1) - 1
    np.testing.assert_array_equal(got.reach, want[want >= 0])
    assert got.margin == max(len(got.reach) - 1, got.reach[0])


def test_too_small_a_radius_is_none():
    assert surround(tables_of("scl"), 20, 20, 20) is None
    assert surround(tables_of("scl"), 20, 20, 20.001) is not None
