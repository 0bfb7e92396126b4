"""Tokens of the Planetary Computer: one per storage container, fetched late, renewed in time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from bestpixel_gpu.catalog.hrefs import host_in, is_local
from bestpixel_gpu.errors import BestPixelError, CatalogError

SAS_ROOT = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
PUBLIC_HOST = "ai4edatasetspublicassets.blob.core.windows.net"
KEY_VARIABLE = "PC_SDK_SUBSCRIPTION_KEY"
KEY_HEADER = "Ocp-Apim-Subscription-Key"

MARGIN_S = 300.0
"""A token is renewed when less than this, or half of a shorter life, is left."""
PAUSE_S = 10.0
"""A token fetched this recently is not renewed again; a failure is not repeated this soon."""

FetchJson = Callable[..., Awaitable[Any]]
"""``await fetch(url)`` or ``await fetch(url, headers)``: the JSON document at a web address."""

_BLOB_SUFFIX = ".blob.core.windows.net"


@dataclass(frozen=True, slots=True)
class Container:
    """A storage container of an account; `local` on an embedded archive of this machine."""

    account: str
    name: str
    local: bool = False
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A container's token (a URL query without ``?``) and its times, in seconds since 1970."""

    query: str
    fetched: float
    renew_at: float
    expires: float


_TOKENS: dict[str, Token] = {}
"""Tokens of this process by the address they came from; never written anywhere."""


def container_of(href: str) -> Container | None:
    """The container whose token `href` needs, ``None`` if it needs none.

    Needed on blob hosts, and below ``/blob/`` of an embedded archive; not for the public assets
    account, nor where the address carries a token already.
    """
    parts = urlsplit(href)
    if parts.scheme not in ("http", "https"):
        return None
    if parts.query and {"st", "se", "sp"} & parse_qs(parts.query).keys():
        return None
    host = host_in(parts.netloc)
    path = parts.path.split("/")
    if host.endswith(_BLOB_SUFFIX) and host != PUBLIC_HOST and len(path) > 2:
        return Container(host.removesuffix(_BLOB_SUFFIX), path[1])
    if len(path) > 4 and path[1] == "blob" and is_local(href):
        return Container(path[2], path[3], local=True, port=parts.port)
    return None


def needs_token(href: str) -> bool:
    """Whether `href` can only be read with a token."""
    return container_of(href) is not None


class SasSigner:
    """Signs addresses for one catalogue. Belongs to one event loop.

    Parameters
    ----------
    root : str
        STAC root of the catalogue; of an embedded archive on this machine it also says where
        tokens are: ``{root without /stac/v1}/sas/v1/token``.
    fetch_json : async callable
        ``fetch(url)`` or ``fetch(url, headers)``, which repeats what deserves it.
    clock : callable
        Seconds since 1970.
    tokens : dict, optional
        Where tokens are kept; those of the process by default.
    """

    def __init__(
        self,
        root: str,
        fetch_json: FetchJson,
        *,
        clock: Callable[[], float] = time.time,
        tokens: dict[str, Token] | None = None,
    ) -> None:
        self._root = root.rstrip("/")
        self._fetch_json = fetch_json
        self._clock = clock
        self._tokens = _TOKENS if tokens is None else tokens
        self._locks: dict[str, asyncio.Lock] = {}
        self._failed: dict[str, tuple[float, BestPixelError]] = {}

    async def sign(self, href: str) -> str:
        """`href` with a valid token; as it is where it needs none.

        Raises
        ------
        BestPixelError
            If no token could be had.
        """
        return await self._signed(href, renew=False)

    async def renew(self, href: str) -> str:
        """The unsigned `href` with a fresh token, after the one it had was refused.

        Raises
        ------
        BestPixelError
            If no token could be had.
        """
        return await self._signed(href, renew=True)

    async def _signed(self, href: str, *, renew: bool) -> str:
        url = self._token_url(href)
        if url is None:
            return href
        token = self._tokens.get(url)
        if token is None or self._is_due(token, renew):
            token = await self._refresh(url, renew)
        return f"{href}{'&' if '?' in href else '?'}{token.query}"

    def _token_url(self, href: str) -> str | None:
        container = container_of(href)
        if container is None:
            return None
        service = SAS_ROOT
        if container.local:
            here = is_local(self._root) and urlsplit(self._root).port == container.port
            if not here or not self._root.endswith("/stac/v1"):
                return None
            service = f"{self._root.removesuffix('/stac/v1')}/sas/v1/token"
        return f"{service}/{quote(container.account, safe='')}/{quote(container.name, safe='')}"

    def _is_due(self, token: Token, renew: bool) -> bool:
        now = self._clock()
        if now >= token.renew_at:
            return True
        # Many reads are refused at once when a token dies: the first refusal renews it for all.
        return renew and now - token.fetched >= min(PAUSE_S, (token.expires - token.fetched) / 2)

    async def _refresh(self, url: str, renew: bool) -> Token:
        """A token that is not due, fetched by one of those who wait for it.

        A lock and not a shared task: a waiter that is cancelled takes no fetch away from the others.
        """
        async with self._locks.setdefault(url, asyncio.Lock()):
            token = self._tokens.get(url)
            if token is not None and not self._is_due(token, renew):
                return token
            try:
                fresh = await self._fetch(url)
            except BestPixelError as exc:
                if renew or token is None or self._clock() >= token.expires:
                    self._failed[url] = self._clock() + PAUSE_S, exc
                    raise
                fresh = replace(token, renew_at=self._clock() + PAUSE_S)  # the old one serves a while yet
            self._tokens[url] = fresh
            return fresh

    async def _fetch(self, url: str) -> Token:
        until, error = self._failed.get(url, (0.0, None))
        if error is not None and self._clock() < until:
            raise error
        key = os.environ.get(KEY_VARIABLE)
        if key and url.startswith(SAS_ROOT):
            document = await self._fetch_json(url, {KEY_HEADER: key})
        else:
            document = await self._fetch_json(url)
        now = self._clock()
        try:
            query = str(document["token"]).removeprefix("?")
            expires = _seconds(str(document["msft:expiry"]))
        except (KeyError, TypeError, ValueError):
            raise CatalogError(f"{url}: the answer holds no token with an expiry") from None
        return Token(query, now, expires - min(MARGIN_S, max(expires - now, 0) / 2), expires)


def _seconds(text: str) -> float:
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
