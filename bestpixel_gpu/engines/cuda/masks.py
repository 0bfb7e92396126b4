"""Class masks on the device: score codes over a window, at output pixels, and counted by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import (
    NODATA_CODE,
    Footprint,
    MaskStatistics,
    MaskTable,
    ScoreRaster,
    TileGrid,
    Window,
)
from bestpixel_gpu.engines.cuda.device import Device, blocks, pitch
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.tables import Tables
from bestpixel_gpu.errors import FormatError
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import PixelMap

CELLS = 32
"""Cells along a chunk's side in cell statistics."""
THREADS = 128
"""Of a block of the mask kernels."""
ROWS = 4
"""Rows of each thread where a window is covered."""


@dataclass(frozen=True, slots=True)
class DecodedTile:
    """A mask tile that lies decoded in device memory, or will once the main stream gets there.

    Attributes
    ----------
    index : int
        Of the tile in its grid.
    layout : TileLayout
    address : int or None
        Its samples, native and row-major; ``None`` for a sparse tile.
    """

    index: int
    layout: TileLayout
    address: int | None


def classify(
    device: Device,
    tables: Tables,
    tiles: Sequence[DecodedTile],
    grid: TileGrid,
    window: Window,
    table: MaskTable,
    nodata: int,
    grow: int,
) -> ScoreRaster:
    """Score codes over `window` of the mask raster; see the contract.

    What `tiles` does not cover reads as nodata: tiles that are not there, and corrupt ones.

    Raises
    ------
    FormatError
        If no class table has an entry for each value.
    """
    row0, row1, col0, col1 = window
    data = device.empty((row1 - row0, col1 - col0), np.uint8)
    parts = [p for tile in tiles if (p := _part(tile, grid, window, table, nodata)) is not None]
    if sum(part.rows * part.cols for part in parts) < data.size:
        device.fill(data, NODATA_CODE)
    if parts:
        each = blocks(max(part.rows for part in parts), THREADS // 32 * ROWS)
        described = device.upload(np.array(parts, np.int64))
        args = [described, np.int64(each), tables.of(table).codes, data, pitch(data)]
        device.launch(("masks", "look_up"), len(parts) * each, THREADS, args)
    if grow and data.size:
        _grow(device, data, grow)
    return ScoreRaster(window, grid.width, grid.height, data)


class _MaskTile(NamedTuple):
    """``struct MaskTile`` of ``cuda/masks.cu``."""

    samples: int
    width: int
    sample_bytes: int
    row: int
    col: int
    top: int
    left: int
    rows: int
    cols: int
    code: int


def _part(
    tile: DecodedTile, grid: TileGrid, window: Window, table: MaskTable, nodata: int
) -> _MaskTile | None:
    """The part of a tile inside the window and the raster; ``None`` if it is empty."""
    layout, bits = tile.layout, 8 * tile.layout.dtype.itemsize
    if layout.kind not in "ui" or bits > 16:
        raise FormatError(f"a class mask of {bits}-bit {layout.kind!r} samples: expected 8 or 16 bits")
    part = grid.part(tile.index, layout, window)
    if not part.rows:
        return None
    return _MaskTile(
        samples=tile.address or 0,
        width=layout.width,
        sample_bytes=bits // 8,
        **part._asdict(),
        code=int(table.codes[nodata & ((1 << bits) - 1)]) if tile.address is None else -1,
    )


def _grow(device: Device, data: Any, radius: int) -> None:
    """Make nodata every pixel with nodata in its square neighbourhood, cut at the array's edge."""
    rows, cols = data.shape
    marks = device.empty((rows, cols), np.uint8)
    size = [np.int64(rows), np.int64(cols), np.int64(radius)]
    grid = patches(rows, cols, THREADS, ROWS)
    device.launch(("masks", "grow_across"), grid, THREADS, [data, pitch(data), *size, marks])
    device.launch(("masks", "grow_down"), grid, THREADS, [marks, data, pitch(data), *size])


def patches(rows: int, cols: int, threads: int, height: int) -> int:
    """Blocks that cover a window: `threads` columns of `height` rows each, see ``patch_of``."""
    return blocks(cols, threads) * blocks(rows, height)


def sight(maps: Maps, mask: ScoreRaster, positions: PixelMap, footprint: Footprint | None) -> list[Any]:
    """The first parameters of a kernel that looks at a mask, see ``cuda/codes.cuh``."""
    half = (footprint.half_x, footprint.half_y) if footprint else (0, 0)
    frame = (*mask.window, mask.width, mask.height, footprint is not None)
    return [
        mask.data,
        pitch(mask.data),
        *map(np.int32, frame),
        *map(np.int64, half),
        *map(np.int64, maps.fields(positions)),
    ]


def resample(
    device: Device,
    maps: Maps,
    mask: ScoreRaster,
    positions: PixelMap,
    window: Window,
    footprint: Footprint | None,
) -> ScoreRaster:
    """Score codes at output pixels: a raster in grid pixels; see the contract."""
    row0, row1, col0, col1 = window
    rows, cols = row1 - row0, col1 - col0
    out = device.empty((rows, cols), np.uint8)
    if out.size:
        place = map(np.int64, (row0, col0, rows, cols))
        args = [*sight(maps, mask, positions, footprint), *place, out]
        device.launch(("masks", "resample"), patches(rows, cols, THREADS, ROWS), THREADS, args)
    return ScoreRaster(window, col1, row1, out)


def statistics(
    device: Device,
    maps: Maps,
    tables: Tables,
    mask: ScoreRaster,
    positions: PixelMap,
    window: Window,
    chunks: ChunkGrid,
    table: MaskTable,
    footprint: Footprint | None,
    cells: bool,
) -> MaskStatistics:
    """Clear and valid output pixels per chunk, and per cell if asked; see the contract."""
    down, across = chunks.under(window)
    parts, there = CELLS if cells else 1, tables.chunks(chunks)
    shape = down.stop - down.start, across.stop - across.start
    counts = device.empty((2, *shape, parts, parts), np.uint32)
    device.fill(counts, 0)
    args = [
        *sight(maps, mask, positions, footprint),
        there.row_edges[down.start :],
        there.col_edges[across.start :],
        np.int64(shape[1]),
        tables.of(table).clear,
        np.int32(parts),
        counts[0],
        counts[1],
    ]
    device.launch(("masks", "count_codes"), shape[0] * shape[1] * CELLS, THREADS, args)
    found = device.download(counts)
    totals = found.sum(axis=(3, 4), dtype=np.int64)
    return MaskStatistics(totals[0], totals[1], *(found if cells else ()))
