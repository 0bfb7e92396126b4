"""Painting: tiles stream in, blocks go out, band by band, under a memory budget.

The bands of a round are grouped into passes by the size of their decoded tiles; each pass has a pool
of slots, and passes start in order as memory allows. Within a pass a feeder asks for the tile groups
and for their slots in the order in which blocks need them: a group that has come waits, compressed,
for its slots. A painter paints each block as soon as its tiles are there, and frees the tiles that no
later block needs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog import codecs
from bestpixel_gpu.cog.layout import HOST_CODECS
from bestpixel_gpu.compositing.bands import BandFile
from bestpixel_gpu.compositing.rounds import Round, plan_finer
from bestpixel_gpu.compositing.session import Session, finished, first_error
from bestpixel_gpu.compositing.shortage import make_room
from bestpixel_gpu.engines.contract import (
    LOST_SLOT,
    SPARSE_SLOT,
    CompressedTile,
    Engine,
    Pool,
    TapSource,
    Ticket,
)
from bestpixel_gpu.errors import CorruptTileError, IncompleteError, SourceError
from bestpixel_gpu.plan.tiles import FetchGroup, Job, PassPlan, TileKey
from bestpixel_gpu.result.report import Failure
from bestpixel_gpu.transfer.limits import BytesGate
from bestpixel_gpu.transfer.reader import ChangedError


async def paint_round(session: Session, work: Round, plans: Sequence[PassPlan], room: Room) -> Round:
    """Paint a round; returns it as it was painted.

    Where there is less memory than the device told, blocks are halved, pools are as small as can be, one at
    a time, and all is painted once more.

    Raises
    ------
    MemoryError
        If blocks are small already, and another attempt did not help.
    """
    again = False
    while True:
        painter = Painter(session, work, plans, room)
        try:
            await painter.run()
            return work
        except MemoryError:
            finer = work.halved()
            if finer is None and again:
                raise
        painter.forget()
        room.tiles.cap = room.pool_bytes = 0
        del painter
        await make_room(session)
        again = finer is None
        work, plans = await plan_finer(session, finer or work)


@dataclass(slots=True, eq=False)
class Room:
    """Memory of painters side by side, and how far they are together."""

    tiles: BytesGate
    """Decoded tiles, in pools."""
    undecoded: BytesGate
    starved: int
    """Where that gate ends, if decoding waits for the network."""
    pool_bytes: int
    """Of a pool at most, unless it cannot do with less."""
    arrived: int = 0
    """Groups of tiles that have come and are not decoded."""
    wanted: int = 0
    done: int = 0

    @classmethod
    def of(cls, session: Session, tile_bytes: int, painters: int = 1) -> Room:
        """Room for so many painters, and for `tile_bytes` of decoded tiles of them all."""
        budget = session.budget
        gates = BytesGate(tile_bytes), BytesGate(budget.undecoded)
        return cls(*gates, max(budget.undecoded, budget.starved), tile_bytes // painters)

    @contextmanager
    def decoding(self, stored_bytes: int) -> Iterator[None]:
        """A group of tiles has come. If nothing else was there to be decoded, one more may be on its way."""
        if not self.arrived:
            self.undecoded.widen(stored_bytes, self.starved)
        self.arrived += 1
        try:
            yield
        finally:
            self.arrived -= 1


class Painter:
    """Runs the passes of one round."""

    def __init__(self, session: Session, work: Round, plans: Sequence[PassPlan], room: Room) -> None:
        self.session, self.work, self.plans, self.room = session, work, plans, room
        self.done, self.lost = 0, list[Failure]()
        room.wanted += sum(p.n_tiles for p in plans)

    async def run(self) -> None:
        """Paint everything; the round's `failed` then names the blocks that need repair."""
        try:
            async with asyncio.TaskGroup() as group:
                for plan in self.plans:
                    n_slots = self._slots(plan)
                    size = n_slots * plan.slot_bytes
                    await self.room.tiles.acquire(size)
                    group.create_task(self._run_pass(plan, n_slots, size))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None

    def _slots(self, plan: PassPlan) -> int:
        if not plan.n_tiles:
            return 0
        ahead = plan.peak + self.session.engine.lookahead // max(plan.slot_bytes, 1)
        fits = self.room.pool_bytes // max(plan.slot_bytes, 1)
        return max(plan.peak, min(plan.n_tiles, ahead, fits))

    async def _run_pass(self, plan: PassPlan, n_slots: int, size: int) -> None:
        try:
            await _Pass(self, plan, n_slots).run()
        finally:
            self.room.tiles.release(size)

    def count(self, n: int) -> None:
        """Tell the caller that tiles have come."""
        self.done += n
        self.room.done += n
        self.session.progress("tiles", self.room.done, self.room.wanted)

    def lose(self, file: BandFile, index: int, error: Exception) -> None:
        """Record a tile that could not be had; raise if that is more than the caller allows."""
        report, request = self.session.report, self.session.request
        failure = Failure(
            item=file.scene.id,
            asset=file.asset.key,
            tile=index,
            status=getattr(error, "status", None),
            attempts=getattr(error, "attempts", 1),
            message=str(error),
        )
        self.lost.append(failure)
        report.failures.append(failure)
        if request.errors == "raise":
            raise IncompleteError(
                f"item {file.scene.id}, asset {file.asset.key}, tile {index}: {error}", report
            ) from error
        report.lost_tiles += 1
        if report.lost_tiles > request.max_failed * max(report.wanted_tiles, 1):
            share = f"{report.lost_tiles} of {report.wanted_tiles} wanted tiles could not be read"
            last = f"item {file.scene.id}, asset {file.asset.key}: {error}"
            allowed = f"more than max_failed={request.max_failed:g} allows"
            raise IncompleteError(f"{share}, {allowed}; last: {last}", report) from error

    def forget(self) -> None:
        """Take back what was told of tiles: they will be asked for again."""
        report, room, own = self.session.report, self.room, set(map(id, self.lost))
        report.failures[:] = [f for f in report.failures if id(f) not in own]
        report.lost_tiles -= len(own)
        room.done -= self.done
        room.wanted -= sum(p.n_tiles for p in self.plans)


