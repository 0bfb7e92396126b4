"""Byte ranges over HTTP: verified, retried, paced. The only place with a retry policy."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

from bestpixel_gpu.errors import AuthError, InputError, MissingError, SourceError, StalledError, without_query
from bestpixel_gpu.transfer.limits import CONCURRENCY, HostLimit
from bestpixel_gpu.transfer.transport import Counters, RangeAnswer, Renew

T = TypeVar("T")

_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_THROTTLED: Final = frozenset({429, 503})
_REFUSED: Final = frozenset({401, 403, 409})
"""409 is Azure's answer to a request without a token."""
_GONE: Final = frozenset({404, 410})

_ALWAYS: Final = 1 << 30
_TWICE: Final = 2
"""A wrong answer may come from one proxy of several: worth one more try, not all of them."""

_SMALL_FILE: Final = 1 << 20
"""A whole file up to this size is taken where a server knows no ranges."""
_ERROR_TEXT: Final = 4096
"""An error page up to this size is read: it may tell why, and the connection stays usable."""
_DOCUMENT: Final = 16 << 20
_READ_BUFFER: Final = 1 << 20
"""With aiohttp's own 64 KiB a tile's body stops and restarts the socket several times."""
_DNS_S: Final = 300

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_WAIT_TEXT = re.compile(r"[Tt]ry again in (\d+) second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Limits of one request, in seconds.

    Attributes
    ----------
    connect : float
        Until the connection stands.
    read : float
        Between two pieces of the answer.
    total : float
        For the request with all its repetitions; waiting for a turn does not count.
    """

    connect: float = 10.0
    read: float = 30.0
    total: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a request is tried, and the pause before the second try, in seconds.

    aiohttp repeats a request once more by itself, at once and uncounted, when the connection breaks
    before the answer begins (RFC 9112, 9.3.1: most often an idle connection the server had closed).
    """

    attempts: int = 5
    base: float = 0.2

    def delay(self, tried: int) -> float:
        """Pause after `tried` tries: it doubles, spread by half so that clients do not march in step."""
        return float(self.base * 2 ** (tried - 1) * random.uniform(0.5, 1.5))


class _AttemptError(Exception):
    """One try failed: what to say, and how many tries such a failure deserves."""

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        tries: int = 1,
        retry_after: float | None = None,
        error: type[SourceError] = SourceError,
    ) -> None:
        super().__init__(text)
        self.status, self.tries, self.retry_after, self.error = status, tries, retry_after, error


@dataclass(slots=True)
class _Shared:
    session: aiohttp.ClientSession
    users: int = 0


_sessions: dict[asyncio.AbstractEventLoop, _Shared] = {}
"""One session per event loop, so that everything that runs there shares its connections."""
_inherited: list[object] = []


def _forget_sessions() -> None:
    """In a forked child: never use the parent's sockets, and do not close them either."""
    for shared in _sessions.values():
        _inherited.append(shared.session.connector)
        shared.session.detach()
    _sessions.clear()


def _close_sessions() -> None:
    """At exit: close what callers left open, while its loop still runs."""
    for loop, shared in list(_sessions.items()):
        if loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(shared.session.close(), loop)
            try:
                closing.result(timeout=1.0)
            except TimeoutError:
                continue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)
atexit.register(_close_sessions)


@dataclass(frozen=True, slots=True)
class _Host:
    limit: HostLimit
    proxy: str | None


