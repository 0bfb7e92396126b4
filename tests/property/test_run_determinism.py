"""Same scenes, same bytes: whatever the threads, blocks, memory, order of answers, and the box around."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from whole_run import (
    HOME,
    RIGHT,
    SOUTH,
    arguments,
    assert_same,
    forget_headers,
    item_of,
    path_of,
    run,
    winners,
)

from bestpixel_gpu import explain
from bestpixel_gpu.compositing import rounds, setup
from bestpixel_gpu.compositing import run as the_run
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.engines.cpu.engine import CpuEngine
from bestpixel_gpu.errors import MemoryLimitError
from bestpixel_gpu.plan.memory import Budget
from bestpixel_gpu.transfer.reader import Reader

SEAM: dict[str, Any] = {"tile": "all", "resolution": 4}
"""The whole country in several chunks each way; one of its three tiles lies in another zone."""


@pytest.fixture(scope="module")
def want(server: Any) -> Any:
    found = run(server, **SEAM, threads=1)
    rows, cols = found.grid.shape
    assert rows > 512
    assert cols > 3 * 512
    assert len(np.unique(winners(found))) > 6
    return found


LEAST = {"strip": 1, "codes": 0, "undecoded": 1, "kept": 0}
"""Keys in the shortest strips, masks inflated for each sweep, one range at a time, nothing for repair."""


def allow(monkeypatch: pytest.MonkeyPatch, **shares: int) -> None:
    """Change what a run may take for some purposes."""
    real = Budget.of
    monkeypatch.setattr(Budget, "of", lambda *args: replace(real(*args), **shares))


@pytest.mark.parametrize("threads", [2, 4])
def test_threads(server: Any, want: Any, threads: int) -> None:
    assert_same(run(server, **SEAM, threads=threads), want)


@pytest.mark.parametrize("across", [1, 2, 3])
def test_fix_15_blocks(server: Any, want: Any, monkeypatch: pytest.MonkeyPatch, across: int) -> None:
    seen = []
    real = rounds.block_windows

    def spy(rows: Any, cols: Any, n: int) -> Any:
        seen.append(n)
        return real(rows, cols, n)

    monkeypatch.setattr(rounds, "block_windows", spy)
    monkeypatch.setattr(setup, "Session", partial(Session, block_cols=across))
    assert_same(run(server, **SEAM), want)
    assert seen == [across]


def least_for_first_plan(server: Any, want: Any, tried: list[int], **options: Any) -> int:
    """The least limit, within 4 KiB, at which nothing but the first plan is `tried`."""
    low, high = want.report.memory["output"], want.report.memory["peak"]
    while high - low > 4096:
        limit = (low + high) // 2
        tried.clear()
        try:
            explain(**arguments(server, **options, memory_limit=limit))
        except MemoryLimitError:
            low = limit
        else:
            low, high = (low, limit) if len(tried) == 1 else (limit, high)
    return high


def test_a_memory_limit_that_forces_column_strips(
    server: Any, want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    real = rounds.block_windows

    def spy(rows: Any, cols: Any, across: int) -> Any:
        widths.append(across)
        return real(rows, cols, across)

    monkeypatch.setattr(rounds, "block_windows", spy)
    allow(monkeypatch, **LEAST)
    monkeypatch.setattr(the_run, "ranking_bytes", lambda *_: 0)  # so that tiles decide what is needed
    limit = least_for_first_plan(server, want, widths, **SEAM) - 8192
    widths.clear()
    got = run(server, **SEAM, memory_limit=limit)
    assert len(widths) > 1
    assert widths[-1] < widths[0]
    assert got.report.memory["peak"] <= limit
    assert_same(got, want)


def test_a_small_grid_is_one_block_where_memory_allows(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []
    real = rounds.block_windows

    def spy(rows: Any, cols: Any, across: int) -> Any:
        made = real(rows, cols, across)
        blocks.append(len(made))
        return made

    monkeypatch.setattr(rounds, "block_windows", spy)
    options = SEAM | {"resolution": 9}
    whole = run(server, **options)
    assert blocks == [1]
    assert whole.grid.width * whole.grid.height <= rounds.SMALL_GRID
    monkeypatch.setattr(rounds, "SMALL_GRID", 0)
    assert_same(run(server, **options), whole)
    assert blocks[1] > 1
    monkeypatch.undo()
    monkeypatch.setattr(rounds, "block_windows", spy)
    allow(monkeypatch, **LEAST)
    monkeypatch.setattr(the_run, "ranking_bytes", lambda *_: 0)  # so that tiles decide what is needed
    limit = least_for_first_plan(server, whole, blocks, **options) - 8192
    blocks.clear()
    assert_same(run(server, **options, memory_limit=limit), whole)
    assert blocks[0] == 1 < blocks[1], "cut into rows of chunks where it does not fit"


def test_a_memory_limit_that_cannot_be_kept_is_refused(server: Any, want: Any) -> None:
    output = want.report.memory["output"]
    assert output > 2 << 20
    said = (
        r"need [\d.]+ MiB with masks and tiles but memory_limit is [\d.]+ MiB: raise memory_limit to at least"
    )
    for more in (1, 1 << 20, 3 << 20):
        with pytest.raises(MemoryLimitError, match=said) as refused:
            run(server, **SEAM, memory_limit=output + more)
        enough = float(re.findall(r"at least ([\d.]+) MiB", str(refused.value))[0])
        assert_same(run(server, **SEAM, memory_limit=int(enough * 2**20)), want)
    server.reset()
    with pytest.raises(
        MemoryLimitError, match=r"need [\d.]+ MiB for the result alone but .* resolution >= \d"
    ):
        run(server, **SEAM, memory_limit=output - 1)
    assert server.stats()["requests"] == {}, "before any request"


@pytest.mark.parametrize("name", LEAST)
def test_small_shares_of_memory(server: Any, want: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    allow(monkeypatch, **{name: LEAST[name]})
    assert_same(run(server, **SEAM), want)


def test_tiny_pools(server: Any, want: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slot beyond those the plan cannot do without."""
    allow(monkeypatch, **LEAST)
    monkeypatch.setattr(CpuEngine, "lookahead", 0)
    assert_same(run(server, **SEAM), want)


