"""Codes near marked ones: exact discs, whatever their shape, and the same in parts as in one piece."""

from __future__ import annotations

import numpy as np
import pytest
from reference import ReferenceEngine

from bestpixel_gpu.engines.contract import ScoreRaster, Surround

REFERENCE = ReferenceEngine()


def rule_of(reach):
    """Codes 0..3 become 4..7 near 200 and 201, which become 3 and 254; the others stay."""
    marked, becomes = np.zeros(256, bool), np.arange(256, dtype=np.uint8)
    marked[[200, 201]], becomes[[200, 201]] = True, (7, 254)
    becomes[:4] = np.arange(4, 8)
    return Surround(marked, becomes, np.array(reach, np.int64))


def raster(engine, codes):
    rows, cols = codes.shape
    return ScoreRaster((0, rows, 0, cols), cols, rows, engine.from_host(codes.copy()))


def codes_of(seed, rows, cols, share):
    rng = np.random.default_rng(seed)
    codes = rng.choice([0, 1, 2, 3, 9, 254, 255], (rows, cols)).astype(np.uint8)
    codes[rng.random((rows, cols)) < share] = 200
    codes[rng.random((rows, cols)) < share / 3] = 201
    return codes


@pytest.mark.parametrize(
    "reach", [[0], [3], [0, 0, 0], [2, 2, 1, 0], [1, 0], [9, 9, 8, 8, 7, 6, 5, 3], [500, 0]]
)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 40), (37, 1), (33, 150)])
@pytest.mark.parametrize("share", [0, 0.003, 0.05, 1])
def test_as_the_reference(engine, reach, rows, cols, share):
    codes = codes_of(len(reach) + rows, rows, cols, share)
    want, got = raster(REFERENCE, codes), raster(engine, codes)
    REFERENCE.surround(want, rule_of(reach))
    engine.surround(got, rule_of(reach))
    np.testing.assert_array_equal(engine.to_host(got.data), want.data)


@pytest.mark.parametrize("at", [(0, 20), (13, 61), (55, 80)])
def test_a_part_with_its_margin_is_part_of_the_whole(engine, at):
    rule = rule_of([6, 6, 5, 4, 4, 3, 1])
    codes = codes_of(3, 90, 120, 0.004)
    whole = raster(engine, codes)
    engine.surround(whole, rule)
    top, left, margin = *at, rule.margin
    r0, c0 = max(top - margin, 0), max(left - margin, 0)
    part = raster(engine, codes[r0 : top + 30 + margin, c0 : left + 35 + margin])
    engine.surround(part, rule)
    inside = engine.to_host(part.data)[top - r0 :, left - c0 :][:30, :35]
    want = engine.to_host(whole.data)[top : top + 30, left : left + 35]
    np.testing.assert_array_equal(inside, want)
    assert (want != codes[top : top + 30, left : left + 35]).any()


def test_a_window_of_a_larger_array(engine):
    codes = codes_of(8, 40, 60, 0.01)
    framed = engine.from_host(np.pad(codes, 3, constant_values=200))
    part = framed[3:43, 3:63]
    engine.surround(ScoreRaster((0, 40, 0, 60), 60, 40, part), rule_of([4, 3, 2]))
    want = raster(REFERENCE, codes)
    REFERENCE.surround(want, rule_of([4, 3, 2]))
    after = engine.to_host(framed)
    np.testing.assert_array_equal(after[3:43, 3:63], want.data)
    assert (after[:3] == 200).all()
    assert (after[:, 63:] == 200).all()
