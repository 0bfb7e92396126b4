"""Sums over scenes by the kernel, against sums of what the slow reference paints."""

from __future__ import annotations

import numpy as np
import pytest
from sampling import REFERENCE, SampleCase

from bestpixel_gpu.engines.contract import NODATA, Sums, TileGrid
from bestpixel_gpu.engines.cuda.spread import spread


def new_sums(device, rows: int, cols: int) -> Sums:
    """Sums of nothing."""
    made = [device.empty((rows, cols), dtype) for dtype in (np.uint32, np.uint64, np.uint64)]
    for array in made:
        device.fill(array, 0)
    return Sums(*made)


def painted(case: SampleCase, rank: int) -> np.ndarray:
    """What the reference paints of one scene, as far as it is valid, and where."""
    out = np.empty(case.shape, np.uint16)
    REFERENCE.paint(out, case.window, np.zeros(case.shape, np.int16), {0: case.want[rank]})
    return out


def check(case: SampleCase) -> None:
    rng, device = case.rng, case.engine.device
    before = [rng.integers(0, 99, case.shape).astype(t) for t in (np.uint32, np.uint64, np.uint64)]
    around = np.random.default_rng(1).integers(0, 4, 4)
    whole, windows = [], []
    for array in before:  # the three have one pitch
        padded = np.pad(array, around.reshape(2, 2), constant_values=77)
        whole.append(device.upload(padded))
        rows, cols = (slice(a, a + n) for a, n in zip(around[::2], case.shape, strict=True))
        windows.append(whole[-1][rows, cols])
    marks = {}
    want = [array.copy() for array in before]
    for rank in case.got:
        values = painted(case, rank)
        usable = values != NODATA
        if rng.random() < 0.7:
            marks[rank] = rng.choice([0, 0, 1, 255], case.shape).astype(np.uint8)
            usable &= marks[rank] != 0
        value = np.where(usable, values, 0).astype(np.uint64)
        for so_far, term in zip(want, (usable, value, value * value), strict=True):
            np.add(so_far, term.astype(so_far.dtype), out=so_far)
    there = {rank: case.windowed(c) for rank, c in marks.items()}
    arrays = {rank: w.array for rank, w in there.items()}
    spread(device, case.engine.maps, Sums(*windows), case.window, case.got, arrays or None)
    for array, sums in zip(whole, want, strict=True):
        padded = np.pad(sums, around.reshape(2, 2), constant_values=77)
        np.testing.assert_array_equal(device.download(array), padded)
    device.check()


@pytest.mark.parametrize("kind", ["axis", "lattice", "mixed"])
@pytest.mark.parametrize("seed", range(20))
def test_random_sources(kind, seed):
    rng = np.random.default_rng(seed)
    check(SampleCase(300 + seed, kind, int(rng.integers(1, 20)), int(rng.integers(1, 40))))


@pytest.mark.parametrize("kind", ["axis", "lattice"])
def test_several_blocks(kind):
    check(SampleCase(5, kind, 3, 270, TileGrid(width=300, height=9, tile_width=64, tile_height=4)))


def test_scenes_in_any_order_and_apart():
    case = SampleCase(10, "axis", 12, 20, TileGrid(width=30, height=20, tile_width=16, tile_height=16))
    device, maps = case.engine.device, case.engine.maps
    results = []
    for groups in ([[*case.got]], [[rank] for rank in reversed(case.got)]):
        sums = new_sums(device, *case.shape)
        for ranks in groups:
            spread(device, maps, sums, case.window, {rank: case.got[rank] for rank in ranks})
        results.append([device.download(a).tobytes() for a in (sums.count, sums.total, sums.squares)])
    assert results[0] == results[1]
    assert any(results[0][0])


def test_what_does_not_fit_is_refused():
    case = SampleCase(1, "axis", 6, 8, TileGrid(width=8, height=8, tile_width=8, tile_height=8))
    device, maps = case.engine.device, case.engine.maps
    sums = new_sums(device, 6, 8)
    with pytest.raises(ValueError, match="marks of rank 0 of"):
        spread(device, maps, sums, case.window, case.got, {0: device.empty((6, 7), np.uint8)})
    low = Sums(sums.count, device.empty((5, 8), np.uint64), sums.squares)
    with pytest.raises(ValueError, match="total of"):
        spread(device, maps, low, case.window, case.got)
    wide = Sums(sums.count, device.empty((6, 9), np.uint64)[:, :8], sums.squares)
    with pytest.raises(ValueError, match="different pitches"):
        spread(device, maps, wide, case.window, case.got)
