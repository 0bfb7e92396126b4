"""Rules on band values: rivals, the greatest index, and what is left, against loops over fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from bestpixel_gpu.engines.contract import NO_KEY, NODATA, ValueState

SHAPE = (23, 41)
NAMES = ("keys", "low", "high")


def window_of(engine, host):
    """The array as a window of a larger one on the engine."""
    framed = engine.from_host(np.pad(host, ((1, 2), (3, 1)), constant_values=7))
    return framed[1 : 1 + host.shape[0], 3 : 3 + host.shape[1]]


def some_keys(rng):
    extra, rank = rng.integers(0, 2, SHAPE), rng.integers(0, 5, SHAPE)
    keys = rng.choice([0, 1, 2, 32766], SHAPE) << 17 | extra << 16 | rank
    return np.where(rng.random(SHAPE) < 0.15, NO_KEY, keys).astype(np.uint32)


def some_values(rng):
    """Few different ones, so that indices tie: also doubled values, zeros and the largest."""
    few = np.array([0, 0, 1, 2, 100, 200, 300, 32767, 65533, 65534, NODATA], np.uint16)
    return rng.choice(few, SHAPE)


@pytest.mark.parametrize("shift", [0, 16, 17])
def test_rivals(engine, shift):
    rng = np.random.default_rng(shift)
    keys, own = some_keys(rng), some_keys(rng)
    own = np.where(rng.random(SHAPE) < 0.3, keys, own)
    got = engine.to_host(engine.rivals(window_of(engine, keys), window_of(engine, own), shift))
    want = (own != NO_KEY) & (own >> shift == keys >> shift)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)
    assert want.any()
    assert not want.all()


def order(key, low, high):
    """What observations are sorted by."""
    low, high = int(low), int(high)
    index = Fraction(high - low, high + low) if high + low else Fraction(0)
    return key >> 16, -index, key & 0xFFFF


@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rank_values(engine, floored, seed):
    rng = np.random.default_rng(seed)
    keys = some_keys(rng)
    floor = None
    if floored:
        floor = keys, np.minimum(some_values(rng), 65534), np.minimum(some_values(rng), 65534)
    scenes = {r: (some_values(rng), some_values(rng)) for r in range(6)}
    there = None if floor is None else ValueState(*(window_of(engine, a) for a in floor))
    results = []
    for ranks in (range(6), (3, 0, 5, 1, 4, 2)):  # any order gives the same
        start = np.full(SHAPE, NO_KEY, np.uint32), *(np.full(SHAPE, NODATA, np.uint16) for _ in "lh")
        best = ValueState(*(window_of(engine, a) for a in start))
        for rank in ranks:
            low, high = (window_of(engine, a) for a in scenes[rank])
            engine.rank_values(best, window_of(engine, keys), rank, low, high, there)
        results.append([engine.to_host(getattr(best, n)) for n in NAMES])
    for at in np.ndindex(SHAPE):
        found = []
        for rank, (low, high) in scenes.items():
            if keys[at] == NO_KEY or NODATA in (low[at], high[at]):
                continue
            mine = int(keys[at]) & ~0xFFFF | rank, low[at], high[at]
            if floor is None or order(*mine) > order(*(int(a[at]) for a in floor)):
                found.append(mine)
        want = min(found, key=lambda m: order(*m), default=(NO_KEY, NODATA, NODATA))
        for result in results:
            assert tuple(int(a[at]) for a in result) == tuple(map(int, want))


def test_exhausted(engine):
    rng = np.random.default_rng(3)
    keys = some_keys(rng)
    best = np.where(rng.random(SHAPE) < 0.9, keys, NO_KEY).astype(np.uint32)
    got = engine.exhausted(window_of(engine, keys), window_of(engine, best))
    left = (best == NO_KEY) & (keys != NO_KEY)
    np.testing.assert_array_equal(engine.to_host(got), np.where(left, keys | 0xFFFF, NO_KEY))
    assert left.any()
    assert engine.exhausted(window_of(engine, keys), window_of(engine, keys)) is None
