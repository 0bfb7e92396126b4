"""Keys and layers on the device: scenes compete, winners are written, counted and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import Footprint, MaskTable, RankState, ScoreRaster, Window
from bestpixel_gpu.engines.cuda import masks
from bestpixel_gpu.engines.cuda.device import Device, blocks, pitch
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.tables import Tables
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import PixelMap

THREADS = 256
"""Of a block of ``cuda/keys.cu``."""
ROWS = 16
"""Rows of each thread there: runs of one winner are counted at once."""
_FAR = 2**31 - 1


def rank(
    device: Device,
    maps: Maps,
    tables: Tables,
    state: RankState,
    mask: ScoreRaster,
    positions: PixelMap,
    table: MaskTable,
    key_low: int,
    footprint: Footprint | None,
    chunks: ChunkGrid | None,
    barred: NDArray[np.bool_] | None,
) -> None:
    """One scene competes for the pixels of a window; see the contract."""
    row0, row1, col0, col1 = state.window
    rows, cols = row1 - row0, col1 - col0
    if not rows or not cols:
        return
    bars: list[Any] = [None, None, None, np.int64(0)]
    if barred is not None and chunks is not None and barred.any():
        there = tables.chunks(chunks)
        bars = [
            device.upload(barred.astype(np.uint8)),
            there.of_row,
            there.of_col,
            np.int64(barred.shape[1]),
        ]
    args = [
        *masks.sight(maps, mask, positions, footprint),
        *map(np.int64, (row0, col0, rows, cols)),
        tables.of(table).scores,
        np.uint32(key_low),
        *_plane(state.keys),
        *_plane(state.counts),
        *_plane(state.floor),
        *bars,
    ]
    grid = masks.patches(rows, cols, masks.THREADS, masks.ROWS)
    device.launch(("rank", "compete"), grid, masks.THREADS, args)


def settle(
    device: Device, keys: Any, quality: Any, winners: Any, n_scenes: int, where: Any
) -> NDArray[np.int64]:
    """Write what keys say and count the winners; see the contract."""
    wins = _counters(device, n_scenes + 1)
    planes = [*_plane(keys), *_plane(quality), *_ranks(winners), *_plane(where)]
    _cover(device, "settle", keys.shape, [*planes, *_size(keys), wins, np.uint32(n_scenes)])
    return device.download(wins)


def extra_wins(
    device: Device, tables: Tables, keys: Any, window: Window, chunks: ChunkGrid, n_scenes: int
) -> NDArray[np.int64]:
    """Pixels that each unselected scene wins in each chunk; see the contract."""
    down, across = chunks.under(window)
    there, shape = tables.chunks(chunks), (down.stop - down.start, across.stop - across.start)
    wins = _counters(device, (n_scenes, *shape))
    bands = blocks(int(np.diff(chunks.row_edges[down.start : down.stop + 1]).max()), ROWS)
    args = [
        *_plane(keys),
        there.row_edges[down.start :],
        there.col_edges[across.start :],
        *map(np.int64, (window[0], window[2], *shape, bands)),
        wins,
        np.uint32(n_scenes),
    ]
    device.launch(("keys", "extra_wins"), shape[0] * shape[1] * bands, THREADS, args)
    return device.download(wins)


def failed(device: Device, bands: Sequence[Any], winners: Any) -> tuple[Window, Any] | None:
    """Box and marks of the pixels whose winner gave no sample; see the contract."""
    marks = device.empty(winners.shape, np.uint8)
    box = device.empty(4, np.int32)
    device.fill(box, _FAR)
    planes = [_bands(device, bands), np.int32(len(bands)), *_ranks(winners)]
    _cover(device, "mark_failed", winners.shape, [*planes, *_size(winners), marks, box])
    top, bottom, left, right = device.download(box).tolist()
    if top == _FAR:
        return None
    found = top, 1 - bottom, left, 1 - right
    return found, marks[found[0] : found[1], found[2] : found[3]]


def keys_of(device: Device, quality: Any, winners: Any, selected: NDArray[np.bool_], where: Any) -> Any:
    """The keys again from the layers, NO_KEY where there is no winner or no mark."""
    keys = device.empty(winners.shape, np.uint32)
    chosen = [device.upload(selected.astype(np.uint8)), np.uint32(len(selected))]
    planes = [*_plane(quality), *_ranks(winners), *chosen, *_plane(where)]
    _cover(device, "rekey", winners.shape, [*planes, *_size(winners), keys])
    return keys


def reopen(
    device: Device, bands: Sequence[Any], winners: Any, where: Any, n_scenes: int
) -> NDArray[np.int64]:
    """Nodata into the marked pixels of all bands; counts their winners."""
    wins = _counters(device, n_scenes + 1)
    planes = [_bands(device, bands), np.int32(len(bands)), *_ranks(winners), *_plane(where)]
    _cover(device, "reopen", winners.shape, [*planes, *_size(winners), wins, np.uint32(n_scenes)])
    return device.download(wins)


def only(device: Device, winners: Any, where: Any) -> Any:
    """A copy of `winners`, -1 where there is no mark."""
    out = device.empty(winners.shape, winners.dtype)
    _cover(device, "only", winners.shape, [*_ranks(winners), *_plane(where), *_size(winners), out])
    return out


def _cover(device: Device, kernel: str, shape: tuple[int, int], args: list[Any]) -> None:
    """Launch a kernel whose threads take patches of a window; nothing for an empty one."""
    if shape[0] and shape[1]:
        device.launch(("keys", kernel), masks.patches(*shape, THREADS, ROWS), THREADS, args)


def _plane(array: Any) -> list[Any]:
    """A 2-D array as kernels take it: first element and pitch; a null pointer for ``None``."""
    return [None, np.int64(0)] if array is None else [array, pitch(array)]


def _ranks(winners: Any) -> list[Any]:
    """``struct Ranks`` of ``cuda/keys.cu``."""
    return [*_plane(winners), np.int32(winners.dtype.itemsize)]


def _size(array: Any) -> list[Any]:
    return [np.int64(n) for n in array.shape]


def _bands(device: Device, bands: Sequence[Any]) -> Any:
    """``struct Band`` of each band, in device memory."""
    table = [(device.address(band), pitch(band)) for band in bands]
    return device.upload(np.array(table, np.int64).reshape(-1, 2))


def _counters(device: Device, shape: int | tuple[int, ...]) -> Any:
    made = device.empty(shape, np.int64)
    device.fill(made, 0)
    return made
