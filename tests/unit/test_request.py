"""Bad arguments are refused before anything is sent, with what to change."""

from __future__ import annotations

import math
from typing import Any

import pytest

import bestpixel_gpu
from bestpixel_gpu.errors import BestPixelError, InputError
from bestpixel_gpu.request import check_bbox

BOX = (7.0, 44.6, 7.1, 44.7)
DATES = "2024-06-01/2024-06-30"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import bestpixel_gpu.compositing.run as run

    async def refuse(*_: Any) -> None:
        raise AssertionError("a stage began although the arguments are bad")

    monkeypatch.setattr(run, "composite", refuse)


@pytest.mark.parametrize(
    ("bbox", "says"),
    [
        ((7.0, 44.7, 7.1, 44.6), "swap"),
        ((7.1, 44.6, 7.0, 44.7), "swap"),
        ((7.0, 44.6, 7.0, 44.7), "empty"),
        ((7.0, 44.6, 7.1), "four numbers"),
        ((7.0, 44.6, 7.1, 95.0), "latitudes"),
        ((-190.0, 44.6, 7.1, 45.0), "longitudes"),
        ((math.nan, 44.6, 7.1, 45.0), "finite"),
        ("somewhere", "degrees"),
        (None, "no area"),
    ],
)
def test_fix_20_bad_bbox(bbox: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        bestpixel_gpu.build_composite(bbox, DATES)


def test_crossing_of_180_degrees_is_legal() -> None:
    assert check_bbox((179.0, -10.0, -179.0, -9.0)) == (179.0, -10.0, -179.0, -9.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bands": ["red", "rouge"]}, "'rouge'.*choose from.*red"),
        ({"bands": []}, "bands is empty"),
        ({"bands": 5}, "bands must be a list of names, got 5"),
        ({"stac_url": 5}, "stac_url must be the web address"),
        ({"stac_url": "earth-search.example/v1?token=secret"}, r"stac_url .*, got 'earth-search.example/v1'"),
        ({"progress": "yes"}, "progress must be True or False, a callable"),
        ({"progress": int}, "progress must be True or False, a callable"),
        ({"endpoint": "moon"}, "earth-search"),
        ({"endpoint": "hls3"}, "not known.*'hls'"),
        ({"endpoint": "mcd43a4", "bands": ["rededge1"]}, "'rededge1' for mcd43a4"),
        ({"endpoint": "mcd43a4", "bbox": (179.0, -10.0, -179.0, -9.0)}, "output_crs='utm'"),
        ({"device": "tpu"}, "tpu"),
        ({"order": "prettiest"}, "clearest"),
        ({"resolution": 0}, "resolution"),
        ({"resolution": -10}, "resolution"),
        ({"resolution": math.inf}, "resolution"),
        ({"resolution": "ten"}, "resolution.*'native'"),
        ({"resolution": "native", "crs": "EPSG:3857"}, "leave crs= out"),
        ({"band_quality": 1}, "band_quality"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"fill": 2}, "fill"),
        ({"max_failed": -1}, "max_failed"),
        ({"errors": "ignore"}, "'repair'"),
        ({"resampling": "cubic"}, "'bilinear'"),
        ({"mask_resampling": "mode"}, "'worst'"),
        ({"output_crs": "web"}, "'utm'"),
        ({"crs": "EPSG:nonsense"}, "CRS"),
        ({"crs": "EPSG:3857", "like": object()}, "twice"),
        ({"memory_limit": 1}, "memory_limit"),
        ({"threads": 0}, "threads"),
        ({"disk_cache": ""}, "disk_cache must be the path of a folder"),
        ({"disk_cache": 5}, "disk_cache must be the path"),
        ({"disk_cache": b"cache"}, "disk_cache must be the path"),
        ({"disk_cache": "a\0b"}, "disk_cache must be the path"),
        ({"timeout": 0}, "timeout"),
        ({"offset": "much"}, "offset"),
        ({"coverage_target": 0.9, "min_k": 9, "max_k": 2}, "min_k 9"),
        ({"emit_uncertainty": 2}, "emit_uncertainty"),
        ({"datetime": "2024-06-30/2024-06-01"}, "2024-06"),
        ({"datetime": "last summer"}, "last summer"),
        ({"datetime": 2024}, "datetime"),
        ({"order": "nearest:someday"}, "nearest"),
    ],
)
def test_bad_argument(change: dict[str, Any], says: str) -> None:
    arguments = {"bbox": BOX, "datetime": DATES} | change
    with pytest.raises(InputError, match=says):
        bestpixel_gpu.build_composite(**arguments)


def test_fix_20_result_that_cannot_fit_is_refused_with_sizes_that_would() -> None:
    with pytest.raises(bestpixel_gpu.MemoryLimitError, match="resolution >="):
        bestpixel_gpu.build_composite((7, 44, 9, 46), DATES, resolution=10, memory_limit=64 << 20)


def test_absurd_resolution_is_refused() -> None:
    with pytest.raises(BestPixelError, match="resolution"):
        bestpixel_gpu.build_composite((7, 44, 9, 46), DATES, resolution=0.02)


def test_unknown_argument_is_a_type_error_in_every_entry_point() -> None:
    for entry in (bestpixel_gpu.build_composite, bestpixel_gpu.explain):
        with pytest.raises(TypeError, match="resolutoin"):
            entry(BOX, DATES, resolutoin=10)
