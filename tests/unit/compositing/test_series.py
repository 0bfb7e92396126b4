"""Series of composites: each period as if it were alone, few at once, one memory limit, no holes."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import os
import random
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from whole_run import arguments, assert_same, counted, forget_headers, path_of

import bestpixel_gpu
from bestpixel_gpu import (
    Composite,
    FailedPeriod,
    build_composite,
    build_monthly_composites,
    build_monthly_composites_async,
    iter_composites,
    iter_composites_async,
    iter_monthly_composites,
    iter_monthly_composites_async,
)
from bestpixel_gpu.compositing import scenes, series
from bestpixel_gpu.compositing.series import Series, Shares
from bestpixel_gpu.errors import CatalogError, InputError, MemoryLimitError, NoScenesError, StalledError
from bestpixel_gpu.plan.memory import MIB, output_bytes
from bestpixel_gpu.transfer.reader import Reader

if TYPE_CHECKING:
    from bestpixel_gpu.simulate import LocalArchive

SUMMER: dict[str, Any] = {"years": [2024], "months": [7, 8]}
SLIDING = ["2024-07-01/2024-07-31", "2024-07-10/2024-08-20", "P30D/2024-08-10"]
ENTRIES = (
    build_monthly_composites,
    build_monthly_composites_async,
    iter_monthly_composites,
    iter_monthly_composites_async,
    iter_composites,
    iter_composites_async,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalArchive]:
    """Twelve dates of one tile, from 2 July to 26 August 2024, five days apart."""
    from bestpixel_gpu.simulate import ArchiveSpec, build, serve

    spec = ArchiveSpec(dates=12, dialects=("pc",), tiles=1, south=False, seam=False, bands=("red", "swir16"))
    with serve(build(spec, tmp_path_factory.mktemp("series"))) as local:
        yield local


@pytest.fixture
def call(server: LocalArchive) -> dict[str, Any]:
    """Arguments of a series, but for its dates."""
    own = arguments(server, tile=server.tiles[0])
    del own["datetime"]
    return own


def alone(call: dict[str, Any], result: Any) -> Any:
    return build_composite(**call, datetime=result.period.dates)


# ---- the same as alone ----


def test_months_are_sorted_and_each_once(call: dict[str, Any]) -> None:
    got = build_monthly_composites(call.pop("bbox"), [2024], [8, 7, 8], **call)
    assert [(m["year"], m["month"], m["period"].name) for m in got] == [
        (2024, 7, "2024-07"),
        (2024, 8, "2024-08"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1, "fill": False},
        {"coverage_target": 0.9, "min_k": 1, "max_k": 3},
        {"order": "newest", "top_k": None, "resolution": 60},
        {"order": "ancestor"},
        {"crs": "EPSG:3857"},
        {"rule": "latest", "cloud_buffer": 60.0},
    ],
    ids=str,
)
def test_every_month_has_the_bytes_of_its_own_call(call: dict[str, Any], options: dict[str, Any]) -> None:
    call |= options
    got = build_monthly_composites(**call, **SUMMER)
    assert [type(m) for m in got] == [Composite, Composite]
    for month in got:
        assert_same(month, alone(call, month))


def test_reports_are_those_of_separate_calls_too(call: dict[str, Any]) -> None:
    forget_headers()
    got = list(iter_composites(**call, datetime="2024-07-01/2024-08-31", period="P10D"))
    for one in got[:-1]:
        forget_headers()
        want = alone(call, one).report
        same = ("bytes", "requests", "items_found", "wanted_tiles", "empty_pixels", "counts", "request")
        for name in same:
            if name == "requests":  # one token serves all periods
                assert 0 <= want.requests - one.report.requests <= 1
            elif name == "bytes":
                assert 0 <= want.bytes - one.report.bytes < 500
            else:
                assert getattr(one.report, name) == getattr(want, name), name
        assert [s.id for s in one.report.scenes] == [s.id for s in want.scenes]


@pytest.mark.parametrize("period", ["P10D", "P2W", "P3M", "P1Y", "P40D"])
def test_slices_have_the_bytes_of_their_own_calls(call: dict[str, Any], period: str) -> None:
    for one in iter_composites(**call, datetime="2024-07-01/2024-08-28", period=period):
        assert one.error is None
        assert_same(one, alone(call, one))


def test_overlapping_periods_read_each_mask_once(server: LocalArchive, call: dict[str, Any]) -> None:
    forget_headers()
    with counted(server) as stats:
        got = list(iter_composites(**call, datetime=SLIDING))
    masks = Counter((p, a) for p, a, _ in stats["log"] if "SCL" in p)
    assert len({p for p, _ in masks}) >= 10
    assert set(masks.values()) == {1}
    for one in got:
        assert_same(one, alone(call, one))


def test_equal_periods_are_equal(server: LocalArchive, call: dict[str, Any]) -> None:
    with counted(server) as stats:
        a, b = iter_composites(**call, datetime=["2024-07", "2024-07"])
    assert_same(a, b)
    assert stats["requests"]["search"] == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_in_another_order(call: dict[str, Any], monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    want = [build_composite(**call, datetime=dates) for dates in SLIDING]
    lot, real = random.Random(seed), Reader._range

    async def late(*args: Any) -> Any:
        answer = await real(*args)
        await asyncio.sleep(lot.random() * 0.05)
        return answer

    monkeypatch.setattr(Reader, "_range", late)
    for one, same in zip(iter_composites(**call, datetime=SLIDING), want, strict=True):
        assert_same(one, same)


def test_frozen_items_replay_a_series(server: LocalArchive, call: dict[str, Any]) -> None:
    items = server.items("pc")
    random.Random(3).shuffle(items)
    want = build_monthly_composites(**call, **SUMMER)
    with counted(server) as stats:
        got = build_monthly_composites(**call, **SUMMER, items=iter(items))
    assert "search" not in stats["requests"]
    for one, same in zip(got, want, strict=True):
        assert_same(one, same)
    july = [i for i in items if i["properties"]["datetime"].startswith("2024-07")]
    assert got[0].report.items_found == len(july)


def test_fix_19_items_with_a_null_datetime_belong_to_their_month(
    server: LocalArchive, call: dict[str, Any]
) -> None:
    items = copy.deepcopy(server.items("pc"))
    for item in items:
        own = item["properties"]
        own |= {"start_datetime": own["datetime"], "end_datetime": own["datetime"], "datetime": None}
    want = build_monthly_composites(**call, **SUMMER)
    for one, same in zip(build_monthly_composites(**call, **SUMMER, items=items), want, strict=True):
        assert_same(one, same)


def test_fix_36_the_last_fraction_of_a_month_is_in_it(server: LocalArchive, call: dict[str, Any]) -> None:
    items = copy.deepcopy(server.items("pc"))
    last = max(items, key=lambda i: i["properties"]["datetime"])
    last["properties"]["datetime"] = "2024-07-31T23:59:59.9995Z"
    july, august = build_monthly_composites(**call, **SUMMER, items=items)
    assert last["id"] in july.source_ids
    assert last["id"] not in august.source_ids


def test_a_second_run_makes_no_search(server: LocalArchive, call: dict[str, Any], tmp_path: Path) -> None:
    spans = {"datetime": "2024-07-01/2024-08-28", "period": "P10D", "disk_cache": tmp_path}
    first = list(iter_composites(**call, **spans))
    forget_headers()
    with counted(server) as stats:
        again = list(iter_composites(**call, **spans))
    assert "search" not in stats["requests"]
    assert all(a > 0 for _, a, _ in stats["log"])  # no header
    for one, same in zip(again, first, strict=True):
        assert_same(one, same)


def test_short_slices_share_a_search(server: LocalArchive, call: dict[str, Any]) -> None:
    with counted(server) as stats:
        got = list(iter_composites(**call, datetime="2024-07-01/2024-08-31", period="P5D"))
    assert len(got) == 13
    assert stats["requests"]["search"] == 3


# ---- the gate ----


def test_hazy_days_are_left_out(call: dict[str, Any]) -> None:
    aod = {f"2024-07-{d:02d}": 0.1 * i for i, d in enumerate((2, 7, 12, 17, 22))}
    gate = {"aod_by_day": aod, "aod_max": 0.2, "reject_unknown": True}
    july, august = build_monthly_composites(**call, **SUMMER, **gate)
    dates = {when.day for when in july.source_dates}
    assert dates == {2, 7, 12}  # 0.2 itself is kept
    gone = {s.date[:10]: s.reason for s in july.report.scenes if "AOD" in s.reason}
    assert gone == {
        "2024-07-17": "AOD above aod_max: 0.3 on 2024-07-17",
        "2024-07-22": "AOD above aod_max: 0.4 on 2024-07-22",
        "2024-07-27": "AOD of its day unknown: 2024-07-27",
    }
    assert july.timings["aod_rejected"] == 4  # one pass came in two parts
    assert isinstance(august, FailedPeriod)
    assert "AOD of its day unknown" in str(august.error)
    assert "aod_rejected" not in build_monthly_composites(**call, **SUMMER)[0].timings


def test_the_ancestors_timings_are_there(call: dict[str, Any]) -> None:
    keys = {"fetch", "compose", "total", "read_megapixels", "shared_list_scenes", "shared_scout"}
    for month in build_monthly_composites(**call, **SUMMER):
        assert keys <= set(month["timings"])


# ---- failures ----


def test_fix_11_a_month_without_scenes_is_an_entry_that_says_so(call: dict[str, Any]) -> None:
    got = build_monthly_composites(**call, years=[1999, 2024], months=[7])
    assert [m["year"] for m in got] == [1999, 2024]
    empty, july = got
    assert isinstance(empty, FailedPeriod)
    assert isinstance(empty.error, NoScenesError)
    assert "dates 1999-07-01/1999-07-31" in str(empty.error)
    assert july.error is None
    assert_same(july, alone(call, july))


def test_months_too_cloudy_are_entries(call: dict[str, Any]) -> None:
    got = list(iter_composites(**call, datetime="2024-07-01/2024-07-31", period="P10D", max_cloud_cover=15))
    kinds = [type(one) for one in got]
    assert FailedPeriod in kinds
    assert Composite in kinds
    for one in got:
        if isinstance(one, FailedPeriod):
            with pytest.raises(NoScenesError):
                build_composite(**call, datetime=one.period.dates, max_cloud_cover=15)


def test_fix_11_one_search_that_fails_costs_one_month(
    call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scenes.search

    def broken(query: Any) -> Any:
        if query.start.month == 7:
            raise CatalogError("the catalogue is down")
        return real(query)

    monkeypatch.setattr(scenes, "search", broken)
    july, august = build_monthly_composites(**call, **SUMMER)
    assert isinstance(july, FailedPeriod)
    assert str(july.error) == "the catalogue is down"
    assert july.error.__traceback__ is None  # its frames would keep the run's arrays
    assert august.error is None


def test_a_failed_search_is_asked_anew_by_later_periods(
    call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "AT_ONCE", 1)
    real, asked = scenes.search, []

    def once(query: Any) -> Any:
        asked.append(query)
        if len(asked) == 1:
            raise CatalogError("try again")
        return real(query)

    monkeypatch.setattr(scenes, "search", once)
    got = list(iter_composites(**call, datetime="2024-07-01/2024-07-30", period="P10D"))
    assert [one.error is None for one in got] == [False, True, True]
    assert len(asked) == 2


def test_where_nothing_is_found_at_all_it_raises(call: dict[str, Any]) -> None:
    with pytest.raises(NoScenesError, match="1999-06") as raised:
        build_monthly_composites(**call, years=[1999], months=[6, 7])
    assert "none of 2 periods has a composite" in raised.value.__notes__[0]
    assert all(
        isinstance(m, FailedPeriod) for m in iter_monthly_composites(**call, years=1999, months=[6, 7])
    )


def test_dead_files_fail_their_month_only(server: LocalArchive, call: dict[str, Any]) -> None:
    forget_headers()
    july = [i for i in server.items("pc") if "2024-07" in i["properties"]["datetime"]]
    server.reset(faults={path_of(i, "SCL"): "404" for i in july})
    got = build_monthly_composites(**call, **SUMMER)
    assert isinstance(got[0], FailedPeriod)
    assert "could not be read" in str(got[0].error)
    assert got[0].report.counts["failed"] >= 6
    assert got[1].error is None


def test_an_error_of_the_callers_own_comes_through(call: dict[str, Any]) -> None:
    def order(scene: Any) -> Any:
        raise ZeroDivisionError(scene.id)

    with pytest.raises(ZeroDivisionError):
        build_monthly_composites(**call, **SUMMER, order=order)
    assert build_composite(**call, datetime="2024-07").error is None  # and nothing is left behind


# ---- refused before any request ----


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"months": []}, "months is empty"),
        ({"months": [13]}, "months must be"),
        ({"years": []}, "years is empty"),
        ({"bands": ["B04"]}, "unknown band"),
        ({"endpoint": "nowhere"}, "endpoint"),
        ({"resolution": 0}, "resolution"),
        ({"bbox": (1, 2, 3)}, "bbox"),
        ({"aod_by_day": {"2024": 1}, "aod_max": 1}, "is no day"),
        ({"coverage_target": 0.9, "min_k": 9, "max_k": 2}, "min_k 9 is above max_k 2"),
        ({"top_k": 0}, "top_k"),
    ],
    ids=str,
)
@pytest.mark.parametrize("entry", [build_monthly_composites, iter_monthly_composites])
def test_bad_arguments_are_refused_by_the_call_itself(
    server: LocalArchive, call: dict[str, Any], entry: Any, changed: dict[str, Any], message: str
) -> None:
    server.reset()
    with pytest.raises(InputError, match=message):
        entry(**(call | SUMMER | changed))
    assert server.stats()["requests"] == {}


def test_items_that_are_none_are_refused(server: LocalArchive, call: dict[str, Any]) -> None:
    server.reset()
    with pytest.raises(InputError, match="items"):
        build_monthly_composites(**call, **SUMMER, items=[7])
    assert server.stats()["requests"] == {}


def test_signatures_are_those_of_one_composite_with_other_dates() -> None:
    one = list(inspect.signature(build_composite).parameters)
    gate = ["aod_by_day", "aod_max", "reject_unknown"]
    for entry in ENTRIES:
        own = list(inspect.signature(entry).parameters)
        dates = ["datetime", "period"] if "monthly" not in entry.__name__ else ["years", "months"]
        assert own[:4] == ["bbox", *dates, "resolution"]
        assert own[own.index("emit_uncertainty") - 3 : own.index("emit_uncertainty")] == gate
        assert [n for n in own if n not in (*dates, *gate)] == [n for n in one if n != "datetime"]
    with pytest.raises(TypeError, match="years"):
        build_monthly_composites((1, 2, 3, 4))
    with pytest.raises(TypeError, match="datetime"):
        iter_monthly_composites((1, 2, 3, 4), [2024], [7], datetime="2024")


# ---- memory ----


def test_shares_never_exceed_the_limit() -> None:
    for limit in (40 * MIB, 400 * MIB, 4000 * MIB):
        for output in (1 * MIB, 30 * MIB, 350 * MIB):
            for n in (1, 2, 5, 200):
                for collected in (True, False):
                    check_shares(limit, output, n, collected)


def check_shares(limit: int, output: int, n: int, collected: bool) -> None:
    try:
        shares = Shares.of(limit, output, n, collected)
    except MemoryLimitError:
        assert limit < (n if collected else min(n, 2)) * output
        return
    resident = n if collected else min(n, shares.at_once + 1)
    assert 1 <= shares.at_once <= min(n, series.AT_ONCE)
    assert shares.spare + resident * output <= limit
    assert shares.at_once == 1 or shares.spare >= shares.at_once * series.COMFORT
    assert shares.held == (resident - 1) * output


class Watch:
    """What the sessions under way were promised together, at any moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: list[int] = []
        self.most, self.at_once, self.planned, self.made = 0, 0, [], 0
        real = Series._composite

        async def watched(this: Series, session: Any, period: Any) -> Any:
            share = session.memory_limit - this._output
            self.running.append(share)
            self.made += 1
            self.most = max(self.most, sum(self.running))
            self.at_once = max(self.at_once, len(self.running))
            try:
                return await real(this, session, period)
            finally:
                self.running.remove(share)
                self.planned.append((session.report.memory.get("peak", 0), session.memory_limit))

        monkeypatch.setattr(Series, "_composite", watched)


