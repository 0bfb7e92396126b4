"""Compute threads of a run, and how what they find comes back to its event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_Piece = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]
_Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


class Workers:
    """Threads that work for one event loop, from which all calls must come.

    A composite is made of many small pieces of work, and for each of them asyncio's way through an
    executor takes two futures, their locks and a write to the loop's pipe. Here a thread goes on to
    the next piece by itself, and what ends while the loop is busy comes back in one callback.

    Parameters
    ----------
    n : int
        Most threads; they are started as work comes.
    """

    def __init__(self, n: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(n, thread_name_prefix="bestpixel-compute")
        self._n, self._at_work = n, 0
        self._pieces: deque[_Piece] = deque()
        self._outcomes: deque[_Outcome | None] = deque()
        """Results and errors; ``None`` for a thread that found nothing more to do."""
        self._told = False
        """The loop will look at the outcomes."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` returns or raise what it raises; a piece not yet begun can be cancelled."""
        outcome: asyncio.Future[T] = self._loop.create_future()
        self._pieces.append((outcome, work, args))
        self._engage()
        return await outcome

    def close(self) -> None:
        """Wait for what has begun; the rest is cancelled."""
        while self._pieces:
            self._pieces.pop()[0].cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _engage(self) -> None:
        if self._pieces and self._at_work < self._n:
            self._at_work += 1
            self._threads.submit(self._labour)

    def _labour(self) -> None:
        """On a thread: do pieces until there are none."""
        piece = self._next()
        while piece is not None:
            future, work, args = piece
            self._outcomes.append((future, *_outcome(work, args)))
            piece = self._next()
            if piece is not None:
                self._tell()
        self._outcomes.append(None)
        self._tell()

    def _next(self) -> _Piece | None:
        with suppress(IndexError):
            while (piece := self._pieces.popleft())[0].cancelled():
                pass
            return piece
        return None

    def _tell(self) -> None:
        if not self._told:  # else the loop has not yet begun to take outcomes, and will find this one
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._told = False
        while self._outcomes:
            found = self._outcomes.popleft()
            if found is None:
                self._at_work -= 1
                self._engage()  # a piece may have come after the thread had looked
                continue
            future, result, error = found
            if future.done():  # cancelled meanwhile
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)


def _outcome(work: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    try:
        return work(*args), None
    except BaseException as error:
        return None, error
