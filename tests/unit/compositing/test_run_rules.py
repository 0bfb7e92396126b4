"""The pixel rules in whole runs, against the archive's own files read by tifffile.

At 20 m on the masks' own grid every output pixel is one mask pixel and one pixel of a 20 m band, so
the rules are a few lines of NumPy: no resampling, no positions (`tests/stack.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile
from by_hand import CHUNK, PLAIN, Stack, assert_as_by_hand
from whole_run import SOUTH, assert_same, file_of, item_of, run, winners

from bestpixel_gpu.compositing import setup
from bestpixel_gpu.errors import NoScenesError
from bestpixel_gpu.geo.grid import chunk_edges


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selection chunks of 40 pixels, so that a small picture has several."""
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, n: chunk_edges(origin, n, CHUNK))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("order", ["clearest", "cloud_cover", "newest", "oldest", "nearest:2024-07-14"])
@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("fill", [True, False, 0.001, 0.05])
def test_a_run_is_what_the_rules_say(
    country: Any, stack: Stack, order: str, top_k: int | None, fill: float | bool
) -> None:
    assert len(stack.chunks()) >= 4
    got = run(country, **PLAIN, order=order, top_k=top_k, fill=fill)
    share = {True: 0.0, False: None}[fill] if isinstance(fill, bool) else fill
    assert_as_by_hand(got, stack.composite(order, top_k, share))
    picked = stack.selected(stack.rank(order), top_k)
    assert {s.id for s in got.report.scenes if s.selected} == {stack.ids[i] for i in picked}


@pytest.mark.usefixtures("small_chunks")
def test_the_cases_above_are_different_ones(stack: Stack) -> None:
    """Selection, fill and bars all matter somewhere, else the test above would show little."""
    pictures = [
        stack.composite("oldest", k, f)["winner"] for k, f in ((None, 0), (1, 0), (1, 0.05), (1, None))
    ]
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            assert (a != b).sum() > 10


def test_fill_leaves_nothing_cloudy_that_was_clear_once(country: Any, stack: Stack) -> None:
    got = run(country, **PLAIN, top_k=1, fill=True)
    clear_once = ((stack.score == 0) & stack.ok).any(axis=0)
    assert (np.asarray(got.quality)[clear_once] == 0).all()
    only = run(country, **PLAIN, top_k=1, fill=False)
    assert (np.asarray(only.quality)[clear_once] != 0).any()


def test_repair_goes_on_until_a_band_has_a_value(country: Any, stack: Stack) -> None:
    """The bands of a swath's edge end before its mask does: the scenes cut there are put first."""
    cut = {stack.ids[i] for i in range(len(stack.ids)) if (~stack.ok[i] & (stack.score[i] < 65535)).any()}
    assert len(cut) >= 2

    def key(scene: Any) -> int:
        return 0 if scene.id in cut else 1

    got = run(country, **PLAIN, top_k=None, order=key)
    assert got.report.repair_rounds >= 1
    order = sorted(
        range(len(stack.ids)), key=lambda i: (stack.ids[i] not in cut, stack.when[i], stack.ids[i])
    )
    assert got.source_ids == [stack.ids[i] for i in order]
    mask_winner = np.array(order)[np.argmin([stack.score[i] * 100 + p for p, i in enumerate(order)], axis=0)]
    rows, cols = np.indices(stack.grid.shape)
    hidden = ~stack.ok[mask_winner, rows, cols] & (stack.score[mask_winner, rows, cols] < 65535)
    assert hidden.sum() > 20
    quality, source = np.asarray(got.quality), np.asarray(got.selected_observation)
    value = np.asarray(got.bands["swir16"])
    assert ((value == 65535) == (source < 0)).all()
    assert ((quality == 65535) == (source < 0)).all()
    rescued = hidden & (source >= 0)
    assert rescued.any()
    won = np.array(order)[source]
    np.testing.assert_array_equal(value[rescued], stack.value[won, rows, cols][rescued])
    # repair does not touch the count
    np.testing.assert_array_equal(got.observation_count, (stack.score < 65535).sum(axis=0))


def test_all_bands_take_part_in_repair(country: Any, stack: Stack) -> None:
    """A pixel has a value in every band, or in none."""
    got = run(country, **(PLAIN | {"bands": ["red", "swir16"]}), order="oldest", top_k=None)
    red, swir = (np.asarray(got.bands[b]) == 65535 for b in ("red", "swir16"))
    np.testing.assert_array_equal(red, swir)
    assert got.report.empty_pixels == int(red.sum())


def test_fix_18_the_split_strip_stays_and_the_duplicate_goes(country: Any, stack: Stack) -> None:
    got = run(country, **PLAIN)
    halves = [i for i in stack.ids if "20240717T" in i.split("_")[2]]
    assert len(halves) == 2
    assert set(halves) <= set(got.source_ids)
    dropped = [s for s in got.report.scenes if s.status == "dropped"]
    assert [s.reason.partition(":")[0] for s in dropped] == [
        f"duplicate of {next(i for i in stack.ids if '20240707T' in i.split('_')[2])}"
    ]
    assert got.report.items_found == len(stack.ids) + 1


