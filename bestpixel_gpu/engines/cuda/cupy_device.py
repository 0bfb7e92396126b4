"""A CUDA device by way of CuPy: memory, streams, and the kernels compiled when first launched."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cuda.device import Stream
from bestpixel_gpu.engines.cuda.environment import compiler_trouble, problem, version_text
from bestpixel_gpu.errors import DeviceError, MemoryLimitError

OPTIONS = ("--std=c++17", "--fmad=false")
_OUT_OF_MEMORY = 2
"""``cudaErrorMemoryAllocation``, which page-locked host memory raises too."""


_INFLATE_IN_HARDWARE = ((10, 0), (10, 3))
"""Compute capabilities of B200 and B300, whose decompression engine nvCOMP uses."""


class CupyEvent:
    """A point in a stream's work."""

    def __init__(self, device: CupyDevice, event: Any) -> None:
        self._device, self.event = device, event

    def done(self) -> bool:
        """Whether everything before it has ended."""
        with self._device.checked():
            return bool(self.event.done)

    def wait(self) -> None:
        """Let the calling thread sleep until then."""
        with self._device.checked():
            self.event.synchronize()

    def since(self, start: Any) -> float:
        """Seconds of the device's clock between two timed events that have passed."""
        with self._device.checked():
            return self._device.milliseconds(start.event, self.event) / 1e3


class CupyStream:
    """Work in order; does not wait for the process's default stream."""

    def __init__(self, device: CupyDevice, stream: Any) -> None:
        self._device, self.stream = device, stream

    def record(self, timed: bool = False) -> CupyEvent:
        """The point after everything asked of this stream so far."""
        with self._device.on(self):
            return CupyEvent(self._device, self.stream.record(self._device.new_event(timed)))

    def wait_for(self, event: Any) -> None:
        """Let the stream's later work wait for another's."""
        with self._device.on(self):
            self.stream.wait_event(event.event)


