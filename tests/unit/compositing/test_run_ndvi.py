"""rule="ndvi" in whole runs: of the best score the greatest NDVI, against runs of single scenes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from whole_run import HOME, arguments, assert_same, forget_headers, item_of, path_of, run, winners

from bestpixel_gpu import explain
from bestpixel_gpu.compositing import contest, setup
from bestpixel_gpu.errors import InputError, NoScenesError
from bestpixel_gpu.geo.grid import chunk_edges
from bestpixel_gpu.plan.memory import MIB, Budget
from bestpixel_gpu.transfer.reader import Reader

CALL: dict[str, Any] = {"tile": "all", "resolution": 25, "bands": ["swir16", "red", "nir"], "top_k": None}


def alone(server: Any, band_sets: list[list[str]] | None = None, **options: Any) -> dict[str, Any]:
    """Every scene's own composite, bands read apart: each band's validity is its own."""
    found = {}
    for item in server.items("pc"):
        with suppress(NoScenesError):
            found[item["id"]] = {
                band: run(server, **options | {"bands": [band], "items": [item]}) for band in options["bands"]
            }
    return found


def by_hand(singles: dict[str, Any], ids: list[str], bands: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(winner's place in ids or -1, value of each band), by the definition."""
    values = np.array([[np.asarray(singles[i][b].bands[b]) for b in bands] for i in ids]).astype(np.int64)
    quality = np.array([np.min([np.asarray(c.quality) for c in singles[i].values()], axis=0) for i in ids])
    red, nir = values[:, bands.index("red")], values[:, bands.index("nir")]
    ndvi = (nir - red) / np.maximum(nir + red, 1)
    ok = (values != 65535).all(axis=1)
    # distinct fractions of these sizes differ in float64 by more than rounding
    rank = np.broadcast_to(np.arange(len(ids))[:, None, None], ok.shape)
    best = np.lexsort((rank, -ndvi, np.where(ok, quality.astype(np.int64), 1 << 30)), axis=0)[0]
    none = ~ok.any(axis=0)
    picked = np.take_along_axis(values, best[None, None], axis=0)[0]
    return np.where(none, -1, best), np.where(none, 65535, picked)


@pytest.fixture(scope="module")
def singles(server: Any) -> dict[str, Any]:
    return alone(server, **CALL)


def assert_as_by_hand(got: Any, singles: dict[str, Any], bands: list[str]) -> None:
    ids = [i for i in got.source_ids if i in singles]
    best, values = by_hand(singles, ids, bands)
    want = np.where(best < 0, "", np.array([*ids, ""], dtype=object)[best])
    differ = int((winners(got) != want).sum())
    assert not differ, f"{differ} of {want.size} winners differ"
    for band in got.bands:
        np.testing.assert_array_equal(got.bands[band], values[bands.index(band)])


@pytest.mark.parametrize("bands", [["swir16", "red", "nir"], ["swir16"], ["nir", "red"], ["red"]])
def test_the_greenest_of_the_best_score_wins(server: Any, singles: dict[str, Any], bands: list[str]) -> None:
    got = run(server, **CALL | {"bands": bands}, rule="ndvi")
    judged = [b for b in CALL["bands"] if b in (*bands, "red", "nir")]
    some = {i: {b: c[b] for b in judged} for i, c in singles.items()}
    assert_as_by_hand(got, some, judged)
    assert list(got.bands) == bands


def test_it_differs_from_the_clearest_only_among_equals(server: Any) -> None:
    green, plain = run(server, **CALL, rule="ndvi"), run(server, **CALL)
    assert (winners(green) != winners(plain)).mean() > 0.2
    np.testing.assert_array_equal(green.quality, plain.quality)
    np.testing.assert_array_equal(green.observation_count, plain.observation_count)
    seen = np.asarray(plain.selected_observation) >= 0
    index = []
    for c in (green, plain):
        red, nir = (np.asarray(c.bands[b]).astype(float) for b in ("red", "nir"))
        index.append((nir - red) / np.maximum(nir + red, 1))
    assert (index[0] >= index[1])[seen].all()


