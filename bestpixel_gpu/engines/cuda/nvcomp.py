"""nvCOMP's batched Deflate decompression, called through ctypes.

nvCOMP is optional and proprietary: it is looked for where its wheels put it and never shipped. It
takes raw Deflate (RFC 1951), so the frame of a zlib stream (RFC 1950) is checked and cut here, and
its Adler-32 is left for a kernel to verify. On damaged streams nvCOMP promises nothing: a status of
0 is no proof.

Device memory is given by its addresses, as integers; nothing here knows CuPy. The library brings
its own CUDA runtime, which runs on a driver of its own CUDA major or a later one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bestpixel_gpu.engines.cuda.environment import INSTALL, installed, version_text
from bestpixel_gpu.errors import DeviceError

ENVIRONMENT = "BESTPIXEL_NVCOMP_LIBRARY"
PACKAGES = ("nvidia-libnvcomp-cu12", "nvidia-libnvcomp-cu13")
"""Distributions that install into the same folder, the later one over the earlier one."""
PAYLOAD_ALIGNMENT = 16
"""Payloads start at multiples of this; nvCOMP 5 and 6 require 4 and run faster with more."""
HEADER, TRAILER = 2, 4
"""Bytes around the Deflate payload of a zlib stream: CMF and FLG before it, the Adler-32 after it."""

_WINDOWS = sys.platform == "win32"
_NAMES = [f"nvcomp64_{major}.dll" if _WINDOWS else f"libnvcomp.so.{major}" for major in (6, 5)]
_OLDEST, _TOO_NEW = 5, 7
_SAFE = "or use inflate='safe'"
_STATUS = {
    0: "success",
    10: "invalid value",
    11: "not supported",
    12: "cannot decompress",
    13: "bad checksum",
    14: "cannot verify checksums",
    15: "output buffer too small",
    16: "wrong header length",
    17: "wrong alignment",
    18: "chunk too large",
    19: "cannot compress",
    20: "wrong input length",
    21: "batch too large",
    22: "too many sub-chunks",
    23: "too few sub-chunks",
    24: "output alignment too small",
    1000: "CUDA error",
    10000: "internal error",
}
"""``nvcompStatus_t``, the return value of every function and the status of every chunk."""


class _Properties(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("cudart_version", ctypes.c_uint32))


class _Alignments(ctypes.Structure):
    _fields_ = (("input", ctypes.c_size_t), ("output", ctypes.c_size_t), ("temp", ctypes.c_size_t))


class _Options(ctypes.Structure):
    """``nvcompBatchedDeflateDecompressOpts_t``: zeros let nvCOMP choose between engine and SMs."""

    _fields_ = (
        ("backend", ctypes.c_int),
        ("sort_before_hw_decompress", ctypes.c_int),
        ("reserved", ctypes.c_char * 56),
    )


_OPTIONS = _Options()
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t


class Alignments(NamedTuple):
    """Bytes that the addresses of each kind of buffer must be multiples of."""

    input: int
    output: int
    temp: int


class Nvcomp:
    """One loaded nvCOMP library.

    Attributes
    ----------
    path : str
        What was loaded.
    version : tuple of int
        Major, minor, patch.
    cudart : int
        CUDA runtime inside it, as 12090 for 12.9.
    """

    def __init__(self, path: str, driver: int | None = None) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise DeviceError(f"nvCOMP cannot be loaded ({error}): {INSTALL}, {_SAFE}") from None
        properties = _Properties()
        self._call("nvcompGetProperties", [ctypes.POINTER(_Properties)], ctypes.byref(properties))
        number = int(properties.version)
        self.version = (number // 1000, number % 1000 // 100, number % 100)
        self.cudart = int(properties.cudart_version)
        if not _OLDEST <= self.version[0] < _TOO_NEW:
            raise DeviceError(f"{self} is not one this package knows (5 and 6): {INSTALL}, {_SAFE}")
        if driver is not None and self.cudart // 1000 > driver // 1000:
            raise DeviceError(self._wrong_major(driver))
        if self.alignments().input > PAYLOAD_ALIGNMENT:
            raise DeviceError(
                f"{self} wants input more aligned than {PAYLOAD_ALIGNMENT} bytes: use inflate='safe'"
            )

    @classmethod
    def load(cls, path: str | None = None, *, driver: int | None = None) -> Nvcomp:
        """The library at `path`, or the first one found that can be used.

        Parameters
        ----------
        path : str, optional
            A shared library; by default those of :func:`find_library` are tried.
        driver : int, optional
            CUDA version of the driver (13000 for 13.0), which must be able to run the library;
            not checked where absent.

        Raises
        ------
        DeviceError
            If there is none, or none that this package or the driver knows.
        """
        if path is not None:
            return cls(path, driver)
        refused: dict[str, DeviceError] = {}
        for candidate in find_library():
            try:
                return cls(candidate, driver)
            except DeviceError as error:
                refused[candidate] = error
        known = [error for candidate, error in refused.items() if candidate not in _NAMES]
        raise known[0] if known else DeviceError(f"nvCOMP is not installed: {INSTALL}, {_SAFE}")

    def __str__(self) -> str:
        return f"nvCOMP {'.'.join(map(str, self.version))} at {self.path}"

    def alignments(self) -> Alignments:
        """What the library requires of addresses; :func:`payload_slot` gives input enough."""
        out = _Alignments()
        self._call(
            "nvcompBatchedDeflateDecompressGetRequiredAlignments",
            [_Options, ctypes.POINTER(_Alignments)],
            _OPTIONS,
            ctypes.byref(out),
        )
        return Alignments(out.input, out.output, out.temp)

    def temp_bytes(self, n: int, max_chunk: int, max_total: int, stream: int = 0) -> int:
        """Bytes of device memory that decompressing needs besides its input and output.

        Parameters
        ----------
        n : int
            Chunks of the batch.
        max_chunk, max_total : int
            Decompressed bytes of the largest chunk and of all of them.
        stream : int
            Address of the CUDA stream.
        """
        out = ctypes.c_size_t()
        name = "nvcompBatchedDeflateDecompressGetTempSize"
        kinds = [_SIZE, _SIZE, _Options, ctypes.POINTER(ctypes.c_size_t), _SIZE]
        values = [n, max_chunk, _OPTIONS, ctypes.byref(out), max_total]
        if self.version[0] == 5:
            self._call(name + "Async", kinds, *values)
        else:
            self._call(name, [*kinds, _POINTER], *values, stream)
        return out.value

    def decompress_async(
        self,
        d_in_ptrs: int,
        d_in_bytes: int,
        d_out_capacity: int,
        d_out_bytes: int,
        n: int,
        d_temp: int,
        temp_bytes: int,
        d_out_ptrs: int,
        d_status: int,
        stream: int,
    ) -> None:
        """Ask the stream to inflate `n` payloads; returns at once and allocates nothing.

        Every ``d_`` is an address in device memory, of an array of n where nothing else is said.

        Parameters
        ----------
        d_in_ptrs, d_in_bytes : int
            Addresses (uint64) and lengths (uint64) of the payloads.
        d_out_capacity, d_out_ptrs : int
            Room (uint64) at each output's address (uint64).
        d_out_bytes : int
            Written: bytes that each payload inflated to (uint64).
        n : int
            Payloads, at least 1.
        d_temp, temp_bytes : int
            Scratch memory of :meth:`temp_bytes`.
        d_status : int
            Written: status of each payload (int32); :meth:`status_name` names it.
        stream : int
            Address of the CUDA stream.

        Raises
        ------
        DeviceError
            If the work could not be asked for.
        """
        self._call(
            "nvcompBatchedDeflateDecompressAsync",
            [_POINTER] * 4 + [_SIZE, _POINTER, _SIZE, _POINTER, _Options, _POINTER, _POINTER],
            *(d_in_ptrs, d_in_bytes, d_out_capacity, d_out_bytes, n),
            *(d_temp, temp_bytes, d_out_ptrs, _OPTIONS, d_status, stream),
        )

    def status_name(self, status: int) -> str:
        """A status in words; the library is asked for those that are newer than this package."""
        if status in _STATUS:
            return _STATUS[status]
        try:
            describe = self._library.nvcompGetStatusString  # from 5.2 on
        except AttributeError:
            return "unknown"
        describe.argtypes, describe.restype = [ctypes.c_int], ctypes.c_char_p
        return (describe(status) or b"unknown").decode(errors="replace")

    def _call(self, name: str, kinds: list[Any], *values: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise DeviceError(
                f"{self.path} has no {name}, as nvCOMP 5 and 6 have: {INSTALL}, {_SAFE}"
            ) from None
        function.argtypes, function.restype = kinds, ctypes.c_int
        status = function(*values)
        if status != 0:
            reason = f"{self.status_name(status)} ({status})"
            raise DeviceError(f"{name} of {self.path} failed, {reason}: use inflate='safe'")

    def _wrong_major(self, driver: int) -> str:
        found = installed(*PACKAGES)
        built, supported = version_text(self.cudart), version_text(driver)
        what = f"{self} was built for CUDA {built}, and the driver supports {supported}"
        right = f"nvidia-libnvcomp-cu{driver // 1000}"
        if len(found) > 1:
            return (
                f"{what}; {' and '.join(found)} overwrite each other: "
                f"pip uninstall -y {' '.join(found)}, then pip install {right}, {_SAFE}"
            )
        return f"{what}: install {right} in its place, {_SAFE}"


def find_library() -> list[str]:
    """Where nvCOMP may be, the best first; imports nothing of NVIDIA's packages.

    What the variable ``BESTPIXEL_NVCOMP_LIBRARY`` names stands alone. Otherwise: files of the
    ``nvidia-libnvcomp`` wheels, of the ``nvidia-nvcomp`` wheels up to 5.0, newer majors first, and
    the names that the system's loader may know.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        return [named]
    try:
        spec = find_spec("nvidia")  # a namespace: its parts may lie in several folders
    except ValueError:  # a module of that name that says nothing of where it came from
        spec = None
    roots = [Path(root) for root in (spec and spec.submodule_search_locations) or ()]
    inside = ("libnvcomp/bin" if _WINDOWS else "libnvcomp/lib64", "nvcomp")
    places = [root / folder / name for folder in inside for root in roots for name in _NAMES]
    return [str(place) for place in places if place.is_file()] + _NAMES


def strip_zlib(data: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """Offset and length of the Deflate payload in a zlib stream; ``None`` where it has no such frame.

    The header is checked as RFC 1950, 2.2 asks: method 8, window up to 32 KiB, the check bits, and
    no preset dictionary. Bytes after the stream's end would count as its sum, which then differs.
    """
    if len(data) < HEADER + 2 + TRAILER:  # an empty payload takes 2 bytes
        return None
    method, flags = data[0], data[1]
    if method & 15 != 8 or method >> 4 > 7 or (method << 8 | flags) % 31 or flags & 32:
        return None
    return HEADER, len(data) - HEADER - TRAILER


def payload_slot(position: int) -> int:
    """First offset from `position` on for a zlib stream whose payload is to be aligned.

    14 modulo 16: the payload starts two bytes on. The buffer itself is aligned, and as long as
    whole words reach, because the payload is read in words.
    """
    return position + (PAYLOAD_ALIGNMENT - HEADER - position) % PAYLOAD_ALIGNMENT
