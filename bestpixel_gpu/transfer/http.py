"""Byte ranges over HTTP: verified, retried, paced. The only place with a retry policy."""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from bestpixel_gpu.errors import AuthError, InputError, MissingError, SourceError, StalledError, without_query
from bestpixel_gpu.transfer.buffers import BUFFERS, Take
from bestpixel_gpu.transfer.clients import Clients, clients
from bestpixel_gpu.transfer.http1 import speaks
from bestpixel_gpu.transfer.limits import CONCURRENCY, START, HostLimit
from bestpixel_gpu.transfer.transport import Answer, BrokenOffError, Counters, RangeAnswer, Renew

T = TypeVar("T")

_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_THROTTLED: Final = frozenset({429, 503})
_REFUSED: Final = frozenset({401, 403, 409})
"""409 is Azure's answer to a request without a token."""
_GONE: Final = frozenset({404, 410})

_STOOD: Final[dict[tuple[str, str], int]] = {}
"""Requests at once that a host stood lately, by scheme and address: where the next run begins."""

_ALWAYS: Final = 1 << 30
_TWICE: Final = 2
"""A wrong answer may come from one proxy of several: worth one more try, not all of them."""

_SMALL_FILE: Final = 1 << 20
"""A whole file up to this size is taken where a server knows no ranges."""
_ERROR_TEXT: Final = 4096
"""An error page up to this size is read: it may tell why, and the connection stays usable."""
_DOCUMENT: Final = 16 << 20

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
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

    A request that meets a connection which the server had closed meanwhile is sent once more at once,
    uncounted (RFC 9112, 9.3.1).
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
        self._hosts: dict[tuple[str, str], _Host] = {}
        self._clients: Clients | None = None

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
        """Read bytes ``offset .. offset + length - 1`` of `url`, fewer where the file ends.

        Parameters
        ----------
        url : str
            Already encoded; sent as it is, since signatures do not survive another encoding.
        take : callable
            Gives the memory that the bytes are received into, once the answer's head is there.
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

        async def use(answer: Answer) -> RangeAnswer:
            if answer.status == 206:
                end, total = _checked_range(answer, offset, last)
                data = await self._body(answer, end - offset, kind, take)
            elif answer.status == 200:
                total = _small_total(answer, offset, length)
                whole = await self._body(answer, total, kind)
                data = bytes(whole[offset : offset + length])  # the whole need not stay in memory
            else:
                raise await self._fault(answer, kind)
            return RangeAnswer(data, total, _version(answer))

        attempt = partial(self._attempt, {"Range": f"bytes={offset}-{last}"}, kind, use, length, take)
        return await self._insist(url, f"bytes {offset}-{last}", attempt, renew)

    async def get_json(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Read the JSON document at `url`; repeated and failing like :meth:`read_range`."""

        async def use(answer: Answer) -> Any:
            if answer.status != 200:
                raise await self._fault(answer, "json")
            _check_plain(answer)
            body = await self._body(answer, answer.content_length, "json")
            try:
                return json.loads(bytes(body))
            except ValueError:
                raise _AttemptError("the answer is not JSON", status=200, tries=_TWICE) from None

        attempt = partial(self._attempt, dict(headers or {}), "json", use, 0, BUFFERS.take)
        return await self._insist(url, "document", attempt, None)

    async def close(self, *, keep: bool = False) -> None:
        """Give the connections back; the last to use them on this loop closes them, see `Clients`."""
        _STOOD.update({key: host.limit.limit for key, host in self._hosts.items() if host.limit.tried})
        shared, self._clients = self._clients, None
        if shared is not None:
            await shared.give_back(keep=keep)

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
            self._counters.repeated()
        tries = "" if tried == 1 else f", tried {tried} times"
        raise fault.error(
            f"{without_query(url)} ({part}): {fault}{tries}", url=url, status=fault.status, attempts=tried
        )

    async def _attempt(
        self,
        headers: Mapping[str, str],
        kind: str,
        use: Callable[[Answer], Awaitable[T]],
        most: int,
        take: Take,
        url: str,
        seconds: float,
    ) -> T:
        """What `use` makes of the answer to one request; what goes wrong leaves as a `_AttemptError`."""
        self._counters.began(kind)
        try:
            answer = await self._get(url, seconds, headers, kind, most, take)
            try:
                return await use(answer)
            finally:
                answer.release()
        # Their texts may hold the address with its token, so they are neither quoted nor chained.
        except TimeoutError:
            raise _AttemptError("no answer in time", tries=_ALWAYS, error=StalledError) from None
        except ssl.CertificateError:
            raise _AttemptError("the server's certificate is not trusted") from None
        except OSError as exc:
            why = str(exc) if isinstance(exc, BrokenOffError) else type(exc).__name__
            raise _AttemptError(f"connection failed or broke off ({why})", tries=_ALWAYS) from None
        finally:
            self._counters.ended()

    async def _get(
        self, url: str, seconds: float, headers: Mapping[str, str], kind: str, most: int, take: Take
    ) -> Answer:
        if self._clients is None:
            self._clients = clients()
        connect, read, proxy = self._timeouts.connect, self._timeouts.read, self._host(url).proxy
        if kind != "json" and proxy is None and speaks(url):
            wire = self._clients.wire
            return await wire.get(
                url, headers, connect=connect, read=read, total=seconds, most=most, take=take
            )
        general = await self._clients.general()
        return await general.get(url, headers, connect=connect, read=read, total=seconds, proxy=proxy)

    async def _body(
        self, answer: Answer, size: int | None, kind: str, take: Take | None = None
    ) -> bytes | memoryview:
        """Read the body, which must be `size` bytes long where that is known."""
        most = _DOCUMENT if size is None else size
        try:
            data = await answer.body(most, take)
        finally:
            self._counters.received(kind, answer.received)
        if data is None:
            raise _AttemptError(f"more than {most} bytes came", status=answer.status, tries=_TWICE)
        if size is not None and len(data) < size:
            raise _AttemptError(f"{len(data)} of {size} bytes came", status=answer.status, tries=_ALWAYS)
        return data

    async def _fault(self, answer: Answer, kind: str) -> _AttemptError:
        """Tell what a status other than success means."""
        status, size = answer.status, answer.content_length
        text = ""
        if size is not None and size <= _ERROR_TEXT:
            text = bytes(await self._body(answer, size, kind)).decode("utf-8", "replace")
        if status in _REFUSED:
            return _AttemptError(f"HTTP {status}, {_refusal(text)}", status=status, error=AuthError)
        if status in _GONE:
            return _AttemptError(f"HTTP {status}, the file is not there", status=status, error=MissingError)
        if status == 416:
            return _AttemptError("HTTP 416, the range starts past the file's end", status=status)
        if 300 <= status < 400:
            return _AttemptError(f"HTTP {status}, {_redirection(answer)}", status=status)
        tries = _ALWAYS if status in _RETRIED else 1
        return _AttemptError(
            f"HTTP {status}", status=status, tries=tries, retry_after=_retry_after(answer, text)
        )

    def _host(self, url: str) -> _Host:
        try:
            parts = urlsplit(url)
            known = self._hosts.get(parts[:2])
            if known is None:
                host, _ = parts.hostname or "", parts.port  # the port must be a number
                limit = HostLimit(self._concurrency, _STOOD.get(parts[:2], START))
                known = _Host(limit, _proxy(parts.scheme, host))
                self._hosts[parts[:2]] = known
        except ValueError:
            raise InputError(f"{url.partition('?')[0].rpartition('@')[2]}: not a web address") from None
        return known


