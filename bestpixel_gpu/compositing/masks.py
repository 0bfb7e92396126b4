"""Class masks: fetched once, kept compressed, and decoded as far as there is room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bestpixel_gpu.catalog.providers import CollectionProfile
from bestpixel_gpu.catalog.scene import AssetRef, Scene
from bestpixel_gpu.cog import codecs
from bestpixel_gpu.cog.layout import HOST_CODECS, Level
from bestpixel_gpu.compositing.files import (
    coarsest_for,
    frame_of,
    level_for,
    open_raster,
    sample_of,
)
from bestpixel_gpu.compositing.quality import near_cloud, tables_of, worst_tiles
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.engines.contract import (
    CompressedTile,
    Footprint,
    MaskTable,
    ScoreRaster,
    Surround,
    TileGrid,
    Window,
)
from bestpixel_gpu.errors import CorruptTileError, FormatError, InputError, SourceError
from bestpixel_gpu.geo.crs import epsg_of
from bestpixel_gpu.geo.pixel_map import HALF, PixelMap, RasterFrame, source_window
from bestpixel_gpu.plan.scores import ScoreTables
from bestpixel_gpu.plan.selection import Counted
from bestpixel_gpu.request import Request
from bestpixel_gpu.transfer.reader import ChangedError, Stamp

COARSER = 1.01
"""An output pixel is larger than a mask pixel if both of its sides are longer than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Score codes of a mask, and how the output's pixels look at them."""

    codes: ScoreRaster
    positions: PixelMap
    footprint: Footprint | None


@dataclass(slots=True, eq=False)
class SceneMask:
    """One scene's class mask over the grid: opened, then compressed, and decoded while it is kept so."""

    scene: Scene
    stamp: Stamp | None
    """Which file it is of."""
    frame: RasterFrame
    level: Level
    plane: int
    positions: PixelMap
    footprint: Footprint | None
    tables: ScoreTables
    near: Surround | None
    """What its pixels become near cloud, if anything."""
    nodata: int
    """Class of tiles that the file does not hold."""
    margin: int
    """Mask pixels needed around the nearest one."""
    window: Window
    """Mask pixels under the whole grid, margin included."""
    tiles: tuple[CompressedTile, ...] | None = None
    """``None`` until they are read."""
    kept: Sight | None = None
    """What the output sees of it, decoded, where there was room to keep that."""
    counted: Counted | None = None
    """What it shows of the chunks, until scenes are chosen."""

    @property
    def grid(self) -> TileGrid:
        """How its tiles lie."""
        return self.level.grid

    @property
    def nbytes(self) -> int:
        """Size of its compressed tiles."""
        return sum(len(t.data) for t in self.tiles or () if t.data is not None)

    @property
    def table(self) -> MaskTable:
        """What decides between its codes and those of others."""
        return self.tables.rank

    @property
    def window_bytes(self) -> int:
        """Size of the whole window as score codes."""
        r0, r1, c0, c1 = self.window
        return (r1 - r0) * (c1 - c0)

    def is_small(self, session: Session) -> bool:
        """The mask has hardly more pixels than the output, so that it is kept as it is."""
        return self.window_bytes <= COARSER**2 * session.grid.width * session.grid.height

    def kept_bytes(self, session: Session) -> int:
        """Size of the codes if they are kept: at the mask's pixels, or the output's where these are fewer."""
        return self.window_bytes if self.is_small(session) else session.grid.width * session.grid.height

    def keep(self, session: Session) -> None:
        """Decode it for the whole output, so that later sweeps need not."""
        height, width = session.grid.shape
        codes = self.decode(session, self.window)
        self.kept = Sight(codes, self.positions, self.footprint)
        if not self.is_small(session):
            codes = session.engine.resample(
                codes, self.positions, (0, height, 0, width), footprint=self.footprint
            )
            self.kept = Sight(codes, session.identity, None)

    def part(self, session: Session, rows: tuple[int, int], cols: tuple[int, int]) -> Sight | None:
        """What a window of the output sees of it; ``None`` if the mask does not reach the window.

        Raises
        ------
        CorruptTileError
            If a tile does not decode.
        """
        if self.kept is not None:
            return self.kept
        box = source_window(self.positions, rows, cols, self.margin, self.grid.width, self.grid.height)
        return None if box is None else Sight(self.decode(session, box), self.positions, self.footprint)

    def decode(self, session: Session, box: Window) -> ScoreRaster:
        """Score codes of a window of the mask."""
        assert self.tiles is not None
        wanted = set(tiles_in(self.grid, box))
        tiles = [t for t in self.tiles if t.index in wanted]
        codes, status = session.engine.classify(
            tiles, self.grid, box, self.tables.classify, nodata=self.nodata, grow=self.scene.profile.mask_grow
        )
        if status.any():
            bad = tiles[int(np.flatnonzero(status)[0])].index
            raise CorruptTileError(f"item {self.scene.id}: mask tile {bad} does not decode")
        if self.near is not None:
            session.engine.surround(codes, self.near)
        return codes


MASK_ERRORS = SourceError, FormatError, InputError
"""What costs a scene its mask; InputError: an address nothing reads."""


@dataclass(frozen=True, slots=True)
class MaskFailure:
    """A scene that is no candidate, and why."""

    scene: Scene
    reason: str
    error: Exception | None = None


async def fetch_mask(
    session: Session, scene: Scene, opened: SceneMask | None = None, *, again: bool = False
) -> SceneMask | MaskFailure:
    """One scene's mask over the grid, whatever others hold of it; `opened` if it is open already."""
    try:
        mask = await open_mask(session, scene) if opened is None else opened
        if isinstance(mask, SceneMask):
            mask.tiles = tuple(await _read(session, mask))
    except MASK_ERRORS as exc:
        if isinstance(exc, ChangedError) and not again:  # replaced since its header was kept
            return await fetch_mask(session, scene, again=True)
        return MaskFailure(scene, str(exc), exc)
    return mask


