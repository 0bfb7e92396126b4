"""Where zlib streams are inflated: libdeflate by address, else a Python function.

libdeflate comes with the `deflate` package, whose extension file exports its C functions on most
systems. Where it does not, the package's own Python function is called; where the package is
missing, a function compiled by Numba; on a machine that this one is not written for, :mod:`zlib`.
All four check the Adler-32 sum, release the GIL, refuse a stream that does not yield exactly the
expected bytes, and ignore bytes after the stream's end.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = bytes | bytearray | memoryview
InflateFunction = Callable[[Bytes, int], "bytes | bytearray | NDArray[np.uint8] | None"]
"""Stream and expected length -> bytes, ``None`` where they are not exactly that."""


@dataclass(frozen=True, slots=True)
class Libdeflate:
    """The C functions of libdeflate; the library stays loaded while this lives."""

    library: Any
    decompress: int
    """Address of ``libdeflate_zlib_decompress``."""

    def decompressor(self) -> Decompressor:
        """State for one thread."""
        return Decompressor(self)


class Decompressor:
    """One thread's libdeflate state, given back with the thread."""

    def __init__(self, functions: Libdeflate) -> None:
        self._free = functions.library.libdeflate_free_decompressor
        self.address: int = functions.library.libdeflate_alloc_decompressor() or 0
        if not self.address:
            raise MemoryError("libdeflate could not allocate a decompressor")

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            self._free(self.address)
            self.address = 0


@cache
def libdeflate() -> Libdeflate | None:
    """C functions of libdeflate, ``None`` where no installed file exports them."""
    try:
        from deflate import _deflate

        library = ctypes.CDLL(_deflate.__file__)
        library.libdeflate_alloc_decompressor.restype = ctypes.c_void_p
        library.libdeflate_free_decompressor.argtypes = [ctypes.c_void_p]
        address = ctypes.cast(library.libdeflate_zlib_decompress, ctypes.c_void_p).value
    except (ImportError, OSError, AttributeError):
        return None
    return Libdeflate(library, address) if address and ctypes.sizeof(ctypes.c_size_t) == 8 else None


def with_deflate(data: Bytes, size: int) -> bytearray | None:
    """Inflate by the `deflate` package's Python function."""
    import deflate

    try:
        out: bytearray = deflate.zlib_decompress(data, size)
    except (deflate.DeflateError, ValueError, MemoryError):
        return None
    return out if len(out) == size else None


def with_numba(data: Bytes, size: int) -> NDArray[np.uint8] | None:
    """Inflate by compiled Python; the first call compiles it or takes it from the cache."""
    from bestpixel_gpu.engines.cpu.numba_inflate import inflate_bytes

    return inflate_bytes(data, size)


def with_zlib(data: Bytes, size: int) -> bytes | None:
    """Inflate by :mod:`zlib`; memory stays bounded by `size` whatever the stream holds."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, size + 1)
    except zlib.error:
        return None
    return out if len(out) == size and stream.eof else None


@cache
def python_inflate() -> InflateFunction:
    """The best inflate that is called from Python."""
    try:
        from deflate import zlib_decompress  # noqa: F401
    except ImportError:
        return with_numba if sys.byteorder == "little" and sys.maxsize > 2**32 else with_zlib
    return with_deflate


class ThreadState(threading.local):
    """A decompressor for each thread that asks for one."""

    def __init__(self) -> None:
        self._decompressor: Decompressor | None = None

    def decompressor(self, functions: Libdeflate) -> int:
        """Address of this thread's decompressor."""
        if self._decompressor is None:
            self._decompressor = functions.decompressor()
        return self._decompressor.address
