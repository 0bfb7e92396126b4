"""Compute threads of a run, and how what they find comes back to its event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")

LINGER_S: Final = 0.05
"""How long a thread waits for more work before it gives itself back."""


@dataclass(slots=True, eq=False)
class _Piece:
    outcome: asyncio.Future[Any]
    work: Callable[..., Any]
    args: tuple[Any, ...]
    begun: bool = False
    """A thread has taken it, if only to see that it was cancelled."""
    ended: bool = False
    end: asyncio.Future[None] | None = None
    """What whoever was cancelled meanwhile waits for."""


_Outcome = tuple[_Piece, Any, BaseException | None]


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
        """Return what `work` returns or raise what it raises.

        A piece not yet begun can be cancelled. One that has begun is waited for all the same: whoever tries
        again after an error must not meet what is left of the first attempt.
        """
        if self._closed:
            raise RuntimeError("these compute threads have been closed")
        piece = _Piece(self._loop.create_future(), work, args)
        self._pieces.put(piece)
        self._engage()
        try:
            return await piece.outcome  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if piece.begun and not piece.ended:
                piece.end = self._loop.create_future()
                await piece.end
            raise

    def close(self) -> None:
        """Wait for what has begun; the rest is cancelled."""
        self._closed = True
        with suppress(Empty):
            while piece := self._pieces.get_nowait():
                piece.outcome.cancel()
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
                piece.begun = True  # first: who cancels looks at it afterwards
                self._outcomes.append((piece, *_outcome(piece)))
                self._tell()
                del piece  # arrays among its arguments must not live until the next one comes
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
            piece, result, error = found
            piece.ended = True
            if piece.end is not None and not piece.end.done():
                piece.end.set_result(None)
            if piece.outcome.done():  # cancelled meanwhile
                continue
            if error is not None:
                piece.outcome.set_exception(error)
            else:
                piece.outcome.set_result(result)


def _outcome(piece: _Piece) -> tuple[Any, BaseException | None]:
    if piece.outcome.cancelled():
        return None, None
    try:
        return piece.work(*piece.args), None
    except BaseException as error:
        return None, error
