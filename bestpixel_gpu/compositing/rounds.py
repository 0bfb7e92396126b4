"""Rounds of painting: blocks of the output, the files they are painted from, and the read plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bestpixel_gpu.compositing.bands import BandFile
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.compositing.shortage import halves, make_room
from bestpixel_gpu.engines.contract import TapGeometry, TapSource, Window
from bestpixel_gpu.plan.memory import MemoryPlan, refuse
from bestpixel_gpu.plan.tiles import Needs, PassPlan, block_windows, plan_pass

SMALL_GRID = 1 << 18
"""Pixels of a grid that is one block where memory allows: cutting so little costs more than it gains."""


@dataclass(slots=True, eq=False)
class Block:
    """A window of the output and the ranks that won its pixels (negative: not to be painted)."""

    window: Window
    winners: Any
    into: Mapping[str, Any] | None = None
    """Arrays of the window by band, where its samples do not go into the round's targets."""

    def halves(self) -> list[Block]:
        """The block in two, cut across its longer side; a small one as it is."""
        return [self._part(window) for window in halves(self.window)]

    def _part(self, window: Window) -> Block:
        (top, bottom, left, right), (r0, _, c0, _) = window, self.window
        part = slice(top - r0, bottom - r0), slice(left - c0, right - c0)
        winners = None if self.winners is None else self.winners[part]
        into = None if self.into is None else {band: array[part] for band, array in self.into.items()}
        return Block(window, winners, into)


@dataclass(slots=True, eq=False)
class Round:
    """What one round paints: blocks, open files by band and rank, and where the samples go."""

    blocks: list[Block]
    files: dict[str, dict[int, BandFile]]
    targets: Mapping[str, Any]
    failed: set[int] = field(default_factory=set)
    """Blocks with a pixel whose winner was invalid or lost."""

    def halved(self) -> Round | None:
        """The same in blocks of half the size, ``None`` where they are small already."""
        blocks = [half for block in self.blocks for half in block.halves()]
        if len(blocks) == len(self.blocks):
            return None
        return replace(self, blocks=blocks, failed=set(range(len(blocks))) if self.failed else set())

    def needs(self, session: Session, block: Block, geometries: Mapping[int, TapGeometry]) -> Needs:
        """Tiles that a block needs, by rank."""
        return session.engine.owners(block.window, block.winners, geometries)

    def run(self, session: Session, block: Block, band: str, sources: Mapping[int, TapSource]) -> bool:
        """Paint one band of one block, whose tiles are there; whether a pixel failed."""
        r0, r1, c0, c1 = block.window
        target = block.into[band] if block.into else self.targets[band][r0:r1, c0:c1]
        return session.engine.paint(target, block.window, block.winners, sources) > 0


async def plan_round(session: Session, work: Round) -> list[PassPlan]:
    """The read plan of a round: exact tiles of every block, then passes in painting order."""
    kinds: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for band, files in work.files.items():
        kinds.setdefault(tuple((rank, id(f.geometry)) for rank, f in files.items()), []).append(band)
    needs: dict[str, list[Needs]] = {}
    for same in kinds.values():
        geometries = {rank: f.geometry for rank, f in work.files[same[0]].items()}
        found = await together([session.compute(work.needs, session, b, geometries) for b in work.blocks])
        needs |= dict.fromkeys(same, found)
    by_size: dict[int, list[str]] = {}
    for band, files in work.files.items():
        size = max((f.level.layout.decoded_bytes for f in files.values()), default=0)
        by_size.setdefault(size, []).append(band)
    return [
        plan_pass(
            [
                (
                    b,
                    {r: f.level for r, f in work.files[b].items()},
                    {r: f.plane for r, f in work.files[b].items()},
                )
                for b in bands
            ],
            needs,
        )
        for _, bands in sorted(by_size.items(), reverse=True)
    ]


async def plan_finer(session: Session, work: Round) -> tuple[Round, list[PassPlan]]:
    """A round and its read plan, in blocks of half the size while there is too little memory to make that.

    Raises
    ------
    MemoryError
        If blocks are small already, and another attempt did not help.
    """
    again = False
    while True:
        try:
            return work, await plan_round(session, work)
        except MemoryError:
            finer = work.halved()
            if finer is None and again:
                raise
        await make_room(session)
        work, again = finer or work, finer is None


async def plan_fitting(
    session: Session,
    across: int,
    make: Callable[[list[Window]], Round],
    memory_of: Callable[[Round, list[PassPlan]], MemoryPlan],
) -> tuple[Round, list[PassPlan], MemoryPlan]:
    """A round over the whole grid, in blocks of at most `across` chunk columns, few enough for its memory.

    A block is a row of chunks, or all of a small grid.

    Raises
    ------
    MemoryLimitError
        If blocks of single chunks take more than the limit.
    """
    chunks, pixels = session.chunks, session.grid.width * session.grid.height
    whole = pixels <= SMALL_GRID and across >= len(chunks.col_edges) - 1
    while True:
        rows = chunks.row_edges[[0, -1]] if whole else chunks.row_edges
        work, plans = await plan_finer(session, make(block_windows(rows, chunks.col_edges, across)))
        memory = memory_of(work, plans)
        if memory.peak <= memory.limit:
            return work, plans, memory
        if whole:
            whole = False
            continue
        if across == 1:
            what = "with masks and tiles"
            refuse(memory.peak, what, memory.limit, pixels, len(session.bands), session.grid.res_x)
        across = -(-across // 2)


def in_flight(session: Session, plans: Sequence[PassPlan]) -> int:
    """Compressed bytes under way, waiting to be decoded, or kept for repair."""
    stored = sum(p.stored_bytes for p in plans)
    return min(stored, session.budget.starved) + min(stored, session.budget.kept)


def least_tiles(plans: Sequence[PassPlan]) -> int:
    """Bytes of the pool that the largest pass cannot do without."""
    return max((p.peak * p.slot_bytes for p in plans), default=0)
