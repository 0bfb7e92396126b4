"""Pinned memory for what comes from the network: the device copies from where it was received."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cuda.device import Device
from bestpixel_gpu.errors import DeviceError
from bestpixel_gpu.transfer.buffers import BUFFERS, Slab, rounded

RECEIVE_BYTES = 384 << 20
"""Pinned at most: tiles on the way (256 MiB with plenty of memory), those kept for repair (64), and masks."""
SLAB_BYTES = 32 << 20
"""Pinned at once, for the device's streams wait for each other meanwhile; larger bodies are not pinned."""
SPARE_BYTES = 4 << 20
"""Pinned before all else and given up when the system refuses more: the loader's lanes find room then."""


class Pinned(np.ndarray[Any, np.dtype[np.uint8]]):
    """Pinned memory. A type of its own, so that whoever gets a view of it can tell (:func:`slab_of`)."""


def slab_of(array: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The slab in which a piece lies, or an array over a body's bytes; ``None`` if they lie elsewhere."""
    piece = getattr(array.base, "obj", array)  # what a memoryview was made of, however it was cut since
    return piece.base if isinstance(piece, Pinned) else None


class Receiver:
    """Buffers for bodies: pinned while there is room, ordinary beyond.

    Nothing is pinned before the first is asked for, and nothing at all in a forked child, where CUDA
    does not work.

    Parameters
    ----------
    device : Device
    cap : int
        Most bytes to be pinned, in use or ready.
    """

    def __init__(self, device: Device, cap: int = RECEIVE_BYTES) -> None:
        self._device, self._process = device, os.getpid()
        self._cap = self._room = cap
        self._slabs: deque[Slab] = deque()
        self._back: deque[tuple[Slab, slice]] = deque()
        self._spare: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """`size` writable bytes of any content; used again when the last view of them is gone."""
        pinned = self.pinned(size)
        return BUFFERS.take(size) if pinned is None else pinned.data

    def pinned(self, size: int) -> NDArray[np.uint8] | None:
        """The same, behind what was given last; ``None`` where nothing more can be pinned."""
        if os.getpid() == self._process:
            with suppress(MemoryError, DeviceError), self._lock:  # of a lost device those hear who load
                slab, piece = self._piece(rounded(size))
                part = slab.memory[piece.start : piece.start + size]
                # views end wherever a garbage collection happens to run: nobody may wait for the lock there
                weakref.finalize(part, self._back.append, (slab, piece)).atexit = False
                return part
        return None

    def clear(self) -> None:
        """Unpin what is not in use."""
        with self._lock:
            self._drop()
            self._room, self._spare = self._cap, None

    def give_way(self) -> None:
        """Unpin what is not in use, and pin no more: others need it."""
        with self._lock:
            self._drop()
            self._room, self._spare = 0, None

    def _drop(self) -> None:
        self._take_back()
        self._slabs = deque(slab for slab in self._slabs if not slab.unused)

    def _take_back(self) -> None:
        with suppress(IndexError):
            while True:
                slab, piece = self._back.popleft()
                slab.take_back(piece)

    def _piece(self, size: int) -> tuple[Slab, slice]:
        self._take_back()
        for _ in range(len(self._slabs)):
            if piece := self._slabs[0].take(size):
                return self._slabs[0], piece
            self._slabs.rotate(-1)  # and goes on in the next one: neighbours stay neighbours
        self._slabs.appendleft(self._pin(size))
        return self._piece(size)

    def _pin(self, size: int) -> Slab:
        pinned = sum(slab.memory.size for slab in self._slabs)
        room = min(SLAB_BYTES, self._room - pinned)
        if size > room:
            raise MemoryError(f"{size} bytes beyond {pinned} pinned ones")
        try:
            if self._spare is None:
                self._spare = self._device.pinned(SPARE_BYTES)
            return Slab(self._device.pinned(room).view(Pinned))
        except MemoryError:
            self._room, self._spare = pinned, None  # asking again each time would be slow
            raise