class HttpTransport:
    """Verified byte ranges and JSON documents over HTTP(S), for one event loop.

    Parameters
    ----------
    concurrency : int
        Most requests at once to one host; the limit in force is found by trial.
    timeouts : Timeouts
    retry : Retry
    counters : Counters, optional
        Where requests and bytes are counted.
    """

    def __init__(
        self,
        *,
        concurrency: int = CONCURRENCY,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or Retry()
        self._counters = counters if counters is not None else Counters()
        self._hosts: dict[tuple[str | None, int | None], _Host] = {}
        self._shared: _Shared | None = None

    async def read_range(
        self,
        url: str,
        offset: int,
        length: int,
        out: memoryview | None = None,
        *,
        kind: str = "tile",
        renew: Renew | None = None,
    ) -> RangeAnswer:
        """Read bytes ``offset .. offset + length - 1`` of `url`, fewer where the file ends.

        Parameters
        ----------
        url : str
            Already encoded; sent as it is, since signatures do not survive another encoding.
        out : memoryview, optional
            Receives the bytes; `data` of the answer is then a part of it.
        kind : str
            What to count it as.
        renew : callable, optional
            Asked once for a freshly signed address after 401, 403 or 409.

        Raises
        ------
        AuthError, MissingError, StalledError, SourceError
            After the tries that such a failure deserves.
        """
        last = offset + length - 1

        async def attempt(url: str, seconds: float) -> RangeAnswer:
            async with self._answer(url, seconds, {"Range": f"bytes={offset}-{last}"}, kind) as response:
                if response.status == 206:
                    end, total = _checked_range(response, offset, last)
                    data = await self._body(response, end - offset, kind)
                elif response.status == 200:
                    total = _small_total(response, offset, length)
                    data = (await self._body(response, total, kind))[offset : offset + length]
                else:
                    raise await self._fault(response, kind)
                etag = response.headers.get("ETag", "")
            if out is None:
                return RangeAnswer(data, total, etag)
            out[: len(data)] = data
            return RangeAnswer(out[: len(data)], total, etag)

        return await self._insist(url, f"bytes {offset}-{last}", attempt, renew)

    async def get_json(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Read the JSON document at `url`; repeated and failing like :meth:`read_range`."""

        async def attempt(url: str, seconds: float) -> Any:
            async with self._answer(url, seconds, dict(headers or {}), "json") as response:
                if response.status != 200:
                    raise await self._fault(response, "json")
                _check_plain(response)
                body = await self._body(response, response.content_length, "json")
            try:
                return json.loads(body)
            except ValueError:
                raise _AttemptError("the answer is not JSON", status=200, tries=_TWICE) from None

        return await self._insist(url, "document", attempt, None)

    async def close(self) -> None:
        """Give the session back; the last to use it on this loop closes it."""
        shared, self._shared = self._shared, None
        if shared is None:
            return
        shared.users -= 1
        if shared.users == 0:
            _sessions.pop(asyncio.get_running_loop(), None)
            await shared.session.close()

    async def _insist(
        self, url: str, part: str, attempt: Callable[[str, float], Awaitable[T]], renew: Renew | None
    ) -> T:
        """Return the answer of `attempt`, made again as often as its failures deserve."""
        limit = self._host(url).limit
        left, tried = self._timeouts.total, 0
        while True:
            tried += 1
            await limit.acquire()
            started = time.monotonic()
            try:
                answer = await attempt(url, left)
                limit.succeeded()
                return answer
            except _AttemptError as caught:
                fault = caught
                if fault.status in _THROTTLED:
                    limit.throttled(fault.retry_after)
            finally:
                limit.release()
            pause = self._retry.delay(tried)
            left -= time.monotonic() - started + pause
            if fault.error is AuthError and renew is not None:
                url, renew = await renew(), None
            elif tried < min(fault.tries, self._retry.attempts) and left > 0:
                await asyncio.sleep(pause)
            else:
                break
            self._counters.retries += 1
        tries = "" if tried == 1 else f", tried {tried} times"
        raise fault.error(
            f"{without_query(url)} ({part}): {fault}{tries}", url=url, status=fault.status, attempts=tried
        )

    @asynccontextmanager
    async def _answer(
        self, url: str, seconds: float, headers: dict[str, str], kind: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; what goes wrong with it leaves as a `_AttemptError`."""
        limits = aiohttp.ClientTimeout(
            total=seconds, connect=self._timeouts.connect, sock_read=self._timeouts.read
        )
        request = self._session().get(
            URL(url, encoded=True),
            headers=headers,
            allow_redirects=False,
            proxy=self._host(url).proxy,
            timeout=limits,
        )
        self._counters.began(kind)
        try:
            async with request as response:
                yield response
        # Their texts may hold the address with its token, so they are neither quoted nor chained.
        except TimeoutError:
            raise _AttemptError("no answer in time", tries=_ALWAYS, error=StalledError) from None
        except aiohttp.ClientConnectorCertificateError:
            raise _AttemptError("the server's certificate is not trusted") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise _AttemptError(
                f"connection failed or broke off ({type(exc).__name__})", tries=_ALWAYS
            ) from None
        finally:
            self._counters.ended()

    async def _body(self, response: aiohttp.ClientResponse, size: int | None, kind: str) -> bytes:
        """Read the body, which must be `size` bytes long where that is known."""
        most = _DOCUMENT if size is None else size
        pieces, got = [], 0
        while piece := await response.content.readany():
            got += len(piece)
            self._counters.received(kind, len(piece))
            if got > most:
                raise _AttemptError(f"more than {most} bytes came", status=response.status, tries=_TWICE)
            pieces.append(piece)
        if size is not None and got < size:
            raise _AttemptError(f"{got} of {size} bytes came", status=response.status, tries=_ALWAYS)
        return b"".join(pieces)

    async def _fault(self, response: aiohttp.ClientResponse, kind: str) -> _AttemptError:
        """Tell what a status other than success means."""
        status, size = response.status, response.content_length
        text = ""
        if size is not None and size <= _ERROR_TEXT:
            text = (await self._body(response, size, kind)).decode("utf-8", "replace")
        if status in _REFUSED:
            return _AttemptError(f"HTTP {status}, {_refusal(text)}", status=status, error=AuthError)
        if status in _GONE:
            return _AttemptError(f"HTTP {status}, the file is not there", status=status, error=MissingError)
        if status == 416:
            return _AttemptError("HTTP 416, the range starts past the file's end", status=status)
        if 300 <= status < 400:
            return _AttemptError(f"HTTP {status}, {_redirection(response)}", status=status)
        tries = _ALWAYS if status in _RETRIED else 1
        return _AttemptError(
            f"HTTP {status}", status=status, tries=tries, retry_after=_retry_after(response, text)
        )

    def _host(self, url: str) -> _Host:
        try:
            address = URL(url, encoded=True)
            key = (address.raw_host, address.port)
        except ValueError:
            raise InputError(f"{without_query(url)}: not a web address") from None
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = _Host(HostLimit(self._concurrency), _proxy(address))
        return host

    def _session(self) -> aiohttp.ClientSession:
        if self._shared is None:
            loop = asyncio.get_running_loop()
            if loop not in _sessions:
                _sessions[loop] = _Shared(_new_session())
            self._shared = _sessions[loop]
            self._shared.users += 1
        return self._shared.session


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # The limits per host are HostLimit's; the connector's own would only hide its queue.
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=_DNS_S),
        headers={"Accept-Encoding": "identity", "User-Agent": "bestpixel-gpu"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_READ_BUFFER,
    )


def _proxy(address: URL) -> str | None:
    """Proxy for `address` as the environment names it (``https_proxy``, ``no_proxy``)."""
    proxies = getproxies_environment()
    if not proxies or proxy_bypass(address.host or ""):
        return None
    return proxies.get(address.scheme)


def _check_plain(response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _AttemptError(
            "the server compresses what was asked for plain", status=response.status, tries=_TWICE
        )


def _checked_range(response: aiohttp.ClientResponse, offset: int, last: int) -> tuple[int, int | None]:
    """``(end, total)``: where the answered range ends (exclusive) and the file's size if told."""
    _check_plain(response)
    header = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match:
        first, end = int(match[1]), int(match[2]) + 1
        total = None if match[3] == "*" else int(match[3])
        longest = last + 1 if total is None else min(last + 1, total)
        if first == offset < end and (end == longest if total is not None else end <= longest):
            return end, total
    raise _AttemptError(f"the server answered another range ({header!r:.60})", status=206, tries=_TWICE)


def _small_total(response: aiohttp.ClientResponse, offset: int, length: int) -> int:
    """Size of a whole file that came instead of a range, if it is small enough to take."""
    _check_plain(response)
    total = response.content_length
    if total is None or total > max(_SMALL_FILE, 4 * length):
        response.close()
        raise _AttemptError("the server sends whole files, not byte ranges", status=200, tries=_TWICE)
    if offset >= total:
        raise _AttemptError(f"the range starts past the file's end ({total} bytes)", status=200)
    return total


def _refusal(text: str) -> str:
    """Why a server refuses, and what to do, from its error page."""
    if "equester" in text and "ays" in text:
        return "the bucket lets its readers pay: take the collection from another endpoint"
    if "not valid in the specified time frame" in text:
        return "the token is out of date: check this machine's clock"
    if "PublicAccessNotPermitted" in text:
        return "the file needs a token: take its item from the Planetary Computer's search"
    return "access refused: the credentials do not reach it, or it is not there"


def _redirection(response: aiohttp.ClientResponse) -> str:
    region = response.headers.get("x-amz-bucket-region")
    if region:
        return f"the bucket lies in region {region}: use that region's address"
    target = without_query(response.headers.get("Location", ""))
    return f"redirected to {target or 'nowhere'} (a login page?): give the file's own address"


def _retry_after(response: aiohttp.ClientResponse, text: str) -> float | None:
    """Seconds the server asks to wait: a number, a date, or a number in its error page."""
    header = response.headers.get("Retry-After", "").strip()
    if header.isdigit():
        return float(header)
    if header:
        try:
            return (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):  # not a date, or one without a zone
            return None
    match = _WAIT_TEXT.search(text)
    return float(match[1]) if match else None
