"""Pinned memory for what comes from the network: the device copies from where it was received."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cuda.device import Device
from bestpixel_gpu.errors import DeviceError
from bestpixel_gpu.transfer.buffers import BUFFERS, Buffers

RECEIVE_BYTES = 384 << 20
"""Pinned at most: tiles on the way (256 MiB with plenty of memory), those kept for repair (64), and masks."""
SPARE_BYTES = 4 << 20
"""Pinned before all else and given up when the system refuses more: the loader's lanes find room then."""


class Pinned(np.ndarray[Any, np.dtype[np.uint8]]):
    """Pinned memory. A type of its own, so that whoever gets a view of it can tell (:func:`pinned_under`)."""


def pinned_under(stored: NDArray[np.uint8]) -> Pinned | None:
    """The pinned buffer in which an array over a body's bytes lies; ``None`` if they lie elsewhere."""
    whole = getattr(stored.base, "obj", None)  # what a memoryview was made of, however it was cut since
    return whole if isinstance(whole, Pinned) else None


class Receiver:
    """Buffers for bodies: pinned while there is room, ordinary beyond.

    Pinning takes longer than copying once, so blocks are kept for later bodies. Nothing is pinned before
    the first is asked for, and nothing at all in a forked child, where CUDA does not work.

    Parameters
    ----------
    device : Device
    cap : int
        Most bytes to be pinned, in use or ready.
    """

    def __init__(self, device: Device, cap: int = RECEIVE_BYTES) -> None:
        self._device, self._process = device, os.getpid()
        self._cap = self._room = cap
        self._pinned = 0
        self._spare: NDArray[np.uint8] | None = None
        self._blocks = Buffers(cap, self._pin)
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """`size` writable bytes of any content; used again when the last view of them is gone."""
        if os.getpid() == self._process:
            with suppress(MemoryError, DeviceError):  # of a lost device those hear who load
                return self._blocks.take(size)
        return BUFFERS.take(size)

    def clear(self) -> None:
        """Unpin what is not in use."""
        with self._lock:
            self._pinned -= self._blocks.clear()
            self._room, self._spare = self._cap, None

    def give_way(self) -> None:
        """Unpin what is not in use, and pin no more: others need it."""
        with self._lock:
            self._pinned -= self._blocks.clear()
            self._room, self._spare = 0, None

    def _pin(self, size: int) -> NDArray[np.uint8]:
        with self._lock:
            if self._pinned + size > self._room and 2 * self._blocks.ready > self._room:
                self._pinned -= self._blocks.clear()  # sizes that nobody asks for any more
            if self._pinned + size > self._room:
                raise MemoryError(f"{size} bytes beyond {self._pinned} pinned ones")
            try:
                if self._spare is None:
                    self._spare = self._device.pinned(SPARE_BYTES)
                block = self._device.pinned(size)
            except MemoryError:
                self._room, self._spare = self._pinned, None  # asking again each time would be slow
                raise
            self._pinned += size
            return block.view(Pinned)
