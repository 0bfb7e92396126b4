"""STAC item search: every page of it, or an error that says what to try.

The two dialects page differently. The Planetary Computer's next link repeats the whole body and adds
``token``; Earth Search's holds what it understood of the body and adds ``next``, and is there even
after the last item. So each page is asked for with *our* body and what the link adds to it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from bestpixel_gpu.catalog.durations import is_duration, parse_duration
from bestpixel_gpu.catalog.hrefs import is_local
from bestpixel_gpu.errors import CatalogError, InputError, without_query

Box = tuple[float, float, float, float]
Interval = tuple[datetime | None, datetime | None]
Page = dict[str, Any]

LEAST_LIMIT = 10
TOO_LARGE = (413, 500, 502, 504)
"""Answers to a page that was too much for the server."""
BUSY = (408, 425, 429, 503)
TRIES = 5
"""Tries of a request that was refused as too many, timed out or lost its connection."""
PAUSE_S = 1.0
LONGEST_PAUSE_S = 20.0
CONNECT_S = 10.0
MAX_PAGES = 10_000
"""A search beyond this does not end."""
LIFETIME_S = 86_400.0
"""How long the answer to a search is believed."""
GROWING_LIFETIME_S = 3_600.0
"""The same where scenes may still come: archives take days, some weeks, to publish one."""
SETTLED = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What is searched, where and when."""

    root: str
    """Root of the STAC API."""
    collections: tuple[str, ...]
    boxes: tuple[Box, ...]
    """(west, south, east, north) in degrees, west <= east; two on both sides of 180 degrees."""
    start: datetime | None = None
    end: datetime | None = None
    """Half-open: ``start <= t < end``. The server also sends what lies on `end` itself."""
    max_cloud_cover: float | None = None
    """Percent; only items below it. ``None`` or 100 and more: no filter."""
    limit: int = 100
    """Items per page, halved where the server cannot."""

    @property
    def key(self) -> str:
        """Names the search in caches: all that is sent but the size of pages; no token."""
        sent = [self.body(box) | {"limit": None} for box in self.boxes]
        return json.dumps([without_query(self.root.rstrip("/")), sent])

    def lifetime(self, now: datetime | None = None) -> float:
        """Seconds for which an answer is believed."""
        settled = self.end is not None and self.end + SETTLED < (now or datetime.now(UTC))
        return LIFETIME_S if settled else GROWING_LIFETIME_S

    def body(self, box: Box) -> Page:
        """Body of the POST request for one of the boxes."""
        body: Page = {"collections": list(self.collections), "bbox": list(box), "limit": self.limit}
        if self.start is not None or self.end is not None:
            body["datetime"] = f"{_rfc3339(self.start)}/{_rfc3339(self.end)}"
        if self.max_cloud_cover is not None and self.max_cloud_cover < 100:
            body["query"] = {"eo:cloud_cover": {"lt": self.max_cloud_cover}}
        return body


class ApiIO(Protocol):
    """The part of pystac-client's ``StacApiIO`` that a search needs."""

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Text of the answer; an exception with ``status_code`` where it is not 2xx."""
        ...


def search(
    query: SearchQuery,
    *,
    timeout: float = 60.0,
    headers: Mapping[str, str] | None = None,
    io: ApiIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[dict[str, Any]]:
    """Raw items of a search, each once, in the order of the server. Blocks: for a worker thread.

    Parameters
    ----------
    query
        What is searched.
    timeout : float
        Seconds to wait for one answer.
    headers
        Sent with every request.
    io, sleep
        Transport and pause, for other ones than the network and the clock.

    Raises
    ------
    CatalogError
        If the catalogue could not be searched to the end; names it, its answer, and what to try.
    """
    own = None if io is not None else _network(timeout, headers)
    try:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for box in query.boxes:
            for page in _Pager(query, box, io or own, sleep).pages():
                for item in page["features"]:
                    found.setdefault((str(item.get("collection")), str(item.get("id"))), item)
        return list(found.values())
    finally:
        if own is not None:
            own.session.close()


def _network(timeout: float, headers: Mapping[str, str] | None) -> Any:
    """pystac-client's transport, patient with a busy server but never for longer than told."""
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    class Patience(Retry):
        def get_retry_after(self, response: Any) -> float | None:
            asked = super().get_retry_after(response)
            return None if asked is None else min(asked, LONGEST_PAUSE_S)

    patience = Patience(
        total=TRIES - 1,
        read=1,
        status_forcelist=BUSY,
        allowed_methods={"GET", "POST"},  # a search changes nothing, so it may be repeated
        backoff_factor=PAUSE_S / 2,
        raise_on_status=False,
    )
    io = StacApiIO(
        headers=dict(headers or {}), timeout=(min(CONNECT_S, timeout), timeout), max_retries=patience
    )
    io.session.max_redirects = 0  # a redirected POST would go on as a GET for everything there is
    return io


