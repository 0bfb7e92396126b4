"""What the CUDA engine asks of a device: memory, copies, streams, launches.

Two things fulfil it: :mod:`bestpixel_gpu.engines.cuda.cupy_device` on a GPU, and the tests' emulation
of one, which runs the same kernels on the CPU. Operations know nothing else of CuPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Event(Protocol):
    """A point in a stream's work."""

    def done(self) -> bool:
        """Whether everything before it has ended."""
        ...

    def wait(self) -> None:
        """Let the calling thread wait for it."""
        ...

    def since(self, start: Any) -> float:
        """Seconds of the device's clock between two timed events that have passed."""
        ...


class Stream(Protocol):
    """Work in order; two streams know nothing of each other but through events."""

    def record(self, timed: bool = False) -> Event:
        """The point after everything asked of this stream so far."""
        ...

    def wait_for(self, event: Event) -> None:
        """Let the stream's later work wait for another's; the caller does not wait."""
        ...


class Device(Protocol):
    """Memory and launches.

    Arrays have ``shape``, ``dtype``, ``strides``, ``nbytes``, slices and views, no arithmetic.
    Work goes to `stream`, or to :attr:`main`, the stream of everything but loading. Any thread
    may call; a launch returns before its work is done.

    An array may be dropped as soon as the work that uses it is asked for, if it was made for the
    stream of that work: its memory is given out again in that stream's order. Whoever uses it on
    another stream keeps it until an event there has passed, and lets that stream wait for an event
    after its making: the memory may still be in use by what was dropped before.

    Every method raises :class:`~bestpixel_gpu.errors.DeviceError` once the device is lost or a
    kernel has failed, whichever call comes first after that.
    """

    name: str
    """``"cuda:0"``."""
    main: Stream

    def empty(self, shape: int | tuple[int, ...], dtype: Any, stream: Stream | None = None) -> Any:
        """Device memory that belongs to `stream`: freed, it is given out again in that stream's order.

        Raises
        ------
        MemoryError
            If the device has no room left.
        """
        ...

    def upload(self, host: NDArray[Any], stream: Stream | None = None) -> Any:
        """A copy of a host array, not a pinned one; the caller may change `host` as soon as this returns."""
        ...

    def download(self, array: Any, stream: Stream | None = None) -> NDArray[Any]:
        """A copy on the host; waits for the stream's work."""
        ...

    def fill(self, array: Any, value: int, stream: Stream | None = None) -> None:
        """Set every element of an array or of a 2-D window of one."""
        ...

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Host memory that copies to and from the device without staging; any view keeps it pinned.

        Raises
        ------
        MemoryError
            If the system pins no more.
        """
        ...

    def copy_in(self, target: Any, pinned: NDArray[Any], stream: Stream) -> None:
        """Copy pinned memory to the device.

        The caller keeps `pinned`, which may not change before the stream has passed here.
        """
        ...

    def copy_out(self, pinned: NDArray[Any], source: Any, stream: Stream) -> None:
        """Copy from the device into pinned memory, there once the stream has passed here."""
        ...

    def address(self, array: Any) -> int:
        """Where an array starts, as kernels see it."""
        ...

    def launch(
        self,
        kernel: tuple[str, str],
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        args: Sequence[Any],
        stream: Stream | None = None,
    ) -> None:
        """Run a kernel, named by its file in ``cuda/`` (without ``.cu``) and its name there.

        Arguments are device arrays (or windows of them: their first element is passed), numpy
        scalars of the kernel's exact type, or ``None`` for a null pointer.
        """
        ...

    def call(self, work: Callable[[int], object], stream: Stream) -> None:
        """Let a library launch on a stream: `work` gets CUDA's handle of it, on this device."""
        ...

    def stream(self) -> Stream:
        """A new stream."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of device memory."""
        ...

    def release_memory(self) -> None:
        """Give back to the system what was dropped here and is kept for later."""
        ...

    def synchronize(self) -> None:
        """Wait for all streams."""
        ...

    def describe(self) -> dict[str, str]:
        """What the report says of the device: its name, driver, versions."""
        ...


def pitch(array: Any) -> np.int64:
    """Elements from row to row of a 2-D array whose rows are contiguous."""
    if array.shape[1] > 1 and array.strides[1] != array.dtype.itemsize:
        raise ValueError("rows must be contiguous")
    return np.int64(array.strides[0] // array.dtype.itemsize)


def blocks(n: int, size: int) -> int:
    """Blocks of `size` threads for n elements; at least one."""
    return max(1, -(-n // size))
