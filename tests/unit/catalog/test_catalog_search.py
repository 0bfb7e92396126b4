"""Search: paging of both dialects, patience, limits, errors, dates."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bestpixel_gpu.catalog import search as module
from bestpixel_gpu.catalog.search import SearchQuery, parse_interval, search
from bestpixel_gpu.errors import CatalogError, InputError
from bestpixel_gpu.simulate.search import page_of

Answer = tuple[int, Any, dict[str, str]]
Answerer = Callable[[str, str, Any], Answer]
BOX = (7.0, 44.0, 8.0, 45.0)


@contextmanager
def catalogue(answer: Answerer) -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """A server on this machine; `answer(method, path, body) -> status, document, headers`."""
    asked: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            asked.append((self.command, self.path, body))
            status, document, headers = answer(self.command, self.path, body)
            data = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # the client may have gone
                self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)


def query(root: str, **kwargs: Any) -> SearchQuery:
    return SearchQuery(root=root, collections=("naip",), boxes=(BOX,), **({"limit": 10} | kwargs))


def feature(ident: str, collection: str = "naip") -> dict[str, Any]:
    return {"type": "Feature", "id": ident, "collection": collection, "properties": {}, "assets": {}}


def page(features: list[Any], *links: dict[str, Any]) -> Answer:
    return 200, {"type": "FeatureCollection", "features": features, "links": list(links)}, {}


# ---- recorded pages ----


@pytest.mark.parametrize("dialect", ["pc", "es"])
def test_recorded_pages_replay_without_loss(shared: Path, dialect: str) -> None:
    folder = shared / "data" / "stac"
    pages = [json.loads((folder / f"search-{dialect}-page{n}.json").read_text())["response"] for n in (1, 2)]
    pages.append({"type": "FeatureCollection", "features": [], "links": pages[1]["links"]})
    token = "token" if dialect == "pc" else "next"

    class Recorded:
        def __init__(self) -> None:
            self.asked: list[tuple[str, str | None, Any]] = []

        def request(self, href: str, method: Any = None, headers: Any = None, parameters: Any = None) -> str:
            self.asked.append((href, method, parameters))
            return json.dumps(pages[len(self.asked) - 1])

    io = Recorded()
    root = {
        "pc": "https://planetarycomputer.microsoft.com/api/stac/v1",
        "es": "https://earth-search.aws.element84.com/v1",
    }[dialect]
    day = datetime(2025, 7, 31, tzinfo=UTC)
    items = search(query(root, start=day, end=day.replace(month=8, day=1), max_cloud_cover=40), io=io)

    recorded = [(f["collection"], f["id"]) for p in pages for f in p["features"]]
    assert [(i["collection"], i["id"]) for i in items] == recorded
    assert len(set(recorded)) == len(recorded) > 5
    whole = {
        "collections": ["naip"],
        "bbox": list(BOX),
        "limit": 10,
        "datetime": "2025-07-31T00:00:00Z/2025-08-01T00:00:00Z",
        "query": {"eo:cloud_cover": {"lt": 40}},
    }
    tokens = [next(k for k in p["links"] if k["rel"] == "next")["body"][token] for p in pages[:2]]
    assert io.asked == [
        (f"{root}/search", "POST", whole),
        (f"{root}/search", "POST", whole | {token: tokens[0]}),
        (f"{root}/search", "POST", whole | {token: tokens[1]}),
    ]


@settings(max_examples=30)
@given(n=st.integers(0, 37), limit=st.integers(1, 20), most=st.integers(1, 20), pc=st.booleans())
def test_every_item_once_in_both_dialects(n: int, limit: int, most: int, pc: bool) -> None:
    """Against the embedded catalogue's paging, with a server that makes smaller pages than asked."""
    when = "2024-07-01T10:00:00Z"
    items = [
        feature(f"i{k}") | {"bbox": list(BOX), "properties": {"datetime": when, "eo:cloud_cover": k}}
        for k in range(n)
    ]

    class Embedded:
        def request(self, href: str, method: Any = None, headers: Any = None, parameters: Any = None) -> str:
            return json.dumps(page_of(items, parameters, pc=pc, url=href, method="POST", most=most))

    day = datetime(2024, 7, 1, tzinfo=UTC)
    found = search(
        query("https://x/v1", limit=limit, start=day, end=day.replace(day=2), max_cloud_cover=30),
        io=Embedded(),
    )
    assert sorted(i["id"] for i in found) == sorted(f"i{k}" for k in range(min(n, 30)))


