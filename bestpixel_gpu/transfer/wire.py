"""GET over HTTP/1.1 with every body received straight into its place, at little CPU time."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast
from urllib.parse import SplitResult, urlsplit

from bestpixel_gpu.transfer.buffers import BUFFERS, Take
from bestpixel_gpu.transfer.http1 import Head, chunk_size, parse_head, request_head
from bestpixel_gpu.transfer.transport import BrokenOffError

HEAD_BYTES: Final = 20 << 10
"""Most bytes of an answer's head; what is received before the body has its place, with a file's header."""
KEEP_S: Final = 15.0
"""A connection idle for longer is closed, before most servers would do so in the middle of a request."""
_NEXT_ADDRESS_S: Final = 0.25
"""Pause before the next address of a host is tried beside one that does not answer (RFC 8305, 8)."""
_NUMBERS = re.compile(r"[0-9.]+|.*:.*")
"""A host that is an address itself."""

Origin = tuple[str, str]
"""Scheme and what stands between it and the path."""


class Connection(asyncio.BufferedProtocol):
    """One connection and what arrives on it: in a scratch buffer, or where a body belongs.

    Parameters
    ----------
    family : set
        The connections that stand; this one adds itself and leaves when it ends.

    Attributes
    ----------
    got : int
        Bytes that the last :meth:`fill` took, even where it failed.
    heard : float
        When the last bytes came, or the request went out.
    answered : bool
        Something came since the request went out.
    ended : bool
        The server hung up in good order.
    head : Head or None
        That of the answer, as soon as it is there.
    body : memoryview or None
        Where the answer's body goes, if it had its place before it came.
    """

    def __init__(self, family: set[Connection]) -> None:
        self._loop = asyncio.get_running_loop()
        self._family = family
        self._raw = bytearray(HEAD_BYTES)
        self._scratch = memoryview(self._raw)
        self._start = self._end = 0
        self._into: memoryview | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        self._paused = False
        self._most = 0
        self._take: Take = BUFFERS.take
        self.got = 0
        self.heard = 0.0
        self.answered = self.ended = False
        self.head: Head | None = None
        self.body: memoryview | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        self._family.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake up whoever waits."""
        self._family.discard(self)
        if exc is None:
            self.eof_received()
        else:
            self._fail(exc)

    def eof_received(self) -> None:
        """Wake up whoever waits; TLS would wait for the server's farewell before it calls it lost."""
        if self._failure is None:
            self.ended = True
            self._fail(BrokenOffError("the server hung up"))
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        if self._into is not None:
            return self._into[self.got :]
        if self._end == len(self._raw):  # some loops go on for a moment after they were paused
            self._raw = self._raw + bytes(self._end)
            self._scratch = memoryview(self._raw)
        return self._scratch[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that came."""
        self.heard = self._loop.time()
        if self._into is not None:
            self.got += nbytes
            if self.got == len(self._into):
                self._into = None  # for an empty buffer is taken for the connection's end
                self._wake()
            return
        self._end += nbytes
        self.answered = True
        if not self._asked:
            self.abort()
            return
        if self.head is None:
            self._begin()
            if self._into is not None:
                return  # the body follows into its place, and nobody need wake up before it is whole
        if self._end >= HEAD_BYTES:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def _begin(self) -> None:
        """Take the head of the answer if it is whole; have a body of known length received in its place."""
        at = self._raw.find(b"\r\n\r\n", self._start, self._end)
        if at < 0:
            return
        try:
            head = parse_head(bytes(self._raw[self._start : at]))
            self._skip(at + 4)
            if head.status < 200 and head.status != 101:  # not yet the answer (RFC 9110, 15.2)
                self._begin()
                return
            if head.length is not None and head.length <= self._most:
                self.body = self._take(head.length)
                self.receive(self.body)
            self.head = head
        except Exception as exc:  # damaged, or there is no memory: whoever waits is told
            self._fail(exc)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        self._wake()

    def abort(self) -> None:
        """Hang up at once; nothing is written to anybody's buffer any more."""
        self._asked = False
        self._stop_timer()
        self._into = None
        self._start = self._end = 0
        self._transport.abort()

    def send(self, request: bytes, most: int, take: Take, read: float, deadline: float) -> None:
        """Send a request; what is awaited afterwards fails `read` seconds after the last byte came.

        A body that tells its length, up to `most` bytes, is received at once in what `take` gives.
        """
        self._most, self._take, self.head, self.body = most, take, None, None
        self.answered, self.heard = False, self._loop.time()
        self._read, self._deadline, self._asked = read, deadline, True
        if self._timer is None or self._timer.when() > self._due:
            self._stop_timer()
            self._timer = self._loop.call_at(self._due, self._watch)
        self._transport.write(request)

    @property
    def _due(self) -> float:
        return min(self.heard + self._read, self._deadline)

    def _watch(self) -> None:
        """Look whether bytes still come; the timer of an earlier request serves the next, too."""
        self._timer = None
        if not self._asked:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._watch)
        else:
            self._fail(TimeoutError())
            self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def drained(self) -> bool:
        """All that came has been taken."""
        return self._end == 0

    @property
    def stands(self) -> bool:
        """It can carry another request."""
        return self._failure is None and not self._transport.is_closing()

    def rest(self) -> None:
        """End a request whose answer has been taken to its last byte."""
        self._asked = False
        self.body, self._take = None, BUFFERS.take  # or an idle connection keeps them, and all they belong to
        if self._paused:  # else the end of an idle connection would go unnoticed
            self._paused = False
            self._transport.resume_reading()

    async def answer(self) -> Head:
        """Wait for the head of the answer, and for the body where it has its place."""
        while self.head is None:
            await self.more()
        if self._into is not None:
            await self._wait()
        return self.head

    async def until(self, mark: bytes) -> bytes:
        """Take what comes before `mark`, and `mark` itself away."""
        seen = 0
        while (at := self._raw.find(mark, self._start + seen, self._end)) < 0:
            seen = max(0, self._end - self._start - len(mark) + 1)
            await self.more()
        taken = self._raw[self._start : at]
        self._skip(at + len(mark))
        return bytes(taken)

    def receive(self, into: memoryview) -> None:
        """Have the next bytes received in `into`; `got` tells how many there are."""
        held = min(self._end - self._start, len(into))
        into[:held] = self._scratch[self._start : self._start + held]
        self._skip(self._start + held)
        self.got = held
        self._into = into if held < len(into) else None

    async def fill(self, into: memoryview) -> None:
        """Wait until `into`, in which bytes are received, is full or the server hangs up."""
        try:
            if self._into is not None:
                await self._wait()
        finally:
            self._into = None
        if self._failure is not None and self.got < len(into) and not self.ended:
            raise self._failure

    async def more(self) -> None:
        """Wait until something happens: bytes came into the scratch buffer, or none will come."""
        if self._failure is not None:
            raise self._failure
        if self._start:
            left = self._end - self._start
            self._raw[:left] = self._raw[self._start : self._end]
            self._start, self._end = 0, left
        if self._end >= HEAD_BYTES:
            raise BrokenOffError(f"HTTP headers of more than {HEAD_BYTES} bytes")
        await self._wait()

    def _skip(self, to: int) -> None:
        self._start = to
        if self._start == self._end:
            self._start = self._end = 0

    async def _wait(self) -> None:
        if self._failure is not None:
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class WireAnswer:
    """An answer whose body has not been taken yet. Fulfils :class:`transport.Answer`."""

    def __init__(self, connection: Connection, head: Head, wire: Wire, origin: Origin) -> None:
        self.status, self.content_length = head.status, head.length
        self.headers: Mapping[str, str] = head.headers
        self.received = 0
        self._connection, self._head, self._wire, self._origin = connection, head, wire, origin
        self._complete = head.length == 0

    async def body(self, most: int, take: Take | None = None) -> memoryview | None:
        """Return the body, ``None`` if it is longer than `most` bytes."""
        length, space = self.content_length, self._connection.body
        if length is not None and length > most:
            return None
        if space is None:
            space = (take or BUFFERS.take)(most if length is None else length)
            if not self._head.chunked:
                self._connection.receive(space)
        if self._head.chunked:
            fits = await self._chunks(space)
        else:
            await self._take(space)
            if length is not None and self.received < length:
                raise BrokenOffError(f"the server hung up after {self.received} of {length} bytes")
            fits = length is not None or await self._nothing_more()
        if not fits:
            return None
        self._complete = True
        return space[: self.received].toreadonly()

    def release(self) -> None:
        """Keep the connection for the next request if this answer was taken whole; else hang up."""
        if self._complete and self._head.keep and self._connection.drained and self._connection.stands:
            self._wire.keep(self._origin, self._connection)
        else:
            self._connection.abort()

    async def _take(self, space: memoryview) -> None:
        try:
            await self._connection.fill(space)
        finally:
            self.received += self._connection.got

    async def _chunks(self, space: memoryview) -> bool:
        """Take a body in chunks (RFC 9112, 7.1); tell whether it fits in `space`."""
        while size := chunk_size(await self._connection.until(b"\r\n")):
            if self.received + size > len(space):
                return False
            end = self.received + size
            self._connection.receive(space[self.received : end])
            await self._take(space[self.received : end])
            if self.received < end or await self._connection.until(b"\r\n"):
                raise BrokenOffError("a damaged chunk of the body")
        while await self._connection.until(b"\r\n"):
            pass  # trailers
        return True

    async def _nothing_more(self) -> bool:
        """Tell whether the connection ends with the bytes taken so far."""
        try:
            while self._connection.drained:
                await self._connection.more()
        except BrokenOffError:
            return self._connection.ended
        return False


