"""Keys into layers and back: every engine does what these few lines of NumPy say."""

from __future__ import annotations

import numpy as np
import pytest

from bestpixel_gpu.engines.contract import NO_KEY, NO_SCORE, NODATA, NOT_SELECTED, SCORE_SHIFT
from bestpixel_gpu.geo.grid import ChunkGrid

SHAPE = (37, 53)


def window_of(engine, host):
    """The array as a window of a larger one on the engine, and the larger one."""
    rows, cols = host.shape
    framed = np.full((rows + 3, cols + 5), 7, host.dtype)
    framed[2 : 2 + rows, 1 : 1 + cols] = host
    whole = engine.from_host(framed)
    return whole[2 : 2 + rows, 1 : 1 + cols], whole


def assert_frame(engine, whole, rows, cols):
    frame = engine.to_host(whole).copy()
    frame[2 : 2 + rows, 1 : 1 + cols] = 7
    assert (frame == 7).all(), "written outside of the window"


def random_keys(seed, n, shape=SHAPE):
    rng = np.random.default_rng(seed)
    score = rng.choice([0, 0, 1, 2, 32766], shape)
    rank = np.minimum(rng.geometric(0.3, shape) - 1, n - 1) if n < 100 else rng.integers(0, n, shape)
    keys = score << SCORE_SHIFT | rng.integers(0, 2, shape) * NOT_SELECTED | rank
    return np.where(rng.random(shape) < 0.2, NO_KEY, keys).astype(np.uint32)


def decoded(keys):
    none = keys == NO_KEY
    return np.where(none, NO_SCORE, keys >> SCORE_SHIFT), np.where(none, -1, (keys & 0xFFFF).astype(np.int64))


def counted(winners, n):
    return np.array([(winners == r).sum() for r in [*range(n), -1]])


@pytest.mark.parametrize(("n", "dtype"), [(1, "i2"), (5, "i2"), (300, "i2"), (65536, "i4")])
@pytest.mark.parametrize("marked", [False, True])
def test_settle(engine, n, dtype, marked):
    keys = random_keys(n, n)
    where = np.random.default_rng(1).integers(0, 2, SHAPE).astype(np.uint8) if marked else None
    quality, q_whole = window_of(engine, np.full(SHAPE, 7, np.uint16))
    winners, w_whole = window_of(engine, np.full(SHAPE, 7, dtype))
    marks = None if where is None else window_of(engine, where)[0]
    counts = engine.settle(window_of(engine, keys)[0], quality, winners, n, marks)
    want_quality, want_winners = decoded(keys)
    done = np.ones(SHAPE, bool) if where is None else where != 0
    np.testing.assert_array_equal(engine.to_host(quality), np.where(done, want_quality, 7))
    np.testing.assert_array_equal(engine.to_host(winners), np.where(done, want_winners, 7))
    assert counts.dtype == np.int64
    hits = np.bincount(np.where(want_winners < 0, n, want_winners)[done], minlength=n + 1)
    np.testing.assert_array_equal(counts, hits)
    assert_frame(engine, q_whole, *SHAPE)
    assert_frame(engine, w_whole, *SHAPE)


@pytest.mark.parametrize("dtype", ["i2", "i4"])
def test_settle_counts_runs_of_any_length(engine, dtype):
    rng = np.random.default_rng(8)
    ends = [rng.choice(331, n, replace=False) for n in (0, 1, 1, 2, 3, 5, 9, 40)]
    keys = np.array([random_keys(9, 4, 331)[np.isin(np.arange(331), e).cumsum()] for e in ends])
    quality, winners = engine.empty(keys.shape, np.uint16), engine.empty(keys.shape, dtype)
    counts = engine.settle(engine.from_host(keys), quality, winners, 4)
    want_quality, want_winners = decoded(keys)
    np.testing.assert_array_equal(engine.to_host(quality), want_quality)
    np.testing.assert_array_equal(engine.to_host(winners), want_winners)
    np.testing.assert_array_equal(counts, counted(want_winners, 4))


