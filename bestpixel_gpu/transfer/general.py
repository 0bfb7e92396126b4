"""GET by aiohttp: through proxies, of documents whose size nobody knows, of unusual addresses."""

from __future__ import annotations

import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

import aiohttp
from yarl import URL

from bestpixel_gpu.transfer.buffers import Take
from bestpixel_gpu.transfer.transport import ASKED, BrokenOffError

_READ_BUFFER: Final = 1 << 20
"""With aiohttp's own 64 KiB a tile's body stops and restarts the socket several times."""
_DNS_S: Final = 300


class GeneralAnswer:
    """One answer of aiohttp. Fulfils :class:`transport.Answer`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.content_length = response.content_length
        self.received = 0
        self._response = response

    async def body(self, most: int, take: Take | None = None) -> bytes | memoryview | None:
        """Return the body, ``None`` if it is longer than `most` bytes."""
        pieces = []
        into = None if take is None else take(most)
        with _common_errors():
            while piece := await self._response.content.readany():
                start, self.received = self.received, self.received + len(piece)
                if self.received > most:
                    return None
                if into is None:
                    pieces.append(piece)
                else:
                    into[start : self.received] = piece
        return b"".join(pieces) if into is None else into[: self.received].toreadonly()

    def release(self) -> None:
        """Give the connection back; it is closed unless the body was taken whole."""
        self._response.release()


class GeneralClient:
    """One session of aiohttp, for one event loop."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            # The limits per host are HostLimit's; the connector's own would only hide its queue.
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=_DNS_S),
            headers=ASKED,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
        )

    async def get(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        connect: float,
        read: float,
        total: float,
        proxy: str | None = None,
    ) -> GeneralAnswer:
        """Ask for `url` as it is, for aiohttp must not encode it again.

        aiohttp repeats a request once more by itself, at once and uncounted, when the connection
        breaks before the answer begins.
        """
        limits = aiohttp.ClientTimeout(total=total, connect=connect, sock_read=read)
        with _common_errors():
            return GeneralAnswer(
                await self._session.get(
                    URL(url, encoded=True),
                    headers=headers,
                    allow_redirects=False,
                    proxy=proxy,
                    timeout=limits,
                )
            )

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    def forget(self) -> object:
        """Let go of the session in a forked child; the result must be kept, so that nothing is closed."""
        connector = self._session.connector
        self._session.detach()
        return connector


@contextmanager
def _common_errors() -> Generator[None]:
    try:
        yield
    # Their texts may hold the address with its token: only the kind of error is told.
    except (TimeoutError, ssl.CertificateError):
        raise
    except (aiohttp.ClientError, OSError) as exc:
        raise BrokenOffError(type(exc).__name__) from None