@pytest.mark.parametrize("collected", [True, False])
def test_all_periods_under_way_keep_within_one_limit(
    call: dict[str, Any], monkeypatch: pytest.MonkeyPatch, collected: bool
) -> None:
    monkeypatch.setattr(series, "COMFORT", 4 * MIB)
    watch, limit = Watch(monkeypatch), 24 * MIB
    call["memory_limit"] = limit
    if collected:
        got = build_monthly_composites(**call, years=[2023, 2024], months=[6, 7, 8])
    else:
        got = list(iter_composites(**call, datetime="2024-07-01/2024-08-28", period="P5D"))
    pixels = np.prod(next(one for one in got if one.error is None).grid.shape)
    resident = len(got) if collected else watch.at_once + 1
    assert watch.at_once >= 2
    assert watch.most + resident * output_bytes(int(pixels), 2) <= limit
    assert all(peak <= own for peak, own in watch.planned)
    for one in got:
        if one.error is None:
            assert_same(one, alone(call, one))


def test_a_period_too_large_for_its_share_is_made_alone(
    server: LocalArchive, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "COMFORT", 0)
    watch = Watch(monkeypatch)
    call["memory_limit"] = 6 * MIB
    got = list(iter_composites(**call, datetime="2024-07-01/2024-08-28", period="P10D"))
    assert watch.made > len(got), "a limit under which the shares are too small is wanted"
    assert [one.error for one in got] == [None] * len(got)
    assert watch.most <= 6 * MIB
    for one in got:
        assert_same(one, alone(call, one))


