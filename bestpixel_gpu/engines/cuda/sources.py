"""Scenes' levels as ``struct Source`` of ``cuda/sample.cuh``, which painting, owners and sums share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import SampleRule, TapGeometry, TapSource
from bestpixel_gpu.engines.cuda.device import Device, pitch
from bestpixel_gpu.engines.cuda.positions import Maps

ERODED = 2
"""Pixels around a tap that erosion looks at."""
_MAP = ("x", "y", "log2_step", "row0", "col0", "node_cols")
_SIZES = ("width", "height", "tile_width", "tile_height", "across")
_FIELDS = (
    *(*_MAP, "pool", "step", "tiles", *_SIZES, "by_width", "by_height", "bilinear", "margin"),
    *("lo", "hi", "nodata", "mul", "add", "div", "quick", "marks", "marks_pitch"),
)
SOURCE = np.dtype([(name, np.int64) for name in _FIELDS])
"""``struct Source``."""
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Sources of one launch, in device memory.

    Attributes
    ----------
    structs : device array
        n elements of :data:`SOURCE`.
    index_of : int32 device array, (ranks,)
        Source of each rank, -1 where there is none.
    slots : int32 device array
        Slots of the tiles of all sources, one after the other; of no use to `owners`.
    first_tile : int64, (n + 1,)
        Where each source's tiles begin among these, and where the last one's end.
    """

    structs: Any
    n: int
    index_of: Any
    ranks: int
    slots: Any
    first_tile: NDArray[np.int64]


def by_type(sources: Mapping[int, TapSource]) -> dict[str, dict[int, TapSource]]:
    """Sources grouped by the type of their samples, named as the kernels are: ``u2``, ``i2``, ...

    Raises
    ------
    ValueError
        If the samples are not integers of 8 to 32 bits.
    """
    for source in sources.values():
        if source.dtype.kind not in "ui" or source.dtype.itemsize > 4:
            raise ValueError(
                f"cannot paint samples of type {source.dtype}: expected integers of 8 to 32 bits"
            )

    def name(rank: int) -> str:
        return f"{sources[rank].dtype.kind}{sources[rank].dtype.itemsize}"

    return {
        t: {rank: sources[rank] for rank in ranks} for t, ranks in groupby(sorted(sources, key=name), name)
    }


def upload_sources(
    device: Device, maps: Maps, sources: Mapping[int, TapSource], marks: Mapping[int, Any] | None = None
) -> Sources:
    """Sources ready to be sampled; `marks` by rank tell at which of the window's pixels sums take them."""
    table = np.zeros(len(sources), SOURCE)
    first = _first_tiles([source.geometry for source in sources.values()])
    for entry, tiles, (rank, source) in zip(table, first, sources.items(), strict=False):
        margin = ERODED if source.rule.erode else 0
        _describe(entry, maps, source.geometry, int(tiles), source.rule.bilinear, margin)
        _add_samples(entry, device, source)
        if marks is not None and rank in marks:
            entry["marks"], entry["marks_pitch"] = device.address(marks[rank]), pitch(marks[rank])
    slots = np.concatenate([np.asarray(source.slots, np.int32) for source in sources.values()])
    if len(slots) != first[-1]:
        raise ValueError(f"{len(slots)} slots for {first[-1]} tiles")
    return _upload(device, table, list(sources), slots, first)


def upload_geometries(device: Device, maps: Maps, geometries: Mapping[int, TapGeometry]) -> Sources:
    """Sources of which it is only asked where their tiles lie."""
    table = np.zeros(len(geometries), SOURCE)
    first = _first_tiles(list(geometries.values()))
    for entry, tiles, geometry in zip(table, first, geometries.values(), strict=False):
        _describe(entry, maps, geometry, int(tiles), geometry.bilinear, geometry.margin)
    return _upload(device, table, list(geometries), np.zeros(0, np.int32), first)


def divisor(d: int) -> int:
    """What ``quotient`` of ``cuda/sample.cuh`` divides by: exact below 2**31.

    With l = ceil(log2 d) and m = floor(2**(31 + l) / d) + 1 the error m d - 2**(31 + l) is 1..d <= 2**l, so
    floor(n m / 2**(31 + l)) = floor(n / d) for 0 <= n < 2**31 (Granlund and Montgomery 1994, theorem 4.2).
    """
    log2 = (d - 1).bit_length()
    return log2 << 32 | (1 << (31 + log2)) // d + 1


def _first_tiles(geometries: Sequence[TapGeometry]) -> NDArray[np.int64]:
    counts = [g.grid.tiles_across * g.grid.tiles_down for g in geometries]
    return np.cumsum([0, *counts], dtype=np.int64)


def _describe(entry: Any, maps: Maps, geometry: TapGeometry, tiles: int, bilinear: bool, margin: int) -> None:
    grid = geometry.grid
    sizes = (grid.width, grid.height, grid.tile_width, grid.tile_height, grid.tiles_across)
    if max(*sizes, grid.tile_width * grid.tile_height, grid.tiles_across * grid.tiles_down) > _LARGEST:
        raise ValueError(f"a raster of {grid}: sizes beyond 31 bits")
    for name, value in zip(_MAP, maps.fields(geometry.positions), strict=True):
        entry[name] = value
    entry["tiles"] = tiles
    for name, value in zip(_SIZES, sizes, strict=True):
        entry[name] = value
    entry["by_width"], entry["by_height"] = divisor(grid.tile_width), divisor(grid.tile_height)
    entry["bilinear"], entry["margin"] = bilinear, margin


def _add_samples(entry: Any, device: Device, source: TapSource) -> None:
    pool: Any = source.pool
    if pool.step > _LARGEST:
        raise ValueError(f"slots of {pool.step} bytes: expected less than 2 GiB")
    rule, info = source.rule, np.iinfo(source.dtype)
    lo, hi = max(rule.lo, int(info.min)), min(rule.hi, int(info.max))
    nodata = lo - 1 if rule.nodata is None or not lo <= rule.nodata <= hi else rule.nodata
    if lo > hi:
        lo = hi = nodata = 0  # nothing is valid
    entry["pool"], entry["step"] = device.address(pool.data), pool.step
    entry["lo"], entry["hi"], entry["nodata"] = lo, hi, nodata
    entry["mul"], entry["add"], entry["div"] = rule.mul, rule.add, rule.div
    entry["quick"] = source.dtype.itemsize < 4 and not rule.erode and nodata < lo and _is_narrow(rule, info)


def _is_narrow(rule: SampleRule, info: np.iinfo[Any]) -> bool:
    """No step of the rational leaves 32 bits, whatever the sample."""
    products = [rule.mul * int(value) for value in (info.min, info.max)]
    sums = [product + rule.add for product in products]
    doubled = [2 * value + n for value in sums for n in (0, rule.div)]
    terms = (rule.mul, rule.add, 2 * rule.div, *products, *sums, *doubled)
    return max(map(abs, terms)) <= _LARGEST


def _upload(
    device: Device,
    table: NDArray[Any],
    ranks: Sequence[int],
    slots: NDArray[np.int32],
    first_tile: NDArray[np.int64],
) -> Sources:
    """One copy for the three tables."""
    index_of = np.full(max(ranks) + 1, -1, np.int32)
    index_of[list(ranks)] = np.arange(len(ranks))
    parts = [table, index_of, slots]
    whole = device.upload(np.concatenate([part.view(np.uint8) for part in parts]))
    ends = np.cumsum([0, *(part.nbytes for part in parts)])
    structs, indices, places = (whole[a:b] for a, b in pairwise(ends))
    return Sources(structs, len(table), indices, len(index_of), places, first_tile)
