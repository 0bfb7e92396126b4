"""The web application behind :func:`bestpixel_gpu.simulate.serve`: STAC, signing, files, counters.

======================================  =====================================================
``/pc/api/stac/v1``                     Planetary Computer: landing page, collections, search
``/pc/api/sas/v1/token/{account}/{c}``  token for a container (also ``/token/{collection}``)
``/pc/api/sas/v1/sign?href=``           one signed href
``/es/v1``                              Earth Search, both collections
``/blob/{account}/{container}/...``     files that need a token if ``require_sas``
``/s3/{bucket}/...``                    public files
``/__stats``, ``/__reset``              counters; POST sets options
======================================  =====================================================
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import math
import mmap
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from bestpixel_gpu.simulate.faults import Faults, flip_bits
from bestpixel_gpu.simulate.items import ACCOUNT, CONTAINER
from bestpixel_gpu.simulate.options import ROOTS, ServerOptions
from bestpixel_gpu.simulate.search import BadSearchError, body_of_query, page_of
from bestpixel_gpu.simulate.spec import COLLECTIONS, DIALECTS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_XML = '<?xml version="1.0" encoding="utf-8"?><Error><Code>{0}</Code><Message>{1}</Message></Error>'
_CONFORMS = ("core", "collections", "item-search", "item-search#query", "item-search#sort")


class Counters:
    """What was asked and answered since the last reset."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.status: Counter[str] = Counter()
        self.paths: dict[str, list[int]] = {}
        self.log: list[tuple[str, int, int]] = []
        self.open = self.peak = 0
        self.first = self.last = math.nan

    def add(self, kind: str, path: str, size: int, status: int | str) -> None:
        """Count one answer of `size` body bytes."""
        self.requests[kind] += 1
        self.bytes[kind] += size
        self.status[str(status)] += 1
        count = self.paths.setdefault(path, [0, 0])
        count[0] += 1
        count[1] += size

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "requests": dict(self.requests),
            "bytes": dict(self.bytes),
            "status": dict(self.status),
            "wall_s": 0.0 if math.isnan(self.last) else round(self.last - self.first, 4),
            "open_peak": self.peak,
            "paths": {k: {"requests": v[0], "bytes": v[1]} for k, v in sorted(self.paths.items())},
            "log": self.log,
        }


