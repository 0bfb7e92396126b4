"""Files that others take the place of, between two runs and in the middle of one."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from whole_run import assert_same, counted, file_of, forget_headers, item_of, path_of, run, winners

from bestpixel_gpu.errors import PartialResultWarning
from bestpixel_gpu.plan import tiles
from bestpixel_gpu.simulate import ArchiveSpec, build, serve
from bestpixel_gpu.simulate.archive import layout_of
from bestpixel_gpu.simulate.tiff import GeoReference, encode_cog
from bestpixel_gpu.transfer.reader import Reader

SPEC = ArchiveSpec(
    tiles=1, seam=False, south=False, dates=3, bands=("red", "swir16"), dialects=("pc",), block=32
)
CALL: dict[str, Any] = {"resolution": 20, "bands": ["swir16"], "top_k": None, "order": "newest"}
Pixels = NDArray[Any]


@pytest.fixture(scope="module")
def archive_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serve(build(SPEC, tmp_path_factory.mktemp("three"))) as local:
        yield local


@pytest.fixture
def place(archive_of_three: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The archive as it was built; every tile is asked for by itself."""
    monkeypatch.setattr(tiles, "GROUP_BYTES", 1)
    forget_headers()
    yield archive_of_three
    archive_of_three.reset()
    forget_headers()


@pytest.fixture(scope="module")
def item(archive_of_three: Any) -> dict[str, Any]:
    """The scene that wins most."""
    names = winners(compose(archive_of_three)).ravel().tolist()
    return item_of(archive_of_three.items("pc"), max(set(names), key=names.count))


def compose(server: Any, **options: Any) -> Any:
    return run(server, tile=server.tiles[0], **CALL | options)


def fresh(server: Any, **options: Any) -> Any:
    """What a run gives that knows no header."""
    forget_headers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compose(server, **options)


def same(a: Pixels) -> Pixels:
    return a


def other(a: Pixels) -> Pixels:
    return np.where(a > 0, a + 100, a).astype(a.dtype)


def cloudier(a: Pixels) -> Pixels:
    return np.where(np.arange(len(a))[:, None] % 50 < 20, 9, a).astype(a.dtype)


def put_beside(
    server: Any, item: dict[str, Any], asset: str, change: Callable[[Pixels], Pixels], **layout: Any
) -> None:
    """Write what takes the file's place."""
    path = file_of(server, item, asset)
    band, baseline = {"B11": "swir16"}.get(asset, asset), item["properties"]["s2:processing_baseline"]
    left, top = (item["assets"][asset]["proj:transform"][k] for k in (2, 5))
    where = GeoReference(item["properties"]["proj:epsg"], left, top, 20.0)
    pixels, usual = tifffile.imread(path, key=0), layout_of(SPEC, "pc", baseline, band, 20)
    assert encode_cog(pixels, where, usual) == path.read_bytes(), "written as the archive writes it"
    new = encode_cog(change(pixels), where, replace(usual, **layout))
    path.with_name(path.name + ".new").write_bytes(new)


def swap(server: Any, item: dict[str, Any], asset: str, **options: Any) -> None:
    server.reset(faults={path_of(item, asset): "replaced"}, **options)


def headers_asked(stats: dict[str, Any]) -> int:
    return sum(first == 0 for _, first, _ in stats["log"])


# ---- between two runs ----


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "process"])
@pytest.mark.parametrize(("change", "level"), [(same, 1), (other, 6), (other, 12)])
def test_a_band_replaced_since_its_header_was_kept(
    place: Any, item: dict[str, Any], tmp_path: Path, on_disk: bool,
    change: Callable[[Pixels], Pixels], level: int,
) -> None:  # fmt: skip
    folder = {"disk_cache": tmp_path} if on_disk else {}
    first = compose(place, **folder)
    put_beside(place, item, "B11", change, level=level)
    if on_disk:
        forget_headers()
    with warnings.catch_warnings(), counted(place, faults={path_of(item, "B11"): "replaced"}) as stats:
        warnings.simplefilter("error")
        got = compose(place, **folder)
    assert headers_asked(stats) == 1
    assert (got.report.failures, got.report.lost_tiles, got.report.warnings) == ([], 0, [])
    assert (got.bands["swir16"] != first.bands["swir16"]).any() == (change is other)
    swap(place, item, "B11")
    assert_same(got, fresh(place))


