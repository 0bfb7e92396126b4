"""What every stage of one run shares: request, grid, engine, reader, report."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bestpixel_gpu.catalog.providers import Endpoint
from bestpixel_gpu.catalog.scene import Scene
from bestpixel_gpu.compositing.shelf import Shelf
from bestpixel_gpu.compositing.workers import Workers
from bestpixel_gpu.engines.contract import Engine, Ticket
from bestpixel_gpu.geo.grid import ChunkGrid, Grid
from bestpixel_gpu.geo.pixel_map import AxisMap, Projector, identity_map
from bestpixel_gpu.plan.memory import Budget, no_room, output_bytes
from bestpixel_gpu.request import Request
from bestpixel_gpu.result.report import Report
from bestpixel_gpu.transfer.reader import Reader
from bestpixel_gpu.transfer.transport import Counters

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Session:
    """One run. Stages take it as their first argument and add to its report."""

    request: Request
    endpoint: Endpoint
    bands: tuple[str, ...]
    interval: tuple[Any, Any]
    grid: Grid
    chunks: ChunkGrid
    engine: Engine
    workers: Workers
    threads: int
    reader: Reader
    counters: Counters
    report: Report
    memory_limit: int
    budget: Budget
    block_cols: int | None = None
    """Chunk columns per block; ``None`` for whole rows. Changes speed and memory, never pixels."""
    kept_tiles: dict[tuple[str, int, int], Any] = field(default_factory=dict)
    """Compressed tiles by (href, plane, index): repair wants the tiles beside those that failed."""
    kept_bytes: int = 0
    items: list[dict[str, Any]] = field(default_factory=list)
    """The candidates as STAC items, as they were found or given."""
    gate: Callable[[Scene], str | None] | None = None
    """Tells why a scene is no candidate, beyond what the request says."""
    span: tuple[Any, Any] | None = None
    """Dates to search, where they are more than the run's own, for runs beside this one."""
    searches: Shelf | None = None
    """Their answers."""
    masks: Shelf | None = None
    """Masks that runs beside this one want too."""
    projector: Projector = field(init=False)
    identity: AxisMap = field(init=False)
    device_before: dict[str, Any] = field(init=False)
    """What the engine said of its device when the run began."""

    def __post_init__(self) -> None:
        self.projector = Projector(self.grid)
        self.identity = identity_map(self.grid)
        self.device_before = self.engine.describe()

    def layer(self, shape: tuple[int, ...], dtype: Any, fill: int | None = None) -> Any:
        """An engine's array of the result.

        Raises
        ------
        MemoryLimitError
            If there is no room for it: nothing smaller would do.
        """
        with self.result_room():
            return self.engine.empty(shape, dtype, fill)

    @contextmanager
    def result_room(self) -> Iterator[None]:
        """What is made inside is part of the result: without room for it there is none."""
        try:
            yield
        except MemoryError as error:
            pixels, bands = self.grid.width * self.grid.height, len(self.read_bands)
            uncertain = len(self.bands) if self.request.emit_uncertainty else 0
            raise no_room(pixels, bands, uncertain, self.engine.name) from error

    @property
    def read_bands(self) -> tuple[str, ...]:
        """Bands that a scene must have: those asked for, and those the rule looks at."""
        return tuple(dict.fromkeys([*self.bands, *self.request.index_bands]))

    def output_bytes(self, rank_bytes: int = 2) -> int:
        """Bytes of the layers, and of the values that the rule keeps."""
        uncertain = len(self.bands) if self.request.emit_uncertainty else 0
        return output_bytes(self.grid.width * self.grid.height, len(self.read_bands), rank_bytes, uncertain)

    async def compute(self, work: Callable[..., T], *args: Any) -> T:
        """Run engine work on the compute threads."""
        return await self.workers.run(work, *args)

    def keep_tile(self, key: tuple[str, int, int], stored: Any) -> None:
        """Keep a compressed tile for repair while there is room."""
        self.kept_bytes -= len(self.kept_tiles.pop(key, b""))
        if not isinstance(stored, Exception) and self.kept_bytes + len(stored) <= self.budget.kept:
            self.kept_tiles[key] = stored
            self.kept_bytes += len(stored)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Tell the caller how far a stage is."""
        if self.request.progress is not None:
            self.request.progress(stage, done, total)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage into the report."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.report.seconds[name] = self.report.seconds.get(name, 0.0) + time.perf_counter() - start


async def together(work: list[Any], on_done: Callable[[int], None] | None = None) -> list[Any]:
    """Results of coroutines run at once; the first error cancels the rest and is raised itself."""
    done = 0

    async def counted(coro: Any) -> Any:
        nonlocal done
        result = await coro
        done += 1
        if on_done is not None:
            on_done(done)
        return result

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(counted(c)) for c in work]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [t.result() for t in tasks]


async def finished(ticket: Ticket) -> None:
    """Wait for a batch of the engine without keeping a thread."""
    if ticket.done():
        return
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    ticket.add_done_callback(lambda: loop.call_soon_threadsafe(_resolve, end))
    await end


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # cancelled with the run
        future.set_result(None)


async def in_daemon_thread(work: Callable[..., T], *args: Any) -> T:
    """Run blocking work that cannot be cancelled, so that Ctrl-C need not wait for it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work(*args)
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="bestpixel-search", daemon=True).start()
    return await answer


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error of a group, however deep."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
