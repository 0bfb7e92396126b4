"""Sweeps over the grid: masks counted, scenes ranked, strip by strip on the compute threads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain, islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.compositing.masks import MaskFailure, SceneMask, fetch_mask
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.compositing.shortage import Job, in_parts, keep_codes
from bestpixel_gpu.engines.contract import NO_KEY, MaskStatistics, MaskTable, RankState, Window
from bestpixel_gpu.errors import CorruptTileError
from bestpixel_gpu.plan.memory import BAND_BYTES
from bestpixel_gpu.plan.selection import Counted, SceneCounts, percent_cloudy
from bestpixel_gpu.request import Request

CELLS = 32
"""Cells along a chunk's side in which masks are counted."""
STRIP_PIXEL_BYTES = 8
"""Bytes a strip takes for each output pixel while it is ranked: its key and what comes of it."""
CACHED_STRIP = 8 << 20
"""Bytes of a strip that stay in the processor's cache from mask to mask."""


def strips(session: Session, most: int | None = None) -> list[tuple[int, int]]:
    """Row ranges of whole chunk rows: about one for each thread, more where they would rank over `most`."""
    edges = session.chunks.row_edges
    chunk_rows, size = len(edges) - 1, session.grid.height * session.grid.width * STRIP_PIXEL_BYTES
    wanted = session.threads if most is None else max(session.threads, -(-size // most))
    cuts = np.linspace(0, chunk_rows, min(wanted, chunk_rows) + 1).round().astype(int)
    return [(int(edges[a]), int(edges[b])) for a, b in pairwise(cuts)]


async def count_masks(
    session: Session, masks: Sequence[SceneMask], beside: Sequence[SceneMask] = ()
) -> tuple[list[SceneMask], list[MaskFailure]]:
    """Count what each mask shows of each chunk; those that do not decode, or show nothing, are left out.

    Masks that were counted already stay as they are. Those `beside` take their share of the memory.
    """
    masks, cells, keep = list(masks), cells_for(session.request), _fitting(session, masks, beside)
    whole = [(0, session.grid.height)]
    rows = [
        [] if m.counted is not None else whole if kept else strips(session)
        for m, kept in zip(masks, keep, strict=True)
    ]

    def looks(i: int) -> list[Job[Counted | CorruptTileError]]:
        look = partial(_count_or_error, session, masks[i], cells, keep[i])
        return [(look, (*strip, 0, session.grid.width)) for strip in rows[i]]

    cut, jobs = session.chunks.halves, [look for i in range(len(masks)) for look in looks(i)]
    tell = partial(session.progress, "statistics", total=len(jobs))
    answers = iter(await in_parts(session, jobs, [*masks, *beside], cut, tell))
    seen = [list(chain.from_iterable(islice(answers, len(strips_of)))) for strips_of in rows]
    for i, parts in enumerate(seen):
        if any(isinstance(p, CorruptTileError) for _, p in parts):  # perhaps only on the way: ask once more
            again = await fetch_mask(session, masks[i].scene)
            if isinstance(again, SceneMask):
                masks[i] = again
                found = await in_parts(session, looks(i), [*masks, *beside], cut)
                seen[i] = list(chain.from_iterable(found))
    good: list[SceneMask] = []
    lost: list[MaskFailure] = []
    for mask, parts in zip(masks, seen, strict=True):
        error = next((p for _, p in parts if isinstance(p, Exception)), None)
        if error is not None:
            lost.append(MaskFailure(mask.scene, str(error), error))
            continue
        if parts:
            mask.counted = _joined(session, parts)
        assert mask.counted is not None
        if mask.counted[1].any():
            good.append(mask)
        else:
            lost.append(MaskFailure(mask.scene, "its mask observed nothing of the grid"))
    return good, lost


def _joined(session: Session, parts: Sequence[tuple[Window, Any]]) -> Counted:
    """What was counted of parts that make up the grid."""
    shape = len(session.chunks.row_edges) - 1, len(session.chunks.col_edges) - 1
    whole = tuple(np.empty((*shape, *a.shape[2:]), a.dtype) for a in parts[0][1])
    for window, counted in parts:
        for into, part in zip(whole, counted, strict=True):
            into[session.chunks.under(window)] = part
    return whole


def _fitting(session: Session, masks: Sequence[SceneMask], beside: Sequence[SceneMask]) -> list[bool]:
    """Which masks are kept decoded: as many as there is room for beside those that are.

    Those with the least cloud by their items come first: they are the likeliest to be selected.
    """
    room = session.budget.codes - sum(m.kept_bytes(session) for m in beside if m.kept is not None)
    read = sorted((m for m in masks if m.tiles is not None), key=lambda m: percent_cloudy(m.scene))
    sizes = accumulate(m.kept_bytes(session) for m in read)
    fits = {id(m) for m, size in zip(read, sizes, strict=True) if size <= room}
    return [id(m) in fits for m in masks]


async def keep_chosen(session: Session, masks: Sequence[SceneMask], chosen: Sequence[SceneMask]) -> None:
    """Let go of the codes of masks that will not compete; as many of the others as fit get their room."""
    competing = {id(m) for m in chosen}
    for mask in masks:
        if id(mask) not in competing:
            mask.kept = None
    rest = [m for m in chosen if m.kept is None]
    fits = _fitting(session, rest, chosen)
    await together(
        [session.compute(keep_codes, session, m) for m, kept in zip(rest, fits, strict=True) if kept]
    )


def cells_for(request: Request) -> int:
    """Cells along a chunk's side that the selection looks at; 0 where it looks at whole chunks."""
    if request.coverage_target > 0 and not request.by_time:
        return CELLS
    picks_all = request.top_k is None or request.by_time
    return 0 if picks_all or request.order == "ancestor" else CELLS // 2


def _count_or_error(
    session: Session, mask: SceneMask, cells: int, keep: bool, window: Window
) -> Counted | CorruptTileError:
    """What one mask shows of a window of whole chunks; its codes are kept where that is the grid."""
    r0, r1, c0, c1 = window
    try:
        if keep and (r1 - r0, c1 - c0) == session.grid.shape:
            keep_codes(session, mask)
        sight = mask.part(session, (r0, r1), (c0, c1))
    except CorruptTileError as exc:
        return exc
    if sight is None:
        down, across = session.chunks.under(window)
        shape = down.stop - down.start, across.stop - across.start
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
    step = CELLS // cells
    fine = [(..., slice(i, None, step), slice(j, None, step)) for i in range(step) for j in range(step)]
    return tuple(np.sum([a[part] for part in fine], 0, np.uint16).reshape(*shape, -1) for a in (clear, valid))


def counts_of(session: Session, masks: Sequence[SceneMask]) -> SceneCounts:
    """What all masks show, one scene after the other; they keep views of it."""
    pixels = np.outer(np.diff(session.chunks.row_edges), np.diff(session.chunks.col_edges))
    stacks = [np.array(a) for a in zip(*(m.counted or () for m in masks), strict=True)]
    for mask, *views in zip(masks, *stacks, strict=True):
        mask.counted = tuple(views)
    clear, valid, *cells = stacks
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
    """Give up counts once the winners are known, and kept codes unless they are few: repair may want them."""
    for mask in masks:
        mask.counted = None
    if sum(m.kept_bytes(session) for m in masks if m.kept is not None) > session.budget.repair_codes:
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


def own_keys(
    session: Session,
    window: Window,
    mask: SceneMask,
    low: int,
    *,
    table: MaskTable | None = None,
    barred: NDArray[np.bool_] | None = None,
) -> Any | None:
    """One scene's keys over a window, as if it were alone; ``None`` if its mask does not reach it."""
    r0, r1, c0, c1 = window
    sight = mask.part(session, (r0, r1), (c0, c1))
    if sight is None:
        return None
    keys = session.engine.empty((r1 - r0, c1 - c0), np.uint32, NO_KEY)
    session.engine.rank(
        RankState(window, keys),
        sight.codes,
        sight.positions,
        mask.table if table is None else table,
        low,
        footprint=sight.footprint,
        chunks=session.chunks,
        barred=barred,
    )
    return keys
