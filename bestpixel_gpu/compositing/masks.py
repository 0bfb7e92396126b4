"""Class masks: fetched once, kept compressed, inflated for statistics, ranking and repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.catalog.providers import CollectionProfile
from bestpixel_gpu.catalog.scene import Scene
from bestpixel_gpu.cog import codecs
from bestpixel_gpu.cog.layout import HOST_CODECS, Level
from bestpixel_gpu.compositing.files import frame_of, open_raster, sample_of
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.engines.contract import (
    CompressedTile,
    Footprint,
    MaskStatistics,
    MaskTable,
    RankState,
    ScoreRaster,
    TileGrid,
    Window,
)
from bestpixel_gpu.errors import CorruptTileError, FormatError, InputError, SourceError
from bestpixel_gpu.geo.crs import epsg_of
from bestpixel_gpu.geo.pixel_map import HALF, PixelMap, RasterFrame, source_window
from bestpixel_gpu.plan.memory import BAND_BYTES
from bestpixel_gpu.plan.scores import mask_table
from bestpixel_gpu.plan.selection import SceneCounts
from bestpixel_gpu.request import Request

COARSER = 1.01
"""An output pixel is larger than a mask pixel if both of its sides are longer than this."""
CELLS = 32
"""Cells along a chunk's side in which masks are counted."""
STRIP_PIXEL_BYTES = 8
"""Bytes a strip takes for each output pixel while it is ranked: its key and what comes of it."""
CACHED_STRIP = 8 << 20
"""Bytes of a strip that stay in the processor's cache from mask to mask."""

Counted = tuple[NDArray[Any], ...]
"""Clear and valid pixels of some chunks, and their cells where they are asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Score codes of a mask, and how the output's pixels look at them."""

    codes: ScoreRaster
    positions: PixelMap
    footprint: Footprint | None


@dataclass(slots=True, eq=False)
class SceneMask:
    """One scene's class mask over the grid: compressed, and decoded while it is kept so."""

    scene: Scene
    frame: RasterFrame
    grid: TileGrid
    positions: PixelMap
    footprint: Footprint | None
    table: MaskTable
    tiles: tuple[CompressedTile, ...]
    margin: int
    """Mask pixels needed around the nearest one."""
    nbytes: int
    window: Window
    """Mask pixels under the whole grid, margin included."""
    kept: Sight | None = None
    """What the output sees of it, decoded, where all masks together are small enough to keep that."""

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
        wanted = set(_tiles_in(self.grid, box))
        tiles = [t for t in self.tiles if t.index in wanted]
        profile = self.scene.profile
        codes, status = session.engine.classify(
            tiles, self.grid, box, self.table, nodata=profile.mask_nodata, grow=profile.mask_grow
        )
        if status.any():
            bad = tiles[int(np.flatnonzero(status)[0])].index
            raise CorruptTileError(f"item {self.scene.id}: mask tile {bad} does not decode")
        return codes


@dataclass(frozen=True, slots=True)
class MaskFailure:
    """A scene that is no candidate, and why."""

    scene: Scene
    reason: str
    error: Exception | None = None


async def read_masks(session: Session, scenes: Sequence[Scene]) -> tuple[list[SceneMask], list[MaskFailure]]:
    """Masks of all scenes over the grid. A scene whose mask fails is no candidate."""
    answers = await together(
        [_read_mask(session, s) for s in scenes], lambda n: session.progress("masks", n, len(scenes))
    )
    return (
        [a for a in answers if isinstance(a, SceneMask)],
        [a for a in answers if isinstance(a, MaskFailure)],
    )


async def _read_mask(session: Session, scene: Scene) -> SceneMask | MaskFailure:
    try:
        raster = await open_raster(session, scene.mask, signed=scene.signed)
        frame = frame_of(raster, scene)
        _note_contradiction(session, scene, frame)
        level, plane = sample_of(raster.levels[0], scene.mask.sample)
        positions = session.projector.map_to(frame, level.width, level.height)
        footprint = _footprint(session, frame)
        margin = scene.profile.mask_grow
        if footprint is not None:
            margin += (max(footprint.half_x, footprint.half_y) >> 32) + 2
        box = source_window(
            positions, (0, session.grid.height), (0, session.grid.width), margin, level.width, level.height
        )
        if box is None:
            return MaskFailure(scene, "its raster does not reach the grid")
        grid = level.grid
        tiles = await _fetch(session, scene, level, plane, _tiles_in(grid, box))
    except (SourceError, FormatError, InputError) as exc:  # InputError: an address nothing reads
        return MaskFailure(scene, str(exc), exc)
    size = sum(len(t.data) for t in tiles if t.data is not None)
    table = _table_of(scene.profile)
    return SceneMask(scene, frame, grid, positions, footprint, table, tuple(tiles), margin, size, box)


