"""Painting by the kernels: the bytes of the slow reference and of the CPU engine, nothing beside them."""

from __future__ import annotations

from dataclasses import replace

import cases
import numpy as np
import pytest
from sampling import REFERENCE, SampleCase, SamplingEngine

from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.contract import NODATA, SampleRule, TileGrid
from bestpixel_gpu.engines.cuda.paint import failures, paint, start_painting
from bestpixel_gpu.engines.cuda.sources import divisor
from bestpixel_gpu.geo.pixel_map import AxisMap

KINDS = ["axis", "lattice", "mixed"]


def check(case: SampleCase) -> None:
    device, maps = case.engine.device, case.engine.maps
    want = np.full(case.shape, 12345, np.uint16)
    expected = REFERENCE.paint(want, case.window, case.winners, case.want)
    target, winners = case.windowed(np.full(case.shape, 12345, np.uint16)), case.windowed(case.winners)
    assert paint(device, maps, target.array, case.window, winners.array, case.got) == expected
    np.testing.assert_array_equal(target.content(), want)
    winners.content()
    device.check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(40))
def test_random_sources(kind, seed):
    rng = np.random.default_rng(seed)
    check(SampleCase(seed, kind, int(rng.integers(1, 30)), int(rng.integers(1, 50))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_windows_of_several_blocks(kind, seed):
    grid = TileGrid(width=300, height=9, tile_width=[128, 64, 300][seed], tile_height=4)
    check(SampleCase(100 + seed, kind, 9, 270, grid))


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("erode", [False, True])
@pytest.mark.parametrize("dtype", ["u2", "i1"])
def test_the_bytes_of_the_cpu_engine(kind, erode, dtype):
    rng = np.random.default_rng(5)
    grid = TileGrid(width=200, height=150, tile_width=64, tile_height=48)
    rule = SampleRule(lo=1, hi=120, nodata=0, erode=erode, mul=11, add=-80, div=4)
    data = rng.integers(1, 121, (grid.tiles_down * 48, grid.tiles_across * 64)).astype(dtype)
    data[rng.random(data.shape) < 0.002] = 0
    positions = cases.some_map(rng, kind, 90, 170, grid)
    slots = cases.some_slots(rng, grid)
    window = (7, 88, 11, 169)
    winners = cases.winners_of(rng, 81, 158, (2,))
    engine, cpu = SamplingEngine(9), create("cpu", threads=1)
    sources = [cases.source_for(e, data, grid, positions, rule, slots) for e in (cpu, engine)]
    want = np.zeros((81, 158), np.uint16)
    expected = cpu.paint(want, window, winners, {2: sources[0]})
    target = engine.device.upload(np.zeros_like(want))
    arguments = (target, window, engine.device.upload(winners), {2: sources[1]})
    assert paint(engine.device, engine.maps, *arguments) == expected
    np.testing.assert_array_equal(engine.device.download(target), want)
    assert 0 < expected < want.size
    cpu.close()


@pytest.mark.parametrize("n", range(1, 5))
def test_all_that_fails_is_counted(n):
    """Every pixel of blocks full and not full, by the first kernel and by the second."""
    engine = SamplingEngine(n)
    grid = TileGrid(width=40, height=40, tile_width=32, tile_height=32)
    axis = AxisMap(cases.steps(261, 1, 8), cases.steps(5 * n, 1, 1))
    for erode in (False, True):
        rule = SampleRule(lo=1, hi=9, erode=erode)
        slots = np.arange(4, dtype=np.int32)
        source = cases.source_for(engine, np.zeros((64, 64), np.uint16), grid, axis, rule, slots)
        shape, window = (5 * n, 261), (0, 5 * n, 0, 261)
        target = engine.device.empty(shape, np.uint16)
        winners = engine.device.upload(np.zeros(shape, np.int16))
        count = start_painting(engine.device, engine.maps, target, window, winners, {0: source})
        assert failures(engine.device, count) == 5 * n * 261
        assert (engine.device.download(target) == NODATA).all()


def test_rules_beyond_32_bits():
    rng = np.random.default_rng(2)
    case = SampleCase(3, "axis", 20, 30, TileGrid(width=30, height=20, tile_width=16, tile_height=16))
    case.winners[...] = rng.choice([-1, *case.got], case.shape)
    for mul, add, div in ((10**6, -(10**9), 40000), (1, 2**40, 2**25), (-3, 2**20, 7), (1, 2**31, 1)):
        for sources in (case.want, case.got):
            for rank in sources:
                rule = replace(sources[rank].rule, mul=mul, add=add, div=div)
                sources[rank] = replace(sources[rank], rule=rule)
        check(case)


@pytest.mark.parametrize("erode", [False, True])
def test_means_of_some_taps_below_zero(erode):
    """Beside a hole the weights do not add up to a power of two."""
    grid = TileGrid(width=40, height=40, tile_width=16, tile_height=16)
    rng = np.random.default_rng(8)
    data = rng.integers(-9000, -1, (48, 48)).astype(np.int16)
    data[rng.random(data.shape) < (0.005 if erode else 0.2)] = -9999
    positions = AxisMap(cases.steps(50, 4, 5, 0.1), cases.steps(50, 4, 5, 0.3))
    rule = SampleRule(lo=-9998, hi=32767, nodata=-9999, add=10000, erode=erode)
    winners, want, engine = np.zeros((50, 50), np.int32), np.zeros((50, 50), np.uint16), SamplingEngine(1)
    made = [
        cases.source_for(e, data, grid, positions, rule, np.arange(9, dtype=np.int32))
        for e in (REFERENCE, engine)
    ]
    expected = REFERENCE.paint(want, (0, 50, 0, 50), winners, {0: made[0]})
    target, there = engine.device.empty((50, 50), np.uint16), engine.device.upload(winners)
    assert paint(engine.device, engine.maps, target, (0, 50, 0, 50), there, {0: made[1]}) == expected
    np.testing.assert_array_equal(engine.device.download(target), want)
    assert 0 < expected < 2500


def test_nothing_to_paint():
    engine = SamplingEngine(0)
    target, winners = engine.device.empty((0, 3), np.uint16), engine.device.empty((0, 3), np.int16)
    assert paint(engine.device, engine.maps, target, (4, 4, 0, 3), winners, {}) == 0
    target, winners = engine.device.empty((2, 3), np.uint16), engine.device.empty((2, 3), np.int32)
    assert paint(engine.device, engine.maps, target, (4, 6, 0, 3), winners, {}) == 0
    assert not [name for name, _ in engine.device.launched]


def test_what_does_not_fit_is_refused():
    case = SampleCase(1, "axis", 6, 8, TileGrid(width=8, height=8, tile_width=8, tile_height=8))
    device, maps = case.engine.device, case.engine.maps
    target = device.empty(case.shape, np.uint16)

    def attempt(match, target=target, dtype=np.int16, shape=case.shape, sources=case.got):
        with pytest.raises(ValueError, match=match):
            paint(device, maps, target, case.window, device.empty(shape, dtype), sources)

    attempt("for the window", shape=(6, 7))
    attempt("expected int16 or int32", dtype=np.int64)
    attempt("a target of", target=device.empty((6, 7), np.uint16))
    floats = {r: replace(s, dtype=np.dtype("f4")) for r, s in case.got.items()}
    attempt("expected integers of 8 to 32 bits", sources=floats)
    short = {r: replace(s, slots=s.slots[1:]) for r, s in case.got.items()}
    attempt("slots for", sources=short)


def test_the_divisor_is_exact():
    rng = np.random.default_rng(0)
    sizes = [1, 2, 3, 5, 7, 16, 240, 256, 512, 1000, 1024, 2400, 65535, 2**30, 2**31 - 1]
    for d in [*sizes, *rng.integers(1, 2**31, 200)]:
        by = divisor(int(d))
        assert by >> 32 <= 31
        edges = np.arange(min(2**31 // int(d), 1000) + 1) * d
        n = np.concatenate([edges, edges - 1, 2**31 - 1 - np.arange(1000), rng.integers(0, 2**31, 1000)])
        n = n[(n >= 0) & (n < 2**31)].astype(object)
        got = (2 * n * (by & 0xFFFFFFFF) >> 32) >> (by >> 32)
        assert (got == n // int(d)).all()
