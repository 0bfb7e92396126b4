"""Sums over scenes on every engine, against sums of what the slow reference paints."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from reference import ReferenceEngine

from bestpixel_gpu.engines.contract import NODATA, Sums

REFERENCE = ReferenceEngine()
NAMES = {"count": np.uint32, "total": np.uint64, "squares": np.uint64}


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(12))
def test_sums_of_what_is_painted(engine, kind, seed):
    rng = np.random.default_rng(seed)
    rows, cols = int(rng.integers(2, 20)), int(rng.integers(2, 40))
    window = cases.some_window(rng, rows, cols)
    shape = window[1] - window[0], window[3] - window[2]
    before = {n: rng.integers(0, 99, shape).astype(t) for n, t in NAMES.items()}
    want = {n: a.copy() for n, a in before.items()}
    sources, marks = {}, {}
    for rank in (0, 4, 300):
        grid, dtype = cases.some_grid(rng), np.dtype(str(rng.choice(["u2", "i2", "u1", "i4"])))
        rule, positions = cases.some_rule(rng, dtype), cases.some_map(rng, kind, rows, cols, grid)
        data, slots = cases.levels(rng, grid, dtype, rule), cases.some_slots(rng, grid)
        alone = cases.source_for(REFERENCE, data, grid, positions, rule, slots)
        sources[rank] = cases.source_for(engine, data, grid, positions, rule, slots)
        mark = rng.choice([0, 1, 1, 255], shape).astype(np.uint8)
        marks[rank] = engine.from_host(mark)
        painted = np.full(shape, NODATA, np.uint16)
        REFERENCE.paint(painted, window, np.zeros(shape, np.int16), {0: alone})
        there = (painted != NODATA) & (mark != 0)
        value = np.where(there, painted, 0).astype(np.uint64)
        for name, term in zip(NAMES, (there, value, value * value), strict=True):
            np.add(want[name], term.astype(NAMES[name]), out=want[name])
    got = {n: engine.from_host(a) for n, a in before.items()}
    engine.spread(Sums(**got), window, sources, marks)
    for name in NAMES:
        np.testing.assert_array_equal(engine.to_host(got[name]), want[name])


def test_the_largest_values_are_exact(engine):
    """Many scenes of 65534: squares need 64 bits."""
    rng = np.random.default_rng(1)
    grid = cases.TileGrid(width=8, height=8, tile_width=8, tile_height=8)
    rule = cases.SampleRule(lo=0, hi=65535, bilinear=False)
    positions = cases.axis_map(rng, 8, 8, grid)
    positions = type(positions)(*(cases.steps(8, 1, 1) for _ in range(2)))
    source = cases.source_for(
        engine, np.full((8, 8), 65534, np.uint16), grid, positions, rule, np.zeros(1, np.int32)
    )
    sums = Sums(**{n: engine.empty((8, 8), t, 0) for n, t in NAMES.items()})
    mark = engine.empty((8, 8), np.uint8, 1)
    for _ in range(40):
        engine.spread(sums, (0, 8, 0, 8), {0: source, 1: source}, {0: mark, 1: mark})
    assert (engine.to_host(sums.count) == 80).all()
    assert (engine.to_host(sums.total) == 80 * 65534).all()
    assert (engine.to_host(sums.squares) == 80 * 65534**2).all()
