"""The emulated device does break what a GPU would break: order, lifetimes, room, faults."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_device import DROPPED, FRESH, EmulatedDevice

from bestpixel_gpu.errors import DeviceError

SEEDS = range(30)


def numbers(value, n=64):
    return np.full(n, value, np.int32)


def test_work_waits_until_somebody_waits_for_it():
    device = EmulatedDevice()
    array, back = device.empty(64, np.int32), device.pinned(256).view(np.int32)
    device.fill(array, 3)
    device.copy_out(back, array, device.main)
    event = device.main.record()
    assert (back != 3).all()
    event.wait()
    assert (back == 3).all()
    assert event.done()


def test_asking_alone_gets_on():
    device = EmulatedDevice()
    device.fill(device.empty(64, np.int32), 3)
    event = device.main.record()
    assert any(event.done() for _ in range(10))


def read_beside_write(seed, order):
    """What one stream reads of an array that another has been asked to fill before."""
    device = EmulatedDevice(seed)
    other = device.stream()
    array = device.empty(64, np.int32, other)
    device.fill(array, 1, other)
    device.synchronize()
    device.fill(array, 2, other)
    if order:
        device.main.wait_for(other.record())
    return device.download(array)[0]


def test_streams_know_nothing_of_each_other_but_events():
    assert {read_beside_write(seed, order=True) for seed in SEEDS} == {2}
    assert {read_beside_write(seed, order=False) for seed in SEEDS} == {1, 2}


def test_pinned_memory_is_read_when_its_copy_runs():
    device = EmulatedDevice()
    pinned = device.pinned(256).view(np.int32)
    pinned[:] = 1
    array = device.empty(64, np.int32)
    device.copy_in(array, pinned, device.main)
    pinned[:] = 2
    assert (device.download(array) == 2).all()


def test_a_host_array_may_change_after_its_upload():
    device = EmulatedDevice()
    given = numbers(1)
    array = device.upload(given)
    given[:] = 2
    assert (device.download(array) == 1).all()


def test_dropped_memory_is_given_out_again_in_its_stream_and_poisoned():
    device = EmulatedDevice()
    first = device.upload(numbers(1))
    place = device.address(first)
    back = device.pinned(256).view(np.int32)
    device.copy_out(back, first, device.main)
    del first
    elsewhere = device.empty(64, np.int32, device.stream())
    second = device.empty(64, np.int32)
    assert device.address(second) == place != device.address(elsewhere)
    assert (device.download(second).view(np.uint8) == DROPPED).all()
    assert (back == 1).all(), "work asked for before the drop comes first"
    assert (device.download(elsewhere, device.main).view(np.uint8) == FRESH).all()


def use_after_drop(seed, keep):
    device = EmulatedDevice(seed)
    other = device.stream()
    array, back = device.upload(numbers(1)), device.pinned(256).view(np.int32)
    device.synchronize()
    device.copy_out(back, array, other)
    kept = array if keep else None
    del array
    device.synchronize()
    del kept
    return bool((back == 1).all())


def test_memory_dropped_while_another_stream_uses_it_shows():
    assert {use_after_drop(seed, keep=True) for seed in SEEDS} == {True}
    assert {use_after_drop(seed, keep=False) for seed in SEEDS} == {True, False}


def test_a_view_keeps_the_whole_block():
    device = EmulatedDevice()
    part = device.upload(numbers(1))[3:5]
    device.synchronize()
    assert device.download(part).tolist() == [1, 1]


def test_room_is_limited_and_comes_back():
    device = EmulatedDevice(total=4096)
    kept = device.empty(3072, np.uint8)
    with pytest.raises(MemoryError):
        device.empty(2048, np.uint8)
    assert device.memory() == (1024, 4096)
    del kept
    assert device.empty(2048, np.uint8).shape == (2048,)


def test_a_lost_device_stays_lost():
    device = EmulatedDevice(lost_at=0)
    word = device.upload(np.zeros(1, np.uint32))
    device.launch(("adler32", "adler32_check"), 1, 128, [word] * 6 + [word, np.uint32(0)])
    for call in (device.synchronize, lambda: device.empty(1, np.uint8), device.memory, device.main.record):
        with pytest.raises(DeviceError, match="device lost"):
            call()


def test_streams_that_wait_for_each_other_are_found():
    device = EmulatedDevice()
    other = device.stream()
    device.fill(device.empty(1, np.uint8, other), 0, other)
    event = other.record()
    event.count += 1  # what no real event can do: wait for work that is asked for later
    device.main.wait_for(event)
    with pytest.raises(AssertionError, match="wait for each other"):
        device.main.record().wait()


@pytest.mark.parametrize(
    "touch",
    [
        np.asarray,
        lambda a: a + 1,
        lambda a: a == 1,
        lambda a: a[0],
        bool,
        np.sum,
        lambda a: a[::2].reshape(4, 8).view(np.uint8) and None,
        lambda a: a.__setitem__(0, 1),
    ],
)
def test_the_host_does_not_touch_device_memory(touch):
    with pytest.raises((TypeError, AttributeError, ValueError)):
        touch(EmulatedDevice().upload(numbers(1)))


def test_arguments_have_the_kernels_types():
    device = EmulatedDevice()
    for wrong in (1, 1.5, np.zeros(1)):
        with pytest.raises(TypeError, match="neither device memory nor"):
            device.launch(("adler32", "adler32_check"), 1, 128, [wrong] * 8)
