"""With which device and stream CuPy is asked: a stand-in for it writes that down, and fails as it is told to.

That CuPy can be asked so is seen in `test_real_cupy.py`.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from bestpixel_gpu.engines.cuda import cupy_device, environment
from bestpixel_gpu.engines.cuda.cupy_device import CupyDevice, kernel_folder, source
from bestpixel_gpu.errors import DeviceError, MemoryLimitError


class CudaError(RuntimeError):
    def __init__(self, status, text="cudaErrorIllegalAddress: an illegal memory access was encountered"):
        super().__init__(text)
        self.status = status


class Recorder:
    """A stand-in for CuPy: notes each call with the device and the stream that were current for it."""

    __version__ = "14.2.0"

    def __init__(self):
        self.calls, self.failing, self.compiled = [], {}, []
        self._now = threading.local()
        runtime = SimpleNamespace(
            CUDARuntimeError=CudaError,
            getDeviceProperties=lambda i: {"name": b"NVIDIA H200", "major": 9, "minor": 0, "i": i},
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 12090,
            memGetInfo=lambda: self.note("memGetInfo", (1000, 5000)),
            deviceSynchronize=lambda: self.note("deviceSynchronize"),
            hostAllocPortable=1,
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=type("CUDADriverError", (RuntimeError,), {"status": 1})),
            Device=lambda i: Current(self, "device", i),
            Stream=self.new_stream,
            Event=self.new_event,
            PinnedMemory=self.pinned,
            PinnedMemoryPointer=lambda memory, offset: memory[offset:],
        )
        self.held = SimpleNamespace(
            free_bytes=lambda: 300,
            used_bytes=lambda: 100,
            get_limit=lambda: 0,
            free_all_blocks=lambda: self.note("free_all_blocks"),
        )
        self.get_default_memory_pool = lambda: self.held
        self.staged = SimpleNamespace(free_all_blocks=lambda: self.note("free_staged_blocks"))
        self.get_default_pinned_memory_pool = lambda: self.staged

    def stack(self, kind):
        return self._now.__dict__.setdefault(kind, [])

    def note(self, name, answer=None, *details):
        if name in self.failing:
            raise self.failing[name]
        current = [self.stack(kind)[-1] if self.stack(kind) else None for kind in ("device", "stream")]
        self.calls.append((name, *current, *details))
        return answer

    def names(self):
        return [call[0] for call in self.calls]

    def new_stream(self, *, non_blocking):
        stream = Current(self, "stream", None)
        stream.name = stream
        stream.ptr = 77
        stream.record = lambda event: self.note("record", event)
        stream.wait_event = lambda event: self.note("wait_event", None, event)
        return self.note("Stream", stream, non_blocking)

    def new_event(self, *, block, disable_timing):
        event = SimpleNamespace(synchronize=lambda: self.note("synchronize"), done=True)
        return self.note("Event", event, block, disable_timing)

    def empty(self, shape, dtype):
        return self.note("empty", FakeArray(self, np.zeros(shape, dtype)))

    def array(self, host, order):
        return self.note("array", FakeArray(self, np.array(host, order=order)))

    def pinned(self, size, flags):
        return memoryview(self.note("PinnedMemory", bytearray(size), flags))

    def RawModule(self, *, code, options):
        self.compiled.append((code, options))
        if "module" in self.failing:
            raise self.failing["module"]
        return SimpleNamespace(get_function=lambda name: lambda *a: self.note("launch", None, name, *a))


class Current:
    """Current for a thread while it is in the `with` statement."""

    def __init__(self, recorder, kind, name):
        self.recorder, self.kind, self.name = recorder, kind, name

    def __enter__(self):
        self.recorder.stack(self.kind).append(self.name)

    def __exit__(self, *_):
        self.recorder.stack(self.kind).pop()


class FakeArray:
    def __init__(self, recorder, content):
        self.recorder, self.content, self.nbytes = recorder, content, content.nbytes
        self.shape, self.dtype = content.shape, content.dtype
        self.data = SimpleNamespace(
            ptr=content.ctypes.data,
            copy_from_host_async=partial(recorder.note, "to_device", None),
            copy_to_host_async=partial(recorder.note, "to_host", None),
        )

    def get(self, stream):
        return self.recorder.note("get", self.content.copy(), stream)

    def fill(self, value):
        self.content[...] = value
        self.recorder.note("fill")


@pytest.fixture
def cupy(monkeypatch):
    made = Recorder()
    monkeypatch.setitem(sys.modules, "cupy", made)
    monkeypatch.setattr(cupy_device, "problem", lambda index: None)
    return made


def test_everything_is_asked_on_its_device_and_stream(cupy):
    device = CupyDevice(2)
    other = device.stream()
    assert [c[3] for c in cupy.calls if c[0] == "Stream"] == [True, True], (
        "streams wait for no default stream"
    )
    for stream, wanted in ((None, device.main), (other, other)):
        cupy.calls.clear()
        array = device.empty((3, 4), np.uint16, stream)
        device.upload(np.arange(5), stream)
        device.upload(np.empty((0, 3)), stream)
        device.fill(array, 7, stream)
        assert (device.download(array, stream) == 7).all()
        device.launch(("adler32", "adler32_check"), 1, 128, [array], stream)
        pinned = device.pinned(24)
        device.copy_in(array, pinned, wanted)
        device.copy_out(pinned, array, wanted)
        wanted.wait_for(wanted.record())
        handles = []
        device.call(handles.append, wanted)
        assert handles == [77]
        used = [(name, *current) for name, *current in (c[:3] for c in cupy.calls) if name != "PinnedMemory"]
        assert len(used) >= 10
        assert all(current == [2, wanted.stream] for _, *current in used), used
        copies = [c for c in cupy.calls if c[0] in ("to_device", "to_host")]
        assert [c[3:] for c in copies] == [(pinned.ctypes.data, 24, wanted.stream)] * 2
    assert not cupy.stack("stream"), "nothing stays current"


def test_events_let_a_thread_sleep(cupy):
    device = CupyDevice()
    event = device.main.record()
    assert [c[3:] for c in cupy.calls if c[0] == "Event"] == [(True, True)]
    assert event.done()
    event.wait()
    assert "synchronize" in cupy.names()


def test_timed_events_tell_seconds(cupy):
    device = CupyDevice(1)
    start, end = (device.main.record(timed=True) for _ in range(2))
    assert [c[3:] for c in cupy.calls if c[0] == "Event"] == [(True, False)] * 2
    cupy.cuda.get_elapsed_time = lambda a, b: 250.0 if (a, b) == (start.event, end.event) else -1.0
    assert end.since(start) == 0.25


def test_launches(cupy):
    device = CupyDevice()
    array = device.empty(4, np.uint8)
    kernel = ("inflate", "inflate_streams")
    device.launch(kernel, 3, 128, [array, None, np.uint32(5)])
    device.launch(kernel, (3, 2), (32, 4), [np.int64(1)])
    (*_, name, grid, block, args), (*_, grid2, block2, _) = [c for c in cupy.calls if c[0] == "launch"]
    assert (name, grid, block, grid2, block2) == ("inflate_streams", (3,), (128,), (3, 2), (32, 4))
    assert args[0] is array
    assert (args[1], type(args[1]), args[2]) == (0, np.uint64, np.uint32(5))
    assert isinstance(args, tuple)
    assert device.address(array) == array.content.ctypes.data


def test_a_file_is_compiled_once(cupy):
    device = CupyDevice()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            for name in ("settle", "rekey"):
                threads.submit(device.launch, ("keys", name), 1, 1, []).result()
    ((code, options),) = cupy.compiled
    assert options == ("--std=c++17", "--fmad=false")
    assert code == source("keys")


@pytest.mark.parametrize("path", sorted(kernel_folder().glob("*.cu")), ids=lambda p: p.stem)
def test_a_source_is_whole(path):
    text = source(path.stem)
    assert [line for line in text.splitlines() if line.startswith("#include")] == [
        '#include "cuda_emulation.h"'
    ]
    assert "pragma once" not in text
    assert text.count("static const u32 NO_KEY") == 1
    assert all(line in text for line in path.read_text().splitlines() if not line.startswith("#"))


def test_a_source_follows_what_it_includes(monkeypatch, tmp_path):
    monkeypatch.setattr(cupy_device, "kernel_folder", lambda: tmp_path)
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n#include "c.cuh"\nA\n')
    (tmp_path / "b.cuh").write_text('#pragma once\n#include "c.cuh"\nB\n')
    (tmp_path / "c.cuh").write_text("#pragma once\nC\n")
    assert source("a").split() == ["C", "B", "A"]
    (tmp_path / "c.cuh").write_text("D\n")
    assert source("a").split() == ["D", "B", "A"]


def test_pinned_memory_is_unpinned_with_its_last_view(cupy):
    unpinned = []

    class Block(bytearray):
        def __del__(self):
            unpinned.append(len(self))

    cupy.cuda.PinnedMemory = lambda size, flags: Block(size)
    cupy.cuda.PinnedMemoryPointer = lambda memory, offset: memory
    block = CupyDevice().pinned(3000)
    assert (block.dtype, block.shape, block.flags.writeable) == (np.uint8, (3000,), True)
    part = block[5:].view(np.ndarray)[3:]
    del block
    gc.collect()
    assert not unpinned
    del part
    gc.collect()
    assert unpinned == [3000]


def test_no_room(cupy):
    device = CupyDevice()
    cupy.failing["PinnedMemory"] = CudaError(2, "cudaErrorMemoryAllocation: out of memory")
    says = r"^cuda:0 has too little memory left \({}\): give a smaller memory_limit"
    with pytest.raises(MemoryLimitError, match=says.format("cudaErrorMemoryAllocation: out of memory")):
        device.pinned(5)
    for base in (MemoryError, RuntimeError):  # CuPy's, and torch's
        cupy.failing["empty"] = type("OutOfMemoryError", (base,), {})("no room")
        with pytest.raises(MemoryLimitError, match=says.format("no room")):
            device.empty(5, np.uint8)
    cupy.failing["empty"] = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        device.empty(5, np.uint8)


@pytest.mark.parametrize("call", ["empty", "synchronize", "deviceSynchronize", "get", "launch", "record"])
def test_a_lost_device(cupy, call):
    device = CupyDevice()
    array, event = device.empty(4, np.uint8), device.main.record()
    asks = {
        "empty": lambda: device.empty(4, np.uint8),
        "synchronize": event.wait,
        "deviceSynchronize": device.synchronize,
        "get": lambda: device.download(array),
        "launch": lambda: device.launch(("keys", "settle"), 1, 1, []),
        "record": device.main.record,
    }
    cupy.failing[call] = CudaError(700)
    with pytest.raises(DeviceError, match=r"^cuda:0 cannot be used .* cudaErrorIllegalAddress: an illegal"):
        asks[call]()


def test_a_kernel_that_does_not_compile(cupy):
    device = CupyDevice()
    cupy.failing["module"] = ValueError("line 3: error: no such thing\nmore")
    with pytest.raises(
        DeviceError, match=r"kernel 'settle' of keys.cu cannot be compiled: line 3[^\n]*thing$"
    ):
        device.launch(("keys", "settle"), 1, 1, [])


def test_a_forked_child_is_refused(cupy, monkeypatch):
    device = CupyDevice()
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    before = len(cupy.calls)
    for ask in (lambda: device.empty(4, np.uint8), device.synchronize, device.stream, device.main.record):
        with pytest.raises(DeviceError, match="spawn"):
            ask()
    assert len(cupy.calls) == before


def test_what_stands_against_the_device_is_said(cupy, monkeypatch):
    monkeypatch.setattr(cupy_device, "problem", lambda index: f"there is no CUDA device {index}")
    with pytest.raises(DeviceError, match="no CUDA device 3"):
        CupyDevice(3)
    assert not cupy.calls


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find CUDA headers"), SyntaxError("\ncuda_fp16.h: no such file\nmore")]
)
def test_what_keeps_kernels_from_being_made_is_said_at_the_start(cupy, error, monkeypatch):
    monkeypatch.setattr(environment, "installed", lambda *_: ["cupy", "cupy-cuda12x"])
    cupy.failing["fill"] = error
    line = str(error).strip().split("\n")[0]
    with pytest.raises(DeviceError) as told:
        CupyDevice()
    assert str(told.value) == (
        f"cuda:0: CuPy cannot compile kernels ({line}): pip install -U 'cupy-cuda12x[ctk]'"
    )
    cupy.failing["fill"] = CudaError(700)
    with pytest.raises(DeviceError, match="cannot be used"):
        CupyDevice()


def test_memory_and_description(cupy):
    device = CupyDevice()
    assert device.memory() == (1300, 5000)
    cupy.held.get_limit = lambda: 600
    assert device.memory() == (500, 5000)
    device.release_memory()
    assert {"free_all_blocks", "free_staged_blocks"} <= set(cupy.names())
    assert device.describe() == {
        "device": "NVIDIA H200",
        "compute_capability": "9.0",
        "driver": "13.0",
        "runtime": "12.9",
        "cupy": "14.2.0",
    }
    assert (device.name, device.driver, device.inflates_in_hardware) == ("cuda:0", 13000, False)
