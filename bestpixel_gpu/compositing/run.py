"""The way of the data: search, masks, decision, read plan, tiles, painting, repair, result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bestpixel_gpu.compositing.bands import BandFailure, BandFiles
from bestpixel_gpu.compositing.candidates import find_candidates, read_chosen
from bestpixel_gpu.compositing.choice import Choice, choose, show_scores, take_winners
from bestpixel_gpu.compositing.contest import AREA_PIXEL_BYTES, Contest
from bestpixel_gpu.compositing.masks import SceneMask
from bestpixel_gpu.compositing.painting import Room, paint_round
from bestpixel_gpu.compositing.repair import next_winners
from bestpixel_gpu.compositing.rounds import Block, Round, in_flight, least_tiles, plan_finer, plan_fitting
from bestpixel_gpu.compositing.scenes import find_scenes, frozen, no_scenes
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.compositing.sweeps import counts_of, keep_chosen, ranking_bytes, release_codes
from bestpixel_gpu.compositing.uncertainty import plan_spread, uncertainty
from bestpixel_gpu.engines.contract import NODATA, Window
from bestpixel_gpu.errors import IncompleteError
from bestpixel_gpu.plan.memory import MemoryPlan
from bestpixel_gpu.plan.tiles import PassPlan
from bestpixel_gpu.result.composite import Composite


@dataclass(slots=True, eq=False)
class Decision:
    """Everything known before the first band tile: winners, open files, read plan, memory.

    Where the rule looks at values, `contest` finds the winners; those of `choice` are the best by key
    until then, and `work` and `plans` are theirs.
    """

    choice: Choice
    files: BandFiles
    work: Round
    plans: list[PassPlan]
    memory: MemoryPlan
    contest: Contest | None = None
    spread: list[PassPlan] = field(default_factory=list)
    """What uncertainty reads, as far as it is known before the bands are painted."""


async def composite(session: Session) -> Composite:
    """One composite, from the search to the arrays."""
    return await carry_out(session, await decide(session))


async def carry_out(session: Session, decision: Decision) -> Composite:
    """The composite of a decision: band tiles are read, painted and repaired."""
    if decision.contest is not None:
        with session.stage("contest"):
            decision = await _contested(session, decision, decision.contest)
    with session.stage("paint"):
        layers = await paint(session, decision)
        if session.request.by_time:
            await show_scores(session, decision.choice)
    unc = None
    if session.request.emit_uncertainty:
        with session.stage("uncertainty"):
            unc = await uncertainty(session, decision.choice, decision.files, layers)
    with session.stage("paint"):
        await session.compute(session.engine.synchronize)  # what the caller gets is there
    return finish(session, decision.choice, layers, unc)


async def decide(session: Session) -> Decision:
    """All small data: scenes, masks, winners, headers of the winners' files, read plan."""
    with session.stage("search"):
        scenes = await find_scenes(session)
    masks = await find_candidates(session, scenes)
    files = BandFiles(session)
    choice = await _winners_with_files(session, masks, files)
    with session.stage("plan"):
        decision = await _plan(session, choice, files, session.read_bands)
        if session.request.index_bands:
            decision.contest = Contest(session, choice, files)
        if session.request.emit_uncertainty:
            _, decision.spread, sums = await plan_spread(session, choice, files, {})
            ranking = max(decision.memory.ranking, sums.in_flight + sums.tiles)
            decision.memory = replace(decision.memory, ranking=ranking)
            session.report.memory = decision.memory.as_dict()
    return decision


async def _contested(session: Session, decision: Decision, contest: Contest) -> Decision:
    """The decision when values have been looked at."""
    choice, files = decision.choice, decision.files
    by_key = session.report.wanted_tiles  # until all is read, what was lost is held against these, too
    memory = decision.memory
    room = memory.limit - memory.output - memory.masks - memory.ranking
    await contest.hold([b.window for b in decision.work.blocks], least_tiles(decision.plans), max(room, 0))
    read = session.report.wanted_tiles - by_key
    broken = await files.open([m.scene for m in choice.masks], choice.owners, session.bands)
    _note_files(session, broken)
    decision = await _plan(session, choice, files, _painted_bands(session))
    if broken:  # their pixels are not painted, so nobody would tell that they failed
        decision.work.failed.update(range(len(decision.work.blocks)))
    session.report.wanted_tiles += read
    return replace(decision, contest=contest)


async def _winners_with_files(session: Session, masks: list[SceneMask], files: BandFiles) -> Choice:
    """Winners among the scenes whose files open: one that does not is removed, and winners are retaken."""
    while masks:
        with session.stage("winners"):
            choice = choose(session, masks, counts_of(session, masks))
        if any(m.tiles is None for m in choice.masks):
            masks = await read_chosen(session, masks, choice.masks)
            continue
        with session.stage("winners"):
            await keep_chosen(session, masks, choice.masks)
            await take_winners(session, choice)
        scenes = [m.scene for m in choice.masks]
        with session.stage("headers"):
            broken = await files.open(scenes, _read_ranks(session, choice), session.bands)
            broken += await files.open(scenes, range(len(scenes)), session.request.index_bands)
        if not broken:
            session.report.masks_spared = sum(m.tiles is None for m in masks)
            return choice
        gone = {id(f.scene) for f in broken}
        _note_files(session, broken)
        masks = [m for m in masks if id(m.scene) not in gone]
    raise no_scenes(session)


def _read_ranks(session: Session, choice: Choice) -> list[int]:
    """Scenes of which all bands are read: those that won, and for uncertainty those that were selected."""
    wanted = choice.wins[:-1] > 0
    return np.flatnonzero(wanted | choice.selected if session.request.emit_uncertainty else wanted).tolist()


