"""Whole runs while the server fails: what is mended, what is named, what is raised."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_run import (
    SOUTH,
    assert_same,
    assert_same_pixels,
    file_of,
    forget_headers,
    item_of,
    path_of,
    run,
    winners,
    with_href,
)

from bestpixel_gpu.catalog import search, signing
from bestpixel_gpu.errors import (
    AuthError,
    CatalogError,
    FormatError,
    IncompleteError,
    NoScenesError,
    PartialResultWarning,
    StalledError,
)
from bestpixel_gpu.plan import tiles
from bestpixel_gpu.transfer import http

SECRETS = ("sig=", "se=20", "sp=rl", "sr=c", "st=20")
"""Parts of a signed address that only a token has."""
PLACE: dict[str, Any] = {"order": "newest", "top_k": None, "max_failed": 1.0}
"""A pixel then depends on nothing but the scenes found there."""


@pytest.fixture(autouse=True)
def _cold_and_hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_headers()
    monkeypatch.setattr(signing, "_TOKENS", {})
    monkeypatch.setattr(http, "Retry", partial(http.Retry, base=0.01))
    monkeypatch.setattr(search, "PAUSE_S", 0.02)
    yield
    forget_headers()  # some of them were damaged on the way


@pytest.fixture
def clean(server: Any) -> Any:
    """The run that nothing happened to; band and mask headers are known afterwards."""
    return run(server, **PLACE)


@pytest.fixture
def victim(server: Any, clean: Any) -> dict[str, Any]:
    """The scene that won most pixels."""
    return item_of(server.items("pc"), most_won(clean))


def most_won(composite: Any) -> str:
    names, n = np.unique(winners(composite).astype(str), return_counts=True)
    return str(names[n.argmax()])


def without(server: Any, *idents: str) -> list[dict[str, Any]]:
    return [i for i in server.items("pc") if i["id"] not in idents]


def assert_lost_scene(got: Any, clean: Any, replay: Any, ident: str) -> None:
    """Where the scene had won, the next best stands; everything else is as it was."""
    hit = winners(clean) == ident
    assert hit.sum() > 200
    assert_same_pixels(got, clean, ~hit)
    assert_same_pixels(got, replay)
    assert ident not in winners(got)


def assert_no_secret(*texts: object) -> None:
    for text in texts:
        assert not any(s in str(text) for s in SECRETS), text


# ---- what passes ----


@pytest.mark.parametrize("fault", ["500:0.3", "reset:0.3", "short:0.3", "429:0.1", "503:0.1"])
def test_what_passes_leaves_no_trace(server: Any, fault: str) -> None:
    options: dict[str, Any] = {"tile": "all", "resolution": 20}
    want = run(server, **options)
    kind = fault.partition(":")[0]
    if kind not in ("429", "503"):  # each of these costs the second that the server asks for
        forget_headers()
    server.reset(faults=fault)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = run(server, **options)
    assert_same(got, want)
    status = server.stats()["status"]
    if kind != "short":
        assert status[kind] >= 3
    assert kind == "reset" or got.report.retries >= 3  # aiohttp repeats dropped connections by itself
    assert (got.report.lost_tiles, got.report.failures) == (0, [])


def test_tiles_damaged_on_the_way_are_asked_for_again(
    server: Any, clean: Any, victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "GROUP_BYTES", 1)  # the archive fails the first try of each *range*
    server.reset(faults={path_of(victim, "B04"): "corrupt*1", path_of(victim, "B11"): "corrupt*1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = run(server, **PLACE)
    assert_same(got, clean)
    assert got.report.failures == []


@pytest.mark.parametrize("fault", ["short*1", "500*2", "corrupt*1"])
@pytest.mark.parametrize("asset", ["B04", "SCL"])
def test_a_file_damaged_on_the_way_is_asked_for_again(
    server: Any, clean: Any, victim: Any, asset: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "GROUP_BYTES", 1)
    forget_headers()
    server.reset(faults={path_of(victim, asset): fault})
    assert_same(run(server, **PLACE), clean)


def test_no_cache_keeps_what_does_not_read(server: Any, clean: Any, victim: Any, tmp_path: Path) -> None:
    forget_headers()
    server.reset(faults={path_of(victim, "B04"): "corrupt"})
    with pytest.warns(PartialResultWarning, match="0 tiles and 1 scenes"):
        run(server, **PLACE, disk_cache=tmp_path)
    server.reset()
    assert_same(run(server, **PLACE, disk_cache=tmp_path), clean)
    forget_headers()
    assert_same(run(server, **PLACE, disk_cache=tmp_path), clean)


# ---- a band that is gone ----


@pytest.mark.parametrize(("fault", "status"), [("404", 404), ("403", 403), ("corrupt", None), ("500", 500)])
def test_fix_06_tiles_lost_for_good(
    server: Any, clean: Any, victim: Any, fault: str, status: int | None
) -> None:
    ident = victim["id"]
    server.reset(faults={path_of(victim, "B04"): fault})
    with pytest.warns(PartialResultWarning, match=r"^\d+ tiles and 0 scenes could not be read"):
        got = run(server, **PLACE)
    server.reset()
    assert_lost_scene(got, clean, run(server, **PLACE, items=without(server, ident)), ident)
    report = got.report
    assert report.lost_tiles == len(report.failures) > 0
    assert {(f.item, f.asset, f.status) for f in report.failures} == {(ident, "B04", status)}
    assert len({f.tile for f in report.failures}) == len(report.failures)
    assert {f.attempts for f in report.failures} == {5 if fault == "500" else 2 if fault == "403" else 1} or (
        fault == "corrupt"
    )
    assert report.repair_rounds >= 1
    assert all(f.message for f in report.failures)
    assert_no_secret(report, report.to_json(), repr(report), repr(got))
    assert ident in str(report)
    # observation_count tells what the masks show, and is not changed by repair
    np.testing.assert_array_equal(got.observation_count, clean.observation_count)


def test_two_scenes_lost_one_below_the_other(server: Any, clean: Any, victim: Any) -> None:
    """Repair goes on below a scene that turns out lost only when it is needed."""
    first = victim["id"]
    second = most_won(run(server, **PLACE, items=without(server, first)))
    server.reset(
        faults={
            path_of(item_of(server.items("pc"), i), b): "404" for i, b in ((first, "B04"), (second, "B11"))
        }
    )
    with pytest.warns(PartialResultWarning):
        got = run(server, **PLACE)
    server.reset()
    assert got.report.repair_rounds >= 2
    assert_same_pixels(got, run(server, **PLACE, items=without(server, first, second)))


def test_a_header_that_is_not_there_costs_the_scene(server: Any, clean: Any, victim: Any) -> None:
    ident = victim["id"]
    want = run(server, items=without(server, ident))  # with order="clearest", top_k=3 and fill
    forget_headers()
    server.reset(faults={path_of(victim, "B11"): "404"})
    with pytest.warns(PartialResultWarning, match=r"^0 tiles and 1 scenes could not be read"):
        got = run(server)
    assert_same(got, want)
    record = got.report.scene(ident)
    assert (record.status, record.pixels_won) == ("failed", 0)
    assert "swir16" in record.reason
    assert "404" in record.reason
    assert ident in str(got.report)


@pytest.mark.parametrize("damage", ["no TIFF", "truncated", "empty"])
def test_a_file_that_is_no_tiff(server: Any, clean: Any, victim: Any, tmp_path: Path, damage: str) -> None:
    body = file_of(server, victim, "B04").read_bytes()
    bad = tmp_path / "bad.tif"
    bad.write_bytes(
        {"no TIFF": b"<html>please log in</html>" * 900, "truncated": body[:17000], "empty": b""}[damage]
    )
    ident = victim["id"]
    items = with_href(server.items("pc"), ident, "B04", str(bad))
    with pytest.warns(PartialResultWarning):
        got = run(server, **PLACE, items=items)
    assert_same_pixels(got, run(server, **PLACE, items=without(server, ident)))
    told = got.report.failures or [got.report.scene(ident)]
    assert ident in str(got.report)
    assert told


@pytest.mark.parametrize("href", ["gs://bucket/a.tif", "s3://nobody-knows/a.tif", "http://127.0.0.1:9/a.tif"])
@pytest.mark.parametrize("asset", ["SCL", "B11"])
def test_an_address_that_cannot_be_read(server: Any, clean: Any, victim: Any, asset: str, href: str) -> None:
    """One strange item costs itself, not the run."""
    ident = victim["id"]
    with pytest.warns(PartialResultWarning, match="0 tiles and 1 scenes"):
        got = run(server, **PLACE, items=with_href(server.items("pc"), ident, asset, href))
    assert_same_pixels(got, run(server, **PLACE, items=without(server, ident)))
    assert got.report.scene(ident).status == "failed"


def test_a_file_that_ends_early_on_the_server(server: Any, clean: Any, victim: Any) -> None:
    forget_headers()
    server.reset(faults={path_of(victim, "B04"): "truncated"})
    with pytest.warns(PartialResultWarning):
        got = run(server, **PLACE)
    server.reset()
    replay = run(server, **PLACE, items=without(server, victim["id"]))
    hit = winners(got) != winners(clean)
    assert hit.sum() > 100
    assert_same_pixels(got, replay, hit)
    assert_same_pixels(got, clean, ~hit)
    assert {f.asset for f in got.report.failures} == {"B04"}


def test_a_file_cut_short_since_its_header_was_read(server: Any, clean: Any, victim: Any) -> None:
    """The size gives it away: it is opened anew, and gives what it still holds, as it does when cold."""
    server.reset(faults={path_of(victim, "B04"): "truncated"})
    answers = []
    for _ in range(2):
        with pytest.warns(PartialResultWarning):
            answers.append(run(server, **PLACE))
        forget_headers()
    assert_same(*answers)
    warm, cold = ({(f.tile, f.message) for f in a.report.failures} for a in answers)
    assert warm == cold
    assert all("the file ends at byte" in message or "416" in message for _, message in warm)
    server.reset(faults={path_of(victim, "B04"): "truncated"})
    with pytest.warns(PartialResultWarning):
        run(server, **PLACE)
    server.reset()  # the header that is kept now is the short file's
    assert_same(run(server, **PLACE), clean)


# ---- masks ----


@pytest.mark.parametrize("fault", ["404", "corrupt", "truncated"])
def test_a_scene_without_its_mask_is_no_candidate(server: Any, clean: Any, victim: Any, fault: str) -> None:
    ident = victim["id"]
    want = run(server, items=without(server, ident))
    server.reset(faults={path_of(victim, "SCL"): fault})
    with pytest.warns(PartialResultWarning, match=r"^0 tiles and 1 scenes could not be read"):
        got = run(server)
    assert_same(got, want)
    record = got.report.scene(ident)
    assert record.status == "failed"
    assert record.reason


def test_all_masks_failing(server: Any) -> None:
    server.reset(faults={"SCL": "404"})
    with pytest.raises(NoScenesError, match="none usable") as caught:
        run(server)
    assert "13 x could not be read" in str(caught.value)
    assert "HTTP 404, the file is not there" in str(caught.value)
    assert_no_secret(caught.value)


# ---- errors="raise", max_failed ----


@pytest.mark.parametrize(("asset", "cold"), [("B04", False), ("B11", True), ("SCL", False), ("SCL", True)])
def test_fix_06_errors_raise_names_the_loss(
    server: Any, clean: Any, victim: Any, asset: str, cold: bool
) -> None:
    if cold:
        forget_headers()
    server.reset(faults={path_of(victim, asset): "404"})
    with pytest.raises(IncompleteError) as caught:
        run(server, **PLACE, errors="raise")
    text = str(caught.value)
    assert victim["id"] in text
    assert "404" in text
    assert "\n" not in text
    assert caught.value.report.scene(victim["id"])
    assert_no_secret(text, caught.value.report)


def test_more_lost_than_allowed(server: Any, clean: Any, victim: Any) -> None:
    server.reset(faults={path_of(victim, "B04"): "404"})
    with pytest.raises(IncompleteError, match=r"of \d+ wanted tiles.*max_failed=0.05") as caught:
        run(server, **(PLACE | {"max_failed": 0.05}))
    report = caught.value.report
    assert report.lost_tiles > 0.05 * report.wanted_tiles
    assert report.failures
    assert_no_secret(caught.value, report)


def test_max_failed_0_raises_at_the_first(server: Any, clean: Any, victim: Any) -> None:
    server.reset(faults={path_of(victim, "B11"): "404"})
    with pytest.raises(IncompleteError, match="1 of"):
        run(server, **(PLACE | {"max_failed": 0}))


def test_no_band_at_all(server: Any) -> None:
    """Every band header is gone: nothing is left, and it is said so."""
    server.reset(faults={"B04": "404", "B11": "404"})
    with pytest.raises(NoScenesError, match="none usable"):
        run(server)


# ---- tokens ----


def test_signed_files_are_read_and_no_token_is_told(server: Any) -> None:
    want = run(server, tile=SOUTH)
    forget_headers()
    signing._TOKENS.clear()
    victim = item_of(server.items("pc"), most_won(want))
    server.reset(require_sas=True, faults={path_of(victim, "B04"): "404", path_of(victim, "B11"): "404"})
    with pytest.warns(PartialResultWarning) as said:
        got = run(server, tile=SOUTH)
    assert server.stats()["requests"]["sign"] == 1
    texts = [*(w.message for w in said), got.report, got.report.to_json(), repr(got), got.endpoint]
    assert_no_secret(*texts, *got.report.failures, got._repr_html_())
    assert_same_pixels(got, run(server, tile=SOUTH, items=without(server, victim["id"])))


def test_fix_07_tokens_that_die_in_the_middle_are_renewed(server: Any) -> None:
    want = run(server, tile="all")
    forget_headers()
    signing._TOKENS.clear()
    server.reset(require_sas=True, sas_ttl=1.0, latency_ms=350)  # lives for 2 s at most, is renewed at half
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = run(server, tile="all", concurrency=24)
    assert_same(got, want)
    assert server.stats()["requests"]["sign"] >= 2


def test_a_revoked_token_is_renewed_at_once(server: Any) -> None:
    want = run(server)
    server.reset(require_sas=True)
    run(server)
    server.reset(require_sas=True, sas_key="2")
    signing._TOKENS.update({k: _aged(t) for k, t in signing._TOKENS.items()})
    assert_same(run(server), want)


def _aged(token: Any) -> Any:
    from dataclasses import replace

    return replace(token, fetched=token.fetched - 60)


def test_signing_refused(server: Any) -> None:
    """No token to be had: every mask fails for that reason, and it is named."""
    server.reset(require_sas=True, faults={"/sas/": "403"})
    with pytest.raises(NoScenesError) as caught:
        run(server)
    assert "none usable" in str(caught.value)
    assert "no token to be had" in str(caught.value) or "access refused" in str(caught.value)
    server.reset(require_sas=True, faults={"/sas/": "403"})
    with pytest.raises(IncompleteError, match=r"asset SCL: .*/sas/v1/token/.*HTTP 403") as strict:
        run(server, errors="raise")
    assert isinstance(strict.value.__cause__, AuthError)


# ---- time ----


@pytest.mark.parametrize("where", ["/search", "SCL", "B04"])
def test_a_stall_ends_with_the_time_limit(server: Any, where: str) -> None:
    server.reset(faults={where: "stall"})
    begun = time.monotonic()
    with pytest.raises(StalledError, match=r"timeout=0.8 s: raise timeout="):
        run(server, timeout=0.8)
    assert time.monotonic() - begun < 2.5


# ---- the catalogue ----


@pytest.mark.parametrize("fault", ["500*1", "429*1", "503*2"])
def test_a_search_is_repeated(server: Any, fault: str) -> None:
    want = run(server)
    server.reset(faults={"/search": fault})
    assert_same(run(server), want)


def test_a_catalogue_that_is_down(server: Any) -> None:
    with pytest.raises(CatalogError, match="no connection"):
        run(server, stac_url="http://127.0.0.1:9/pc/api/stac/v1")


def test_fix_06_nothing_found_says_what_was_searched(server: Any) -> None:
    with pytest.raises(NoScenesError, match="0 found") as caught:
        run(server, datetime="2020-01-01/2020-02-01")
    for part in ("sentinel-2-l2a", "2020-01-01/2020-02-01", "Widen the dates", "bbox (5.9"):
        assert part in str(caught.value)


def test_repeated_faults_give_the_same_picture_each_time(server: Any, clean: Any, victim: Any) -> None:
    """Losses for good are as deterministic as everything else."""
    found = []
    for threads in (1, 3):
        server.reset(faults={path_of(victim, "B04"): "404"})
        with pytest.warns(PartialResultWarning):
            found.append(run(server, **PLACE, threads=threads))
    assert_same(*found)
    assert (found[0].bands["red"] != clean.bands["red"]).any()


def test_a_float_file_is_refused_by_name(server: Any, clean: Any, victim: Any, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    source = file_of(server, victim, "B04")
    with rasterio.open(source) as src:
        profile, data = src.profile, src.read()
    profile.update(dtype="float32", driver="GTiff", nodata=None)
    for name in ("photometric", "interleave"):
        profile.pop(name, None)
    with rasterio.open(tmp_path / "float.tif", "w", **profile) as dst:
        dst.write(data.astype("float32"))
    items = with_href(server.items("pc"), victim["id"], "B04", str(tmp_path / "float.tif"))
    with pytest.warns(PartialResultWarning):
        got = run(server, **PLACE, items=items)
    assert "floating point" in got.report.scene(victim["id"]).reason
    with pytest.raises(IncompleteError, match="floating point") as caught:
        run(server, **PLACE, items=items, errors="raise")
    assert isinstance(caught.value.__cause__, FormatError)
