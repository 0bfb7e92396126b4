"""Whole runs with a cache on disk: what the second one asks for, and what happens to a bad folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from whole_run import (
    HOME,
    arguments,
    assert_same,
    counted,
    forget_headers,
    item_of,
    of_tile,
    path_of,
    run,
    winners,
)

from bestpixel_gpu.catalog import search, signing
from bestpixel_gpu.errors import BestPixelWarning, CatalogError
from bestpixel_gpu.transfer.addresses import locate
from bestpixel_gpu.transfer.cache import cache_key
from bestpixel_gpu.transfer.disk_cache import DiskCache

ROOT = Path(__file__).parents[3]
DAY = 86400.0


@pytest.fixture(autouse=True)
def _cold_and_hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_headers()
    monkeypatch.setattr(search, "PAUSE_S", 0.02)
    yield
    forget_headers()


def warm(server: Any, folder: Path, **options: Any) -> Any:
    """The run that fills the folder; then the process knows no more than a new one."""
    first = run(server, disk_cache=folder, **options)
    forget_headers()
    return first


def age(folder: Path, kind: str, seconds: float) -> None:
    found = list((folder / kind).iterdir())
    assert found
    for path in found:
        os.utime(path, (0, time.time() - seconds))


def tiles_and_headers(stats: dict[str, Any]) -> tuple[int, int]:
    headers = sum(first == 0 for _, first, _ in stats["log"])
    return len(stats["log"]) - headers, headers


# ---- the second run ----


def test_the_second_run_makes_no_search_and_no_header_request(server: Any, tmp_path: Path) -> None:
    with counted(server) as cold:
        first = warm(server, tmp_path, tile="all")
    with counted(server) as warmed:
        again = run(server, tile="all", disk_cache=tmp_path)
    assert_same(again, first)
    tiles, headers = tiles_and_headers(cold)
    assert cold["requests"]["search"] >= 1
    assert headers > 10
    assert tiles_and_headers(warmed) == (tiles, 0)
    assert "search" not in warmed["requests"]
    assert again.report.requests == sum(warmed["requests"].values()) == tiles
    assert first.report.requests == sum(cold["requests"].values()) - cold["requests"]["search"]
    assert first.report.requests >= again.report.requests + headers  # and perhaps a token
    assert again.report.warnings == first.report.warnings
    assert (first.report.searches, again.report.searches) == (1, 0)
    assert first.report.requests_by_kind["header"] == headers
    assert again.report.requests_by_kind == {"tile": tiles}


SECOND = """
import json, sys
from bestpixel_gpu import build_composite
got = build_composite(**json.loads(sys.argv[1]))
print(got.report.requests, int(got.bands["red"].astype("int64").sum()))
"""


def test_nor_does_another_process(server: Any, tmp_path: Path) -> None:
    first = warm(server, tmp_path)
    call = json.dumps(arguments(server, disk_cache=str(tmp_path)))
    with counted(server) as stats:
        done = subprocess.run(
            [sys.executable, "-c", SECOND, call],
            capture_output=True,
            check=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    tiles, headers = tiles_and_headers(stats)
    assert (headers, stats["requests"].get("search", 0)) == (0, 0)
    assert done.stdout.split() == [
        str(tiles + stats["requests"]["sign"]),
        str(int(first.bands["red"].astype("int64").sum())),
    ]


def test_another_request_of_the_same_place_uses_what_fits(server: Any, tmp_path: Path) -> None:
    """Another resolution asks the same files, another cloud cover another search."""
    warm(server, tmp_path, max_cloud_cover=80)
    with counted(server) as stats:
        run(server, disk_cache=tmp_path, max_cloud_cover=79, resolution=20)
    assert stats["requests"]["search"] == 1
    with counted(server) as stats:
        run(server, disk_cache=tmp_path, max_cloud_cover=79, resolution=20)
    assert "search" not in stats["requests"]


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1, "fill": False},
        {"coverage_target": 0.9, "min_k": 1, "max_k": 3},
        {"top_k": None, "order": "newest", "max_cloud_cover": 100},
        {"endpoint": "earth-search", "resolution": 60},
    ],
    ids=str,
)
def test_fix_12_a_warm_cache_gives_what_a_cold_one_gave(
    server: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    first = warm(server, tmp_path, **options)
    again = run(server, disk_cache=tmp_path, **options)
    assert_same(again, first)
    assert_same(run(server, **options), first)
    assert again.report.counts == first.report.counts
    assert [s.clear_share for s in again.report.scenes] == [s.clear_share for s in first.report.scenes]


def test_fix_25_calls_at_once_with_different_folders(server: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda folder: run(server, disk_cache=folder), folders)
    assert_same(one, other)
    names = [{p.relative_to(f) for p in f.rglob("*.entry")} for f in folders]
    assert names[0] == names[1]
    for folder in folders:
        forget_headers()
        with counted(server) as stats:
            assert_same(run(server, disk_cache=folder), one)
        assert (tiles_and_headers(stats)[1], stats["requests"].get("search", 0)) == (0, 0)


# ---- how long a search is believed, and what when it is down ----


def test_fix_25_an_old_answer_is_asked_for_again(server: Any, tmp_path: Path) -> None:
    first = warm(server, tmp_path)
    age(tmp_path, "search", 2 * DAY)
    for asked in (1, 0):
        with counted(server) as stats:
            assert_same(run(server, disk_cache=tmp_path), first)
        assert stats["requests"].get("search", 0) == asked


@pytest.mark.parametrize("fault", ["reset", "404"])
def test_an_old_answer_serves_while_the_search_is_down(server: Any, tmp_path: Path, fault: str) -> None:
    first = warm(server, tmp_path)
    age(tmp_path, "search", 100 * DAY)
    server.reset(faults={"/search": fault})
    with pytest.warns(BestPixelWarning, match=r"the same search found 100 days ago \(disk_cache\)"):
        got = run(server, disk_cache=tmp_path)
    assert_same(got, first)
    (said,) = got.report.warnings
    assert server.stac_url("pc") in said
    with pytest.raises(CatalogError):
        run(server, disk_cache=tmp_path / "other")


def test_a_young_answer_serves_while_the_search_is_down_without_a_word(server: Any, tmp_path: Path) -> None:
    first = warm(server, tmp_path)
    server.reset(faults={"/search": "404"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(server, disk_cache=tmp_path), first)


def test_a_frozen_scene_list_replays_a_run_while_the_search_is_down(server: Any, tmp_path: Path) -> None:
    first = run(server)
    first.to_cog(tmp_path)
    server.reset(faults={"/search": "404"})
    again = run(server, items=json.loads((tmp_path / "scenes.json").read_text()))
    assert_same(again, first)
    assert (again.report.searches, again.scene_items) == (0, first.scene_items)
    assert_same(run(server, items=first.scene_items), first)


def test_a_frozen_scene_list_holds_no_token(server: Any) -> None:
    signed = [
        item
        | {"assets": {k: a | {"href": a["href"] + "?sig=secret&file=a"} for k, a in item["assets"].items()}}
        for item in server.items("pc")
    ]
    got = run(server, items=signed, max_failed=1.0, errors="repair")
    text = json.dumps(got.scene_items)
    assert "secret" not in text
    assert "?file=a" in text


# ---- tokens ----


def test_fix_24_no_token_is_in_any_file_or_name(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: dict[str, Any] = {}
    monkeypatch.setattr(signing, "_TOKENS", tokens)
    warm(server, tmp_path, top_k=1, fill=False)
    (token,) = tokens.values()
    secret = token.query.encode()
    found = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.parent.name for p in found} == {"header", "search", "counts"}
    for path in found:
        body = path.read_bytes().partition(b"\n")[2]
        text = body if path.parent.name == "header" else zlib.decompress(body)
        for part in (secret, *secret.split(b"&"), b"sig="):
            assert part not in path.read_bytes() + text + os.fsencode(path), path


# ---- folders and entries that do not serve ----


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    want = run(server)
    forget_headers()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.warns(BestPixelWarning, match="going on without it"):
        got = run(server, disk_cache=tmp_path)
    assert_same(got, want)
    assert [w for w in got.report.warnings if os.strerror(problem) in w] == got.report.warnings
    assert len(got.report.warnings) == 1


@pytest.mark.parametrize("body", [b"", b"\x00" * 100, b"bestpixel-gpu cache 1 00000000\n"])
def test_damaged_entries_and_those_of_other_versions_are_asked_for_again(
    server: Any, tmp_path: Path, body: bytes
) -> None:
    first = warm(server, tmp_path)
    for path in tmp_path.rglob("*.entry"):
        path.write_bytes(body)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(server, disk_cache=tmp_path), first)
    forget_headers()
    with counted(server) as stats:
        assert_same(run(server, disk_cache=tmp_path), first)
    assert tiles_and_headers(stats)[1] == 0


# ---- files that were replaced ----


def pretend_replaced(server: Any, folder: Path, ident: str, asset: str) -> None:
    """Let the folder hold, for a file, the header of another day: as if it had been that when it was kept."""
    cache, items = DiskCache(folder), of_tile(server.items("pc"), HOME)
    baseline = item_of(items, ident)["properties"]["s2:processing_baseline"]
    alike = [i for i in items if i["properties"]["s2:processing_baseline"] == baseline]
    keys = [cache_key(locate(server.url + path_of(i, asset))) for i in alike]
    mine = cache_key(locate(server.url + path_of(item_of(items, ident), asset)))
    known = {k: h for k in keys if (h := cache.get_header(k)) is not None}
    other = next(h for k, h in known.items() if k != mine and h.data != known[mine].data)
    cache.put_header(mine, type(other)(other.data, known[mine].total, '"of another day"'))


@pytest.mark.parametrize("asset", ["SCL", "B04"])
def test_a_file_replaced_since_its_header_was_kept_is_read_anew(
    server: Any, tmp_path: Path, asset: str
) -> None:
    first = warm(server, tmp_path)
    pretend_replaced(server, tmp_path, str(winners(first).ravel()[0]), asset)
    for headers in (1, 0):
        with warnings.catch_warnings(), counted(server) as stats:
            warnings.simplefilter("error")
            got = run(server, disk_cache=tmp_path)
        assert_same(got, first)
        assert tiles_and_headers(stats)[1] == headers, "the one that shows it is the one that is read"
        assert got.report.failures == []
        forget_headers()
