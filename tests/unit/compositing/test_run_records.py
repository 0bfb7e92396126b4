"""Whole runs that know from earlier ones what masks showed: which they still read; nothing else differs."""

from __future__ import annotations

import errno
import os
import time
import tracemalloc
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_run import (
    BANDS,
    DATES,
    HOME,
    assert_same,
    counted,
    file_of,
    forget_headers,
    item_of,
    of_tile,
    path_of,
    run,
)

from bestpixel_gpu import build_monthly_composites, explain, iter_composites
from bestpixel_gpu.compositing import records
from bestpixel_gpu.compositing import run as whole
from bestpixel_gpu.errors import IncompleteError
from bestpixel_gpu.plan.memory import Budget
from bestpixel_gpu.transfer.disk_cache import DiskCache, _seal

DAY = 86400.0
FEW = {"fill": False, "top_k": 1}
"""Some of the scenes are not selected, and then count for nothing."""


@pytest.fixture(autouse=True)
def _cold() -> Iterator[None]:
    forget_headers()
    yield
    forget_headers()


def once(server: Any, folder: Path, **options: Any) -> Any:
    """A run that fills the folder; then the process knows no more than a new one."""
    first = run(server, disk_cache=folder, **options)
    forget_headers()
    return first


def masks_read(server: Any, stats: dict[str, Any]) -> set[str]:
    """Ids of the scenes of whose masks tiles were asked for."""
    paths = {"/" + path.removesuffix(".new") for path, first, _ in stats["log"] if first > 0}
    return {i["id"] for i in server.items("pc") if path_of(i, "SCL") in paths}


def best_of(server: Any, composite: Any) -> dict[str, Any]:
    """Item of the scene that ranks first."""
    return item_of(server.items("pc"), composite.source_ids[0])


