"""Memory for bodies, used again: fresh pages cost more CPU time than the bytes copied into them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

KEPT_BYTES: Final = 32 << 20
"""About the most memory that lies ready; more is given back."""
_SMALL: Final = 1 << 16
"""Below, the allocator itself does not ask the system."""

Take = Callable[[int], memoryview]
"""Gives that many writable bytes of any content; any thread may ask."""


class Buffers:
    """Blocks of memory that come back when the last view of them is gone.

    Holds no lock, for blocks come back wherever a garbage collection happens to run; what is counted
    may be off by a block or two.

    Parameters
    ----------
    cap : int
        About the most bytes that lie ready.
    """

    def __init__(self, cap: int = KEPT_BYTES) -> None:
        self._cap = cap
        self._ready: dict[int, deque[NDArray[np.uint8]]] = {}

    @property
    def ready(self) -> int:
        """Bytes that lie ready."""
        return sum(size * len(blocks) for size, blocks in list(self._ready.items()))

    def take(self, size: int) -> memoryview:
        """Return `size` writable bytes of any content."""
        if size < _SMALL:
            return np.empty(size, np.uint8).data
        full = _rounded(size)
        try:
            block = self._ready[full].pop()
        except (KeyError, IndexError):
            block = np.empty(full, np.uint8)
        part = block[:size]
        weakref.finalize(part, self._come_back, block).atexit = False
        return part.data

    def clear(self) -> None:
        """Give back what lies ready."""
        for blocks in list(self._ready.values()):
            blocks.clear()

    def _come_back(self, block: NDArray[np.uint8]) -> None:
        if self.ready + block.size <= self._cap:
            self._ready.setdefault(block.size, deque()).append(block)


def _rounded(size: int) -> int:
    """`size` rounded up to one of four sizes per power of two: at most a quarter is not used."""
    step = 1 << (size - 1).bit_length() - 3
    return -(-size // step) * step


BUFFERS: Final = Buffers()
"""The process's own."""
