"""A device that is not there: the kernels compiled for the CPU, memory that NumPy holds.

It breaks loudly what a GPU breaks silently. Work is queued and runs when somebody waits, streams
against each other in an order drawn from the seed that knows recorded events and nothing else; pinned
memory is read when its copy runs, which does not keep it. Memory that was dropped is poisoned, pinned
one at once, the device's in the order of the stream it was made for, where it is given out again.
Device arrays refuse everything but slices to the host.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from emulator import Module, build
from numpy.typing import NDArray

from bestpixel_gpu.errors import DeviceError, MemoryLimitError

CUDA = Path(__file__).resolve().parents[2] / "cuda"
ALIGNMENT = 256
FRESH, DROPPED, UNPINNED = 0xA5, 0xDB, 0xEE


class _Memory:
    """What keeps a block of device memory: dropped with the last array that lies in it."""


class DeviceArray:
    """Memory of the device: shape, slices and views, but no reading or writing by the host."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, memory: _Memory, content: NDArray[Any]) -> None:
        self._memory, self._content = memory, content
        self.shape, self.dtype, self.strides = content.shape, content.dtype, content.strides
        self.nbytes, self.size, self.ndim = content.nbytes, content.size, content.ndim

    def __len__(self) -> int:
        return len(self._content)

    def __getitem__(self, key: Any) -> DeviceArray:
        part = self._content[key]
        if not isinstance(part, np.ndarray) or part.base is None:
            raise TypeError("the host reads device memory")
        return DeviceArray(self._memory, part)

    def view(self, dtype: Any) -> DeviceArray:
        return DeviceArray(self._memory, self._content.view(dtype))

    def reshape(self, *shape: Any) -> DeviceArray:
        changed = self._content.reshape(*shape)
        if changed.size and not np.may_share_memory(changed, self._content):
            raise TypeError("the host copies device memory")
        return DeviceArray(self._memory, changed)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the host reads device memory")

    def __eq__(self, _: object) -> Any:
        raise TypeError("the host computes with device memory")

    def __bool__(self) -> bool:
        raise TypeError("the host reads device memory")

    def __repr__(self) -> str:
        return f"<device array {self.shape} {self.dtype}>"


def host(array: DeviceArray) -> NDArray[Any]:
    """What device memory holds at this moment, for the device itself."""
    return array._content


class EmulatedStream:
    """Work in order; runs when the device is driven."""

    def __init__(self, device: EmulatedDevice, number: int) -> None:
        self._device, self.number = device, number
        self.queue: deque[Callable[[], object] | EmulatedEvent] = deque()
        self.added = self.ended = 0
        self.free: dict[int, list[NDArray[np.uint8]]] = {}

    def add(self, work: Callable[[], object] | EmulatedEvent) -> None:
        self.queue.append(work)
        self.added += 1

    def blocked(self) -> bool:
        """Whether there is nothing to run before another stream has got further."""
        return not self.queue or (isinstance(self.queue[0], EmulatedEvent) and not self.queue[0].passed())

    def record(self, timed: bool = False) -> EmulatedEvent:
        with self._device.entered():
            event = EmulatedEvent(self, self.added + timed)
            if timed:
                self.add(event.take_time)
            return event

    def wait_for(self, event: EmulatedEvent) -> None:
        with self._device.entered():
            self.add(event)


class EmulatedEvent:
    """A point in a stream's work."""

    def __init__(self, stream: EmulatedStream, count: int) -> None:
        self.stream, self.count = stream, count
        self._time: float | None = None

    def take_time(self) -> None:
        self._time = self.stream._device.clock

    def since(self, start: EmulatedEvent) -> float:
        if self._time is None or start._time is None:
            raise ValueError("an event that is not timed, or has not passed")
        return self._time - start._time

    def passed(self) -> bool:
        return self.stream.ended >= self.count

    def done(self) -> bool:
        with self.stream._device.entered() as device:
            device.step(None)  # whoever only asks gets on, too
            return self.passed()

    def wait(self) -> None:
        with self.stream._device.entered() as device:
            device.run_until(self)


