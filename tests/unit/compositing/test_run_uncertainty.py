"""emit_uncertainty: the ancestor's figures, and sums over single scenes' own composites."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from whole_run import BANDS, HOME, arguments, assert_same, item_of, path_of, run

from bestpixel_gpu import explain
from bestpixel_gpu.compositing import setup
from bestpixel_gpu.compositing.uncertainty import standard_uncertainty
from bestpixel_gpu.errors import MemoryLimitError, NoScenesError
from bestpixel_gpu.geo.grid import chunk_edges
from bestpixel_gpu.plan.memory import Budget

CALL: dict[str, Any] = {"tile": "all", "resolution": 25, "emit_uncertainty": True}


def sums_of(*values: int) -> list[Any]:
    """Sums of some values, as the engines make them."""
    exact = len(values), sum(values), sum(v * v for v in values)
    return [np.array([[n]], t) for n, t in zip(exact, (np.uint32, np.uint64, np.uint64), strict=True)]


@pytest.mark.parametrize(
    ("values", "winner", "want"),
    [((1908, 1908), 1908, 38.16), ((1000, 1100, 1200), 1000, 101.98), ((500,), 500, 10), ((0, 0), 0, 10)],
)
def test_figures_of_the_ancestor(values: tuple[int, ...], winner: int, want: float) -> None:
    got = standard_uncertainty(*sums_of(*values), np.array([[winner]], np.uint16))
    assert got.dtype == np.float32
    assert got[0, 0] == pytest.approx(want, abs=5e-3)


def test_extreme_sums_are_exact() -> None:
    values = [65534] * 65535 + [65533]
    got = standard_uncertainty(*sums_of(*values), np.array([[100]], np.uint16))
    assert got[0, 0] == 10
    wide = standard_uncertainty(*sums_of(*[0] * 32768, *[65534] * 32767), np.array([[0]], np.uint16))
    assert wide[0, 0] == np.float32(np.std([0] * 32768 + [65534] * 32767, ddof=1))
    assert np.isnan(standard_uncertainty(*sums_of(7), np.array([[65535]], np.uint16))).all()


def by_hand(server: Any, got: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Uncertainty from composites of every scene for itself."""
    source, quality = np.asarray(got.selected_observation), np.asarray(got.quality)
    picked = {s.id for s in got.report.scenes if s.selected}
    sums: dict[str, list[Any]] = {b: [] for b in got.bands}
    for rank, ident in enumerate(got.source_ids):
        won = source == rank
        if ident not in picked and not won.any():
            continue
        for band in got.bands:
            with suppress(NoScenesError):
                single = options | {"items": [item_of(server.items("pc"), ident)], "bands": [band]}
                one = run(server, **single)
                alike = np.asarray(one.quality) == quality
                value = np.asarray(one.bands[band]).astype(float)
                counts = (alike if ident in picked else won) & (value != 65535)
                sums[band].append(np.where(counts, value, np.nan))
    found = {}
    for band, values in sums.items():
        stack = np.array(values)
        n = (~np.isnan(stack)).sum(axis=0)
        with np.errstate(all="ignore"):
            mean = np.nansum(stack, axis=0) / n
            variance = np.where(n >= 2, np.nansum((stack - mean) ** 2, axis=0) / (n - 1), 0)
        value = np.asarray(got.bands[band]).astype(float)
        unc = np.maximum(np.sqrt(variance + (0.02 * value) ** 2), 10)
        found[band] = np.where(value == 65535, np.nan, unc)
    return found


@pytest.mark.parametrize(
    "options", [{"top_k": 1, "fill": True}, {"rule": "latest"}, {"rule": "ndvi", "top_k": 3}]
)
def test_fix_27_spread_of_the_scenes_that_could_have_won(server: Any, options: dict[str, Any]) -> None:
    got = run(server, **CALL | options)
    want = by_hand(server, got, {k: v for k, v in CALL.items() if k != "emit_uncertainty"})
    assert list(got.boa_unc) == list(got.bands)
    for band, unc in got.boa_unc.items():
        assert unc.dtype == np.float32
        np.testing.assert_allclose(unc, want[band], rtol=2e-7)
    spread = np.asarray(got.boa_unc["red"]) > np.maximum(0.0201 * np.asarray(got.bands["red"]), 10)
    assert spread.mean() > 0.03


def test_the_other_layers_are_as_without(server: Any) -> None:
    assert_same(run(server, **CALL), run(server, **CALL | {"emit_uncertainty": False}))


def test_the_same_in_parts(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    want = run(server, **CALL, threads=1).boa_unc
    real = Budget.of
    least = {"strip": 1, "codes": 0, "kept": 0, "undecoded": 1}
    monkeypatch.setattr(Budget, "of", lambda *args: replace(real(*args), **least))
    got = run(server, **CALL, threads=3).boa_unc
    for band, unc in want.items():
        np.testing.assert_array_equal(got[band], unc)
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, n: chunk_edges(origin, n, 70))
    call = CALL | {"top_k": None, "order": "newest", "fill": True}
    small = run(server, **call, threads=3).boa_unc
    monkeypatch.undo()
    whole = run(server, **call).boa_unc
    for band, unc in whole.items():
        np.testing.assert_array_equal(small[band], unc)


def test_a_lost_tile_does_not_count(server: Any) -> None:
    call: dict[str, Any] = {**CALL, "tile": HOME, "resolution": 10, "top_k": None, "order": "oldest"}
    plain = run(server, **call)
    ident = plain.source_ids[-1]
    server.reset(faults={path_of(item_of(server.items("pc"), ident), "B04"): "404"})
    with pytest.warns(UserWarning, match="could not be read"):
        got = run(server, **call, max_failed=1.0)
    assert got.report.lost_tiles
    rest = run(server, **call, items=[i for i in server.items("pc") if i["id"] != ident])
    np.testing.assert_array_equal(got.boa_unc["red"], rest.boa_unc["red"])
    assert (np.asarray(got.boa_unc["red"]) != np.asarray(plain.boa_unc["red"])).any()


def test_it_says_what_it_reads_and_takes(server: Any) -> None:
    call = arguments(server, tile=HOME, top_k=None)
    plain, cost = explain(**call), explain(**call, emit_uncertainty=True)
    assert "every selected scene" in str(cost)
    assert cost.bytes_by_band["red"] > 2 * plain.bytes_by_band["red"]
    grid = cost.grid["width"] * cost.grid["height"]
    assert cost.memory["output"] == plain.memory["output"] + 4 * grid * len(BANDS)
    with pytest.raises(MemoryLimitError):
        run(server, tile=HOME, resolution=1, emit_uncertainty=True, memory_limit=40 << 20)


def test_ways_out(server: Any, tmp_path: Any) -> None:
    import rasterio

    got = run(server, **CALL | {"tile": HOME})
    assert set(got["boa_unc"]) == set(BANDS)
    assert got.to_xarray()["red_unc"].dtype == np.float32
    got.to_cog(tmp_path)
    with rasterio.open(tmp_path / "red_unc.tif") as file:
        np.testing.assert_array_equal(file.read(1), got.boa_unc["red"])
        assert np.isnan(file.nodata)