def test_a_replaced_file_of_the_same_size(place: Any, item: dict[str, Any], tmp_path: Path) -> None:
    """Only its tag tells; the header that settles it is the one that is needed."""
    compose(place, disk_cache=tmp_path)
    put_beside(place, item, "B11", same, level=12)
    old = file_of(place, item, "B11")
    new = old.with_name(old.name + ".new")
    new.write_bytes(new.read_bytes().ljust(old.stat().st_size, b"\0"))
    assert new.stat().st_size == old.stat().st_size
    forget_headers()
    with warnings.catch_warnings(), counted(place, faults={path_of(item, "B11"): "replaced"}) as stats:
        warnings.simplefilter("error")
        got = compose(place, disk_cache=tmp_path)
    assert headers_asked(stats) == 1
    swap(place, item, "B11")
    assert_same(got, fresh(place))


def test_a_mask_replaced_since_its_header_was_kept(place: Any, item: dict[str, Any], tmp_path: Path) -> None:
    first = compose(place, disk_cache=tmp_path)
    put_beside(place, item, "SCL", cloudier)
    forget_headers()
    swap(place, item, "SCL")
    got = compose(place, disk_cache=tmp_path)
    assert (got.selected_observation != first.selected_observation).any()
    assert_same(got, fresh(place))


@pytest.mark.parametrize(
    "layout", [{"block": 64, "overview_block": 64}, {"bits": 16}, {"nodata": False}], ids=str
)
def test_a_file_laid_out_otherwise_fails_once(
    place: Any, item: dict[str, Any], tmp_path: Path, layout: dict[str, Any]
) -> None:
    """The plan was made for the old one: its scene goes to repair, and the next run knows the new one."""
    options = {"max_failed": 1.0, "disk_cache": tmp_path}
    compose(place, **options)
    put_beside(place, item, "B11", same, **layout)
    forget_headers()
    swap(place, item, "B11")
    with pytest.warns(PartialResultWarning):
        got = compose(place, **options)
    assert {f.item for f in got.report.failures} == {item["id"]}
    assert not (winners(got) == item["id"]).any()
    rest = [i for i in place.items("pc") if i["id"] != item["id"]]
    np.testing.assert_array_equal(got.bands["swir16"], fresh(place, items=rest).bands["swir16"])
    forget_headers()
    swap(place, item, "B11", log=True)
    again = compose(place, **options)
    assert headers_asked(place.stats()) == 0
    assert_same(again, fresh(place))


# ---- in the middle of a run ----


def swap_at(monkeypatch: pytest.MonkeyPatch, server: Any, item: dict[str, Any], asset: str, nth: int) -> None:
    """Let another file take the place when its tiles, one after the other, are asked for the nth time."""
    path, real, asked, turn = path_of(item, asset), Reader.read_many, 0, asyncio.Lock()

    async def read_many(self: Reader, href: str, *args: Any, **options: Any) -> Any:
        nonlocal asked
        if path not in href:
            return await real(self, href, *args, **options)
        async with turn:
            asked += 1
            if asked == nth:
                swap(server, item, asset)
            return await real(self, href, *args, **options)

    monkeypatch.setattr(Reader, "read_many", read_many)


def test_a_band_replaced_before_its_first_tile(
    place: Any, item: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_beside(place, item, "B11", other, level=1)
    swap_at(monkeypatch, place, item, "B11", 1)
    got = fresh(place)
    assert got.report.warnings == []
    swap(place, item, "B11")
    assert_same(got, fresh(place))


@pytest.mark.parametrize("change", [same, other])
def test_a_band_replaced_between_its_tiles(
    place: Any,
    item: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Pixels], Pixels],
) -> None:
    """Each tile is of one of the two files, and the report says so."""
    old = fresh(place)
    put_beside(place, item, "B11", change, level=1)
    swap_at(monkeypatch, place, item, "B11", 3)
    got = fresh(place)
    (said,) = got.report.warnings
    assert f"{item['id']}, asset B11: replaced while it was read" in said
    assert got.report.failures == []
    swap(place, item, "B11")
    new = fresh(place)
    np.testing.assert_array_equal(winners(got), winners(new))
    of_old, of_new = (got.bands["swir16"] == c.bands["swir16"] for c in (old, new))
    assert (of_old | of_new).all()
    assert of_new.all() == of_old.all() == (change is same)
