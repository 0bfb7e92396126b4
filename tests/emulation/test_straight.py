"""Tiles received into pinned memory go to the device from there, and nobody overwrites them before."""

from __future__ import annotations

import gc
import threading
import time

import cases
import numpy as np
import pytest
from emulated_device import EmulatedDevice
from loads import LAYOUTS, SMALL, FakeNvcomp, Work

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import CompressedTile
from bestpixel_gpu.engines.cuda import runs
from bestpixel_gpu.engines.cuda.batches import Batch
from bestpixel_gpu.engines.cuda.engine import CudaEngine
from bestpixel_gpu.engines.cuda.receive import SLAB_BYTES, SPARE_BYTES
from bestpixel_gpu.transfer.buffers import PIECE

LARGE = TileLayout(codec="deflate", width=160, height=128, bits=16)
"""Of noise, which grows: 40 KiB."""


@pytest.fixture
def engine_of():
    """Makes engines; closes them."""
    made = []

    def make(device, *args, **options):
        made.append(CudaEngine(device, *args, **{"gather": 0, **options}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def any_size(monkeypatch):
    """However few bytes there are: they go straight."""
    monkeypatch.setattr(runs, "STRAIGHT_BYTES", 1)


class Copies(EmulatedDevice):
    """Notes the size of each copy to the device."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.sizes = []

    def copy_in(self, target, pinned, stream):
        self.sizes.append(pinned.nbytes)
        super().copy_in(target, pinned, stream)


def receive(engine, tiles, gap=0, first=1):
    """The tiles again, beside each other in one buffer of the engine's."""
    buffer = engine.receive_buffer(first + sum(len(tile.data) + gap for tile in tiles))
    at, moved = first, []
    for tile in tiles:
        end = at + len(tile.data)
        buffer[at:end] = tile.data
        moved.append(CompressedTile(tile.index, buffer[at:end].toreadonly(), tile.layout, tile.inside))
        at = end + gap
    return moved


def stored(work):
    return sum(len(tile.data) for tile in work.tiles)


def copied(engine):
    """Stored bytes that went straight, and those that were gathered."""
    facts = engine.describe()
    return facts["straight_bytes"], facts["gathered_bytes"]


def facts(engine):
    told = engine.describe()
    return told["batches"], told["copies"]


def test_one_copy_takes_what_lies_together_with_what_is_gathered_and_described(engine_of):
    device = Copies()
    engine = engine_of(device)
    work = Work(device, [LARGE] * 7)
    sizes = [len(tile.data) for tile in work.tiles]
    alone = work.tiles[6]
    work.tiles = [*receive(engine, work.tiles[:3], 8), *receive(engine, work.tiles[3:6]), alone]
    work.check(engine.load(work.pool, work.slots, work.tiles))
    assert len(device.sizes) == 1
    assert sum(sizes) + 16 < device.sizes[0] < sum(sizes) + 4096
    assert copied(engine) == (sum(sizes[:6]), sizes[6])
    assert facts(engine) == (1, 1)


def test_what_lies_far_from_each_other_goes_in_copies_of_its_own(engine_of):
    device = Copies()
    engine = engine_of(device)
    work = Work(device, [LARGE] * 6)
    sizes = [len(tile.data) for tile in work.tiles]
    far = runs.BETWEEN_BYTES + PIECE
    first, between = receive(engine, work.tiles[:3], 8), engine.receive_buffer(far)
    work.tiles = [*first, *receive(engine, work.tiles[3:])]
    beyond = engine.receive_buffer(far)
    work.check(engine.load(work.pool, work.slots, work.tiles))
    want = [sum(sizes[:3]) + 16, sum(sizes[3:])]
    assert sorted(device.sizes[:2]) == sorted(want), "before anything is described"
    assert device.sizes[2] < 4096
    assert facts(engine) == (1, 3)
    del between, beyond


def test_bytes_from_anywhere_are_gathered(engine_of):
    device = Copies()
    for options, receives in (({}, False), ({"receive_bytes": 0}, True)):
        engine = engine_of(device, **options)
        work = Work(device, [LARGE] * 3)
        if receives:
            work.tiles = receive(engine, work.tiles)
        work.check(engine.load(work.pool, work.slots, work.tiles))
        assert copied(engine) == (0, stored(work))
        assert facts(engine) == (1, 1)
    assert len(device.sizes) == 2


def test_few_bytes_are_gathered_wherever_they_lie(engine_of):
    device = Copies()
    engine = engine_of(device)
    work = Work(device, [SMALL, LARGE, SMALL])
    far = runs.BETWEEN_BYTES
    work.tiles = receive(engine, work.tiles, far + 1) + receive(engine, work.tiles, far // 2)
    work.tiles, held = work.tiles[3:], work.tiles[:3]
    work.check(engine.load(work.pool, work.slots, work.tiles))
    assert copied(engine) == (0, stored(work)), "near each other, but not 64 KiB of them"
    assert device.sizes[0] < stored(work) + 4096
    del held


@pytest.mark.parametrize("first", [0, 1, 2, 7, 14])
@pytest.mark.parametrize("nvcomp", [False, True])
def test_every_way_from_any_address(engine_of, any_size, nvcomp, first):
    """Samples and nvCOMP's payloads are aligned on the device, whatever they were in their buffer."""
    device = EmulatedDevice(first)
    engine = engine_of(device, FakeNvcomp(lambda n: "bytes" if n % 2 else None) if nvcomp else None)
    raw = [TileLayout(codec="none", width=20, height=9, bits=b) for b in (12, 16, 32)]
    work = Work(device, [*LAYOUTS, *raw] * 2, first)
    for i in (1, 9):
        work.pixels[i][:] = i
        work.tiles[i] = cases.compressed(work.pixels[i], work.layouts[i], i)
    half = len(work.tiles) // 2
    work.tiles = receive(engine, work.tiles[:half], 0, first) + receive(engine, work.tiles[half:], 8, first)
    work.check(engine.load(work.pool, work.slots, work.tiles))
    straight, gathered = copied(engine)
    assert straight >= stored(work), "what nvCOMP got wrong goes again"
    assert not gathered


def test_tiles_that_share_their_bytes(engine_of, any_size):
    device = Copies()
    engine = engine_of(device)
    whole = TileLayout(codec="none", width=32, height=40, bits=8)
    part = TileLayout(codec="none", width=32, height=3, bits=8)
    work = Work(device, [whole, whole, part])
    work.tiles = receive(engine, work.tiles)
    data = work.tiles[0].data
    work.tiles[1], work.pixels[1] = CompressedTile(1, data, whole), work.pixels[0]
    work.tiles[2], work.pixels[2] = CompressedTile(2, data[:96], part), work.pixels[0][:3]
    work.check(engine.load(work.pool, work.slots, work.tiles))
    assert device.sizes[0] == 1280, "what lies in one place goes once"


# ---------------------------------------------------------------- how long a buffer stays


def forget(batch):
    """What a batch would be that does not keep what it copies from."""
    for entry in batch.entries:
        entry.stored = np.zeros(entry.stored.size, np.uint8)
    batch._runs = []


def overwritten(seed, monkeypatch, keeps):
    """Whether the next answer, received while a batch is under way, spoils its tiles."""
    device = EmulatedDevice(seed)
    work = Work(device, [LARGE] * 3, seed)
    size = 1 + stored(work)
    engine = CudaEngine(device, gather=0, receive_bytes=size + 4096)  # there is no room but in its place
    started, go = threading.Event(), threading.Event()
    start, finish = Batch.start, Batch.finish

    def begin(batch, copiers):
        start(batch, copiers)
        if not keeps:
            forget(batch)

    def end(batch):
        started.set()
        go.wait()
        return finish(batch)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "start", begin)
        patch.setattr(Batch, "finish", end)
        ticket = engine.load(work.pool, work.slots, receive(engine, work.tiles))
        assert started.wait(10)
        gc.collect()
        engine.receive_buffer(size)[:] = bytes(size)  # the next answer
        go.set()
        status = ticket.wait()
    assert copied(engine) == (stored(work), 0)
    engine.close()
    return bool(status.any())


def test_a_buffer_is_nobody_elses_until_its_batch_has_ended(monkeypatch):
    assert {overwritten(seed, monkeypatch, keeps=True) for seed in range(12)} == {False}
    assert True in {overwritten(seed, monkeypatch, keeps=False) for seed in range(12)}


def unpinned(seed, monkeypatch, keeps):
    """Whether memory that is given back while a batch is under way spoils its tiles."""
    device = EmulatedDevice(seed)
    work = Work(device, [LARGE] * 3, seed)
    size = -(-(1 + stored(work)) // PIECE) * PIECE
    engine = CudaEngine(device, gather=0, receive_bytes=size)  # a slab with nothing else in it
    start = Batch.start

    def begin(batch, copiers):
        start(batch, copiers)
        if not keeps:
            forget(batch)
        gc.collect()
        engine._receiver.clear()

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "start", begin)
        status = engine.load(work.pool, work.slots, receive(engine, work.tiles)).wait()
    engine.close()
    return bool(status.any())


def test_a_buffer_stays_pinned_until_its_batch_has_ended(monkeypatch):
    assert {unpinned(seed, monkeypatch, keeps=True) for seed in range(6)} == {False}
    assert {unpinned(seed, monkeypatch, keeps=False) for seed in range(6)} == {True}


def test_everything_is_unpinned_in_the_end(engine_of):
    device = EmulatedDevice()
    engine = engine_of(device)
    work = Work(device, [LARGE] * 4)
    work.tiles = receive(engine, work.tiles[:3]) + work.tiles[3:]
    work.check(engine.load(work.pool, work.slots, work.tiles))
    assert device.pinned_bytes == SPARE_BYTES + SLAB_BYTES
    work.tiles = []
    engine.synchronize()
    for _ in range(100):  # the loader's thread lets go of a batch after it has told how it went
        gc.collect()
        engine.release_memory()
        if not (device.memory() and device.pinned_bytes):
            break
        time.sleep(0.01)
    assert device.pinned_bytes == 0
    again = Work(device, [LARGE] * 3)
    again.tiles = receive(engine, again.tiles)
    again.check(engine.load(again.pool, again.slots, again.tiles))
