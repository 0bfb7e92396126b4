"""Deciding: statistics -> order and selection -> the winner of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.compositing.masks import SceneMask
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.compositing.shortage import halves, in_parts
from bestpixel_gpu.compositing.sweeps import compete, own_keys, strip_bytes, strips
from bestpixel_gpu.engines.contract import NO_KEY, RankState, Window
from bestpixel_gpu.plan.footprints import Ring, lonlat_ring, raster_ring, required_tiles
from bestpixel_gpu.plan.selection import (
    SceneCounts,
    outside_windows,
    picks_adaptive,
    rank_order,
    select_ancestor,
    select_fixed,
)
from bestpixel_gpu.plan.winners import low_key, rank_dtype, small_wins


@dataclass(slots=True, eq=False)
class Choice:
    """Who competes, in rank order, and what was won.

    Attributes
    ----------
    masks : list of SceneMask, by rank
    selected : bool, by rank
    barred : bool, (rank, chunk row, chunk col) or None
        Scenes that may not win there: unselected ones that would win little, and `outside`.
    outside : bool, (rank, chunk row, chunk col) or None
        Chunks beside the window of a selected scene, where it was asked to keep to that.
    clear_share : float, by rank
        Clear pixels / all output pixels of the box.
    quality, counts, winners : layers, (rows, cols)
    """

    masks: list[SceneMask]
    selected: NDArray[np.bool_]
    clear_share: NDArray[np.float64]
    partition_tiles: list[str]
    multi_tile_chunks: int
    outside: NDArray[np.bool_] | None = None
    barred: Any = None
    wins: Any = None
    """int64, by rank: pixels won; the last entry counts pixels without a winner."""
    quality: Any = None
    counts: Any = None
    winners: Any = None

    @property
    def owners(self) -> list[int]:
        """Ranks that own at least one pixel."""
        return np.flatnonzero(self.wins[:-1]).tolist()

    @property
    def competitors(self) -> list[tuple[SceneMask, int]]:
        """(mask, low part of its key) by rank."""
        return [(m, low_key(r, bool(self.selected[r]))) for r, m in enumerate(self.masks)]


def choose(session: Session, masks: Sequence[SceneMask], counts: SceneCounts) -> Choice:
    """Order the scenes, select, and leave out who may not compete."""
    request = session.request
    scenes = [m.scene for m in masks]
    required = required_tiles(session.grid, session.chunks, _rings(session, masks))
    outside: NDArray[np.bool_] | None = None
    if request.order == "ancestor" and not request.coverage_target:
        picked, order = select_ancestor(scenes, counts, required, request.top_k or len(scenes))
    else:
        order = rank_order(scenes, counts, request.order)
        picked, outside = _pick(session, scenes, counts, required, order)
    if request.fill is None:
        order = [i for i in order if picked[i]]
    rank_dtype(len(order))
    share = counts.clear.sum(axis=(1, 2)) / counts.pixels.sum()
    return Choice(
        [masks[i] for i in order],
        picked[order],
        share[order],
        sorted({s.tile for s in scenes if s.tile}),
        sum(len(tiles) > 1 for row in required for tiles in row),
        None if outside is None else outside[order],
    )


def _pick(
    session: Session,
    scenes: Sequence[Any],
    counts: SceneCounts,
    required: list[list[list[str]]],
    order: list[int],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """The selected scenes, and where they may not win."""
    request = session.request
    if request.by_time:
        return np.ones(len(scenes), bool), None
    if request.coverage_target > 0:
        picks = picks_adaptive(
            scenes,
            counts,
            required,
            order,
            target=request.coverage_target,
            min_k=request.min_k,
            max_k=request.max_k,
        )
        outside = outside_windows(picks) if request.windowed_fetch else None
        return np.asarray(picks.any(axis=(1, 2))), outside
    if request.top_k is None:
        return np.ones(len(scenes), bool), None
    return select_fixed(scenes, counts, required, order, request.top_k), None


def _rings(session: Session, masks: Sequence[SceneMask]) -> dict[str, list[Ring]]:
    """Footprints by tile code: the rasters' own bounds, or the items' geometry for the ancestor."""
    own = session.request.order == "ancestor"
    rings: dict[str, dict[Any, Ring]] = {}
    for m in masks:
        group = rings.setdefault(m.scene.tile, {})
        if own and m.scene.outline:
            group[m.scene.id] = lonlat_ring(m.scene.outline, session.grid)
        elif m.frame not in group:
            group[m.frame] = raster_ring(m.frame, session.grid)
    return {tile: list(group.values()) for tile, group in rings.items()}


async def take_winners(session: Session, choice: Choice) -> None:
    """Fill the choice's quality, counts and winners, strip by strip, so that keys never exist as a whole."""
    shape = session.grid.shape
    choice.counts = session.layer(shape, np.uint16)
    choice.quality = session.layer(shape, np.uint16)
    choice.winners = session.layer(shape, rank_dtype(len(choice.masks)))
    edges = session.chunks.row_edges
    choice.barred = np.zeros((len(choice.masks), len(edges) - 1, len(session.chunks.col_edges) - 1), bool)
    rows = strips(session, strip_bytes(session, choice.masks))
    jobs = [(partial(_take_strip, session, choice), (*r, 0, session.grid.width)) for r in rows]
    tell = partial(session.progress, "winners", total=len(rows))
    found = await in_parts(session, jobs, choice.masks, session.chunks.halves, tell)
    choice.wins = np.sum([wins for parts in found for _, wins in parts], axis=0)