class Archive:
    """State and handlers of one served archive."""

    def __init__(self, folder: Path, options: ServerOptions) -> None:
        self.data = (folder / "data").resolve()
        self.items: dict[str, list[dict[str, Any]]] = {}
        for dialect in DIALECTS:
            file = folder / f"items_{dialect}.json"
            if file.exists():
                self.items[dialect] = json.loads(file.read_text())
        self.link_free = 0.0
        self.configure(options)

    def configure(self, options: ServerOptions) -> None:
        """Take these options and start counting afresh."""
        self.options = options
        self.faults = Faults.parse(options.faults, options.seed)
        self.counters = Counters()
        self.maps: dict[str, mmap.mmap] = {}  # files may have been written anew

    def application(self) -> web.Application:
        """The routes."""

        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._around(request, handler)

        app = web.Application(middlewares=[around], client_max_size=1 << 26)
        for root in dict.fromkeys(ROOTS.values()):
            app.router.add_get(root, self.landing)
            app.router.add_get(root + "/", self.landing)
            app.router.add_get(root + "/collections", self.collections)
            app.router.add_get(root + "/collections/{id}", self.collection)
            app.router.add_get(root + "/search", self.search)
            app.router.add_post(root + "/search", self.search)
        app.router.add_get("/pc/api/sas/v1/sign", self.sign)
        app.router.add_get("/pc/api/sas/v1/token/{account}/{container}", self.token)
        app.router.add_get("/pc/api/sas/v1/token/{collection}", self.token)
        app.router.add_get("/{store:blob|s3}/{path:.+}", self.file)  # HEAD too
        app.router.add_get("/__stats", self.stats)
        app.router.add_post("/__reset", self.reset)
        return app

    # ---- around every request: counters, latency, faults that need no body ----

    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/__"):
            return await handler(request)
        counters = self.counters
        now = time.monotonic()
        counters.first = now if math.isnan(counters.first) else counters.first
        counters.open += 1
        counters.peak = max(counters.peak, counters.open)
        try:
            is_file = request.path.startswith(("/blob/", "/s3/"))
            kind = self.faults.choose(request.path, request.headers.get("Range", ""), is_file=is_file)
            request["fault"] = kind
            if kind in ("reset", "stall") or (kind and kind.isdigit()):
                return await self._refuse(request, kind)
            if kind == "slow":
                await asyncio.sleep(2)
            return await handler(request)
        finally:
            counters.open -= 1
            counters.last = time.monotonic()

    async def _refuse(self, request: web.Request, kind: str) -> web.StreamResponse:
        self.counters.add("fault", request.path, 0, kind)
        if kind == "stall":
            await asyncio.sleep(86400)
        if kind in ("reset", "stall"):
            if request.transport:
                request.transport.abort()
            return web.Response()
        await self._wait(0)
        headers = {"Retry-After": "1"} if kind in ("429", "503") else {}
        return web.Response(status=int(kind), headers=headers, text=_XML.format("Fault", f"simulated {kind}"))

    async def _wait(self, size: int) -> None:
        """The time an answer of `size` bytes takes on its way."""
        wait = self.options.latency_ms / 1000
        if self.options.mbit:
            now = time.monotonic()
            self.link_free = max(now, self.link_free) + size * 8e-6 / self.options.mbit
            wait += self.link_free - now
        if wait > 0:
            await asyncio.sleep(wait)

    async def _json(
        self, request: web.Request, kind: str, value: Any, status: int = 200, type_: str = "application/json"
    ) -> web.Response:
        base = f"{request.scheme}://{request.host}"
        body = (value if isinstance(value, str) else json.dumps(value)).replace("{base}", base).encode()
        self.counters.add(kind, request.path, len(body), status)
        await self._wait(len(body))
        return web.Response(body=body, status=status, content_type=type_)

    # ---- STAC ----

    def _known(self, root: str) -> list[str]:
        return [c for d in self.items if ROOTS[d] == root for c in COLLECTIONS[d]]

    async def landing(self, request: web.Request) -> web.Response:
        """The catalogue's root document."""
        root = request.path.rstrip("/")
        search = {"rel": "search", "type": "application/geo+json", "href": "{base}" + root + "/search"}
        links = [
            {"rel": "self", "type": "application/json", "href": "{base}" + root},
            {"rel": "root", "type": "application/json", "href": "{base}" + root},
            {"rel": "data", "type": "application/json", "href": "{base}" + root + "/collections"},
            {**search, "method": "GET"},
            {**search, "method": "POST"},
        ]
        conforms = [f"https://api.stacspec.org/v1.0.0/{c}" for c in _CONFORMS]
        catalog = {
            "type": "Catalog",
            "id": "embedded",
            "stac_version": "1.0.0",
            "description": "Embedded archive",
        }
        return await self._json(request, "stac", catalog | {"conformsTo": conforms, "links": links})

    async def collections(self, request: web.Request) -> web.Response:
        """All collections."""
        root = request.path.removesuffix("/collections")
        return await self._json(
            request, "stac", {"collections": [_collection(c, root) for c in self._known(root)], "links": []}
        )

    async def collection(self, request: web.Request) -> web.Response:
        """One collection."""
        ident = request.match_info["id"]
        root = request.path.rsplit("/collections/", 1)[0]
        if ident not in self._known(root):
            return await self._json(request, "stac", {"code": "NotFound", "description": "Not Found"}, 404)
        return await self._json(request, "stac", _collection(ident, root))

    async def search(self, request: web.Request) -> web.Response:
        """Item search, POST or GET."""
        root = request.path.removesuffix("/search")
        pc = root == ROOTS["pc"]
        body = await request.json() if request.method == "POST" else body_of_query(dict(request.query))
        items = [i for d, own in self.items.items() if ROOTS[d] == root for i in own]
        url = f"{request.scheme}://{request.host}{request.path}"
        try:
            page = page_of(items, body, pc=pc, url=url, method=request.method, most=self.options.page)
        except BadSearchError as exc:
            refusal = {"code": "RequestValidationError" if pc else "BadRequest", "description": str(exc)}
            return await self._json(request, "search", refusal, 400)
        page["features"] = [_with_self(item, root) for item in page["features"]]
        return await self._json(request, "search", page, type_="application/geo+json")

    # ---- signing ----

    def _token(self, account: str, container: str) -> tuple[str, str]:
        """``(expiry, token)`` for a container."""
        now = datetime.now(UTC)
        end = datetime.fromtimestamp(math.ceil(now.timestamp() + self.options.sas_ttl), UTC)
        stamp = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        query = {
            "st": (now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "se": stamp,
            "sp": "rl",
            "sv": "2024-05-04",
            "sr": "c",
            "sig": self._signature(account, container, stamp),
        }
        return stamp, urlencode(query)

    def _signature(self, account: str, container: str, end: str) -> str:
        message = f"{account}\n{container}\n{end}".encode()
        return base64.b64encode(hmac.digest(self.options.sas_key.encode(), message, "sha256")).decode()

    async def token(self, request: web.Request) -> web.Response:
        """Token of a container, or of the container that a collection names."""
        found = request.match_info
        stamp, token = self._token(found.get("account", ACCOUNT), found.get("container", CONTAINER))
        return await self._json(request, "sign", {"msft:expiry": stamp, "token": token})

    async def sign(self, request: web.Request) -> web.Response:
        """One href with its token."""
        href = request.query.get("href", "")
        parts = urlsplit(href).path.strip("/").split("/")
        if len(parts) < 4 or parts[0] != "blob":
            return await self._json(request, "sign", {"detail": "href is no blob of this archive"}, 400)
        stamp, token = self._token(parts[1], parts[2])
        return await self._json(
            request, "sign", {"msft:expiry": stamp, "href": f"{href.split('?')[0]}?{token}"}
        )

    def _refused(self, request: web.Request) -> web.Response | None:
        """Azure's answer to a missing or bad token; ``None`` where reading is allowed."""
        if not self.options.require_sas or request.match_info["store"] != "blob":
            return None
        if "sig" not in request.query:
            text = _XML.format(
                "PublicAccessNotPermitted", "Public access is not permitted on this storage account."
            )
            return web.Response(status=409, text=text, content_type="application/xml")
        account, container = request.match_info["path"].split("/")[:2]
        end = request.query.get("se", "")
        good = hmac.compare_digest(request.query["sig"], self._signature(account, container, end))
        if good and datetime.fromisoformat(end) > datetime.now(UTC):
            return None
        text = _XML.format("AuthenticationFailed", "Signature not valid in the specified time frame")
        return web.Response(status=403, text=text, content_type="application/xml")

    # ---- files ----

    def _map(self, path: str) -> mmap.mmap | None:
        if path not in self.maps:
            file = (self.data / path).resolve()
            if not file.is_file() or self.data not in file.parents:
                return None
            with file.open("rb") as f:
                self.maps[path] = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        return self.maps[path]

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A file or one range of it."""
        path, fault = request.path.lstrip("/"), request["fault"]
        if fault == "replaced":
            path += ".new"
        refused, content = self._refused(request), self._map(path)
        if refused is None and content is None:
            text = _XML.format("BlobNotFound", "The specified blob does not exist.")
            refused = web.Response(status=404, text=text, content_type="application/xml")
        if refused is not None or content is None:
            assert refused is not None
            self.counters.add("data", path, 0, refused.status)
            await self._wait(0)
            return refused
        total = len(content) // 2 if fault == "truncated" else len(content)
        span = _range(request.headers.get("Range"), total) if fault != "whole" else None
        if span is not None and span[0] >= min(total, span[1]):
            self.counters.add("data", path, 0, 416)
            return web.Response(status=416, headers={"Content-Range": f"bytes */{total}"})
        low, high = span or (0, total)
        status = 200 if span is None else 206
        tag = f'"{len(content):x}{"-new" * (fault == "replaced")}"'
        headers = {"Accept-Ranges": "bytes", "ETag": tag, "Content-Type": "image/tiff"}
        if status == 206:
            headers["Content-Range"] = f"bytes {low}-{high - 1}/{total}"
        if request.method == "HEAD":
            self.counters.add("data", path, 0, status)
            return web.Response(status=status, headers=headers | {"Content-Length": str(high - low)})
        if self.options.log:
            self.counters.log.append((path, low, high - 1))
        body = flip_bits(content[low:high]) if fault == "corrupt" else content[low:high]
        self.counters.add("data", path, len(body), status)
        await self._wait(len(body))
        if fault == "short":
            return await _send_half(request, status, headers, body)
        return web.Response(status=status, headers=headers, body=body)

    # ---- control ----

    async def stats(self, request: web.Request) -> web.Response:
        """The counters."""
        return web.json_response(self.counters.as_dict())

    async def reset(self, request: web.Request) -> web.Response:
        """Zero the counters; a JSON body sets options, all others go back to their defaults."""
        text = await request.text()
        self.configure(replace(ServerOptions(), **json.loads(text)) if text else self.options)
        return web.json_response({})


def _with_self(item: dict[str, Any], root: str) -> dict[str, Any]:
    own = f"{{base}}{root}/collections/{item.get('collection')}/items/{item.get('id')}"
    return {**item, "links": [{"rel": "self", "type": "application/geo+json", "href": own}]}


def _collection(ident: str, root: str) -> dict[str, Any]:
    own = {"rel": "self", "type": "application/json", "href": f"{{base}}{root}/collections/{ident}"}
    known: dict[str, Any] = {
        "type": "Collection",
        "id": ident,
        "stac_version": "1.0.0",
        "description": "Simulated Sentinel-2 Level-2A",
        "license": "proprietary",
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2015-06-27T10:25:31Z", None]]},
        },
        "links": [own],
    }
    if root == ROOTS["pc"]:
        known |= {"msft:storage_account": ACCOUNT, "msft:container": CONTAINER}
    return known


def _range(text: str | None, total: int) -> tuple[int, int] | None:
    """``(first, end)`` of a single byte range, ``None`` if there is none to obey."""
    if not text or not text.startswith("bytes=") or "," in text:
        return None
    first, _, last = text[6:].partition("-")
    if not first:
        return max(0, total - int(last)), total
    return int(first), min(total, int(last) + 1) if last else total


async def _send_half(
    request: web.Request, status: int, headers: dict[str, str], body: bytes
) -> web.StreamResponse:
    """Promise the whole body, send half of it, drop the connection."""
    answer = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(body))})
    await answer.prepare(request)
    await answer.write(body[: len(body) // 2])
    if request.transport:
        request.transport.close()  # not abort: what is written shall arrive
    return answer
