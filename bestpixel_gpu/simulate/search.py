"""STAC item search as the two real catalogues answer it, on a list of items. No network here."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

Item = dict[str, Any]
Body = dict[str, Any]

_ES_KNOWN = ("collections", "bbox", "intersects", "datetime", "limit", "query", "fields", "sortby", "ids")
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "startsWith": lambda a, b: str(a).startswith(b),
}


class BadSearchError(Exception):
    """The search is refused; the text is the description that the server sends with status 400."""


def body_of_query(query: dict[str, str]) -> Body:
    """The body that says the same as a GET's query."""
    cut: dict[str, Any] = {
        "bbox": lambda s: [float(v) for v in s.split(",")],
        "collections": lambda s: s.split(","),
        "ids": lambda s: s.split(","),
        "query": json.loads,
        "intersects": json.loads,
        "sortby": lambda s: [
            {"field": v.lstrip("+-"), "direction": "desc" if v[0] == "-" else "asc"} for v in s.split(",")
        ],
        "limit": int,
    }
    return {k: cut.get(k, str)(v) for k, v in query.items()}


def page_of(
    items: list[Item], body: Body, *, pc: bool, url: str, method: str, most: int | None
) -> dict[str, Any]:
    """One page of results with its links.

    Parameters
    ----------
    pc
        Page like the Planetary Computer (the whole body and a token), else like Earth Search (a body
        that lost what it does not know, and a next link even on the last full page).
    most
        Largest page of this server.

    Raises
    ------
    BadSearchError
        If the real catalogue would refuse it.
    """
    limit = _limit(body, pc)
    limit = min(limit, most or limit)
    hits = _sorted(matches(items, body, pc=pc), body)
    token = str(body.get("token" if pc else "next", ""))
    start, backwards = _start(hits, token, pc), token.startswith("prev:")
    if backwards:
        start = max(0, start - limit)
    found = hits[start : start + limit]

    links: list[dict[str, Any]] = []
    if found and (not pc or start + limit < len(hits)):
        links.append(_link("next", _token(found[-1], "next", pc), body, pc, url, method))
    if pc and found and start:
        links.append(_link("previous", _token(found[0], "prev", pc), body, pc, url, method))
    page: dict[str, Any] = {"type": "FeatureCollection", "features": _cut(found, body, pc), "links": links}
    if not pc:
        page |= {
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "numberMatched": len(hits),
            "numberReturned": len(found),
            "context": {"limit": limit, "matched": len(hits), "returned": len(found)},
        }
    return page


def _limit(body: Body, pc: bool) -> int:
    limit = body.get("limit", 250 if pc else 10)
    if not isinstance(limit, int) or limit < 1:
        raise BadSearchError("Input should be a whole number greater than 0")
    if pc and limit > 1000:
        raise BadSearchError("Input should be less than or equal to 1000")
    return limit


def matches(items: list[Item], body: Body, *, pc: bool) -> list[Item]:
    """Items that a search finds, in the order given."""
    hits = items
    if body.get("collections"):
        hits = [i for i in hits if i["collection"] in body["collections"]]
    if body.get("ids"):
        hits = [i for i in hits if i["id"] in body["ids"]]
    box = body.get("bbox") or _bounds(body.get("intersects"))
    if box:
        hits = [i for i in hits if _touch(i["bbox"], box)]
    if body.get("datetime"):
        low, _, high = str(body["datetime"]).partition("/")
        first, last = _instant(low, pc), _instant(high or low, pc)
        hits = [
            i
            for i in hits
            if (not first or first <= _time(i, "end")) and (not last or _time(i, "start") <= last)
        ]
    for name, tests in (body.get("query") or {}).items():
        for test, value in tests.items():
            hits = [i for i in hits if name in i["properties"] and _TESTS[test](i["properties"][name], value)]
    return hits


def _touch(a: list[float], b: list[float]) -> bool:
    """Whether two boxes have a point in common; the second may have heights."""
    half = len(b) // 2
    return a[0] <= b[half] and a[2] >= b[0] and a[1] <= b[half + 1] and a[3] >= b[1]


def _time(item: Item, end: str) -> datetime:
    """Start or end of an item's time; they are one where it tells one moment only."""
    properties = item["properties"]
    return datetime.fromisoformat(properties.get(f"{end}_datetime") or properties["datetime"])


def _instant(text: str, pc: bool) -> datetime | None:
    """A moment; a bare date is midnight on the Planetary Computer, at either end, and refused elsewhere."""
    if not text or text == "..":
        return None
    if len(text) == 10:
        if not pc:
            raise BadSearchError("datetime parameter is not valid RFC 3339")
        text += "T00:00:00Z"
    try:
        when = datetime.fromisoformat(text)
    except ValueError as exc:
        raise BadSearchError("datetime parameter is not valid RFC 3339") from exc
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _bounds(shape: dict[str, Any] | None) -> list[float] | None:
    """Box around a GeoJSON geometry."""
    if not shape:
        return None
    flat: list[tuple[float, float]] = []

    def walk(part: Any) -> None:
        if isinstance(part[0], (int, float)):
            flat.append((part[0], part[1]))
        else:
            for p in part:
                walk(p)

    walk(shape["coordinates"])
    x, y = zip(*flat, strict=True)
    return [min(x), min(y), max(x), max(y)]


def _sorted(hits: list[Item], body: Body) -> list[Item]:
    """Newest first, as both catalogues do unless told otherwise."""
    hits = sorted(hits, key=lambda i: i["id"])
    wanted = body.get("sortby") or [{"field": "datetime", "direction": "desc"}]
    for key in reversed(wanted):
        name = key["field"].removeprefix("properties.")

        def value(item: Item, name: str = name) -> Any:
            return item["id"] if name == "id" else item["properties"].get(name, 0)

        hits.sort(key=value, reverse=key.get("direction", "asc") == "desc")
    return hits


def _token(item: Item, way: str, pc: bool) -> str:
    if pc:
        return f"{way}:{item['collection']}:{item['id']}"
    return f"{item['properties']['datetime']},{item['id']},{item['collection']}"


def _start(hits: list[Item], token: str, pc: bool) -> int:
    if not token:
        return 0
    ident = token.split(":", 2)[-1] if pc else token.rsplit(",", 2)[1]
    at = next((k for k, i in enumerate(hits) if i["id"] == ident), None)
    if at is None:
        raise BadSearchError("the page token does not fit the search")
    return at if token.startswith("prev:") else at + 1


def _link(rel: str, token: str, body: Body, pc: bool, url: str, method: str) -> dict[str, Any]:
    link: dict[str, Any] = {"rel": rel, "type": "application/geo+json", "method": method, "href": url}
    kept = body if pc else {k: v for k, v in body.items() if k in _ES_KNOWN}
    following = kept | {"token" if pc else "next": token}
    if method == "GET":
        flat = {k: _in_query(k, v) for k, v in following.items()}
        link["href"] = f"{url}?{urlencode(flat)}"
        return link
    link["body"] = following
    if not pc:
        link |= {"merge": False, "title": "Next page of Items"}
    return link


def _in_query(name: str, value: Any) -> str:
    if name == "sortby":
        return ",".join(("-" if v.get("direction") == "desc" else "+") + v["field"] for v in value)
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _cut(found: list[Item], body: Body, pc: bool) -> list[Item]:
    """Items without what `fields` excludes (top-level members; Earth Search)."""
    left_out = () if pc else (body.get("fields") or {}).get("exclude") or ()
    return [{k: v for k, v in i.items() if k not in left_out} for i in found]
