"""The loopback server: ranges, searches and pages of both dialects, tokens, every fault."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime

import pytest

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.simulate import serve
from bestpixel_gpu.simulate.faults import KINDS, Faults
from bestpixel_gpu.simulate.search import matches

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url, body=None, headers=None, method=None, timeout=5.0):
    """``(status, headers, body)`` of one request, refusals included."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with OPENER.open(
            urllib.request.Request(url, data, headers or {}, method=method), timeout=timeout
        ) as r:
            return r.status, r.headers, r.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.headers, exc.read()


def search(server, endpoint, **body):
    status, _, text = ask(server.stac_url(endpoint) + "/search", body)
    return status, json.loads(text)


def asset(server, endpoint="pc", key="B04"):
    return server.items(endpoint)[0]["assets"][key]["href"]


def on_disk(server, href):
    return (server.folder / "data" / urllib.parse.urlsplit(href).path.lstrip("/")).read_bytes()


# ---- ranges ----


@pytest.mark.parametrize(
    ("span", "cut"),
    [("bytes=0-99", slice(0, 100)), ("bytes=100-", slice(100, None)), ("bytes=-50", slice(-50, None)),
     ("bytes=10-99999999", slice(10, None)), ("bytes=7-7", slice(7, 8))],
)  # fmt: skip
def test_a_range_holds_these_bytes_and_says_so(server, span, cut):
    whole = on_disk(server, asset(server))
    status, headers, body = ask(asset(server), headers={"Range": span})
    assert (status, body) == (206, whole[cut])
    first = cut.indices(len(whole))[0]
    assert headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(whole)}"


def test_whole_files_head_and_ranges_past_the_end(server):
    whole = on_disk(server, asset(server))
    assert ask(asset(server))[::2] == (200, whole)
    status, headers, body = ask(asset(server), method="HEAD")
    assert (status, int(headers["Content-Length"]), body) == (200, len(whole), b"")
    status, headers, _ = ask(asset(server), headers={"Range": f"bytes={len(whole)}-"})
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    assert ask(asset(server) + "x")[0] == 404
    assert ask(server.url + "/blob/a/../../../archive.json")[0] == 404


def test_counters(server):
    server.reset(log=True)
    ask(asset(server), headers={"Range": "bytes=0-99"})
    ask(asset(server), headers={"Range": "bytes=100-149"})
    search(server, "pc", limit=1)
    found = server.stats()
    assert found["requests"] == {"data": 2, "search": 1}
    assert found["bytes"]["data"] == 150
    assert found["status"] == {"206": 2, "200": 1}
    path = urllib.parse.urlsplit(asset(server)).path.lstrip("/")
    assert found["paths"][path] == {"requests": 2, "bytes": 150}
    assert found["log"] == [[path, 0, 99], [path, 100, 149]]
    server.reset()
    assert server.stats()["requests"] == {}


# ---- search ----


def test_search_finds_what_the_box_dates_and_query_say(server):
    every = server.items("pc")
    box = server.bbox_of("31TGJ")
    _, page = search(server, "pc", collections=["sentinel-2-l2a"], bbox=box, limit=100)
    assert {i["id"] for i in page["features"]} >= {i["id"] for i in every if "_T31TGJ_" in i["id"]}
    assert not any("_T33" in i["id"] for i in page["features"])
    _, page = search(server, "pc", collections=["other"])
    assert page["features"] == []
    _, page = search(server, "pc", query={"eo:cloud_cover": {"lt": 20}}, limit=100)
    assert 0 < len(page["features"]) < len(every)
    assert all(i["properties"]["eo:cloud_cover"] < 20 for i in page["features"])
    _, page = search(server, "pc", ids=[every[3]["id"]])
    assert [i["id"] for i in page["features"]] == [every[3]["id"]]
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, south]]
    _, page2 = search(server, "pc", intersects={"type": "Polygon", "coordinates": [ring]}, limit=100)
    assert {i["properties"]["s2:mgrs_tile"] for i in page2["features"]} >= {"31TGJ"}


def test_order_is_newest_first_unless_told(server):
    _, page = search(server, "pc", limit=100)
    times = [i["properties"]["datetime"] for i in page["features"]]
    assert times == sorted(times, reverse=True)
    _, page = search(
        server, "earth-search", limit=100, sortby=[{"field": "properties.eo:cloud_cover", "direction": "asc"}]
    )
    cover = [i["properties"]["eo:cloud_cover"] for i in page["features"]]
    assert cover == sorted(cover)


