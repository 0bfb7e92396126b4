"""Four real HLS dates over Exeter against the slow reference."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from oracle_checks import assert_matches, build
from oracle_reference import FMASK, BandRule, RefGrid, RefScene, Source, composite
from oracle_scenes import PC_KEYS

DATES = ("20210608", "20210613", "20210623", "20210718")
RGB = ("blue", "green", "red")
HLS_BAND = BandRule(lo=-9998, hi=32767)


def at_exeter(res: float, width: int, height: int) -> RefGrid:
    return RefGrid.at("EPSG:32630", 460500, 5622100, res, width, height)


@pytest.fixture(scope="module")
def exeter(shared: Path) -> tuple[list[Any], list[RefScene]]:
    items, scenes = [], []
    for day in DATES:
        folder = shared / "data/s2_real/exe-hls-s30-30m" / f"HLS_EXE_{day}"
        item = pystac.Item.from_file(str(folder / f"{folder.name}.json"))
        assert item.datetime
        items.append(item)
        scenes.append(
            RefScene(
                folder.name,
                datetime.fromisoformat(item.datetime.isoformat()),
                {b: folder / f"{PC_KEYS[b]}.tif" for b in RGB},
                folder / "Fmask.tif",
                0,
                item.properties["eo:cloud_cover"],
                classes=FMASK,
                samples=HLS_BAND,
            )
        )
    return items, scenes


@pytest.mark.parametrize(
    "grid",
    [
        pytest.param(at_exeter(30, 235, 220), id="30m"),
        pytest.param(at_exeter(10, 400, 300), id="10m"),
        pytest.param(at_exeter(60, 116, 110), id="60m-worst-of-full-resolution"),
        pytest.param(at_exeter(120, 58, 55), id="120m-mask-from-its-overview"),
        pytest.param(RefGrid.at("EPSG:3035", 3370000, 3158500, 40, 150, 150), id="40m-laea-europe"),
    ],
)
@pytest.mark.parametrize("order", ["clearest", "newest"])
def test_all_dates_equal_the_reference(exeter: Any, grid: RefGrid, order: str) -> None:
    items, scenes = exeter
    want = composite(scenes, grid, RGB, top_k=None, order=order)
    assert (want.quality == 0).mean() > 0.5
    assert_matches(build(items, grid, RGB, endpoint="hls", top_k=None, order=order), want, off_by=1)


def test_in_the_files_own_crs_every_pixel_is_bit_equal(exeter: Any) -> None:
    """Local equal-area grid without a code, known by its GeoKeys only."""
    items, scenes = exeter
    source = Source.open(scenes[0].files["red"])
    for res, n in ((30, 200), (20, 250), (90, 60)):
        grid = RefGrid.at(source.crs.to_wkt(), source.x0 + 600, source.y0 - 300, res, n, n)
        want = composite(scenes, grid, RGB, top_k=2)
        assert not want.doubtful.any()
        assert_matches(build(items, grid, RGB, endpoint="hls", top_k=2), want)


def test_fix_31_negative_reflectance_is_an_observation(exeter: Any) -> None:
    """Dark pixels below 0 come out as 0, which is no nodata; only the fill -9999 is."""
    items, scenes = exeter
    source = Source.open(scenes[2].files["blue"])
    grid = RefGrid.at(source.crs.to_wkt(), source.x0, source.y0, 30, 237, 224)
    raw = source.read()
    got = build(items[2:3], grid, RGB, endpoint="hls", top_k=None, resampling="nearest")
    seen = got["quality"] != 65535
    negative = (raw < 0) & (raw > -9999) & seen
    assert negative.sum() > 1000
    assert (got["bands"]["blue"][negative] == 0).all()
    np.testing.assert_array_equal(got["bands"]["blue"][seen], np.maximum(raw[seen], 0))


def test_fix_04_fill_never_mixes_into_a_pixel(exeter: Any) -> None:
    """Beside the fill of -9999 bilinear weighs only what was observed: no dark rim."""
    items, scenes = exeter
    raw = Source.open(scenes[3].files["red"]).read()
    assert (raw == -9999).any()
    got = build(items[3:], at_exeter(25, 280, 260), ("red",), endpoint="hls", top_k=None)
    lowest = int(raw[raw > -9999].min())
    red = np.asarray(got["bands"]["red"])
    assert red[red != 65535].min() >= max(lowest, 0)


def test_bands_that_hls_shares_are_all_that_an_unmarked_item_offers(exeter: Any) -> None:
    """Nothing in these items tells Landsat from Sentinel-2, whose higher numbers mean other bands."""
    items, _ = exeter
    with pytest.raises(Exception, match="no band nir") as caught:
        build(items, at_exeter(60, 20, 20), ("red", "nir"), endpoint="hls")
    assert type(caught.value).__name__ == "NoScenesError"
