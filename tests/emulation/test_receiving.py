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
from bestpixel_gpu.engines.cuda.receive import SPARE_BYTES, Receiver, pinned_under
from bestpixel_gpu.errors import DeviceError

MIB = 1 << 20


def pinned(buffer):
    """Whether a part of a buffer is known to be pinned, however it was cut."""
    return pinned_under(np.frombuffer(buffer[3:].toreadonly()[2:], np.uint8)) is not None


def test_a_block_is_used_again_when_its_last_view_is_gone():
    device = EmulatedDevice()
    receiver = Receiver(device, 64 * MIB)
    assert device.pinned_bytes == 0, "nothing is pinned before it is asked for"
    part = np.frombuffer(receiver.take(MIB)[5:900], np.uint8)
    start = pinned_under(part).ctypes.data
    assert start % 16 == 0
    other = receiver.take(MIB)
    assert np.frombuffer(other, np.uint8).ctypes.data != start
    del part, other
    gc.collect()
    for _ in range(5):
        assert pinned(receiver.take(MIB - 1))
    assert device.pinned_bytes == SPARE_BYTES + 2 * MIB


def test_small_bodies_are_not_pinned():
    device = EmulatedDevice()
    assert not pinned(Receiver(device, MIB).take(65_535))
    assert device.pinned_bytes == 0


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


def test_sizes_that_nobody_asks_for_any_more_make_room():
    device = EmulatedDevice()
    receiver = Receiver(device, 10 * MIB)
    held = [receiver.take(MIB) for _ in range(10)]
    del held[:5]
    gc.collect()
    assert not pinned(receiver.take(2 * MIB)), "half of it is in use: those sizes are asked for"
    del held[:1]
    gc.collect()
    assert pinned(receiver.take(2 * MIB))
    device.synchronize()
    assert device.pinned_bytes == SPARE_BYTES + 6 * MIB
    assert all(pinned(b) for b in held), "what is in use stays"


def test_where_the_system_pins_no_more_it_is_not_asked_again():
    device = EmulatedDevice(pinnable=SPARE_BYTES + 3 * MIB)
    asked = []
    pin = device.pinned
    device.pinned = lambda size: (asked.append(size), pin(size))[1]
    receiver = Receiver(device, 64 * MIB)
    held = [receiver.take(MIB) for _ in range(9)]
    assert [pinned(b) for b in held] == [True] * 3 + [False] * 6
    assert asked == [SPARE_BYTES] + [MIB] * 4
    device.synchronize()
    assert device.pinned_bytes == 3 * MIB, "the rest is left to the loader"
    del held
    gc.collect()
    assert all(pinned(receiver.take(MIB)) for _ in range(9))
    receiver.clear()
    device.pinnable = 64 * MIB
    held = [receiver.take(MIB) for _ in range(9)]
    assert all(pinned(b) for b in held), "after it was given back it is tried again"


def test_the_loaders_lanes_come_before_bodies():
    device = EmulatedDevice(pinnable=10 * MIB)
    receiver = Receiver(device, 64 * MIB)
    held = [receiver.take(MIB) for _ in range(5)]
    lanes = [Lane(device, receiver.give_way) for _ in range(2)]
    assert [lane.pinned(100).size for lane in lanes] == [100, 100]
    del held[0]
    gc.collect()
    assert pinned(receiver.take(MIB)), "what is pinned is used"
    assert not pinned(receiver.take(2 * MIB)), "and no more is"
    with pytest.raises(MemoryError):
        Lane(device, receiver.give_way).pinned(8 * MIB)


def test_a_forked_child_takes_ordinary_memory_and_asks_no_driver(monkeypatch):
    device = EmulatedDevice()
    receiver = Receiver(device, 8 * MIB)
    receiver.take(MIB).release()
    gc.collect()  # one lies ready: its pages are not the child's
    monkeypatch.setattr(device, "entered", lambda: pytest.fail("the driver is called"))
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert not pinned(receiver.take(MIB))
    assert not pinned(receiver.take(2 * MIB))


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
    assert SPARE_BYTES < device.pinned_bytes <= SPARE_BYTES + 8 * MIB


def test_release_memory_unpins_everything():
    device = EmulatedDevice()
    engine = CudaEngine(device, gather=0)
    assert device.pinned_bytes == 0
    buffer = engine.receive_buffer(MIB)
    del buffer
    gc.collect()
    engine.load(engine.pool(16, 1), [], [])
    assert device.pinned_bytes == SPARE_BYTES + MIB
    engine.release_memory()
    gc.collect()
    device.synchronize()
    assert device.pinned_bytes == 0
    assert pinned(engine.receive_buffer(MIB)), "and it goes on working"
    engine.close()