class CupyDevice:
    """Fulfils :class:`~bestpixel_gpu.engines.cuda.device.Device`.

    All device memory is taken through ``cupy.empty``, so an allocator set by
    ``cupy.cuda.set_allocator`` serves it.

    Parameters
    ----------
    index : int
        Number of the device among those the process sees.

    Attributes
    ----------
    driver : int
        CUDA version of the driver, 13000 for 13.0.
    inflates_in_hardware : bool
        Whether the device has a decompression engine.

    Raises
    ------
    DeviceError
        If CUDA cannot be used; the message says what to do.
    """

    def __init__(self, index: int = 0) -> None:
        reason = problem(index)
        if reason is not None:
            raise DeviceError(reason)
        import cupy

        self.name = f"cuda:{index}"
        self._cupy, self._index = cupy, index
        self._process = os.getpid()
        self._modules: dict[str, Any] = {}
        self._kernels: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self.main: Stream = self.stream()
        with self.on(None):
            found = cupy.cuda.runtime.getDeviceProperties(index)
            self.driver = int(cupy.cuda.runtime.driverGetVersion())
        self._model, self._capability = found["name"].decode(), (found["major"], found["minor"])
        self.inflates_in_hardware = self._capability in _INFLATE_IN_HARDWARE
        self._try_compiler()

    def _try_compiler(self) -> None:
        """Have a kernel made: only this shows whether CUDA's headers are there and the driver loads it."""
        try:
            self.fill(self.empty(1, np.uint8), 1)
        except (DeviceError, MemoryLimitError):
            raise
        except Exception as error:  # CuPy's or NVRTC's
            raise DeviceError(f"{self.name}: {compiler_trouble(error)}") from error

    @contextmanager
    def checked(self) -> Iterator[None]:
        """CUDA's errors as the package's own; nothing in a forked child, where CUDA does not work."""
        if os.getpid() != self._process:
            raise DeviceError(
                f"{self.name} was opened before this process was forked and cannot be used in it: "
                "start processes with the 'spawn' method"
            )
        cuda = self._cupy.cuda
        try:
            yield
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            if error.status == _OUT_OF_MEMORY:
                raise self._no_room(error) from error
            raise DeviceError(f"{self.name} cannot be used (any more): {error}") from error
        except MemoryLimitError:
            raise
        except MemoryError as error:  # CuPy's own
            raise self._no_room(error) from error
        except RuntimeError as error:
            if type(error).__name__ == "OutOfMemoryError":  # torch's, where its allocator serves CuPy
                raise self._no_room(error) from error
            raise

    def _no_room(self, error: BaseException) -> MemoryLimitError:
        return MemoryLimitError(
            f"{self.name} has too little memory left ({error}): "
            "give a smaller memory_limit, or end what else uses the device"
        )

    @contextmanager
    def on(self, stream: Any) -> Iterator[Any]:
        """Device and stream as the calling thread's current ones; yields CuPy's stream."""
        with self.checked():
            mine: Any = self.main if stream is None else stream
            used = mine.stream
            with self._cupy.cuda.Device(self._index), used:
                yield used

    def new_event(self, timed: bool = False) -> Any:
        """An event to wait for asleep."""
        return self._cupy.cuda.Event(block=True, disable_timing=not timed)

    def milliseconds(self, start: Any, end: Any) -> float:
        """Between two timed events, as CUDA tells it."""
        return float(self._cupy.cuda.get_elapsed_time(start, end))

    def empty(self, shape: int | tuple[int, ...], dtype: Any, stream: Any = None) -> Any:
        """Device memory that belongs to `stream`."""
        with self.on(stream):
            return self._cupy.empty(shape, dtype)

    def upload(self, host: NDArray[Any], stream: Any = None) -> Any:
        """A copy of a host array by way of page-locked memory; what lies there itself goes by `copy_in`."""
        if not host.size:
            return self.empty(host.shape, host.dtype, stream)
        with self.on(stream):
            return self._cupy.array(host, order="C")

    def download(self, array: Any, stream: Any = None) -> NDArray[Any]:
        """A copy on the host; waits for the stream's work."""
        with self.on(stream) as used:
            host: NDArray[Any] = array.get(stream=used)
            return host

    def fill(self, array: Any, value: int, stream: Any = None) -> None:
        """Set every element of an array or of a 2-D window of one."""
        with self.on(stream):
            array.fill(value)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory, unlocked with its last view: CuPy's pool would keep every size."""
        cuda = self._cupy.cuda
        with self.on(None):
            memory = cuda.PinnedMemory(nbytes, cuda.runtime.hostAllocPortable)
            return np.ndarray(nbytes, np.uint8, buffer=cuda.PinnedMemoryPointer(memory, 0))

    def copy_in(self, target: Any, pinned: NDArray[Any], stream: Any) -> None:
        """Copy pinned memory to the device, both contiguous."""
        with self.on(stream) as used:
            target.data.copy_from_host_async(pinned.ctypes.data, target.nbytes, used)

    def copy_out(self, pinned: NDArray[Any], source: Any, stream: Any) -> None:
        """Copy from the device into pinned memory, both contiguous."""
        with self.on(stream) as used:
            source.data.copy_to_host_async(pinned.ctypes.data, source.nbytes, used)

    def address(self, array: Any) -> int:
        """Where an array starts, as kernels see it."""
        return int(array.data.ptr)

    def launch(
        self,
        kernel: tuple[str, str],
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        args: Sequence[Any],
        stream: Any = None,
    ) -> None:
        """Run a kernel; its file is compiled when one of its kernels is first asked for."""
        sizes = [(n,) if isinstance(n, int) else n for n in (grid, block)]
        given = tuple(np.uint64(0) if a is None else a for a in args)  # None is garbage before CuPy 14
        with self.on(stream):
            self._kernel(kernel)(*sizes, given)

    def _kernel(self, kernel: tuple[str, str]) -> Any:
        with self._lock:
            if kernel not in self._kernels:
                self._kernels[kernel] = self._compiled(*kernel)
            return self._kernels[kernel]

    def _compiled(self, file: str, name: str) -> Any:
        cuda = self._cupy.cuda
        try:
            if file not in self._modules:
                self._modules[file] = self._cupy.RawModule(code=source(file), options=OPTIONS)
            return self._modules[file].get_function(name)
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, MemoryError):
            raise
        except Exception as error:  # CuPy's or NVRTC's
            line = (str(error).splitlines() or [repr(error)])[0]
            raise DeviceError(
                f"{self.name}: kernel {name!r} of {file}.cu cannot be compiled: {line}"
            ) from error

    def call(self, work: Callable[[int], object], stream: Any) -> None:
        """Let a library launch on a stream."""
        with self.on(stream) as used:
            work(used.ptr)

    def stream(self) -> CupyStream:
        """A new stream."""
        with self.checked(), self._cupy.cuda.Device(self._index):
            return CupyStream(self, self._cupy.cuda.Stream(non_blocking=True))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes; what CuPy's own pool keeps unused is free."""
        with self.on(None):
            free, total = self._cupy.cuda.runtime.memGetInfo()
            pool = self._cupy.get_default_memory_pool()
            free += pool.free_bytes()
            limit = pool.get_limit()
            return int(min(free, limit - pool.used_bytes()) if limit else free), int(total)

    def release_memory(self) -> None:
        """Give back what CuPy's own pools keep unused."""
        with self.on(None):
            self._cupy.get_default_memory_pool().free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        with self.on(None):
            self._cupy.cuda.runtime.deviceSynchronize()

    def describe(self) -> dict[str, str]:
        """Name, compute capability, driver, CuPy."""
        return {
            "device": self._model,
            "compute_capability": "{}.{}".format(*self._capability),
            "driver": version_text(self.driver),
            "runtime": version_text(self._cupy.cuda.runtime.runtimeGetVersion()),
            "cupy": self._cupy.__version__,
        }


def kernel_folder() -> Path:
    """Folder of the kernels' sources: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    packed = package / "_cuda"
    return packed if packed.is_dir() else package.parent / "cuda"


def source(file: str) -> str:
    """Text of a kernel file with the files it includes put in: all that CuPy's cache goes by.

    Compiled kernels are kept by the text and the options alone; what an ``#include`` finds in a
    folder could change unnoticed.
    """
    folder, seen = kernel_folder(), set()

    def text_of(name: str) -> str:
        seen.add(name)
        return _INCLUDE.sub(included, (folder / name).read_text())

    def included(match: re.Match[str]) -> str:
        name = match[1]
        return "" if name in seen else text_of(name)

    return text_of(f"{file}.cu").replace("#pragma once\n", "")


_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)