def _proxy(scheme: str, host: str) -> str | None:
    """Proxy for `host` as the environment names it (``https_proxy``, ``no_proxy``)."""
    proxies = getproxies_environment()
    if not proxies or proxy_bypass(host):
        return None
    return proxies.get(scheme)


def _check_plain(answer: Answer) -> None:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise _AttemptError(
            "the server compresses what was asked for plain", status=answer.status, tries=_TWICE
        )


def _checked_range(answer: Answer, offset: int, last: int) -> tuple[int, int | None]:
    """``(end, total)``: where the answered range ends (exclusive) and the file's size if told."""
    _check_plain(answer)
    header = answer.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match:
        first, end = int(match[1]), int(match[2]) + 1
        total = None if match[3] == "*" else int(match[3])
        longest = last + 1 if total is None else min(last + 1, total)
        if first == offset < end and (end == longest if total is not None else end <= longest):
            return end, total
    raise _AttemptError(f"the server answered another range ({header!r:.60})", status=206, tries=_TWICE)


def _version(answer: Answer) -> str:
    return answer.headers.get("etag") or answer.headers.get("last-modified", "")


def _small_total(answer: Answer, offset: int, length: int) -> int:
    """Size of a whole file that came instead of a range, if it is small enough to take."""
    _check_plain(answer)
    total = answer.content_length
    if total is None or total > max(_SMALL_FILE, 4 * length):
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


def _redirection(answer: Answer) -> str:
    region = answer.headers.get("x-amz-bucket-region")
    if region:
        return f"the bucket lies in region {region}: use that region's address"
    target = without_query(answer.headers.get("location", ""))
    return f"redirected to {target or 'nowhere'} (a login page?): give the file's own address"


def _retry_after(answer: Answer, text: str) -> float | None:
    """Seconds the server asks to wait: a number, a date, or a number in its error page."""
    header = answer.headers.get("retry-after", "").strip()
    if header.isdecimal():
        return float(header)
    if header:
        try:
            return (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):  # not a date, or one without a zone
            return None
    match = _WAIT_TEXT.search(text)
    return float(match[1]) if match else None
