"""Pixel maps in device memory, each uploaded once."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from bestpixel_gpu.engines.cuda.device import Device
from bestpixel_gpu.geo.pixel_map import AxisMap, PixelMap

AXIS = -1
"""`log2_step` of an axis map, as ``cuda/positions.cuh`` knows it."""


class Maps:
    """Device copies of pixel maps, kept as long as the maps themselves live."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._known: dict[int, tuple[Any, ...]] = {}
        self._lock = threading.Lock()

    def fields(self, positions: PixelMap) -> list[int]:
        """The int64 fields of ``struct PixelMap``: addresses of the tables, then the lattice's numbers."""
        with self._lock:
            if id(positions) not in self._known:
                tables = [self._device.upload(np.ascontiguousarray(t)) for t in (positions.x, positions.y)]
                self._known[id(positions)] = tuple(tables)
                weakref.finalize(positions, self._known.pop, id(positions), None)
            x, y = self._known[id(positions)]
        at = [self._device.address(x), self._device.address(y)]
        if isinstance(positions, AxisMap):
            return [*at, AXIS, 0, 0, 0]
        return [*at, positions.log2_step, positions.row0, positions.col0, positions.x.shape[1]]

    def struct(self, positions: PixelMap) -> Any:
        """``struct PixelMap`` in device memory."""
        return self._device.upload(np.array(self.fields(positions), np.int64))

    def clear(self) -> None:
        """Give the copies back."""
        with self._lock:
            self._known.clear()
