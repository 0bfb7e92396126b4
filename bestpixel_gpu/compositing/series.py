"""Composites of many periods: one after the other, a few at once, under one memory limit.

Periods are independent runs that share what may be shared: engine, threads, connections and their
limits, PROJ's points, and the masks of scenes that lie in several periods. While one period is
painted, the next ones search, read masks and decide; small ones are painted together too.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

from bestpixel_gpu.catalog.items import item_dicts
from bestpixel_gpu.catalog.providers import resolve_endpoint
from bestpixel_gpu.catalog.search import within
from bestpixel_gpu.compositing.periods import ABOVE_AOD, UNKNOWN_AOD, Gate, overlap, search_spans
from bestpixel_gpu.compositing.run import carry_out, decide
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.compositing.setup import (
    band_names,
    budget_of,
    check_rule,
    open_session,
    output_grid,
    request_dict,
)
from bestpixel_gpu.compositing.shelf import Shelf
from bestpixel_gpu.errors import BestPixelError, DeviceError, InputError, MemoryLimitError
from bestpixel_gpu.plan.memory import MIB, mib
from bestpixel_gpu.request import Request
from bestpixel_gpu.result.composite import Composite
from bestpixel_gpu.result.period import FailedPeriod, Period
from bestpixel_gpu.result.report import Report
from bestpixel_gpu.transfer.limits import BytesGate
from bestpixel_gpu.transfer.transport import OWN_COUNTERS, Counters, SharedCounters

AT_ONCE = 8
"""Most periods under way: small ones wait for answers most of their time."""
AHEAD = 1 << 30
"""Bytes of layers of periods under way; beyond, two at once are enough, for they keep the threads busy."""
COMFORT = 128 * MIB
"""What a period should have beside its layers before another one starts beside it."""
PAINTED_AT_ONCE = 64 * MIB
"""Compressed bytes of the periods that are painted together; a larger one is painted alone."""
SHELF = 256 * MIB
"""Most bytes of masks kept for other periods."""

Result = Composite | FailedPeriod


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRequest:
    """What a series is asked for; `request` holds everything but the dates.

    Raises
    ------
    InputError
        If endpoint, bands or grid cannot be used.
    """

    request: Request
    periods: tuple[Period, ...]
    gate: Gate | None
    collected: bool
    """The caller keeps all composites; else one at a time."""

    def __post_init__(self) -> None:
        endpoint = resolve_endpoint(self.request.endpoint)
        band_names(self.request.bands, endpoint)
        check_rule(self.request, endpoint)
        output_grid(self.request, endpoint)


@dataclass(frozen=True, slots=True)
class Shares:
    """How a memory limit is dealt out."""

    at_once: int
    """Periods under way."""
    spare: int
    """Bytes that all of them together may take beside their layers."""
    held: int
    """Bytes of the layers of all composites but one."""

    @classmethod
    def of(cls, limit: int, output: int, n_periods: int, collected: bool) -> Shares:
        """As many at once as have room enough.

        Raises
        ------
        MemoryLimitError
            If not even the layers that are there at one time fit.
        """
        for at_once in range(min(AT_ONCE, n_periods, max(2, AHEAD // output)), 0, -1):
            resident = n_periods if collected else min(n_periods, at_once + 1)
            spare = limit - resident * output
            if spare >= at_once * COMFORT:
                break
        if spare < 0:
            there = f"{resident} composites of {mib(output)} are there at one time"
            less = ", or iterate (iter_monthly_composites) and keep none" if collected else ""
            raise MemoryLimitError(
                f"{there} but memory_limit is {mib(limit)}: raise memory_limit to at least "
                f"{mib(resident * output + COMFORT)}, take a coarser resolution or fewer bands{less}"
            )
        return cls(at_once, spare, (resident - 1) * output)


class Series:
    """The composites of a series, in the order of its periods. Belongs to one event loop.

    At most `at_once` periods are under way or finished and waiting, so that beside the composite
    the caller holds there are never more than that many.
    """

    def __init__(self, asked: SeriesRequest) -> None:
        self.asked = asked
        self._pid = os.getpid()
        self._stack = AsyncExitStack()
        spans = search_spans(asked.periods)
        self._waiting = deque(zip(asked.periods, spans, strict=True))
        self._running: deque[asyncio.Task[Result]] = deque()
        self._unfinished = list(zip(asked.periods, spans, strict=True))
        self._items: list[dict[str, Any]] | None = None
        self._base: Session | None = None
        self._searches = Shelf()
        self._masks: Shelf | None = None

    async def open(self) -> None:
        """Take what all periods share; nothing is requested yet."""
        asked = self.asked
        if asked.request.items is not None:
            self._items = item_dicts(asked.request.items)
        base = self._base = await self._stack.enter_async_context(open_session(asked.request))
        base.reader.counters = SharedCounters()
        self._output = base.output_bytes()
        shares = Shares.of(base.memory_limit, self._output, len(asked.periods), asked.collected)
        self.at_once, self._held, self._spare = shares.at_once, shares.held, shares.spare
        if overlap(asked.periods):
            self._masks = Shelf(min(SHELF, self._spare // 4))
            self._spare -= self._masks.cap
        self._memory = BytesGate(self._spare)
        self._painting = BytesGate(PAINTED_AT_ONCE)

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close(*sys.exc_info())
            raise
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close(*error)

    async def close(self, *error: Any) -> None:
        """Cancel what is under way and give everything back; at once where `error` ended it."""
        if self._pid != os.getpid():  # a forked child has neither its loop nor its threads
            return
        tasks, self._waiting = list(self._running), deque()
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for shelf in (self._searches, self._masks):
            if shelf is not None:
                await shelf.clear()
        await self._stack.__aexit__(*(error or (None, None, None)))

    async def next(self) -> Result | None:
        """The next period's composite, or why there is none; ``None`` after the last."""
        if self._pid != os.getpid():
            raise RuntimeError("a series cannot be continued in a forked child: start another one there")
        while self._waiting and len(self._running) < self.at_once:
            task = asyncio.create_task(self._made(*self._waiting.popleft()))
            task.add_done_callback(_note)
            self._running.append(task)
        if not self._running:
            return None
        return await self._running.popleft()

    async def _made(self, period: Period, span: Period) -> Result:
        """One period's composite; where its share of the memory is too small, made once more with all."""
        counters = Counters()
        OWN_COUNTERS.set(counters)
        share = self._spare // self.at_once
        try:
            while True:
                session = self._session(period, span, counters, share)
                try:
                    async with self._memory.hold(share):
                        return await self._composite(session, period)
                except MemoryLimitError as exc:
                    if share == self._spare:
                        beside = f"; other composites of the series hold {mib(self._held)} beside it"
                        raise MemoryLimitError(f"{exc}{beside if self._held else ''}") from None
                    share = self._spare
        except (InputError, DeviceError):  # no other period would fare better
            raise
        except BestPixelError as exc:
            return FailedPeriod(period, _without_frames(exc), session.report)
        finally:
            self._unfinished.remove((period, span))
            self._let_go()

    async def _composite(self, session: Session, period: Period) -> Composite:
        decision = await decide(session)
        async with self._painting.hold(sum(p.stored_bytes for p in decision.plans)):
            composite = await carry_out(session, decision)
        composite.period = period
        seconds = composite.timings
        seconds |= {"shared_list_scenes": seconds["list_scenes"], "shared_scout": seconds["scout"]}
        if self.asked.gate is not None:
            reasons = (ABOVE_AOD, UNKNOWN_AOD)
            seconds["aod_rejected"] = sum(s.reason.startswith(reasons) for s in session.report.scenes)
        return composite

    def _session(self, period: Period, span: Period, counters: Counters, share: int) -> Session:
        """A run of its own on the engine, threads and connections of all."""
        base = self._base
        assert base is not None
        items = None
        if self._items is not None:
            items = [i for i in self._items if within(i, period.start, period.end)]
        request = replace(base.request, datetime=period.dates, items=items, progress=None)
        report = Report.begin(request_dict(request), base.engine.name, base.threads, base.engine.note)
        limit = self._output + share
        session = replace(
            base,
            request=request,
            interval=(period.start, period.end),
            counters=counters,
            report=report,
            memory_limit=limit,
            budget=budget_of(limit, base.grid, len(base.bands), base.threads, base.engine),
            kept_tiles={},
            gate=self.asked.gate,
            span=(span.start, span.end),
            searches=self._searches,
            masks=self._masks,
        )
        session.projector = base.projector.sibling()
        return session

    def _let_go(self) -> None:
        """Drop what no period will ask for any more, and tell how far the series is."""
        spans = {(s.start, s.end) for _, s in self._unfinished}
        self._searches.keep_only(lambda asked: asked in spans)
        if self._masks is not None:
            self._masks.keep_only(lambda when: any(when in p for p, _ in self._unfinished))
        progress = self.asked.request.progress
        if progress is not None:
            n = len(self.asked.periods)
            progress("periods", n - len(self._unfinished), n)


def _note(task: asyncio.Task[Result]) -> None:
    """Take note of an error that nobody may come to ask for: the program ends with the series open."""
    if not task.cancelled():
        task.exception()


def _without_frames(error: BestPixelError) -> BestPixelError:
    """The error, its causes and contexts without tracebacks, whose frames would keep a whole run alive."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


async def collect(asked: SeriesRequest) -> list[Result]:
    """All results of a series.

    Raises
    ------
    BestPixelError
        The first period's error, if no period has a composite.
    """
    async with Series(asked) as series:
        results: list[Result] = []
        while (found := await series.next()) is not None:
            results.append(found)
    return _some(results)


def _some(results: Sequence[Result]) -> list[Result]:
    first = results[0]
    if isinstance(first, FailedPeriod) and all(isinstance(r, FailedPeriod) for r in results):
        first.error.add_note(f"none of {len(results)} periods has a composite; this is {first.period}")
        raise first.error
    return list(results)
