"""Ranking and the layers on the emulated device, against the slow reference and the CPU engine."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
from guarded_device import GuardedDevice, Windowed

from bestpixel_gpu.engines.contract import NO_KEY, Footprint, MaskTable, RankState, ScoreRaster
from bestpixel_gpu.engines.cpu import keys as cpu
from bestpixel_gpu.engines.cuda import keys
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.tables import Tables
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import AxisMap

ONE = 2**32
REFERENCE = reference.ReferenceEngine()
ENOUGH = (1, 2, 7, 2047, 2048, 3000, 65536)
"""Numbers of scenes: few, as many as a block counts by itself, more, and the most."""


def edges(rng, size):
    inner = rng.choice(np.arange(1, size), min(size - 1, int(rng.integers(0, 4))), replace=False)
    return np.array([0, *sorted(inner), size], np.int64)


@pytest.mark.parametrize("kind", ["axis", "lattice"])
@pytest.mark.parametrize("seed", range(24))
def test_rank(seed, kind):
    rng, device = np.random.default_rng(seed), GuardedDevice(seed)
    rows, cols = (int(n) for n in rng.integers(1, 40, 2))
    if seed % 8 == 0:
        cols += 120
    window = cases.some_window(rng, rows, cols)
    shape = window[1] - window[0], window[3] - window[2]
    chunks = ChunkGrid(edges(rng, rows), edges(rng, cols))
    floor = rng.integers(0, 2**31, shape).astype(np.uint32) if seed % 3 == 0 else None
    counts = None if seed % 6 == 3 else rng.integers(65533, 65536, shape).astype(np.uint16)
    want = RankState(window, np.full(shape, NO_KEY, np.uint32), counts, floor)
    planes = [Windowed(device, rng, np.array(a)) for a in (want.keys, counts, floor) if a is not None]
    rest = [plane.array for plane in planes[1:]]
    got = RankState(window, planes[0].array)
    got.counts = None if counts is None else rest.pop(0)
    got.floor = None if floor is None else rest.pop(0)
    maps, tables = Maps(device), Tables(device)
    grid = cases.some_grid(rng)
    for scene in range(3):
        table = cases.score_table(rng)
        codes = rng.choice([0, 1, 2, 3, 254, 255], (grid.height, grid.width)).astype(np.uint8)
        whole = 0, grid.height, 0, grid.width
        mask = ScoreRaster(whole, grid.width, grid.height, codes)
        there = ScoreRaster(whole, grid.width, grid.height, Windowed(device, rng, codes).array)
        positions = cases.some_map(rng, kind, rows, cols, grid)
        half = rng.integers(1, 2 * ONE, 2)
        footprint = Footprint(int(half[0]), int(half[1])) if rng.random() < 0.5 else None
        barred = None
        if rng.random() < 0.6:
            barred = rng.random((len(chunks.row_edges) - 1, len(chunks.col_edges) - 1)) < 0.4
        low = int(rng.integers(0, 2)) << 16 | scene
        how = {"footprint": footprint, "chunks": chunks, "barred": barred}
        with np.errstate(over="ignore"):
            REFERENCE.rank(want, mask, positions, table, low, **how)
        keys.rank(device, maps, tables, got, there, positions, table, low, footprint, chunks, barred)
        np.testing.assert_array_equal(planes[0].content(), want.keys)
    for plane, content in zip(planes[1:], [a for a in (want.counts, floor) if a is not None], strict=True):
        np.testing.assert_array_equal(plane.content(), content)
    device.check()


def test_only_keys_above_the_floor_compete():
    device = GuardedDevice()
    table = MaskTable(np.full(65536, 254, np.uint8), np.full(256, 65535, np.uint16), np.zeros(256, bool))
    table.scores[:2] = 0, 9
    low = 1 << 16 | 3
    floor = np.array([[low, 9 << 17 | low, (9 << 17 | low) - 1]], np.uint32)
    mask = ScoreRaster((0, 1, 0, 3), 3, 1, device.upload(np.array([[0, 1, 1]], np.uint8)))
    positions = AxisMap(np.arange(3) * ONE + ONE // 2, np.array([ONE // 2]))
    state = RankState((0, 1, 0, 3), device.upload(np.full((1, 3), NO_KEY, np.uint32)))
    state.floor = device.upload(floor)
    keys.rank(device, Maps(device), Tables(device), state, mask, positions, table, low, None, None, None)
    assert device.download(state.keys).tolist() == [[NO_KEY, NO_KEY, 9 << 17 | low]]


@pytest.mark.parametrize("n", [3, 5000])
def test_ranks_beyond_the_scenes_are_counted_nowhere(n):
    device = GuardedDevice(1)
    ranks = np.array([[0, 2, n - 1, n + 1, 60000, 2]])
    found = device.upload((1 << 16 | ranks).astype(np.uint32))
    quality = device.upload(np.zeros(ranks.shape, np.uint16))
    winners = device.upload(np.zeros(ranks.shape, np.int32))
    want = np.bincount([0, 2, n - 1, 2], minlength=n)
    won = keys.settle(device, found, quality, winners, n, None)
    np.testing.assert_array_equal(won, [*want, 0])
    np.testing.assert_array_equal(device.download(winners), ranks)
    chunks = ChunkGrid(np.array([0, 1]), np.array([0, 6]))
    extra = keys.extra_wins(device, Tables(device), found, (0, 1, 0, 6), chunks, n)
    np.testing.assert_array_equal(extra[:, 0, 0], want)
    device.check()


def some_winners(rng, shape, n, dtype=None):
    """Blocks of ranks and single ones strewn in; -1 where there is none."""
    most = min(n, 5)
    names = [*rng.choice(n, most, replace=False), -1, n - 1]
    side = int(rng.choice([1, 5, 30]))
    ranks = np.kron(rng.choice(names, [-(-s // side) for s in shape]), np.ones((side, side), int))[
        : shape[0], : shape[1]
    ]
    return ranks.astype(dtype or (np.int16 if n < 2**15 else np.int32))


def some_keys(rng, shape, n):
    winners = some_winners(rng, shape, n, np.int64)
    scores, extra = rng.integers(0, 32767, shape), rng.integers(0, 2, shape)
    made = scores << 17 | extra << 16 | winners & 0xFFFF
    return np.where(winners < 0, NO_KEY, made).astype(np.uint32)


def some_marks(rng, shape):
    return (rng.random(shape) < rng.choice([0.0, 0.1, 0.9, 1.0])).astype(np.uint8) * np.uint8(
        rng.integers(1, 256)
    )


def some_shape(rng):
    return tuple(int(n) for n in rng.choice([1, 2, 17, 40, 300], 2, p=[0.1, 0.1, 0.4, 0.3, 0.1]))


@pytest.mark.parametrize("n", ENOUGH)
@pytest.mark.parametrize("seed", range(4))
def test_settle(seed, n):
    rng, device = np.random.default_rng([seed, n]), GuardedDevice(seed)
    shape = some_shape(rng)
    host_keys = some_keys(rng, shape, n)
    quality = rng.integers(0, 9, shape).astype(np.uint16)
    winners = some_winners(rng, shape, n)
    marks = some_marks(rng, shape) if seed % 2 else None
    there = [Windowed(device, rng, a) for a in (host_keys, quality, winners)]
    where = None if marks is None else Windowed(device, rng, marks).array
    got = keys.settle(device, *(w.array for w in there), n, where)
    want = cpu.settle(host_keys, quality, winners, n, marks)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int64
    assert got.sum() == (host_keys.size if marks is None else np.count_nonzero(marks))
    for window, content in zip(there, (host_keys, quality, winners), strict=True):
        np.testing.assert_array_equal(window.content(), content)
    device.check()


@pytest.mark.parametrize("n", [1, 7, 2048, 2049, 65536])
@pytest.mark.parametrize("seed", range(4))
def test_extra_wins(seed, n):
    rng, device = np.random.default_rng([seed, n]), GuardedDevice(seed)
    rows, cols = some_shape(rng)
    chunks = ChunkGrid(edges(rng, rows), edges(rng, cols))
    r = sorted(rng.choice(len(chunks.row_edges), 2, replace=False))
    c = sorted(rng.choice(len(chunks.col_edges), 2, replace=False))
    window = tuple(int(e) for e in (*chunks.row_edges[r], *chunks.col_edges[c]))
    host_keys = some_keys(rng, (window[1] - window[0], window[3] - window[2]), n)
    there = Windowed(device, rng, host_keys)
    got = keys.extra_wins(device, Tables(device), there.array, window, chunks, n)
    np.testing.assert_array_equal(got, cpu.extra_wins(host_keys, window, chunks, n))
    np.testing.assert_array_equal(there.content(), host_keys)
    assert got.dtype == np.int64
    device.check()


@pytest.mark.parametrize("seed", range(16))
def test_failed_pixels_and_their_repair(seed):
    rng, device = np.random.default_rng(seed), GuardedDevice(seed)
    shape, n = some_shape(rng), int(rng.choice([3, 2100, 40000]))
    winners = some_winners(rng, shape, n)
    bands = [rng.integers(0, 60000, shape).astype(np.uint16) for _ in range(1 + seed % 3)]
    share = rng.choice([0.0, 0.002, 0.3])
    for band in bands:
        band[rng.random(shape) < share] = 65535
    there, ranks = [Windowed(device, rng, band) for band in bands], Windowed(device, rng, winners)
    arrays = [w.array for w in there]
    got, want = keys.failed(device, arrays, ranks.array), cpu.failed(bands, winners)
    assert (got is None) == (want is None)
    if got is None:
        return
    box, marks = got
    assert box == want[0]
    assert all(type(edge) is int for edge in box)
    np.testing.assert_array_equal(device.download(marks), want[1])

    part = slice(box[0], box[1]), slice(box[2], box[3])
    selected = rng.random(n) < 0.5
    quality = rng.integers(0, 32767, shape).astype(np.uint16)
    scores = Windowed(device, rng, quality)
    made = keys.keys_of(device, scores.array[part], ranks.array[part], selected, marks)
    again = cpu.keys_of(quality[part], winners[part], selected, want[1])
    np.testing.assert_array_equal(device.download(made), again)

    alone = keys.only(device, ranks.array[part], marks)
    assert alone.dtype == winners.dtype
    np.testing.assert_array_equal(device.download(alone), cpu.only(winners[part], want[1]))

    more = some_marks(rng, want[1].shape)  # also where nobody won
    lost = keys.reopen(
        device, [a[part] for a in arrays], ranks.array[part], Windowed(device, rng, more).array, n
    )
    np.testing.assert_array_equal(lost, cpu.reopen([b[part] for b in bands], winners[part], more, n))
    for window, content in zip([*there, ranks, scores], [*bands, winners, quality], strict=True):
        np.testing.assert_array_equal(window.content(), content)
    device.check()


def test_windows_without_pixels():
    device = GuardedDevice()
    none = [np.empty((0, 7), dtype) for dtype in (np.uint32, np.uint16, np.int16, np.uint8)]
    empty, quality, winners, marks = (device.upload(a) for a in none)
    assert keys.settle(device, empty, quality, winners, 3, None).tolist() == [0, 0, 0, 0]
    assert keys.failed(device, [quality], winners) is None
    assert keys.reopen(device, [quality], winners, marks, 2).tolist() == [0, 0, 0]
    assert keys.only(device, winners, marks).shape == (0, 7)
    device.check()


def test_rows_that_are_not_contiguous_are_refused():
    device = GuardedDevice()
    wide = device.upload(np.zeros((4, 8), np.uint32))
    with pytest.raises(ValueError, match="contiguous"):
        keys.settle(device, wide[:, ::2], None, None, 1, None)