def test_settle_tells_every_marked_value_but_zero(engine):
    keys = random_keys(3, 4)
    where = np.random.default_rng(2).choice([0, 1, 2, 255], SHAPE).astype(np.uint8)
    quality, winners = engine.empty(SHAPE, np.uint16, 1), engine.empty(SHAPE, np.int16, 2)
    engine.settle(engine.from_host(keys), quality, winners, 4, engine.from_host(where))
    assert ((engine.to_host(quality) == 1) == ((where == 0) | (decoded(keys)[0] == 1))).all()


@pytest.mark.parametrize("n", [1, 6, 700])
def test_extra_wins(engine, n):
    chunks = ChunkGrid(np.array([0, 10, 20, 47, 60]), np.array([0, 30, 53]))
    keys = random_keys(n + 9, n)
    got = engine.extra_wins(window_of(engine, keys)[0], (10, 47, 0, 53), chunks, n)
    extra = (keys & NOT_SELECTED != 0) & (keys != NO_KEY)
    want = np.zeros((n, 2, 2), np.int64)
    for i, rows in enumerate((slice(0, 10), slice(10, 37))):
        for j, cols in enumerate((slice(0, 30), slice(30, 53))):
            hit = extra[rows, cols]
            want[:, i, j] = np.bincount(keys[rows, cols][hit] & 0xFFFF, minlength=n)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["i2", "i4"])
def test_failed(engine, dtype):
    rng = np.random.default_rng(5)
    winners = rng.integers(-1, 3, SHAPE).astype(dtype)
    bands = [np.full(SHAPE, 100, np.uint16) for _ in range(3)]
    windows = [window_of(engine, b)[0] for b in bands]
    assert engine.failed(windows, window_of(engine, winners)[0]) is None
    for band, at in zip(bands, [(5, 7), (5, 7), (30, 2)], strict=True):
        winners[at] = 1
        band[at] = NODATA
    winners[20, 50], bands[0][20, 50] = -1, NODATA  # never had a winner: not failed
    box, marks = engine.failed([window_of(engine, b)[0] for b in bands], window_of(engine, winners)[0])
    assert box == (5, 31, 2, 8)
    want = np.zeros((26, 6), np.uint8)
    want[0, 5] = want[25, 0] = 1
    np.testing.assert_array_equal(engine.to_host(marks), want)


def test_keys_come_back_from_the_layers(engine):
    n = 5
    selected = np.array([True, False, True, True, False])
    keys = random_keys(11, n)
    rank = keys & 0xFFFF
    keys = np.where(
        keys == NO_KEY, keys, keys & ~np.uint32(NOT_SELECTED) | (~selected[rank % n] * NOT_SELECTED)
    )
    keys = keys.astype(np.uint32)
    quality, winners = decoded(keys)
    where = np.random.default_rng(4).integers(0, 2, SHAPE).astype(np.uint8)
    got = engine.keys_of(
        window_of(engine, quality.astype(np.uint16))[0],
        window_of(engine, winners.astype(np.int16))[0],
        selected,
        engine.from_host(where),
    )
    np.testing.assert_array_equal(engine.to_host(got), np.where(where != 0, keys, NO_KEY))


def test_reopen_and_only(engine):
    rng = np.random.default_rng(6)
    n = 4
    winners = rng.integers(-1, n, SHAPE).astype(np.int16)
    where = rng.integers(0, 2, SHAPE).astype(np.uint8)
    bands = [rng.integers(0, 9000, SHAPE).astype(np.uint16) for _ in range(2)]
    made = [window_of(engine, b) for b in bands]
    marks, window = engine.from_host(where), window_of(engine, winners)[0]
    counts = engine.reopen([w for w, _ in made], window, marks, n)
    np.testing.assert_array_equal(counts, counted(winners[where != 0], n))
    for (got, whole), band in zip(made, bands, strict=True):
        np.testing.assert_array_equal(engine.to_host(got), np.where(where != 0, NODATA, band))
        assert_frame(engine, whole, *SHAPE)
    again = engine.to_host(engine.only(window, marks))
    assert again.dtype == np.int16
    np.testing.assert_array_equal(again, np.where(where != 0, winners, -1))


def test_fill_sets_a_window_only(engine):
    window, whole = window_of(engine, np.zeros(SHAPE, np.uint32))
    engine.fill(window, NO_KEY)
    assert (engine.to_host(window) == NO_KEY).all()
    assert_frame(engine, whole, *SHAPE)