def test_a_list_that_cannot_fit_is_refused_and_the_iterator_named(
    server: LocalArchive, call: dict[str, Any]
) -> None:
    call |= {"memory_limit": 2 * MIB}
    server.reset()
    with pytest.raises(MemoryLimitError, match=r"120 composites of .*iter_monthly_composites"):
        build_monthly_composites(**call, years=range(2015, 2025), months=range(1, 13))
    assert server.stats()["requests"] == {}


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The red layers that exist."""
    found: list[int] = []
    real = series.carry_out

    async def born(*args: Any) -> Any:
        composite = await real(*args)
        red = composite.bands["red"]
        found.append(id(red))
        weakref.finalize(red, found.remove, id(red))
        return composite

    monkeypatch.setattr(series, "carry_out", born)
    return found


def test_few_composites_live_at_one_time(
    call: dict[str, Any], monkeypatch: pytest.MonkeyPatch, alive: list[int]
) -> None:
    monkeypatch.setattr(series, "AT_ONCE", 2)
    n = 0
    for one in iter_composites(**call, datetime="2024-07-01/2024-08-28", period="P5D"):
        n += 1
        time.sleep(0.15)  # the next ones are made meanwhile
        gc.collect()
        assert len(alive) <= 3, n
        assert one.error is None
    assert n == 12


def test_what_the_caller_lets_go_is_gone_before_the_next_is_made(
    call: dict[str, Any], monkeypatch: pytest.MonkeyPatch, alive: list[int]
) -> None:
    monkeypatch.setattr(series, "AT_ONCE", 1)
    results = iter_composites(**call, datetime="2024-07-01/2024-08-28", period="P10D")
    real, others = series.decide, []

    async def begun(session: Any) -> Any:
        for _ in range(200):  # a thread that has just ended its work may hold on a little longer
            if alive:
                await asyncio.sleep(0.01)
        others.append(len(alive))
        return await real(session)

    monkeypatch.setattr(series, "decide", begun)
    for _ in range(3):
        next(results)  # and not kept
    assert others == [0, 0, 0]


# ---- iterating ----


def test_nothing_is_asked_before_the_first_and_little_before_the_next(
    server: LocalArchive, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "AT_ONCE", 2)
    server.reset()
    months = iter_monthly_composites(**call, years=range(1990, 2000), months=range(1, 13))
    assert server.stats()["requests"] == {}
    assert next(months)["period"].name == "1990-01"
    time.sleep(0.2)
    assert server.stats()["requests"]["search"] == 2
    months.close()
    time.sleep(0.2)
    assert server.stats()["requests"]["search"] == 2


def test_an_iterator_that_is_left_stops_everything(server: LocalArchive, call: dict[str, Any]) -> None:
    for one in iter_composites(**call, datetime="2024-07-01/2024-08-28", period="P5D"):
        assert one.error is None
        break
    gc.collect()
    before = server.stats()["requests"]
    time.sleep(0.3)
    assert server.stats()["requests"] == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_refused_and_ends(call: dict[str, Any]) -> None:
    results = iter_composites(**call, datetime="2024-07-01/2024-08-28", period="P10D")
    next(results)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            next(results)
        except RuntimeError as exc:
            os._exit(7 if "forked child" in str(exc) else 8)
        finally:
            os._exit(9)
    for _ in range(100):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
    assert done
    assert os.waitstatus_to_exitcode(status) == 7
    assert next(results).error is None


def test_async_twins(call: dict[str, Any]) -> None:
    async def main() -> tuple[list[Any], list[Any], list[Any]]:
        listed = await build_monthly_composites_async(**call, **SUMMER)
        iterated = [m async for m in iter_monthly_composites_async(**call, **SUMMER)]
        span = {"datetime": "2024-07-01/2024-08-31", "period": "P1M"}
        return listed, iterated, [m async for m in iter_composites_async(**call, **span)]

    want = build_monthly_composites(**call, **SUMMER)
    for got in asyncio.run(main()):
        for one, same in zip(got, want, strict=True):
            assert_same(one, same)


def test_cancelling_ends_the_whole_series(server: LocalArchive, call: dict[str, Any]) -> None:
    server.reset(latency_ms=300)

    async def main() -> float:
        task = asyncio.create_task(build_monthly_composites_async(**call, **SUMMER))
        await asyncio.sleep(0.5)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    assert asyncio.run(main()) < 1.0


def test_timeout_is_for_the_list_or_for_each_wait(server: LocalArchive, call: dict[str, Any]) -> None:
    forget_headers()
    server.reset(latency_ms=400)
    with pytest.raises(StalledError, match="timeout"):
        build_monthly_composites(**call, **SUMMER, timeout=0.3)
    with pytest.raises(StalledError, match="timeout"):
        next(iter_monthly_composites(**call, **SUMMER, timeout=0.3))


def test_progress_counts_periods(call: dict[str, Any]) -> None:
    told: list[tuple[str, int, int]] = []
    build_monthly_composites(**call, years=2024, months=[6, 7, 8], progress=lambda *a: told.append(a))
    assert told == [("periods", n, 3) for n in (1, 2, 3)]


def test_series_stack_along_time(call: dict[str, Any]) -> None:
    xr = pytest.importorskip("xarray")
    got = build_monthly_composites(**call, **SUMMER)
    stack = xr.concat([m.to_xarray() for m in got], "time", combine_attrs="drop_conflicts")
    assert stack["red"].dims == ("time", "y", "x")
    assert [str(t)[:10] for t in stack.time.values] == ["2024-07-01", "2024-08-01"]
    assert stack["red"].dtype == np.uint16
    assert (stack["red"].isel(time=1).values == got[1].bands["red"]).all()


def test_names_are_public() -> None:
    for entry in (*ENTRIES, FailedPeriod, bestpixel_gpu.Period):
        assert getattr(bestpixel_gpu, entry.__name__) is entry
