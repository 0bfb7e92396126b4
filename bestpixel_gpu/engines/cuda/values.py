"""Rules that look at band values, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from bestpixel_gpu.engines.contract import ValueState
from bestpixel_gpu.engines.cuda.device import Device, pitch
from bestpixel_gpu.engines.cuda.masks import patches

THREADS = 128
"""Of a block of ``cuda/values.cu``."""
ROWS = 4
"""Rows of each thread there."""


def rivals(device: Device, keys: Any, own: Any, shift: int) -> Any:
    """Marks where two keys agree above `shift`; see the contract."""
    marks = device.empty(keys.shape, np.uint8)
    _cover(device, "rivals", keys, [*_planes(keys, own), np.uint32(shift), *_size(keys), marks])
    return marks


def rank_values(
    device: Device, best: ValueState, keys: Any, rank: int, low: Any, high: Any, floor: ValueState | None
) -> None:
    """One scene's values compete; see the contract."""
    planes = _planes(best.keys, best.low, best.high, keys, low, high)
    planes += [None, np.int64(0)] * 3 if floor is None else _planes(floor.keys, floor.low, floor.high)
    _cover(device, "rank_values", keys, [*planes, np.uint32(rank), *_size(keys)])


def exhausted(device: Device, keys: Any, best: Any) -> Any | None:
    """The last key of each class in which nobody had values; see the contract."""
    out, found = device.empty(keys.shape, np.uint32), device.empty(1, np.uint32)
    device.fill(found, 0)
    _cover(device, "exhausted", keys, [*_planes(keys, best), *_size(keys), out, found])
    return out if device.download(found)[0] else None


def _planes(*arrays: Any) -> list[Any]:
    return [value for array in arrays for value in (array, pitch(array))]


def _size(array: Any) -> list[np.int64]:
    return [np.int64(n) for n in array.shape]


def _cover(device: Device, name: str, keys: Any, args: list[Any]) -> None:
    if keys.size:
        rows, cols = keys.shape
        device.launch(("values", name), patches(rows, cols, THREADS, ROWS), THREADS, args)