def _note_contradiction(session: Session, scene: Scene, frame: RasterFrame) -> None:
    """The file's own tags win over the item's; where both name a code, the report says so."""
    said = epsg_of(scene.crs) if scene.crs else None
    found = epsg_of(frame.crs)
    if said and found and said != found:
        session.report.warnings.append(
            f"item {scene.id} says EPSG:{said}, its files EPSG:{found}: the files win"
        )


async def _fetch(
    session: Session, scene: Scene, level: Level, plane: int, indices: list[int]
) -> list[CompressedTile]:
    spans = {i: level.span(i, plane) for i in indices}
    stored = {i: s for i, s in spans.items() if s is not None}
    parts = await session.reader.read_many(scene.mask.href, list(stored.values()), signed=scene.signed)
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


def _footprint(session: Session, frame: RasterFrame) -> Footprint | None:
    """Box of mask pixels an output pixel covers; ``None`` where the nearest pixel decides."""
    across, down = session.projector.step(frame)
    centre = session.request.mask_resampling == "nearest" or session.request.order == "ancestor"
    if centre or min(across, down) <= COARSER:
        return None
    return Footprint(round(across * HALF), round(down * HALF))


@lru_cache(maxsize=64)
def _table_of(profile: CollectionProfile) -> MaskTable:
    rules = profile.class_rules
    return mask_table(rules.scores, rules.clear, profile.mask_nodata)


