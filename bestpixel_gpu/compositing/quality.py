"""What the classes of a scene's mask are worth, near cloud too; several masks of one scene as one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.catalog.providers import CollectionProfile
from bestpixel_gpu.cog.layout import Level
from bestpixel_gpu.engines.contract import CompressedTile, Surround
from bestpixel_gpu.errors import CorruptTileError, FormatError
from bestpixel_gpu.geo.crs import metres_per_unit
from bestpixel_gpu.geo.pixel_map import RasterFrame
from bestpixel_gpu.plan.scores import ScoreTables, score_tables, surround
from bestpixel_gpu.request import Request


def tables_of(profile: CollectionProfile, nodata: int, request: Request) -> ScoreTables:
    """Codes of a mask's classes; `nodata` is the file's own word for it."""
    return _tables(profile, nodata & 0xFFFF, request.cloud_buffer > 0, request.by_time)


@lru_cache(maxsize=64)
def _tables(profile: CollectionProfile, nodata: int, buffered: bool, by_time: bool) -> ScoreTables:
    rules = profile.class_rules
    fill = rules.nodata.copy()
    fill[nodata] = True
    cloudy = rules.cloudy & ~fill if buffered else None
    return score_tables(rules.scores, rules.clear, fill, cloudy, by_time=by_time)


def near_cloud(request: Request, tables: ScoreTables, frame: RasterFrame, level: Level) -> Surround | None:
    """What pixels of a mask's level become within `cloud_buffer` of cloud or shadow.

    Raises
    ------
    InputError
        If the mask's pixels are not measured in lengths.
    """
    if not request.cloud_buffer:
        return None
    unit = metres_per_unit(frame.crs)
    across, down = frame.dx * frame.width / level.width, frame.dy * frame.height / level.height
    return surround(tables, across * unit, down * unit, request.cloud_buffer)


def worst_tiles(ours: Sequence[CompressedTile], theirs: Sequence[CompressedTile]) -> list[CompressedTile]:
    """Tiles of the larger class of each pixel, compressed again.

    For layers of bytes whose classes sort from good to bad, like MODIS' mandatory quality (0 full
    inversion, 1 magnitude inversion, 255 fill). A tile that one of the files does not hold is fill.

    Raises
    ------
    CorruptTileError
        If a tile does not decode.
    FormatError
        If the layers do not hold single bytes.
    """
    other = {t.index: t for t in theirs}
    return [_worst(t, other[t.index]) for t in ours]


def _worst(a: CompressedTile, b: CompressedTile) -> CompressedTile:
    if a.data is None or b.data is None:
        return CompressedTile(a.index, None, a.layout)
    worst = np.maximum(_classes(a), _classes(b))
    # no predictor: classes are long runs already
    layout = replace(a.layout, codec="deflate", predictor=1, samples=1, sample=0)
    return CompressedTile(a.index, zlib.compress(worst.tobytes(), 1), layout)


def _classes(tile: CompressedTile) -> NDArray[np.uint8]:
    """Decoded bytes, (rows, cols) of the stored tile."""
    layout = tile.layout
    if layout.bits != 8 or layout.samples != 1 or layout.codec not in ("none", "deflate"):
        raise FormatError(f"quality layers must hold bytes, not {layout.samples} x {layout.bits} bits")
    assert tile.data is not None
    plain = tile.data
    try:
        if layout.codec == "deflate":
            plain = zlib.decompressobj().decompress(plain, layout.inflated_bytes + 1)
    except zlib.error as exc:
        raise CorruptTileError(f"quality tile {tile.index} is damaged ({exc})") from None
    if len(plain) != layout.inflated_bytes:
        raise CorruptTileError(f"quality tile {tile.index} does not hold {layout.inflated_bytes} bytes")
    classes = np.frombuffer(plain, np.uint8).reshape(layout.height, layout.width)
    return np.cumsum(classes, axis=1, dtype=np.uint8) if layout.predictor == 2 else classes
