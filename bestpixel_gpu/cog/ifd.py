"""Tags to values: the pyramid, tile layouts and georeference of a TIFF's first image."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.geokeys import crs_of, is_pixel_point
from bestpixel_gpu.cog.layout import Level, Raster, TileLayout
from bestpixel_gpu.cog.tags import Directory, Entry, HeaderBytes, NeedBytes, TiffFile, holds_values
from bestpixel_gpu.errors import FormatError

__all__ = ["HeaderBytes", "NeedBytes", "read_raster"]

MAX_DIRECTORIES = 64
"""Images looked at in one file: a pyramid with masks needs some 40."""
MAX_TILE_BYTES = 512 << 20
"""Largest decoded tile or strip; a tile is one slot of memory in an engine."""
TILE_OVERHEAD = 1 << 20
"""Bytes that a stored tile may have beyond twice its pixels (tables, headers, padding)."""
MAX_PIXELS_ACROSS = (1 << 31) - 1

NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH, BITS_PER_SAMPLE, COMPRESSION = 254, 256, 257, 258, 259
PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS_PER_STRIP = 262, 266, 273, 277, 278
STRIP_BYTE_COUNTS, PLANAR, PREDICTOR, TILE_WIDTH, TILE_LENGTH = 279, 284, 317, 322, 323
TILE_OFFSETS, TILE_BYTE_COUNTS, SUB_IFDS, SAMPLE_FORMAT, JPEG_TABLES = 324, 325, 330, 339, 347
PIXEL_SCALE, TIEPOINTS, MODEL_TRANSFORMATION = 33550, 33922, 34264
GEO_DIRECTORY, GEO_DOUBLES, GEO_ASCII = 34735, 34736, 34737
GDAL_METADATA, GDAL_NODATA, LERC_PARAMETERS = 42112, 42113, 50674

REDUCED, MASK = 1, 4  # bits of NewSubfileType

_CODECS = {
    1: "none", 5: "lzw", 7: "jpeg", 8: "deflate", 32773: "packbits", 32946: "deflate",
    34887: "lerc", 50000: "zstd", 50001: "webp",
}  # fmt: skip
_REFUSED_CODECS = {
    2: "CCITT RLE", 3: "CCITT fax 3", 4: "CCITT fax 4", 6: "old-style JPEG", 32766: "NeXT",
    32771: "CCITT RLEW", 32809: "ThunderScan", 32909: "PixarLog", 34676: "SGILog", 34677: "SGILog24",
    34712: "JPEG 2000", 34925: "LZMA", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_PREDICTABLE = ("deflate", "lzw", "zstd")
_REFUSED_COLOURS = {5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab"}
_METADATA_ITEM = re.compile(r"<Item\b([^>]*)>([^<]*)</Item>")


def read_raster(header: HeaderBytes, coarsest: Callable[[Raster], float] | None = None) -> Raster:
    """Pyramid and georeference of the first image in a TIFF.

    Overviews and internal masks are taken from the chain of directories, as far as the next image
    of full size, and from the first image's SubIFDs. A damaged or unsupported one is left out.

    Parameters
    ----------
    header : HeaderBytes
    coarsest : callable, optional
        Tells from the raster without overviews the largest decimation of use; of what is coarser
        the tables are neither read nor checked.

    Raises
    ------
    NeedBytes
        If `header` lacks bytes; fetch, ``add`` and call again.
    FormatError
        If the file is no TIFF, or uses a feature that is not supported (the message names it).
    """
    file = TiffFile(header)
    first = file.directory(file.first)
    raster = _without_overviews(first)
    base = raster.levels[0]
    limit = math.inf if coarsest is None else coarsest(raster)
    levels, masks = [base], list[Level]()
    for page, subfile in _further_pages(file, first):
        width = page.integer(IMAGE_WIDTH, 0)
        if width > 0 and base.width / width > limit:
            continue
        try:
            level = _level(page)
        except FormatError:
            continue
        if subfile & MASK and _is_mask(level):
            masks.append(level)
        elif not subfile & MASK and _is_overview(level, base):
            levels.append(level)
    levels = _falling(levels)
    sizes = {(level.width, level.height) for level in levels}
    masks = [m for m in _falling(masks) if (m.width, m.height) in sizes]
    return replace(raster, levels=tuple(levels), masks=tuple(masks))


def _without_overviews(first: Directory) -> Raster:
    base = _level(first)
    scale, offset = _scale_and_offset(first.text(GDAL_METADATA))
    keys = first.integers(GEO_DIRECTORY)
    directory = () if keys is None else tuple(keys.tolist())
    crs, is_point = _geokeys(directory, first.doubles(GEO_DOUBLES), first.text(GEO_ASCII))
    return Raster(
        levels=(base,),
        transform=_transform(first, is_point),
        crs=crs,
        nodata=_nodata(first.text(GDAL_NODATA), base.layout.dtype),
        samples=_samples(first),
        scale=scale,
        offset=offset,
    )


@lru_cache(maxsize=256)
def _geokeys(
    directory: tuple[int, ...], doubles: tuple[float, ...], ascii_params: str
) -> tuple[str | None, bool]:
    """CRS, and whether coordinates mean pixel centres; most files of an archive say the same."""
    return crs_of(directory, doubles, ascii_params), is_pixel_point(directory)


def _further_pages(file: TiffFile, first: Directory) -> Iterator[tuple[Directory, int]]:
    """SubIFDs of the first image, then its successors up to the next image of full size.

    Each comes with its subfile type. Pages behind the next image belong to it, or cannot be told
    from those that do. A loop ends where it closes; damage ends the chain, what was found stands.
    """
    sub = first.integers(SUB_IFDS)
    queue = [first.next] if sub is None else [*sub[:MAX_DIRECTORIES].tolist(), first.next]
    seen = {0, file.first}
    while queue and len(seen) < MAX_DIRECTORIES:
        at, in_chain = queue.pop(0), not queue
        if at in seen:
            continue
        seen.add(at)
        try:
            page = file.directory(at)
            subfile = page.integer(NEW_SUBFILE_TYPE, 0)
        except FormatError:
            continue
        if subfile & (REDUCED | MASK):
            yield page, subfile
            if in_chain:
                queue.append(page.next)


def _falling(levels: list[Level]) -> list[Level]:
    """Largest first; of two with one size the earlier."""
    by_size: dict[tuple[int, int], Level] = {}
    for level in levels:
        by_size.setdefault((level.width, level.height), level)
    return sorted(by_size.values(), key=lambda level: -level.width * level.height)


def _is_overview(level: Level, base: Level) -> bool:
    """Smaller, of one shape with the base (a thumbnail may be cut), and of the same samples."""
    a, b = level.layout, base.layout
    alike = (a.bits, a.kind, a.samples, level.planes) == (b.bits, b.kind, b.samples, base.planes)
    smaller = level.width <= base.width and level.height <= base.height
    # the longer side says the decimation to better than a pixel of the shorter one
    cross = abs(level.width * base.height - level.height * base.width)
    return alike and smaller and cross <= 2 * max(base.width, base.height)


def _is_mask(level: Level) -> bool:
    return level.layout.samples == level.planes == 1 and level.layout.kind == "u"


def _level(page: Directory) -> Level:
    """Size, layout and tiles of one image."""
    known = _known_level(page.byteorder, page.entries(_LEVEL_TAGS)) or _level_without_tiles(page)
    offsets, byte_counts = _tile_arrays(page, known)
    return Level(  # dataclasses.replace takes three times as long
        width=known.width,
        height=known.height,
        tile_width=known.tile_width,
        tile_height=known.tile_height,
        offsets=offsets,
        byte_counts=byte_counts,
        layout=known.layout,
        strips=known.strips,
        planes=known.planes,
        jpeg_tables=page.raw(JPEG_TABLES) if known.layout.codec == "jpeg" else b"",
        photometric=known.photometric,
    )


_LEVEL_TAGS = (
    IMAGE_WIDTH, IMAGE_LENGTH, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES_PER_PIXEL,
    ROWS_PER_STRIP, PLANAR, PREDICTOR, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT, LERC_PARAMETERS,
)  # fmt: skip
"""What a level without its tiles is told by: most files of an archive say the same."""
_NO_TILES = np.zeros(0, np.uint64)


@lru_cache(maxsize=256)
def _known_level(byteorder: Literal["<", ">"], entries: tuple[Entry | None, ...]) -> Level | None:
    """Level without tiles that entries tell; ``None`` where they refer to other bytes of their file."""
    said = [entry for entry in entries if entry is not None]
    if not all(map(holds_values, said)):
        return None
    return _level_without_tiles(Directory(HeaderBytes(b""), byteorder, {entry[0]: entry for entry in said}))


def _level_without_tiles(page: Directory) -> Level:
    width, height = page.integer(IMAGE_WIDTH, 0), page.integer(IMAGE_LENGTH, 0)
    if not (0 < width <= MAX_PIXELS_ACROSS and 0 < height <= MAX_PIXELS_ACROSS):
        raise FormatError(f"image of {width} x {height} pixels: sizes must be 1 to {MAX_PIXELS_ACROSS}")
    strips = TILE_WIDTH not in page
    if strips:
        tile_width, tile_height = width, min(page.integer(ROWS_PER_STRIP, height), height)
    else:
        tile_width, tile_height = page.integer(TILE_WIDTH, 0), page.integer(TILE_LENGTH, 0)
    if tile_width <= 0 or tile_height <= 0:
        raise FormatError(f"tiles of {tile_width} x {tile_height} pixels")
    layout, planes = _layout(page, tile_width, tile_height)
    return Level(
        width=width,
        height=height,
        tile_width=tile_width,
        tile_height=tile_height,
        offsets=_NO_TILES,
        byte_counts=_NO_TILES,
        layout=layout,
        strips=strips,
        planes=planes,
        photometric=_photometric(page),
    )


def _layout(page: Directory, tile_width: int, tile_height: int) -> tuple[TileLayout, int]:
    """Layout of a full tile, and how many planes hold the samples."""
    samples, planar = _samples(page), page.integer(PLANAR, 1)
    if planar not in (1, 2):
        raise FormatError(f"planar configuration {planar}: 1 and 2 are defined")
    if page.integer(FILL_ORDER, 1) != 1:
        raise FormatError("fill order 2 (bits reversed in each byte) is not supported")
    kind, bits = _sample_type(page)
    codec = _codec(page)
    layout = TileLayout(
        codec=codec,
        width=tile_width,
        height=tile_height,
        bits=bits,
        kind=kind,
        predictor=_predictor(page, codec, kind, bits),
        samples=samples if planar == 1 else 1,
        byteorder=page.byteorder,
    )
    size = max(layout.inflated_bytes, layout.decoded_bytes)
    if size > MAX_TILE_BYTES:
        raise FormatError(
            f"tiles of {tile_width} x {tile_height} pixels hold {size} bytes, more than {MAX_TILE_BYTES}"
        )
    return layout, 1 if planar == 1 else samples


def _samples(page: Directory) -> int:
    samples = page.integer(SAMPLES_PER_PIXEL, 1)
    if not 0 < samples <= 65535:
        raise FormatError(f"{samples} samples per pixel")
    return samples


def _sample_type(page: Directory) -> tuple[str, int]:
    """Kind (u, i, f) and bits of a sample, the same for all."""
    bits = _common(page, BITS_PER_SAMPLE, "bits per sample")
    sample_format = _common(page, SAMPLE_FORMAT, "sample format")
    if sample_format in (5, 6):
        raise FormatError("complex samples are not supported")
    kind = {1: "u", 2: "i", 3: "f", 4: "u"}.get(sample_format)
    if kind is None:
        raise FormatError(f"sample format {sample_format} is not defined")
    whole = {"u": (8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}[kind]
    if bits not in whole and not (kind == "u" and 0 < bits <= 16):
        name = {"u": "unsigned", "i": "signed", "f": "floating-point"}[kind]
        raise FormatError(f"{name} samples of {bits} bits are not supported")
    return kind, bits


def _common(page: Directory, tag: int, name: str) -> int:
    """The one value of a tag that has a value for each sample; 1 where it is absent."""
    values = page.integers(tag) if page.count(tag) > 1 else None
    if values is not None and (values != values[0]).any():
        raise FormatError(f"{name} differs between samples: not supported")
    return page.integer(tag, 1)


def _codec(page: Directory) -> str:
    number = page.integer(COMPRESSION, 1)
    if number not in _CODECS:
        name = _REFUSED_CODECS.get(number, "unknown")
        raise FormatError(f"compression {number} ({name}) is not supported")
    codec, photometric = _CODECS[number], _photometric(page)
    if photometric in _REFUSED_COLOURS:
        where = "JPEG-in-TIFF with " if codec == "jpeg" else ""
        raise FormatError(f"{where}{_REFUSED_COLOURS[photometric]} colours are not supported")
    if codec in ("jpeg", "webp") and _sample_type(page) != ("u", 8):
        raise FormatError(f"{codec.upper()} with samples other than 8 bits is not supported")
    if codec == "lerc":
        parameters = page.integers(LERC_PARAMETERS)
        wrapper = 0 if parameters is None or len(parameters) < 2 else int(parameters[1])
        if wrapper not in (0, 1, 2):
            raise FormatError(f"LERC inside compression {wrapper} is not supported")
        codec = ("lerc", "lerc_deflate", "lerc_zstd")[wrapper]
    return codec


def _photometric(page: Directory) -> int:
    return page.integer(PHOTOMETRIC, 1)


def _predictor(page: Directory, codec: str, kind: str, bits: int) -> int:
    predictor = page.integer(PREDICTOR, 1)
    if predictor == 1:
        return 1
    if predictor not in (2, 3):
        raise FormatError(f"predictor {predictor} is not defined")
    if codec not in _PREDICTABLE:
        raise FormatError(f"predictor {predictor} with codec {codec} is not defined")
    if predictor == 2 and bits not in (8, 16, 32, 64):
        raise FormatError(f"predictor 2 with samples of {bits} bits is not defined")
    if predictor == 3 and kind != "f":
        raise FormatError("predictor 3 with integer samples is not defined")
    return predictor


def _tile_arrays(page: Directory, level: Level) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Offset and length of each tile; the file's own arrays bound what is allocated."""
    count, layout = level.tiles_across * level.tiles_down * level.planes, level.layout
    offsets = page.integers(TILE_OFFSETS if TILE_OFFSETS in page else STRIP_OFFSETS)
    byte_counts = page.integers(TILE_BYTE_COUNTS if TILE_BYTE_COUNTS in page else STRIP_BYTE_COUNTS)
    if offsets is None or byte_counts is None:
        raise FormatError("the TIFF lacks tile offsets or byte counts")
    short = min(len(offsets), len(byte_counts))
    if short < count:
        raise FormatError(f"the TIFF lists {short} tiles where its size needs {count}")
    offsets, byte_counts = offsets[:count], byte_counts[:count]
    longest = int(byte_counts.max())
    if longest > 2 * layout.inflated_bytes + TILE_OVERHEAD or int(offsets.max()) >= 1 << 63:
        raise FormatError(
            f"the TIFF lists tiles of up to {longest} bytes for {layout.inflated_bytes} bytes of pixels"
        )
    return offsets, byte_counts


