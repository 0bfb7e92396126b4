"""Pinned memory for bodies: reused, bounded, given back, and ordinary where there is none."""

from __future__ import annotations

import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from emulated_device import EmulatedDevice

from bestpixel_gpu.engines.cuda.batches import Lane
from bestpixel_gpu.engines.cuda.engine import CudaEngine
from bestpixel_gpu.engines.cuda.receive import SLAB_BYTES, SPARE_BYTES, Receiver, slab_of
from bestpixel_gpu.errors import DeviceError
from bestpixel_gpu.transfer.buffers import PIECE

MIB = 1 << 20


def cut(buffer):
    """An array over a part of a buffer, however that was cut."""
    return np.frombuffer(buffer[3:].toreadonly()[2:], np.uint8)


def pinned(buffer):
    """Whether a part of a buffer is known to be pinned."""
    return slab_of(cut(buffer)) is not None


def address(buffer):
    return np.frombuffer(buffer, np.uint8).ctypes.data


def test_what_is_received_together_lies_together():
    device = EmulatedDevice()
    receiver = Receiver(device, 64 * MIB)
    assert device.pinned_bytes == 0, "nothing is pinned before it is asked for"
    sizes = [MIB, 100, 65_537, 1, 300_000]
    held = [receiver.take(size) for size in sizes]
    assert [len(buffer) for buffer in held] == sizes
    assert len({id(slab_of(cut(buffer))) for buffer in held if len(buffer) > 5}) == 1
    starts = [address(buffer) for buffer in held]
    gaps = np.diff(starts) - sizes[:-1]
    assert (gaps >= 0).all()
    assert (gaps < PIECE).all()
    assert not any(start % PIECE for start in starts)
    assert device.pinned_bytes == SPARE_BYTES + SLAB_BYTES


def test_a_piece_is_used_again_when_its_last_view_is_gone():
    device = EmulatedDevice()
    receiver = Receiver(device, 2 * MIB)
    first, other = receiver.take(MIB), receiver.take(MIB)
    start = address(first)
    part = cut(first)[:900]
    del first
    gc.collect()
    assert not pinned(receiver.take(MIB)), "a view of it is left"
    del part
    gc.collect()
    again = receiver.take(MIB - 1)
    assert address(again) == start
    assert pinned(other)
    assert device.pinned_bytes == SPARE_BYTES + 2 * MIB


def test_beyond_its_cap_memory_is_ordinary():
    device = EmulatedDevice()
    receiver = Receiver(device, 10 * MIB)
    held = [receiver.take(2 * MIB) for _ in range(8)]
    assert [pinned(b) for b in held] == [True] * 5 + [False] * 3
    del held[0]
    gc.collect()
    assert pinned(receiver.take(2 * MIB))
    assert device.pinned_bytes == SPARE_BYTES + 10 * MIB
    assert not pinned(Receiver(device, 0).take(MIB))


def test_what_no_slab_can_hold_is_not_pinned():
    device = EmulatedDevice()
    receiver = Receiver(device, 4 * SLAB_BYTES)
    assert not pinned(receiver.take(SLAB_BYTES + 1))
    assert device.pinned_bytes == 0
    held = [receiver.take(SLAB_BYTES) for _ in range(3)]
    assert all(pinned(buffer) for buffer in held)
    assert device.pinned_bytes == SPARE_BYTES + 3 * SLAB_BYTES


def test_a_slab_that_is_full_gives_way_to_the_next_and_comes_round():
    receiver = Receiver(EmulatedDevice(), 2 * SLAB_BYTES)
    size = SLAB_BYTES // 4
    held = [receiver.take(size) for _ in range(8)]
    slabs = [id(slab_of(cut(buffer))) for buffer in held]
    assert slabs == [slabs[0]] * 4 + [slabs[4]] * 4
    starts = [address(buffer) for buffer in held]
    assert not pinned(receiver.take(MIB)), "all is out"
    del held[:4]  # came first, goes first
    gc.collect()
    again = [receiver.take(size) for _ in range(4)]
    assert [address(buffer) for buffer in again] == starts[:4]


