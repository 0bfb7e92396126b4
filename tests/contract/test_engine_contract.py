"""Every engine gives the bytes of the slow reference."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import cases
import numpy as np
import pytest
from reference import ReferenceEngine

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import (
    LOST_SLOT,
    NO_KEY,
    NODATA,
    SPARSE_SLOT,
    TILE_CORRUPT,
    ChunkGrid,
    CompressedTile,
    Footprint,
    MaskTable,
    RankState,
    SampleRule,
    TileGrid,
)
from bestpixel_gpu.geo.pixel_map import OUTSIDE, AxisMap, LatticeMap

ONE = 2**32
REFERENCE = ReferenceEngine()


def slot_of(engine, pool, slot, layout):
    """Samples of a slot, seen through painting nothing: by the engine's own pool."""
    if isinstance(engine, ReferenceEngine):
        return pool.tiles[slot]
    raw = engine.to_host(pool.data)[slot * pool.step :][: layout.decoded_bytes]
    return raw.view(layout.dtype).reshape(layout.height, layout.width)


def layouts():
    for bits in range(1, 17):
        for kind in "ui":
            yield {"bits": bits, "kind": kind, "predictor": 1}
    for bits in (8, 16, 32, 64):
        for kind in "ui":
            yield {"bits": bits, "kind": kind, "predictor": 2}
        yield {"bits": bits, "kind": "u", "predictor": 1}
    for bits in (16, 32, 64):
        for predictor in (1, 2, 3):
            yield {"bits": bits, "kind": "f", "predictor": predictor}


@pytest.mark.parametrize("layout", list(layouts()), ids=lambda d: f"{d['kind']}{d['bits']}p{d['predictor']}")
def test_tiles_of_every_layout(engine, layout):
    rng = np.random.default_rng(layout["bits"])
    made, expected = [], []
    for codec in ("deflate", "none"):
        for order in "<>":
            for samples in (1, 3):
                for width, height in ((37, 5), (16, 8), (1, 1)):
                    how = TileLayout(
                        codec=codec, width=width, height=height, byteorder=order, samples=samples,
                        sample=samples - 1, **layout,
                    )  # fmt: skip
                    pixels = cases.random_pixels(rng, how)
                    made.append(cases.compressed(pixels, how, len(made)))
                    expected.append(pixels[:, :, how.sample])
    pool = engine.pool(37 * 5 * 8, len(made))
    slots = [int(s) for s in rng.permutation(len(made))]
    assert not engine.load(pool, slots, made).wait().any()
    for slot, tile, pixels in zip(slots, made, expected, strict=True):
        got = slot_of(engine, pool, slot, tile.layout)
        assert got.dtype == pixels.dtype
        assert got.tobytes() == np.ascontiguousarray(pixels).tobytes(), tile.layout


def test_whole_and_broken_streams_in_one_batch(engine):
    layout = TileLayout(codec="deflate", width=64, height=64, bits=16, predictor=2)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 500, (64, 64, 1)).astype(np.uint16)
    raw = cases.encode(pixels, layout)
    good = zlib.compress(raw)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x10
    bare = zlib.compressobj(wbits=-15)
    broken = {
        "truncated": good[:-1],
        "truncated early": good[:100],
        "one byte": good[:1],
        "empty": b"",
        "adler": good[:-1] + bytes([good[-1] ^ 1]),
        "flipped bit": bytes(flipped),
        "noise": rng.bytes(5000),
        "without header": bare.compress(raw) + bare.flush(),
        "too short": zlib.compress(raw[:-1]),
        "too long": zlib.compress(raw + b"\0"),
        "a bomb": zlib.compress(bytes(50_000_000)),
    }
    stored = [good, *broken.values(), good + b"more", bytearray(good), memoryview(good)]
    tiles = [CompressedTile(i, data, layout) for i, data in enumerate(stored)]
    pool = engine.pool(layout.decoded_bytes, len(tiles))
    status = engine.load(pool, range(len(tiles)), tiles).wait()
    fine = [0, *range(len(broken) + 1, len(tiles))]
    assert [i for i, s in enumerate(status) if s != TILE_CORRUPT] == fine
    for slot in fine:
        np.testing.assert_array_equal(slot_of(engine, pool, slot, layout), pixels[:, :, 0])


