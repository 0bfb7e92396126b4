"""Memory for bodies and large arrays, used again: fresh pages cost more CPU time than what goes there."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.transfer.pages import fresh_pages

KEPT_BYTES: Final = 32 << 20
"""Most memory that lies ready; more is given back."""
SLAB_BYTES: Final = 16 << 20
"""Taken from the system at once, unless one body is larger."""
PIECE: Final = 64
"""Bodies start at multiples of it: no two share a line of the cache."""
_SMALL: Final = 1 << 16
"""Below, the allocator itself does not ask the system."""

Take = Callable[[int], memoryview]
"""Gives that many writable bytes of any content; any thread may ask."""


class Slab:
    """Memory given out in pieces, each behind the one before."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.memory = memory
        self._free = [(0, memory.size)]
        self._next = 0

    def take(self, size: int, *, lowest: bool = False) -> slice | None:
        """A piece, or ``None`` where there is no room for it.

        Pieces go round and round, so that what is taken at one time lies together; or lie as low as can
        be, so that the fewest pages are touched.
        """
        first = 0 if lowest else bisect(self._free, self._next, key=itemgetter(1))
        for i in (*range(first, len(self._free)), *range(first)):
            start, end = self._free[i]
            if end - start >= size:
                self._next = start + size
                self._free[i : i + 1] = [(self._next, end)] if self._next < end else []
                return slice(start, self._next)
        return None

    def take_back(self, piece: slice) -> None:
        """Nobody uses a piece any more."""
        start, end = piece.start, piece.stop
        i = bisect(self._free, (start, 0))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == start:
            i -= 1
            start = self._free.pop(i)[0]
        self._free.insert(i, (start, end))

    @property
    def unused(self) -> bool:
        """Whether no piece is out."""
        return self._free == [(0, self.memory.size)]

    @property
    def in_use(self) -> int:
        """Bytes that are out."""
        return self.memory.size - sum(end - start for start, end in self._free)


def rounded(size: int) -> int:
    """Bytes that a body takes of a slab."""
    return -(-max(size, 1) // PIECE) * PIECE


class Buffers:
    """Pieces of memory that come back when the last view of them is gone.

    Nobody ever waits for its lock: views end wherever a garbage collection happens to run, and a process
    may fork at any time. Who finds it taken is served by the allocator; what comes back meanwhile is
    looked at the next time.

    Parameters
    ----------
    cap : int
        Most bytes that lie ready in slabs of which nothing is in use.
    """

    def __init__(self, cap: int = KEPT_BYTES) -> None:
        self._cap = cap
        self._slabs: list[Slab] = []
        self._back: deque[tuple[Slab, slice]] = deque()
        self._lock = threading.Lock()

    @property
    def in_use(self) -> int:
        """Bytes that are out."""
        return sum(slab.in_use for slab in list(self._slabs))

    @property
    def held(self) -> int:
        """Bytes of all slabs."""
        return sum(slab.memory.size for slab in list(self._slabs))

    def take(self, size: int) -> memoryview:
        """Return `size` writable bytes of any content."""
        if size < _SMALL or not self._lock.acquire(blocking=False):
            return np.empty(size, np.uint8).data
        try:
            slab, piece = self._piece(rounded(size))
        finally:
            self._lock.release()
        part = slab.memory[piece.start : piece.start + size]
        weakref.finalize(part, self._come_back, slab, piece).atexit = False
        return part.data

    def clear(self) -> None:
        """Give back what is not in use."""
        self._settle(0)

    def _piece(self, size: int) -> tuple[Slab, slice]:
        self._take_back()
        for slab in self._slabs:
            if piece := slab.take(size, lowest=True):
                return slab, piece
        self._slabs.append(Slab(fresh_pages(max(size, SLAB_BYTES))))
        return self._piece(size)

    def _come_back(self, slab: Slab, piece: slice) -> None:
        self._back.append((slab, piece))
        self._settle(self._cap)

    def _settle(self, cap: int) -> None:
        """Take back what came, keep so many bytes in slabs that nobody uses."""
        if self._lock.acquire(blocking=False):
            try:
                self._take_back()
                for slab in [slab for slab in self._slabs if slab.unused]:
                    cap -= slab.memory.size
                    if cap < 0:
                        self._slabs.remove(slab)
            finally:
                self._lock.release()

    def _take_back(self) -> None:
        while self._back:
            slab, piece = self._back.popleft()
            slab.take_back(piece)


BUFFERS: Final = Buffers()
"""The process's own."""
