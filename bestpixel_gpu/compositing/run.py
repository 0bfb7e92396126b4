"""The way of the data: search, masks, decision, read plan, tiles, painting, repair, result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bestpixel_gpu.compositing.bands import BandFailure, BandFiles
from bestpixel_gpu.compositing.choice import Choice, choose, take_winners
from bestpixel_gpu.compositing.masks import (
    MaskFailure,
    SceneMask,
    count_masks,
    ranking_bytes,
    read_masks,
    release_codes,
)
from bestpixel_gpu.compositing.painting import Block, Painter, Round, least_tiles, plan_round
from bestpixel_gpu.compositing.repair import next_winners
from bestpixel_gpu.compositing.scenes import find_scenes, no_scenes
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.engines.contract import NODATA
from bestpixel_gpu.errors import IncompleteError
from bestpixel_gpu.plan.memory import MemoryPlan, output_bytes, refuse
from bestpixel_gpu.plan.selection import SceneCounts
from bestpixel_gpu.plan.tiles import PassPlan, block_windows
from bestpixel_gpu.result.composite import Composite


@dataclass(slots=True, eq=False)
class Decision:
    """Everything known before the first band tile: winners, open files, read plan, memory."""

    choice: Choice
    files: BandFiles
    work: Round
    plans: list[PassPlan]
    memory: MemoryPlan


async def composite(session: Session) -> Composite:
    """One composite, from the search to the arrays."""
    decision = await decide(session)
    with session.stage("paint"):
        layers = await paint(session, decision)
        await session.compute(session.engine.synchronize)  # what the caller gets is there
    return finish(session, decision.choice, layers)


async def decide(session: Session) -> Decision:
    """All small data: scenes, masks, winners, headers of the winners' files, read plan."""
    with session.stage("search"):
        scenes = await find_scenes(session)
    with session.stage("masks"):
        masks, failures = await read_masks(session, scenes)
    with session.stage("statistics"):
        masks, counts, undecoded = await count_masks(session, masks)
    _note_masks(session, masks, [*failures, *undecoded])
    if not masks:
        raise no_scenes(session)
    files = BandFiles(session)
    choice = await _winners_with_files(session, masks, counts, files)
    with session.stage("plan"):
        work, plans, memory = await _plan(session, choice, files)
    return Decision(choice, files, work, plans, memory)


async def _winners_with_files(
    session: Session, masks: list[SceneMask], counts: SceneCounts, files: BandFiles
) -> Choice:
    """Winners among the scenes whose files open: one that does not is removed, and winners are retaken."""
    while True:
        with session.stage("winners"):
            choice = choose(session, masks, counts)
            await take_winners(session, choice)
        scenes = [m.scene for m in choice.masks]
        with session.stage("headers"):
            broken = await files.open(scenes, choice.owners, session.bands)
        if not broken:
            return choice
        gone = {id(f.scene) for f in broken}
        _note_files(session, broken)
        cut = [i for i, m in enumerate(masks) if id(m.scene) in gone]
        masks = [m for i, m in enumerate(masks) if i not in cut]
        counts = counts.without(cut)
        if not masks:
            raise no_scenes(session)