# ---- links ----


def test_get_links_are_followed_as_they_are() -> None:
    def answer(method: str, path: str, body: Any) -> Answer:
        if method == "POST":
            return page([feature("a")], {"rel": "next", "href": "/v1/search?page=2&x=%2B"})
        return page([feature("b")])

    with catalogue(answer) as (root, asked):
        assert [i["id"] for i in search(query(root))] == ["a", "b"]
    assert asked[1] == ("GET", "/v1/search?page=2&x=%2B", None)


@pytest.mark.parametrize("link", [{"body": {"next": "same"}}, {"body": {}}, {}])
def test_fix_05_a_link_that_repeats_ends_the_search(link: dict[str, Any]) -> None:
    following = {"rel": "next", "method": "POST", "href": "/v1/search"} | link
    with catalogue(lambda *_: page([feature("a")], following)) as (root, asked):
        assert [i["id"] for i in search(query(root))] == ["a"]
    assert len(asked) <= 2


def test_two_boxes_are_united_by_collection_and_id() -> None:
    answers = iter(
        [page([feature("a"), feature("b")]), page([feature("b"), feature("b", "other"), feature("c")])]
    )
    with catalogue(lambda *_: next(answers)) as (root, asked):
        wanted = SearchQuery(
            root=root, collections=("naip",), boxes=((179.0, 0, 180.0, 1), (-180.0, 0, -179.0, 1))
        )
        found = search(wanted)
    assert [(i["collection"], i["id"]) for i in found] == [
        ("naip", "a"), ("naip", "b"), ("other", "b"), ("naip", "c"),
    ]  # fmt: skip
    assert [body["bbox"] for _, _, body in asked] == [[179.0, 0, 180.0, 1], [-180.0, 0, -179.0, 1]]


@pytest.mark.parametrize("href", ["http://127.0.0.1:1/x", "file:///etc/passwd", "http://localhost/y"])
def test_a_next_link_into_this_machine_is_refused(href: str) -> None:
    class Io:
        def request(self, *_: Any, **__: Any) -> str:
            return json.dumps(page([feature("a")], {"rel": "next", "href": href})[1])

    with pytest.raises(CatalogError, match="not followed"):
        search(query("https://example.org/v1"), io=Io())


def test_no_cloud_filter_at_100_percent_and_no_dates_where_open() -> None:
    assert query("r", max_cloud_cover=100).body(BOX).keys() == {"collections", "bbox", "limit"}
    assert query("r", end=datetime(2024, 1, 1, tzinfo=UTC)).body(BOX)["datetime"] == "../2024-01-01T00:00:00Z"


# ---- patience ----


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_with_the_same_body(status: int) -> None:
    answers = iter([(status, {}, {"Retry-After": "3600"}), (status, {}, {}), page([feature("a")])])
    begin = time.monotonic()
    with catalogue(lambda *_: next(answers)) as (root, asked):
        assert len(search(query(root))) == 1
    assert time.monotonic() - begin < 3  # an hour's Retry-After did not hold us
    assert len(asked) == 3
    assert all(a == asked[0] for a in asked)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(("status", "tries"), [(500, 2), (502, 2), (504, 2), (413, 1)])
def test_a_page_too_large_is_halved_and_repeated(status: int, tries: int) -> None:
    """The second page fails above 12 items: the first is kept, the second asked for with less."""

    def answer(method: str, path: str, body: Any) -> Answer:
        if "next" not in body:
            return page([feature("a")], {"rel": "next", "method": "POST", "body": {"next": "n1"}})
        if body["next"] == "n1":
            if body["limit"] > 12:
                return status, {"message": "Internal server error"}, {}
            return page([feature("b")], {"rel": "next", "method": "POST", "body": {"next": "n2"}})
        return page([feature("c")])

    with catalogue(answer) as (root, asked):
        assert [i["id"] for i in search(query(root, limit=50))] == ["a", "b", "c"]
    limits = [(body["limit"], body.get("next")) for _, _, body in asked]
    assert limits == [(50, None), *[(50, "n1")] * tries, *[(25, "n1")] * tries, (12, "n1"), (12, "n2")]