class EmulatedDevice:
    """Fulfils `engines.cuda.device.Device`.

    Parameters
    ----------
    seed : int
        Of the order between streams and, but for 0, of the order of threads in a kernel.
    total : int
        Bytes of memory; `empty` raises MemoryLimitError beyond.
    lost_at : int, optional
        The launch (counted from 0, in the order they run) with which the device is lost.
    seconds : dict, optional
        What launches of a kernel take on the device's clock, by its name; nothing the others.
    pinnable : int
        Bytes of host memory that can be pinned; `pinned` raises MemoryError beyond.
    """

    name = "cuda:0"

    def __init__(
        self,
        seed: int = 0,
        total: int = 1 << 34,
        lost_at: int | None = None,
        seconds: dict[str, float] | None = None,
        pinnable: int = 1 << 34,
    ) -> None:
        self.seed, self.total, self.lost_at = seed, total, lost_at
        self.seconds, self.clock = seconds or {}, 0.0
        self.launched: list[tuple[str, int]] = []
        """Kernel and number of its stream, in the order they ran."""
        self._order = random.Random(seed)
        self._preference = self._order.choice((0.0, 0.5, 1.0))
        self._streams: list[EmulatedStream] = []
        self._dropped: deque[tuple[EmulatedStream, NDArray[np.uint8]]] = deque()
        self._used = 0
        self.pinnable, self.pinned_bytes = pinnable, 0
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._unpinned: deque[int] = deque()
        self._modules: dict[str, Module] = {}
        self._error: BaseException | None = None
        self._lock = threading.RLock()
        self.main = self.stream()

    def entered(self) -> _Entered:
        """The device for the one thread that may use it now; raises what broke it."""
        return _Entered(self)

    def step(self, wanted: EmulatedStream | None) -> bool:
        """Run one thing of some stream, `wanted` with preference; False where nothing can run."""
        able = [s for s in self._streams if not s.blocked()]
        if not able:
            return False
        stream = wanted if wanted in able and self._order.random() < self._preference else None
        stream = stream or self._order.choice(able)
        work = stream.queue.popleft()
        try:
            if not isinstance(work, EmulatedEvent):
                work()
        except BaseException as error:
            self._error = error
            raise
        stream.ended += 1
        return True

    def run_until(self, event: EmulatedEvent) -> None:
        for _ in range(self._order.choice((0, 0, 1, 8))):  # others may have got on meanwhile
            self.step(None)
        while not event.passed():
            if not self.step(event.stream):
                self._error = AssertionError("streams wait for each other")
                raise self._error

    def take_back(self) -> None:
        """Poison pinned memory that was dropped; give the device's to its stream, to be poisoned there."""
        while self._unpinned:
            gone = self._pinned.pop(self._unpinned.popleft())
            self.pinned_bytes -= gone.size
            gone.fill(DROPPED)
        while self._dropped:
            stream, block = self._dropped.popleft()
            self._used -= block.size
            stream.add(lambda block=block: block.fill(DROPPED))
            stream.free.setdefault(block.size, []).append(block)

    def empty(self, shape: Any, dtype: Any, stream: Any = None) -> DeviceArray:
        with self.entered():
            stream = stream or self.main
            count = int(np.prod(shape, dtype=np.int64))
            size = max(1, -(-count * np.dtype(dtype).itemsize // ALIGNMENT)) * ALIGNMENT
            if self._used + size > self.total:
                beyond = f"{size} bytes beyond {self._used} of {self.total}"
                raise MemoryLimitError(f"{self.name} has too little memory left ({beyond})")
            known = stream.free.get(size)
            block = known.pop() if known else _aligned(size, FRESH)
            self._used += size
            memory = _Memory()
            weakref.finalize(memory, self._dropped.append, (stream, block)).atexit = False
            used = block[: count * np.dtype(dtype).itemsize]
            return DeviceArray(memory, used.view(dtype).reshape(shape))

    def upload(self, array: NDArray[Any], stream: Any = None) -> DeviceArray:
        at = array.ctypes.data
        if any(start <= at < start + block.size for start, block in list(self._pinned.items())):
            raise ValueError("CuPy would read pinned memory after this returned: use copy_in")
        made = self.empty(array.shape, array.dtype, stream)
        self._copy(host(made), array.copy(), stream or self.main)
        return made

    def download(self, array: DeviceArray, stream: Any = None) -> NDArray[Any]:
        stream = stream or self.main
        stream.record().wait()
        with self.entered():
            return host(array).copy()

    def fill(self, array: DeviceArray, value: int, stream: Any = None) -> None:
        self._copy(host(array), np.array(value).astype(array.dtype), stream or self.main)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        with self.entered():
            if self.pinned_bytes + nbytes > self.pinnable:
                raise MemoryError(f"{nbytes} bytes beyond {self.pinned_bytes} pinned ones")
            block = _aligned(nbytes, UNPINNED)
            given = np.frombuffer(block.data, np.uint8)  # not a view of the block: its end is to be seen
            start = given.ctypes.data
            self._pinned[start] = block
            self.pinned_bytes += nbytes
            weakref.finalize(given, self._unpinned.append, start).atexit = False
            return given

    def copy_in(self, target: DeviceArray, pinned: NDArray[Any], stream: Any) -> None:
        self._copy(host(target), self._lying_at(pinned), stream)

    def copy_out(self, pinned: NDArray[Any], source: DeviceArray, stream: Any) -> None:
        self._copy(self._lying_at(pinned), host(source), stream)

    def _lying_at(self, pinned: NDArray[Any]) -> NDArray[Any]:
        """The bytes of an array, which does not stay pinned for that."""
        with self.entered():
            for start, block in self._pinned.items():
                at = pinned.ctypes.data - start
                if at >= 0 and at + pinned.nbytes <= block.size and pinned.flags.c_contiguous:
                    return block[at : at + pinned.nbytes].view(pinned.dtype).reshape(pinned.shape)
        raise ValueError("copies are from and to contiguous pinned memory")

    def _copy(self, to: NDArray[Any], source: NDArray[Any], stream: EmulatedStream) -> None:
        if source.ndim and (to.shape != source.shape or to.dtype != source.dtype):
            raise ValueError(f"copy of {source.shape} {source.dtype} to {to.shape} {to.dtype}")
        with self.entered():
            stream.add(lambda: np.copyto(to, source))

    def address(self, array: DeviceArray) -> int:
        return int(host(array).ctypes.data)

    def launch(
        self, kernel: tuple[str, str], grid: Any, block: Any, args: Sequence[Any], stream: Any = None
    ) -> None:
        for a in args:
            if a is not None and not isinstance(a, DeviceArray | np.generic):
                raise TypeError(f"{kernel}: argument {a!r} is neither device memory nor a numpy scalar")
        file, name = kernel
        stream = stream or self.main
        sizes = [tuple(np.atleast_1d(n).tolist()) for n in (grid, block)]
        plain = [host(a) if isinstance(a, DeviceArray) else a for a in args]
        with self.entered():
            if file not in self._modules:
                self._modules[file] = build(CUDA / f"{file}.cu")
            run = self._modules[file].kernel(name)

            def work() -> None:
                if len(self.launched) == self.lost_at:
                    raise DeviceError("device lost")
                self.launched.append((name, stream.number))
                run(*sizes, plain, seed=self.seed)
                self.clock += self.seconds.get(name, 0.0)

            stream.add(work)

    def stream(self) -> EmulatedStream:
        with self._lock:
            self._streams.append(EmulatedStream(self, len(self._streams)))
            return self._streams[-1]

    def memory(self) -> tuple[int, int]:
        with self.entered():
            return self.total - self._used, self.total

    def synchronize(self) -> None:
        for stream in list(self._streams):
            stream.record().wait()

    def call(self, work: Callable[[int], object], stream: Any) -> None:
        with self.entered():
            stream.add(lambda: work(stream.number))

    def release_memory(self) -> None:
        with self.entered():
            pass

    def describe(self) -> dict[str, str]:
        return {"device": "emulated"}


class _Entered:
    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device

    def __enter__(self) -> EmulatedDevice:
        self._device._lock.acquire()
        if self._device._error is not None:
            self._device._lock.release()
            raise self._device._error
        self._device.take_back()
        return self._device

    def __exit__(self, *_: object) -> None:
        self._device._lock.release()


def _aligned(size: int, value: int) -> NDArray[np.uint8]:
    room = np.full(size + ALIGNMENT, value, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]
