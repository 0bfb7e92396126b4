"""Score codes on the emulated device: classified, grown, resampled and counted as the slow reference does."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
from emulated_device import host
from guarded_device import GuardedDevice, Windowed

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import Footprint, MaskTable, ScoreRaster, TileGrid
from bestpixel_gpu.engines.cuda import masks, tiles
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.tables import Tables
from bestpixel_gpu.errors import FormatError
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import AxisMap, LatticeMap

ONE = 2**32
REFERENCE = reference.ReferenceEngine()


def decoded(device, given):
    """What inflate and unpack leave of mask tiles, without those that do not decode; and their memory."""
    made, kept = [], []
    for tile in given:
        if tile.data is None:
            made.append(masks.DecodedTile(tile.index, tile.layout, None))
        elif (samples := reference.decode(tile.data, tile.layout)) is not None:
            kept.append(device.upload(samples))
            made.append(masks.DecodedTile(tile.index, tile.layout, device.address(kept[-1])))
    return made, kept


@pytest.mark.parametrize("seed", range(25))
def test_classify(seed):
    rng, device = np.random.default_rng(seed), GuardedDevice(seed)
    grid = cases.some_grid(rng)
    bits, kind, nodata = [(8, "u", 0), (16, "u", 300), (16, "i", -1), (8, "i", -3), (4, "u", 3)][seed % 5]
    given = cases.mask_tiles(rng, grid, bits, kind)
    table = cases.score_table(rng)
    table.codes[[300, 65535, 253]] = [1, 0, 255]
    window = cases.some_window(rng, grid.height, grid.width)
    grow = int(rng.choice([0, 0, 1, 5, 100]))
    want, _ = REFERENCE.classify(given, grid, window, table, nodata=nodata, grow=grow)
    made, _kept = decoded(device, given)
    got = masks.classify(device, Tables(device), made, grid, window, table, nodata, grow)
    assert (got.window, got.width, got.height) == (window, grid.width, grid.height)
    np.testing.assert_array_equal(device.download(got.data), want.data)
    device.check()


def test_unpacked_where_they_were_inflated_and_classified():
    rng, device = np.random.default_rng(5), GuardedDevice(5)
    grid = TileGrid(width=40, height=20, tile_width=32, tile_height=16)
    layout = TileLayout(codec="none", width=32, height=16, bits=8, predictor=2)
    table = cases.score_table(rng)
    given = [cases.compressed(cases.random_pixels(rng, layout) % 16, layout, i) for i in range(4)]
    want, _ = REFERENCE.classify(given, grid, (0, 20, 0, 40), table, nodata=0)
    scratch = device.upload(np.frombuffer(b"".join(tile.data for tile in given), np.uint8))
    places = [device.address(scratch) + 512 * i for i in range(4)]
    described = [tiles.describe(layout, place, place) for place in places]
    tiles.undo(device, device.upload(np.array(described, np.int64)), 4, 16)
    made = [masks.DecodedTile(i, layout, place) for i, place in enumerate(places)]
    got = masks.classify(device, Tables(device), made, grid, (0, 20, 0, 40), table, 0, 0)
    np.testing.assert_array_equal(device.download(got.data), want.data)
    device.check()


def test_a_window_without_tiles_holds_nothing():
    device = GuardedDevice()
    grid = TileGrid(width=40, height=20, tile_width=32, tile_height=16)
    table = cases.score_table(np.random.default_rng(0))
    got = masks.classify(device, Tables(device), [], grid, (3, 9, 2, 40), table, 0, 5)
    assert (device.download(got.data) == 255).all()


@pytest.mark.parametrize(("bits", "kind"), [(32, "u"), (32, "f")])
def test_masks_without_a_class_table(bits, kind):
    device = GuardedDevice()
    grid = TileGrid(width=4, height=4, tile_width=4, tile_height=4)
    table = cases.score_table(np.random.default_rng(0))
    tile = masks.DecodedTile(0, TileLayout(codec="none", width=4, height=4, bits=bits, kind=kind), None)
    with pytest.raises(FormatError, match="32-bit"):
        masks.classify(device, Tables(device), [tile], grid, (0, 4, 0, 4), table, 0, 0)


def mask_case(rng, device, kind, rows, cols):
    """A part of a mask on the host and on the device, its table, and a map of an output onto it."""
    grid = cases.some_grid(rng)
    table = cases.score_table(rng)
    window = cases.some_window(rng, grid.height, grid.width)
    if rng.random() < 0.5:
        window = 0, grid.height, 0, grid.width
    shape = window[1] - window[0], window[3] - window[2]
    codes = rng.choice([0, 1, 2, 3, 254, 255], shape).astype(np.uint8)
    want = ScoreRaster(window, grid.width, grid.height, codes)
    got = ScoreRaster(window, grid.width, grid.height, Windowed(device, rng, codes).array)
    return table, cases.some_map(rng, kind, rows, cols, grid), want, got


def some_footprint(rng):
    half = [(0, 0), (ONE // 10, ONE // 4), (ONE // 2, ONE // 2), tuple(rng.integers(1, 3 * ONE, 2))]
    choice = int(rng.integers(-1, 4))
    return None if choice < 0 else Footprint(*(int(h) for h in half[choice]))


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(20))
def test_resample(seed, kind):
    rng, device = np.random.default_rng(seed), GuardedDevice(seed)
    rows, cols = (int(n) for n in rng.integers(1, 30, 2))
    _, positions, mask, there = mask_case(rng, device, kind, rows, cols)
    footprint, window = some_footprint(rng), cases.some_window(rng, rows, cols)
    want = REFERENCE.resample(mask, positions, window, footprint=footprint)
    got = masks.resample(device, Maps(device), there, positions, window, footprint)
    assert (got.window, got.width, got.height) == (window, want.width, want.height)
    np.testing.assert_array_equal(device.download(got.data), want.data)
    device.check()


def edges(rng, size):
    inner = rng.choice(np.arange(1, size), min(size - 1, int(rng.integers(0, 4))), replace=False)
    return np.array([0, *sorted(inner), size], np.int64)


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(8))
def test_statistics(seed, kind):
    rng, device = np.random.default_rng(seed), GuardedDevice(seed)
    rows, cols = (45, 150) if seed % 4 == 0 else (int(n) for n in rng.integers(1, 40, 2))
    chunks = ChunkGrid(edges(rng, rows), edges(rng, cols))
    r = sorted(rng.choice(len(chunks.row_edges), 2, replace=False))
    c = sorted(rng.choice(len(chunks.col_edges), 2, replace=False))
    window = tuple(int(e) for e in (*chunks.row_edges[r], *chunks.col_edges[c]))
    table, positions, mask, there = mask_case(rng, device, kind, rows, cols)
    footprint = some_footprint(rng)
    maps, tables = Maps(device), Tables(device)
    for cells in (False, True):
        want = REFERENCE.statistics(mask, positions, window, chunks, table, footprint=footprint, cells=cells)
        got = masks.statistics(
            device, maps, tables, there, positions, window, chunks, table, footprint, cells
        )
        for name in ("clear", "valid", "clear_cells", "valid_cells"):
            a, b = getattr(got, name), getattr(want, name)
            assert (a is None) == (b is None) == (not cells and name.endswith("cells"))
            if a is not None:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    device.check()


def test_statistics_of_a_window_off_the_chunk_edges():
    device = GuardedDevice()
    rng = np.random.default_rng(0)
    table, positions, _, mask = mask_case(rng, device, "axis", 20, 20)
    chunks = ChunkGrid(np.array([0, 10, 20]), np.array([0, 10, 20]))
    for window in ((0, 10, 0, 15), (0, 10, 5, 10), (0, 21, 0, 10), (10, 10, 0, 10)):
        with pytest.raises(ValueError, match="chunk edges"):
            masks.statistics(
                device, Maps(device), Tables(device), mask, positions, window, chunks, table, None, False
            )


def test_tables_are_uploaded_once():
    device = GuardedDevice()
    tables, table = Tables(device), cases.score_table(np.random.default_rng(0))
    assert tables.of(table) is tables.of(table)
    twin = MaskTable(table.codes, table.scores, table.clear)
    assert tables.of(twin) is not tables.of(table)
    chunks = ChunkGrid(np.array([0, 2, 5]), np.array([0, 3]))
    device.synchronize()
    there = tables.chunks(chunks)
    device.synchronize()
    assert host(there.of_row).tolist() == [0, 0, 1, 1, 1]
    assert host(there.of_col).tolist() == [0, 0, 0]
    first = tables.of(table)
    tables.clear()
    assert tables.of(table) is not first


def test_lattice_whose_output_starts_inside_a_cell():
    """Negative positions, and a footprint wider than the mask."""
    device = GuardedDevice(9)
    x, y = np.meshgrid(np.arange(-3, 3) * 4 * ONE, np.arange(-3, 3) * 4 * ONE)
    positions = LatticeMap(x.astype(np.int64), y.astype(np.int64), 2, 3, 1)
    codes = np.arange(35, dtype=np.uint8).reshape(5, 7)
    mask = ScoreRaster((0, 5, 0, 7), 7, 5, codes)
    there = ScoreRaster((0, 5, 0, 7), 7, 5, device.upload(codes))
    for footprint in (None, Footprint(20 * ONE, 20 * ONE)):
        want = REFERENCE.resample(mask, positions, (0, 17, 0, 19), footprint=footprint)
        got = masks.resample(device, Maps(device), there, positions, (0, 17, 0, 19), footprint)
        np.testing.assert_array_equal(device.download(got.data), want.data)
        assert (want.data != 255).any()
        assert (want.data == 255).any()


def test_an_axis_map_far_outside():
    device = GuardedDevice()
    positions = AxisMap(np.array([-(2**62), -1, 0, 2**51]), np.array([0, 2**62]))
    codes = np.zeros((1, 1), np.uint8)
    there = ScoreRaster((0, 1, 0, 1), 1, 1, device.upload(codes))
    for footprint in (None, Footprint(ONE // 2, ONE // 2), Footprint(0, 0)):
        got = masks.resample(device, Maps(device), there, positions, (0, 2, 0, 4), footprint)
        assert device.download(got.data).tolist() == [[255, 255, 0, 255], [255] * 4]
