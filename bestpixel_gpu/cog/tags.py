"""Bytes to tags: the container of a TIFF (classic and BigTIFF, both byte orders), without meaning."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import FormatError

READ_AHEAD = 16 << 10
"""Least bytes asked for at once: one request then mostly brings the neighbours that follow."""
HEADER_LIMIT = 64 << 20
"""Most header bytes held of one file; 4 million tiles fit."""
MAX_TAGS = 4096
"""Tags of one directory; TIFF writers use some thirty."""

_TYPES = {
    1: "u1", 2: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4",
    11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
_SIZES = {kind: int(name[1]) for kind, name in _TYPES.items()}
_INTEGERS = frozenset({1, 3, 4, 6, 8, 9, 13, 16, 17, 18})
_SIGNED = frozenset({6, 8, 9, 17})
_DTYPES = {order: {kind: np.dtype(order + name) for kind, name in _TYPES.items()} for order in "<>"}

_PARTS = {
    (order, big): tuple(struct.Struct(order + part) for part in parts)
    for order in "<>"
    for big, parts in {False: ("H", "HHI4s", "I"), True: ("Q", "HHQ8s", "Q")}.items()
}
"""Of a directory in classic and BigTIFF: number of tags, one tag, offset of the next directory."""

Entry = tuple[int, int, int, bytes]
"""A tag, the type of its values, their number, and the field that holds them or their offset."""
_ABSENT: Entry = (0, 0, 0, b"")


def holds_values(entry: Entry) -> bool:
    """Tell whether all values of a tag stand in its entry, not elsewhere in the file."""
    return entry[2] * _SIZES[entry[1]] <= len(entry[3])


class NeedBytes(Exception):  # noqa: N818 (a request to the caller, not an error)
    """Bytes that the parser needs next: fetch them, ``add`` them, parse again.

    Attributes
    ----------
    offset, length : int
        Range of the file. Where the file ends earlier, fewer bytes may be added.
    """

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(f"bytes {offset}-{offset + length - 1} of the file are needed")
        self.offset = offset
        self.length = length


class HeaderBytes:
    """The pieces of a file that are known so far.

    Parameters
    ----------
    first : bytes
        The file's beginning.
    size : int or None
        Size of the file, if known.
    """

    def __init__(self, first: bytes, size: int | None = None) -> None:
        self._pieces = [(0, memoryview(first))]
        self._asked: tuple[int, int] | None = None
        self.size = size

    def add(self, offset: int, data: bytes) -> None:
        """Take a piece; one that is shorter than was asked for shows where the file ends."""
        self._pieces.append((offset, memoryview(data)))
        if self._asked is not None and offset == self._asked[0] and len(data) < self._asked[1]:
            self.size = offset + len(data)

    def read(self, offset: int, length: int) -> memoryview:
        """The bytes of a range.

        Raises
        ------
        NeedBytes
            If no single piece holds the range.
        FormatError
            If it passes the end of the file or the bound on header bytes.
        """
        end = offset + length
        for start, data in self._pieces:
            if start <= offset and end <= start + len(data):
                return data[offset - start : end - start]
        if end > (1 << 63 if self.size is None else self.size):
            raise FormatError(f"TIFF header points to bytes {offset}-{end - 1}, past the end of the file")
        if sum(len(data) for _, data in self._pieces) + length > HEADER_LIMIT:
            raise FormatError(f"TIFF header larger than {HEADER_LIMIT >> 20} MiB")
        end = max(end, offset + READ_AHEAD)
        if self.size is not None and end > self.size:
            # near the end of the file the rest of the request reaches back instead
            end, offset = self.size, min(offset, max(0, self.size - READ_AHEAD))
        self._asked = (offset, end - offset)
        raise NeedBytes(*self._asked)


class Directory:
    """The tags of one image (IFD); values are read from the file when they are asked for."""

    __slots__ = ("_endian", "_entries", "_header", "byteorder", "next")

    def __init__(
        self, header: HeaderBytes, byteorder: Literal["<", ">"], entries: dict[int, Entry], following: int = 0
    ) -> None:
        self._header = header
        self._entries = entries
        self._endian: Literal["little", "big"] = "little" if byteorder == "<" else "big"
        self.byteorder = byteorder
        self.next = following
        """Offset of the next directory, 0 if it is the last."""

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def entries(self, tags: Iterable[int]) -> tuple[Entry | None, ...]:
        """What the directory itself says of some tags, ``None`` for those that are absent."""
        return tuple(map(self._entries.get, tags))

    def _stored(self, entry: Entry, size: int) -> bytes | memoryview:
        """First `size` bytes of a tag's values, which stand in the entry itself if all of them fit."""
        _, kind, count, field = entry
        if count * _SIZES[kind] <= len(field):
            return field[:size]
        return self._header.read(int.from_bytes(field, self._endian), size)

    def array(self, tag: int) -> NDArray[np.generic] | None:
        """Values of a tag in the file's byte order, ``None`` if it is absent or of no known type."""
        entry = self._entries.get(tag)
        if entry is None:
            return None
        _, kind, count, _ = entry
        return np.frombuffer(self._stored(entry, count * _SIZES[kind]), _DTYPES[self.byteorder][kind])

    def integers(self, tag: int) -> NDArray[np.uint64] | None:
        """Values of an integer tag, ``None`` if it is absent, empty or of another type."""
        _, kind, count, _ = self._entries.get(tag, _ABSENT)
        values = self.array(tag) if kind in _INTEGERS and count else None
        return None if values is None else values.astype(np.uint64)

    def integer(self, tag: int, default: int) -> int:
        """First value of an integer tag."""
        entry = self._entries.get(tag)
        if entry is None or entry[1] not in _INTEGERS or not entry[2]:
            return default
        kind = entry[1]
        return int.from_bytes(self._stored(entry, _SIZES[kind]), self._endian, signed=kind in _SIGNED)

    def count(self, tag: int) -> int:
        """How many values a tag has, 0 if it is absent."""
        return self._entries.get(tag, _ABSENT)[2]

    def doubles(self, tag: int) -> tuple[float, ...]:
        """Values of a floating-point tag, empty if it is absent or of another type."""
        entry = self._entries.get(tag, _ABSENT)
        _, kind, count, _ = entry
        if kind not in (11, 12):
            return ()
        form = f"{self.byteorder}{count}{'f' if kind == 11 else 'd'}"
        return struct.unpack(form, self._stored(entry, count * _SIZES[kind]))

    def raw(self, tag: int) -> bytes:
        """Bytes of a text or opaque tag, empty if it is absent."""
        entry = self._entries.get(tag, _ABSENT)
        _, kind, count, _ = entry
        return bytes(self._stored(entry, count)) if kind in (1, 2, 7) else b""

    def text(self, tag: int) -> str:
        """Text up to the first zero byte, if there is one."""
        return self.raw(tag).split(b"\0", 1)[0].decode("utf-8", "replace")