def _take_strip(session: Session, choice: Choice, window: Window) -> NDArray[np.int64]:
    """Winners of whole chunks; unselected scenes that win too little of one are barred there."""
    r0, r1, c0, c1 = window
    part, chunks, n = (slice(r0, r1), slice(c0, c1)), session.chunks, len(choice.masks)
    engine, share, (down, across) = session.engine, session.request.fill, chunks.under(window)
    engine.fill(choice.counts[part], 0)
    choice.barred[:, down, across] = False if choice.outside is None else choice.outside[:, down, across]
    keys = engine.empty((r1 - r0, c1 - c0), np.uint32, NO_KEY)
    compete(session, RankState(window, keys, choice.counts[part]), choice.competitors, choice.barred)
    if share and not choice.selected.all():
        edges = chunks.row_edges
        pixels = np.outer(*map(np.diff, chunks.edges_in(window)))
        barred = small_wins(engine.extra_wins(keys, window, chunks, n), pixels, share)
        choice.barred[:, down, across] |= barred
        for r in down.start + np.flatnonzero(barred.any(axis=(0, 2))):
            top, bottom = int(edges[r]), int(edges[r + 1])
            again = keys[top - r0 : bottom - r0]
            engine.fill(again, NO_KEY)
            compete(session, RankState((top, bottom, c0, c1), again), choice.competitors, choice.barred)
    return engine.settle(keys, choice.quality[part], choice.winners[part], n)


async def show_scores(session: Session, choice: Choice) -> None:
    """Turn the quality layer from what decided by time into the winners' own scores."""
    rows = strips(session, strip_bytes(session, choice.masks))
    jobs = [(partial(_show_strip, session, choice), (*r, 0, session.grid.width)) for r in rows]
    await in_parts(session, jobs, choice.masks, halves)


def _show_strip(session: Session, choice: Choice, window: Window) -> None:
    """The same in a window; begun anew it leaves what it has done as it is."""
    r0, r1, c0, c1 = window
    part, n, engine = (slice(r0, r1), slice(c0, c1)), len(choice.masks), session.engine
    quality, winners = choice.quality[part], choice.winners[part]
    everywhere = engine.empty(winners.shape, np.uint8, 1)
    keys = engine.keys_of(quality, winners, choice.selected, everywhere)
    for rank in choice.owners:
        mask, low = choice.competitors[rank]
        own = own_keys(session, window, mask, low)
        if own is not None:
            scored = own_keys(session, window, mask, low, table=mask.tables.quality)
            engine.settle(scored, quality, winners, n, engine.rivals(keys, own, 0))
