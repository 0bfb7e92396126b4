"""What a COG's header says, as plain values: levels, tile layouts, georeference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import FormatError

HOST_CODECS = ("lzw", "zstd", "packbits", "jpeg", "webp", "lerc", "lerc_deflate", "lerc_zstd")
"""Codecs that `codecs.to_raw` undoes on the host; `none` and `deflate` are the engines' own."""


@cache
def _dtype_of(kind: str, bits: int) -> np.dtype[np.generic]:
    return np.dtype(f"{kind}{next(n for n in (1, 2, 4, 8) if 8 * n >= bits)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLayout:
    """How the stored bytes of one tile become samples."""

    codec: str
    """``"none"``, ``"deflate"`` (zlib stream) or one of :data:`HOST_CODECS`."""
    width: int
    """Columns stored, padding included."""
    height: int
    """Rows stored, padding included (a last strip may hold fewer than the others)."""
    bits: int
    """Bits of one stored sample: 1..16 packed MSB first, or 8, 16, 32, 64."""
    kind: str = "u"
    """``"u"`` unsigned, ``"i"`` signed, ``"f"`` floating point."""
    predictor: int = 1
    """1 none, 2 horizontal difference, 3 floating point."""
    samples: int = 1
    """Samples interleaved per pixel in this tile."""
    sample: int = 0
    """Which of them is taken."""
    byteorder: str = "<"
    """Of the file: ``"<"`` or ``">"``."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Native dtype of a decoded sample: the smallest that holds `bits`."""
        return _dtype_of(self.kind, self.bits)

    @property
    def row_bytes(self) -> int:
        """Bytes of one inflated row; rows start on a byte boundary."""
        return -(-self.width * self.samples * self.bits // 8)

    @property
    def inflated_bytes(self) -> int:
        """Bytes that the codec must yield, exactly."""
        return self.row_bytes * self.height

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the decoded tile, one sample a pixel."""
        return self.width * self.height * self.dtype.itemsize

    @property
    def in_place(self) -> bool:
        """A tile may be unpacked where it was inflated to: each sample stays where it is."""
        return self.bits in (8, 16, 32, 64) and self.samples == 1 and self.predictor != 3

    def check_unpackable(self) -> None:
        """Refuse what engines do not unpack.

        Raises
        ------
        FormatError
            If the codec is the host's to undo, or bits and predictor do not go together.
        """
        whole = self.bits in (8, 16, 32, 64)
        if self.codec not in ("none", "deflate"):
            raise FormatError(f"codec {self.codec!r} must be decoded before the tile is loaded")
        if not (whole or 1 <= self.bits <= 16):
            raise FormatError(f"{self.bits} bits a sample: expected 1..16, 32 or 64")
        if self.predictor not in (1, 2, 3):
            raise FormatError(f"predictor {self.predictor}: expected 1, 2 or 3")
        if self.predictor == 2 and not whole:
            raise FormatError(f"predictor 2 on {self.bits}-bit samples: expected 8, 16, 32 or 64 bits")
        if self.predictor == 3 and (self.kind != "f" or self.bits not in (16, 32, 64)):
            raise FormatError(f"predictor 3 on {self.bits}-bit {self.kind!r}: expected floating point")


class TilePart(NamedTuple):
    """The part of a tile that lies in a window and inside the raster; empty where none does."""

    row: int
    """First row, in the tile."""
    col: int
    top: int
    """First row, in the window."""
    left: int
    rows: int
    cols: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """The raster that tiles cut: sizes in pixels, row-major tile index."""

    width: int
    height: int
    tile_width: int
    tile_height: int

    @property
    def tiles_across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def tiles_down(self) -> int:
        """Tiles in a column."""
        return -(-self.height // self.tile_height)

    def part(self, index: int, layout: TileLayout, window: tuple[int, int, int, int]) -> TilePart:
        """What a tile holds of a window ``(row0, row1, col0, col1)`` of the raster."""
        row0, row1, col0, col1 = window
        top, left = index // self.tiles_across * self.tile_height, index % self.tiles_across * self.tile_width
        row, col = max(top, row0), max(left, col0)
        rows = min(top + layout.height, self.height, row1) - row
        cols = min(left + layout.width, self.width, col1) - col
        if rows <= 0 or cols <= 0:
            return TilePart(0, 0, 0, 0, 0, 0)
        return TilePart(row - top, col - left, row - row0, col - col0, rows, cols)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Level:
    """One image of the pyramid: full resolution, an overview, or an internal mask."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.uint64]
    """File offset of each tile, row-major (plane-major before that if planar)."""
    byte_counts: NDArray[np.uint64]
    layout: TileLayout
    strips: bool = False
    """Stored as strips: the last one holds only the rows that exist."""
    planes: int = 1
    """Planes stored one after the other (planar separate); 1 if interleaved."""
    jpeg_tables: bytes = b""
    photometric: int = 1

    @property
    def grid(self) -> TileGrid:
        """How tiles cut the image."""
        return TileGrid(
            width=self.width, height=self.height, tile_width=self.tile_width, tile_height=self.tile_height
        )

    @property
    def tiles_across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def tiles_down(self) -> int:
        """Tiles in a column."""
        return -(-self.height // self.tile_height)

    def span(self, index: int, plane: int = 0) -> tuple[int, int] | None:
        """``(offset, length)`` of a tile in the file, ``None`` if the tile is sparse."""
        at = index + (plane * self.tiles_across * self.tiles_down if plane else 0)
        offset, length = int(self.offsets[at]), int(self.byte_counts[at])
        return (offset, length) if offset and length else None

    def inside(self, index: int) -> tuple[int, int]:
        """Rows and columns of a tile that lie inside the image; the others are padding."""
        row, col = divmod(index, self.tiles_across)
        return (
            min(self.tile_height, self.height - row * self.tile_height),
            min(self.tile_width, self.width - col * self.tile_width),
        )

    def layout_of(self, index: int) -> TileLayout:
        """Layout of one tile: that of all, but for a shorter last strip."""
        if not self.strips:
            return self.layout
        rows = min(self.tile_height, self.height - index // self.tiles_across * self.tile_height)
        return self.layout if rows == self.layout.height else replace(self.layout, height=rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raster:
    """A COG's header: pyramid, georeference, nodata."""

    levels: tuple[Level, ...]
    """Full resolution first, then overviews of falling size."""
    masks: tuple[Level, ...] = ()
    """Internal masks (0 = invalid), falling in size; a level need not have one: see :meth:`mask_of`."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """``(a, b, c, d, e, f)``: x = a col + b row + c, y = d col + e row + f, at pixel corners."""
    crs: str | None = None
    """``"EPSG:n"`` or a PROJ string, as the GeoKeys say it; ``None`` where they do not."""
    nodata: float | int | None = None
    """GDAL_NODATA; an int where the samples are integers."""
    samples: int = 1
    """Samples per pixel of the file."""
    scale: float | None = None
    offset: float | None = None

    def mask_of(self, level: Level) -> Level | None:
        """Internal mask of a level, ``None`` if there is none."""
        sized = (m for m in self.masks if (m.width, m.height) == (level.width, level.height))
        return next(sized, None)

    def check_north_up(self) -> tuple[float, float, float, float]:
        """``(x0, y0, dx, dy)`` of an unrotated raster: corner and pixel size, dy > 0 downwards.

        Raises
        ------
        FormatError
            If there is no transform, or it is rotated, sheared or flipped.
        """
        if self.transform is None:
            raise FormatError("the TIFF has no georeference (no ModelPixelScale, no ModelTransformation)")
        a, b, c, d, e, f = self.transform
        if b or d or a <= 0 or e >= 0:
            raise FormatError(f"rotated or flipped raster (transform {self.transform}): not supported")
        return c, f, a, -e