@pytest.mark.usefixtures("fast")
def test_a_server_that_cannot_even_make_ten_is_an_error() -> None:
    with (
        catalogue(lambda *_: (502, b"<html>bad gateway</html>", {})) as (root, asked),
        pytest.raises(CatalogError, match=r"127\.0\.0\.1.*502.*shorter dates"),
    ):
        search(query(root, limit=35))
    assert [body["limit"] for _, _, body in asked] == [35, 35, 17, 17, 10, 10]


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("status", "document", "says"),
    [
        (400, {"code": "BadRequest", "description": "bad bbox, see http://x/y?sig=secret"}, "400.*bad bbox"),
        (404, {"code": "NotFound", "description": "Not Found"}, r"404 \(Not Found\).*stac_url"),
        (403, b"no", "403.*credentials"),
        (429, {}, "429.*later"),
        (200, b"<html>hello</html>", "not JSON"),
        (200, [], "no FeatureCollection"),
        (200, {"type": "Catalog"}, "no FeatureCollection"),
        (302, b"", "redirects"),
    ],
)  # fmt: skip
def test_errors_name_the_endpoint_the_answer_and_what_to_try(status: int, document: Any, says: str) -> None:
    headers = {"Location": "/v2/search"} if status == 302 else {}
    with catalogue(lambda *_: (status, document, headers)) as (root, _):
        with pytest.raises(CatalogError, match=says) as caught:
            search(query(root))
        assert root in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_into_a_search_for_everything(status: int) -> None:
    def answer(method: str, path: str, body: Any) -> Answer:
        return page([feature("a")]) if path == "/v2/search" else (status, b"", {"Location": "/v2/search"})

    with catalogue(answer) as (root, asked):
        with pytest.raises(CatalogError, match="redirects"):
            search(query(root))
        assert [path for _, path, _ in asked] == ["/v1/search"]


@pytest.mark.usefixtures("fast")
def test_no_server_and_a_silent_one() -> None:
    with pytest.raises(CatalogError, match="no connection"):
        search(query("http://127.0.0.1:9/v1"), timeout=1)
    hold = threading.Event()

    def silent(*_: Any) -> Answer:
        hold.wait(5)
        return page([])

    with catalogue(silent) as (root, _):
        with pytest.raises(CatalogError, match="too long"):
            search(query(root), timeout=0.2)
        hold.set()


# ---- dates ----

DAY = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024-06-01/2024-08-31", DAY, DAY.replace(month=9)),
        ("2024-06-01", DAY, DAY.replace(day=2)),
        ("2024-12-31", DAY.replace(month=12, day=31), datetime(2025, 1, 1, tzinfo=UTC)),
        ("2024-02", DAY.replace(month=2), DAY.replace(month=3)),
        ("2023-12/2024", datetime(2023, 12, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)),
        ("2024-06-01T10:00:00Z/2024-06-01T10:30:00Z", DAY.replace(hour=10),
         DAY.replace(hour=10, minute=30, second=1)),
        ("2024-06-01T10:30Z", DAY.replace(hour=10, minute=30), DAY.replace(hour=10, minute=31)),
        ("2024-06-01T23:59:59Z", DAY.replace(hour=23, minute=59, second=59), DAY.replace(day=2)),
        ("2024-06-01T02:00:00+02:00/..", DAY, None),
        ("2024-06-01t00:00:00.25z/", DAY.replace(microsecond=250000), None),
        ("2024-06-01 00:00:00/2024-06-01", DAY, DAY.replace(day=2)),
        ("../2024-06-01T00:00:00.5Z", None, DAY.replace(microsecond=500001)),
        ("/2024-05-31", None, DAY),
        ("..", None, None),
    ],
)  # fmt: skip
def test_intervals(text: str, start: datetime | None, end: datetime | None) -> None:
    assert parse_interval(text) == (start, end)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "2024-08-31/2024-06-01", "2024-06-01T12:00:00Z/2024-06-01T11:00:00Z", "yesterday",
        "2024-13-01", "2024-02-30", "2024-6-1", "2024-06-01/2024-06-02/2024-06-03", "2024-06-01T25:00:00Z",
        "20240601", "2024-W10", "01/06/2024", "9999-12-31",
    ],
)  # fmt: skip
def test_what_is_no_interval_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_interval(text)
    assert repr(text) in str(caught.value)
