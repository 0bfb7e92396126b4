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
from bestpixel_gpu.plan.scores import mask_table
from bestpixel_gpu.plan.selection import SceneCounts

COARSER = 1.01
"""An output pixel is larger than a mask pixel if both of its sides are longer than this."""
CELLS = 32
STRIP_PIXEL_BYTES = 8
"""Bytes a strip takes for each output pixel while it is ranked: its key and what comes of it."""


@dataclass(slots=True, eq=False)
class SceneMask:
    """One scene's class mask over the grid, compressed."""

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
    codes: ScoreRaster | None = None
    """Score codes at the output's pixels, where all masks together are small enough to keep."""

    @property
    def window_bytes(self) -> int:
        """Size of the whole window as score codes."""
        r0, r1, c0, c1 = self.window
        return (r1 - r0) * (c1 - c0)

    def kept_bytes(self, session: Session) -> int:
        """Size of the codes if they are kept: at the mask's pixels or the output's, whichever are fewer."""
        return min(self.window_bytes, session.grid.width * session.grid.height)

    def keep_codes(self, session: Session) -> None:
        """Become a mask whose pixels are the output's, decoded, so that later sweeps need not decode."""
        height, width = session.grid.shape
        codes = self.decode(session, self.window)
        self.nbytes += self.kept_bytes(session)
        if self.window_bytes <= height * width:  # the mask is the coarser raster: keep it as it is
            self.codes = codes
            return
        self.codes = session.engine.resample(
            codes, self.positions, (0, height, 0, width), footprint=self.footprint
        )
        self.positions, self.footprint = session.identity, None

    def part(self, session: Session, rows: tuple[int, int], cols: tuple[int, int]) -> ScoreRaster | None:
        """Score codes under a window of the output; ``None`` if the mask does not reach it.

        Raises
        ------
        CorruptTileError
            If a tile does not decode.
        """
        if self.codes is not None:
            return self.codes
        box = source_window(self.positions, rows, cols, self.margin, self.grid.width, self.grid.height)
        return None if box is None else self.decode(session, box)

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


def strips(session: Session, row_bytes: int = 0) -> list[tuple[int, int]]:
    """Row ranges of whole chunk rows: about one for each thread, more where they would grow too large."""
    edges = session.chunks.row_edges
    chunk_rows = len(edges) - 1
    wanted = max(session.threads, -(-session.grid.height * row_bytes // session.budget.strip))
    cuts = np.linspace(0, chunk_rows, min(wanted, chunk_rows) + 1).round().astype(int)
    return [(int(edges[a]), int(edges[b])) for a, b in pairwise(cuts)]


async def count_masks(
    session: Session, masks: Sequence[SceneMask], *, cells: bool
) -> tuple[list[SceneMask], SceneCounts, list[MaskFailure]]:
    """What each mask shows of each chunk; masks that do not decode are left out."""
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
    stats: list[list[MaskStatistics]] = []
    for i, mask in enumerate(masks):
        parts = answers[i * len(rows) : (i + 1) * len(rows)]
        error = next((p for p in parts if isinstance(p, Exception)), None)
        if error is not None:
            lost.append(MaskFailure(mask.scene, str(error), error))
        elif not any(p.valid.any() for p in parts):
            lost.append(MaskFailure(mask.scene, "its mask observed nothing of the grid"))
        else:
            good.append(mask)
            stats.append(parts)
    return good, _join(session, stats, cells), lost


def _count_or_error(
    session: Session, mask: SceneMask, rows: tuple[int, int], cells: bool, keep: bool
) -> MaskStatistics | CorruptTileError:
    window = (*rows, 0, session.grid.width)
    try:
        if keep:
            mask.keep_codes(session)
        codes = mask.part(session, rows, (0, session.grid.width))
    except CorruptTileError as exc:
        return exc
    if codes is None:
        edges = session.chunks.row_edges
        n_rows = int(np.searchsorted(edges, rows[1]) - np.searchsorted(edges, rows[0]))
        shape = (n_rows, len(session.chunks.col_edges) - 1)
        none = np.zeros((*shape, CELLS, CELLS), np.uint32) if cells else None
        return MaskStatistics(np.zeros(shape, np.int64), np.zeros(shape, np.int64), none, none)
    return session.engine.statistics(
        codes, mask.positions, window, session.chunks, mask.table, footprint=mask.footprint, cells=cells
    )


def _join(session: Session, stats: list[list[MaskStatistics]], cells: bool) -> SceneCounts:
    chunks = session.chunks
    pixels = np.outer(np.diff(chunks.row_edges), np.diff(chunks.col_edges))
    if not stats:
        return SceneCounts(
            np.zeros((0, *pixels.shape), np.int64), np.zeros((0, *pixels.shape), np.int64), pixels
        )
    clear, valid = (
        np.array([np.concatenate([getattr(p, name) for p in parts]) for parts in stats])
        for name in ("clear", "valid")
    )
    if not cells:
        return SceneCounts(clear, valid, pixels)
    clear_cells, valid_cells = (
        np.array([np.concatenate([getattr(p, name) for p in parts]) for parts in stats]).reshape(
            *clear.shape, -1
        )
        for name in ("clear_cells", "valid_cells")
    )
    seen = valid_cells > 0
    return SceneCounts(clear, valid, pixels, (2 * clear_cells >= valid_cells) & seen, seen)


def ranking_bytes(session: Session, masks: Sequence[SceneMask]) -> int:
    """Bytes of the strips that all threads rank at once: keys and what comes of them, one mask decoded."""
    height, width = session.grid.shape
    chunk_row = int(np.diff(session.chunks.row_edges).max()) * width * STRIP_PIXEL_BYTES
    strip = min(max(session.budget.strip, chunk_row), height * width * STRIP_PIXEL_BYTES)
    part = max((min(m.window_bytes, session.budget.strip) for m in masks if m.codes is None), default=0)
    return min(session.threads, len(session.chunks.row_edges) - 1) * (strip + part)


def compete(
    session: Session,
    state: RankState,
    competitors: Sequence[tuple[SceneMask, int]],
    barred: NDArray[np.bool_] | None,
) -> None:
    """Let every competitor (mask, low part of its key) compete for the pixels of a state."""
    r0, r1, c0, c1 = state.window
    for rank, (mask, low) in enumerate(competitors):
        codes = mask.part(session, (r0, r1), (c0, c1))
        if codes is None:
            continue
        bars = None if barred is None or not barred[rank].any() else barred[rank]
        session.engine.rank(
            state,
            codes,
            mask.positions,
            mask.table,
            low,
            footprint=mask.footprint,
            chunks=session.chunks,
            barred=bars,
        )
