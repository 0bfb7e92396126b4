"""The seam between a reader and what carries the bytes, and the figures both keep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from bestpixel_gpu.transfer.buffers import BUFFERS, Take

Renew = Callable[[], Awaitable[str]]
"""Gives the address signed with a fresh token."""

ASKED: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "bestpixel-gpu"}
"""Headers of every request."""


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """A verified byte range.

    Attributes
    ----------
    data : bytes or memoryview
        Exactly the bytes asked for; fewer only where the file ends.
    total : int or None
        Size of the whole file, where the server tells.
    version : str
        The server's tag of this version of the file: its ETag, else the time of its last change;
        ``""`` if it gives neither.
    """

    data: bytes | memoryview
    total: int | None
    version: str = ""


class Transport(Protocol):
    """Carries byte ranges, received straight into memory that the caller's `take` gives."""

    async def read_range(
        self,
        url: str,
        offset: int,
        length: int,
        take: Take = BUFFERS.take,
        *,
        kind: str = "tile",
        renew: Renew | None = None,
    ) -> RangeAnswer:
        """Read bytes ``offset .. offset + length - 1`` of `url`."""
        ...

    async def close(self) -> None:
        """Give back sockets and threads."""
        ...


class BrokenOffError(ConnectionError):
    """A connection ended early, or what came over it is not HTTP; the text tells, without an address."""


class Answer(Protocol):
    """The answer to one request, whose body has not been taken yet.

    Attributes
    ----------
    status : int
    headers : mapping
        By names in lower case.
    content_length : int or None
        Bytes of the body, where the server tells.
    received : int
        Bytes of the body that came so far.
    """

    status: int
    headers: Mapping[str, str]
    content_length: int | None
    received: int

    async def body(self, most: int, take: Take | None = None) -> bytes | memoryview | None:
        """Return the body, in what `take` gives; ``None`` if it is longer than `most` bytes."""
        ...

    def release(self) -> None:
        """Give the connection back, or hang up if the body was not taken whole."""
        ...


@dataclass(slots=True)
class Tally:
    """Requests sent and body bytes received, of one kind."""

    requests: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Counters:
    """What went over the wire; written on the event loop's thread, readable from any.

    Attributes
    ----------
    requests, bytes : int
        Requests sent (retries too) and body bytes received (those of failed answers too).
    retries : int
        Requests that were repeated.
    active, peak : int
        Requests on their way now, and the most there ever were.
    by_kind : dict
        The same per kind: ``"header"``, ``"tile"``, ``"json"``.
    """

    requests: int = 0
    bytes: int = 0
    retries: int = 0
    active: int = 0
    peak: int = 0
    by_kind: dict[str, Tally] = field(default_factory=dict)

    def began(self, kind: str) -> None:
        """Count a request that is being sent."""
        self.requests += 1
        self.active += 1
        self.peak = max(self.peak, self.active)
        self.by_kind.setdefault(kind, Tally()).requests += 1

    def received(self, kind: str, size: int) -> None:
        """Count body bytes of a request that began."""
        self.bytes += size
        self.by_kind[kind].bytes += size

    def repeated(self) -> None:
        """Count a retry."""
        self.retries += 1

    def ended(self) -> None:
        """Count a request as over: answered, failed or given up."""
        self.active -= 1


OWN_COUNTERS: ContextVar[Counters] = ContextVar("bestpixel-counters")
"""Those of the run that a task works for, where several runs share a reader."""


class SharedCounters(Counters):
    """Counts for everybody, and in :data:`OWN_COUNTERS` for whoever asked."""

    __slots__ = ()

    def began(self, kind: str) -> None:
        """Count a request that is being sent."""
        Counters.began(self, kind)
        Counters.began(OWN_COUNTERS.get(), kind)

    def received(self, kind: str, size: int) -> None:
        """Count body bytes of a request that began."""
        Counters.received(self, kind, size)
        Counters.received(OWN_COUNTERS.get(), kind, size)

    def repeated(self) -> None:
        """Count a retry."""
        Counters.repeated(self)
        Counters.repeated(OWN_COUNTERS.get())

    def ended(self) -> None:
        """Count a request as over: answered, failed or given up."""
        Counters.ended(self)
        Counters.ended(OWN_COUNTERS.get())
