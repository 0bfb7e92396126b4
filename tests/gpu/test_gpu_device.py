"""What the package's device promises, kept by CuPy."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bestpixel_gpu.engines.cuda import cupy_device
from bestpixel_gpu.engines.cuda.cupy_device import CupyDevice
from bestpixel_gpu.engines.cuda.environment import problem
from bestpixel_gpu.errors import DeviceError, MemoryLimitError

REASON = problem()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


@pytest.fixture(scope="module")
def device() -> CupyDevice:
    return CupyDevice()


@pytest.fixture
def pool() -> Iterator[Any]:
    """CuPy's own pool, without a limit afterwards."""
    import cupy

    yield cupy.get_default_memory_pool()
    cupy.get_default_memory_pool().set_limit(size=0)


def numbers() -> np.ndarray:
    return np.arange(60, dtype=np.uint16).reshape(6, 10)


def test_an_upload_has_its_own_copy_at_once(device: CupyDevice) -> None:
    host = numbers()
    array = device.upload(host)
    host[:] = 0
    np.testing.assert_array_equal(device.download(array), numbers())
    assert device.upload(np.empty((0, 3), np.uint8)).shape == device.empty((0, 3), np.uint8).shape == (0, 3)


def test_windows(device: CupyDevice) -> None:
    array, want = device.upload(numbers()), numbers()
    assert device.address(array[1:, 3:]) == device.address(array) + 26
    np.testing.assert_array_equal(device.download(array[4:1:-1, 1::3]), want[4:1:-1, 1::3])
    device.fill(array[:, 2:5], 7)
    want[:, 2:5] = 7
    np.testing.assert_array_equal(device.download(array), want)
    device.fill(array, 0)
    assert not device.download(array).any()


def test_pinned_memory_goes_both_ways_between_streams(device: CupyDevice) -> None:
    array, other, pinned = device.upload(numbers()), device.stream(), device.pinned(120)
    assert (pinned.dtype, pinned.shape, pinned.flags.writeable) == (np.uint8, (120,), True)
    other.wait_for(device.main.record())
    device.copy_out(pinned, array, other)
    copied = other.record()
    while not copied.done():
        pass
    np.testing.assert_array_equal(pinned.view(np.uint16).reshape(6, 10), numbers())
    pinned[:] = 1
    device.copy_in(array, pinned, device.main)
    assert (device.download(array) == 257).all()


def test_clocks_of_a_stream(device: CupyDevice) -> None:
    start = device.main.record(timed=True)
    device.fill(device.empty(1 << 20, np.uint8), 3)
    end = device.main.record(timed=True)
    end.wait()
    assert start.done()
    assert 0 <= end.since(start) < 10
    handles: list[int] = []
    device.call(handles.append, device.main)
    assert handles[0] > 2, "a stream of its own"


def test_cudas_errors_are_the_packages(device: CupyDevice) -> None:
    from cupy.cuda.runtime import CUDARuntimeError

    with pytest.raises(MemoryLimitError, match="cudaErrorMemoryAllocation"), device.checked():
        raise CUDARuntimeError(2)
    with (
        pytest.raises(DeviceError, match=r"^cuda:0 cannot be used .*cudaErrorIllegalAddress"),
        device.checked(),
    ):
        raise CUDARuntimeError(700)


def test_a_limit_of_the_pool_is_the_devices_memory(device: CupyDevice, pool: Any) -> None:
    gc.collect()
    before = pool.used_bytes()
    pool.set_limit(size=before + (1 << 20))
    assert device.memory()[0] <= 1 << 20 < device.memory()[1]
    with pytest.raises(
        MemoryLimitError, match=r"^cuda:0 has too little memory left \(Out of memory allocating"
    ):
        device.empty(2 << 20, np.uint8)
    pool.set_limit(size=0)
    array = device.empty(2 << 20, np.uint8)
    assert pool.used_bytes() == before + array.nbytes
    del array
    assert pool.used_bytes() == before
    device.release_memory()
    assert pool.free_bytes() < 2 << 20, "none but what shares a block with something in use"


def test_a_kernel_that_does_not_compile(device: CupyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_device, "source", {"broken": "int x = y;"}.get)
    says = (
        r"^cuda:0: kernel 'wanted' of broken\.cu cannot be compiled: \S+\(1\): error: .*\"y\" is undefined$"
    )
    with pytest.raises(DeviceError, match=says):
        device.launch(("broken", "wanted"), 1, 1, [])
