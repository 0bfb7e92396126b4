"""Class masks -> score codes over a window of the mask raster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileLayout, TilePart
from bestpixel_gpu.engines.contract import (
    NODATA_CODE,
    TILE_CORRUPT,
    TILE_OK,
    CompressedTile,
    MaskTable,
    ScoreRaster,
    TileGrid,
    Window,
)
from bestpixel_gpu.engines.cpu.decode import Decoder
from bestpixel_gpu.engines.cpu.jit import inlined, int64, kernel
from bestpixel_gpu.engines.cpu.jit import table as as_table
from bestpixel_gpu.engines.cpu.native import (
    call_inflate,
    copy_memory,
    load_pair,
    look_up_block,
    moved,
    start_of,
    store_pair,
)
from bestpixel_gpu.engines.cpu.unpack import CORRUPT, Packing, packing_of, running_sums
from bestpixel_gpu.errors import FormatError

_NODATA = np.uint8(NODATA_CODE)
_FEW = 16
"""Classes whose codes lie in one register."""


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
    data = np.empty((row1 - row0, col1 - col0), np.uint8)
    status = np.full(len(tiles), TILE_OK, np.int8)
    parts = {tile.index: grid.part(tile.index, tile.layout, window) for tile in tiles}
    if sum(part.rows * part.cols for part in parts.values()) < data.size:
        data.fill(NODATA_CODE)
    alike: dict[TileLayout, list[int]] = {}
    for i, tile in enumerate(tiles):
        if tile.data is None:
            bits = _bits_of(tile.layout)
            _fill(data, parts[tile.index], table.codes[nodata & ((1 << bits) - 1)])
        else:
            alike.setdefault(tile.layout, []).append(i)
    for layout, members in alike.items():
        given = [tiles[i] for i in members]
        places = [parts[tile.index] for tile in given]
        way = _look_up_packed if _needs_unpacking(layout) else _look_up
        status[members] = way(decoder, layout, given, places, table, data)
    for tile, bad in zip(tiles, status, strict=True):
        if bad:
            _fill(data, parts[tile.index], NODATA_CODE)
    if grow:
        dilate(data, grow)
    return ScoreRaster(window, grid.width, grid.height, data), status


def _fill(data: NDArray[np.uint8], part: TilePart, code: int) -> None:
    data[part.top : part.top + part.rows, part.left : part.left + part.cols] = code


def _bits_of(layout: TileLayout) -> int:
    """Bits of a decoded class.

    Raises
    ------
    FormatError
        If no class table has an entry for each value.
    """
    bits = 8 * layout.dtype.itemsize
    if layout.kind not in "ui" or bits > 16:
        raise FormatError(f"a class mask of {bits}-bit {layout.kind!r} samples: expected 8 or 16 bits")
    return bits


def _needs_unpacking(layout: TileLayout) -> bool:
    """The inflated bytes are not just native classes, or differences of them."""
    foreign = layout.bits == 16 and np.dtype(f"{layout.byteorder}u2") != np.uint16
    return layout.bits not in (8, 16) or layout.samples > 1 or foreign


def _look_up(
    decoder: Decoder,
    layout: TileLayout,
    tiles: Sequence[CompressedTile],
    parts: Sequence[TilePart],
    table: MaskTable,
    data: NDArray[np.uint8],
) -> NDArray[np.int8]:
    """Inflate and look up in one go; a status for each tile."""
    bits, how = _bits_of(layout), packing_of(layout)
    batch = decoder.batch(layout, [tile.data for tile in tiles])
    results = np.full(len(batch.tried), TILE_OK, np.int8)
    look_up_tiles(
        batch.inflate,
        batch.state,
        batch.addresses,
        batch.sizes,
        decoder.scratch(layout.inflated_bytes)[: layout.inflated_bytes].view(f"u{bits // 8}"),
        how,
        np.array([parts[n] for n in batch.tried], np.int64).reshape(-1, len(TilePart._fields)),
        _pairs_of(table) if bits == 8 else as_table(table.codes, np.uint8),
        _few_of(table),
        data,
        results,
    )
    status = np.full(len(tiles), TILE_CORRUPT, np.int8)
    status[batch.tried] = results
    return status


def _look_up_packed(
    decoder: Decoder,
    layout: TileLayout,
    tiles: Sequence[CompressedTile],
    parts: Sequence[TilePart],
    table: MaskTable,
    data: NDArray[np.uint8],
) -> NDArray[np.int8]:
    """The same by way of unpacked tiles."""
    bits = _bits_of(layout)
    room = np.empty((layout.height, layout.width), f"u{bits // 8}")
    status = np.empty(len(tiles), np.int8)
    for n, (tile, part) in enumerate(zip(tiles, parts, strict=True)):
        inside = (part.row + part.rows, part.col + part.cols) if part.rows else None
        status[n] = decoder.decode([replace(tile, inside=inside)], room.view(np.uint8).ravel(), [0])[0]
        if status[n] == TILE_OK:
            classes = room[part.row : part.row + part.rows, part.col : part.col + part.cols]
            target = data[part.top : part.top + part.rows, part.left : part.left + part.cols]
            target[:] = table.codes[classes]
    return status


@lru_cache(maxsize=16)
def _pairs_of(table: MaskTable) -> NDArray[np.uint16]:
    """Codes of two classes of 8 bits at once, in either byte order: low half of low half, high of high."""
    codes = table.codes[:256].astype(np.uint16)
    return (codes | codes[:, None] << np.uint16(8)).ravel()


@lru_cache(maxsize=16)
def _few_of(table: MaskTable) -> NDArray[np.uint8]:
    """The first codes, where all other classes of 8 bits have the code of the last of them; else none."""
    same = (table.codes[_FEW:256] == table.codes[_FEW - 1]).all()
    return table.codes[: _FEW if same else 0].copy()


@kernel
def look_up_tiles(
    inflate: int,
    state: int,
    addresses: Any,
    sizes: Any,
    classes: Any,
    how: Packing,
    parts: Any,
    codes: Any,
    few: Any,
    out: Any,
    status: Any,
) -> None:
    """Inflate a batch of mask tiles of one layout and write their codes.

    Parameters
    ----------
    inflate, state, addresses, sizes
        As for :func:`~bestpixel_gpu.engines.cpu.unpack.decode_tiles`.
    classes : uint8 or uint16
        Room for an inflated tile.
    parts : int64, (tiles, 6)
        A :class:`TilePart` for each tile.
    codes : uint16 (65536,), codes of two uint8 classes; or uint8 (65536,), of one uint16 class
    few : uint8, (16,) or (0,)
        By :func:`_few_of`.
    out : uint8, (rows, cols)
    status : int8, (tiles,), out
    """
    inflated_bytes = how.row_bytes * how.height
    table, quick = start_of(codes), start_of(few)
    for n in range(addresses.size):
        if inflate:
            result = call_inflate(inflate, state, addresses[n], sizes[n], classes.ctypes.data, inflated_bytes)
            if result != 0:
                status[n] = CORRUPT
                continue
        else:
            copy_memory(addresses[n], classes.ctypes.data, inflated_bytes)
        row, col, top, left = parts[n, 0], parts[n, 1], parts[n, 2], parts[n, 3]
        for r in range(parts[n, 4]):
            line = moved(start_of(classes), (row + r) * how.width)
            if how.predictor == 2:
                running_sums(line, line, col + parts[n, 5], classes.itemsize)
            target = moved(start_of(out), (top + r) * out.shape[1] + left)
            _look_up_row(moved(line, col), classes.itemsize, table, quick, few.size, target, parts[n, 5])


@inlined
def _look_up_row(classes: Any, size: int, codes: Any, few: Any, n_few: int, out: Any, count: int) -> None:
    """Write the codes of `count` classes of `size` bytes; all but the numbers are pointers."""
    done = 0
    if size == 1:
        if n_few:
            done = count & -_FEW
            for i in range(0, done, _FEW):
                look_up_block(moved(classes, i), moved(out, i), few)
        first, done = done, count & ~1
        for i in range(first, done, 2):
            store_pair(moved(out, i), codes[int64(load_pair(moved(classes, i)))])
    for i in range(done, count):
        out[i] = np.uint8(codes[int64(classes[i])])


@kernel
def dilate(data: Any, radius: int) -> None:
    """Make nodata every pixel with nodata in its square neighbourhood, cut at the array's edge."""
    rows, cols = data.shape
    until = np.zeros(cols, np.int32)  # row before which nodata is near enough, by column
    near, room = np.empty(cols + 2 * radius, np.uint8), np.empty(cols + 2 * radius, np.uint8)
    last = 0
    for r in range(rows + radius):
        if r < rows and _holds_nodata(data[r]):
            _near_nodata(data[r], radius, near, room)
            last = r + 2 * radius + 1
            end = np.int32(last)
            for c in range(cols):
                until[c] = end if near[c] != 0 else until[c]
        if radius <= r < last:
            target, now = data[r - radius], np.int32(r)
            for c in range(cols):
                target[c] = _NODATA if until[c] > now else target[c]


@inlined
def _holds_nodata(line: Any) -> Any:
    greatest = line[0]
    for code in line:  # nodata is the greatest code: this becomes a vector maximum
        greatest = code if code > greatest else greatest
    return greatest == _NODATA


@inlined
def _near_nodata(line: Any, radius: int, near: Any, room: Any) -> None:
    """Not 0 within `radius` columns of a nodata code; `near` and `room` hold twice as many more."""
    for i in range(near.size):
        near[i] = 0
    middle = near[radius : radius + line.size]  # slices: an index that may be negative costs a branch
    for c in range(line.size):
        middle[c] = np.uint8(line[c] == _NODATA)
    seen = 1  # near[i] tells of the columns i .. i + seen - 1 of the line with its margins
    while seen < 2 * radius + 1:
        step = min(seen, 2 * radius + 1 - seen)
        ahead = room[step:]
        for i in range(near.size):
            room[i] = near[i]
        for i in range(ahead.size):
            near[i] |= ahead[i]
        seen += step
