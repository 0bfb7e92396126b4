"""Whole images through the production path: header, host codecs, then an engine or plain NumPy."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bestpixel_gpu.cog.codecs import to_raw
from bestpixel_gpu.cog.ifd import HeaderBytes, NeedBytes, read_raster
from bestpixel_gpu.cog.layout import Level, Raster, TileLayout
from bestpixel_gpu.errors import CorruptTileError

Decode = Callable[[list[bytes], list[TileLayout]], list[np.ndarray]]

SMALL_ENOUGH = 1 << 26
"""Pixels of the largest image that a test reads."""


def open_raster(data: bytes, first: int = 16384, *, size_known: bool = True) -> tuple[Raster, int]:
    """Header by the caller's loop, and how many requests it took beyond the first."""
    header = HeaderBytes(data[:first], len(data) if size_known else None)
    for requests in range(200):
        try:
            return read_raster(header), requests
        except NeedBytes as need:
            header.add(need.offset, data[need.offset : need.offset + need.length])
    raise AssertionError("the header parser asks for ever")


def decode_with_numpy(tiles: list[bytes], layouts: list[TileLayout]) -> list[np.ndarray]:
    """Slow and plain: what the engines must equal. (rows, cols) of each tile's one sample."""
    return [decode_tile(data, layout) for data, layout in zip(tiles, layouts, strict=True)]


def decode_tile(data: bytes, layout: TileLayout) -> np.ndarray:
    if layout.codec == "deflate":
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(bytes(data), layout.inflated_bytes + 1)
        except zlib.error as exc:
            raise CorruptTileError(str(exc)) from exc
        # the checksum is only compared when the stream is read to its end
        if len(data) != layout.inflated_bytes or not stream.eof:
            raise CorruptTileError(f"{len(data)} bytes instead of {layout.inflated_bytes}")
    elif len(data) != layout.inflated_bytes:
        raise CorruptTileError(f"{len(data)} bytes instead of {layout.inflated_bytes}")
    rows = np.frombuffer(data, np.uint8).reshape(layout.height, layout.row_bytes)
    if layout.bits not in (8, 16, 32, 64):
        pixels = unpack_bits(rows, layout)
    elif layout.predictor == 3:
        pixels = undo_float_predictor(rows, layout)
    else:
        unsigned = np.dtype(f"{layout.byteorder}u{layout.bits // 8}")
        stored = np.ascontiguousarray(rows).view(unsigned).astype(unsigned.newbyteorder("="))
        pixels = stored.reshape(layout.height, layout.width, layout.samples)
        if layout.predictor == 2:
            pixels = np.add.accumulate(pixels, axis=1, dtype=pixels.dtype)
        pixels = pixels.view(layout.dtype)
    return np.ascontiguousarray(pixels[:, :, layout.sample])


def unpack_bits(rows: np.ndarray, layout: TileLayout) -> np.ndarray:
    n = layout.width * layout.samples
    bits = np.unpackbits(rows, axis=1)[:, : n * layout.bits].reshape(layout.height, n, layout.bits)
    weights = 1 << np.arange(layout.bits - 1, -1, -1)
    values = (bits * weights).sum(axis=2).astype(layout.dtype)
    return values.reshape(layout.height, layout.width, layout.samples)


def undo_float_predictor(rows: np.ndarray, layout: TileLayout) -> np.ndarray:
    size, n = layout.bits // 8, layout.width * layout.samples
    steps = rows.reshape(layout.height, -1, layout.samples)
    summed = np.add.accumulate(steps, axis=1, dtype=np.uint8).reshape(layout.height, size, n)
    big = np.ascontiguousarray(summed.transpose(0, 2, 1)).view(f">f{size}")
    return big.astype(layout.dtype).reshape(layout.height, layout.width, layout.samples)


def decode_with_engine() -> Decode:
    """Decoding by the CPU engine's ``load``."""
    from bestpixel_gpu.engines.contract import TILE_OK, CompressedTile
    from bestpixel_gpu.engines.cpu.engine import CpuEngine

    engine = CpuEngine()

    def decode(tiles: list[bytes], layouts: list[TileLayout]) -> list[np.ndarray]:
        if not tiles:
            return []
        pool = engine.pool(max(layout.decoded_bytes for layout in layouts), len(tiles))
        work = [CompressedTile(i, t, lay) for i, (t, lay) in enumerate(zip(tiles, layouts, strict=True))]
        status = engine.load(pool, list(range(len(work))), work).wait()
        if (status != TILE_OK).any():
            raise CorruptTileError(f"{int((status != TILE_OK).sum())} tiles are corrupt")
        store = engine.to_host(pool.data)
        return [
            store[i * pool.step :][: lay.decoded_bytes].view(lay.dtype).reshape(lay.height, lay.width)
            for i, lay in enumerate(layouts)
        ]

    return decode


def read_level(data: bytes, level: Level, fill: float, decode: Decode = decode_with_numpy) -> np.ndarray:
    """(bands, rows, cols) of a level; sparse tiles hold `fill`."""
    assert level.width * level.height * level.planes * level.layout.samples <= SMALL_ENOUGH
    bands = [
        read_band(data, level, plane, sample, fill, decode)
        for plane in range(level.planes)
        for sample in range(level.layout.samples)
    ]
    return np.stack(bands)


def read_band(data: bytes, level: Level, plane: int, sample: int, fill: float, decode: Decode) -> np.ndarray:
    places, tiles, layouts = [], [], []
    for index in range(level.tiles_across * level.tiles_down):
        span = level.span(index, plane)
        if span is None:
            continue
        stored = data[span[0] : span[0] + span[1]]
        if len(stored) != span[1]:
            raise CorruptTileError(f"tile {index} lies past the end of the file")
        raw, layout = to_raw(stored, level, index, plane)
        places.append(index)
        tiles.append(raw)
        layouts.append(replace(layout, sample=sample))
    out = np.full((level.height, level.width), fill, level.layout.dtype)
    for index, pixels in zip(places, decode(tiles, layouts), strict=True):
        top = index // level.tiles_across * level.tile_height
        left = index % level.tiles_across * level.tile_width
        part = out[top : top + level.tile_height, left : left + level.tile_width]
        part[:] = pixels[: part.shape[0], : part.shape[1]]
    return out


def read_image(data: bytes, decode: Decode = decode_with_numpy) -> np.ndarray:
    """(bands, rows, cols) of a file's first image."""
    raster, _ = open_raster(data)
    return read_level(data, raster.levels[0], fill_of(raster), decode)


def fill_of(raster: Raster) -> float:
    """What a sparse tile holds."""
    return 0 if raster.nodata is None else raster.nodata
