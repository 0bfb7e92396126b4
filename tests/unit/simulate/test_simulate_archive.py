"""The archive as built: its files, its items, and the truth behind the clouds."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds
from rio_cogeo import cog_validate

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.simulate import ArchiveSpec, build, items, truth
from bestpixel_gpu.simulate.spec import mgrs_name

SPEC = ArchiveSpec()
TINY = ArchiveSpec(tiles=1, seam=False, south=False, size=60, dates=2, bands=("red", "coastal"), block=16)


def digest(folder: Path) -> str:
    h = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            h.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return h.hexdigest()


def tile_of(item: dict) -> str:
    p = item["properties"]
    return p.get("s2:mgrs_tile") or p["grid:code"].removeprefix("MGRS-")


def read(item: dict, key: str) -> np.ndarray:
    with rasterio.open(item["assets"][key]["href"]) as r:
        return r.read(1)


def clear_of(item: dict, key: str, erode: int = 1) -> np.ndarray:
    """20 m pixels of a usable class whose neighbours are usable too."""
    ok = np.isin(read(item, key), (4, 5, 6))
    padded = np.pad(ok, erode, "edge")
    for axis in (0, 1):
        padded = np.all([np.roll(padded, k, axis) for k in range(-erode, erode + 1)], axis=0)
    return padded[erode:-erode, erode:-erode]


def test_the_same_spec_gives_the_same_bytes_with_any_threads(tmp_path):
    one = build(TINY, tmp_path / "a", threads=1)
    two = build(TINY, tmp_path / "b", threads=3)
    assert digest(one) == digest(two)
    other = build(ArchiveSpec(**{f: getattr(TINY, f) for f in TINY.__slots__} | {"seed": 5}), tmp_path / "c")
    assert digest(other) != digest(one)


def test_a_second_build_does_nothing_and_another_spec_is_refused(tmp_path):
    folder = build(TINY, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    build(TINY, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    with pytest.raises(InputError, match="another archive"):
        build(ArchiveSpec(), tmp_path)


def test_a_build_cut_short_is_done_again(tmp_path):
    folder = build(TINY, tmp_path)
    whole = digest(folder)
    (folder / "archive.json").unlink()
    next(folder.rglob("*.tif")).write_bytes(b"half")
    assert digest(build(TINY, tmp_path)) == whole


@pytest.mark.parametrize("dialect", SPEC.dialects)
def test_every_file_is_a_cog_that_agrees_with_its_item(archive, dialect):
    seen = 0
    for item in items(archive, dialect):
        crs = f"EPSG:{item['properties']['proj:epsg']}"
        for key, asset in item["assets"].items():
            with rasterio.open(asset["href"]) as r:
                assert list(r.shape) == asset["proj:shape"]
                assert list(r.transform[:6]) == asset["proj:transform"]
                assert str(r.crs) == crs
                assert r.dtypes[0] == ("uint8" if key.lower() == "scl" else "uint16")
                box = transform_bounds(r.crs, "EPSG:4326", *r.bounds)
            assert item["bbox"][0] >= box[0] - 1e-4
            assert item["bbox"][3] <= box[3] + 1e-4
            seen += 1
        valid, errors, _ = cog_validate(next(iter(item["assets"].values()))["href"])
        assert valid, errors
    assert seen == len(items(archive, dialect)) * (len(SPEC.bands) + 1)


def test_old_and_new_files_of_pc_differ_as_the_real_ones_do(archive):
    for item in items(archive, "pc"):
        old = item["properties"]["s2:processing_baseline"] == "03.01"
        with rasterio.open(item["assets"]["B04"]["href"]) as r:
            assert r.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == (None if old else "15")
            assert r.nodata == (None if old else 0)
            assert (r.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR") == "2") == old
            a = r.read(1)
        lowest = a[a > 0].min()
        assert lowest < 1000 if old else lowest > 1000


@pytest.mark.parametrize(("dialect", "red", "scl"), [("pc", "B04", "SCL"), ("earth-search", "red", "scl")])
def test_clear_pixels_hold_the_truth_of_the_day(archive, dialect, red, scl):
    start = datetime.fromisoformat(SPEC.start).date()
    compared = 0
    for item in items(archive, dialect):
        p = item["properties"]
        date = (datetime.fromisoformat(p["datetime"]).date() - start).days // 5
        is_older_duplicate = p["s2:processing_baseline"] == "05.09"
        if is_older_duplicate:
            continue
        offset = 1000 if dialect == "pc" and p["s2:processing_baseline"] != "03.01" else 0
        clear = np.kron(clear_of(item, scl, erode=2), np.ones((2, 2), bool))
        got = read(item, red).astype(int) - offset
        want = truth(SPEC, "red", tile_of(item), date).astype(int)
        error = np.abs(got - want)[clear]
        assert (error == 0).mean() > 0.5
        assert (error <= 300).all()  # haze around clouds and half-shadow that the mask leaves unflagged
        compared += len(error)
    assert compared > 500_000


def test_home_has_a_cloud_free_composite_but_no_cloud_free_date(archive):
    for tile in {tile_of(i) for i in items(archive, "pc")}:
        clear = [np.isin(read(i, "SCL"), (4, 5, 6)) for i in items(archive, "pc") if tile_of(i) == tile]
        assert max(c.mean() for c in clear) < 1
        assert np.any(clear, axis=0).mean() == 1 or tile.startswith("33K")


def test_tiles_of_one_zone_overlap_and_agree(archive):
    left, right = truth(SPEC, "green", "31TGJ"), truth(SPEC, "green", "31THJ")
    assert np.array_equal(left[:, 216:], right[:, :24])


def test_the_seam_tile_shows_the_same_ground(archive):
    """Warped by rasterio from zone 32 to 31, the overlap of both tiles correlates."""
    from rasterio.warp import Resampling, reproject

    by_tile = {tile_of(i): i for i in items(archive, "pc")}
    with rasterio.open(by_tile["31THJ"]["assets"]["B08"]["href"]) as left:
        profile, shape = left.profile, left.shape
    with rasterio.open(by_tile["32TKP"]["assets"]["B08"]["href"]) as right:
        moved = np.full(shape, -32000, np.int16)
        reproject(
            truth(SPEC, "nir", "32TKP"), moved, src_transform=right.transform, src_crs=right.crs,
            dst_transform=profile["transform"], dst_crs=profile["crs"], dst_nodata=-32000,
            resampling=Resampling.bilinear,
        )  # fmt: skip
    both = moved > -32000
    assert both.sum() > 2000
    assert np.corrcoef(moved[both], truth(SPEC, "nir", "31THJ")[both])[0, 1] > 0.9


def test_duplicate_split_and_cut(archive):
    found = items(archive, "pc")
    takes: dict[tuple[str, str], list[dict]] = {}
    for item in found:
        takes.setdefault((tile_of(item), item["properties"]["datetime"]), []).append(item)
    pairs = [v for v in takes.values() if len(v) == 2]
    assert len(pairs) == 2
    double = next(v for v in pairs if v[0]["properties"]["s2:processing_baseline"] == "05.09")
    assert double[1]["properties"]["s2:processing_baseline"] == "05.10"
    assert double[0]["properties"]["s2:generation_time"] < double[1]["properties"]["s2:generation_time"]
    north, south = next(v for v in pairs if v is not double)
    a, b = read(north, "SCL") > 0, read(south, "SCL") > 0
    assert not (a & b).any()
    assert (a | b).all()
    assert north["properties"]["s2:datastrip_id"] != south["properties"]["s2:datastrip_id"]
    cut = [i for i in found if i["properties"]["s2:nodata_pixel_percentage"] > 5 and i not in (north, south)]
    assert len(cut) >= 1
    assert len(cut[0]["geometry"]["coordinates"][0]) >= 4


def test_footprints_cover_the_data(archive):
    from rasterio.features import geometry_mask
    from rasterio.warp import transform_geom

    for item in items(archive, "pc"):
        with rasterio.open(item["assets"]["SCL"]["href"]) as r:
            data = r.read(1) > 0
            shape = transform_geom("EPSG:4326", r.crs, item["geometry"])
            inside = ~geometry_mask([shape], r.shape, r.transform)
        assert (inside != data).mean() < 0.02


def test_mgrs_names_are_those_of_the_real_grid():
    # upper left corners of real tiles; the name is that of the square around the centre
    assert mgrs_name(32631, 300000 + 54900, 4900020 - 54900) == "31TCJ"
    assert mgrs_name(32653, 199980 + 54900, 700020 - 54900) == "53NKG"
    assert mgrs_name(32724, 300000 + 54900, 9600040 - 54900) == "24MUA"
    assert mgrs_name(32720, 499980 + 54900, 6400000 - 54900) == "20HNJ"
    assert mgrs_name(32632, 600000 + 54900, 5500020 - 54900) == "32UPV"


@pytest.mark.parametrize(
    ("dialect", "sample"),
    [("pc", "pc-s2-0511-sparse"), ("earth-search", "es-s2-l2a-0511-south")],
)
def test_items_have_the_fields_and_types_of_real_ones(archive, shared, dialect, sample):
    real = json.loads((shared / "data" / "stac" / f"{sample}.json").read_text())
    for item in items(archive, dialect):
        assert set(item) <= set(real)
        for name, value in item["properties"].items():
            assert isinstance(value, type(real["properties"][name])) or name.startswith("s2:"), name
        assert len(item["id"]) == len(real["id"])
        for key, asset in item["assets"].items():
            assert set(asset) <= set(real["assets"][key]), key


def test_collection_one_keeps_the_offset_and_its_baseline(tmp_path):
    spec = ArchiveSpec(**{f: getattr(TINY, f) for f in TINY.__slots__} | {"dialects": ("earth-search-c1",)})
    for item in items(build(spec, tmp_path), "earth-search-c1"):
        assert float(item["properties"]["s2:processing_baseline"]) >= 5
        a = read(item, "red")
        assert a[a > 0].min() >= 1000
        assert item["assets"]["red"]["raster:bands"][0]["offset"] == -0.1


def test_full_block_sizes_are_the_real_ones(tmp_path):
    spec = ArchiveSpec(
        tiles=1, seam=False, south=False, size=600, dates=1, bands=("red", "swir16"), block=None,
        baselines=("05.10",), cover=(0.2,), level=1,
    )  # fmt: skip
    folder = build(spec, tmp_path)
    blocks = {}
    for dialect in spec.dialects:
        for key, asset in items(folder, dialect)[0]["assets"].items():
            with rasterio.open(asset["href"]) as r:
                blocks[dialect, key] = r.block_shapes[0][0], r.overviews(1)
    assert blocks["pc", "B04"] == (512, [2])
    assert blocks["earth-search", "red"] == (1024, [2, 4, 8, 16])
    assert blocks["earth-search", "swir16"][0] == 512


@pytest.mark.parametrize("wrong", [{"bands": ("pink",)}, {"tiles": 0}, {"size": 33}, {"cover": (1.5,)}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(InputError):
        ArchiveSpec(**wrong)
