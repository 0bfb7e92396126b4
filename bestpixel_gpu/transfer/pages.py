"""Memory fresh from the system, in large pages where those cost less."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

LARGE_PAGE: Final = 2 << 20
"""Bytes of a large page on x86 and ARM; elsewhere this is but an alignment."""
FEW_PAGES: Final = 64 << 20
"""Bytes of large pages that a process finds ready anywhere."""
_REPORTING: Final = Path("/sys/module/page_reporting/parameters/page_reporting_order")
"""Linux: from which order on free pages are reported to the host, if one listens."""
_LARGEST_ORDER: Final = 10


class LargePages:
    """Tells where a large page is asked for: it mostly costs a fifth of as many small ones.

    A virtual machine may hand large free pages back to its host, but for the last few. To take one again
    then costs up to five times as much as small ones, which lie ready in pieces below that size. There a
    process has only the first ones.
    """

    def __init__(self, reporting: Path = _REPORTING) -> None:
        try:
            self._few = int(reporting.read_text()) <= _LARGEST_ORDER  # any number beyond: nobody listens
        except (OSError, ValueError):
            self._few = False
        self._left = FEW_PAGES

    def wanted(self, size: int) -> bool:
        """Whether to ask for so many bytes of them, which are then taken."""
        if self._few and size > self._left:
            return False
        self._left -= size
        return True


_LARGE_PAGES: Final = LargePages()


def fresh_pages(size: int) -> NDArray[np.uint8]:
    """`size` zeros in memory that nobody used, in large pages where those are cheaper.

    A rest of less than half a large page is left to small ones.

    Raises
    ------
    MemoryError
        If the system has no such memory.
    """
    if size < LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, np.uint8)
    large = (size + LARGE_PAGE // 2) // LARGE_PAGE * LARGE_PAGE
    try:
        area = mmap.mmap(-1, max(size, large) + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {size} bytes") from error
    memory = np.frombuffer(area, np.uint8)
    start = -memory.ctypes.data % LARGE_PAGE
    if _LARGE_PAGES.wanted(large):
        with suppress(OSError):  # a system built without them
            area.madvise(mmap.MADV_HUGEPAGE, 0, start + large)
    return memory[start : start + size]
