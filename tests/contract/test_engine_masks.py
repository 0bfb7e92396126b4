"""Masks where engines take short cuts: equal pixels, wide boxes, tall chunks, codes that are scores."""

from __future__ import annotations

import numpy as np
import pytest
from reference import ReferenceEngine

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import (
    NO_KEY,
    CompressedTile,
    Footprint,
    MaskTable,
    RankState,
    TapGeometry,
    TileGrid,
)
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import AxisMap

ONE = 2**32
REFERENCE = ReferenceEngine()


def table_of(scores, clear):
    """Class = code for the usable ones, 6 unusable, 7 nodata."""
    codes = np.full(65536, 254, np.uint8)
    codes[: len(scores)] = np.arange(len(scores))
    codes[7] = 255
    by_code, is_clear = np.full(256, 65535, np.uint16), np.zeros(256, bool)
    by_code[: len(scores)] = scores
    is_clear[list(clear)] = True
    return MaskTable(codes, by_code, is_clear)


AS_CODES = table_of([0, 1, 2], [0])
SCATTERED = table_of([3, 3, 5, 40, 41, 42], [0, 2, 3, 5])


def masks(engine, classes, table, window=None):
    """A mask of given classes on the reference and on an engine."""
    height, width = classes.shape
    layout = TileLayout(codec="none", width=width, height=height, bits=8)
    grid = TileGrid(width=width, height=height, tile_width=width, tile_height=height)
    tiles = [CompressedTile(0, classes.astype(np.uint8).tobytes(), layout)]
    window = window or (0, height, 0, width)
    return [e.classify(tiles, grid, window, table, nodata=7)[0] for e in (REFERENCE, engine)]


def on_grid(rows, cols, step=1.0, row=0.0, col=0.0):
    """Positions of pixels `step` mask pixels apart, the first one's corner at (row, col)."""
    axes = [(np.arange(n) + 0.5) * step + at for n, at in ((cols, col), (rows, row))]
    return AxisMap(*(np.rint(a * ONE).astype(np.int64) for a in axes))


@pytest.mark.parametrize("step", [1.0, 1.3, 2.0, 3.0, 3.5, 4.0, 5.2, 8.0, 9.7, 17.0])
@pytest.mark.parametrize("at", [0.0, -2.5, 1.25])
def test_worst_of_boxes_of_any_width(engine, step, at):
    rng = np.random.default_rng(int(step * 10))
    classes = np.where(rng.random((60, 90)) < 0.9, 0, rng.integers(0, 8, (60, 90)))
    rows, cols = int(60 / step) + 3, int(90 / step) + 3
    positions = on_grid(rows, cols, step, at, at)
    footprint = Footprint(round(step * ONE / 2), round(step * ONE / 2))
    for window in (None, (4, 55, 3, 88)):
        want, got = masks(engine, classes, AS_CODES, window)
        for part in ((0, rows, 0, cols), (1, rows - 1, 2, cols - 1)):
            expected = REFERENCE.resample(want, positions, part, footprint=footprint)
            found = engine.resample(got, positions, part, footprint=footprint)
            np.testing.assert_array_equal(engine.to_host(found.data), expected.data)


@pytest.mark.parametrize("table", [AS_CODES, SCATTERED])
@pytest.mark.parametrize("col", [0, 3, -1, 40])
def test_equal_pixels_are_ranked_and_counted_alike(engine, table, col):
    rng = np.random.default_rng(col + 9)
    rows, cols = 37, 61
    positions = on_grid(rows, cols, 1.0, 2, col)
    chunks = ChunkGrid(np.array([0, 5, 20, rows]), np.array([0, 31, cols]))
    barred = np.array([[0, 1], [1, 0], [0, 0]], bool)
    window = (3, 36, 1, 58)
    shape = window[1] - window[0], window[3] - window[2]
    for how in ({}, {"chunks": chunks, "barred": barred}):
        want = RankState(window, np.full(shape, NO_KEY, np.uint32), np.zeros(shape, np.uint16))
        got = RankState(window, engine.empty(shape, np.uint32, NO_KEY), engine.empty(shape, np.uint16, 0))
        for rank in range(3):
            own, same = masks(engine, rng.integers(0, 8, (60, 80)), table)
            REFERENCE.rank(want, own, positions, table, rank, **how)
            engine.rank(got, same, positions, table, rank, **how)
        np.testing.assert_array_equal(engine.to_host(got.keys), want.keys)
        np.testing.assert_array_equal(engine.to_host(got.counts), want.counts)
    assert (want.keys == NO_KEY).any()
    assert (want.keys != NO_KEY).any()


@pytest.mark.parametrize("usable", [15, 16, 255])
def test_classes_beyond_the_first_ones(engine, usable):
    table = table_of([0, 1, 2], [0])
    table.codes[usable] = 2
    want, got = masks(engine, np.arange(7 * 41).reshape(7, 41), table, (0, 7, 1, 40))
    assert (want.data == 2).any()
    np.testing.assert_array_equal(engine.to_host(got.data), want.data)


@pytest.mark.parametrize("table", [AS_CODES, SCATTERED])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_tall_chunks(engine, table, step):
    rows, cols = 600, 24
    classes = np.random.default_rng(5).integers(0, 8, (620, 30))
    classes[:, :4] = 0  # columns that count in every row
    want, got = masks(engine, classes, table)
    chunks = ChunkGrid(np.array([0, 520, rows]), np.array([0, 13, cols]))
    positions, whole = on_grid(rows, cols, step), (0, rows, 0, cols)
    expected = REFERENCE.statistics(want, positions, whole, chunks, table, cells=True)
    for cells in (False, True):
        found = engine.statistics(got, positions, whole, chunks, table, cells=cells)
        np.testing.assert_array_equal(found.clear, expected.clear)
        np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.clear_cells, expected.clear_cells)
    np.testing.assert_array_equal(found.valid_cells, expected.valid_cells)


@pytest.mark.parametrize("step", [0.4, 1.0, 7.5, 40.0])
@pytest.mark.parametrize("bilinear", [False, True])
def test_owners_of_long_runs(engine, step, bilinear):
    size = 700
    grid = TileGrid(width=size, height=size, tile_width=16, tile_height=16)
    rows, cols = 6, min(int(size / step) + 4, 300)
    positions = on_grid(rows, cols, step, 30.0, -step)
    winners = np.repeat(np.array([[0, 1, -1, 0, 0, 1]], np.int16).T, cols, axis=1)
    winners[3, ::7] = 1
    geometries = {r: TapGeometry(grid=grid, positions=positions, bilinear=bilinear, margin=r) for r in (0, 1)}
    window = (0, rows, 0, cols)
    want = REFERENCE.owners(window, winners, geometries)
    got = engine.owners(window, engine.from_host(winners), geometries)
    for rank in geometries:
        np.testing.assert_array_equal(got[rank], want[rank])
        assert len(want[rank])