class _Pager:
    """The pages of one box."""

    def __init__(self, query: SearchQuery, box: Box, io: Any, sleep: Callable[[float], None]) -> None:
        self._root = query.root.rstrip("/")
        self._url = f"{self._root}/search"
        self._body = query.body(box)
        self._io = io
        self._sleep = sleep

    def pages(self) -> Iterator[Page]:
        """Pages that hold items, until one is empty, the last, or asked for a second time."""
        url, extra, asked = self._url, dict[str, Any](), set[str]()
        get = False
        for _ in range(MAX_PAGES):
            page = self._get(url) if get else self._post(url, extra)
            if not page["features"]:
                return
            yield page
            link = next((k for k in page.get("links") or () if k.get("rel") == "next"), None)
            if link is None:
                return
            url = self._followed(str(link.get("href") or self._url))
            get = str(link.get("method") or "GET").upper() != "POST"
            extra = {k: v for k, v in (link.get("body") or {}).items() if k not in self._body}
            key = json.dumps([url, extra], sort_keys=True)
            if key in asked or (not get and not extra and url == self._url):
                return
            asked.add(key)
        raise CatalogError(f"{self._root}: the search does not end ({MAX_PAGES} pages): make it smaller")

    def _followed(self, href: str) -> str:
        url = urljoin(self._url, href)
        if urlsplit(url).scheme not in ("http", "https") or (is_local(url) and not is_local(self._root)):
            raise CatalogError(
                f"{self._root}: its next page leads to {without_query(url)}, which is not followed"
            )
        return url

    def _get(self, url: str) -> Page:
        return self._page(url, "GET", None)

    def _post(self, url: str, extra: Page) -> Page:
        """A page by POST; asked for twice, then with half the limit, while the server cannot."""
        tries = 0
        while True:
            tries += 1
            try:
                return self._page(url, "POST", self._body | extra)
            except _TooLargeError as exc:
                limit = self._body["limit"]
                last_chance = exc.status == 413 or tries >= 2
                if last_chance and limit <= LEAST_LIMIT:
                    raise CatalogError(
                        f"{exc}: try shorter dates or a smaller box, or try again later"
                    ) from exc
                if last_chance:
                    tries, self._body["limit"] = 0, max(LEAST_LIMIT, limit // 2)
            self._sleep(PAUSE_S)

    def _page(self, url: str, method: str, body: Page | None) -> Page:
        from pystac_client.exceptions import APIError

        try:
            page = json.loads(self._io.request(url, method=method, parameters=body))
        except APIError as exc:
            status = getattr(exc, "status_code", None)
            if status is None:
                raise CatalogError(
                    f"{self._root}: no answer to the search ({_cause(exc)}): check network and address"
                ) from exc
            text = f"{self._root}: the search was answered with {status}{_said(str(exc))}"
            if status in TOO_LARGE:
                raise _TooLargeError(text, status) from exc
            raise CatalogError(f"{text}: {_advice(status)}") from exc
        except ValueError as exc:
            raise CatalogError(
                f"{self._root}: the answer to the search is not JSON: is it a STAC API?"
            ) from exc
        if not isinstance(page, dict) or not isinstance(page.get("features"), list):
            raise CatalogError(
                f"{self._root}: the answer to the search is no FeatureCollection: is it a STAC API?"
            )
        return page


class _TooLargeError(CatalogError):
    """The server could not make this page; a smaller one may do."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _cause(error: BaseException) -> str:
    """What kept an answer away, in words without addresses."""
    names: list[str] = []
    seen: BaseException | None = error.__context__
    while seen is not None and len(names) < 4:
        names.append(type(seen).__name__)
        seen = seen.__context__
    text = " ".join(names)
    if "TooManyRedirects" in text:
        return "it redirects; give the address that it leads to"
    if "Timeout" in text:
        return "it took too long"
    if "SSL" in text:
        return "its certificate is not accepted"
    if "NameResolution" in text:
        return "its host is not known"
    return "no connection" if "Connect" in text else (names[0] if names else "unknown")


def _said(text: str) -> str:
    """The server's own explanation, short, on one line, without query strings."""
    try:
        answer = json.loads(text)
        words = next(str(answer[k]) for k in ("description", "message", "detail") if answer.get(k))
    except (ValueError, AttributeError, StopIteration):
        return ""
    words = re.sub(r"\?\S+", "", " ".join(words.split()))
    return f" ({words[:160]})"


def _advice(status: int) -> str:
    if status in BUSY:
        return "the server is busy; try again later, or another endpoint"
    if status in (401, 403):
        return "it wants credentials that were not given"
    if status == 404:
        return "no search is there; check stac_url (root of a STAC API)"
    return "check the dates, the box and stac_url"


# ---- dates ----

_PARTS = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"([Tt ](?P<hour>\d\d):(?P<minute>\d\d)(:(?P<second>\d\d)(?P<fraction>\.\d+)?)?"
    r"(?P<zone>[Zz]|[+-]\d\d:?\d\d)?)?)?)?"
)
_DEFAULTS = {"month": "01", "day": "01", "hour": "00", "minute": "00", "second": "00", "zone": "Z"}
_FORM = (
    "write 'YYYY-MM-DD/YYYY-MM-DD', one day, RFC 3339 times, '..' for an open end, "
    "or a duration like 'P30D' for one of the ends"
)