async def open_mask(session: Session, scene: Scene) -> SceneMask | MaskFailure:
    """One scene's mask over the grid, none of its tiles read.

    Raises
    ------
    SourceError, FormatError, InputError
        If the file cannot be read, or not as a mask.
    """
    share = _share(session.request, scene.profile)
    coarsest = coarsest_for(session, scene, share)
    raster, stamp = await open_raster(session, scene.mask, signed=scene.signed, coarsest=coarsest)
    frame = frame_of(raster, scene)
    _note_contradiction(session, scene, frame)
    index = level_for(raster, share * min(session.projector.step(frame)))
    level, plane = sample_of(raster.levels[index], scene.mask.sample)
    positions = session.projector.map_to(frame, level.width, level.height)
    footprint = _footprint(session, frame, level)
    nodata = scene.profile.mask_nodata if raster.nodata is None else int(raster.nodata)
    tables = tables_of(scene.profile, nodata, session.request)
    near = near_cloud(session.request, tables, frame, level)
    margin = scene.profile.mask_grow + (0 if near is None else near.margin)
    if footprint is not None:
        margin += (max(footprint.half_x, footprint.half_y) >> 32) + 2
    box = source_window(
        positions, (0, session.grid.height), (0, session.grid.width), margin, level.width, level.height
    )
    if box is None:
        return MaskFailure(scene, "its raster does not reach the grid")
    return SceneMask(
        scene, stamp, frame, level, plane, positions, footprint, tables, near, nodata, margin, box
    )


async def _read(session: Session, mask: SceneMask) -> list[CompressedTile]:
    """Its tiles under the grid; of several masks of a scene the worst class of each pixel."""
    scene, indices = mask.scene, tiles_in(mask.grid, mask.window)
    tiles = await _fetch(session, scene, scene.mask, mask.stamp, mask.level, mask.plane, indices)
    for other in scene.more_masks:
        more = await _fetch_same(session, scene, other, mask.frame, mask.grid, indices)
        tiles = await session.compute(worst_tiles, tiles, more)
    return tiles


def _note_contradiction(session: Session, scene: Scene, frame: RasterFrame) -> None:
    """The file's own tags win over the item's; where both name a code, the report says so."""
    said = epsg_of(scene.crs) if scene.crs else None
    found = epsg_of(frame.crs)
    if said and found and said != found:
        session.report.warnings.append(
            f"item {scene.id} says EPSG:{said}, its files EPSG:{found}: the files win"
        )


def _share(request: Request, profile: CollectionProfile) -> float:
    """How much of an output pixel's side a mask pixel may take; 0: masks are read at full resolution.

    Half, where the worst is taken, so that it is sought among four mask pixels at least.
    """
    if not profile.mask_overviews:
        return 0.0
    return 1.0 if _takes_nearest(request) else 0.5


async def _fetch_same(
    session: Session, scene: Scene, asset: AssetRef, frame: RasterFrame, grid: TileGrid, indices: list[int]
) -> list[CompressedTile]:
    """The same tiles of another mask of the scene, full resolution."""
    raster, stamp = await open_raster(session, asset, signed=scene.signed)
    level, plane = sample_of(raster.levels[0], asset.sample)
    if frame_of(raster, scene) != frame or level.grid != grid:
        raise FormatError(f"item {scene.id}: {asset.key} does not lie on the grid of {scene.mask.key}")
    return await _fetch(session, scene, asset, stamp, level, plane, indices)


async def _fetch(
    session: Session,
    scene: Scene,
    asset: AssetRef,
    stamp: Stamp | None,
    level: Level,
    plane: int,
    indices: list[int],
) -> list[CompressedTile]:
    spans = {i: level.span(i, plane) for i in indices}
    stored = {i: s for i, s in spans.items() if s is not None}
    reader, where = session.reader, list(stored.values())
    parts = await reader.read_many(asset.href, where, signed=scene.signed, stamp=stamp)
    tiles = [CompressedTile(i, None, level.layout_of(i)) for i in indices if i not in stored]
    for i, part in zip(stored, parts, strict=True):
        if isinstance(part, Exception):
            raise part
        data: Any = part
        layout = level.layout_of(i)
        if layout.codec in HOST_CODECS:
            data, layout = await session.compute(codecs.to_raw, bytes(part), level, i, plane)
        tiles.append(CompressedTile(i, data, layout))
    return tiles


def _footprint(session: Session, frame: RasterFrame, level: Level) -> Footprint | None:
    """Box of mask pixels an output pixel covers; ``None`` where the nearest pixel decides."""
    across, down = session.projector.step(frame)
    across, down = across * level.width / frame.width, down * level.height / frame.height
    if _takes_nearest(session.request) or min(across, down) <= COARSER:
        return None
    return Footprint(round(across * HALF), round(down * HALF))


def _takes_nearest(request: Request) -> bool:
    return request.mask_resampling == "nearest" or request.order == "ancestor"


def tiles_in(grid: TileGrid, box: Window) -> list[int]:
    """Indices of the tiles that a window touches."""
    r0, r1, c0, c1 = box
    rows = range(r0 // grid.tile_height, (r1 - 1) // grid.tile_height + 1)
    cols = range(c0 // grid.tile_width, (c1 - 1) // grid.tile_width + 1)
    return [r * grid.tiles_across + c for r in rows for c in cols]