async def _plan(
    session: Session, choice: Choice, files: BandFiles
) -> tuple[Round, list[PassPlan], MemoryPlan]:
    """Read plan of the first round, in blocks narrow enough for the memory limit."""
    shape, chunks, budget = session.grid.shape, session.chunks, session.budget
    pixels = shape[0] * shape[1]
    ranking = ranking_bytes(session, choice.masks)
    release_codes(session, choice.masks)
    masks = sum(m.nbytes + m.kept_bytes(session) * (m.kept is not None) for m in choice.masks)
    output = output_bytes(pixels, len(session.bands), choice.winners.dtype.itemsize)
    across = session.block_cols or len(chunks.col_edges) - 1
    while True:
        blocks = [
            Block((r0, r1, c0, c1), choice.winners[r0:r1, c0:c1])
            for r0, r1, c0, c1 in block_windows(chunks.row_edges, chunks.col_edges, across)
        ]
        work = Round(blocks, round_files(session, choice, files), {})
        plans = await plan_round(session, work)
        stored = sum(p.stored_bytes for p in plans)
        memory = MemoryPlan(
            output=output,
            ranking=ranking,
            masks=masks,
            in_flight=min(stored, budget.undecoded) + min(stored, budget.kept),
            tiles=least_tiles(plans),
            limit=session.memory_limit,
        )
        if memory.peak <= memory.limit:
            break
        if across == 1:
            refuse(
                memory.peak,
                "with masks and tiles",
                memory.limit,
                pixels,
                len(session.bands),
                session.grid.res_x,
            )
        across = -(-across // 2)
    room = memory.limit - output - masks - memory.in_flight
    wanted = sum(p.n_tiles * p.slot_bytes for p in plans)
    memory = replace(memory, tiles=max(memory.tiles, min(room, wanted)))
    session.report.memory = memory.as_dict()
    session.report.wanted_tiles = sum(p.n_tiles for p in plans)
    return work, plans, memory


def round_files(session: Session, choice: Choice, files: BandFiles) -> dict[str, dict[int, Any]]:
    """Open files by band and rank."""
    return {
        band: {r: f for r, m in enumerate(choice.masks) if (f := files.get(m.scene, band)) is not None}
        for band in session.bands
    }


async def paint(session: Session, decision: Decision) -> dict[str, Any]:
    """Paint all bands, then repair in rounds until no pixel can be bettered."""
    choice, files = decision.choice, decision.files
    empty, shape = session.engine.empty, session.grid.shape
    arrays = await together([session.compute(empty, shape, np.uint16, NODATA) for _ in session.bands])
    layers = dict(zip(session.bands, arrays, strict=True))
    work, plans = decision.work, decision.plans
    work.targets = layers
    scenes = [m.scene for m in choice.masks]
    while True:
        await Painter(session, work, plans, max(decision.memory.tiles, least_tiles(plans))).run()
        windows = [work.blocks[i].window for i in sorted(work.failed)]
        if not windows:
            return layers
        session.report.repair_rounds += 1
        blocks, ranks = await next_winners(session, choice, layers, windows)
        if not blocks:
            return layers
        _note_files(session, await files.open(scenes, ranks, session.bands))
        work = Round(blocks, round_files(session, choice, files), layers, set(range(len(blocks))))
        plans = await plan_round(session, work)
        session.report.wanted_tiles += sum(p.n_tiles for p in plans)


def finish(session: Session, choice: Choice, layers: dict[str, Any]) -> Composite:
    """The result and the last lines of the report."""
    scenes = [m.scene for m in choice.masks]
    report = session.report
    report.empty_pixels = int(choice.wins[-1])
    for rank, scene in enumerate(scenes):
        record = report.scene(scene.id)
        record.rank, record.pixels_won = rank, int(choice.wins[rank])
        record.selected = bool(choice.selected[rank])
        record.clear_share = float(choice.clear_share[rank])
    counters = session.reader.counters
    report.bytes, report.requests, report.retries = counters.bytes, counters.requests, counters.retries
    report.warn_if_partial()
    return Composite(
        grid=session.grid,
        bands=layers,
        quality=choice.quality,
        observation_count=choice.counts,
        selected_observation=choice.winners,
        source_ids=[s.id for s in scenes],
        source_dates=[s.when for s in scenes],
        report=report,
        endpoint=session.request.stac_url or session.endpoint.root,
        collection="+".join(dict.fromkeys(s.collection for s in scenes)),
        partition_tiles=choice.partition_tiles,
        multi_tile_chunks=choice.multi_tile_chunks,
        timings=_timings(session),
    )


def _timings(session: Session) -> dict[str, float]:
    """The ancestor's keys, from our stages."""
    s = session.report.seconds
    return {
        "list_scenes": s.get("search", 0.0),
        "sign": 0.0,
        "scout": s.get("masks", 0.0) + s.get("statistics", 0.0),
        "partition": s.get("winners", 0.0),
        "fetch": s.get("headers", 0.0) + s.get("plan", 0.0),
        "compose": s.get("paint", 0.0),
        "total": sum(s.values()),
        "read_megapixels": session.report.decoded_pixels / 1e6,
    }


def _note_masks(session: Session, masks: Sequence[SceneMask], failures: Sequence[MaskFailure]) -> None:
    for failure in failures:
        record = session.report.scene(failure.scene.id)
        record.status = "failed" if failure.error is not None else "dropped"
        record.reason = failure.reason
        if failure.error is not None and session.request.errors == "raise":
            raise IncompleteError(
                f"item {failure.scene.id}, asset {failure.scene.mask.key}: {failure.reason}", session.report
            ) from failure.error


def _note_files(session: Session, broken: Sequence[BandFailure]) -> None:
    """A file that cannot be opened costs its scene; the report names it."""
    for failure in broken:
        record = session.report.scene(failure.scene.id)
        record.status, record.reason = "failed", f"{failure.band}: {failure.error}"
        if session.request.errors == "raise":
            raise IncompleteError(
                f"item {failure.scene.id}, {failure.band}: {failure.error}", session.report
            ) from failure.error