def test_fix_17_order_of_the_items(server: Any, want: Any) -> None:
    items = server.items("pc")
    for seed in range(3):
        random.Random(seed).shuffle(items)
        assert_same(run(server, **SEAM, items=items), want)


@pytest.mark.parametrize(("concurrency", "seed"), [(1, 0), (192, 1), (192, 2)])
def test_answers_in_another_order(
    server: Any, want: Any, monkeypatch: pytest.MonkeyPatch, concurrency: int, seed: int
) -> None:
    lot = random.Random(seed)
    real = Reader._range

    async def late(*args: Any) -> Any:
        answer = await real(*args)
        await asyncio.sleep(lot.choice([0, 0, 0.003, 0.05]))
        return answer

    monkeypatch.setattr(Reader, "_range", late)
    server.reset(latency_ms=2)
    forget_headers()
    assert_same(run(server, **SEAM, concurrency=concurrency), want)
    assert server.stats()["open_peak"] <= max(concurrency, 2)


def test_one_band_comes_two_seconds_late(server: Any, want: Any) -> None:
    item = item_of(server.items("pc"), want.source_ids[0])
    server.reset(faults={path_of(item, "B04"): "slow"})
    assert_same(run(server, **SEAM), want)


@pytest.mark.parametrize("endpoint", ["pc", "earth-search"])
@pytest.mark.parametrize("options", [{"order": "cloud_cover", "fill": True}, {"coverage_target": 0.9}, {}])
@pytest.mark.parametrize("tile", ["all", SOUTH])
def test_other_requests(
    server: Any, monkeypatch: pytest.MonkeyPatch, endpoint: str, tile: str, options: dict[str, Any]
) -> None:
    """Large pixels, averaged levels, classes of footprints: in strips and blocks as in one piece."""
    options = {"tile": tile, "resolution": 25, **options}
    whole = run(server, endpoint, **options)
    allow(monkeypatch, **LEAST)
    monkeypatch.setattr(setup, "Session", partial(Session, block_cols=1))
    assert_same(run(server, endpoint, threads=4, **options), whole)


# ---- the place guarantee ----


