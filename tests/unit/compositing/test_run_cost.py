"""What a run reads, keeps and takes: told beforehand, fetched once, bounded."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tifffile
from whole_run import (
    DATES,
    SOUTH,
    arguments,
    assert_same,
    counted,
    file_of,
    forget_headers,
    item_of,
    path_of,
    run,
    winners,
)

from bestpixel_gpu import explain
from bestpixel_gpu.engines.cpu.engine import CpuEngine
from bestpixel_gpu.geo import pixel_map
from bestpixel_gpu.plan.memory import Budget

HEADER = 16384
CASES: list[tuple[str, dict[str, Any]]] = [
    ("pc", {"tile": "all"}),
    ("earth-search", {"tile": "all"}),
    ("pc", {"tile": "all", "resolution": 40}),
    ("pc", {"tile": SOUTH, "fill": False, "top_k": 1}),
    ("pc", {"tile": "all", "resolution": 4, "fill": True}),
]


@pytest.mark.parametrize(("endpoint", "options"), CASES)
def test_explain_tells_what_the_run_then_reads(server: Any, endpoint: str, options: dict[str, Any]) -> None:
    options = options | {"memory_limit": 1 << 30}
    forget_headers()
    with counted(server) as cheap:
        told = explain(**arguments(server, endpoint, **options))
    forget_headers()
    with counted(server) as dear:
        got = run(server, endpoint, **options)
    assert got.report.repair_rounds == 0, "explain tells the first round; a case without repair is wanted"
    assert dear["bytes"]["data"] == got.report.bytes
    assert dear["requests"]["data"] == got.report.requests
    assert told.total_bytes == pytest.approx(got.report.bytes, rel=0.05)
    assert told.requests == pytest.approx(got.report.requests, rel=0.05)
    assert sum(told.tiles_by_band.values()) == got.report.wanted_tiles
    assert told.memory == got.report.memory
    assert cheap["bytes"]["data"] == told.header_bytes + told.mask_bytes
    assert json.loads(json.dumps(told.to_dict()))["total_bytes"] == told.total_bytes
    assert "MiB" in str(told)


@pytest.mark.parametrize("endpoint", ["pc", "earth-search"])
@pytest.mark.parametrize(
    "options", [{"rule": "ndvi"}, {"emit_uncertainty": True}, {"rule": "ndvi", "emit_uncertainty": True}]
)
def test_explain_counts_tiles_once_though_several_blocks_or_rounds_want_them(
    server: Any, endpoint: str, options: dict[str, Any]
) -> None:
    call = {"tile": "all", "bands": ["red", "nir"], **options}
    forget_headers()
    told = explain(**arguments(server, endpoint, **call))
    forget_headers()
    got = run(server, endpoint, **call)
    assert got.report.repair_rounds == 0
    assert told.total_bytes == pytest.approx(got.report.bytes, rel=0.05)
    assert sum(told.bytes_by_band.values()) == pytest.approx(
        got.report.bytes - told.header_bytes - told.mask_bytes, rel=0.05
    )


@pytest.mark.parametrize("endpoint", ["pc", "earth-search"])
def test_explain_touches_no_band_tile(server: Any, endpoint: str) -> None:
    """One request for each band file that owns a pixel: its header."""
    forget_headers()
    with counted(server) as stats:
        explain(**arguments(server, endpoint, tile="all"))
    bands = [(p, a, b) for p, a, b in stats["log"] if "SCL" not in p]
    assert bands
    assert {a for _, a, _ in bands} == {0}
    assert max(b for _, _, b in bands) < HEADER
    assert len({p for p, _, _ in bands}) == len(bands)


@pytest.mark.parametrize(("endpoint", "options"), CASES)
def test_nothing_is_fetched_twice(server: Any, endpoint: str, options: dict[str, Any]) -> None:
    forget_headers()
    with counted(server) as stats:
        run(server, endpoint, **options)
    spans: dict[str, list[tuple[int, int]]] = {}
    for path, a, b in stats["log"]:
        spans.setdefault(path, []).append((a, b))
    for path, own in spans.items():
        assert (0, min(HEADER, own[0][1] + 1) - 1) in own, path
        tiles = sorted(s for s in own if s[0] > 0)
        assert all(b < a for (_, b), (a, _) in pairwise(tiles)), path


def test_repair_fetches_nothing_twice_either(server: Any) -> None:
    """The swath that ends earlier in the bands than in the mask is put first."""
    forget_headers()
    with counted(server) as stats:
        got = run(server, tile="all", top_k=None, order=lambda s: s.when.day != 12)
    assert got.report.repair_rounds >= 1
    spans: dict[str, list[tuple[int, int]]] = {}
    for p, a, b in stats["log"]:
        if a > 0:
            spans.setdefault(p, []).append((a, b))
    for own in spans.values():
        assert all(b < a for (_, b), (a, _) in pairwise(sorted(own)))


def test_files_without_a_winner_are_not_opened(server: Any) -> None:
    forget_headers()
    with counted(server) as stats:
        got = run(server, tile="all")
    owners = set(winners(got).ravel()) - {""}
    losers = set(got.source_ids) - owners
    assert owners
    assert losers
    opened = {p for p in stats["paths"] if "SCL" not in p and p.endswith(".tif")}
    items = server.items("pc")
    assert opened == {path(items, i, a) for i in owners for a in ("B04", "B11")}


def path(items: list[dict[str, Any]], ident: str, asset: str) -> str:
    return path_of(item_of(items, ident), asset).lstrip("/")


def test_only_tiles_under_winners_are_fetched(server: Any) -> None:
    """By hand for a 20 m band on its own grid: the tile of every winning pixel, and no other."""
    options: dict[str, Any] = {"tile": SOUTH, "resolution": 20, "bands": ["swir16"]}
    forget_headers()
    with counted(server) as stats:
        got = run(server, **options)
    grid, items = got.grid, server.items("pc")
    for ident in got.source_ids:
        item = item_of(items, ident)
        with tifffile.TiffFile(file_of(server, item, "B11")) as tif:
            page = tif.pages[0]
            x0, y0 = page.tags["ModelTiepointTag"].value[3:5]
            side, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
            spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        won = winners(got) == ident
        rows, cols = won.nonzero()
        r = rows + round((y0 - grid.top) / 20)
        c = cols + round((grid.left - x0) / 20)
        want = {spans[i] for i in set((r // side * across + c // side).tolist())}
        read = [(a, b + 1) for p, a, b in stats["log"] if a > 0 and p == path(items, ident, "B11")]
        assert all(any(a <= o and o + n <= b for a, b in read) for o, n in want)
        assert sum(b - a for a, b in read) <= sum(n for _, n in want) + 4096 * len(want)
        loose = [s for s in spans if s not in want and any(a < s[0] + s[1] and s[0] < b for a, b in read)]
        assert not [s for s in loose if s[1] > 4096], "larger than any gap that is read over"


def test_a_known_header_is_not_asked_for_again(server: Any) -> None:
    want = run(server)
    with counted(server) as stats:
        assert_same(run(server), want)
    assert all(a > 0 for _, a, _ in stats["log"])


FRESH = """
import json, sys
from bestpixel_gpu import build_composite
call = json.loads(sys.argv[1])
got = build_composite(**call)
print(got.report.requests, int(got.bands["red"].astype("int64").sum()))
"""


def test_headers_live_on_disk_for_the_next_process(server: Any, tmp_path: Path) -> None:
    forget_headers()
    want = run(server, disk_cache=tmp_path / "cache")
    with counted(server) as stats:
        call = json.dumps(arguments(server, disk_cache=str(tmp_path / "cache")))
        root = Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FRESH, call],
            capture_output=True,
            check=False,
            text=True,
            cwd=root,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) == int(want.bands["red"].astype("int64").sum())
    assert stats["log"]
    assert all(a > 0 for _, a, _ in stats["log"])
    for file in (tmp_path / "cache").rglob("*"):
        assert file.is_dir() or b"sig=" not in file.read_bytes()


def test_a_disk_cache_that_cannot_be_written(server: Any, tmp_path: Path) -> None:
    """It is a convenience: the run goes on."""
    want = run(server)
    forget_headers()
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="going on without it"):
        got = run(server, disk_cache=tmp_path / "file")
    assert_same(got, want)


def test_fix_22_memory_stays_below_its_limit(server: Any) -> None:
    want = run(server, tile="all")
    peak = want.report.memory["peak"]
    for limit in (peak, 9 * peak // 10, 1 << 34):
        got = run(server, tile="all", memory_limit=limit)
        memory = got.report.memory
        assert memory["limit"] == limit
        assert memory["peak"] <= limit
        assert memory["output"] == sum(
            a.nbytes
            for a in (*got.bands.values(), got.quality, got.observation_count, got.selected_observation)
        )
        assert_same(got, want)


def test_fix_22_concurrency_is_the_most_that_is_asked_at_once(server: Any) -> None:
    forget_headers()
    server.reset(latency_ms=5)
    run(server, tile="all", concurrency=3)
    assert 2 <= server.stats()["open_peak"] <= 3


def test_fix_23_places_are_projected_once_whatever_the_bands(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of three tiles lies in another zone: a few points of its rasters stand for all pixels."""
    points: list[int] = []
    real = pixel_map.transform

    def spy(src: str, dst: str, x: Any, y: Any) -> Any:
        points[-1] += x.size
        return real(src, dst, x, y)

    monkeypatch.setattr(pixel_map, "transform", spy)
    for bands in (["red"], ["red", "green", "blue"]):
        points.append(0)
        got = run(server, tile="all", bands=bands)
    assert points[0] == points[1]
    assert 100 < points[0] < 0.05 * got.quality.size


