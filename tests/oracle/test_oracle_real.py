"""Five real dates over Exeter against the slow reference."""

from __future__ import annotations

import copy
import random
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from oracle_checks import assert_matches, build
from oracle_reference import MaskRule, RefGrid, RefScene, composite, mask_layer
from oracle_scenes import PC_KEYS

DATES = ("20240602", "20240617", "20240801", "20240816", "20240826")
GRID_20 = RefGrid.at("EPSG:32630", 460500, 5622100, 20, 350, 330)
GRID_60 = RefGrid.at("EPSG:32630", 460500, 5622100, 60, 116, 110)
RGB = ("blue", "green", "red")


def load(folder: Path, names: list[str]) -> tuple[list[Any], list[RefScene]]:
    """The items as a user reads them, and the same for the reference (raw DN less 1000)."""
    items, scenes = [], []
    for name in names:
        item = pystac.Item.from_file(str(folder / name / f"{name}.json"))
        assert item.datetime
        files = {band: folder / name / f"{key}.tif" for band, key in PC_KEYS.items()}
        items.append(item)
        scenes.append(
            RefScene(
                name,
                datetime.fromisoformat(item.datetime.isoformat()),
                {b: p for b, p in files.items() if p.exists()},
                folder / name / "SCL.tif",
                1000,
                item.properties["eo:cloud_cover"],
            )
        )
    return items, scenes


@pytest.fixture(scope="module")
def exeter(shared: Path) -> tuple[list[Any], list[RefScene]]:
    return load(shared / "data/s2_real/exe-s2-l2a-20m", [f"S2_EXE_{d}" for d in DATES])


def test_reference_sees_the_clear_dates_that_the_samples_page_counts(exeter: Any) -> None:
    only_land = np.full(65536, 65535, np.int64)
    only_land[[4, 5, 6]] = 0
    rule = MaskRule(only_land, only_land == 0)
    count = sum(mask_layer(GRID_20, s.mask, worst=False, rule=rule).clear.astype(int) for s in exeter[1])
    histogram = np.bincount(count.ravel(), minlength=6)
    assert histogram[0] == 25
    # The page's figures come from a warp whose positions are approximate to 1/8 pixel.
    assert np.abs(histogram - [25, 2128, 37652, 48350, 21283, 6062]).max() <= 3


@pytest.mark.parametrize(("first", "share"), [(0, 0.9998), (1, 0.9823)])
def test_coverage_is_what_the_samples_page_says(exeter: Any, first: int, share: float) -> None:
    """All five dates leave 25 of 115500 pixels without a clear view; without the first, 1.77 %."""
    got = build(exeter[0][first:], GRID_20, ["red"], offset=1000, top_k=None)
    clear = got["quality"] == 0
    assert clear.mean() == pytest.approx(share, abs=1e-4)
    if first == 0:
        assert (~clear).sum() == 25


@pytest.mark.parametrize(
    ("grid", "bands"),
    [
        pytest.param(GRID_20, RGB, id="20m"),
        pytest.param(RefGrid.at("EPSG:32630", 461010, 5621000, 10, 560, 240), ("red",), id="10m"),
        pytest.param(
            RefGrid.at("EPSG:32630", 460500, 5622100, 60, 116, 110), ("blue", "red"), id="60m-worst"
        ),
        pytest.param(RefGrid.at("EPSG:3035", 3370000, 3158500, 40, 150, 150), ("red",), id="40m-laea-europe"),
    ],
)
def test_all_dates_equal_the_reference(exeter: Any, grid: RefGrid, bands: tuple[str, ...]) -> None:
    items, scenes = exeter
    want = composite(scenes, grid, bands, top_k=None)
    assert (want.quality == 0).mean() > 0.5
    assert_matches(build(items, grid, bands, offset=1000, top_k=None), want, off_by=1)


@pytest.mark.parametrize(
    ("order", "top_k", "fill"),
    [
        ("clearest", 1, 0.001),
        ("clearest", 2, False),
        ("newest", 1, True),
        ("newest", 2, 0.01),
        ("oldest", 1, False),
        ("oldest", None, 0.001),
        ("cloud_cover", 1, True),
    ],
)
def test_selection_and_order_equal_the_reference(
    exeter: Any, order: str, top_k: int | None, fill: Any
) -> None:
    """Without the clear first date, so that no scene alone is best."""
    items, scenes = exeter[0][1:], exeter[1][1:]
    grid = RefGrid.at("EPSG:32630", 460500, 5622100, 40, 175, 165)
    share = (0.0 if fill else None) if isinstance(fill, bool) else fill
    want = composite(scenes, grid, ["red"], order=order, top_k=top_k, fill=share)
    assert len(np.unique(want.selected_observation)) > (1 if top_k == 1 and fill is False else 2)
    got = build(items, grid, ["red"], offset=1000, order=order, top_k=top_k, fill=fill)
    assert_matches(got, want, off_by=1)


