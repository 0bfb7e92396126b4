"""Opening the files of scenes: headers, frames, levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from bestpixel_gpu.catalog.scene import AssetRef, Scene
from bestpixel_gpu.cog.ifd import HeaderBytes, NeedBytes, read_raster
from bestpixel_gpu.cog.layout import Level, Raster
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.errors import FormatError
from bestpixel_gpu.geo.pixel_map import RasterFrame
from bestpixel_gpu.transfer.reader import ChangedError, Stamp

LEVEL_SLACK = 1.01
"""A level may be this much coarser than the output asks for."""

Coarsest = Callable[[Raster], float]
"""Tells from a raster without overviews the largest decimation of use."""


def no_overview(_: Raster) -> float:
    """The largest decimation of use where only full resolution is read."""
    return 1.0


async def open_raster(
    session: Session, asset: AssetRef, *, signed: bool, coarsest: Coarsest = no_overview
) -> tuple[Raster, Stamp | None]:
    """Header of a file, with the overviews up to a decimation, and which file that is: reads take it.

    What does not read, or changed meanwhile, is asked for once more; what does not read, kept in no cache.
    """
    try:
        return await _read_header(session, asset, signed, coarsest)
    except (FormatError, ChangedError):  # damaged on its way, now or when it was cached
        await session.reader.forget(asset.href)
    try:
        return await _read_header(session, asset, signed, coarsest)
    except FormatError:
        await session.reader.forget(asset.href)
        raise


async def _read_header(
    session: Session, asset: AssetRef, signed: bool, coarsest: Coarsest
) -> tuple[Raster, Stamp | None]:
    """One request for nearly all files, more where the header says so."""
    reader, href = session.reader, asset.href
    first, size = await reader.header(href, signed=signed)
    header, stamp = HeaderBytes(first, size), reader.stamp(href)  # nothing is awaited between the two
    while True:
        try:
            return read_raster(header, coarsest), stamp
        except NeedBytes as need:
            more = await reader.read(href, need.offset, need.length, signed=signed, stamp=stamp)
            header.add(need.offset, bytes(more))


def frame_of(raster: Raster, scene: Scene) -> RasterFrame:
    """Where a raster lies. The file's own tags win over the item's.

    Raises
    ------
    FormatError
        If the raster is rotated, or neither file nor item names a CRS.
    """
    x0, y0, dx, dy = raster.check_north_up()
    crs = raster.crs or scene.crs
    if crs is None:
        raise FormatError(f"item {scene.id}: neither the file's GeoKeys nor the item name a CRS")
    full = raster.levels[0]
    return RasterFrame(crs, x0, y0, dx, dy, full.width, full.height)


def coarsest_for(session: Session, scene: Scene, share: float = 1.0) -> Coarsest:
    """What the output can use of a scene's files: pixels of up to `share` of an output pixel's side."""

    def coarsest(raster: Raster) -> float:
        try:
            return _limit(share * min(session.projector.step(frame_of(raster, scene))))
        except FormatError:  # told where the frame is needed; the file itself reads well
            return math.inf

    return coarsest


def _limit(decimation: float) -> float:
    return LEVEL_SLACK * max(1.0, decimation)


def level_for(raster: Raster, decimation: float) -> int:
    """Index of the coarsest level that is not coarser than the output (1 % slack)."""
    full = raster.levels[0].width
    limit = _limit(decimation)
    return max(
        (i for i, level in enumerate(raster.levels) if full / level.width <= limit),
        key=lambda i: full / raster.levels[i].width,
    )


def sample_of(level: Level, sample: int) -> tuple[Level, int]:
    """A level that yields one sample of the file, and the plane its tiles lie in."""
    if level.planes > 1:
        _check_sample(sample, level.planes)
        return level, sample
    _check_sample(sample, level.layout.samples)
    return (level if sample == 0 else replace(level, layout=replace(level.layout, sample=sample))), 0


def _check_sample(sample: int, count: int) -> None:
    if not 0 <= sample < count:
        raise FormatError(f"sample {sample} asked of a file with {count} samples per pixel")
