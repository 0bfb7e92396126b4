"""Tiles that winners need, by the kernel: those of the slow reference and of the CPU engine."""

from __future__ import annotations

from dataclasses import replace

import cases
import numpy as np
import pytest
from sampling import REFERENCE, SampleCase, SamplingEngine

from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.contract import TapGeometry, TileGrid
from bestpixel_gpu.engines.cuda.owners import owners
from bestpixel_gpu.geo.pixel_map import OUTSIDE, AxisMap


def check(case: SampleCase) -> None:
    geometries = {rank: source.geometry for rank, source in case.got.items()}
    geometries |= {9: next(iter(geometries.values()))}  # wins nothing
    for margin in (None, 0, 1, 2):
        if margin is not None:
            geometries = {rank: replace(g, margin=margin) for rank, g in geometries.items()}
        want = REFERENCE.owners(case.window, case.winners, geometries)
        winners = case.windowed(case.winners)
        got = owners(case.engine.device, case.engine.maps, case.window, winners.array, geometries)
        assert list(got) == list(want)
        for rank in want:
            np.testing.assert_array_equal(got[rank], want[rank])
            assert got[rank].dtype == np.int64
    case.engine.device.check()


@pytest.mark.parametrize("kind", ["axis", "lattice", "mixed"])
@pytest.mark.parametrize("seed", range(15))
def test_random_sources(kind, seed):
    rng = np.random.default_rng(seed)
    check(SampleCase(seed, kind, int(rng.integers(1, 40)), int(rng.integers(1, 50))))


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(15))
def test_few_pixels(kind, seed):
    """So few that no other pixel hides a tile that was forgotten."""
    rng = np.random.default_rng(200 + seed)
    grid = TileGrid(width=60, height=60, tile_width=16, tile_height=16)
    check(SampleCase(200 + seed, kind, 1 + seed % 3, int(rng.integers(1, 40)), grid))


@pytest.mark.parametrize("kind", ["axis", "lattice"])
def test_tiles_of_the_cpu_engine(kind):
    rng = np.random.default_rng(1)
    grid = TileGrid(width=900, height=700, tile_width=32, tile_height=32)
    geometries = {
        rank: TapGeometry(grid=grid, positions=cases.some_map(rng, kind, 350, 400, grid), margin=rank % 3)
        for rank in (1, 5, 1200)
    }
    window = (20, 345, 3, 398)
    winners = cases.winners_of(rng, 325, 395, (1, 5, 8, 1200))
    engine, cpu = SamplingEngine(4), create("cpu", threads=1)
    want = cpu.owners(window, winners, geometries)
    got = owners(engine.device, engine.maps, window, engine.device.upload(winners), geometries)
    for rank in geometries:
        np.testing.assert_array_equal(got[rank], want[rank])
    assert sum(map(len, got.values())) > 100
    cpu.close()


def test_positions_without_a_place():
    x = np.array([OUTSIDE, -1, 0, 60 * 2**32 - 1, 60 * 2**32, 2**52], np.int64)
    grid = TileGrid(width=60, height=60, tile_width=16, tile_height=16)
    positions = AxisMap(x, np.zeros(1, np.int64))
    engine = SamplingEngine(1)
    for bilinear in (False, True):
        geometry = TapGeometry(grid=grid, positions=positions, bilinear=bilinear)
        for c, tiles in enumerate([[], [], [0], [3], [], []]):
            winners = engine.device.upload(np.zeros((1, 1), np.int16))
            got = owners(engine.device, engine.maps, (0, 1, c, c + 1), winners, {0: geometry})
            assert list(got[0]) == tiles


def test_nothing_won():
    engine = SamplingEngine(1)
    winners = engine.device.upload(np.full((3, 4), -1, np.int32))
    assert owners(engine.device, engine.maps, (0, 3, 0, 4), winners, {}) == {}
    case = SampleCase(0, "axis", 3, 4, TileGrid(width=4, height=4, tile_width=4, tile_height=4))
    rank, source = next(iter(case.got.items()))
    got = owners(engine.device, engine.maps, (0, 3, 0, 4), winners, {rank: source.geometry})
    assert got[rank].size == 0


@pytest.mark.parametrize("axis", ["x", "y"])
def test_weights_that_round_to_zero_ask_for_nothing(axis):
    """Between pixels 15 and 16, which lie in different tiles; a weight is rounded to 1/32768."""
    step = 2**32 // 32768
    middle = 15 * 2**32 + 2**31
    for offset, tiles in [
        (step // 2 - 1, [0]), (step // 2, [0, 1]), (32768 * step - step // 2 - 1, [0, 1]),
        (32768 * step - step // 2, [1]), (32768 * step, [1]),
    ]:  # fmt: skip
        along, across = np.array([middle + offset]), np.array([2**31])
        positions = AxisMap(along, across) if axis == "x" else AxisMap(across, along)
        grid = TileGrid(width=32, height=32, tile_width=16, tile_height=16)
        engine = SamplingEngine(1)
        winners = engine.device.upload(np.zeros((1, 1), np.int16))
        geometry = TapGeometry(grid=grid, positions=positions)
        got = owners(engine.device, engine.maps, (0, 1, 0, 1), winners, {0: geometry})
        assert list(got[0]) == [tile * (1 if axis == "x" else 2) for tile in tiles]
