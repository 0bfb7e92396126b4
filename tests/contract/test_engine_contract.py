"""Tiles, masks and ranking: every engine gives the bytes of the slow reference."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cases
import numpy as np
import pytest
from reference import ReferenceEngine

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import (
    NO_KEY,
    NODATA_CODE,
    TILE_CORRUPT,
    CompressedTile,
    Footprint,
    MaskTable,
    RankState,
    TileGrid,
)
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import AxisMap

ONE = 2**32
HALF = 2**31
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
def test_tiles_of_every_layout(decoding_engine, layout):
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
    pool = decoding_engine.pool(37 * 5 * 8, len(made))
    slots = [int(s) for s in rng.permutation(len(made))]
    assert not decoding_engine.load(pool, slots, made).wait().any()
    for slot, tile, pixels in zip(slots, made, expected, strict=True):
        got = slot_of(decoding_engine, pool, slot, tile.layout)
        assert got.dtype == pixels.dtype
        assert got.tobytes() == np.ascontiguousarray(pixels).tobytes(), tile.layout


@pytest.mark.parametrize("layout", list(layouts()), ids=lambda d: f"{d['kind']}{d['bits']}p{d['predictor']}")
def test_only_what_lies_inside_the_raster_is_wanted(decoding_engine, layout):
    rng = np.random.default_rng(layout["bits"])
    made, expected = [], []
    for codec, order, samples in (("deflate", "<", 1), ("none", ">", 1), ("deflate", ">", 3)):
        for inside in ((5, 37), (5, 20), (3, 37), (2, 9), (1, 1)):
            how = TileLayout(
                codec=codec, width=37, height=5, byteorder=order, samples=samples, sample=samples - 1,
                **layout,
            )  # fmt: skip
            pixels = cases.random_pixels(rng, how)
            made.append(replace(cases.compressed(pixels, how, len(made)), inside=inside))
            expected.append(pixels[: inside[0], : inside[1], how.sample])
    pool = decoding_engine.pool(37 * 5 * 8, len(made))
    assert not decoding_engine.load(pool, range(len(made)), made).wait().any()
    for slot, (tile, pixels) in enumerate(zip(made, expected, strict=True)):
        rows, cols = tile.inside
        got = slot_of(decoding_engine, pool, slot, tile.layout)[:rows, :cols]
        assert got.tobytes() == np.ascontiguousarray(pixels).tobytes(), tile


def test_damage_in_the_padding_is_damage(decoding_engine):
    layout = TileLayout(codec="deflate", width=64, height=64, bits=16, predictor=2)
    raw = cases.encode(np.random.default_rng(0).integers(0, 500, (64, 64, 1)).astype(np.uint16), layout)
    good = zlib.compress(raw)
    stored = [good, good[:-1] + bytes([good[-1] ^ 1]), zlib.compress(raw[:-2]), zlib.compress(raw + b"\0\0")]
    tiles = [CompressedTile(i, data, layout, (3, 5)) for i, data in enumerate(stored)]
    pool = decoding_engine.pool(layout.decoded_bytes, len(tiles))
    assert list(decoding_engine.load(pool, range(4), tiles).wait()) == [0, 1, 1, 1]


def test_whole_and_broken_streams_in_one_batch(decoding_engine):
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
    pool = decoding_engine.pool(layout.decoded_bytes, len(tiles))
    status = decoding_engine.load(pool, range(len(tiles)), tiles).wait()
    fine = [0, *range(len(broken) + 1, len(tiles))]
    assert [i for i, s in enumerate(status) if s != TILE_CORRUPT] == fine
    for slot in fine:
        np.testing.assert_array_equal(slot_of(decoding_engine, pool, slot, layout), pixels[:, :, 0])


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


@pytest.mark.parametrize("seed", range(25))
def test_classify(decoding_engine, seed):
    rng = np.random.default_rng(seed)
    grid = cases.some_grid(rng)
    bits, kind, nodata = [(8, "u", 0), (16, "u", 300), (16, "i", -1), (8, "i", -3), (4, "u", 3)][seed % 5]
    samples = 2 if seed % 7 == 0 else 1
    how = {"samples": samples, "sample": samples - 1, "byteorder": "<>"[seed % 4 == 0]}
    predictor = 2 if bits >= 8 and seed % 2 else 1
    tiles = cases.mask_tiles(rng, grid, bits, kind, predictor=predictor, **how)
    table = cases.score_table(rng)
    table.codes[[300, 65535, 253]] = [1, 0, 255]
    window = cases.some_window(rng, grid.height, grid.width)
    grow = int(rng.choice([0, 0, 1, 5, 100]))
    want, want_status = REFERENCE.classify(tiles, grid, window, table, nodata=nodata, grow=grow)
    got, status = decoding_engine.classify(tiles, grid, window, table, nodata=nodata, grow=grow)
    assert (got.window, got.width, got.height) == (window, grid.width, grid.height)
    np.testing.assert_array_equal(status, want_status)
    np.testing.assert_array_equal(decoding_engine.to_host(got.data), want.data)


@pytest.mark.parametrize(
    ("bits", "order", "predictor"), [(8, "<", 1), (8, "<", 2), (16, "<", 2), (16, ">", 2)]
)
def test_classes_of_every_value(decoding_engine, bits, order, predictor):
    rng = np.random.default_rng(bits)
    grid = TileGrid(width=150, height=40, tile_width=96, tile_height=32)
    layout = TileLayout(codec="deflate", width=96, height=32, bits=bits, predictor=predictor, byteorder=order)
    tiles = [cases.compressed(cases.random_pixels(rng, layout), layout, i) for i in range(4)]
    codes = rng.integers(0, 256, 65536).astype(np.uint8)
    table = MaskTable(codes, np.zeros(256, np.uint16), np.zeros(256, bool))
    for window in ((0, 40, 0, 150), (3, 37, 17, 149), (31, 33, 95, 97), (35, 40, 100, 101)):
        for given in (tiles, tiles[1:]):
            want, _ = REFERENCE.classify(given, grid, window, table, nodata=0)
            got, status = decoding_engine.classify(given, grid, window, table, nodata=0)
            assert not status.any()
            np.testing.assert_array_equal(decoding_engine.to_host(got.data), want.data)


@pytest.mark.parametrize("grow", [1, 5, 24])
def test_nodata_grows_by_whole_squares(engine, grow):
    rng = np.random.default_rng(grow)
    pixels = np.ones((90, 130), np.uint8)
    pixels[rng.integers(0, 90, 6), rng.integers(0, 130, 6)] = 0
    pixels[70:, 100:] = 0
    layout = TileLayout(codec="none", width=130, height=90, bits=8)
    codes = np.full(65536, 3, np.uint8)
    codes[0] = NODATA_CODE
    table = MaskTable(codes, np.zeros(256, np.uint16), np.zeros(256, bool))
    grid = TileGrid(width=130, height=90, tile_width=130, tile_height=90)
    how = {"nodata": 0, "grow": grow}
    for window in ((0, 90, 0, 130), (20, 77, 5, 101)):
        want, _ = REFERENCE.classify([CompressedTile(0, pixels, layout)], grid, window, table, **how)
        got, _ = engine.classify([CompressedTile(0, pixels.tobytes(), layout)], grid, window, table, **how)
        np.testing.assert_array_equal(engine.to_host(got.data), want.data)


def mask_case(rng, engine, kind, rows, cols):
    """A mask on the reference and on an engine, and a map of an output grid onto it."""
    grid = cases.some_grid(rng)
    table = cases.score_table(rng)
    tiles = [t for t in cases.mask_tiles(rng, grid, 8, "u") if t.data is None or len(t.data) > 2]
    window = (
        (0, grid.height, 0, grid.width)
        if rng.random() < 0.5
        else cases.some_window(rng, grid.height, grid.width)
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
    window = cases.some_window(rng, rows, cols)
    shape = window[1] - window[0], window[3] - window[2]
    chunks = ChunkGrid(edges(rng, rows), edges(rng, cols))
    floor = rng.integers(0, 2**31, shape).astype(np.uint32) if seed % 3 == 0 else None
    counts = None if seed % 3 == 0 and seed % 2 else np.zeros(shape, np.uint16)
    want = RankState(window, np.full(shape, NO_KEY, np.uint32), counts, floor)
    got = RankState(
        window,
        engine.empty(shape, np.uint32, NO_KEY),
        None if counts is None else engine.empty(shape, np.uint16, 0),
        None if floor is None else engine.from_host(floor),
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
    positions = AxisMap(cases.steps(3, 1, 1), cases.steps(1, 1, 1))
    low = 1 << 16 | 3
    floor = np.array([[low, 9 << 17 | low, (9 << 17 | low) - 1]], np.uint32)
    state = RankState((0, 1, 0, 3), engine.empty((1, 3), np.uint32, NO_KEY), None, engine.from_host(floor))
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


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["axis", "lattice"])
def test_resampled_codes_stand_for_the_mask(engine, kind, seed):
    rng = np.random.default_rng(seed)
    rows, cols = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    table, positions, ref_mask, mask = mask_case(rng, engine, kind, rows, cols)
    footprint = some_footprint(rng, positions)
    whole = (0, rows, 0, cols)
    want = REFERENCE.resample(ref_mask, positions, whole, footprint=footprint)
    got = engine.resample(mask, positions, whole, footprint=footprint)
    assert got.window == whole
    np.testing.assert_array_equal(engine.to_host(got.data), want.data)
    own = AxisMap(*(np.arange(n, dtype=np.int64) * ONE + HALF for n in (cols, rows)))
    states = [RankState(whole, engine.empty((rows, cols), np.uint32, NO_KEY)) for _ in range(2)]
    engine.rank(states[0], mask, positions, table, 5, footprint=footprint)
    engine.rank(states[1], got, own, table, 5)
    np.testing.assert_array_equal(engine.to_host(states[1].keys), engine.to_host(states[0].keys))


def test_statistics_refuses_a_window_off_the_chunk_edges(engine):
    rng = np.random.default_rng(0)
    table, positions, _, mask = mask_case(rng, engine, "axis", 20, 20)
    chunks = ChunkGrid(np.array([0, 10, 20]), np.array([0, 10, 20]))
    with pytest.raises(ValueError, match="chunk edges"):
        engine.statistics(mask, positions, (0, 10, 0, 15), chunks, table)


def test_loading_from_four_threads(decoding_engine):
    layout = TileLayout(codec="deflate", width=128, height=128, bits=15)
    rng = np.random.default_rng(3)
    pixels = [cases.random_pixels(rng, layout) for _ in range(24)]
    tiles = [cases.compressed(p, layout, i) for i, p in enumerate(pixels)]
    pool = decoding_engine.pool(layout.decoded_bytes, 24)
    with ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(lambda i=i: decoding_engine.load(pool, [i, i + 1], tiles[i : i + 2]).wait())
            for i in range(0, 24, 2)
        ]
        assert not any(job.result().any() for job in jobs)
    for i, expected in enumerate(pixels):
        np.testing.assert_array_equal(slot_of(decoding_engine, pool, i, layout), expected[:, :, 0])