def _tiles_in(grid: TileGrid, box: Window) -> list[int]:
    r0, r1, c0, c1 = box
    rows = range(r0 // grid.tile_height, (r1 - 1) // grid.tile_height + 1)
    cols = range(c0 // grid.tile_width, (c1 - 1) // grid.tile_width + 1)
    return [r * grid.tiles_across + c for r in rows for c in cols]


# ---- sweeps over the grid, on the compute threads ----


def strips(session: Session, most: int | None = None) -> list[tuple[int, int]]:
    """Row ranges of whole chunk rows: about one for each thread, more where they would rank over `most`."""
    edges = session.chunks.row_edges
    chunk_rows, size = len(edges) - 1, session.grid.height * session.grid.width * STRIP_PIXEL_BYTES
    wanted = session.threads if most is None else max(session.threads, -(-size // most))
    cuts = np.linspace(0, chunk_rows, min(wanted, chunk_rows) + 1).round().astype(int)
    return [(int(edges[a]), int(edges[b])) for a, b in pairwise(cuts)]


async def count_masks(
    session: Session, masks: Sequence[SceneMask]
) -> tuple[list[SceneMask], SceneCounts, list[MaskFailure]]:
    """What each mask shows of each chunk; masks that do not decode are left out."""
    cells = cells_for(session.request)
    keep = sum(m.kept_bytes(session) for m in masks) <= session.budget.codes
    rows = [(0, session.grid.height)] if keep else strips(session)
    jobs = [session.compute(_count_or_error, session, m, strip, cells, keep) for m in masks for strip in rows]
    answers = await together(jobs, lambda n: session.progress("statistics", n, len(jobs)))
    masks = list(masks)
    for i, mask in enumerate(masks):
        part = slice(i * len(rows), (i + 1) * len(rows))
        if any(
            isinstance(a, CorruptTileError) for a in answers[part]
        ):  # perhaps only on the way: ask once more
            again = await _read_mask(session, mask.scene)
            if isinstance(again, SceneMask):
                masks[i] = again
                answers[part] = await together(
                    [session.compute(_count_or_error, session, again, strip, cells, keep) for strip in rows]
                )
    good: list[SceneMask] = []
    lost: list[MaskFailure] = []
    stats: list[list[Counted]] = []
    for i, mask in enumerate(masks):
        parts = answers[i * len(rows) : (i + 1) * len(rows)]
        error = next((p for p in parts if isinstance(p, Exception)), None)
        if error is not None:
            lost.append(MaskFailure(mask.scene, str(error), error))
        elif not any(p[1].any() for p in parts):
            lost.append(MaskFailure(mask.scene, "its mask observed nothing of the grid"))
        else:
            good.append(mask)
            stats.append(parts)
    return good, _join(session, stats), lost


def cells_for(request: Request) -> int:
    """Cells along a chunk's side that the selection looks at; 0 where it looks at whole chunks."""
    if request.coverage_target > 0:
        return CELLS
    return 0 if request.top_k is None or request.order == "ancestor" else CELLS // 2


def _count_or_error(
    session: Session, mask: SceneMask, rows: tuple[int, int], cells: int, keep: bool
) -> Counted | CorruptTileError:
    """What one mask shows of whole chunk rows."""
    window = (*rows, 0, session.grid.width)
    try:
        if keep:
            mask.keep(session)
        sight = mask.part(session, rows, (0, session.grid.width))
    except CorruptTileError as exc:
        return exc
    if sight is None:
        edges = session.chunks.row_edges
        n_rows = int(np.searchsorted(edges, rows[1]) - np.searchsorted(edges, rows[0]))
        shape = (n_rows, len(session.chunks.col_edges) - 1)
        none = np.zeros((*shape, CELLS, CELLS), np.uint32) if cells else None
        found = MaskStatistics(np.zeros(shape, np.int64), np.zeros(shape, np.int64), none, none)
    else:
        found = session.engine.statistics(
            sight.codes,
            sight.positions,
            window,
            session.chunks,
            mask.table,
            footprint=sight.footprint,
            cells=cells > 0,
        )
    return found.clear, found.valid, *_kept_cells(found, cells)


def _kept_cells(found: MaskStatistics, cells: int) -> tuple[NDArray[Any], ...]:
    """Cells as the selection wants them, see :class:`SceneCounts`, in few bytes: they stay for all scenes."""
    clear, valid = found.clear_cells, found.valid_cells
    if not cells or clear is None or valid is None:
        return ()
    shape = found.clear.shape
    if cells == CELLS:
        seen = valid > 0
        return ((2 * clear >= valid) & seen).reshape(*shape, -1), seen.reshape(*shape, -1)
    fine = (*shape, cells, CELLS // cells, cells, CELLS // cells)
    return tuple(
        a.reshape(fine).sum(axis=(3, 5), dtype=np.uint16).reshape(*shape, -1) for a in (clear, valid)
    )


def _join(session: Session, stats: list[list[Counted]]) -> SceneCounts:
    """One scene after the other, each from its strips."""
    pixels = np.outer(np.diff(session.chunks.row_edges), np.diff(session.chunks.col_edges))
    if not stats:
        none = np.zeros((0, *pixels.shape), np.int64)
        return SceneCounts(none, none, pixels)
    clear, valid, *cells = (
        np.array([np.concatenate([p[i] for p in parts]) for parts in stats]) for i in range(len(stats[0][0]))
    )
    return SceneCounts(clear, valid, pixels, *cells)


def strip_bytes(session: Session, masks: Sequence[SceneMask]) -> int:
    """Bytes that a strip may take while it is ranked: few where no mask is decoded for each strip anew."""
    most = session.budget.strip
    return most if any(m.kept is None for m in masks) else min(most, CACHED_STRIP)


def ranking_bytes(session: Session, masks: Sequence[SceneMask]) -> int:
    """Bytes of the strips that all threads rank at once: keys and what comes of them, one mask decoded.

    To these come the codes that are kept, as far as they do not fit where the bands will be.
    """
    height, width = session.grid.shape
    chunk_row = int(np.diff(session.chunks.row_edges).max()) * width * STRIP_PIXEL_BYTES
    strip = min(max(strip_bytes(session, masks), chunk_row), height * width * STRIP_PIXEL_BYTES)
    kept = sum(m.kept_bytes(session) for m in masks if m.kept is not None)
    part = max((min(m.window_bytes, session.budget.strip) for m in masks if m.kept is None), default=0)
    at_once = min(session.threads, len(session.chunks.row_edges) - 1) * (strip + part)
    return at_once + max(kept - height * width * BAND_BYTES * len(session.bands), 0)


def release_codes(session: Session, masks: Sequence[SceneMask]) -> None:
    """Give up kept codes once the winners are known, unless they are few: repair may want them."""
    if sum(m.kept_bytes(session) for m in masks) > session.budget.repair_codes:
        for mask in masks:
            mask.kept = None


def compete(
    session: Session,
    state: RankState,
    competitors: Sequence[tuple[SceneMask, int]],
    barred: NDArray[np.bool_] | None,
) -> None:
    """Let every competitor (mask, low part of its key) compete for the pixels of a state."""
    r0, r1, c0, c1 = state.window
    for rank, (mask, low) in enumerate(competitors):
        sight = mask.part(session, (r0, r1), (c0, c1))
        if sight is None:
            continue
        bars = None if barred is None or not barred[rank].any() else barred[rank]
        session.engine.rank(
            state,
            sight.codes,
            sight.positions,
            mask.table,
            low,
            footprint=sight.footprint,
            chunks=session.chunks,
            barred=bars,
        )
