"""Compute threads of a run, and how what they find comes back to its event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")

LINGER_S: Final = 0.05
"""How long a thread waits for more work before it gives itself back."""

_Piece = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]
_Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


class Workers:
    """Threads that work for one event loop, from which all calls must come.

    A composite is made of many small pieces of work, and for each of them asyncio's way through an
    executor takes two futures, their locks and a write to the loop's pipe. Here threads wait for pieces
    themselves, and what ends while the loop is busy comes back in one callback.

    Parameters
    ----------
    n : int
        Most threads; they are started as work comes.
    """

    def __init__(self, n: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(n, thread_name_prefix="bestpixel-compute")
        self._n, self._at_work, self._closed = n, 0, False
        self._pieces: SimpleQueue[_Piece | None] = SimpleQueue()
        """Work, and at the end ``None`` for each thread."""
        self._outcomes: deque[_Outcome | None] = deque()
        """Results and errors; ``None`` for a thread that waited in vain."""
        self._told = False
        """The loop will look at the outcomes."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` returns or raise what it raises; a piece not yet begun can be cancelled."""
        if self._closed:
            raise RuntimeError("these compute threads have been closed")
        outcome: asyncio.Future[T] = self._loop.create_future()
        self._pieces.put((outcome, work, args))
        self._engage()
        return await outcome

    def close(self) -> None:
        """Wait for what has begun; the rest is cancelled."""
        self._closed = True
        with suppress(Empty):
            while piece := self._pieces.get_nowait():
                piece[0].cancel()
        for _ in range(self._n):
            self._pieces.put(None)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _engage(self) -> None:
        if self._at_work < self._n and not self._closed and not self._pieces.empty():
            self._at_work += 1
            self._threads.submit(self._labour)

    def _labour(self) -> None:
        """On a thread: do pieces as long as they come."""
        with suppress(Empty):
            while piece := self._pieces.get(timeout=LINGER_S):
                future, work, args = piece
                if not future.cancelled():
                    self._outcomes.append((future, *_outcome(work, args)))
                    self._tell()
                del piece, future, work, args  # arrays among them must not live until the next piece comes
        self._outcomes.append(None)
        self._tell()

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
