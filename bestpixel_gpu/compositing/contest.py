"""The rule "ndvi": of a pixel's observations of the best score, the one with the greatest NDVI wins.

Keys alone cannot tell, so red and near infrared of every scene that competes for a pixel are read
into arrays of their own, from which the engine keeps the greater index. As many scenes as there is
memory for are read side by side; the order in which they come changes nothing. An observation without
a valid red and near infrared is none; where a score has none left, the next one's observations compete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.compositing.bands import BandFiles
from bestpixel_gpu.compositing.choice import Choice
from bestpixel_gpu.compositing.painting import Room, paint_round
from bestpixel_gpu.compositing.rounds import Block, Round, plan_round
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.compositing.shortage import halves, in_parts, make_room
from bestpixel_gpu.compositing.sweeps import compete, own_keys
from bestpixel_gpu.engines.contract import NO_KEY, NODATA, RankState, ValueState, Window
from bestpixel_gpu.plan.memory import MIB
from bestpixel_gpu.plan.tiles import FetchGroup, PassPlan, TileKey
from bestpixel_gpu.request import INDEX_BANDS

T = TypeVar("T")

AREA_PIXEL_BYTES = 18
"""Of a pixel while its observations compete: two keys, four values and a rank, one of them in 32 bits."""
LANES = 8
"""Scenes that are read side by side at most."""
LANE_PIXEL_BYTES = 6
"""Of a pixel that another one of them shows: two values and a rank."""
LANES_BYTES = 64 * MIB
"""Of them all, where more than one beside the first fits: large scenes keep a host busy as they are."""

Own = dict[str, Any]
"""One scene's values in a window, by band."""


@dataclass(slots=True, eq=False)
class Area:
    """A window and what competes there.

    Attributes
    ----------
    keys : uint32
        A key of the score and selection whose observations compete; NO_KEY where nothing does.
    best : ValueState
        The best observation so far.
    floor : ValueState, optional
        Only what comes after it competes.
    failed : uint8, optional
        The pixels whose winners are sought; all where ``None``.
    """

    window: Window
    keys: Any
    best: ValueState
    floor: ValueState | None = None
    failed: Any = None


@dataclass(slots=True, eq=False)
class Sweep:
    """What the scenes share that let their observations of one score compete."""

    areas: Sequence[Area]
    waiting: Iterator[int]
    """Ranks that no lane has taken."""
    room: Room
    met: int = 0
    """Ranks that are through."""
    ranking: asyncio.Lock = field(default_factory=asyncio.Lock)
    """An area's best is written by one scene at a time."""