def everything(report: Any) -> list[dict[str, Any]]:
    return report.to_dict()["scenes"]


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 2, "resolution": 60},
        {"coverage_target": 0.5, "min_k": 1, "max_k": 2},
        {"coverage_target": 0.5, "min_k": 1, "max_k": 2, "windowed_fetch": True},
        {"top_k": 1, "order": "ancestor"},
        {"top_k": 1, "cloud_buffer": 60},
        {"top_k": 1, "rule": "ndvi", "bands": ["red", "nir"]},
        {"top_k": 1, "crs": "EPSG:3857", "resolution": 20},
    ],
    ids=str,
)
def test_fix_12_masks_of_scenes_that_are_not_selected_are_not_read_again(
    server: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = options | {"fill": False}
    with counted(server) as cold:
        first = once(server, tmp_path, **options)
    with counted(server) as warmed:
        again = run(server, disk_cache=tmp_path, **options)
    assert_same(again, first)
    assert everything(again.report) == everything(first.report)
    everyone, some = masks_read(server, cold), masks_read(server, warmed)
    assert some == set(first.source_ids) < everyone
    assert (first.report.masks_spared, again.report.masks_spared) == (0, len(everyone - some))


@pytest.mark.parametrize(
    "options",
    [{"top_k": 1}, {"top_k": None, "fill": False}, {"rule": "latest", "fill": False}],
    ids=["fill", "all", "by time"],
)
def test_where_every_scene_counts_every_mask_is_read(
    server: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    once(server, tmp_path, **options)
    assert not (tmp_path / "counts").exists()
    assert run(server, disk_cache=tmp_path, **options).report.masks_spared == 0


def test_another_request_goes_by_what_fits_it(server: Any, tmp_path: Path) -> None:
    """What a mask shows does not depend on how many scenes are taken, but on pixels and their scores."""
    once(server, tmp_path, **FEW)
    for change, spared in (({"top_k": 2}, True), ({"resolution": 20}, False), ({"cloud_buffer": 40}, False)):
        forget_headers()
        options = FEW | change
        got = run(server, disk_cache=tmp_path, **options)
        assert (got.report.masks_spared > 0) == spared, options
        forget_headers()
        assert_same(got, run(server, **options))


@pytest.mark.parametrize("asset", ["B04", "SCL"])
def test_who_takes_the_place_of_a_lost_scene_is_read_then(server: Any, tmp_path: Path, asset: str) -> None:
    """The chosen scene's band, or its mask, is gone: one whose mask was spared is chosen instead."""
    first = once(server, tmp_path, **FEW, bands=["swir16"])  # no header of the other band is known
    gone = {path_of(best_of(server, first), asset): "404"}
    server.reset(faults=gone)
    want = run(server, **FEW)
    forget_headers()
    with counted(server, faults=gone) as stats:
        got = run(server, disk_cache=tmp_path, **FEW)
    assert_same(got, want)
    assert [(s.id, s.status) for s in got.report.scenes] == [(s.id, s.status) for s in want.report.scenes]
    assert first.source_ids[0] not in got.source_ids
    assert set(got.source_ids) - set(first.source_ids), "another scene has come in"
    assert set(got.source_ids) <= masks_read(server, stats)


def test_a_damaged_mask_of_a_chosen_scene_costs_it_its_place(server: Any, tmp_path: Path) -> None:
    first = once(server, tmp_path, **FEW)
    damaged = {path_of(best_of(server, first), "SCL"): "corrupt"}
    server.reset(faults=damaged)
    want = run(server, **FEW)
    forget_headers()
    got = run(server, disk_cache=tmp_path, **FEW)
    assert_same(got, want)
    assert [s.status for s in got.report.scenes] == [s.status for s in want.report.scenes]
    forget_headers()
    with pytest.raises(IncompleteError, match="asset SCL"):
        run(server, disk_cache=tmp_path, errors="raise", **FEW)


def test_a_mask_that_was_replaced_is_counted_anew(server: Any, tmp_path: Path) -> None:
    """Once its header is asked for again, its tag names another record."""
    first = once(server, tmp_path, **FEW)
    other = next(s.id for s in first.report.scenes if s.status == "used" and s.id not in first.source_ids)
    spared = item_of(server.items("pc"), other)
    file = file_of(server, spared, "SCL")
    new = file.with_name(file.name + ".new")
    new.write_bytes(file.read_bytes())
    try:
        for wanted in ({*first.source_ids}, {*first.source_ids, other}, {*first.source_ids}):
            with counted(server, faults={path_of(spared, "SCL"): "replaced"}) as stats:
                got = run(server, disk_cache=tmp_path, **FEW)
            assert_same(got, first)
            assert masks_read(server, stats) == wanted
            forget_headers()
            if len(wanted) == len(first.source_ids):
                for path in (tmp_path / "header").iterdir():
                    os.utime(path, (0, time.time() - 40 * DAY))
    finally:
        new.unlink()


def sealed(body: bytes) -> bytes:
    """A whole entry."""
    return _seal(body) + b"\n" + body


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\x00" * 100,
        b"bestpixel-gpu cache 2 00000000\n",
        sealed(b"no stream"),
        sealed(zlib.compress(b"")),
        sealed(zlib.compress(bytes(16))),
        sealed(zlib.compress(bytes(100 << 20))),
    ],
    ids=lambda e: f"{len(e)} bytes",
)
def test_damaged_and_foreign_records_are_counted_again(server: Any, tmp_path: Path, entry: bytes) -> None:
    first = once(server, tmp_path, **FEW)
    for path in (tmp_path / "counts").iterdir():
        path.write_bytes(entry)
    again = once(server, tmp_path, **FEW)
    assert again.report.masks_spared == 0
    assert_same(again, first)
    assert run(server, disk_cache=tmp_path, **FEW).report.masks_spared > 0


def test_a_record_takes_no_more_room_than_its_counts() -> None:
    arrays = [(np.int64, (2, 3))] * 2
    assert records._unpacked(zlib.compress(bytes(96)), arrays) is not None
    bomb = zlib.compress(bytes(64 << 20))
    tracemalloc.start()
    assert records._unpacked(bomb, arrays) is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_masks_that_could_be_replaced_unseen_are_always_read(server: Any, tmp_path: Path) -> None:
    """Local files have no tag: another one of the same size would go by the record of the first."""
    items = [
        item | {"assets": {k: {"href": str(file_of(server, item, k))} for k in ("SCL", "B04", "B11")}}
        for item in of_tile(server.items("pc"), HOME)
    ]
    first = once(server, tmp_path, items=items, **FEW)
    assert not (tmp_path / "counts").exists()
    again = run(server, items=items, disk_cache=tmp_path, **FEW)
    assert again.report.masks_spared == 0
    assert_same(again, first)


