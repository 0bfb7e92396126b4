"""Items as scenes: assets, addresses, place, time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pystac
import pytest

from bestpixel_gpu.catalog.hrefs import absolute_href, check_href, is_local
from bestpixel_gpu.catalog.items import SkipItem, item_dicts, scene_of
from bestpixel_gpu.catalog.places import tile_code
from bestpixel_gpu.catalog.providers import ES_S2, PC_S2, UNKNOWN_PROFILES, resolve_endpoint
from bestpixel_gpu.errors import CatalogError, InputError

PC = resolve_endpoint("pc")


def make(keys: tuple[str, ...] = ("B04", "SCL"), **change: Any) -> dict[str, Any]:
    properties = {"datetime": "2024-06-01T10:00:00Z", "proj:epsg": 32631, "s2:processing_baseline": "05.10"}
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        "bbox": [0, 0, 1, 1],
        "properties": properties | change.pop("properties", {}),
        "assets": {k: {"href": f"https://host/{k}.tif"} for k in keys},
        "links": [],
    }
    return item | change


def with_asset(key: str, **asset: Any) -> dict[str, Any]:
    item = make()
    item["assets"][key] = {"href": f"https://host/{key}.tif", **asset}
    return item


# ---- what holds items ----


def test_every_holder_of_items() -> None:
    raw = make()
    item = pystac.Item.from_dict(raw)

    class Search:
        def items_as_dicts(self) -> Any:
            yield raw

    collection = {"type": "FeatureCollection", "features": [raw, raw]}
    for holder, count in [
        (raw, 1), (item, 1), ([raw, item], 2), (pystac.ItemCollection([item, item]), 2), (collection, 2),
        ((i for i in (raw, collection)), 3), (Search(), 1), ([], 0),
        ({"type": "FeatureCollection", "features": []}, 0),
    ]:  # fmt: skip
        dicts = item_dicts(holder)
        assert len(dicts) == count
        for one in dicts:
            assert scene_of(one, PC, ("red",)).crs == "EPSG:32631"


@pytest.mark.parametrize("holder", ["items.json", b"x", 5, None, [make(), 3], {"id": "x"}, {"assets": {}}])
def test_what_holds_no_items_is_refused(holder: Any) -> None:
    with pytest.raises(InputError, match="items"):
        item_dicts(holder)


# ---- assets ----


def test_keys_in_either_case_and_by_the_name_of_the_band() -> None:
    scene = scene_of(make(("b04", "scl")), PC, ("red",))
    assert (scene.bands["red"].key, scene.mask.key) == ("b04", "scl")
    named = make(("SCL", "B02"))
    named["assets"]["R"] = {"href": "https://host/r.tif", "eo:bands": [{"name": "B04"}]}
    named["assets"]["visual"] = {"href": "https://host/v.tif", "eo:bands": [{"name": "B04"}, {"name": "B03"}]}
    assert scene_of(named, PC, ("red",)).bands["red"].key == "R"
    named["assets"]["R20"] = named["assets"]["R"]
    with pytest.raises(SkipItem, match=r"B04 \(red\) is missing"):
        scene_of(named, PC, ("red",))


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (make(("B02", "SCL")), r"asset B04 \(red\) is missing"),
        (make(("B04",)), "mask asset SCL is missing"),
        (with_asset("B04", type="image/jp2"), "B04 is JPEG 2000"),
        (with_asset("B04", href="https://host/a.jp2?x=1"), "B04 is JPEG 2000"),
        (with_asset("SCL", href="s3://sentinel-s2-l2a/tiles/SCL.tif"), "readers pay"),
        (with_asset("B04", href="https://usgs-landsat.s3.us-west-2.amazonaws.com/B4.TIF"), "readers pay"),
        (with_asset("B04", **{"storage:requester_pays": True}), "readers pay"),
        (with_asset("B04", href=""), "no href"),
        (with_asset("B04", href="https://[::1/x.tif"), "malformed"),
        (make(properties={"datetime": None}), "datetime"),
        (make(properties={"datetime": "soon"}), "datetime"),
        (make(assets=None), "no assets"),
        (make(assets={}, collection="other"), "'other' is not known"),
    ],
)
def test_no_candidates_say_why(item: Any, says: str) -> None:
    with pytest.raises(SkipItem, match=says) as caught:
        scene_of(item, PC, ("red",))
    assert isinstance(caught.value, CatalogError)


def test_grid_is_read_from_asset_then_item_with_six_or_nine_numbers() -> None:
    item = with_asset("B04", **{"proj:shape": [3, 4], "proj:transform": [10, 0, 1, 0, -10, 2, 0, 0, 1]})
    item["properties"] |= {"proj:shape": [5, 6], "proj:transform": [30.0, 0, 3, 0, -30, 4]}
    scene = scene_of(item, PC, ("red",))
    assert (scene.bands["red"].shape, scene.bands["red"].transform) == ((3, 4), (10, 0, 1, 0, -10, 2))
    assert (scene.mask.shape, scene.mask.transform) == ((5, 6), (30, 0, 3, 0, -30, 4))
    item["properties"] |= {"proj:shape": None, "proj:transform": ["a"] * 6}
    assert (scene_of(item, PC, ("red",)).mask.shape, scene_of(item, PC, ("red",)).mask.transform) == (
        None,
        None,
    )


def test_unknown_collection_takes_the_profile_whose_keys_match() -> None:
    assert scene_of(make(collection="mine"), PC, ("red",)).profile is PC_S2
    lower = make(("red", "scl"), collection=None)
    scene = scene_of(lower, PC, ("red",))
    assert scene.profile is UNKNOWN_PROFILES[1]
    assert scene.offset.reason == "baseline 05.10 >= 04.00"
    for asset in lower["assets"].values():
        asset["href"] = asset["href"].replace("host/", "mirror/sentinel-s2-l2a-cogs/1/")
    assert scene_of(lower, PC, ("red",)).profile is ES_S2


# ---- addresses ----


@pytest.mark.parametrize(
    ("href", "own", "base", "expected"),
    [
        ("https://a/b.tif?x", "", None, "https://a/b.tif?x"),
        ("./b.tif", "https://h/c/d/i.json?t=1", None, "https://h/c/d/b.tif"),
        ("../b.tif", "s3://bucket/c/d/i.json", None, "s3://bucket/c/b.tif"),
        ("b.tif", "file:///c/d/i.json", None, "file:///c/d/b.tif"),
        ("./b.tif", "/c/d/i.json", "https://not/used", "/c/d/b.tif"),
        ("./b.tif", "./i.json", "/c/d", "/c/d/b.tif"),
        ("./b.tif", "./i.json", "/c/d/i.json", "/c/d/b.tif"),
        ("./e/b.tif", "", "https://h/c/d", "https://h/c/d/e/b.tif"),
        ("./b.tif", "", "https://h/c/i.geojson", "https://h/c/b.tif"),
        ("/c/b.tif", "https://h/i.json", None, "/c/b.tif"),
        ("C:\\c\\b.tif", "https://h/i.json", None, "C:\\c\\b.tif"),
    ],
)
def test_relative_hrefs(href: str, own: str, base: str | None, expected: str) -> None:
    item = {"id": "x", "links": [{"rel": "root", "href": "https://no/"}, {"rel": "self", "href": own}]}
    assert absolute_href(href, item, base) == expected


def test_a_relative_href_without_a_base_is_an_input_error_or_a_skip() -> None:
    item = with_asset("B04", href="./B04.tif?sig=secret")
    with pytest.raises(InputError, match="self link") as caught:
        scene_of(item, PC, ("red",))
    assert "secret" not in str(caught.value)
    with pytest.raises(SkipItem, match="relative"):
        scene_of(item, PC, ("red",), catalog_root="https://example.org/v1")


LOCAL = [
    "/etc/passwd", "etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "C:\\x", "http://localhost/x",
    "http://LOCALHOST.:80/x", "http://a.localhost/x", "http://127.0.0.1/x", "http://127.8.9.1:99/x", "http://127.1/x",
    "http://2130706433/x", "http://0x7f000001/x", "http://[::1]/x", "http://[::ffff:127.0.0.1]/x", "http://0.0.0.0/x",
    "http://169.254.169.254/latest", "http://user@127.0.0.1/x", "http:///x", "http://%6cocalhost/x",
]  # fmt: skip
REMOTE = [
    "https://a.blob.core.windows.net/c/x.tif",
    "s3://bucket/x",
    "http://10.1.2.3/x",
    "https://127.0.0.1.nip.io/x",
]


def test_only_a_local_catalogue_may_lead_into_this_machine() -> None:
    for href in LOCAL:
        assert is_local(href), href
        with pytest.raises(SkipItem, match="into this machine"):
            check_href(href, "https://example.org/v1")
        check_href(href, "http://127.0.0.1:8000/pc/api/stac/v1")
        check_href(href, "http://localhost:8000/v1")
    for href in REMOTE:
        assert not is_local(href), href
        check_href(href, "https://example.org/v1")


def test_items_of_a_search_are_checked_and_those_of_the_caller_are_trusted() -> None:
    item = with_asset("B04", href="http://127.0.0.1/x.tif")
    with pytest.raises(SkipItem, match="into this machine"):
        scene_of(item, PC, ("red",), catalog_root="https://example.org/v1")
    assert scene_of(item, PC, ("red",)).bands["red"].href == "http://127.0.0.1/x.tif"


# ---- place ----


@pytest.mark.parametrize(
    ("ident", "properties", "code"),
    [
        ("x", {"s2:mgrs_tile": "31TCJ", "grid:code": "MGRS-32TLQ"}, "31TCJ"),
        ("x", {"mgrs:tile": "06VVN"}, "06VVN"),
        ("x", {"grid:code": "MGRS-1KAB"}, "01KAB"),
        ("x", {"grid:code": "WRS2-033032"}, "033032"),
        ("x", {"landsat:wrs_path": "90", "landsat:wrs_row": "091"}, "090091"),
        ("x", {"landsat:wrs_path": "090"}, ""),
        ("x", {"mgrs:utm_zone": 1, "mgrs:latitude_band": "K", "mgrs:grid_square": "AB"}, "01KAB"),
        (
            "x",
            {"sentinel:utm_zone": 20, "sentinel:latitude_band": "E", "sentinel:grid_square": "PT"},
            "20EPT",
        ),
        ("x", {"mgrs:latitude_band": "K", "mgrs:grid_square": "AB"}, ""),
        ("S2A_28QCH_20200714_0_L2A", {"sentinel:latitude_band": "Q", "sentinel:grid_square": "CH"}, "28QCH"),
        ("S2B_1KAB_20200714_0_L2A", {}, "01KAB"),
        ("S2B_MSIL2A_20250312T014549_R074_T53NKG_20250312T041213", {}, "53NKG"),
        ("HLS.L30.T54SVE.2026240T011542.v2.0", {}, "54SVE"),
        ("MCD43A4.A2025061.h35v10.061.2025070035331", {}, "h35v10"),
        ("my_31TCJ_scene", {}, ""),
        ("S2A_61TCJ_x", {}, ""),
    ],
)
def test_tile_codes(ident: str, properties: dict[str, Any], code: str) -> None:
    assert tile_code({"id": ident, "properties": properties}) == code


WKT = 'PROJCRS["x"]'


@pytest.mark.parametrize(
    ("asset", "properties", "crs"),
    [
        ({"proj:code": "EPSG:32632"}, {"proj:code": "EPSG:32633"}, "EPSG:32632"),
        ({"proj:epsg": 32632}, {"proj:code": "EPSG:32633"}, "EPSG:32632"),
        ({}, {"proj:epsg": None, "proj:code": "EPSG:32633"}, "EPSG:32633"),
        ({}, {"proj:epsg": None, "proj:code": 32732}, "EPSG:32732"),
        ({}, {"proj:epsg": None, "proj:code": "32732"}, "EPSG:32732"),
        ({}, {"proj:epsg": None, "proj:code": "epsg:32732"}, "EPSG:32732"),
        ({}, {"proj:epsg": None, "proj:code": "EPSG:None", "proj:wkt2": WKT}, WKT),
        ({}, {"proj:epsg": None, "proj:code": "ESRI:54008"}, "ESRI:54008"),
        ({}, {"proj:epsg": None, "proj:projjson": {"b": 1, "a": 2}}, json.dumps({"a": 2, "b": 1})),
        ({}, {"proj:epsg": None, "s2:mgrs_tile": "01KAB"}, "EPSG:32701"),
        ({}, {"proj:epsg": None, "s2:mgrs_tile": "60NAB"}, "EPSG:32660"),
        ({}, {"proj:epsg": None}, None),
    ],
)
def test_crs_of_asset_item_or_tile(asset: Any, properties: Any, crs: str | None) -> None:
    item = make(properties=properties)
    item["assets"]["SCL"] |= asset
    assert scene_of(item, PC, ("red",)).crs == crs


# ---- the rest ----


def test_fields_of_a_scene() -> None:
    item = make(
        properties={
            "datetime": None,
            "start_datetime": "2024-06-01T12:00:00+02:00",
            "platform": "Sentinel-2B",
            "eo:cloud_cover": 12.5,
            "s2:datatake_id": "GS2B_20240601T100000_037185_N05.10",
            "s2:datastrip_id": "S2B_OPER_MSI_L2A_DS_X_20240601T123459_S20240601T095959_N05.10",
            "s2:generation_time": "2024-06-01T12:34:58Z",
        }
    )
    scene = scene_of(item, PC, ("red",), offset_override={"x": 7})
    assert scene.when == datetime(2024, 6, 1, 10, tzinfo=UTC)
    assert (scene.platform, scene.cloud_cover, scene.baseline) == ("sentinel-2b", 12.5, "05.10")
    assert scene.datatake == "GS2B_20240601T100000_037185"
    assert scene.strip_start == datetime(2024, 6, 1, 9, 59, 59, tzinfo=UTC)
    assert scene.generated == "2024-06-01T12:34:58Z"
    assert scene.offset.dn == 7
    assert scene.outline == ((0, 0), (1, 0), (1, 1), (0, 0))


@pytest.mark.parametrize("value", [None, "n/a", float("nan")])
def test_cloud_cover_may_be_absent(value: Any) -> None:
    assert scene_of(make(properties={"eo:cloud_cover": value}), PC, ("red",)).cloud_cover is None


def test_datatake_from_the_product_name() -> None:
    uri = "S2A_MSIL2A_20200714T115221_N0214_R123_T28QCH_20200714T191310"
    item = make(properties={"sentinel:product_id": uri})
    assert scene_of(item, PC, ("red",)).datatake == "GS2A_20200714T115221"


@pytest.mark.parametrize(
    ("geometry", "count"),
    [
        (None, 0),
        ({"type": "Point", "coordinates": [0, 0]}, 0),
        ({"type": "MultiPolygon", "coordinates": [[[[0, 0, 5], [1, 0, 5], [0, 0, 5]]], [[[3, 3]]]]}, 3),
        ({"type": "MultiPolygon", "coordinates": []}, 0),
    ],
)
def test_outline(geometry: Any, count: int) -> None:
    assert len(scene_of(make(geometry=geometry), PC, ("red",)).outline) == count
