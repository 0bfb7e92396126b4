"""A small writer of Cloud Optimized GeoTIFFs, laid out like those of the real archives.

One sample a pixel, DEFLATE, classic little-endian TIFF. All directories come first, then the
tiles, smallest overview first. With a ghost header each tile stands between its size and a copy
of its last four bytes, as GDAL's COG driver writes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import deflate
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.integer[Any]]

_HINTS = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_HINTS) + _HINTS
Entry = tuple[int, str, list[int] | list[float]]  # tag, kind of value, values
_FORMATS = {"H": (3, "<u2"), "I": (4, "<u4"), "d": (12, "<f8"), "s": (2, "u1")}


@dataclass(frozen=True, slots=True, kw_only=True)
class CogLayout:
    """How the pixels of a file are stored."""

    block: int
    """Side of a full-resolution tile."""
    overview_block: int
    """Side of an overview's tile."""
    bits: int
    """Bits of a stored sample: 8, 16, or fewer than 16 packed without gaps."""
    predictor: Literal[1, 2] = 1
    """2: horizontal differences; TIFF allows it for whole bytes only."""
    nodata: bool = True
    """Whether the file names its fill as nodata."""
    fill: int = 0
    """Value of pixels that hold nothing."""
    ghost: bool = True
    """GDAL's structural hints, with leaders and trailers around the tiles."""
    fixed_levels: int | None = None
    """Number of overviews, sizes rounded up; ``None``: halve, rounded down, until one tile holds it."""
    subifds: bool = False
    """Overviews in SubIFDs instead of the main chain (GDAL itself never writes that)."""
    nearest: bool = False
    """Overviews take the nearest pixel (classes) instead of the mean of four."""
    level: int = 6
    """Compression level of libdeflate, 1..12."""


@dataclass(frozen=True, slots=True)
class GeoReference:
    """Where the upper left corner lies, and how large a pixel is."""

    epsg: int
    """0: the sinusoidal grid of MODIS, told by user-defined keys as GDAL writes them."""
    x: float
    y: float
    metres: float


