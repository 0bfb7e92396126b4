"""Class masks -> score codes over a window of the mask raster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import (
    NODATA_CODE,
    TILE_OK,
    CompressedTile,
    MaskTable,
    ScoreRaster,
    TileGrid,
    Window,
)
from bestpixel_gpu.engines.cpu.decode import Decoder
from bestpixel_gpu.engines.cpu.jit import inlined, kernel
from bestpixel_gpu.engines.cpu.jit import table as as_table
from bestpixel_gpu.errors import FormatError

_NODATA = np.uint8(NODATA_CODE)


def classify(
    decoder: Decoder,
    tiles: Sequence[CompressedTile],
    grid: TileGrid,
    window: Window,
    table: MaskTable,
    nodata: int,
    grow: int,
) -> tuple[ScoreRaster, NDArray[np.int8]]:
    """Score codes of a window of a mask; see the contract."""
    row0, row1, col0, col1 = window
    data = np.full((row1 - row0, col1 - col0), NODATA_CODE, np.uint8)
    status = np.full(len(tiles), TILE_OK, np.int8)
    codes = as_table(table.codes, np.uint8)
    room = np.empty(0, np.uint8)
    for i, tile in enumerate(tiles):
        bits = 8 * tile.layout.dtype.itemsize
        if tile.layout.kind not in "ui" or bits > 16:
            raise FormatError(
                f"a class mask of {bits}-bit {tile.layout.kind!r} samples: expected 8 or 16 bits"
            )
        top, bottom, left, right = part = _part(tile, grid, window)
        if tile.data is None:
            data[top:bottom, left:right] = codes[nodata & ((1 << bits) - 1)]
            continue
        if room.size < tile.layout.decoded_bytes:
            room = np.empty(tile.layout.decoded_bytes, np.uint8)
        samples = room[: tile.layout.decoded_bytes]
        status[i] = decoder.decode([tile], samples, [0])[0]
        if status[i] == TILE_OK and top < bottom and left < right:
            row = top + row0 - tile.index // grid.tiles_across * grid.tile_height
            col = left + col0 - tile.index % grid.tiles_across * grid.tile_width
            look_up(samples.view(f"u{bits // 8}"), tile.layout.width, row, col, codes, data, part)
    if grow:
        dilate(data, grow)
    return ScoreRaster(window, grid.width, grid.height, data), status


def _part(tile: CompressedTile, grid: TileGrid, window: Window) -> Window:
    """Where a tile lies in the window, cut at both and at the raster's edge; empty if it does not."""
    row0, row1, col0, col1 = window
    top = tile.index // grid.tiles_across * grid.tile_height
    left = tile.index % grid.tiles_across * grid.tile_width
    bottom, right = min(top + tile.layout.height, grid.height), min(left + tile.layout.width, grid.width)
    start_row, start_col = max(top, row0) - row0, max(left, col0) - col0
    end_row, end_col = max(min(bottom, row1) - row0, start_row), max(min(right, col1) - col0, start_col)
    return start_row, end_row, start_col, end_col


@kernel
def look_up(samples: Any, step: int, row: int, col: int, codes: Any, out: Any, part: Window) -> None:
    """Write the codes of a tile's samples, from (row, col) of the tile on, into `part` of `out`."""
    top, bottom, left, right = part
    for r in range(bottom - top):
        start = (row + r) * step + col
        line = samples[start : start + right - left]
        target = out[top + r, left:right]
        for c in range(right - left):
            target[c] = codes[line[c]]


@kernel
def dilate(data: Any, radius: int) -> None:
    """Make nodata every pixel with nodata in its square neighbourhood, cut at the array's edge."""
    rows, cols = data.shape
    near = np.zeros((2 * radius + 1, cols), np.uint8)  # the rows around the current one, in turn
    holds = np.zeros(2 * radius + 1, np.uint8)
    for r in range(rows + radius):
        if r < rows:
            turn = r % (2 * radius + 1)
            found = np.uint8(0)
            for code in data[r]:
                found |= np.uint8(code == _NODATA)
            if found or holds[turn]:
                near[turn] = 0
            holds[turn] = found
            if found:
                _dilate_row(data[r], radius, near[turn])
        if r >= radius:
            target = data[r - radius]
            for i in range(max(r - 2 * radius, 0), min(r + 1, rows)):
                turn = i % (2 * radius + 1)
                if holds[turn]:
                    line = near[turn]
                    for c in range(cols):
                        target[c] |= line[c]


@inlined
def _dilate_row(line: Any, radius: int, out: Any) -> None:
    """255 within `radius` columns of a nodata code, else 0."""
    done = 0
    for c in range(line.size):
        if line[c] == _NODATA:
            end = min(c + radius + 1, line.size)
            for i in range(max(c - radius, done), end):
                out[i] = _NODATA
            done = end