def test_four_orders_give_four_pictures(exeter: Any) -> None:
    grid = RefGrid.at("EPSG:32630", 460500, 5622100, 40, 175, 165)
    ids = {
        o: composite(exeter[1], grid, ["red"], order=o, top_k=None).source_ids
        for o in ("clearest", "cloud_cover", "newest", "oldest")
    }
    assert ids["newest"] == ids["oldest"][::-1]
    assert ids["clearest"][0] == ids["cloud_cover"][0] == "S2_EXE_20240602"
    assert len({tuple(v) for v in ids.values()}) >= 3


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_same_crs_with_an_odd_pixel_size_is_bit_equal(shared: Path, resampling: str) -> None:
    """Scenes in the output's own CRS, pixels of 19.9923198 m: no tolerance, no doubtful pixel."""
    items, scenes = load(
        shared / "data/s2_real/exe-s2-l2a-20m-othercrs", ["S2_EXE_20240617_UTM30", "S2_EXE_20240816_UTM30"]
    )
    for res, n in ((10, 400), (20, 250), (50, 120)):
        grid = RefGrid.at("EPSG:32630", 460700, 5621700, res, n, n)
        want = composite(scenes, grid, RGB, top_k=None, resampling=resampling)
        assert not want.doubtful.any()
        assert_matches(build(items, grid, RGB, offset=1000, top_k=None, resampling=resampling), want)


def test_masks_by_the_nearest_pixel(exeter: Any) -> None:
    items, scenes = exeter
    grid = GRID_60
    want = composite(scenes, grid, ["green"], top_k=None, worst=False)
    assert (want.quality != composite(scenes, grid, ["green"], top_k=None).quality).any()
    got = build(items, grid, ["green"], offset=1000, top_k=None, mask_resampling="nearest")
    assert_matches(got, want, off_by=1)


def test_order_of_items_changes_nothing(exeter: Any) -> None:
    items = list(exeter[0])
    grid = RefGrid.at("EPSG:32630", 462000, 5621000, 20, 150, 150)
    first = build(items, grid, ["red"], offset=1000, top_k=2)
    random.Random(3).shuffle(items)
    second = build(items, grid, ["red"], offset=1000, top_k=2)
    assert list(first["source_ids"]) == list(second["source_ids"])
    for name in ("quality", "observation_count", "selected_observation"):
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_array_equal(first["bands"]["red"], second["bands"]["red"])


def without_offsets(item: pystac.Item) -> dict[str, Any]:
    plain = copy.deepcopy(item.to_dict(include_self_link=True, transform_hrefs=False))
    for link in plain["links"]:
        if link["rel"] == "self":
            link["href"] = item.get_self_href()
    for asset in plain["assets"].values():
        asset.pop("raster:bands", None)
    return plain


def test_offset_that_no_metadata_tell_is_zero_with_a_warning(exeter: Any) -> None:
    from bestpixel_gpu.errors import OffsetWarning

    grid = RefGrid.at("EPSG:32630", 462000, 5621000, 20, 100, 100)
    with pytest.warns(OffsetWarning):
        raw = build([without_offsets(i) for i in exeter[0]], grid, ["red"], top_k=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OffsetWarning)
        shifted = build(exeter[0], grid, ["red"], top_k=None, offset=1000)
    seen = raw["quality"] != 65535
    assert seen.all()
    np.testing.assert_array_equal(
        raw["bands"]["red"].astype(int), np.maximum(shifted["bands"]["red"].astype(int), 0) + 1000
    )


def test_offset_is_read_from_the_bands_metadata(exeter: Any) -> None:
    """The items have no baseline, but their bands say offset -0.1 at scale 0.0001."""
    grid = RefGrid.at("EPSG:32630", 462000, 5621000, 20, 100, 100)
    told = build(exeter[0], grid, ["red"], top_k=None, offset=1000)
    found = build(exeter[0], grid, ["red"], top_k=None)
    np.testing.assert_array_equal(told["bands"]["red"], found["bands"]["red"])


def test_scenes_without_a_requested_band_are_named(exeter: Any) -> None:
    items, scenes = exeter
    grid = RefGrid.at("EPSG:32630", 460500, 5622100, 20, 200, 200)
    have = [s for s in scenes if "nir" in s.files]
    assert [s.id[-8:] for s in have] == ["20240801", "20240816", "20240826"]
    got = build(items, grid, ["red", "nir"], offset=1000, top_k=None)
    assert_matches(got, composite(have, grid, ["red", "nir"], top_k=None), off_by=1)
    said = str(got["report"].to_json() if hasattr(got["report"], "to_json") else got["report"])
    assert "S2_EXE_20240602" in said
    assert "S2_EXE_20240617" in said