def write_cog(path: Path, image: Samples, where: GeoReference, layout: CogLayout) -> int:
    """Number of bytes written to `path`, whose folder is made.

    Parameters
    ----------
    image
        Shape (rows, columns); 8-bit, up to 16-bit unsigned or 16-bit signed samples.
    """
    data = encode_cog(image, where, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return len(data)


def encode_cog(image: Samples, where: GeoReference, layout: CogLayout) -> bytes:
    """The bytes of the whole file; see :func:`write_cog`."""
    levels = pyramid(image, layout)
    tiles = [_encode_level(a, k, layout) for k, a in enumerate(levels)]
    ghost = GHOST + b"\0" * (len(GHOST) & 1) if layout.ghost else b""  # directories start on even offsets
    start = 8 + len(ghost)

    blank = [[0] * len(t) for t in tiles]
    sizes = [len(d) for d in _directories(levels, tiles, blank, [0] * len(levels), where, layout)]
    at = [start + sum(sizes[:k]) for k in range(len(sizes))]
    offsets = _place(tiles, start + sum(sizes), layout.ghost)

    parts = [b"II*\0", struct.pack("<I", at[0]), ghost]
    parts += _directories(levels, tiles, offsets, at, where, layout)
    for level in reversed(tiles):
        for tile in level:
            parts += [struct.pack("<I", len(tile)), tile, tile[-4:]] if layout.ghost else [tile]
    return b"".join(parts)


def pyramid(image: Samples, layout: CogLayout) -> list[Samples]:
    """Full resolution and its overviews, each made from the one before."""
    levels = [image]
    while (
        len(levels) <= layout.fixed_levels
        if layout.fixed_levels is not None
        else max(levels[-1].shape) > layout.overview_block
    ):
        up = layout.fixed_levels is not None
        shape = tuple(max(1, (n + up) // 2) for n in levels[-1].shape)
        levels.append(_shrink(levels[-1], (shape[0], shape[1]), layout))
    return levels


def _shrink(a: Samples, shape: tuple[int, int], layout: CogLayout) -> Samples:
    """About half of `a`: both rasters cover the same ground, whatever the rounding of `shape`."""
    if layout.nearest:
        rows, cols = ((np.arange(n) + 0.5) * m / n for n, m in zip(shape, a.shape, strict=True))
        near: Samples = a.take(rows.astype(int), axis=0).take(cols.astype(int), axis=1)
        return near
    taps = []
    for n, m in zip(shape, a.shape, strict=True):
        first = np.clip(np.rint((np.arange(n) + 0.5) * m / n).astype(int) - 1, 0, m - 1)
        taps.append((first, np.minimum(first + 1, m - 1)))
    four = np.array([a.take(r, axis=0).take(c, axis=1) for r in taps[0] for c in taps[1]], np.int32)
    # without the tag nobody knows that the fill is no value, so rims are averaged into
    held = four != layout.fill if layout.nodata else np.ones(four.shape, bool)
    count = held.sum(axis=0)
    total = np.where(held, four, 0).sum(axis=0)
    mean: Samples = np.where(count > 0, (total + count // 2) // np.maximum(count, 1), layout.fill).astype(
        a.dtype
    )
    return mean


def _encode_level(a: Samples, index: int, layout: CogLayout) -> list[bytes]:
    side = layout.overview_block if index else layout.block
    h, w = a.shape
    a = np.pad(a, ((0, -h % side), (0, -w % side)), "edge")
    return [
        encode_tile(a[r : r + side, c : c + side], layout)
        for r in range(0, h, side)
        for c in range(0, w, side)
    ]


def encode_tile(tile: Samples, layout: CogLayout) -> bytes:
    """The zlib stream of one tile."""
    if layout.bits % 8:
        tile = pack_bits(tile.astype(np.uint16), layout.bits)
    elif layout.predictor == 2:
        tile = tile.view(f"u{tile.itemsize}")  # differences wrap
        tile = np.concatenate([tile[:, :1], np.diff(tile, axis=1)], axis=1)
    return bytes(deflate.zlib_compress(np.ascontiguousarray(tile).tobytes(), layout.level))


def pack_bits(a: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """Rows of `bits`-bit samples, most significant bit first, each row padded to a whole byte."""
    planes = np.unpackbits(a.astype(">u2").view(np.uint8).reshape(*a.shape, 2), axis=2)
    return np.packbits(planes[:, :, 16 - bits :].reshape(len(a), -1), axis=1)


def _place(tiles: list[list[bytes]], at: int, ghost: bool) -> list[list[int]]:
    """File offset of every tile; the smallest overview comes first."""
    offsets: list[list[int]] = [[] for _ in tiles]
    for k in reversed(range(len(tiles))):
        for tile in tiles[k]:
            offsets[k].append(at + 4 * ghost)
            at += len(tile) + 8 * ghost
    return offsets


def _directories(
    levels: list[Samples],
    tiles: list[list[bytes]],
    offsets: list[list[int]],
    at: list[int],
    where: GeoReference,
    layout: CogLayout,
) -> list[bytes]:
    """One image directory per level, padded to an even length."""
    out = []
    last = len(levels) - 1
    for k, a in enumerate(levels):
        entries = _image_tags(a, k, offsets[k], [len(t) for t in tiles[k]], layout)
        if k == 0:
            entries += _geo_tags(where)
            if layout.subifds and last:
                entries.append((330, "I", at[1:]))
        following = 0 if layout.subifds or k == last else at[k + 1]
        out.append(_directory(sorted(entries), at[k], following))
    return out


def _image_tags(
    a: Samples, index: int, offsets: list[int], counts: list[int], layout: CogLayout
) -> list[Entry]:
    side = layout.overview_block if index else layout.block
    predictor = 1 if layout.bits % 8 else layout.predictor
    entries: list[Entry] = [
        (256, "H", [a.shape[1]]),
        (257, "H", [a.shape[0]]),
        (258, "H", [layout.bits]),
        (259, "H", [8]),  # Adobe DEFLATE
        (262, "H", [1]),  # min is black
        (277, "H", [1]),  # samples per pixel
        (284, "H", [1]),  # planar configuration
        (322, "H", [side]),
        (323, "H", [side]),
        (324, "I", offsets),
        (325, "I", counts),
        (339, "H", [2 if a.dtype.kind == "i" else 1]),  # signed or unsigned
    ]
    if index:
        entries.append((254, "I", [1]))  # reduced resolution
    if predictor == 2:
        entries.append((317, "H", [2]))
    if layout.nodata:
        entries.append((42113, "s", [*f"{layout.fill}\0".encode()]))
    return entries


_SINUSOIDAL = (
    1024, 0, 1, 1, 1025, 0, 1, 1, 2048, 0, 1, 32767, 2050, 0, 1, 32767, 2054, 0, 1, 9102, 2056, 0, 1, 32767,
    2057, 34736, 1, 0, 2059, 34736, 1, 1, 3072, 0, 1, 32767, 3074, 0, 1, 32767, 3075, 0, 1, 24,
    3076, 0, 1, 9001, 3082, 34736, 1, 1, 3083, 34736, 1, 1, 3088, 34736, 1, 1,
)  # fmt: skip


def _geo_tags(where: GeoReference) -> list[Entry]:
    if where.epsg:
        keys = [1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, where.epsg, 3076, 0, 1, 9001]
        doubles: list[Entry] = []
    else:
        keys = [1, 1, 0, len(_SINUSOIDAL) // 4, *_SINUSOIDAL]
        doubles = [(34736, "d", [6371007.181, 0.0])]
    return [
        *doubles,
        (33550, "d", [where.metres, where.metres, 0.0]),
        (33922, "d", [0.0, 0.0, 0.0, where.x, where.y, 0.0]),
        (34735, "H", keys),
    ]


def _directory(entries: list[Entry], at: int, following: int) -> bytes:
    """An image directory that stands at offset `at`, its long values right behind it."""
    head, tail = struct.pack("<H", len(entries)), b""
    base = at + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        code, dtype = _FORMATS[kind]
        raw = np.array(values, dtype).tobytes()
        if len(raw) > 4:
            tail += b"\0" * (len(tail) & 1)
            raw, tail = struct.pack("<I", base + len(tail)), tail + raw
        head += struct.pack("<HHI", tag, code, len(values)) + raw.ljust(4, b"\0")
    return head + struct.pack("<I", following) + tail + b"\0" * (len(tail) & 1)