def overlap(a: Any, b: Any) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Windows of two grids of one CRS that show the same pixels."""
    assert (a.crs, a.res_x, a.res_y) == (b.crs, b.res_x, b.res_y)

    def cut(p: int, n: int, q: int, m: int) -> tuple[slice, slice]:
        low, high = max(p, q), min(p + n, q + m)
        assert low < high
        return slice(low - p, high - p), slice(low - q, high - q)

    rows = cut(a.row0, a.height, b.row0, b.height)
    cols = cut(a.col0, a.width, b.col0, b.width)
    return (rows[0], cols[0]), (rows[1], cols[1])


def pixels(composite: Any, part: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
    found = {n: np.asarray(composite[n])[part] for n in ("quality", "observation_count", "date")}
    found |= {n: np.asarray(a)[part] for n, a in composite.bands.items()}
    return found | {"winner": winners(composite)[part]}


@pytest.mark.parametrize("order", ["cloud_cover", "newest", "nearest:2024-07-15"])
@pytest.mark.parametrize("resolution", [7, 10, 30])
@pytest.mark.parametrize(("endpoint", "tile"), [("pc", HOME), ("earth-search", RIGHT), ("pc", SOUTH)])
def test_overlapping_boxes_share_their_pixels(
    server: Any, endpoint: str, tile: str, resolution: float, order: str
) -> None:
    west, south, east, north = server.bbox_of(tile)
    wide, high = east - west, north - south
    boxes = (
        (west, south, west + 0.7 * wide, south + 0.8 * high),
        (west + 0.31 * wide, south + 0.23 * high, east, north),
    )
    options: dict[str, Any] = {"top_k": None, "order": order, "max_cloud_cover": 100}
    a, b = (run(server, endpoint, bbox=box, resolution=resolution, **options) for box in boxes)
    one, two = overlap(a.grid, b.grid)
    ours, theirs = pixels(a, one), pixels(b, two)
    foreign = np.array(["32TKP" in name for name in ours["winner"].ravel()]).reshape(ours["winner"].shape)
    assert (~foreign).sum() > 500
    for name, layer in ours.items():
        # Another zone's positions are right to 2e-5 pixels, not to the bit: see docs/architecture.md.
        differ = int(((layer != theirs[name]) & ~foreign).sum())
        assert not differ, f"{name}: {differ} of {layer.size} pixels differ"


def test_a_frozen_list_replays_the_search(server: Any, want: Any) -> None:
    """Without a catalogue, in any process: the items say it all."""
    call = arguments(server, **SEAM, items=server.items("pc"))
    del call["stac_url"]
    from bestpixel_gpu import build_composite

    # Files below /blob/ of this machine are signed by the catalogue beside them, which is not named here.
    assert_same(build_composite(**call), want)


def test_the_second_of_two_cuts_does_not_see_the_first(server: Any) -> None:
    """Nothing of a run stays behind that changes the next: the same three requests twice, interleaved."""
    cases: list[dict[str, Any]] = [{"tile": HOME}, {"tile": SOUTH, "fill": True}, {"tile": RIGHT, "top_k": 1}]
    first = [run(server, **c) for c in cases]
    for case, want in zip(reversed(cases), reversed(first), strict=True):
        assert_same(run(server, **case), want)


@pytest.fixture(scope="module")
def collection1(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from bestpixel_gpu.simulate import ArchiveSpec, build, serve

    spec = ArchiveSpec(dialects=("earth-search-c1",), bands=("red", "swir16"), tiles=2, dates=4)
    with serve(build(spec, tmp_path_factory.mktemp("c1"))) as local:
        yield local


def test_collection_1_across_the_seam(collection1: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"tile": "all", "resolution": 7}
    want = run(collection1, "earth-search-c1", **options)
    assert {i.split("_")[1] for i in want.source_ids} == {"T31THJ", "T32TKP"} or len(want.source_ids) > 4
    assert {s.offset for s in want.report.scenes} == {1000}
    allow(monkeypatch, codes=0)
    monkeypatch.setattr(setup, "Session", partial(Session, block_cols=1))
    assert_same(run(collection1, "earth-search-c1", threads=3, **options), want)