def test_a_bare_end_date_loses_that_day_on_pc_and_is_refused_by_es(server):
    _, bare = search(server, "pc", datetime="2024-07-01/2024-07-27", limit=100)
    _, full = search(server, "pc", datetime="2024-07-01T00:00:00Z/2024-07-27T23:59:59Z", limit=100)
    assert len(bare["features"]) < len(full["features"]) == len(server.items("pc"))
    assert search(server, "earth-search", datetime="2024-07-01/2024-07-27")[0] == 400
    _, open_end = search(server, "pc", datetime="2024-07-20T00:00:00Z/..", limit=100)
    assert len(open_end["features"]) == 6


def test_pc_pages_carry_the_whole_body_and_a_token(server):
    body = {"collections": ["sentinel-2-l2a"], "limit": 5, "query": {"eo:cloud_cover": {"lt": 90}}, "odd": 1}
    seen, pages = [], 0
    url = server.stac_url("pc") + "/search"
    while True:
        page = json.loads(ask(url, body)[2])
        seen += [i["id"] for i in page["features"]]
        pages += 1
        assert "numberMatched" not in page
        assert any(k["rel"] == "previous" for k in page["links"]) == (pages > 1)
        link = next((k for k in page["links"] if k["rel"] == "next"), None)
        if link is None:
            break
        assert link["body"] == {**body, "token": f"next:sentinel-2-l2a:{seen[-1]}"}
        body = link["body"]
    assert sorted(seen) == sorted({i["id"] for i in server.items("pc")})
    assert pages == -(-len(seen) // 5)
    back = next(k for k in page["links"] if k["rel"] == "previous")
    before = json.loads(ask(url, back["body"])[2])
    assert [i["id"] for i in before["features"]] == seen[5 * (pages - 2) : 5 * (pages - 1)]


def test_es_pages_lose_unknown_keys_and_link_on_from_a_full_last_page(server):
    total = len(server.items("earth-search"))
    body = {"collections": ["sentinel-2-l2a"], "limit": total, "filter": {"op": "="}}
    _, page = search(server, "earth-search", **body)
    assert page["numberMatched"] == page["numberReturned"] == page["context"]["returned"] == total
    link = next(k for k in page["links"] if k["rel"] == "next")
    assert link["merge"] is False
    last = page["features"][-1]
    token = f"{last['properties']['datetime']},{last['id']},sentinel-2-l2a"
    assert link["body"] == {"collections": ["sentinel-2-l2a"], "limit": total, "next": token}
    _, after = search(server, "earth-search", **link["body"])
    assert after["features"] == after["links"] == []
    _, first = search(server, "earth-search")
    assert len(first["features"]) == 10  # the default


def test_get_pages_lead_through_everything(server):
    for endpoint in ("pc", "earth-search"):
        box = ",".join(map(str, server.bbox))
        url = f"{server.stac_url(endpoint)}/search?collections=sentinel-2-l2a&limit=7&bbox={box}"
        url += "&sortby=-datetime"
        seen = []
        while url:
            page = json.loads(ask(url)[2])
            seen += [i["id"] for i in page["features"]]
            url = next((k["href"] for k in page["links"] if k["rel"] == "next"), None)
        home = {i["id"] for i in server.items(endpoint) if "33KVP" not in i["id"]}
        assert len(seen) == len(set(seen))
        assert set(seen) == home


@pytest.mark.parametrize(
    ("endpoint", "limit"), [("pc", 0), ("pc", 1001), ("pc", "ten"), ("earth-search", -1)]
)
def test_limits_that_the_real_ones_refuse(server, endpoint, limit):
    status, refusal = search(server, endpoint, limit=limit)
    assert status == 400
    assert refusal["description"]


def test_the_server_can_force_small_pages_and_leave_fields_out(server):
    server.reset(page=2)
    assert len(search(server, "pc", limit=500)[1]["features"]) == 2
    _, page = search(server, "earth-search", fields={"exclude": ["geometry", "links"]})
    assert "geometry" not in page["features"][0]


def test_pystac_client_walks_the_catalogues(server):
    import pystac_client

    for endpoint in ("pc", "earth-search"):
        client = pystac_client.Client.open(server.stac_url(endpoint))
        found = client.search(
            collections=["sentinel-2-l2a"],
            bbox=server.bbox,
            datetime="2024-07-01T00:00:00Z/2024-07-31T00:00:00Z",
            limit=4,
        )
        ids = [i["id"] for i in found.items_as_dicts()]
        assert len(ids) == len(set(ids)) == sum("33KVP" not in i["id"] for i in server.items(endpoint))
        assert client.get_collection("sentinel-2-l2a").id == "sentinel-2-l2a"


def test_query_tests_of_the_extension():
    one = {"id": "a", "collection": "c", "bbox": [0, 0, 1, 1], "properties": {"n": 5, "s": "abc"}}
    cases = {"eq": (5, 6), "neq": (6, 5), "lt": (6, 5), "lte": (5, 4), "gt": (4, 5), "gte": (5, 6)}
    for test, (yes, no) in (cases | {"in": ([5], [6])}).items():
        assert matches([one], {"query": {"n": {test: yes}}}, pc=True) == [one]
        assert matches([one], {"query": {"n": {test: no}}}, pc=True) == []
    assert matches([one], {"query": {"s": {"startsWith": "ab"}}}, pc=True) == [one]
    assert matches([one], {"query": {"absent": {"lt": 1}}}, pc=True) == []


# ---- signing ----


def token_of(server, container="sentinel2l2a01/sentinel2-l2"):
    return json.loads(ask(f"{server.url}/pc/api/sas/v1/token/{container}")[2])


def test_tokens_open_their_container_only(server):
    server.reset(require_sas=True)
    href = asset(server)
    status, _, text = ask(href)
    assert (status, b"PublicAccessNotPermitted" in text) == (409, True)
    assert ask(f"{href}?{token_of(server)['token']}")[0] == 200
    status, _, text = ask(f"{href}?{token_of(server, 'other/container')['token']}")
    assert (status, b"AuthenticationFailed" in text) == (403, True)
    broken = token_of(server)["token"].replace("%", "%25")  # quoted twice
    assert ask(f"{href}?{broken}")[0] == 403 or "%" not in token_of(server)["token"]
    assert ask(asset(server, "earth-search", "red"))[0] == 200  # public


def test_signing_one_href_and_by_collection(server):
    server.reset(require_sas=True)
    href = asset(server)
    url = f"{server.url}/pc/api/sas/v1/sign?href={urllib.parse.quote(href, safe='')}"
    signed = json.loads(ask(url)[2])
    assert signed["href"].startswith(href + "?")
    assert ask(signed["href"])[0] == 200
    assert ask(f"{href}?{token_of(server, 'sentinel-2-l2a')['token']}")[0] == 200
    assert ask(f"{server.url}/pc/api/sas/v1/sign?href=http://elsewhere/x")[0] == 400


def test_tokens_expire(server):
    server.reset(require_sas=True, sas_ttl=0.05)
    found = token_of(server)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["msft:expiry"])
    end = datetime.fromisoformat(found["msft:expiry"])
    assert ask(f"{asset(server)}?{found['token']}")[0] in (200, 403)
    time.sleep(max(0, (end - datetime.now(UTC)).total_seconds()) + 0.02)
    assert ask(f"{asset(server)}?{found['token']}")[0] == 403


