"""Winners' samples -> the painted band of a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import TapSource, Window
from bestpixel_gpu.engines.cpu.jit import plane, table
from bestpixel_gpu.engines.cpu.lattice import lattice_of
from bestpixel_gpu.engines.cpu.paint_axis import BLEND_ROOM, COLUMN_FIELDS, column_table, paint_axis
from bestpixel_gpu.engines.cpu.paint_lattice import paint_lattice, scratch_for
from bestpixel_gpu.engines.cpu.sample import level_of, rule_of
from bestpixel_gpu.engines.cpu.spans import spans_of
from bestpixel_gpu.geo.pixel_map import AxisMap
from bestpixel_gpu.transfer.buffers import Buffers
from bestpixel_gpu.transfer.pages import fresh_pages

SMALL_POOL = 32 << 20
"""Bytes of a pool that come from memory of the pools before it: pages that were never used cost more than
painting a small grid."""
_ROOMS = Buffers()


class CpuPool:
    """Slots of decoded tiles in one block of memory, each on a cache line of its own."""

    def __init__(self, slot_bytes: int, n_slots: int) -> None:
        self.slot_bytes = slot_bytes
        self.n_slots = n_slots
        self.step = -(-slot_bytes // _ALIGNMENT) * _ALIGNMENT
        """Bytes from slot to slot."""
        size = self.step * n_slots
        if size > SMALL_POOL:
            release_rooms()
        small = size <= SMALL_POOL
        room = np.frombuffer(_ROOMS.take(SMALL_POOL), np.uint8) if small else fresh_pages(size)
        self.data = room[:size]


_ALIGNMENT = 64


def release_rooms() -> None:
    """Give back what small pools left."""
    _ROOMS.clear()


def paint(
    target: NDArray[np.uint16], window: Window, winners: NDArray[Any], sources: Mapping[int, TapSource]
) -> int:
    """Write the winners' samples, return how many became nodata; see the contract."""
    flat, step = plane(target)
    brushes: dict[tuple[Any, ...], _Brush] = {}
    failed = 0
    for rank, spans in spans_of(winners, list(sources)):
        source = sources[rank]
        kind = source.geometry, source.rule, source.dtype, source.pool
        if kind not in brushes:
            brushes[kind] = _Brush(source, window)
        failed += brushes[kind].paint(spans, table(source.slots, np.int32), flat, step)
    return failed


class _Brush:
    """What scenes of one geometry, rule and type have in common, put in the kernels' terms."""

    def __init__(self, source: TapSource, window: Window) -> None:
        pool, dtype = source.pool, source.dtype
        assert isinstance(pool, CpuPool)
        if dtype.kind not in "ui" or dtype.itemsize > 4:
            raise ValueError(f"cannot paint samples of type {dtype}: expected integers of 8 to 32 bits")
        row0, row1, col0, col1 = window
        self._pool = pool.data.view(dtype)
        self._level = level_of(source, pool.step // dtype.itemsize)
        self._rule = rule_of(source.rule, dtype)
        positions = source.geometry.positions
        if isinstance(positions, AxisMap):
            self._lattice = None
            self._x, self._y = (
                table(positions.x[col0:col1], np.int64),
                table(positions.y[row0:row1], np.int64),
            )
            self._blend = np.empty(BLEND_ROOM, np.int32 if dtype.itemsize < 4 else np.int64)
            self._columns = np.empty((COLUMN_FIELDS, col1 - col0), np.int32)
            column_table(self._x, self._level, self._columns)
        else:
            self._lattice = lattice_of(positions, row0, col0)
            self._scratch = scratch_for(dtype)

    def paint(
        self, spans: NDArray[np.int32], slots: NDArray[np.int32], target: NDArray[np.uint16], step: int
    ) -> int:
        """Paint one scene's spans of the window, return how many pixels became nodata."""
        source = (spans, self._pool, slots, self._level, self._rule)
        if self._lattice is not None:
            return int(paint_lattice(*source, self._lattice, self._scratch, target, step))
        return int(paint_axis(*source, self._x, self._y, self._columns, self._blend, target, step))
