"""Rules that look at band values: who still competes, whose index is greatest, what is left."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NO_KEY, NODATA, RANK_BITS, ValueState
from bestpixel_gpu.engines.cpu.jit import inlined, int64, kernel, plane

_NO_KEY, _RANK, _NODATA = np.uint32(NO_KEY), np.uint32(RANK_BITS), np.uint16(NODATA)
_NO_VALUES, _NO_KEYS = np.empty(0, np.uint16), np.empty(0, np.uint32)


def rivals(keys: Any, own: Any, shift: int) -> NDArray[np.uint8]:
    """Marks where two keys agree above `shift`; see the contract."""
    bits = np.uint32(shift)
    marks: NDArray[np.uint8] = ((own != _NO_KEY) & (own >> bits == keys >> bits)).astype(np.uint8)
    return marks


def rank_values(
    best: ValueState, keys: Any, rank: int, low: Any, high: Any, floor: ValueState | None
) -> None:
    """One scene's values compete; see the contract."""
    rows, cols = keys.shape
    held: list[Any] = [*plane(best.keys), *plane(best.low), *plane(best.high)]
    bound: list[Any] = [_NO_KEYS, 0, _NO_VALUES, 0, _NO_VALUES, 0]
    if floor is not None:
        bound = [*plane(floor.keys), *plane(floor.low), *plane(floor.high)]
    ours: list[Any] = [*plane(keys), *plane(low), *plane(high)]
    compete(rows, cols, np.uint32(rank), _Planes(*held), _Planes(*ours), _Planes(*bound))


class _Planes(NamedTuple):
    """A :class:`ValueState` as kernels take it: flat arrays and their steps from row to row."""

    keys: Any
    keys_step: int
    low: Any
    low_step: int
    high: Any
    high_step: int


@kernel
def compete(rows: int, cols: int, rank: Any, best: _Planes, own: _Planes, floor: _Planes) -> None:
    """The scene's observation replaces the best one where it comes before it, and after the floor."""
    for r in range(rows):
        for c in range(cols):
            key, low, high = _at(own, r, c)
            if key == _NO_KEY or low == _NODATA or high == _NODATA:
                continue
            key = (key & ~_RANK) | rank
            if floor.keys.size and not _is_before(_at(floor, r, c), (key, low, high)):
                continue
            held = _at(best, r, c)
            if held[0] == _NO_KEY or _is_before((key, low, high), held):
                best.keys[r * best.keys_step + c] = key
                best.low[r * best.low_step + c] = low
                best.high[r * best.high_step + c] = high


@inlined
def _at(planes: _Planes, row: int, col: int) -> Any:
    """(key, low, high) of a pixel."""
    key = planes.keys[row * planes.keys_step + col]
    return key, planes.low[row * planes.low_step + col], planes.high[row * planes.high_step + col]


@inlined
def _is_before(a: Any, b: Any) -> Any:
    """By class, then by the greater index, then by rank: cross-multiplied, so exact."""
    (key, low, high), (other, other_low, other_high) = a, b
    if key >> 16 != other >> 16:
        return key < other
    ours = (int64(high) - int64(low)) * max(int64(other_high) + int64(other_low), 1)
    theirs = (int64(other_high) - int64(other_low)) * max(int64(high) + int64(low), 1)
    return ours > theirs or (ours == theirs and key < other)


def exhausted(keys: Any, best: Any) -> NDArray[np.uint32] | None:
    """The last key of each class in which nobody had values; see the contract."""
    left = (keys != _NO_KEY) & (best == _NO_KEY)
    return np.where(left, keys | _RANK, _NO_KEY) if left.any() else None
