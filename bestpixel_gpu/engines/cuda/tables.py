"""Small tables in device memory: what masks and chunks are looked up in, uploaded once for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import MaskTable
from bestpixel_gpu.engines.cuda.device import Device
from bestpixel_gpu.geo.grid import ChunkGrid

_KEPT = 16


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTable:
    """A :class:`MaskTable` in device memory: uint8 (65536,), uint16 (256,), uint8 (256,)."""

    codes: Any
    scores: Any
    clear: Any


@dataclass(frozen=True, slots=True, eq=False)
class DeviceChunks:
    """A :class:`ChunkGrid` in device memory.

    Attributes
    ----------
    row_edges, col_edges : int64 device arrays
    of_row, of_col : int32 device arrays
        Chunk row of each row of the grid, chunk column of each column.
    """

    row_edges: Any
    col_edges: Any
    of_row: Any
    of_col: Any


class Tables:
    """Device copies of mask tables and chunk grids; the last few used are kept."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.of = lru_cache(_KEPT)(self._table)
        """The device's copy of a mask table."""
        self.chunks = lru_cache(_KEPT)(self._chunks)
        """The device's copy of a chunk grid."""

    def clear(self) -> None:
        """Give the copies back."""
        self.of.cache_clear()
        self.chunks.cache_clear()

    def _table(self, table: MaskTable) -> DeviceTable:
        return DeviceTable(
            self._device.upload(table.codes.astype(np.uint8)),
            self._device.upload(table.scores.astype(np.uint16)),
            self._device.upload(table.clear.astype(np.uint8)),
        )

    def _chunks(self, chunks: ChunkGrid) -> DeviceChunks:
        edges = [np.asarray(e, np.int64) for e in (chunks.row_edges, chunks.col_edges)]
        numbers = [np.repeat(np.arange(len(e) - 1, dtype=np.int32), np.diff(e)) for e in edges]
        return DeviceChunks(*map(self._device.upload, edges), *map(self._device.upload, numbers))
