"""Codecs that are undone on the host, so that an engine is given plain bytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import HOST_CODECS, Level, TileLayout
from bestpixel_gpu.errors import CorruptTileError, FormatError

Data = bytes | bytearray | memoryview


def to_raw(data: Data, level: Level, index: int, plane: int = 0) -> tuple[Data, TileLayout]:
    """Bytes that an engine can load, and their layout.

    Tiles of codec ``none`` and ``deflate`` are returned as they are; all others are decoded to
    plain bytes of codec ``none``, with the predictor still to be undone. Decoding never holds
    more than the tile's declared size.

    Parameters
    ----------
    data : bytes-like
        The tile as the file holds it.
    level : Level
    index, plane : int
        Which tile it is.

    Raises
    ------
    CorruptTileError
        If the bytes do not decode to exactly the tile's size.
    FormatError
        If the package for the codec is not installed.
    """
    layout = level.layout_of(index)
    if layout.codec not in HOST_CODECS:
        return data, layout
    codecs, decode = _imagecodecs(layout.codec), _DECODERS[layout.codec]
    try:
        raw = decode(codecs, data, layout, level)
    except (RuntimeError, ValueError, TypeError, zlib.error) as exc:
        text = " ".join(str(exc).split())[:120]
        raise CorruptTileError(
            f"tile {index} of plane {plane}: {layout.codec} data is damaged ({text})"
        ) from exc
    if len(raw) != layout.inflated_bytes:
        found = str(len(raw)) if len(raw) < layout.inflated_bytes else "more"
        raise CorruptTileError(
            f"tile {index} of plane {plane}: {layout.codec} data holds {found} bytes"
            f" instead of {layout.inflated_bytes}"
        )
    return raw, replace(layout, codec="none")


def _imagecodecs(codec: str) -> Any:
    try:
        import imagecodecs
    except ImportError as exc:
        raise FormatError(f"{codec} tiles need imagecodecs: pip install 'bestpixel-gpu[codecs]'") from exc
    return imagecodecs


def _lzw(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    # the decoder stops without a word where its room ends: one byte more shows a stream too long
    raw: Data = codecs.lzw_decode(data, out=layout.inflated_bytes + 1)
    return raw


def _zstd(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    raw: Data = codecs.zstd_decode(data, out=layout.inflated_bytes)
    return raw


def _packbits(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    raw: Data = codecs.packbits_decode(data, out=layout.inflated_bytes)
    return raw


def _jpeg(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    if bytes(data[-64:]).rstrip(b"\0")[-2:] != b"\xff\xd9":
        raise ValueError("no end marker")  # the decoder would fill the rest with grey
    out = _room(layout)
    # photometric says what the samples are; without it the decoder would guess YCbCr from 3 bands
    space = {1: "GRAYSCALE", 2: "UNKNOWN", 3: "RGB"}.get(layout.samples, "UNKNOWN")
    tables = level.jpeg_tables or None
    codecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace=space, out=out)
    return out.tobytes()


def _webp(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    out = _room(layout)
    codecs.webp_decode(data, hasalpha=layout.samples == 4, out=out)
    return out.tobytes()


def _lerc(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    out = _room(layout)
    _, valid = codecs.lerc_decode(data, masks=True, out=out)
    if valid is not None and layout.kind == "f":
        out[~valid.astype(bool)] = np.nan
    return out.astype(layout.byteorder + out.dtype.str[1:]).tobytes()


def _lerc_deflate(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    inner = zlib.decompressobj().decompress(data, _lerc_bound(layout))
    return _lerc(codecs, inner, layout, level)


def _lerc_zstd(codecs: Any, data: Data, layout: TileLayout, level: Level) -> Data:
    inner = codecs.zstd_decode(data, out=bytearray(_lerc_bound(layout)))
    return _lerc(codecs, inner, layout, level)


def _lerc_bound(layout: TileLayout) -> int:
    """Bytes that a LERC blob of this tile can have: raw samples, the mask and headers."""
    return layout.inflated_bytes + layout.width * layout.height + (64 << 10)


def _room(layout: TileLayout) -> NDArray[Any]:
    shape = (layout.height, layout.width, layout.samples)
    return np.zeros(shape if layout.samples > 1 else shape[:2], layout.dtype)


_DECODERS: dict[str, Callable[[Any, Data, TileLayout, Level], Data]] = {
    "lzw": _lzw,
    "zstd": _zstd,
    "packbits": _packbits,
    "jpeg": _jpeg,
    "webp": _webp,
    "lerc": _lerc,
    "lerc_deflate": _lerc_deflate,
    "lerc_zstd": _lerc_zstd,
}