def test_raw_tiles_have_exactly_their_bytes(engine):
    layout = TileLayout(codec="none", width=5, height=3, bits=12)
    pixels = np.arange(15, dtype=np.uint16).reshape(3, 5, 1)
    raw = cases.encode(pixels, layout)
    tiles = [CompressedTile(i, data, layout) for i, data in enumerate((raw, raw[:-1], raw + b"\0", b""))]
    pool = engine.pool(layout.decoded_bytes, 4)
    assert list(engine.load(pool, range(4), tiles).wait()) == [0, 1, 1, 1]
    np.testing.assert_array_equal(slot_of(engine, pool, 0, layout), pixels[:, :, 0])


def test_nothing_to_load(engine):
    assert engine.load(engine.pool(4, 1), [], []).wait().size == 0


# ---------------------------------------------------------------- masks


def mask_tiles(rng, grid, bits, kind, classes=16):
    """All tiles of a class mask; some sparse, broken or left out."""
    layout = TileLayout(codec="deflate", width=grid.tile_width, height=grid.tile_height, bits=bits, kind=kind)
    tiles = []
    for index in range(grid.tiles_across * grid.tiles_down):
        what = rng.random()
        pixels = rng.integers(0, classes, (layout.height, layout.width, 1)).astype(layout.dtype)
        tile = cases.compressed(pixels, layout, index)
        if what < 0.1:
            tile = replace(tile, data=None)
        elif what < 0.15:
            tile = replace(tile, data=tile.data[:-2])
        if what < 0.9:
            tiles.append(tile)
    return tiles


def some_window(rng, height, width):
    r = sorted(rng.choice(height + 1, 2, replace=False))
    c = sorted(rng.choice(width + 1, 2, replace=False))
    return int(r[0]), int(r[1]), int(c[0]), int(c[1])


@pytest.mark.parametrize("seed", range(25))
def test_classify(engine, seed):
    rng = np.random.default_rng(seed)
    grid = cases.some_grid(rng)
    bits, kind, nodata = [(8, "u", 0), (16, "u", 300), (16, "i", -1), (8, "i", -3), (4, "u", 3)][seed % 5]
    tiles = mask_tiles(rng, grid, bits, kind)
    table = cases.score_table(rng)
    table.codes[[300, 65535, 253]] = [1, 0, 255]
    window = some_window(rng, grid.height, grid.width)
    grow = int(rng.choice([0, 0, 1, 5, 100]))
    want, want_status = REFERENCE.classify(tiles, grid, window, table, nodata=nodata, grow=grow)
    got, status = engine.classify(tiles, grid, window, table, nodata=nodata, grow=grow)
    assert (got.window, got.width, got.height) == (window, grid.width, grid.height)
    np.testing.assert_array_equal(status, want_status)
    np.testing.assert_array_equal(engine.to_host(got.data), want.data)


def mask_case(rng, engine, kind, rows, cols):
    """A mask on the reference and on an engine, and a map of an output grid onto it."""
    grid = cases.some_grid(rng)
    table = cases.score_table(rng)
    tiles = [t for t in mask_tiles(rng, grid, 8, "u") if t.data is None or len(t.data) > 2]
    window = (
        (0, grid.height, 0, grid.width) if rng.random() < 0.5 else some_window(rng, grid.height, grid.width)
    )
    want, _ = REFERENCE.classify(tiles, grid, window, table, nodata=0)
    got, _ = engine.classify(tiles, grid, window, table, nodata=0)
    return table, cases.some_map(rng, kind, rows, cols, grid), want, got


