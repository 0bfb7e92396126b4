"""Uncertainty of the bands: how far the observations that could have won lie apart.

Reads the bands of every selected scene, so it costs what they cost. Sums are exact; the one formula
in floating point comes at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.compositing.bands import BandFiles
from bestpixel_gpu.compositing.choice import Choice
from bestpixel_gpu.compositing.painting import Room, paint_round
from bestpixel_gpu.compositing.rounds import Block, Round, in_flight, least_tiles, plan_fitting
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.compositing.sweeps import own_keys
from bestpixel_gpu.engines.contract import NODATA, Sums, TapGeometry, TapSource, Window
from bestpixel_gpu.plan.memory import MemoryPlan
from bestpixel_gpu.plan.tiles import Needs, PassPlan

RELATIVE = 0.02
"""Share of the value that is uncertain in any case."""
LEAST = 10.0
"""DN that are."""
BLOCK_COLUMNS = 4
"""Chunk columns of a block at most: its sums exist for every thread."""
SUM_PIXEL_BYTES = 56
"""Of a pixel whose sums are made: sums, their copy, a painted value, ranks and a key; marks come to it."""


def standard_uncertainty(
    count: NDArray[np.uint32],
    total: NDArray[np.uint64],
    squares: NDArray[np.uint64],
    value: NDArray[np.uint16],
) -> NDArray[np.float32]:
    """``max(sqrt(variance + (0.02 value)^2), 10)`` in DN; not a number where the value is nodata.

    The variance is that of a sample, ``(n sum v^2 - (sum v)^2) / (n (n - 1))``, 0 below two values;
    its numerator is exact below 65536 scenes. Source: ``boa_unc`` of bestpixel 0.3.0.
    """
    n = count.astype(np.uint64)
    spread = (n * squares - total * total).astype(np.float64)
    pairs = (n * np.maximum(n, 1) - n).astype(np.float64)
    variance = np.divide(spread, pairs, out=np.zeros(n.shape), where=n >= 2)
    out = np.maximum(np.sqrt(variance + (RELATIVE * value.astype(np.float64)) ** 2), LEAST)
    out[value == NODATA] = np.nan
    return out.astype(np.float32)


@dataclass(slots=True, eq=False, kw_only=True)
class SpreadRound(Round):
    """Sums every block's values over the scenes, and leaves their uncertainty in the targets."""

    choice: Choice
    layers: Mapping[str, Any] = field(default_factory=dict)
    """The painted bands."""

    def marks(self, session: Session, window: Window) -> dict[int, Any]:
        """Where each scene counts: selected, by an observation of the winner's score; else where it won."""
        engine, choice, (r0, r1, c0, c1) = session.engine, self.choice, window
        quality, winners = choice.quality[r0:r1, c0:c1], choice.winners[r0:r1, c0:c1]
        keys = engine.keys_of(quality, winners, choice.selected, engine.empty(winners.shape, np.uint8, 1))
        found = {}
        for rank, (mask, low) in enumerate(choice.competitors):
            if choice.selected[rank] or choice.wins[rank]:
                own = own_keys(session, window, mask, low, table=mask.tables.quality)
                if own is not None:
                    found[rank] = engine.rivals(keys, own, 17 if choice.selected[rank] else 0)
        return found

    def needs(self, session: Session, block: Block, geometries: Mapping[int, TapGeometry]) -> Needs:
        """Tiles that a block needs, by rank."""
        engine = session.engine
        needs: dict[int, NDArray[np.int64]] = {}
        for rank, marks in self.marks(session, block.window).items():
            if rank in geometries:
                ranks = engine.only(engine.empty(marks.shape, np.int32, rank), marks)
                needs |= engine.owners(block.window, ranks, {rank: geometries[rank]})
        return needs

    def run(self, session: Session, block: Block, band: str, sources: Mapping[int, TapSource]) -> bool:
        """Sum one band of one block; nothing fails, a lost sample only does not count."""
        engine, (r0, r1, c0, c1) = session.engine, block.window
        shape = r1 - r0, c1 - c0
        types = {"count": np.uint32, "total": np.uint64, "squares": np.uint64}
        sums = Sums(**{name: engine.empty(shape, dtype, 0) for name, dtype in types.items()})
        marks = {rank: m for rank, m in self.marks(session, block.window).items() if rank in sources}
        engine.spread(sums, block.window, {rank: sources[rank] for rank in marks}, marks)
        arrays = (sums.count, sums.total, sums.squares, self.layers[band][r0:r1, c0:c1])
        self.targets[band][r0:r1, c0:c1] = standard_uncertainty(*map(engine.to_host, arrays))
        return False


async def uncertainty(
    session: Session, choice: Choice, files: BandFiles, layers: Mapping[str, Any]
) -> dict[str, Any]:
    """Uncertainty of painted bands, by band: engine's arrays, float32 (H, W)."""
    work, plans, _ = await plan_spread(session, choice, files, layers)
    session.report.wanted_tiles += sum(p.n_tiles for p in plans)
    await paint_round(session, work, plans, Room.of(session, least_tiles(plans)))
    upload = session.engine.from_host
    with session.result_room():
        made = await together([session.compute(upload, work.targets[b]) for b in session.bands])
    return dict(zip(session.bands, made, strict=True))


async def plan_spread(
    session: Session, choice: Choice, files: BandFiles, layers: Mapping[str, Any]
) -> tuple[Round, list[PassPlan], MemoryPlan]:
    """The round that makes the sums of `layers`, what it reads and takes; without layers only these."""
    counted = np.flatnonzero(choice.selected | (choice.wins[:-1] > 0)).tolist()
    opened = {
        band: {r: f for r in counted if (f := files.get(choice.masks[r].scene, band)) is not None}
        for band in session.bands
    }
    with session.result_room():
        targets = {band: np.full(session.grid.shape, np.nan, np.float32) for band in layers}

    def make(windows: list[Window]) -> Round:
        blocks = [Block(window, None) for window in windows]
        return SpreadRound(blocks=blocks, files=opened, targets=targets, choice=choice, layers=layers)

    def memory_of(work: Round, plans: list[PassPlan]) -> MemoryPlan:
        pixels = max((r1 - r0) * (c1 - c0) for r0, r1, c0, c1 in (b.window for b in work.blocks))
        at_once = min(session.threads, len(work.blocks))
        return MemoryPlan(
            output=session.output_bytes(choice.winners.dtype.itemsize),
            ranking=0,
            masks=sum(m.nbytes + m.kept_bytes(session) * (m.kept is not None) for m in choice.masks),
            in_flight=in_flight(session, plans),
            tiles=least_tiles(plans) + at_once * pixels * (SUM_PIXEL_BYTES + len(counted)),
            limit=session.memory_limit,
        )

    across = session.block_cols or min(BLOCK_COLUMNS, len(session.chunks.col_edges) - 1)
    return await plan_fitting(session, across, make, memory_of)
