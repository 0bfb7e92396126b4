"""Recorded items of the real archives: files, place, radiometry, or a clear reason why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pystac
import pytest

from bestpixel_gpu.catalog.duplicates import merge_duplicates
from bestpixel_gpu.catalog.items import SkipItem, item_dicts, scene_of
from bestpixel_gpu.catalog.providers import BAND_KEYS, PROFILES, resolve_endpoint
from bestpixel_gpu.geo.crs import SINUSOIDAL, same_crs

ALL = tuple(BAND_KEYS)

# file: (endpoint, CRS, tile, left, top, DN, reason)
EXPECTED = {
    "es-s2-c1-l2a-0510-20HNJ-south": (
        "earth-search-c1", 32720, "20HNJ", 499980, 6400000, 1000, "always 1000",
    ),
    "es-s2-c1-l2a-0511-same-scene": ("earth-search-c1", 32720, "20EPT", 600000, 3300040, 1000, "always 1000"),
    "es-s2-c1-l2a-S2A_T13TDE_20240422T174753_L2A": (
        "earth-search-c1", 32613, "13TDE", 399960, 4500000, 1000, "always 1000",
    ),
    "es-s2-c1-l2a-S2B_T13TDE_20240420T175329_L2A": (
        "earth-search-c1", 32613, "13TDE", 399960, 4500000, 1000, "always 1000",
    ),
    "es-s2-l2a-0509-2023": ("earth-search", 32613, "13TDE", 399960, 4500000, 0, "harmonised"),
    "es-s2-l2a-0511-boa-applied": ("earth-search", 32720, "20EPT", 600000, 3300040, 0, "harmonised"),
    "es-s2-l2a-0511-south": ("earth-search", 32724, "24MUA", 300000, 9600040, 0, "harmonised"),
    "es-v0-S2A_28QCH_20200714": ("earth-search", 32628, "28QCH", 300000, 2300040, 0, "harmonised"),
    "es-v0-sentinel-s2-l2a-cogs": ("earth-search", 32720, "20EPT", 600000, 3300040, 0, "harmonised"),
    "pc-s2-0212-35LNK": ("pc", 32735, "35LNK", 499980, 9000040, 0, "baseline 02.12 < 04.00"),
    "pc-s2-0212-35LNL": ("pc", 32735, "35LNL", 499980, 9100000, 0, "baseline 02.12 < 04.00"),
    "pc-s2-0212-35MNM-2020-07-26": ("pc", 32735, "35MNM", 499980, 9200020, 0, "baseline 02.12 < 04.00"),
    "pc-s2-0212-35MNM-2020-07-31": ("pc", 32735, "35MNM", 499980, 9200020, 0, "baseline 02.12 < 04.00"),
    "pc-s2-0212-T06VVN": ("pc", 32606, "06VVN", 399960, 6800040, 0, "baseline 02.12 < 04.00"),
    "pc-s2-0212-T59VPE-same-datatake": ("pc", 32659, "59VPE", 600000, 6500040, 0, "baseline 02.12 < 04.00"),
    "pc-s2-0212-T60VUK": ("pc", 32660, "60VUK", 300000, 6500040, 0, "baseline 02.12 < 04.00"),
    "pc-s2-0400-T24XWR": ("pc", 32624, "24XWR", 499980, 9100020, 1000, "baseline 04.00 >= 04.00"),
    "pc-s2-0510-svalbard": ("pc", 32647, "47XML", 399960, 9100020, 1000, "baseline 05.10 >= 04.00"),
    "pc-s2-0511-sparse": ("pc", 32653, "53NKG", 199980, 700020, 1000, "baseline 05.11 >= 04.00"),
}  # fmt: skip
# file: (endpoint, CRS, tile, left, top, pixel, shape, day, datatake)
OTHERS = {
    "hls-l30-T19LDD-south": (
        "hls", "EPSG:32619", "19LDD", 399960, -1599960, 30, (3660, 3660), "2022-06-14", "HLS.L30",
    ),
    "hls-s30-T19LDD-south": (
        "hls", "EPSG:32619", "19LDD", 399960, -1599960, 30, (3660, 3660), "2022-06-15", "HLS.S30",
    ),
    "modis-43a4-h14v10-stactools": (
        "mcd43a4", "PROJCRS", "h14v10", -4447802.078667, -1111950.519667, 463.3127165279167, (2400, 2400),
        "2022-02-01", "A2022032",
    ),
    "pc-modis-43a4-h35v10-antimeridian": (
        "mcd43a4", "PROJCRS", "h35v10", 18903158.834333, -1111950.519667, 463.3127165279165, (2400, 2400),
        "2025-03-02", "A2025061",
    ),
    "pc-landsat-L2SP-089087-zone-seam": (
        "landsat", "EPSG:32656", "089087", 134085, -4194885, 30, (7691, 7661), "2024-04-17", "LC09_20240417",
    ),
    "pc-landsat-L2SP-089088": (
        "landsat", "EPSG:32655", "089088", 606285, -4348485, 30, (7991, 7971), "2024-04-17", "LC09_20240417",
    ),
    "pc-landsat-L2SP-tasmania-north-utm": (
        "landsat", "EPSG:32655", "090091", 355785, -4821585, 30, (7881, 7871), "2025-03-10", "LC09_20250310",
    ),
    "pc-landsat-L2SR-no-thermal": (
        "landsat", "EPSG:32657", "084082", 466185, -3395085, 30, (7831, 7781), "2025-07-22", "LC09_20250722",
    ),
}  # fmt: skip
FILES = {
    "L30": "B01 B02 B03 B04 B05 B06 B07 Fmask",
    "S30": "B01 B02 B03 B04 B8A B11 B12 Fmask",
    "MCD43A4": "Band3 Band4 Band1 Band2 Band6 Band7 Quality_Band1",
    "LC09": "B2 B3 B4 B5 B6 B7 PIXEL",
}
"""Ends of the files' names by what they begin with, in the order of the endpoint's bands, then the mask."""
REFUSED = {
    "dea-ga_ls8c_ard_3": "is not known",
    "es-landsat-L2SP-s3-requester-pays": "readers pay: endpoint='landsat'",
    "pc-naip-2019-fl": "is not known",
    "pc-naip-2022-puerto-rico-30cm": "is not known",
    "pc-naip-2023-mt-nad83": "is not known",
    "s2-antimeridian-T01KAB-multipolygon": "JPEG 2000",
    "s2-antimeridian-T01VCG-0500": "JPEG 2000",
    "s2-antimeridian-T60CWS-pole": "JPEG 2000",
    "usgs-landsat-c2l2-sr-086107": "readers pay: endpoint='landsat'",
    "usgs-landsat7-LE07": "needs a login: endpoint='landsat'",
}


def _read(shared: Path, name: str) -> dict[str, Any]:
    return json.loads((shared / "data" / "stac" / f"{name}.json").read_text())


def test_no_recorded_item_is_forgotten(shared: Path) -> None:
    items = {
        f.stem
        for f in (shared / "data" / "stac").glob("*.json")
        if not f.stem.startswith(("collection-", "search-", "errors-"))
    }
    assert items == EXPECTED.keys() | OTHERS.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("through_pystac", [False, True])
@pytest.mark.filterwarnings("ignore:Could not parse bucket")  # pystac, on files it does not know
def test_supported_item_is_understood(shared: Path, name: str, through_pystac: bool) -> None:
    endpoint_name, epsg, tile, left, top, dn, reason = EXPECTED[name]
    item = _read(shared, name)
    if through_pystac:  # moves proj:epsg to proj:code
        item = item_dicts(pystac.Item.from_dict(item))[0]
    endpoint = resolve_endpoint(endpoint_name)
    scene = scene_of(item, endpoint, ALL)

    assert tuple(scene.bands) == ALL
    assert (scene.crs, scene.tile) == (f"EPSG:{epsg}", tile)
    assert (scene.offset.dn, scene.offset.certain) == (dn, True)
    assert scene.offset.reason.startswith(reason)
    for band, ref in scene.bands.items():
        metres = {"blue": 10, "green": 10, "red": 10, "nir": 10, "coastal": 60, "nir09": 60}.get(band, 20)
        assert ref.href.startswith("https://")
        assert ref.href.endswith(".tif")
        assert f"{BAND_KEYS[band]}" in ref.href.rsplit("/", 1)[1]
        assert ref.shape == (109800 // metres, 109800 // metres)
        assert ref.transform == (metres, 0, left, 0, -metres, top)
    assert "SCL" in scene.mask.href
    assert scene.mask.shape == (5490, 5490)
    assert scene.mask.transform == (20, 0, left, 0, -20, top)
    assert scene.signed == name.startswith("pc-")
    assert scene.profile.collection == item["collection"]
    assert scene.when.isoformat()[:19] == item["properties"]["datetime"][:19]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("through_pystac", [False, True])
@pytest.mark.parametrize("own_endpoint", [False, True])
@pytest.mark.filterwarnings("ignore:Could not parse bucket")
def test_item_of_another_family_is_understood(
    shared: Path, name: str, through_pystac: bool, own_endpoint: bool
) -> None:
    endpoint_name, crs, tile, left, top, pixel, shape, day, datatake = OTHERS[name]
    item = _read(shared, name)
    if through_pystac:
        item = item_dicts(pystac.Item.from_dict(item))[0]
    bands = resolve_endpoint(endpoint_name).default_bands
    endpoint = resolve_endpoint(endpoint_name if own_endpoint else "earth-search")
    scene = scene_of(item, endpoint, bands, base="https://archive.example/items/")

    assert scene.profile in PROFILES
    assert str(scene.crs).replace("PROJCS", "PROJCRS").startswith(crs)
    assert scene.crs is not None
    assert same_crs(scene.crs, SINUSOIDAL) == (endpoint_name == "mcd43a4")
    assert (scene.tile, scene.datatake) == (tile, datatake)
    assert scene.when.date().isoformat() == day
    assert (scene.offset.dn, scene.offset.certain) == (0, True)
    assert scene.strip_start is not None
    assert scene.generated
    names = next(v.split() for k, v in FILES.items() if k in item["id"])
    for ref, end in zip((*scene.bands.values(), scene.mask), names, strict=True):
        assert ref.href.startswith("https://")
        assert ref.href.rsplit(".", 1)[0].endswith(end)
        assert ref.shape == shape
        assert ref.transform == pytest.approx((pixel, 0, left, 0, -pixel, top), abs=1e-9)
    assert scene.signed == (".blob." in scene.mask.href)


def test_fix_32_each_modis_band_has_its_own_quality_layer(shared: Path) -> None:
    item = _read(shared, "pc-modis-43a4-h35v10-antimeridian")
    endpoint = resolve_endpoint("mcd43a4")
    usual = scene_of(item, endpoint, ("blue", "nir"))
    assert usual.mask.key.endswith("Quality_Band1")
    assert usual.more_masks == ()
    own = scene_of(item, endpoint, ("blue", "nir", "nir08", "swir16"), band_quality=True)
    assert [m.key[-5:] for m in (own.mask, *own.more_masks)] == ["Band3", "Band2", "Band6"]


@pytest.mark.parametrize("code", [32719, "EPSG:32719", 32632, None])
def test_fix_28_hls_lies_in_the_northern_zone_whatever_its_item_says(shared: Path, code: object) -> None:
    item = _read(shared, "hls-l30-T19LDD-south")
    item["properties"] |= {"proj:epsg": None, "proj:code": code}
    assert scene_of(item, resolve_endpoint("hls"), ("red",)).crs == "EPSG:32619"


def test_fix_19_an_item_without_datetime_has_a_day(shared: Path) -> None:
    for name in ("modis-43a4-h14v10-stactools", "hls-l30-T19LDD-south"):
        item = _read(shared, name)
        item["properties"]["datetime"] = None
        scene = scene_of(item, resolve_endpoint("hls"), ("red",), base="https://archive.example/")
        assert scene.when.date().isoformat() == OTHERS[name][7]


def test_fix_18_newest_processing_of_one_pass_stays(shared: Path) -> None:
    for name, change in {
        "hls-l30-T19LDD-south": {"id": "HLS.L30.T19LDD.2022165T144028.v2.0"},
        "pc-modis-43a4-h35v10-antimeridian": {"id": "MCD43A4.A2025061.h35v10.061.2025080000000"},
        "pc-landsat-L2SP-089088": {"id": "LC09_L2SP_089088_20240417_02_T1"},
    }.items():
        item = _read(shared, name)
        again = item | change
        again["properties"] = item["properties"] | {"created": "2029-01-01T00:00:00Z"}
        old, new = (scene_of(i, resolve_endpoint("hls"), ("red",)) for i in (item, again))
        assert merge_duplicates([old, new])[0] == [new]
    rows = [
        scene_of(_read(shared, f"pc-landsat-L2SP-{n}"), resolve_endpoint("landsat"), ("red",))
        for n in ("089087-zone-seam", "089088")
    ]
    assert merge_duplicates(rows) == (rows, [])


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("endpoint", ["pc", "earth-search", "earth-search-c1", "landsat"])
def test_other_items_are_refused_with_a_reason(shared: Path, name: str, endpoint: str) -> None:
    with pytest.raises(SkipItem, match=REFUSED[name]):
        scene_of(_read(shared, name), resolve_endpoint(endpoint), ("red",))


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("endpoint", ["pc", "earth-search", "earth-search-c1"])
def test_items_of_another_archive_keep_their_own_radiometry(shared: Path, name: str, endpoint: str) -> None:
    """Items given by the caller are judged by their collection and keys, not by the endpoint."""
    scene = scene_of(_read(shared, name), resolve_endpoint(endpoint), ("red",))
    assert scene.offset.dn == EXPECTED[name][5]
    harmonised = "sentinel-cogs." in scene.mask.href
    assert (scene.profile.valid_lo, scene.profile.mask_grow) == ((0, 5) if harmonised else (1, 0))


def test_renamed_collection_is_known_by_its_files(shared: Path) -> None:
    for name, dn in {
        "es-s2-l2a-0511-south": 0,
        "es-s2-c1-l2a-0511-same-scene": 1000,
        "pc-s2-0212-T60VUK": 0,
    }.items():
        item = _read(shared, name) | {"collection": "my-mosaic"}
        assert scene_of(item, resolve_endpoint("pc"), ("red",)).offset.dn == dn


def test_the_same_scene_in_two_collections_is_one_observation(shared: Path) -> None:
    names = ("es-s2-c1-l2a-0511-same-scene", "es-s2-l2a-0511-boa-applied", "es-v0-sentinel-s2-l2a-cogs")
    c1, l2a, v0 = (scene_of(_read(shared, n), resolve_endpoint("earth-search"), ("red",)) for n in names)
    kept, dropped = merge_duplicates([c1, l2a])
    assert len(kept) == len(dropped) == 1
    assert merge_duplicates([l2a, v0])[0] == [l2a, v0]  # equal baselines, one strip unknown: not proven


def test_two_tiles_of_one_pass_and_two_passes_are_no_duplicates(shared: Path) -> None:
    scenes = [
        scene_of(_read(shared, n), resolve_endpoint("pc"), ("red",))
        for n in EXPECTED
        if n.startswith(("pc-s2-0212-35", "pc-s2-0212-T"))
    ]
    assert merge_duplicates(scenes) == (scenes, [])


def test_exeter_items_take_the_profile_whose_keys_match(shared: Path) -> None:
    folders = sorted((shared / "data" / "s2_real").glob("exe-s2-l2a-20m*/S2_EXE_*"))
    assert len(folders) == 9
    for folder in folders:
        item = json.loads((folder / f"{folder.name}.json").read_text())
        scene = scene_of(item, resolve_endpoint("earth-search"), ("red", "blue"), base=folder)
        assert scene.offset.dn == 1000
        assert scene.offset.reason == "raster:bands.offset -0.1"
        assert scene.profile.collection == "sentinel-2-l2a"
        assert scene.crs is not None
        assert scene.crs.startswith(("PROJCRS", "EPSG:"))
        assert scene.tile == ""
        assert not scene.signed
        assert all(Path(ref.href).is_file() for ref in (*scene.bands.values(), scene.mask))
