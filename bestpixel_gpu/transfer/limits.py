"""How much may be under way at once: requests per host, bytes in all.

Both gates belong to one event loop and let waiters in strictly in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

START = 32
"""Requests at once to a host nothing is known of yet."""
CONCURRENCY = 192
IN_FLIGHT_BYTES = 128 << 20
HALVE_EVERY_S = 1.0
"""Many requests under way are refused together; that is one event, not many."""
LONGEST_PAUSE_S = 30.0
"""No Retry-After keeps a host waiting for longer."""


class _Gate:
    """First come, first served admission; a subclass says what is admitted."""

    def __init__(self) -> None:
        self.used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def _admits(self, amount: int) -> bool:
        raise NotImplementedError

    async def acquire(self, amount: int = 1) -> None:
        """Wait until `amount` is admitted."""
        if not self._waiting and self._admits(amount):
            self.used += amount
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, amount))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()  # it may have kept smaller ones behind it waiting
            else:
                self.release(amount)  # admitted and cancelled in the same moment
            raise

    def release(self, amount: int = 1) -> None:
        """Give back what `acquire` took."""
        self.used -= amount
        self._admit()

    @asynccontextmanager
    async def hold(self, amount: int = 1) -> AsyncIterator[None]:
        """`acquire` on entry, `release` on exit."""
        await self.acquire(amount)
        try:
            yield
        finally:
            self.release(amount)

    def _admit(self) -> None:
        while self._waiting:
            turn, amount = self._waiting[0]
            if not turn.done():
                if not self._admits(amount):
                    return
                self.used += amount
                turn.set_result(None)
            self._waiting.popleft()


class BytesGate(_Gate):
    """Keeps the bytes under way below `cap`; a single request above the cap passes alone."""

    def __init__(self, cap: int = IN_FLIGHT_BYTES) -> None:
        super().__init__()
        self.cap = cap

    def widen(self, amount: int, most: int) -> None:
        """Let `amount` more pass at once, up to a cap of `most`."""
        self.cap = max(self.cap, min(self.cap + amount, most))
        self._admit()

    def _admits(self, amount: int) -> bool:
        return self.used == 0 or self.used + amount <= self.cap


class HostLimit(_Gate):
    """Requests at once to one host, found by trial.

    Each request that had to wait for a place lets the limit grow by one: with a success until the
    host first refuses (so it doubles in a round trip), from then on with each `limit` successes.
    A refusal (429, 503) halves it; ``Retry-After`` holds back everything to this host.

    Attributes
    ----------
    limit : int
        Requests that may be under way now, never above `cap`.
    """

    def __init__(self, cap: int = CONCURRENCY, start: int = START) -> None:
        super().__init__()
        self.cap = cap
        self.limit = self._start = min(start, cap)
        self._held_back = 0
        """Requests that had to wait, and for which the limit has not grown yet."""
        self._successes = 0
        self._halved_at: float | None = None
        self._pause: asyncio.TimerHandle | None = None

    @property
    def tried(self) -> bool:
        """Answers or refusals have moved the limit."""
        return self.limit != self._start or self._halved_at is not None

    def _admits(self, amount: int) -> bool:
        return self._pause is None and self.used + amount <= self.limit

    async def acquire(self, amount: int = 1) -> None:
        """Wait until `amount` is admitted."""
        if self._waiting or (self._pause is None and not self._admits(amount)):
            self._held_back += 1
        await super().acquire(amount)

    def succeeded(self) -> None:
        """Take note of a good answer; to be called before its place is released."""
        if not self._held_back:
            return  # the limit holds nobody back, so this answer says nothing about it
        self._successes += 1
        if self._successes >= (1 if self._halved_at is None else self.limit):
            self.limit = min(self.limit + 1, self.cap)
            self._held_back -= 1
            self._successes = 0

    def throttled(self, retry_after: float | None = None) -> None:
        """Take note that the host refused; to be called before the place is released.

        Parameters
        ----------
        retry_after : float, optional
            Seconds the host asked for.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._halved_at is None or now - self._halved_at >= HALVE_EVERY_S:
            self.limit = max(1, self.limit // 2)
            self._successes = 0
            self._held_back = len(self._waiting)
            self._halved_at = now
        if retry_after is not None and retry_after > 0:
            until = now + min(retry_after, LONGEST_PAUSE_S)
            if self._pause is not None:
                until = max(until, self._pause.when())
                self._pause.cancel()
            self._pause = loop.call_at(until, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._admit()
