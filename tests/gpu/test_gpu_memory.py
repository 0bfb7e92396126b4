"""What only CuPy and a device can show: whose memory arrays lie in, and how others take them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from whole_run import assert_same, run

from bestpixel_gpu import release_memory
from bestpixel_gpu.engines.cuda.environment import problem

REASON = problem()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


@pytest.fixture
def engine() -> Iterator[Any]:
    from bestpixel_gpu.engines.cuda.engine import open_engine

    made = open_engine(0, "safe")
    yield made
    made.close()


def test_an_allocator_that_was_set_serves_the_engine(engine: Any) -> None:
    import cupy

    own = cupy.cuda.MemoryPool()
    cupy.cuda.set_allocator(own.malloc)
    try:
        arrays = [engine.empty((300, 500), np.uint16, 7), engine.from_host(np.arange(1000))]
        pool = engine.pool(1 << 20, 3)
        assert own.used_bytes() >= sum(a.nbytes for a in arrays) + (3 << 20)
        del arrays, pool
    finally:
        cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    engine.release_memory()
    assert own.used_bytes() == 0


def test_an_allocator_of_functions_is_asked_on_the_stream_that_the_memory_is_for(server: Any) -> None:
    """Torch's caching allocator is set so: memory is given out again in the order of a stream it is told."""
    import cupy

    runtime, taken, streams = cupy.cuda.runtime, set(), set()

    def allocate(size: int, index: int) -> int:
        streams.add(cupy.cuda.get_current_stream().ptr)
        at = runtime.malloc(size)
        taken.add(at)
        return int(at)

    def free(at: int, index: int) -> None:
        taken.remove(at)
        runtime.free(at)

    release_memory()
    cupy.cuda.set_allocator(cupy.cuda.PythonFunctionAllocator(allocate, free).malloc)
    try:
        got = run(server, device="cuda", resolution=30)
        assert {a.data.ptr for a in got.bands.values()} <= taken
        assert_same(got.to_numpy(), run(server, resolution=30))
        assert len(streams) > 1, "of the work, and of batches"
        assert 0 not in streams
    finally:
        cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    del got
    release_memory()
    gc.collect()
    assert not taken


def test_others_take_an_array_by_dlpack_on_their_own_stream(engine: Any) -> None:
    import cupy

    array = engine.from_host(np.arange(60000, dtype=np.uint16).reshape(200, 300))
    engine.fill(array[50:100], 9)
    engine.synchronize()
    want = engine.to_host(array)
    assert (type(array), int(want[50:100].min())) == (cupy.ndarray, 9)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        taken = cupy.from_dlpack(array)
        more = taken + np.uint16(1)
        stream.synchronize()
    assert taken.data.ptr == array.data.ptr, "no copy"
    np.testing.assert_array_equal(more.get(), want + np.uint16(1))


def test_torch_takes_an_array_by_dlpack(engine: Any) -> None:
    torch = pytest.importorskip("torch")
    array = engine.from_host(np.arange(600, dtype=np.int16).reshape(20, 30))  # torch has few unsigned types
    engine.synchronize()
    taken = torch.from_dlpack(array)
    assert taken.data_ptr() == array.data.ptr
    np.testing.assert_array_equal(taken.cpu().numpy(), engine.to_host(array))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_refused() -> None:
    code = """
import os
from bestpixel_gpu.engines import create
from bestpixel_gpu.errors import DeviceError
engine = create("cuda")
engine.empty(5, "u1", 3)
read, write = os.pipe()
if os.fork() == 0:
    said = []
    for ask in (lambda: engine.empty(5, "u1"), lambda: create("cuda")):
        try:
            ask()
        except DeviceError as error:
            said.append("spawn" in str(error))
    os.write(write, repr((said, create("auto").name)).encode())
    os._exit(0)
os.wait()
print(os.read(read, 1000).decode())
print(engine.to_host(engine.empty(5, "u1", 3)).sum())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["([True, True], 'cpu')", "15"]