def test_where_the_system_pins_no_more_it_is_not_asked_again():
    device = EmulatedDevice(pinnable=SPARE_BYTES + SLAB_BYTES + MIB)
    asked = []
    pin = device.pinned
    device.pinned = lambda size: (asked.append(size), pin(size))[1]
    receiver = Receiver(device, 64 * MIB)
    held = [receiver.take(SLAB_BYTES // 2) for _ in range(4)]
    assert [pinned(b) for b in held] == [True] * 2 + [False] * 2
    assert asked == [SPARE_BYTES, SLAB_BYTES, SLAB_BYTES]
    device.synchronize()
    assert device.pinned_bytes == SLAB_BYTES, "the rest is left to the loader"
    del held
    gc.collect()
    assert all(pinned(receiver.take(MIB)) for _ in range(9))
    receiver.clear()
    device.pinnable = 128 * MIB
    held = [receiver.take(SLAB_BYTES) for _ in range(2)]
    assert all(pinned(b) for b in held), "after it was given back it is tried again"


def test_a_lane_takes_its_memory_behind_what_was_received():
    device = EmulatedDevice()
    receiver = Receiver(device, 64 * MIB)
    body = receiver.take(MIB)
    block = Lane(device, receiver).pinned(1000)
    assert block.size == 1000
    assert block.ctypes.data == address(body) + MIB


def test_the_loaders_lanes_come_before_bodies():
    device = EmulatedDevice(pinnable=SPARE_BYTES + SLAB_BYTES)
    receiver = Receiver(device, 64 * MIB)
    held = [receiver.take(SLAB_BYTES // 2) for _ in range(2)]
    lanes = [Lane(device, receiver) for _ in range(2)]
    assert [lane.pinned(100).size for lane in lanes] == [100, 100]
    assert device.pinned_bytes == SLAB_BYTES + 4 * MIB, "of their own, in place of the spare"
    del held[0]
    gc.collect()
    assert pinned(receiver.take(MIB)), "what is pinned is used"
    with pytest.raises(MemoryError):
        Lane(device, receiver).pinned(SLAB_BYTES)
    assert not pinned(receiver.take(SLAB_BYTES)), "and no more is"


def test_a_forked_child_takes_ordinary_memory_and_asks_no_driver(monkeypatch):
    device = EmulatedDevice()
    receiver = Receiver(device, 8 * MIB)
    receiver.take(MIB).release()  # there is room: its pages are not the child's
    monkeypatch.setattr(device, "entered", lambda: pytest.fail("the driver is called"))
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert not pinned(receiver.take(MIB))


def test_a_lost_device_receives_into_ordinary_memory():
    device = EmulatedDevice()
    device.pinned = lambda size: (_ for _ in ()).throw(DeviceError("device lost"))
    assert not pinned(Receiver(device, MIB).take(MIB))


def test_many_threads_stay_within_the_cap():
    device = EmulatedDevice()
    receiver = Receiver(device, 8 * MIB)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(60):
                mine = [(receiver.take(int(size)), i) for i, size in enumerate(rng.integers(1 << 16, MIB, 4))]
                for buffer, i in mine:
                    buffer[:] = bytes([seed + 8 * i]) * len(buffer)
                for buffer, i in mine:
                    assert buffer[0] == buffer[-1] == buffer[len(buffer) // 2] == seed + 8 * i
            return True

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(4)))
    finally:
        sys.setswitchinterval(before)
    device.synchronize()
    assert device.pinned_bytes == SPARE_BYTES + 8 * MIB


def test_release_memory_unpins_everything():
    device = EmulatedDevice()
    engine = CudaEngine(device, gather=0)
    assert device.pinned_bytes == 0
    buffer = engine.receive_buffer(MIB)
    del buffer
    gc.collect()
    engine.load(engine.pool(16, 1), [], [])
    assert device.pinned_bytes == SPARE_BYTES + SLAB_BYTES
    engine.release_memory()
    gc.collect()
    device.synchronize()
    assert device.pinned_bytes == 0
    assert pinned(engine.receive_buffer(MIB)), "and it goes on working"
    engine.close()