class TiffFile:
    """Byte order, flavour and first directory of a TIFF.

    Raises
    ------
    FormatError
        If the bytes do not begin like a TIFF.
    """

    __slots__ = ("_header", "big", "byteorder", "first")

    def __init__(self, header: HeaderBytes) -> None:
        magic = bytes(header.read(0, 8))
        marks: dict[bytes, Literal["<", ">"]] = {b"II": "<", b"MM": ">"}
        if magic[:2] not in marks:
            raise FormatError(f"not a TIFF: the file begins with {magic[:4]!r}")
        self._header = header
        self.byteorder = marks[magic[:2]]
        version, self.first = struct.unpack(self.byteorder + "HI", magic[2:])
        if version not in (42, 43):
            raise FormatError(f"not a TIFF: version {version} instead of 42 or 43")
        self.big = version == 43
        if self.big:
            head = header.read(0, 16)
            offset_size, zero, self.first = struct.unpack(self.byteorder + "HHQ", head[4:])
            if (offset_size, zero) != (8, 0):
                raise FormatError(f"BigTIFF with offsets of {offset_size} bytes: only 8 is defined")

    def directory(self, offset: int) -> Directory:
        """Directory at a file offset."""
        if offset < 8:
            raise FormatError(f"TIFF directory at byte {offset}, inside the file's first 8 bytes")
        order, header = self.byteorder, self._header
        head, item, tail = _PARTS[order, self.big]
        (count,) = head.unpack(header.read(offset, head.size))
        if not 0 < count <= MAX_TAGS:
            raise FormatError(f"TIFF directory at byte {offset} declares {count} tags")
        body = count * item.size
        block = header.read(offset + head.size, body + tail.size)
        listed: list[Entry] = list(item.iter_unpack(block[:body]))
        # of a tag that is there twice the first counts
        entries = {entry[0]: entry for entry in reversed(listed) if entry[1] in _SIZES}
        (following,) = tail.unpack_from(block, body)
        return Directory(header, order, entries, following)
