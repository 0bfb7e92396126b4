"""One door to every file: remote or local, signed or not, with limits, caches and figures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from bestpixel_gpu.errors import AuthError, BestPixelError, InputError, SourceError
from bestpixel_gpu.transfer.addresses import Location, locate
from bestpixel_gpu.transfer.buffers import BUFFERS, Take
from bestpixel_gpu.transfer.cache import HEADERS, Header, HeaderCache, cache_key
from bestpixel_gpu.transfer.disk_cache import DiskCache
from bestpixel_gpu.transfer.files import FileTransport
from bestpixel_gpu.transfer.http import HttpTransport, Retry, Timeouts
from bestpixel_gpu.transfer.limits import CONCURRENCY, IN_FLIGHT_BYTES, BytesGate
from bestpixel_gpu.transfer.ranges import GROUP_BYTES, Group, Span, merge
from bestpixel_gpu.transfer.transport import Counters, RangeAnswer, Transport

HEADER_BYTES = 16384
"""Holds every header of the known archives."""


class ChangedError(SourceError):
    """The file was replaced since its header was read: read the header again, then the tiles."""


class Signer(Protocol):
    """Puts tokens on addresses."""

    async def sign(self, href: str) -> str:
        """Return `href` with a valid token."""
        ...

    async def renew(self, href: str) -> str:
        """Return `href` with a fresh token; the one it had was refused."""
        ...


@dataclass(frozen=True, slots=True)
class _Lines:
    """What belongs to one event loop of one process."""

    pid: int
    loop: asyncio.AbstractEventLoop
    http: HttpTransport
    files: Transport
    gate: BytesGate


@dataclass(slots=True, eq=False)
class Stamp:
    """The file that a header was read of, and what was found out about it since.

    A read that takes it gets bytes of that file, and of no other that stands in its place now.
    """

    total: int | None
    version: str
    size: int
    """Bytes of the header, with `digest` to know them by: caches may hold a later one meanwhile."""
    digest: int
    confirmed: bool = False
    """The header was read again and is the same."""
    changed: bool = False
    """It is not."""
    check: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while that is found out."""

    @classmethod
    def of(cls, header: Header) -> Self:
        """Return what a header tells of its file."""
        return cls(header.total, header.version, len(header.data), hash(header.data))

    def fits(self, header: Header) -> bool:
        """Tell whether a header is that of the same file, whatever the server's tag."""
        found = header.total, len(header.data), hash(header.data)
        return not self.changed and found == (self.total, self.size, self.digest)

    def agrees(self, answer: RangeAnswer) -> bool:
        """Tell whether an answer is of that file, by its size and tag."""
        same_size = None in (self.total, answer.total) or self.total == answer.total
        same_version = "" in (self.version, answer.version) or self.version == answer.version
        return same_size and (same_version or self.confirmed) and not self.changed


