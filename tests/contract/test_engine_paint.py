"""Painting and ownership of tiles: every engine gives the bytes of the slow reference."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cases
import numpy as np
import pytest
from reference import ReferenceEngine

from bestpixel_gpu.engines.contract import (
    LOST_SLOT,
    NO_KEY,
    NODATA,
    SPARSE_SLOT,
    Footprint,
    RankState,
    SampleRule,
    TileGrid,
)
from bestpixel_gpu.geo.pixel_map import OUTSIDE, AxisMap, LatticeMap

ONE = 2**32
REFERENCE = ReferenceEngine()


DTYPES = ["u2", "u2", "u2", "i2", "u1", "i1", "u4", "i4"]


class PaintCase:
    """Two scenes under one grid, on the reference and on an engine."""

    def __init__(self, rng, engine, kind, rows, cols, grid=None):
        self.window = cases.some_window(rng, rows, cols) if grid is None else (0, rows, 0, cols)
        self.shape = self.window[1] - self.window[0], self.window[3] - self.window[2]
        self.winners = cases.winners_of(rng, *self.shape, (0, 3, 7))
        self.want, self.got = {}, {}
        for rank in (0, 3):
            level = grid or cases.some_grid(rng)
            dtype = np.dtype(str(rng.choice(DTYPES)))
            rule = cases.some_rule(rng, dtype)
            data = cases.levels(rng, level, dtype, rule)
            positions = cases.some_map(rng, kind, rows, cols, level)
            slots = cases.some_slots(rng, level)
            self.want[rank] = cases.source_for(REFERENCE, data, level, positions, rule, slots)
            self.got[rank] = cases.source_for(engine, data, level, positions, rule, slots)

    def check(self, engine):
        target = np.full(self.shape, 12345, np.uint16)
        touched = {}
        failed = REFERENCE.paint(target, self.window, self.winners, self.want, touched)
        out = engine.empty(self.shape, np.uint16, 12345)
        winners = engine.from_host(self.winners)
        count = engine.paint(out, self.window, winners, self.got)
        np.testing.assert_array_equal(engine.to_host(out), target)
        assert count == failed
        geometries = {rank: source.geometry for rank, source in self.got.items()}
        owned = engine.owners(self.window, winners, geometries)
        brute = REFERENCE.owners(self.window, self.winners, geometries)
        assert owned.keys() == brute.keys()
        for rank in owned:
            np.testing.assert_array_equal(owned[rank], brute[rank])
            np.testing.assert_array_equal(owned[rank], touched[rank])


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(90))
def test_paint_and_owners(engine, kind, seed):
    rng = np.random.default_rng(seed)
    PaintCase(rng, engine, kind, int(rng.integers(1, 30)), int(rng.integers(1, 50))).check(engine)


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(6))
def test_paint_long_rows(engine, kind, seed):
    rng = np.random.default_rng(1000 + seed)
    grid = TileGrid(width=1500, height=9, tile_width=[512, 256][seed % 2], tile_height=4)
    PaintCase(rng, engine, kind, 2, 1300, grid).check(engine)


def test_paint_far_apart(engine):
    """Six source pixels to an output pixel, in tiles wider than any table of a kernel."""
    data = np.random.default_rng(0).integers(1, 9000, (4, 3000)).astype(np.uint16)
    positions = AxisMap(cases.steps(500, 6, 1, 0.3), cases.steps(3, 1, 1, 0.3))
    rule = SampleRule(lo=1, hi=9000)
    grid = TileGrid(width=3000, height=4, tile_width=3000, tile_height=4)
    winners, slots = np.zeros((3, 500), np.int16), np.zeros(1, np.int32)
    got, want = engine.empty((3, 500), np.uint16), np.empty((3, 500), np.uint16)
    for run, out, won in ((engine, got, engine.from_host(winners)), (REFERENCE, want, winners)):
        source = cases.source_for(run, data, grid, positions, rule, slots)
        assert run.paint(out, (0, 3, 0, 500), won, {0: source}) == 0
    np.testing.assert_array_equal(engine.to_host(got), want)


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(40))
def test_paint_and_owners_of_few_pixels(engine, kind, seed):
    """So few that no other pixel hides a tile that was forgotten."""
    rng = np.random.default_rng(2000 + seed)
    grid = TileGrid(width=60, height=60, tile_width=16, tile_height=16)
    PaintCase(rng, engine, kind, 1, int(rng.integers(1, 40)), grid).check(engine)


def plain_source(engine, data, positions, rule, tile=16):
    grid = TileGrid(width=data.shape[1], height=data.shape[0], tile_width=tile, tile_height=tile)
    padded = np.zeros((grid.tiles_down * tile, grid.tiles_across * tile), data.dtype)
    padded[: data.shape[0], : data.shape[1]] = data
    slots = np.arange(grid.tiles_across * grid.tiles_down, dtype=np.int32)
    return cases.source_for(engine, padded, grid, positions, rule, slots)


def painted(engine, source, rows, cols):
    out = engine.empty((rows, cols), np.uint16, 1)
    failed = engine.paint(out, (0, rows, 0, cols), engine.empty((rows, cols), np.int16, 0), {0: source})
    return np.array(engine.to_host(out)), failed


def test_thirty_to_forty_metres_has_exact_ties(engine):
    data = np.arange(1, 1601, dtype=np.uint16).reshape(40, 40)
    positions = AxisMap(cases.steps(30, 4, 3), cases.steps(30, 4, 3))
    got, failed = painted(engine, plain_source(engine, data, positions, SampleRule(lo=1, hi=2000)), 30, 30)
    assert failed == 0
    # output pixel 1 lies on the edge of source pixels 1 and 2: the mean, half up
    assert got[1, 1] == (data[1, 1] + data[1, 2] + data[2, 1] + data[2, 2] + 2) // 4
    nearest = SampleRule(lo=1, hi=2000, bilinear=False)
    got, _ = painted(engine, plain_source(engine, data, positions, nearest), 30, 30)
    assert got[1, 1] == data[2, 2]


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ((1, -1000, 1), 1000, 0),
        ((1, -1000, 1), 400, 0),
        ((1, -1000, 1), 32767, 31767),
        ((11, -80000, 40), 7273, 0),
        ((11, -80000, 40), 65535, 16022),
        ((11, -80000, 40), 8001, 200),
        ((1, 1, 2), 2, 2),
        ((3, 0, 1), 30000, 65534),
    ],
)
def test_exact_rationals(engine, rule, value, expected):
    data = np.full((4, 4), value, np.uint16)
    mul, add, div = rule
    for offset in (0, 0.25):
        positions = AxisMap(cases.steps(4, 1, 1, offset), cases.steps(4, 1, 1, offset))
        how = SampleRule(lo=1, hi=65535, nodata=0, mul=mul, add=add, div=div)
        got, _ = painted(engine, plain_source(engine, data, positions, how), 4, 4)
        assert (got[:3, :3] == expected).all()


@pytest.mark.parametrize("dtype", DTYPES[2:])
@pytest.mark.parametrize(("mul", "add"), [(1, 0), (3, -40), (-2, 400), (1 << 20, 0), (1, 1 << 31)])
def test_runs_of_any_length_and_nothing_beside_them(engine, dtype, mul, add):
    """Row r is won in runs of r pixels, which are the raster's own; every eighth or so is invalid."""
    rng = np.random.default_rng(5)
    data = rng.integers(0, 100, (70, 140)).astype(dtype)
    rows, cols = np.indices(data.shape)
    winners = np.where(cols // np.maximum(rows, 1) % 2, 0, -1).astype(np.int16)
    positions = AxisMap(cases.steps(140, 1, 1), cases.steps(70, 1, 1))
    rule = SampleRule(lo=5, hi=93, nodata=50, mul=mul, add=add)
    out = engine.empty(data.shape, np.uint16, 12345)
    source = plain_source(engine, data, positions, rule, tile=96)
    count = engine.paint(out, (0, 70, 0, 140), engine.from_host(winners), {0: source})
    valid = (data >= 5) & (data <= 93) & (data != 50)
    value = np.where(valid, np.clip(data.astype(np.int64) * mul + add, 0, 65534), NODATA)
    np.testing.assert_array_equal(engine.to_host(out), np.where(winners < 0, 12345, value))
    assert count == ((winners == 0) & ~valid).sum()


def test_fix_31_means_below_zero_round_half_up(engine):
    data = np.array([[-3, -2]], np.int16)
    positions = AxisMap(np.array([ONE]), np.array([ONE // 2]))
    how = SampleRule(lo=-9998, hi=32767, nodata=-9999, add=100)
    got, _ = painted(engine, plain_source(engine, data, positions, how), 1, 1)
    assert got[0, 0] == 98  # floor(-2.5 + 0.5) = -2


def test_columns_that_fit_and_rows_that_do_not(engine):
    data = np.arange(1, 1601, dtype=np.uint16).reshape(40, 40)
    positions = AxisMap(cases.steps(40, 1, 1), cases.steps(39, 1, 1, 0.5))
    got, failed = painted(engine, plain_source(engine, data, positions, SampleRule(lo=1, hi=2000)), 39, 40)
    assert failed == 0
    np.testing.assert_array_equal(got, (data[:-1].astype(int) + data[1:] + 1) // 2)


@pytest.mark.parametrize("kind", ["axis", "lattice"])
def test_nodata_between_the_bounds(engine, kind):
    """One hole; the four output pixels around it have it at each of their four taps once."""
    data = np.full((16, 16), 9, np.uint16)
    data[8, 8] = 5
    positions = AxisMap(cases.steps(16, 1, 1, 0.25), cases.steps(16, 1, 1, 0.25))
    if kind == "lattice":
        y, x = np.meshgrid(*[np.arange(5) * 4 * ONE + ONE * 3 // 4] * 2, indexing="ij")
        positions = LatticeMap(x, y, 2, 0, 0)
    rule = SampleRule(lo=1, hi=100, nodata=5)
    got, failed = painted(engine, plain_source(engine, data, positions, rule), 16, 16)
    assert failed == 1
    assert got[8, 8] == NODATA
    got[8, 8] = 9
    assert (got == 9).all()


def test_lattice_positions_round_half_up(engine):
    """Half way between two nodes lies the edge of pixel 1, but for half of the last bit."""
    nodes = np.tile(np.array([ONE - 1, ONE], np.int64), (2, 1))
    data = np.array([[1, 2, 3, 4]] * 4, np.uint16)
    positions = LatticeMap(nodes, np.full((2, 2), ONE // 2), 1, 0, 0)
    rule = SampleRule(lo=1, hi=100, bilinear=False)
    got, _ = painted(engine, plain_source(engine, data, positions, rule), 1, 2)
    assert list(got[0]) == [1, 2]


def test_weights_of_zero_ask_for_nothing(engine):
    grid = TileGrid(width=32, height=16, tile_width=16, tile_height=16)
    rule = SampleRule(lo=1, hi=100)
    data = np.full((16, 32), 7, np.uint16)
    slots = np.array([0, LOST_SLOT], np.int32)
    x = np.array(
        [15 * ONE + ONE // 2, 15 * ONE + ONE // 2 + 2**16, 15 * ONE + ONE // 2 + 2**16 - 1, 16 * ONE]
    )
    source = cases.source_for(engine, data, grid, AxisMap(x, x[:1] // 2), rule, slots)
    out = engine.empty((1, 4), np.uint16, 1)
    winners = engine.empty((1, 4), np.int16, 0)
    assert engine.paint(out, (0, 1, 0, 4), winners, {0: source}) == 2
    assert list(engine.to_host(out)[0]) == [7, NODATA, 7, NODATA]
    for c, tiles in enumerate([[0], [0, 1], [0], [0, 1]]):
        got = engine.owners((0, 1, c, c + 1), winners[:, c : c + 1], {0: source.geometry})
        assert list(got[0]) == tiles


def test_sparse_is_invalid_and_lost_is_lost(engine):
    grid = TileGrid(width=32, height=16, tile_width=16, tile_height=16)
    data = np.full((16, 32), 7, np.uint16)
    positions = AxisMap(cases.steps(32, 1, 1, 0.25), cases.steps(16, 1, 1))
    for slot, expected in ((SPARSE_SLOT, 7), (LOST_SLOT, NODATA)):
        slots = np.array([0, slot], np.int32)
        source = cases.source_for(engine, data, grid, positions, SampleRule(lo=1, hi=100), slots)
        got, failed = painted(engine, source, 16, 32)
        assert (got[:, :15] == 7).all()
        assert (got[:, 15] == expected).all()
        assert (got[:, 16:] == NODATA).all()
        assert failed == (got == NODATA).sum()


def test_lattice_nodes_without_a_place(engine):
    nodes = np.full((3, 3), 5 * ONE)
    nodes[0, 0] = OUTSIDE
    positions = LatticeMap(nodes, nodes.copy(), 2, 0, 0)
    data = np.full((16, 16), 9, np.uint16)
    got, failed = painted(engine, plain_source(engine, data, positions, SampleRule(lo=1, hi=100)), 8, 8)
    assert failed == 16
    assert (got[:4, :4] == NODATA).all()
    assert (got[4:] == 9).all()
    assert (got[:, 4:] == 9).all()


def test_nothing_won_nothing_painted(engine):
    data = np.full((16, 16), 9, np.uint16)
    source = plain_source(
        engine, data, AxisMap(cases.steps(16, 1, 1), cases.steps(16, 1, 1)), SampleRule(lo=1, hi=100)
    )
    out = engine.empty((16, 16), np.uint16, 5)
    winners = np.full((16, 16), -1, np.int16)
    winners[3, 4] = 2
    winners = engine.from_host(winners)
    assert engine.paint(out, (0, 16, 0, 16), winners, {0: source}) == 0
    assert (engine.to_host(out) == 5).all()
    assert engine.paint(out, (0, 16, 0, 16), winners, {}) == 0
    assert engine.owners((0, 16, 0, 16), winners, {0: source.geometry})[0].size == 0
    assert engine.owners((0, 16, 0, 16), winners, {}) == {}


# ---------------------------------------------------------------- windows and threads


@pytest.mark.parametrize("kind", ["axis", "lattice"])
def test_fix_16_split_windows_and_threads_give_the_same_bytes(engine, kind):
    rng = np.random.default_rng(7)
    rows, cols = 300, 420
    grid = TileGrid(width=500, height=400, tile_width=64, tile_height=64)
    mask_table = cases.score_table(rng)
    masks, maps, sources = [], [], {}
    for rank in range(4):
        maps.append(cases.some_map(rng, kind, rows, cols, grid))
        tiles = [t for t in cases.mask_tiles(rng, grid, 8, "u") if t.data is None or len(t.data) > 2]
        masks.append(engine.classify(tiles, grid, (0, 400, 0, 500), mask_table, nodata=0)[0])
        rule = SampleRule(lo=1, hi=32767, nodata=0, erode=rank == 1)
        data = cases.levels(rng, grid, np.dtype("u2"), rule)
        sources[rank] = cases.source_for(engine, data, grid, maps[rank], rule, cases.some_slots(rng, grid))

    def whole(window, keys, counts, winners, band):
        state = RankState(window, keys, counts)
        for rank in range(4):
            engine.rank(state, masks[rank], maps[rank], mask_table, rank, footprint=Footprint(ONE, ONE))
        engine.settle(keys, engine.empty(keys.shape, np.uint16), winners, 4)
        return engine.paint(band, window, winners, sources)

    def run(windows, threads):
        keys = engine.empty((rows, cols), np.uint32, NO_KEY)
        counts = engine.empty((rows, cols), np.uint16, 0)
        band = engine.empty((rows, cols), np.uint16, 0)
        winners = engine.empty((rows, cols), np.int16)

        def one(window):
            part = np.s_[window[0] : window[1], window[2] : window[3]]
            return whole(window, keys[part], counts[part], winners[part], band[part])

        with ThreadPoolExecutor(threads) as pool:
            failed = sum(pool.map(one, windows))
        return [np.array(engine.to_host(a)).tobytes() for a in (keys, counts, winners, band)], failed

    once = run([(0, rows, 0, cols)], 1)
    row_cuts, col_cuts = [0, 1, 64, 137, 300], [0, 17, 256, 419, 420]
    parts = [(r0, r1, c0, c1) for r0, r1 in pairwise(row_cuts) for c0, c1 in pairwise(col_cuts)]
    assert run(parts[::-1], 4) == once