def test_the_same_in_parts(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {**CALL, "rule": "ndvi", "top_k": 2}
    want = run(server, **options)
    real = Budget.of
    least = {"strip": 1, "codes": 0, "kept": 0, "undecoded": 1}
    monkeypatch.setattr(Budget, "of", lambda *args: replace(real(*args), **least))
    assert_same(run(server, **options, threads=3), want)
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, n: chunk_edges(origin, n, 70))
    assert_same(run(server, **CALL, rule="ndvi", threads=3), run(server, **CALL, rule="ndvi", threads=1))


def test_scenes_are_read_side_by_side(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scene's first band tile is answered before several scenes have asked for theirs."""
    call: dict[str, Any] = {"tile": HOME, "top_k": None, "rule": "ndvi"}
    want = run(server, **call)
    paths = {path_of(i, a): i["id"] for i in server.items("pc") for a in ("B04", "B08")}
    real, asked, enough = Reader.read_many, set[str](), asyncio.Event()

    async def read_many(self: Reader, href: str, *args: Any, **options: Any) -> Any:
        asked.update(ident for path, ident in paths.items() if path in href)
        if len(asked) >= 4:
            enough.set()
        await asyncio.wait_for(enough.wait() if asked else asyncio.sleep(0), 20)
        return await real(self, href, *args, **options)

    monkeypatch.setattr(Reader, "read_many", read_many)
    assert_same(run(server, **call), want)
    assert len(asked) == len(want.source_ids) >= 4


def test_how_many_is_a_matter_of_memory(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [contest.lanes_beside(spare, MIB) for spare in (0, MIB - 1, 3 * MIB, 1 << 40)] == [0, 0, 3, 7]
    large = 50 * MIB
    assert [contest.lanes_beside(spare, large) for spare in (large - 1, large, 1 << 40)] == [0, 1, 1]
    call: dict[str, Any] = {**CALL, "rule": "ndvi"}
    want = run(server, **call)
    seen: list[int] = []
    real = contest.lanes_beside
    monkeypatch.setattr(contest, "lanes_beside", lambda *args: seen.append(real(*args)) or seen[-1])
    tight = run(server, **call, memory_limit=want.report.memory["peak"] + 1000)
    assert seen.pop() == 0
    assert_same(tight, want)
    assert_same(run(server, **call), want)
    assert seen.pop() > 2


def test_tiles_that_are_lost_leave_the_rest(server: Any) -> None:
    """A file of red without tiles: its scene competes nowhere. One of another band: repair finds the next."""
    call: dict[str, Any] = {**CALL, "tile": HOME, "resolution": 10, "rule": "ndvi"}
    items = server.items("pc")
    plain = run(server, **call)
    source = np.asarray(plain.selected_observation)
    ident = plain.source_ids[int(np.bincount(source[source >= 0]).argmax())]
    rest = run(server, **call, items=[i for i in items if i["id"] != ident])
    assert len(rest.source_ids) == len(plain.source_ids) - 1
    for asset in ("B04", "B11"):
        server.reset(faults={path_of(item_of(items, ident), asset): "404"})  # its header is known
        with pytest.warns(UserWarning, match="could not be read"):
            got = run(server, **call)
        assert got.report.lost_tiles
        np.testing.assert_array_equal(winners(got), winners(rest))
        for band in CALL["bands"]:
            np.testing.assert_array_equal(got.bands[band], rest.bands[band])


def test_explain_and_report_tell_what_it_reads(server: Any) -> None:
    call = arguments(server, tile=HOME, bands=["swir16"], top_k=None)
    server.reset()
    cost = explain(**call, rule="ndvi")
    assert "every scene" in str(cost)
    assert set(cost.bytes_by_band) == {"swir16", "red", "nir"}
    plain = explain(**call | {"bands": ["red", "nir"]})
    assert cost.bytes_by_band["red"] > 1.3 * plain.bytes_by_band["red"]
    forget_headers()
    got = run(server, tile=HOME, bands=["swir16"], top_k=None, rule="ndvi")
    assert "every scene" in str(got.report)
    if not got.report.repair_rounds:
        wanted = cost.tiles_by_band["red"] + cost.tiles_by_band["nir"]
        assert wanted <= got.report.wanted_tiles <= wanted + 2 * cost.tiles_by_band["swir16"]


def test_what_makes_no_sense_is_refused(server: Any) -> None:
    with pytest.raises(InputError, match="order='ancestor'"):
        run(server, rule="ndvi", order="ancestor")