def some_footprint(rng, positions):
    kinds = ["none", "pixel", "pixel", "random", "tiny", "half"]
    what = str(rng.choice(kinds))
    if what == "none":
        return None
    if what == "pixel" and isinstance(positions, AxisMap):
        steps = [np.diff(p)[0] if len(p) > 1 else ONE for p in (positions.x, positions.y)]
        return Footprint(int(steps[0]) // 2, int(steps[1]) // 2)
    if what == "tiny":
        return Footprint(ONE // 10, ONE // 4)
    if what == "half":
        return Footprint(ONE // 2, ONE // 2)
    return Footprint(int(rng.integers(1, 3 * ONE)), int(rng.integers(1, 3 * ONE)))


def edges(rng, size):
    inner = rng.choice(np.arange(1, size), min(size - 1, int(rng.integers(0, 4))), replace=False)
    return np.array([0, *sorted(inner), size], np.int64)


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(40))
def test_rank(engine, kind, seed):
    rng = np.random.default_rng(seed)
    rows, cols = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    window = some_window(rng, rows, cols)
    shape = window[1] - window[0], window[3] - window[2]
    chunks = ChunkGrid(edges(rng, rows), edges(rng, cols))
    floor = rng.integers(0, 2**31, shape).astype(np.uint32) if seed % 3 == 0 else None
    counts = None if seed % 3 == 0 and seed % 2 else np.zeros(shape, np.uint16)
    want = RankState(window, np.full(shape, NO_KEY, np.uint32), counts, floor)
    got = RankState(
        window,
        engine.empty(shape, np.uint32, NO_KEY),
        None if counts is None else engine.empty(shape, np.uint16, 0),
        floor,
    )
    for scene in range(3):
        table, positions, ref_mask, mask = mask_case(rng, engine, kind, rows, cols)
        low = int(rng.integers(0, 2)) << 16 | scene
        how = {"footprint": some_footprint(rng, positions)}
        if rng.random() < 0.6:
            barred = rng.random((len(chunks.row_edges) - 1, len(chunks.col_edges) - 1)) < 0.4
            how |= {"chunks": chunks, "barred": barred}
        REFERENCE.rank(want, ref_mask, positions, table, low, **how)
        engine.rank(got, mask, positions, table, low, **how)
        np.testing.assert_array_equal(engine.to_host(got.keys), want.keys)
        if counts is not None:
            np.testing.assert_array_equal(engine.to_host(got.counts), want.counts)


def test_only_keys_above_the_floor_compete(engine):
    layout = TileLayout(codec="none", width=3, height=1, bits=8)
    grid = TileGrid(width=3, height=1, tile_width=3, tile_height=1)
    codes, scores = np.full(65536, 254, np.uint8), np.full(256, 65535, np.uint16)
    codes[:2], scores[:2] = [0, 1], [0, 9]
    table = MaskTable(codes, scores, np.arange(256) < 1)
    mask, _ = engine.classify([CompressedTile(0, b"\0\1\1", layout)], grid, (0, 1, 0, 3), table, nodata=7)
    positions = AxisMap(steps(3, 1, 1), steps(1, 1, 1))
    low = 1 << 16 | 3
    floor = np.array([[low, 9 << 17 | low, (9 << 17 | low) - 1]], np.uint32)
    state = RankState((0, 1, 0, 3), engine.empty((1, 3), np.uint32, NO_KEY), None, floor)
    engine.rank(state, mask, positions, table, low)
    assert list(engine.to_host(state.keys)[0]) == [NO_KEY, NO_KEY, 9 << 17 | low]


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(12))
def test_statistics(engine, kind, seed):
    rng = np.random.default_rng(seed)
    rows, cols = (45, 70) if seed % 3 == 0 else (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
    chunks = ChunkGrid(edges(rng, rows), edges(rng, cols))
    r = sorted(rng.choice(len(chunks.row_edges), 2, replace=False))
    c = sorted(rng.choice(len(chunks.col_edges), 2, replace=False))
    window = tuple(int(e) for e in (*chunks.row_edges[r], *chunks.col_edges[c]))
    table, positions, ref_mask, mask = mask_case(rng, engine, kind, rows, cols)
    for cells in (False, True):
        how = {"footprint": some_footprint(rng, positions), "cells": cells}
        want = REFERENCE.statistics(ref_mask, positions, window, chunks, table, **how)
        got = engine.statistics(mask, positions, window, chunks, table, **how)
        np.testing.assert_array_equal(got.clear, want.clear)
        np.testing.assert_array_equal(got.valid, want.valid)
        assert (got.clear_cells is not None) == cells
        if cells:
            np.testing.assert_array_equal(got.clear_cells, want.clear_cells)
            np.testing.assert_array_equal(got.valid_cells, want.valid_cells)


def test_statistics_refuses_a_window_off_the_chunk_edges(engine):
    rng = np.random.default_rng(0)
    table, positions, _, mask = mask_case(rng, engine, "axis", 20, 20)
    chunks = ChunkGrid(np.array([0, 10, 20]), np.array([0, 10, 20]))
    with pytest.raises(ValueError, match="chunk edges"):
        engine.statistics(mask, positions, (0, 10, 0, 15), chunks, table)


# ---------------------------------------------------------------- painting

DTYPES = ["u2", "u2", "u2", "i2", "u1", "i1", "u4", "i4"]


class PaintCase:
    """Two scenes under one grid, on the reference and on an engine."""

    def __init__(self, rng, engine, kind, rows, cols, grid=None):
        self.window = some_window(rng, rows, cols) if grid is None else (0, rows, 0, cols)
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
        count = engine.paint(out, self.window, self.winners, self.got)
        np.testing.assert_array_equal(engine.to_host(out), target)
        assert count == failed
        geometries = {rank: source.geometry for rank, source in self.got.items()}
        owned = engine.owners(self.window, self.winners, geometries)
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
    failed = engine.paint(out, (0, rows, 0, cols), np.zeros((rows, cols), np.int16), {0: source})
    return np.array(engine.to_host(out)), failed


def steps(count, num, den, offset=0):
    """Exact positions of pixel centres ``(c + 1/2) num / den + offset``."""
    return np.array([((2 * c + 1) * num * ONE + den) // (2 * den) + int(offset * ONE) for c in range(count)])


def test_thirty_to_forty_metres_has_exact_ties(engine):
    data = np.arange(1, 1601, dtype=np.uint16).reshape(40, 40)
    positions = AxisMap(steps(30, 4, 3), steps(30, 4, 3))
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
        positions = AxisMap(steps(4, 1, 1, offset), steps(4, 1, 1, offset))
        how = SampleRule(lo=1, hi=65535, nodata=0, mul=mul, add=add, div=div)
        got, _ = painted(engine, plain_source(engine, data, positions, how), 4, 4)
        assert (got[:3, :3] == expected).all()


def test_means_below_zero_round_half_up(engine):
    data = np.array([[-3, -2]], np.int16)
    positions = AxisMap(np.array([ONE]), np.array([ONE // 2]))
    how = SampleRule(lo=-9998, hi=32767, nodata=-9999, add=100)
    got, _ = painted(engine, plain_source(engine, data, positions, how), 1, 1)
    assert got[0, 0] == 98  # floor(-2.5 + 0.5) = -2


def test_columns_that_fit_and_rows_that_do_not(engine):
    data = np.arange(1, 1601, dtype=np.uint16).reshape(40, 40)
    positions = AxisMap(steps(40, 1, 1), steps(39, 1, 1, 0.5))
    got, failed = painted(engine, plain_source(engine, data, positions, SampleRule(lo=1, hi=2000)), 39, 40)
    assert failed == 0
    np.testing.assert_array_equal(got, (data[:-1].astype(int) + data[1:] + 1) // 2)


@pytest.mark.parametrize("kind", ["axis", "lattice"])
def test_nodata_between_the_bounds(engine, kind):
    """One hole; the four output pixels around it have it at each of their four taps once."""
    data = np.full((16, 16), 9, np.uint16)
    data[8, 8] = 5
    positions = AxisMap(steps(16, 1, 1, 0.25), steps(16, 1, 1, 0.25))
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
    winners = np.zeros((1, 4), np.int16)
    assert engine.paint(out, (0, 1, 0, 4), winners, {0: source}) == 2
    assert list(engine.to_host(out)[0]) == [7, NODATA, 7, NODATA]
    for c, tiles in enumerate([[0], [0, 1], [0], [0, 1]]):
        got = engine.owners((0, 1, c, c + 1), winners[:, c : c + 1], {0: source.geometry})
        assert list(got[0]) == tiles


def test_sparse_is_invalid_and_lost_is_lost(engine):
    grid = TileGrid(width=32, height=16, tile_width=16, tile_height=16)
    data = np.full((16, 32), 7, np.uint16)
    positions = AxisMap(steps(32, 1, 1, 0.25), steps(16, 1, 1))
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
    source = plain_source(engine, data, AxisMap(steps(16, 1, 1), steps(16, 1, 1)), SampleRule(lo=1, hi=100))
    out = engine.empty((16, 16), np.uint16, 5)
    winners = np.full((16, 16), -1, np.int16)
    winners[3, 4] = 2
    assert engine.paint(out, (0, 16, 0, 16), winners, {0: source}) == 0
    assert (engine.to_host(out) == 5).all()
    assert engine.paint(out, (0, 16, 0, 16), winners, {}) == 0
    assert engine.owners((0, 16, 0, 16), winners, {0: source.geometry})[0].size == 0
    assert engine.owners((0, 16, 0, 16), winners, {}) == {}


# ---------------------------------------------------------------- windows and threads


@pytest.mark.parametrize("kind", ["axis", "lattice"])
def test_split_windows_and_threads_give_the_same_bytes(engine, kind):
    rng = np.random.default_rng(7)
    rows, cols = 300, 420
    grid = TileGrid(width=500, height=400, tile_width=64, tile_height=64)
    mask_table = cases.score_table(rng)
    masks, maps, sources = [], [], {}
    for rank in range(4):
        maps.append(cases.some_map(rng, kind, rows, cols, grid))
        tiles = [t for t in mask_tiles(rng, grid, 8, "u") if t.data is None or len(t.data) > 2]
        masks.append(engine.classify(tiles, grid, (0, 400, 0, 500), mask_table, nodata=0)[0])
        rule = SampleRule(lo=1, hi=32767, nodata=0, erode=rank == 1)
        data = cases.levels(rng, grid, np.dtype("u2"), rule)
        sources[rank] = cases.source_for(engine, data, grid, maps[rank], rule, cases.some_slots(rng, grid))

    def whole(window, keys, counts, winners, band):
        state = RankState(window, keys, counts)
        for rank in range(4):
            engine.rank(state, masks[rank], maps[rank], mask_table, rank, footprint=Footprint(ONE, ONE))
        keys = engine.to_host(keys)
        winners[...] = np.where(keys == NO_KEY, -1, keys & 0xFFFF)
        return engine.paint(band, window, winners, sources)

    def run(windows, threads):
        keys = engine.empty((rows, cols), np.uint32, NO_KEY)
        counts = engine.empty((rows, cols), np.uint16, 0)
        band = engine.empty((rows, cols), np.uint16, 0)
        winners = np.empty((rows, cols), np.int16)

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


def test_loading_from_four_threads(engine):
    layout = TileLayout(codec="deflate", width=128, height=128, bits=15)
    rng = np.random.default_rng(3)
    pixels = [cases.random_pixels(rng, layout) for _ in range(24)]
    tiles = [cases.compressed(p, layout, i) for i, p in enumerate(pixels)]
    pool = engine.pool(layout.decoded_bytes, 24)
    with ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(lambda i=i: engine.load(pool, [i, i + 1], tiles[i : i + 2]).wait())
            for i in range(0, 24, 2)
        ]
        assert not any(job.result().any() for job in jobs)
    for i, expected in enumerate(pixels):
        np.testing.assert_array_equal(slot_of(engine, pool, i, layout), expected[:, :, 0])