def test_a_new_key_voids_all_tokens(server):
    server.reset(require_sas=True)
    old = token_of(server)["token"]
    server.reset(require_sas=True, sas_key="2")
    assert ask(f"{asset(server)}?{old}")[0] == 403
    assert ask(f"{asset(server)}?{token_of(server)['token']}")[0] == 200


# ---- faults ----


@pytest.mark.parametrize("status", ["404", "429", "500", "503"])
def test_statuses_on_demand_and_only_where_asked(server, status):
    server.reset(faults={"_B04_": status})
    code, headers, _ = ask(asset(server), headers={"Range": "bytes=0-9"})
    assert code == int(status)
    assert ("Retry-After" in headers) == (status in ("429", "503"))
    assert ask(asset(server, key="B03"))[0] == 200
    assert ask(asset(server), headers={"Range": "bytes=0-9"})[0] == int(status)  # for good


def test_a_fault_can_pass_after_some_tries(server):
    server.reset(faults={"_B04_": "503*2"})
    codes = [ask(asset(server), headers={"Range": "bytes=0-9"})[0] for _ in range(3)]
    assert codes == [503, 503, 206]


def test_faults_reach_search_and_signing(server):
    server.reset(faults={"/search": "500*1", "/sas/": "429"})
    assert ask(server.stac_url("pc") + "/search", {})[0] == 500
    assert search(server, "pc")[0] == 200
    assert ask(f"{server.url}/pc/api/sas/v1/token/a/b")[0] == 429


def test_reset_and_short_bodies_break_the_connection(server):
    server.reset(faults={"_B04_": "reset", "_B03_": "short"})
    with pytest.raises((ConnectionError, http.client.HTTPException, urllib.error.URLError)):
        ask(asset(server))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(asset(server, key="B03"), headers={"Range": "bytes=0-999"})
    assert caught.value.partial == on_disk(server, asset(server, key="B03"))[:500]