def parse_interval(text: str) -> Interval:
    """Half-open interval ``start <= t < end`` of a STAC date text, in UTC; ``None`` is an open end.

    ``A/B``, one date or time, ``..`` or nothing for an open end. An end covers the unit that it is
    written in: the whole day, month, year, minute or second. Times without a zone are UTC. A
    duration stands for the end that lies so far from the other: ``P30D/2024-07-15`` are the thirty
    days that end with that day, ``2024-07-15/P1M`` the month that begins with it.

    Raises
    ------
    InputError
        If the text is no such interval, or ends before it starts.
    """
    parts = text.strip().split("/")
    if len(parts) > 2 or not text.strip():
        raise InputError(f"datetime {text!r} is no date or interval: {_FORM}")
    a, b = parts[0].strip(), parts[-1].strip()
    start, end = _open_or(_span, a, text), _open_or(_span, b, text)
    first, last = start[0] if start else None, end[1] if end else None
    if is_duration(a) or is_duration(b):
        first, last = _reached(a, b, first, last, text)
    if first is not None and last is not None and first >= last:
        raise InputError(f"datetime {text!r} ends before it starts: swap its ends")
    return first, last


def _open_or(
    read: Callable[[str, str], tuple[datetime, datetime]], part: str, text: str
) -> tuple[datetime, datetime] | None:
    return None if part in ("", "..") or is_duration(part) else read(part, text)


def _reached(
    a: str, b: str, first: datetime | None, last: datetime | None, text: str
) -> tuple[datetime, datetime]:
    """Both ends, where one is told by its distance from the other."""
    try:
        if first is not None and is_duration(b):
            return first, parse_duration(b).after(first)
        if last is not None and is_duration(a):
            return parse_duration(a).after(last, -1), last
    except (ValueError, OverflowError) as exc:
        raise InputError(f"datetime {text!r}: {exc}") from None
    raise InputError(f"datetime {text!r}: a duration needs a date beside it; {_FORM}")


def _span(part: str, text: str) -> tuple[datetime, datetime]:
    """First moment of what is written, and the first moment after it."""
    match = _PARTS.fullmatch(part)
    if match is None:
        raise InputError(f"datetime {text!r}: cannot read {part!r}; {_FORM}")
    full = match.groupdict(default="") | {k: match[k] or v for k, v in _DEFAULTS.items()}
    written = "{year}-{month}-{day}T{hour}:{minute}:{second}{fraction}{zone}".format_map(full)
    try:
        start = datetime.fromisoformat(written.upper()).astimezone(UTC)
        return start, _after(start, match)
    except (ValueError, OverflowError) as exc:
        raise InputError(f"datetime {text!r}: {part!r} is not in the calendar ({exc})") from None


def _after(start: datetime, match: re.Match[str]) -> datetime:
    if match["fraction"]:
        return start + timedelta(microseconds=1)
    for unit, step in (("second", "seconds"), ("minute", "minutes"), ("day", "days")):
        if match[unit]:
            return start + timedelta(**{step: 1})
    if match["month"]:
        return (start + timedelta(days=31)).replace(day=1)
    return start.replace(year=start.year + 1)


def within(item: Mapping[str, Any], start: datetime, end: datetime) -> bool:
    """Tell whether a catalogue would send an item for these dates; one that tells no time is sent."""
    properties = item.get("properties") or {}
    own = properties.get("datetime")
    texts = (own, own) if own else (properties.get("start_datetime"), properties.get("end_datetime"))
    try:
        first, last = (_span(str(t), str(t))[0] for t in texts)
    except InputError:
        return True
    return first < end and last >= start


def _rfc3339(when: datetime | None) -> str:
    """A moment as both catalogues read it: UTC, ``Z``, no fraction unless there is one."""
    if when is None:
        return ".."
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