def lanes_beside(spare: int, lane: int) -> int:
    """How many scenes may be read beside the first, of `lane` bytes each."""
    return min(LANES - 1, spare // lane, max(1, LANES_BYTES // lane))


class Contest:
    """Contests of one run, and the values of their winners.

    Attributes
    ----------
    values : dict of band -> uint16 (H, W), engine's arrays
        Red and near infrared of the winners, as they are painted.
    """

    def __init__(self, session: Session, choice: Choice, files: BandFiles) -> None:
        self._session, self._choice, self._files = session, choice, files
        self._lanes, self._tile_bytes = 1, 0
        self.values: dict[str, Any] = {}

    async def hold(self, windows: Sequence[Window], least: int, spare: int) -> None:
        """Find the winners of windows that make up the grid.

        It takes `least` bytes for the decoded tiles of a scene, and what it can use of `spare` more.
        """
        session = self._session
        lane = session.grid.width * session.grid.height * LANE_PIXEL_BYTES
        self._lanes = 1 + min(lanes_beside(spare // 2, lane), len(self._choice.masks) - 1)
        self._tile_bytes = least + spare - (self._lanes - 1) * lane
        for band in INDEX_BANDS:
            self.values[band] = await session.compute(session.layer, session.grid.shape, np.uint16)
        wins = await self._winners(windows, self._whole_area, self._settle)
        self._choice.wins = np.sum(wins, axis=0)

    async def next_winners(
        self, layers: Mapping[str, Any], windows: Sequence[Window]
    ) -> tuple[list[Block], list[int]]:
        """Give every failed pixel of some windows the next best observation.

        As :func:`~bestpixel_gpu.compositing.repair.next_winners`, in the order of this rule.
        """
        choice = self._choice
        find, settle = partial(self._failed_area, layers), partial(self._repair, layers)
        done = await self._winners(windows, find, settle)
        choice.wins = choice.wins + sum(won - lost for _, lost, won in done)
        ranks = {r for _, _, won in done for r in np.flatnonzero(won[:-1]).tolist()}
        return [block for block, _, _ in done if block is not None], sorted(ranks)

    async def tiles(self, windows: Sequence[Window]) -> list[FetchGroup]:
        """What the first contest would read, if no observation turned out invalid; each tile once."""
        session = self._session
        empty = ValueState(None, None, None)
        found: list[FetchGroup] = []
        seen: set[TileKey] = set()
        for window in windows:  # one after the other: their keys need not exist together
            keys = await session.compute(self._class_keys, window, None)
            for rank in range(len(self._choice.masks)):
                _, _, plans = await self._round(rank, [Area(window, keys, empty)])
                for group in (g for p in plans for g in p.groups):
                    own = [TileKey(group.band, rank, i) for i in group.indices]
                    new = tuple(k.index for k in own if k not in seen)
                    seen.update(own)
                    found += [replace(group, indices=new)] if new else []
        return found

    # ---- one contest

    async def _winners(
        self,
        windows: Sequence[Window],
        find: Callable[[Window], Area | None],
        settle: Callable[[Area, Window], T],
        again: bool = False,
    ) -> list[T]:
        """What `settle` makes of the areas that `find` finds in some windows, when their winners are found.

        With too little memory for all at once, scenes come one by one, then to half of the windows at a time.
        """
        session, masks = self._session, self._choice.masks
        try:
            with session.report.only_if_done():
                areas = await self._decided(windows, find)
        except MemoryError:
            parts = [windows] if self._lanes > 1 else _halves(windows)
            if len(parts) == 1 and again:
                raise
        else:
            jobs = [(partial(settle, area), area.window) for area in areas]
            return [made for [(_, made)] in await in_parts(session, jobs, masks, lambda window: [window])]
        self._lanes = 1
        await make_room(session, masks)
        again = len(parts) == 1
        return [made for part in parts for made in await self._winners(part, find, settle, again)]

    async def _decided(self, windows: Sequence[Window], find: Callable[[Window], Area | None]) -> list[Area]:
        found = await together([self._session.compute(find, w) for w in windows])
        areas = [area for area in found if area is not None]
        await self._run(areas)
        return areas

    async def _run(self, areas: Sequence[Area]) -> None:
        """Let all scenes meet, score by score, until every pixel has a winner or nothing competes."""
        session, left = self._session, list(areas)
        while left:
            room = Room.of(session, self._tile_bytes, self._lanes)
            sweep = Sweep(left, iter(range(len(self._choice.masks))), room)
            await together([self._lane(sweep) for _ in range(self._lanes)])
            more = await together([session.compute(self._next_class, a) for a in left])
            left = [area for area, goes_on in zip(left, more, strict=True) if goes_on]

    async def _lane(self, sweep: Sweep) -> None:
        """Let one scene after the other compete, of those that no other lane has taken."""
        own: list[Own] = [{} for _ in sweep.areas]
        for rank in sweep.waiting:
            await self._meet(rank, sweep, own)
            sweep.met += 1
            self._session.progress("contest", sweep.met, len(self._choice.masks))

    async def _meet(self, rank: int, sweep: Sweep, own: Sequence[Own]) -> None:
        """Read one scene's values where it is a rival, and let them compete."""
        session, engine = self._session, self._session.engine
        there, work, plans = await self._round(rank, sweep.areas)
        if not plans:
            return
        session.report.wanted_tiles += sum(p.n_tiles for p in plans)
        values = [own[n] for n in there]
        await together([session.compute(self._blank, b, v) for b, v in zip(work.blocks, values, strict=True)])
        await paint_round(session, work, plans, sweep.room)
        red, nir = INDEX_BANDS
        async with sweep.ranking:
            await together(
                [
                    session.compute(engine.rank_values, a.best, a.keys, rank, v[red], v[nir], a.floor)
                    for a, v in zip([sweep.areas[n] for n in there], values, strict=True)
                ]
            )

    async def _round(self, rank: int, areas: Sequence[Area]) -> tuple[list[int], Round, list[PassPlan]]:
        """Which areas one scene's mask reaches, and how its values are read there; no plans if none."""
        session, scene = self._session, self._choice.masks[rank].scene
        files = {b: f for b in INDEX_BANDS if (f := self._files.get(scene, b)) is not None}
        blocks: list[Block | None] = [None] * len(areas)
        if len(files) == len(INDEX_BANDS):
            blocks = await together([session.compute(self._rivals, rank, a) for a in areas])
        there = [n for n, block in enumerate(blocks) if block is not None]
        work = Round([b for b in blocks if b is not None], {b: {rank: f} for b, f in files.items()}, {})
        plans = await plan_round(session, work) if there else []
        return there, work, plans if any(p.n_tiles for p in plans) else []

    # ---- on the compute threads

    def _class_keys(self, window: Window, floor: Any) -> Any:
        """The smallest key of each pixel above the floor."""
        session, choice = self._session, self._choice
        shape = window[1] - window[0], window[3] - window[2]
        keys = session.engine.empty(shape, np.uint32, NO_KEY)
        compete(session, RankState(window, keys, None, floor), choice.competitors, choice.barred)
        return keys

    def _whole_area(self, window: Window) -> Area:
        engine, values = self._session.engine, self._values(window)
        for array in values:
            engine.fill(array, NODATA)
        keys = self._class_keys(window, None)
        return Area(window, keys, ValueState(engine.empty(keys.shape, np.uint32, NO_KEY), *values))

    def _values(self, window: Window) -> list[Any]:
        r0, r1, c0, c1 = window
        return [self.values[band][r0:r1, c0:c1] for band in INDEX_BANDS]

    def _rivals(self, rank: int, area: Area) -> Block | None:
        """Where one scene's observation has the score and selection that compete."""
        session, choice = self._session, self._choice
        engine = session.engine
        mask, low = choice.competitors[rank]
        own = own_keys(session, area.window, mask, low, barred=choice.barred[rank])
        if own is None:
            return None
        winners = engine.empty(area.keys.shape, choice.winners.dtype, rank)
        return Block(area.window, engine.only(winners, engine.rivals(area.keys, own, 16)))

    def _blank(self, block: Block, own: Own) -> None:
        """Let a block be painted into a lane's arrays, which hold nothing yet or another scene's values."""
        engine = self._session.engine
        for band in INDEX_BANDS:
            if band in own:
                engine.fill(own[band], NODATA)
            else:
                own[band] = engine.empty(block.winners.shape, np.uint16, NODATA)
        block.into = own

    def _next_class(self, area: Area) -> bool:
        """Whether another score competes where the last one's observations were all invalid."""
        floor = self._session.engine.exhausted(area.keys, area.best.keys)
        if floor is None:
            return False
        area.keys, area.floor = self._class_keys(area.window, floor), None
        return True

    def _settle(self, area: Area, _: Window) -> NDArray[np.int64]:
        """Write quality and winners, return how many pixels each rank won."""
        choice, (r0, r1, c0, c1) = self._choice, area.window
        quality, winners = choice.quality[r0:r1, c0:c1], choice.winners[r0:r1, c0:c1]
        return self._session.engine.settle(area.best.keys, quality, winners, len(choice.masks), area.failed)

    def _failed_area(self, layers: Mapping[str, Any], window: Window) -> Area | None:
        """The failed pixels' box, where what comes after them competes."""
        choice, engine, (r0, r1, c0, c1) = self._choice, self._session.engine, window
        found = engine.failed([band[r0:r1, c0:c1] for band in layers.values()], choice.winners[r0:r1, c0:c1])
        if found is None:
            return None
        (top, bottom, left, right), bad = found
        box = r0 + top, r0 + bottom, c0 + left, c0 + right
        part = slice(box[0], box[1]), slice(box[2], box[3])
        keys = engine.keys_of(choice.quality[part], choice.winners[part], choice.selected, bad)
        best = ValueState(
            engine.empty(bad.shape, np.uint32, NO_KEY),
            *(engine.empty(bad.shape, np.uint16, NODATA) for _ in INDEX_BANDS),
        )
        return Area(box, keys, best, ValueState(keys, *self._values(box)), bad)

    def _repair(
        self, layers: Mapping[str, Any], area: Area, window: Window
    ) -> tuple[Block | None, NDArray[np.int64], NDArray[np.int64]]:
        """The block to paint again, and how many pixels each rank lost and won by the change."""
        choice, engine, best = self._choice, self._session.engine, area.best
        r0, r1, c0, c1 = window
        n, winners = len(choice.masks), choice.winners[r0:r1, c0:c1]
        lost = engine.reopen([b[r0:r1, c0:c1] for b in layers.values()], winners, area.failed, n)
        # what is ranked against nothing is copied: the new winners' values to where they are kept
        engine.fill(area.keys, NO_KEY)
        engine.rank_values(ValueState(area.keys, *self._values(window)), best.keys, 0, best.low, best.high)
        again, scored = engine.empty(winners.shape, winners.dtype, -1), engine.empty(winners.shape, np.uint16)
        engine.settle(best.keys, scored, again, n, area.failed)
        won = self._settle(area, window)  # last: whoever begins anew finds the same winners lost
        return Block(window, again) if won[:-1].any() else None, lost, won


def _halves(windows: Sequence[Window]) -> list[Sequence[Window]]:
    """Some windows in two groups; of a single one its halves, as far as it has any."""
    middle = len(windows) // 2
    return [windows[:middle], windows[middle:]] if middle else [[half] for half in halves(windows[0])]
