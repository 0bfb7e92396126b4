"""HLS, MODIS and Landsat as the embedded archive imitates them, read by rasterio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds

from bestpixel_gpu.simulate import ArchiveSpec, build, items

BANDS = ("blue", "red", "nir", "swir16")
SPEC = ArchiveSpec(
    dialects=("hls", "mcd43a4", "landsat"), tiles=1, seam=False, dates=4, bands=BANDS, level=1, block=None
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SPEC, tmp_path_factory.mktemp("products"))


# dialect: (type and fill of bands, of masks, predictor, mask key, masks)
EXPECTED = {
    "hls": (("int16", -9999), ("uint8", 255), 2, "Fmask", 1),
    "mcd43a4": (("int16", 32767), ("uint8", 255), 1, "BRDF_Albedo_Band_Mandatory_Quality_Band1", 6),
    "landsat": (("uint16", 0), ("uint16", 1), 2, "qa_pixel", 1),
}


@pytest.mark.parametrize("dialect", EXPECTED)
def test_files_agree_with_their_items_and_the_real_ones(archive: Path, dialect: Any) -> None:
    band, mask, predictor, mask_key, masks = EXPECTED[dialect]
    found = items(archive, dialect)
    assert len(found) == {"hls": 8, "mcd43a4": 7, "landsat": 7}[dialect]
    for item in found:
        properties = item["properties"]
        assert mask_key in item["assets"]
        assert len(item["assets"]) == len(BANDS) + masks
        for key, asset in item["assets"].items():
            is_mask = key.startswith(mask_key.rstrip("1"))
            with rasterio.open(asset["href"]) as r:
                assert list(r.shape) == properties["proj:shape"]
                assert [*r.transform][:9] == pytest.approx(properties["proj:transform"])
                assert (r.dtypes[0], r.nodata) == (mask if is_mask else band)
                assert r.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", "1") in ("1", str(predictor))
                box = transform_bounds(r.crs, "EPSG:4326", *r.bounds)
            assert item["bbox"] == pytest.approx(box, abs=0.01)
        assert ("eo:cloud_cover" in properties) == (dialect != "mcd43a4")


def test_southern_hls_lies_in_the_north_and_its_item_lies(archive: Path) -> None:
    south = [i for i in items(archive, "hls") if "33KVP" in i["id"]]
    assert south
    for item in south:
        assert item["properties"]["proj:code"] == 32733
        with rasterio.open(item["assets"]["Fmask"]["href"]) as r:
            assert r.crs.to_epsg() == 32633
            assert r.bounds.top < 0


def test_one_landsat_granule_of_hls_is_listed_twice(archive: Path) -> None:
    names = [[*i["id"].split(".")[:3], i["id"].split(".")[3][:7]] for i in items(archive, "hls")]
    twice = [n for n in names if names.count(n) == 2]
    assert len(twice) == 2


def test_all_archives_show_the_same_ground(archive: Path) -> None:
    """Median reflectance of what each calls clear, on one scale."""
    medians = []
    for dialect, key in {"hls": "B04", "landsat": "red", "mcd43a4": "Nadir_Reflectance_Band1"}.items():
        band, _, _, mask_key, _ = EXPECTED[dialect]
        seen = []
        for item in items(archive, dialect):
            with (
                rasterio.open(item["assets"][key]["href"]) as a,
                rasterio.open(item["assets"][mask_key]["href"]) as b,
            ):
                value, quality = a.read(1), b.read(1)
            clear = np.isin(
                quality, (64, 96) if dialect == "hls" else (0,) if dialect == "mcd43a4" else (21824, 21952)
            )
            value = value[clear & (value != band[1])].astype(float)
            seen.append((value * 2.75e-5 - 0.2) * 1e4 if dialect == "landsat" else value)
        medians.append(np.median(np.concatenate(seen)))
    assert max(medians) < 1.35 * min(medians)


def test_a_dead_detector_of_modis_shows_in_its_own_quality_only(archive: Path) -> None:
    item = items(archive, "mcd43a4")[0]
    layers = {}
    for n in (1, 6):
        with rasterio.open(item["assets"][f"BRDF_Albedo_Band_Mandatory_Quality_Band{n}"]["href"]) as r:
            layers[n] = r.read(1)
    with rasterio.open(item["assets"]["Nadir_Reflectance_Band6"]["href"]) as r:
        assert (r.read(1)[layers[6] == 255] == 32767).all()
    assert (layers[6][::5] == 255).all()
    assert (layers[1] != 255).any(axis=1)[::5].any()