@pytest.mark.usefixtures("small_chunks")
def test_adaptive_selection_reaches_its_target(country: Any, stack: Stack) -> None:
    def picked(**options: Any) -> set[str]:
        got = run(country, **PLAIN, fill=False, **options)
        assert all(s.selected for s in got.report.scenes if s.status == "used" and s.rank is not None)
        return set(got.source_ids)

    few = picked(coverage_target=0.05, min_k=1, max_k=8)
    more = picked(coverage_target=0.97, min_k=1, max_k=8)
    capped = picked(coverage_target=0.97, min_k=1, max_k=1)
    assert few < more
    assert len(capped) < len(more)
    rounds = picked(coverage_target=0.05, min_k=7, max_k=8)
    assert rounds == set(stack.ids)
    got = run(country, **PLAIN, fill=False, coverage_target=0.97, min_k=1, max_k=8)
    clear = ((stack.score == 0) & stack.ok).any(axis=0)
    assert (np.asarray(got.quality)[clear] == 0).mean() > 0.95


@pytest.mark.parametrize("endpoint", ["pc", "earth-search"])
@pytest.mark.parametrize("options", [{}, {"resampling": "nearest"}, {"resolution": 35}])
def test_a_composite_is_the_best_of_its_scenes_alone(server: Any, endpoint: str, options: Any) -> None:
    """Whatever was resampled, in whichever zone: painted together is painted alone."""
    call = {"tile": "all", "resolution": 15, "max_cloud_cover": 100, "fill": True, **options}
    got = run(server, endpoint, **call, order="newest", top_k=None)
    alone: dict[str, Any] = {}
    for ident in got.source_ids:
        try:
            alone[ident] = run(server, endpoint, **call, items=[item_of(server.items(endpoint), ident)])
        except NoScenesError:
            continue
    ids = [i for i in got.source_ids if i in alone]
    assert len(ids) > 15
    quality = np.array([alone[i].quality for i in ids]).astype(np.int64)
    key = quality * 1000 + np.arange(len(ids))[:, None, None]
    best, none = key.argmin(axis=0), quality.min(axis=0) == 65535
    rows, cols = np.indices(none.shape)
    for band in got.bands:
        value = np.array([alone[i].bands[band] for i in ids])[best, rows, cols]
        np.testing.assert_array_equal(got.bands[band], np.where(none, 65535, value))
    np.testing.assert_array_equal(got.quality, quality.min(axis=0))
    np.testing.assert_array_equal(winners(got), np.where(none, "", np.array(ids, dtype=object)[best]))
    counts = np.array([alone[i].observation_count for i in ids]).sum(axis=0)
    np.testing.assert_array_equal(got.observation_count, counts)


def test_nearest_takes_stored_samples_only(server: Any) -> None:
    """Between the pixels of the archive nothing is mixed."""
    got = run(
        server, tile=SOUTH, resolution=7, bands=["red"], resampling="nearest", order="oldest", top_k=None
    )
    mixed = run(server, tile=SOUTH, resolution=7, bands=["red"], order="oldest", top_k=None)
    stored = set()
    for ident in got.source_ids:
        item = item_of(server.items("pc"), ident)
        off = got.report.scene(ident).offset
        data = tifffile.imread(file_of(server, item, "B04"), key=0).astype(int)
        stored |= set(np.maximum(data - off, 0).ravel().tolist())
    assert set(np.unique(got.bands["red"]).tolist()) - {65535} <= stored
    assert (got.bands["red"] != mixed.bands["red"]).mean() > 0.5
    np.testing.assert_array_equal(got.quality, mixed.quality)


def test_worst_class_of_a_large_pixel(country: Any, stack: Stack) -> None:
    """60 m pixels cover nine of the mask; nearest asks the one in the middle only."""
    options = {**PLAIN, "resolution": 60, "top_k": None, "fill": True}
    worst = run(country, **options)
    middle = run(country, **options, mask_resampling="nearest")
    r, c = (round((stack.grid.top - worst.grid.top) / 20), round((worst.grid.left - stack.grid.left) / 20))
    h, w = worst.grid.shape
    usable = np.pad(stack.score < 65535, ((0, 0), (9, 9), (9, 9)))
    rows, cols = slice(9 + r, 9 + r + 3 * h), slice(9 + c, 9 + c + 3 * w)
    cells = usable[:, rows, cols].reshape(len(stack.ids), h, 3, w, 3)
    inside = np.s_[1:-1, 1:-1]
    np.testing.assert_array_equal(worst.observation_count[inside], cells.all(axis=(2, 4)).sum(axis=0)[inside])
    np.testing.assert_array_equal(middle.observation_count[inside], cells[:, :, 1, :, 1].sum(axis=0)[inside])
    assert (worst.observation_count < middle.observation_count).any()


def test_max_cloud_cover_is_a_strict_limit(country: Any, stack: Stack) -> None:
    limit = sorted(stack.cloud)[3]
    got = run(country, **(PLAIN | {"max_cloud_cover": limit}))
    assert set(got.source_ids) == {i for i, c in zip(stack.ids, stack.cloud, strict=True) if c < limit}
    replay = run(country, **(PLAIN | {"max_cloud_cover": limit}), items=stack.items)
    assert_same(replay, got)
    assert {s.reason.partition(" ")[0] for s in replay.report.scenes if s.status == "dropped"} == {"cloud"}


def test_dates_are_whole_days(country: Any, stack: Stack) -> None:
    got = run(country, **(PLAIN | {"datetime": "2024-07-07/2024-07-12"}))
    assert {w.date().isoformat() for w in got.source_dates} == {"2024-07-07", "2024-07-12"}
    one = run(country, **(PLAIN | {"datetime": "2024-07-12"}))
    assert {w.date().isoformat() for w in one.source_dates} == {"2024-07-12"}
    replay = run(country, **(PLAIN | {"datetime": "2024-07-12"}), items=stack.items)
    assert_same(replay, one)
    assert {s.reason for s in replay.report.scenes if s.status == "dropped"} == {"outside the dates"}
