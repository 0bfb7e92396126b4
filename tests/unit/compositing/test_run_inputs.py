"""Every form of asking for the same thing, and items that are not what they should be."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from whole_run import (
    DATES,
    SOUTH,
    arguments,
    assert_same,
    assert_same_pixels,
    item_of,
    of_tile,
    run,
    winners,
    with_href,
)

from bestpixel_gpu import build_composite, build_composite_async, explain, explain_async
from bestpixel_gpu.errors import InputError, NoScenesError, OffsetWarning, StalledError


@pytest.fixture(params=["asyncio", "uvloop"])
def run_loop(request: Any) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """``asyncio.run`` on a loop of asyncio, and on the one that web servers bring."""
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop", reason="not made for Windows")

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)

    return run


@pytest.fixture
def want(server: Any) -> Any:
    return run(server, tile=SOUTH)


@pytest.fixture
def items(server: Any) -> list[dict[str, Any]]:
    return of_tile(server.items("pc"), SOUTH)


# ---- where and what ----


def test_the_catalogue_from_the_environment(server: Any, want: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = arguments(server, tile=SOUTH)
    monkeypatch.setenv("BESTPIXEL_GPU_STAC_URL", call.pop("stac_url"))
    assert_same(build_composite(**call), want)


@pytest.mark.parametrize("alias", ["planetary-computer", "planetary_computer", "auto"])
def test_endpoint_aliases(server: Any, want: Any, monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    call = arguments(server, tile=SOUTH) | {"endpoint": alias}
    assert_same(build_composite(**call), want)


def test_auto_is_earth_search_on_aws_in_the_usa(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    want = run(server, "earth-search", tile=SOUTH)
    call = arguments(server, "earth-search", tile=SOUTH)
    for alias in ("auto", "es", "element84"):
        assert_same(build_composite(**(call | {"endpoint": alias})), want)


def test_bands_in_the_asked_order(server: Any) -> None:
    got = run(server, tile=SOUTH, bands=["swir16", "red", "swir16"])
    assert list(got.bands) == ["swir16", "red"]
    assert_same(run(server, tile=SOUTH, bands="red"), run(server, tile=SOUTH, bands=["red"]))
    with pytest.raises(InputError, match="unknown band 'B04'"):
        run(server, bands=["B04"])


def test_a_band_that_no_scene_has(server: Any) -> None:
    with pytest.raises(NoScenesError, match=r"asset B12 \(swir22\) is missing"):
        run(server, bands=["swir22"])


# ---- items ----


def test_items_in_every_form(want: Any, server: Any, items: list[dict[str, Any]]) -> None:
    import pystac
    from pystac_client import Client

    as_items = [pystac.Item.from_dict(i) for i in items]
    client = Client.open(server.stac_url("pc"))
    ids = [i["id"] for i in items]
    forms = [
        items, tuple(items), iter(items), {"type": "FeatureCollection", "features": items}, as_items,
        pystac.ItemCollection(as_items), pystac.ItemCollection(as_items).to_dict(),
        client.search(collections=["sentinel-2-l2a"], ids=ids), [items[0], as_items[1:]],
    ]  # fmt: skip
    for form in forms:
        assert_same(run(server, tile=SOUTH, items=form), want)


def test_items_are_not_changed(server: Any, items: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(items)
    run(server, tile=SOUTH, items=items)
    assert items == before


@pytest.mark.parametrize("bad", ["items.json", 7, [1], {"id": "x"}, [None]])
def test_what_is_no_item(server: Any, bad: Any) -> None:
    server.reset()
    with pytest.raises(InputError, match="items"):
        run(server, items=bad)
    assert server.stats()["requests"] == {}


def test_no_items_at_all(server: Any) -> None:
    with pytest.raises(NoScenesError, match=r"no usable scene in the given items .*0 found"):
        run(server, items=[])


def test_items_listed_twice_count_once(server: Any, want: Any, items: list[dict[str, Any]]) -> None:
    got = run(server, tile=SOUTH, items=[*items, *copy.deepcopy(items)])
    assert_same(got, want)
    assert [s.reason for s in got.report.scenes if s.status == "dropped"] == ["listed twice"] * len(items)


def test_items_far_away_are_dropped(server: Any, want: Any) -> None:
    got = run(server, tile=SOUTH, items=server.items("pc"))
    assert_same(got, want)
    far = [s for s in got.report.scenes if s.tile != SOUTH and "duplicate" not in s.reason]
    assert {s.reason for s in far} == {"its raster does not reach the grid"}


def damaged(items: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    bad = copy.deepcopy(items)
    item = bad[1]
    if what == "no band":
        del item["assets"]["B11"]
    elif what == "no mask":
        del item["assets"]["SCL"]
    elif what == "no time":
        item["properties"].pop("datetime")
    elif what == "no href":
        item["assets"]["B04"] = {"type": "image/tiff"}
    elif what == "no assets":
        item["assets"] = {}
    elif what == "JPEG 2000":
        item["assets"]["B04"]["href"] = item["assets"]["B04"]["href"].replace(".tif", ".jp2")
    return bad


@pytest.mark.parametrize("what", ["no band", "no mask", "no time", "no href", "no assets", "JPEG 2000"])
def test_items_that_lack_something_cost_themselves_only(
    server: Any, items: list[dict[str, Any]], what: str
) -> None:
    got = run(server, tile=SOUTH, items=damaged(items, what))
    assert_same(got, run(server, tile=SOUTH, items=[items[0], *items[2:]]))
    record = got.report.scene(items[1]["id"])
    assert record.status == "dropped"
    assert record.reason


def test_items_without_geometry_or_crs(server: Any, want: Any, items: list[dict[str, Any]]) -> None:
    """The files say where they lie."""
    bare = copy.deepcopy(items)
    for item in bare:
        item["geometry"], item["bbox"] = None, None
        for source in (item["properties"], *item["assets"].values()):
            for key in [k for k in source if k.startswith("proj:")]:
                del source[key]
    assert_same(run(server, tile=SOUTH, items=bare), want)


def test_fix_28_the_files_win_over_a_wrong_crs(server: Any, want: Any, items: list[dict[str, Any]]) -> None:
    wrong = copy.deepcopy(items)
    for item in wrong:
        item["properties"]["proj:epsg"] = 32601
        item["properties"]["proj:code"] = "EPSG:32601"
    assert_same(run(server, tile=SOUTH, items=wrong), want)


def test_files_of_this_machine(server: Any, want: Any) -> None:
    from bestpixel_gpu.simulate import items as items_on_disk

    local = of_tile(items_on_disk(server.folder, "pc"), SOUTH)
    server.reset()
    assert_same(run(server, tile=SOUTH, items=local), want)
    assert server.stats()["requests"] == {}


def test_relative_addresses_start_at_the_self_link(
    server: Any, want: Any, items: list[dict[str, Any]]
) -> None:
    base = items[0]["assets"]["SCL"]["href"].rpartition("/")[0]
    moved = with_href(items, items[0]["id"], "SCL", items[0]["assets"]["SCL"]["href"].rpartition("/")[2])
    moved[0]["links"] = [{"rel": "self", "href": f"{base}/item.json"}]
    assert_same(run(server, tile=SOUTH, items=moved), want)
    moved[0]["links"] = []
    with pytest.raises(InputError, match="relative"):
        run(server, tile=SOUTH, items=moved)


# ---- radiometry ----


def test_offset_in_every_form(server: Any, want: Any, items: list[dict[str, Any]]) -> None:
    offsets = {s.id: s.offset for s in want.report.scenes}
    assert set(offsets.values()) == {0, 1000}
    assert_same(run(server, tile=SOUTH, offset=offsets), want)
    assert_same(run(server, tile=SOUTH, offset=lambda item: offsets[item["id"]]), want)
    assert_same(run(server, tile=SOUTH, offset=lambda item: None), want)
    raw = run(server, tile=SOUTH, offset=0)
    lifted = run(server, tile=SOUTH, offset=-500)
    where = winners(raw) != ""
    assert_same_pixels(raw, run(server, tile=SOUTH, offset=dict.fromkeys(offsets, 0)))
    np.testing.assert_array_equal(raw.bands["red"][where].astype(int) + 500, lifted.bands["red"][where])
    one = run(server, tile=SOUTH, offset={items[0]["id"]: 7})
    assert {s.id: s.offset for s in one.report.scenes} == offsets | {items[0]["id"]: 7}


def test_an_offset_nobody_knows_is_said(server: Any, items: list[dict[str, Any]]) -> None:
    """A renamed product without baseline: the metadata tell nothing."""
    unknown = copy.deepcopy(items[:1])
    item = unknown[0]
    item["id"] = "scene"
    for key in [k for k in item["properties"] if k.startswith("s2:")]:
        del item["properties"][key]
    item["properties"]["s2:mgrs_tile"] = SOUTH
    with pytest.warns(OffsetWarning, match=r"scene.*offset="):
        got = run(server, tile=SOUTH, items=unknown)
    assert got.report.undecided_offsets == 1
    assert run(server, tile=SOUTH, items=unknown, offset=0).report.undecided_offsets == 0


# ---- grids ----


def test_the_grid_of_another_array(server: Any, want: Any) -> None:
    from odc.geo.geobox import GeoBox

    grid = want.grid
    from affine import Affine

    box = GeoBox(grid.shape, Affine(10, 0, grid.left, 0, -10, grid.top), grid.crs)
    call = arguments(server, tile=SOUTH, bbox=None)
    same = build_composite(**call, geobox=box)
    assert_same_pixels_of_equal_place(same, want)
    like = build_composite(**call, like=want.to_xarray())
    assert_same_pixels_of_equal_place(like, want)


def assert_same_pixels_of_equal_place(got: Any, want: Any) -> None:
    assert (got.grid.left, got.grid.top, got.grid.shape) == (want.grid.left, want.grid.top, want.grid.shape)
    np.testing.assert_array_equal(winners(got), winners(want))
    for name, band in want.bands.items():
        np.testing.assert_array_equal(got.bands[name], band)


@pytest.mark.parametrize(("crs", "resolution"), [("EPSG:4326", 0.0002), ("EPSG:3857", 20), ("utm", 10)])
def test_other_crs(server: Any, want: Any, crs: str, resolution: float) -> None:
    got = run(server, tile=SOUTH, crs=crs, resolution=resolution)
    assert got.report.empty_pixels < 0.05 * got.quality.size
    mean = {b: float(np.mean(a[a != 65535])) for b, a in got.bands.items()}
    for band, a in want.bands.items():
        assert mean[band] == pytest.approx(float(np.mean(a[a != 65535])), rel=0.03)
    if crs == "utm":
        assert_same(got, want)


def test_one_grid_only(server: Any, want: Any) -> None:
    with pytest.raises(InputError, match="one of like=, geobox=, crs="):
        run(server, like=want.to_xarray(), crs="EPSG:4326")


# ---- order ----


def test_a_callable_decides_between_equal_scores(server: Any) -> None:
    seen = []

    def even_days_first(scene: Any) -> int:
        seen.append(scene.id)
        return scene.when.day % 2

    got = run(server, order=even_days_first, top_k=None)
    assert set(seen) == set(got.source_ids)
    days = [w.day % 2 for w in got.source_dates]
    assert days == sorted(days)
    assert 0 < sum(days) < len(days)


def test_nearest_and_oldest(server: Any) -> None:
    near = run(server, order="nearest:2024-07-17", top_k=None)
    assert near.source_dates[0].isoformat()[:10] == "2024-07-17"
    oldest = run(server, order="oldest", top_k=None)
    assert list(oldest.source_dates) == sorted(oldest.source_dates)
    newest = run(server, order="newest", top_k=None)
    assert list(newest.source_dates) == sorted(newest.source_dates, reverse=True)
    for bad in ("best", "nearest:soon", "nearest:<date>"):
        with pytest.raises(InputError, match="order"):
            run(server, order=bad)


# ---- progress, loops, time ----


def test_progress_counts_every_stage_to_its_end(server: Any) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    got = run(server, progress=lambda stage, done, total: told.setdefault(stage, []).append((done, total)))
    assert {"masks", "statistics", "winners", "headers", "tiles"} <= set(told)
    for stage, steps in told.items():
        done = [d for d, _ in steps]
        assert all(0 < d <= t for d, t in steps), stage
        assert done == sorted(done), stage
        assert steps[-1][0] == steps[-1][1], stage
    assert told["tiles"][-1][1] == got.report.wanted_tiles
    assert told["masks"][-1][1] >= len(got.source_ids)


def test_an_error_in_progress_ends_the_run(server: Any) -> None:
    def full(stage: str, done: int, total: int) -> None:
        raise KeyError(stage)

    with pytest.raises(KeyError):
        run(server, progress=full)


def test_tqdm_bars(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    run(server, tile=SOUTH, progress=True)
    shown = capsys.readouterr().err
    for stage in ("masks", "tiles"):
        assert stage in shown


def test_tqdm_itself_and_a_bar_of_the_callers(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    run(server, tile=SOUTH, progress=tqdm)
    assert "tiles: 100%" in capsys.readouterr().err
    bar = tqdm(mininterval=0)
    got = run(server, tile=SOUTH, progress=bar)
    assert (bar.n, bar.total) == (got.report.wanted_tiles, got.report.wanted_tiles)
    assert not bar.disable, "it is the caller's to close"
    shown = capsys.readouterr().err
    for stage in ("masks", "tiles"):
        assert stage in shown
    bar.close()


def test_a_callable_that_looks_empty_is_told_all_the_same(server: Any) -> None:
    class Steps(list[Any]):
        def __call__(self, *step: Any) -> None:
            self.append(step)

    steps = Steps()
    run(server, tile=SOUTH, progress=steps)
    assert steps


def test_awaited_on_the_callers_loop(server: Any, want: Any, run_loop: Any) -> None:
    async def main() -> tuple[Any, Any, Any]:
        call = arguments(server, tile=SOUTH)
        return await asyncio.gather(
            build_composite_async(**call), build_composite_async(**call), explain_async(**call)
        )

    one, two, told = run_loop(main())
    assert_same(one, want)
    assert_same(two, want)
    assert told.total_bytes > 0


def test_called_in_a_notebook(server: Any, want: Any) -> None:
    """A loop already runs in the calling thread."""

    async def cell() -> Any:
        return run(server, tile=SOUTH)

    assert_same(asyncio.run(cell()), want)


def test_arguments_by_position_as_the_ancestor_takes_them(server: Any) -> None:
    call = arguments(server, tile=SOUTH)
    head = [call.pop(k) for k in ("bbox", "datetime", "resolution")]
    assert_same(build_composite(*head, 2, 90.0, 64, **call), run(server, tile=SOUTH, top_k=2))


def test_fix_17_the_ancestors_adaptive_selection_composes_the_oldest_first(server: Any) -> None:
    """FIX-17: its fixed one composes the clearest first."""
    call = {"tile": SOUTH, "order": "ancestor", "fill": False}
    old = run(server, **call, coverage_target=0.5, min_k=8)
    fixed = run(server, **call, top_k=8)
    assert set(old.source_ids) == set(fixed.source_ids)
    days = [i.split("_")[2] for i in old.source_ids]
    assert days == sorted(days)
    assert old.source_ids != fixed.source_ids
    assert len(run(server, **call, coverage_target=0.01, min_k=1).source_ids) == 1


@pytest.mark.parametrize("twin", [build_composite, explain])
def test_the_time_limit(server: Any, twin: Any) -> None:
    server.reset(latency_ms=400)
    begun = time.monotonic()
    with pytest.raises(StalledError, match=r"timeout=0\.3 s"):
        twin(**arguments(server, timeout=0.3))
    assert time.monotonic() - begun < 1.5


def test_the_time_limit_when_awaited(server: Any, run_loop: Any) -> None:
    server.reset(latency_ms=400)
    with pytest.raises(StalledError, match=r"timeout=0\.3 s"):
        run_loop(build_composite_async(**arguments(server, timeout=0.3)))


def test_a_cancelled_task_leaves_nothing_behind(server: Any, want: Any, run_loop: Any) -> None:
    server.reset(latency_ms=100)

    async def main() -> int:
        task = asyncio.create_task(build_composite_async(**arguments(server, tile=SOUTH)))
        await asyncio.sleep(0.25)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks()) - 1

    assert run_loop(main()) == 0
    server.reset()
    assert_same(run(server, tile=SOUTH), want)


@pytest.mark.parametrize(
    "bad",
    [
        {"bbox": (6, 44, 5.9, 45)}, {"bbox": (5.9, 44.2, 5.91)}, {"resolution": 0}, {"resolution": "10m"},
        {"top_k": 0}, {"datetime": "July"}, {"datetime": "2024-08-01/2024-07-01"}, {"fill": 1.5},
        {"endpoint": "nowhere"}, {"resampling": "cubic"}, {"errors": "ignore"}, {"memory_limit": 5},
        {"emit_uncertainty": "yes"}, {"rule": "best"}, {"cloud_buffer": -5}, {"windowed_fetch": 1},
        {"bands": []}, {"bands": ["red", "rouge"]}, {"max_failed": -0.1}, {"threads": 0}, {"device": "tpu"},
    ],
)  # fmt: skip
def test_fix_35_bad_arguments_cost_no_request(server: Any, bad: dict[str, Any]) -> None:
    server.reset()
    with pytest.raises((InputError, ValueError, RuntimeError)):
        run(server, **bad)
    assert server.stats()["requests"] == {}


def test_pages_of_a_search(server: Any) -> None:
    want = run(server, tile="all")
    for endpoint in ("pc", "earth-search"):
        want = run(server, endpoint, tile="all")
        server.reset(page=3)
        assert_same(run(server, endpoint, tile="all"), want)
        assert server.stats()["requests"]["search"] > 5
        server.reset()


def test_the_report_tells_the_request(server: Any, want: Any, items: list[dict[str, Any]]) -> None:
    import json

    told = json.loads(want.report.to_json())
    assert told["request"]["datetime"] == DATES
    assert told["request"]["bands"] == ["red", "swir16"]
    assert told["counts"]["used"] == len(want.source_ids)
    assert sum(s["pixels_won"] for s in told["scenes"]) + told["empty_pixels"] == want.quality.size
    for ident in want.source_ids:
        won = int((winners(want) == ident).sum())
        assert want.report.scene(ident).pixels_won == won
    ranks = [want.report.scene(i).rank for i in want.source_ids]
    assert ranks == list(range(len(ranks)))
    assert item_of(items, want.source_ids[0])