def _pool(engine: Engine, plan: PassPlan, n_slots: int) -> Pool:
    """A pool of so many slots, or of fewer where the device has less memory than it told."""
    while True:
        try:
            return engine.pool(plan.slot_bytes, n_slots)
        except MemoryError:
            if n_slots <= plan.peak:
                raise
            n_slots = max(plan.peak, n_slots // 2)


class _Slots:
    """Free slots of a pool, given out in the order they are asked for; the last freed goes first."""

    def __init__(self, n: int) -> None:
        self._free = list(range(n - 1, -1, -1))
        self._waiting: deque[tuple[int, asyncio.Future[list[int]]]] = deque()

    def ask(self, n: int) -> asyncio.Future[list[int]]:
        """Promise `n` slots, as soon as all that were promised before are given out."""
        turn: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((n, turn))
        self._serve()
        return turn

    def give(self, slot: int) -> None:
        """Take a slot back."""
        self._free.append(slot)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and len(self._free) >= self._waiting[0][0]:
            n, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result([self._free.pop() for _ in range(n)])


class _Pass:
    """One pass: a feeder and a painter over one pool."""

    def __init__(self, owner: Painter, plan: PassPlan, n_slots: int) -> None:
        self.owner, self.plan, self.session, self.work = owner, plan, owner.session, owner.work
        self.pool: Pool = _pool(self.session.engine, plan, n_slots)
        self.slots = _Slots(self.pool.n_slots)
        self.tables: dict[tuple[str, int], NDArray[np.int32]] = {}
        loop = asyncio.get_running_loop()
        self.ready = {
            TileKey(g.band, g.rank, i): loop.create_future() for g in plan.groups for i in g.indices
        }
        self.uses = plan.uses
        self.painting = asyncio.Semaphore(self.session.threads)

    async def run(self) -> None:
        for band in dict.fromkeys(j.band for j in self.plan.jobs):
            for rank, file in self.work.files[band].items():
                self.tables[band, rank] = _slot_table(file)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed(group))
            for job in self.plan.jobs:
                for key in job.tiles:
                    await self.ready[key]
                await self.painting.acquire()
                group.create_task(self._paint(job))

    async def _feed(self, group: asyncio.TaskGroup) -> None:
        for part in self.plan.groups:
            await self.owner.room.undecoded.acquire(part.stored_bytes)
            group.create_task(self._fetch(part, self.slots.ask(len(part.indices))))

    async def _fetch(self, part: FetchGroup, turn: Awaitable[list[int]]) -> None:
        """Read a group's tiles and, when it is its turn, decode them into slots."""
        file = self.work.files[part.band][part.rank]
        try:
            answers = await self._read(file, part.indices)
            with self.owner.room.decoding(part.stored_bytes):
                slots = await turn
                status = await self._decode(file, part.indices, slots, answers)
            del answers
        finally:
            self.owner.room.undecoded.release(part.stored_bytes)
        for n, i in enumerate(part.indices):
            if isinstance(
                status[n], CorruptTileError
            ):  # damaged on the way, or in the archive: ask once more
                again = await self._read(file, (i,), afresh=True)
                status[n] = (await self._decode(file, (i,), slots[n : n + 1], again))[0]
            self._settle(file, part, i, slots[n], status[n])
        self.owner.count(len(part.indices))

    async def _read(self, file: BandFile, indices: Sequence[int], *, afresh: bool = False) -> list[Any]:
        """Compressed tiles, or the error of each; those of the round before may still be at hand."""
        kept, href, plane = self.session.kept_tiles, file.asset.href, file.plane
        found: dict[int, Any] = {}
        if not afresh:
            found = {i: kept[href, plane, i] for i in indices if (href, plane, i) in kept}
        missing = [i for i in indices if i not in found]
        if missing:
            stamp = file.stamp
            found |= await self._request(file, missing)
            changed = [i for i in missing if isinstance(found[i], ChangedError)]
            if changed and await file.opener.renew(file, stamp):
                found |= await self._request(file, changed)
        if not file.scene.profile.ignore_nodata_tag:  # only their samples tell fill, so repair is likely
            for i in missing:
                self.session.keep_tile((href, plane, i), found[i])
        return [found[i] for i in indices]

    async def _request(self, file: BandFile, indices: Sequence[int]) -> dict[int, Any]:
        """Compressed tiles of the file as it was opened last, or the error of each."""
        spans = [s for i in indices if (s := file.level.span(i, file.plane)) is not None]
        answers = await self.session.reader.read_many(
            file.asset.href, spans, signed=file.scene.signed, stamp=file.stamp
        )
        file.was_read = file.was_read or not all(isinstance(a, SourceError) for a in answers)
        return dict(zip(indices, answers, strict=True))

    def _settle(
        self, file: BandFile, part: FetchGroup, index: int, slot: int, error: Exception | None
    ) -> None:
        key = TileKey(part.band, part.rank, index)
        if error is None:
            layout = file.level.layout
            self.session.report.decoded_pixels += layout.width * layout.height
            self.tables[part.band, part.rank][index] = slot
        else:
            self.slots.give(slot)
            self.owner.lose(file, index, error)
        if not self.ready[key].done():  # cancelled with the painter that awaits it
            self.ready[key].set_result(None)

    async def _decode(
        self, file: BandFile, indices: Sequence[int], slots: Sequence[int], answers: Sequence[Any]
    ) -> list[Exception | None]:
        errors: list[Exception | None] = [a if isinstance(a, SourceError) else None for a in answers]
        good = [n for n, e in enumerate(errors) if e is None]
        if not good:
            return errors
        wanted = [[values[n] for n in good] for values in (indices, slots, answers)]
        tiles, ticket, undecoded = await self.session.compute(self._load, file, *wanted)
        await finished(ticket)
        for (n, tile), bad in zip(tiles, ticket.wait(), strict=True):
            if bad:
                size = tile.layout.inflated_bytes
                undecoded[n] = CorruptTileError(f"tile {tile.index} does not decode to {size} bytes")
        for n, error in undecoded.items():
            errors[good[n]] = error
        return errors

    def _load(
        self, file: BandFile, indices: list[int], slots: list[int], data: list[Any]
    ) -> tuple[list[tuple[int, CompressedTile]], Ticket, dict[int, Exception]]:
        """On a compute thread: host codecs first, then the engine's promise for the tiles that are left."""
        tiles: list[tuple[int, CompressedTile]] = []
        errors: dict[int, Exception] = {}
        for n, (i, stored) in enumerate(zip(indices, data, strict=True)):
            layout, raw = file.level.layout_of(i), stored
            try:
                if layout.codec in HOST_CODECS:
                    raw, layout = codecs.to_raw(bytes(stored), file.level, i, file.plane)
            except CorruptTileError as exc:
                errors[n] = exc
                continue
            tiles.append((n, CompressedTile(i, raw, layout, file.level.inside(i))))
        ticket = self.session.engine.load(self.pool, [slots[n] for n, _ in tiles], [t for _, t in tiles])
        return tiles, ticket, errors

    async def _paint(self, job: Job) -> None:
        try:
            failed = await self.session.compute(self._paint_now, job)
        finally:
            self.painting.release()
        if failed:
            self.work.failed.add(job.block)
        for key in job.tiles:  # jobs may end in another order than they began: count, do not assume
            self.uses[key] -= 1
            table = self.tables[key.band, key.rank]
            if not self.uses[key] and table[key.index] >= 0:
                self.slots.give(int(table[key.index]))
                table[key.index] = LOST_SLOT

    def _paint_now(self, job: Job) -> bool:
        sources = {
            rank: TapSource(
                geometry=f.geometry,
                pool=self.pool,
                slots=self.tables[job.band, rank],
                dtype=f.level.layout.dtype,
                rule=f.rule,
            )
            for rank, f in self.work.files[job.band].items()
        }
        return self.work.run(self.session, self.work.blocks[job.block], job.band, sources)


def _slot_table(file: BandFile) -> NDArray[np.int32]:
    """Lost until a tile comes; sparse where the file stores none."""
    return np.where(file.sparse, SPARSE_SLOT, LOST_SLOT).astype(np.int32)