def test_what_is_read_later_finds_the_room_that_is_left(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the records are gone: unchosen masks that were read hold codes beside those of the chosen."""
    options, names, held = FEW | {"top_k": 6}, {}, []
    name_of, let_go, budget_of = records._name, whole.keep_chosen, Budget.of.__func__  # type: ignore[attr-defined]

    def named(session: Any, mask: Any) -> str:
        names[mask.scene.id] = name_of(session, mask)
        return names[mask.scene.id]

    async def look(session: Any, masks: Any, chosen: Any) -> None:
        held.append(sum(m.kept_bytes(session) for m in masks if m.kept is not None))
        await let_go(session, masks, chosen)

    monkeypatch.setattr(records, "_name", named)
    first = once(server, tmp_path, **options)
    for ident in names.keys() - set(first.source_ids):
        DiskCache(tmp_path)._path("counts", names[ident]).unlink()
    room = 40_000
    monkeypatch.setattr(whole, "keep_chosen", look)
    monkeypatch.setattr(Budget, "of", classmethod(lambda c, *a: replace(budget_of(c, *a), codes=room)))
    again = run(server, disk_cache=tmp_path, **options)
    assert_same(again, first)
    assert 0 < held[0] <= room


def test_records_that_say_something_else_are_found_out_where_a_scene_is_chosen(
    server: Any, tmp_path: Path
) -> None:
    """What is chosen is counted again: a record can spare a mask, but not decide over one that is read."""
    first = once(server, tmp_path, **FEW)
    records_of, worst = records._unpacked, []

    def lying(*given: Any) -> Any:
        found = records_of(*given)
        worst.append(found)
        assert found is not None
        return tuple(np.zeros_like(a) + a.max() for a in found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_unpacked", lying)
        got = run(server, disk_cache=tmp_path, **FEW)
    assert worst
    assert first.source_ids[0] in got.source_ids


def test_a_run_that_finds_everything_writes_nothing(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a full or read-only folder serves without a word, until something is missing."""
    first = once(server, tmp_path, **FEW)

    def refuse(*args: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    for at_hand in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if at_hand else "ignore")
            again = run(server, disk_cache=tmp_path, **FEW)
        assert_same(again, first)
        assert bool(again.report.warnings) != at_hand
        forget_headers()
        for path in (tmp_path / "counts").iterdir():
            path.unlink()


def test_records_expire_with_the_headers(server: Any, tmp_path: Path) -> None:
    once(server, tmp_path, **FEW)
    for path in (tmp_path / "counts").iterdir():
        os.utime(path, (0, time.time() - 40 * DAY))
    assert run(server, disk_cache=tmp_path, **FEW).report.masks_spared == 0


def test_explain_counts_only_masks_that_a_run_still_reads(server: Any, tmp_path: Path) -> None:
    once(server, tmp_path, **FEW)
    call = {
        "bbox": server.bbox_of(HOME), "datetime": DATES, "resolution": 10, "bands": list(BANDS),
        "stac_url": server.stac_url("pc"), "disk_cache": tmp_path, "device": "cpu", **FEW,
    }  # fmt: skip
    told = explain(**call)
    forget_headers()
    got = run(server, disk_cache=tmp_path, **FEW)
    assert abs(told.total_bytes - got.report.bytes) <= 0.05 * got.report.bytes


def test_periods_go_by_records_too(server: Any, tmp_path: Path) -> None:
    call = {
        "bbox": server.bbox_of(HOME), "resolution": 20, "bands": list(BANDS), "years": [2024],
        "months": [7], "stac_url": server.stac_url("pc"), "disk_cache": tmp_path, "device": "cpu", **FEW,
    }  # fmt: skip
    first = build_monthly_composites(**call)
    forget_headers()
    again = build_monthly_composites(**call)
    for a, b in zip(again, first, strict=True):
        assert_same(a, b)
    assert sum(c.report.masks_spared for c in first) == 0
    assert sum(c.report.masks_spared for c in again) > 0


def test_periods_that_overlap_open_and_read_each_mask_once(server: Any, tmp_path: Path) -> None:
    call = {
        "bbox": server.bbox_of(HOME), "resolution": 20, "bands": ["red"], "stac_url": server.stac_url("pc"),
        "datetime": ["2024-07-01/2024-07-31", "2024-07-05/2024-08-10"], "device": "cpu", **FEW,
    }  # fmt: skip
    want = [*iter_composites(**call)]
    masks = {path_of(i, "SCL").lstrip("/") for i in server.items("pc")}
    for spared in (False, True):
        forget_headers()
        with counted(server) as stats:
            got = [*iter_composites(**call, disk_cache=tmp_path)]
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)
            assert (a.report.masks_spared > 0) == spared
        asked = Counter((path, first) for path, first, _ in stats["log"] if path in masks)
        assert set(asked.values()) == {1}
        assert any(not first for _, first in asked) != spared