class Reader:
    """Reads headers and byte ranges of files, wherever they are.

    Belongs to the event loop that first uses it. A forked child may go on using it: there it
    starts with connections of its own.

    Parameters
    ----------
    concurrency : int
        Most requests at once to one host.
    in_flight_bytes : int
        Most bytes under way at once; a single larger request passes alone.
    timeouts : Timeouts
        Limits of one request.
    retry : Retry
        How often a request is tried.
    signer : Signer, optional
        Asked for the address of files that are read with ``signed=True``, right before each
        request; an address with a token is kept nowhere. May be set later, as an attribute.
    header_cache : HeaderCache
        Where headers are kept in memory; the process's own by default.
    disk_cache : DiskCache or path, optional
        Where headers are kept on disk, then the attribute `disk`; :meth:`close` holds it within its cap.
    counters : Counters, optional
        Counts what goes over the wire.
    take : callable
        Gives the memory that tiles are received into.
    """

    def __init__(
        self,
        *,
        concurrency: int = CONCURRENCY,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        signer: Signer | None = None,
        header_cache: HeaderCache = HEADERS,
        disk_cache: DiskCache | str | os.PathLike[str] | None = None,
        counters: Counters | None = None,
        take: Take = BUFFERS.take,
    ) -> None:
        self.counters = counters if counters is not None else Counters()
        self.signer = signer
        self._concurrency = concurrency
        self._in_flight_bytes = in_flight_bytes
        self._timeouts = timeouts
        self._retry = retry
        self._memory, self._take = header_cache, take
        self.disk = (
            disk_cache if disk_cache is None or isinstance(disk_cache, DiskCache) else DiskCache(disk_cache)
        )
        self._stamps: dict[str, Stamp] = {}
        self._lines: _Lines | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, keep: bool = False) -> None:
        """Give back sockets and threads; using the reader again opens new ones.

        With `keep`, sockets of the process's own loop stand for a few seconds more.
        """
        lines, self._lines = self._lines, None
        if lines is not None and lines.pid == os.getpid():
            await lines.http.close(keep=keep)
            await lines.files.close()
        if self.disk is not None:
            await asyncio.to_thread(self.disk.trim)

    async def header(
        self, href: str, *, signed: bool = False, size: int = HEADER_BYTES
    ) -> tuple[bytes, int | None]:
        """Return the first bytes of a file and the size of the whole.

        Parameters
        ----------
        href : str
            Web address, ``file://`` URL, path, or ``s3://`` address of a known public bucket.
        signed : bool
            The address needs a token of the signer.
        size : int
            Bytes wanted; fewer come only from a shorter file.

        Returns
        -------
        tuple
            The bytes, perhaps more than `size`, and the file's size, ``None`` if it is not told.

        Raises
        ------
        SourceError
            If they could not be read; :class:`AuthError`, :class:`MissingError` and
            :class:`StalledError` say more.
        InputError
            If no way of reading `href` is known.
        """
        place = self._locate(href, signed)
        key = cache_key(place)
        header = None if place.local else await self._kept(key, size)
        if header is None:
            header = await self._ask(place, size, signed)
            if not place.local:
                await self._keep(key, header)
        known = self._stamps.get(key)
        if known is None or not (known.fits(header) and known.version == header.version):
            self._stamps[key] = Stamp.of(header)
        return header.data, header.total

    def stamp(self, href: str) -> Stamp | None:
        """Return the file of which :meth:`header` gave the header last, ``None`` if it gave none."""
        return self._stamps.get(cache_key(locate(href)))

    async def forget(self, href: str) -> None:
        """Drop a file's header from the caches: the next :meth:`header` asks for it."""
        await self._drop(cache_key(locate(href)))

    async def read(
        self, href: str, offset: int, length: int, *, signed: bool = False, stamp: Stamp | None = None
    ) -> bytes | memoryview:
        """Return `length` bytes of a file from `offset` on.

        `stamp` tells by which header the range was found; the last one that was read if it is left out.

        Raises
        ------
        ChangedError
            If the file is no longer the one whose header was read.
        SourceError, InputError
            As for :meth:`header`; also if the file ends before the range does.
        """
        _check_span((offset, length))
        place = self._locate(href, signed)
        answer = await self._tiles(place, offset, length, signed, stamp)
        return _cut(place, answer, offset, offset, length)

    async def read_many(
        self, href: str, spans: Sequence[Span], *, signed: bool = False, stamp: Stamp | None = None
    ) -> list[bytes | memoryview | SourceError]:
        """Return the bytes of each span, or the error that kept them away.

        Neighbouring spans are read by one request and share its buffer, which lives as long as
        any of their views does.

        Parameters
        ----------
        spans : sequence of (offset, length)
            In any order; they may overlap.
        signed, stamp
            As for :meth:`header` and :meth:`read`.

        Raises
        ------
        InputError
            If no way of reading `href` is known, or a span is empty.
        """
        for span in spans:
            _check_span(span)
        place = self._locate(href, signed)
        results: list[bytes | memoryview | SourceError] = [b""] * len(spans)
        groups = merge(spans, cap=min(GROUP_BYTES, self._in_flight_bytes))
        if len(groups) == 1:  # the usual case, worth sparing a task
            await self._fill(results, place, groups[0], spans, signed, stamp)
            return results
        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(self._fill(results, place, group, spans, signed, stamp))
        return results

    async def get_json(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Return the JSON document at a web address, asked for as patiently as any range."""
        return await self._open_lines().http.get_json(url, headers)

    async def _fill(
        self,
        results: list[bytes | memoryview | SourceError],
        place: Location,
        group: Group,
        spans: Sequence[Span],
        signed: bool,
        stamp: Stamp | None,
    ) -> None:
        try:
            answer = await self._tiles(place, group.offset, group.length, signed, stamp)
        except SourceError as exc:
            for index in group.members:
                results[index] = exc
            return
        for index in group.members:
            try:
                results[index] = _cut(place, answer, group.offset, *spans[index])
            except SourceError as exc:
                results[index] = exc

    def _locate(self, href: str, signed: bool) -> Location:
        place = locate(href)
        if signed and self.signer is None and not place.local:
            raise InputError(f"{place.key}: needs a token, but this reader has no signer")
        return place

    async def _range(self, place: Location, offset: int, length: int, signed: bool, kind: str) -> RangeAnswer:
        lines, take = self._open_lines(), BUFFERS.take if kind == "header" else self._take
        transport: Transport = lines.files if place.local else lines.http
        await lines.gate.acquire(length)
        try:
            if self.signer is None or not signed or place.local:
                return await transport.read_range(place.target, offset, length, take, kind=kind)
            url = await _signed(self.signer.sign, place)
            renew = partial(_signed, self.signer.renew, place)
            return await transport.read_range(url, offset, length, take, kind=kind, renew=renew)
        finally:
            lines.gate.release(length)

    def _open_lines(self) -> _Lines:
        loop, pid, lines = asyncio.get_running_loop(), os.getpid(), self._lines
        if lines is None or lines.pid != pid:
            http = HttpTransport(
                concurrency=self._concurrency,
                timeouts=self._timeouts,
                retry=self._retry,
                counters=self.counters,
            )
            gate = BytesGate(self._in_flight_bytes)
            lines = self._lines = _Lines(pid, loop, http, FileTransport(self.counters), gate)
        elif lines.loop is not loop:
            raise RuntimeError("this Reader belongs to another event loop: close it there, or make another")
        return lines

    async def _ask(self, place: Location, size: int, signed: bool) -> Header:
        answer = await self._range(place, 0, size, signed, "header")
        return Header(bytes(answer.data), answer.total, answer.version)

    async def _kept(self, key: str, size: int) -> Header | None:
        """Return a header from memory or disk, if there is one of `size` bytes."""
        header, disk = self._memory.get(key), self.disk
        if disk is not None and header is not None:  # perhaps read before there was this folder
            await asyncio.to_thread(disk.add_header, key, header)
        elif disk is not None:
            header = await asyncio.to_thread(disk.get_header, key)
            if header is not None:
                self._memory.put(key, header)
        return header if header is not None and header.serves(size) else None

    async def _keep(self, key: str, header: Header) -> None:
        self._memory.put(key, header)
        if self.disk is not None:
            await asyncio.to_thread(self.disk.put_header, key, header)

    async def _drop(self, key: str) -> None:
        self._memory.drop(key)
        if self.disk is not None:
            await asyncio.to_thread(self.disk.drop_header, key)

    async def _tiles(
        self, place: Location, offset: int, length: int, signed: bool, stamp: Stamp | None
    ) -> RangeAnswer:
        """Bytes of the file whose header was read, and of no other that stands in its place now."""
        if stamp is None:  # looked up before the request: meanwhile another may read a later header
            stamp = self._stamps.get(cache_key(place))
        if stamp is not None and stamp.changed:
            raise _changed(place)
        try:
            answer = await self._range(place, offset, length, signed, "tile")
        except SourceError as exc:
            if exc.status == 416 and stamp is not None:  # a header of a longer file sends us there
                await self._confirm(place, stamp, signed)
            raise
        if stamp is not None and not stamp.agrees(answer):
            await self._confirm(place, stamp, signed, answer)
        return answer

    async def _confirm(
        self, place: Location, stamp: Stamp, signed: bool, answer: RangeAnswer | None = None
    ) -> None:
        """Raise ChangedError unless the header that was read is still that of the file.

        A size tells for certain. A tag does not: some servers give a file another one on every
        machine. So the header is read once more; where it is the same, every tile is where it was,
        and this file's tags are looked at no more.
        """
        async with stamp.check:
            if stamp.confirmed if answer is None else stamp.agrees(answer):
                return  # settled while this one waited
            if not stamp.changed:
                await self._check(place, stamp, signed, answer)
        if stamp.changed:
            raise _changed(place)

    async def _check(self, place: Location, stamp: Stamp, signed: bool, answer: RangeAnswer | None) -> None:
        """Find out whether the file is still the one of the header; the caches then hold no other header."""
        key = cache_key(place)
        if answer is not None and answer.total not in (None, stamp.total):
            stamp.changed = True
            await self._drop(key)
            return
        header = await self._ask(place, stamp.size, signed)
        stamp.confirmed = stamp.fits(header)
        stamp.changed = not stamp.confirmed
        if not place.local:
            await self._keep(key, header)


def _changed(place: Location) -> ChangedError:
    return ChangedError(
        f"{place.key}: the file changed since its header was read: read it again", url=place.key
    )


async def _signed(sign: Callable[[str], Awaitable[str]], place: Location) -> str:
    try:
        return await sign(place.target)
    except SourceError:
        raise
    except BestPixelError as exc:
        raise AuthError(f"{place.key}: no token to be had: {exc}", url=place.key) from exc


def _check_span(span: Span) -> None:
    offset, length = span
    if offset < 0 or length <= 0:
        raise InputError(f"bytes {offset} + {length}: not a range; a tile without bytes needs no request")


def _cut(place: Location, answer: RangeAnswer, start: int, offset: int, length: int) -> bytes | memoryview:
    """Return one span of an answer that begins at byte `start` of the file."""
    at = offset - start
    if at + length > len(answer.data):
        end = start + len(answer.data)
        raise SourceError(
            f"{place.key}: the file ends at byte {end}, inside the range {offset}-{offset + length - 1}",
            url=place.key,
        )
    if length == len(answer.data):
        return answer.data
    return memoryview(answer.data)[at : at + length]