def test_whole_corrupt_and_truncated_files(server):
    href = asset(server)
    content = on_disk(server, href)
    server.reset(faults={"_B04_": "whole"})
    assert ask(href, headers={"Range": "bytes=0-99"})[::2] == (200, content)
    server.reset(faults={"_B04_": "corrupt"})
    status, _, body = ask(href, headers={"Range": "bytes=100-4099"})
    assert (status, len(body)) == (206, 4000)
    wrong = [i for i in range(4000) if body[i] != content[100 + i]]
    assert wrong == [0, 997, 1994, 2000, 2991, 3988]
    server.reset(faults={"_B04_": "truncated"})
    half = len(content) // 2
    assert ask(href)[2] == content[:half]
    assert ask(href, headers={"Range": f"bytes={half}-{half + 9}"})[0] == 416
    assert ask(href, headers={"Range": f"bytes={half - 4}-{half + 9}"})[::2] == (
        206,
        content[half - 4 : half],
    )


def test_stall_and_slow(server):
    server.reset(faults={"_B04_": "stall", "_B03_": "slow"})
    with pytest.raises(TimeoutError):
        ask(asset(server), timeout=0.3)
    start = time.monotonic()
    assert ask(asset(server, key="B03"))[0] == 200
    assert time.monotonic() - start > 1.9


def test_shares_fail_once_and_repeat_by_seed(server):
    server.reset(faults="503:0.3")
    spans = [{"Range": f"bytes={k}-{k + 9}"} for k in range(100)]
    first = [ask(asset(server), headers=s)[0] for s in spans]
    assert 15 < first.count(503) < 45
    assert {ask(asset(server), headers=s)[0] for s in spans} == {206}
    server.reset(faults="503:0.3")
    assert [ask(asset(server), headers=s)[0] for s in spans] == first


@pytest.mark.parametrize("rule", ["nonsense", "200", {"x": "often"}])
def test_unknown_faults_and_options_are_refused(archive, rule):
    with pytest.raises(InputError), serve(archive, faults=rule):
        pass
    with pytest.raises(InputError), serve(archive, speed=3):
        pass


def test_every_kind_is_understood():
    for kind in (*KINDS, "404", "503"):
        faults = Faults.parse({"a": kind})
        assert faults.choose("/b/a.tif") == kind
        assert faults.choose("/b/c.tif") is None


# ---- latency, rate, life ----


def test_latency_and_rate_slow_the_answers(server):
    def seconds() -> float:
        start = time.monotonic()
        ask(asset(server), headers={"Range": "bytes=0-19999"})
        return time.monotonic() - start

    server.reset(latency_ms=150)
    assert 0.15 <= seconds() < 0.6
    server.reset(mbit=1.0)
    assert 0.16 <= seconds() < 0.6  # 160 000 bits


def test_nothing_is_left_when_the_context_ends(archive):
    before = {t.ident for t in threading.enumerate()}
    failures = []

    def read(href):
        try:
            ask(href)
        except OSError as exc:
            failures.append(exc)

    with serve(archive, faults={"_B04_": "stall"}) as local:
        href = asset(local)
        worker = threading.Thread(target=read, args=(href,), daemon=True)
        worker.start()
        time.sleep(0.1)
        start = time.monotonic()
    assert time.monotonic() - start < 2
    worker.join(2)
    assert {t.ident for t in threading.enumerate()} <= before
    assert failures
    with pytest.raises(urllib.error.URLError):
        ask(href)


def test_a_child_process_serves_the_same(archive):
    with serve(archive, process=True, page=3) as local:
        assert len(search(local, "pc", limit=50)[1]["features"]) == 3
        assert ask(asset(local))[2] == on_disk(local, asset(local))
        local.reset(page=4)
        assert len(search(local, "pc", limit=50)[1]["features"]) == 4
        assert local.stats()["requests"] == {"search": 1}


def test_a_folder_without_an_archive_is_refused(tmp_path):
    with pytest.raises(InputError, match="no complete archive"), serve(tmp_path):
        pass


def test_command_line_builds(tmp_path, capsys):
    from bestpixel_gpu.simulate.__main__ import main

    options = ["--dates", "1", "--size", "60", "--bands", "red", "--dialect", "pc"]
    options += ["--level", "1", "--full-swath"]
    assert main(["build", str(tmp_path / "a"), *options]) == 0
    notes = json.loads((tmp_path / "a" / "archive.json").read_text())
    assert [t["name"] for t in notes["tile_list"]] == ["31TCJ"]
    assert main(["build", str(tmp_path / "a"), *options, "--seed", "9"]) == 2
    assert "another archive" in capsys.readouterr().err