class Wire:
    """Sends requests and keeps their connections, for one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._standing: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._trust: ssl.SSLContext | None = None

    async def get(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        connect: float,
        read: float,
        total: float,
        most: int = 0,
        take: Take = BUFFERS.take,
    ) -> WireAnswer:
        """Ask for `url` and return the answer as soon as its head is there.

        If the head tells that the body is at most `most` bytes long, the body is received at once, in
        what `take` gives, and the answer is returned when it is whole: this spares a turn of the loop.

        Where a connection that had been used before turns out to be closed, the request is sent
        once more on a fresh one (RFC 9112, 9.3.1).

        Raises
        ------
        TimeoutError
            If one of the limits, in seconds, passed.
        OSError
            If no connection could be made; :class:`BrokenOffError` if it ended early.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + total
        parts = urlsplit(url)
        origin = parts[:2]
        ask = partial(self._ask, origin, request_head(parts, headers), most, take, read, deadline)
        connection = self._idle_one(origin)
        if connection is not None:
            try:
                return await ask(connection)
            except ConnectionError:
                if connection.answered:
                    raise
        async with asyncio.timeout_at(min(loop.time() + connect, deadline)):
            connection = await self._connect(origin)
        return await ask(connection)

    def keep(self, origin: Origin, connection: Connection) -> None:
        """Keep a connection for the next request to `origin`."""
        connection.rest()
        self._idle.setdefault(origin, []).append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_S, self._close_idle)

    async def close(self) -> None:
        """Hang up on everybody."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        for connection in list(self._standing):
            connection.abort()
        await asyncio.sleep(0)  # sockets are closed by callbacks that are queued by now

    async def _ask(
        self,
        origin: Origin,
        request: bytes,
        most: int,
        take: Take,
        read: float,
        deadline: float,
        connection: Connection,
    ) -> WireAnswer:
        try:
            connection.send(request, most, take, read, deadline)
            head = await connection.answer()
        except BaseException:
            connection.abort()
            raise
        return WireAnswer(connection, head, self, origin)

    async def _connect(self, origin: Origin) -> Connection:
        parts = SplitResult(*origin, "", "", "")
        tls = parts.scheme == "https"
        if tls and self._trust is None:
            self._trust = ssl.create_default_context()
            self._trust.set_alpn_protocols(["http/1.1"])
        host, loop = parts.hostname or "", asyncio.get_running_loop()
        # loops that are not asyncio's own (uvloop) try one address after the other and take no delay
        several: dict[str, Any] = {}
        if isinstance(loop, asyncio.BaseEventLoop) and not _NUMBERS.fullmatch(host):
            several["happy_eyeballs_delay"] = _NEXT_ADDRESS_S
        _, connection = await loop.create_connection(
            lambda: Connection(self._standing),
            host,
            parts.port or (443 if tls else 80),
            ssl=self._trust if tls else None,
            **several,
        )
        return connection

    def _idle_one(self, origin: Origin) -> Connection | None:
        """Take the connection that was used last, if there is one that will do."""
        idle = self._idle.get(origin, [])
        while idle:
            connection = idle.pop()
            if _fresh(connection):
                return connection
            connection.abort()
        return None

    def _close_idle(self) -> None:
        kept: dict[Origin, list[Connection]] = {}
        for origin, idle in self._idle.items():
            for connection in idle:
                if _fresh(connection):
                    kept.setdefault(origin, []).append(connection)
                else:
                    connection.abort()
        self._idle, self._sweep = kept, None
        if kept:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_S, self._close_idle)


def _fresh(connection: Connection) -> bool:
    return connection.stands and asyncio.get_running_loop().time() < connection.heard + KEEP_S