async def _plan(session: Session, choice: Choice, files: BandFiles, bands: Sequence[str]) -> Decision:
    """Read plan of the first round, in blocks narrow enough for the memory limit."""
    pixels = session.grid.width * session.grid.height
    ranking = ranking_bytes(session, choice.masks)
    release_codes(session, choice.masks)
    masks = sum(m.nbytes + m.kept_bytes(session) * (m.kept is not None) for m in choice.masks)
    values = pixels * AREA_PIXEL_BYTES if session.request.index_bands else 0

    def make(windows: list[Window]) -> Round:
        blocks = [Block((r0, r1, c0, c1), choice.winners[r0:r1, c0:c1]) for r0, r1, c0, c1 in windows]
        return Round(blocks, round_files(choice, files, bands), {})

    def memory_of(_: Round, plans: list[PassPlan]) -> MemoryPlan:
        moving, tiles = in_flight(session, plans), least_tiles(plans)
        return MemoryPlan(
            output=session.output_bytes(choice.winners.dtype.itemsize),
            ranking=ranking + (values + moving + tiles if values else 0),
            masks=masks,
            in_flight=moving,
            tiles=tiles,
            limit=session.memory_limit,
        )

    across = session.block_cols or len(session.chunks.col_edges) - 1
    work, plans, memory = await plan_fitting(session, across, make, memory_of)
    room = memory.limit - memory.output - masks - memory.in_flight
    wanted = sum(p.n_tiles * p.slot_bytes for p in plans)
    memory = replace(memory, tiles=max(memory.tiles, min(room, wanted)))
    session.report.memory = memory.as_dict()
    session.report.wanted_tiles = sum(p.n_tiles for p in plans)
    return Decision(choice, files, work, plans, memory)


def round_files(choice: Choice, files: BandFiles, bands: Sequence[str]) -> dict[str, dict[int, Any]]:
    """Open files by band and rank."""
    return {
        band: {r: f for r, m in enumerate(choice.masks) if (f := files.get(m.scene, band)) is not None}
        for band in bands
    }


def _painted_bands(session: Session) -> list[str]:
    """The bands that are painted when the winners are known: a contest has those of the rule."""
    return [b for b in session.bands if b not in session.request.index_bands]


async def paint(session: Session, decision: Decision) -> dict[str, Any]:
    """Paint all bands, then repair in rounds until no pixel can be bettered."""
    choice, files, contest = decision.choice, decision.files, decision.contest
    known, bands = {} if contest is None else contest.values, _painted_bands(session)

    def fresh(names: Sequence[str]) -> dict[str, Any]:
        return {name: session.layer(session.grid.shape, np.uint16, NODATA) for name in names}

    shares = [bands[i :: session.threads] for i in range(session.threads)]
    painted = dict(known)
    for arrays in await together([session.compute(fresh, share) for share in shares if share]):
        painted |= arrays
    layers = {band: painted[band] for band in session.bands}
    work, plans = decision.work, decision.plans
    work.targets = layers
    scenes = [m.scene for m in choice.masks]
    while True:
        room = Room.of(session, max(decision.memory.tiles, least_tiles(plans)))
        work = await paint_round(session, work, plans, room)
        windows = [work.blocks[i].window for i in sorted(work.failed)]
        if not windows:
            return layers
        session.report.repair_rounds += 1
        if contest is None:
            blocks, ranks = await next_winners(session, choice, layers, windows)
        else:
            blocks, ranks = await contest.next_winners(layers, windows)
        if not blocks:
            return layers
        _note_files(session, await files.open(scenes, ranks, session.bands))
        work = Round(blocks, round_files(choice, files, bands), layers, set(range(len(blocks))))
        work, plans = await plan_finer(session, work)
        session.report.wanted_tiles += sum(p.n_tiles for p in plans)


def finish(session: Session, choice: Choice, layers: dict[str, Any], unc: dict[str, Any] | None) -> Composite:
    """The result and the last lines of the report."""
    scenes = [m.scene for m in choice.masks]
    report = session.report
    report.empty_pixels = int(choice.wins[-1])
    for rank, scene in enumerate(scenes):
        record = report.scene(scene.id)
        record.rank, record.pixels_won = rank, int(choice.wins[rank])
        record.selected = bool(choice.selected[rank])
        record.clear_share = float(choice.clear_share[rank])
    counters = session.counters
    report.bytes, report.requests, report.retries = counters.bytes, counters.requests, counters.retries
    report.requests_by_kind = {kind: tally.requests for kind, tally in counters.by_kind.items()}
    report.note_device(session.device_before, session.engine.describe())
    report.warn_if_partial()
    return Composite(
        grid=session.grid,
        bands=layers,
        boa_unc=unc,
        quality=choice.quality,
        observation_count=choice.counts,
        selected_observation=choice.winners,
        source_ids=[s.id for s in scenes],
        source_dates=[s.when for s in scenes],
        scene_items=frozen(session.items),
        report=report,
        endpoint=session.request.stac_url or session.endpoint.root,
        collection="+".join(sorted({s.collection for s in scenes})),
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


def _note_files(session: Session, broken: Sequence[BandFailure]) -> None:
    """A file that cannot be opened costs its scene; the report names it."""
    for failure in broken:
        record = session.report.scene(failure.scene.id)
        record.status, record.reason = "failed", f"{failure.band}: {failure.error}"
        if session.request.errors == "raise":
            raise IncompleteError(
                f"item {failure.scene.id}, {failure.band}: {failure.error}", session.report
            ) from failure.error