def _transform(page: Directory, is_point: bool) -> tuple[float, float, float, float, float, float] | None:
    """Affine transform of pixel corners; pixel-is-point coordinates are moved by half a pixel."""
    scale, tie = page.doubles(PIXEL_SCALE), page.doubles(TIEPOINTS)
    matrix = page.doubles(MODEL_TRANSFORMATION)
    if len(scale) >= 2 and len(tie) >= 6 and scale[0] and scale[1]:
        a, b, d, e = scale[0], 0.0, 0.0, -abs(scale[1])
        c, f = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    elif len(matrix) >= 16:
        a, b, _, c, d, e, _, f = matrix[:8]
    else:
        return None
    if is_point:
        c, f = c - (a + b) / 2, f - (d + e) / 2
    found = (a, b, c, d, e, f)
    return found if all(map(math.isfinite, found)) and a * e != b * d else None


def _nodata(text: str, dtype: np.dtype[np.generic]) -> float | int | None:
    """The nodata value that a sample can have; ``None`` if the text is no such number."""
    text = text.strip()
    try:
        value = float(text)
        if dtype.kind == "f":
            return value
        whole = int(text) if re.fullmatch(r"[+-]?\d{1,20}", text) else int(value)
    except (ValueError, OverflowError):
        return None
    bits, signed = 8 * dtype.itemsize, dtype.kind == "i"
    least = -(1 << bits - 1) if signed else 0
    if (abs(value) < 2**53 and whole != value) or not least <= whole < least + (1 << bits):
        return None
    return whole


def _scale_and_offset(xml: str) -> tuple[float | None, float | None]:
    """Scale and offset of the first sample, as GDAL's metadata tag holds them."""
    found: dict[str, float] = {}
    for attributes, text in _METADATA_ITEM.findall(xml):
        role = re.search(r'\brole="(scale|offset)"', attributes)
        if role and re.search(r'\bsample="0"', attributes):
            try:
                found.setdefault(role[1], float(text))
            except ValueError:
                continue
    return found.get("scale"), found.get("offset")