def test_fix_23_pixels_are_worked_on_beside_the_network(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, ranks and bands are made by threads that wait for no answer."""
    names: dict[str, set[str]] = {step: set() for step in ("classify", "statistics", "rank", "paint")}
    for step in names:
        real = getattr(CpuEngine, step)

        def spy(*args: Any, _step: str = step, _real: Any = real, **options: Any) -> Any:
            names[_step].add(threading.current_thread().name)
            return _real(*args, **options)

        monkeypatch.setattr(CpuEngine, step, spy)
    run(server, tile="all")
    assert all(names.values())
    assert not [n for found in names.values() for n in found if n.startswith("bestpixel-io")]


def test_masks_are_kept_decoded_as_far_as_there_is_room(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mask that is kept is decoded once, each other one for every strip of both sweeps."""
    real, budget = CpuEngine.classify, Budget.of
    decoded: list[Counter[int]] = []

    def spy(*args: Any, **options: Any) -> Any:
        decoded[-1][id(args[1][0])] += 1
        return real(*args, **options)

    monkeypatch.setattr(CpuEngine, "classify", spy)
    pictures = []
    for masks in (0, 2.5, 1000):
        decoded.append(Counter())
        options = {"tile": "all", "resolution": 20, "threads": 1}
        pixels = 0 if not pictures else pictures[0].quality.size
        room = {"codes": int(masks * pixels), "repair_codes": 1 << 30}
        monkeypatch.setattr(Budget, "of", lambda *args, room=room: replace(budget(*args), **room))
        pictures.append(run(server, **options))
        assert_same(pictures[-1], pictures[0])
    never, some, always = (list(d.values()) for d in decoded)
    assert max(always) == 1 < min(never)
    assert 2 <= some.count(1) < len(some)
    assert max(some) > 1


def test_bytes_are_those_of_the_stages(server: Any) -> None:
    """Header 16 KiB a file or the whole file, masks once, tiles once."""
    forget_headers()
    with counted(server) as stats:
        got = run(server, tile="all")
    kinds: Counter[str] = Counter()
    for p, a, b in stats["log"]:
        kinds["header" if a == 0 else "mask" if "SCL" in p else "tile"] += b - a + 1
    opened = len({p for p, _, _ in stats["log"]})
    assert kinds["header"] <= opened * HEADER
    assert sum(kinds.values()) == got.report.bytes
    assert got.report.memory["masks"] >= kinds["mask"] - 4096 * opened
    assert got.report.request["datetime"] == DATES
