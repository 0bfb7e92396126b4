"""HLS, MODIS and Landsat on loopback, from the search to the arrays, against the slow reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
import tifffile
from oracle_checks import assert_matches
from oracle_reference import FMASK, NO_SCORE, BandRule, MaskRule, RefGrid, RefScene, bit_rule, composite

from bestpixel_gpu.catalog.items import scene_of
from bestpixel_gpu.catalog.providers import resolve_endpoint
from bestpixel_gpu.errors import InputError, NoScenesError

DATES = "2024-07-01/2024-08-31"
SOUTH = "33KVP"


def judge_landsat(v: int) -> tuple[int, bool]:
    """QA_PIXEL, bit by bit."""
    fill, dilated, cirrus, cloud, shadow, snow = (v >> b & 1 for b in range(6))
    doubtful = (v >> 8) % 4 >= 2
    assert not fill
    clear = not (dilated or cirrus or cloud or shadow or doubtful)
    if cloud:
        return NO_SCORE, False
    if cirrus or shadow:
        return 2, False
    return int(bool(dilated or snow or doubtful)), clear


RULES: dict[str, tuple[MaskRule, BandRule]] = {
    "hls": (FMASK, BandRule(lo=-9998, hi=32767)),
    "mcd43a4": (
        bit_rule(lambda v: {0: (0, True), 1: (1, False)}.get(v, (NO_SCORE, False)), 256, (255,)),
        BandRule(lo=0, hi=32766),
    ),
    "landsat": (
        bit_rule(judge_landsat, 65536, tuple(range(1, 65536, 2))),
        BandRule(hi=65535, mul=11, add=-80000, div=40),
    ),
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A country on the border of two UTM zones and a southern one, as the three archives hold them."""
    from bestpixel_gpu.simulate import ArchiveSpec, build, serve

    spec = ArchiveSpec(
        dialects=("pc", "hls", "mcd43a4", "landsat"), size=480, tiles=2, dates=4, level=1,
        bands=("blue", "red", "rededge1", "swir16"),
    )  # fmt: skip
    folder = build(spec, tmp_path_factory.mktemp("archives"))
    with serve(folder, require_sas=True) as local:
        yield local


def run(archives: Any, endpoint: str, **options: Any) -> Any:
    from bestpixel_gpu import build_composite

    defaults = {
        "bbox": archives.bbox, "datetime": DATES, "resolution": "native", "bands": ["blue", "red"],
        "endpoint": endpoint, "stac_url": archives.stac_url(endpoint), "order": "newest", "top_k": None,
        "device": "cpu", "threads": 2,
    }  # fmt: skip
    return build_composite(**(defaults | options))


def ref_grid(composite: Any) -> RefGrid:
    g = composite.grid
    return RefGrid(g.crs, g.base_x, g.base_y, g.col0, g.row0, g.res_x, g.width, g.height)


def references(archives: Any, endpoint: str, bands: Sequence[str], used: Sequence[str]) -> list[RefScene]:
    """The scenes that were used, with the paths of their files."""
    table = resolve_endpoint(endpoint)
    classes, samples = RULES[endpoint]
    out = []
    for item in archives.items(endpoint):
        if item["id"] not in used:
            continue
        scene = scene_of(item, table, bands)

        def path(href: str) -> Path:
            return Path(archives.folder) / "data" / urlsplit(href).path.lstrip("/")

        files = {b: path(r.href) for b, r in scene.bands.items()}
        mask = path(scene.mask.href)
        out.append(RefScene(scene.id, scene.when, files, mask, classes=classes, samples=samples))
    return out


@pytest.mark.parametrize(
    ("endpoint", "resolution"),
    [
        ("hls", "native"), ("hls", 20), ("hls", 60), ("hls", 240),
        ("mcd43a4", "native"), ("mcd43a4", 250), ("mcd43a4", 700),
        ("landsat", "native"), ("landsat", 100),
    ],
)  # fmt: skip
@pytest.mark.parametrize("output_crs", ["native", "utm"])
@pytest.mark.parametrize("place", ["seam", "south"])
def test_whole_run_equals_the_reference(
    archives: Any, endpoint: str, resolution: Any, output_crs: str, place: str
) -> None:
    box = archives.bbox if place == "seam" else archives.bbox_of(SOUTH)
    got = run(archives, endpoint, bbox=box, resolution=resolution, output_crs=output_crs)
    scenes = references(archives, endpoint, ("blue", "red"), got.source_ids)
    assert len(scenes) >= 3
    want = composite(scenes, ref_grid(got), ("blue", "red"), top_k=None, order="newest")
    assert (want.quality == 0).mean() > 0.4
    assert_matches(got, want, off_by=1)
    assert not got.report.warnings
    north = 326 if output_crs == "native" or place == "seam" else 327
    zone = 33 if place == "south" else 31
    crs = got["grid"]["crs"]
    assert (
        crs.startswith("+proj=sinu")
        if endpoint == "mcd43a4" and output_crs == "native"
        else crs == (f"EPSG:{north}{zone}")
    )


@pytest.mark.parametrize("endpoint", ["hls", "landsat", "mcd43a4"])
def test_fix_32_native_pixels_are_the_files_own(archives: Any, endpoint: str) -> None:
    """Aligned with the archive, one date gives the very numbers of its file."""
    (item, *_) = (i for i in archives.items(endpoint) if i["properties"]["proj:transform"][5] > 4e6)
    got = run(archives, endpoint, items=[item], bands=["blue"], bbox=archives.bbox_of("31TGJ"))
    (ref,) = references(archives, endpoint, ("blue",), [item["id"]])
    with rasterio.open(ref.files["blue"]) as src:
        a, _, x0, _, e, y0 = tuple(src.transform)[:6]
        col, row = (got.grid.left - x0) / a, (got.grid.top - y0) / e
        assert (col, row) == pytest.approx((round(col), round(row)), abs=1e-6)
        rows, cols = np.indices(got.grid.shape) + np.array([round(row), round(col)]).reshape(2, 1, 1)
        raw = src.read(1).astype(np.int64)[rows.clip(0, src.height - 1), cols.clip(0, src.width - 1)]
    seen = np.asarray(got["quality"]) != 65535
    assert seen.mean() > 0.2
    exact = raw if endpoint != "landsat" else (22 * raw - 160000 + 40) // 80
    np.testing.assert_array_equal(np.asarray(got["bands"]["blue"])[seen], np.maximum(exact, 0)[seen])


def test_fix_29_south_of_the_equator_in_the_northern_and_the_southern_zone(archives: Any) -> None:
    """Negative northings in 326zz and the proper 327zz show the same ground."""
    box = archives.bbox_of(SOUTH)
    north = run(archives, "hls", bbox=box)
    assert north["grid"]["crs"] == "EPSG:32633"
    assert north["grid"]["bounds"][3] < 0
    assert run(archives, "hls", bbox=box, output_crs="utm")["grid"]["crs"] == "EPSG:32733"
    grid = ref_grid(north)
    shifted = RefGrid.at(
        "EPSG:32733", grid.col0 * grid.res, -grid.row0 * grid.res + 1e7, grid.res, grid.width, grid.height
    )
    south = run(archives, "hls", bbox=None, geobox=shifted.geobox())
    for name in ("quality", "observation_count", "selected_observation"):
        np.testing.assert_array_equal(south[name], north[name])
    for name, values in north["bands"].items():
        np.testing.assert_array_equal(south["bands"][name], values)


def test_fix_28_the_file_decides_where_an_item_lies(archives: Any) -> None:
    """Southern HLS items claim the southern zone with northern numbers; nothing is read elsewhere."""
    items = [i for i in archives.items("hls") if SOUTH in i["id"]]
    assert {i["properties"]["proj:code"] for i in items} == {32733}
    got = run(archives, "hls", items=items, bbox=archives.bbox_of(SOUTH))
    assert (got["quality"] == 0).mean() > 0.6


def test_fix_32_quality_of_every_band_counts_when_asked(archives: Any, tmp_path: Path) -> None:
    """Band 6 has dead rows that band 1's layer calls good."""
    options: dict[str, Any] = {"bands": ["red", "swir16"], "bbox": archives.bbox_of(SOUTH)}
    usual = run(archives, "mcd43a4", **options)
    got = run(archives, "mcd43a4", band_quality=True, **options)
    assert (usual["observation_count"] > got["observation_count"]).any()
    scenes = []
    for item in archives.items("mcd43a4"):
        if item["id"] not in got.source_ids:
            continue
        (ref,) = references(archives, "mcd43a4", options["bands"], [item["id"]])
        layers = [Path(str(ref.mask).replace("Band1.tif", f"Band{n}.tif")) for n in (1, 6)]
        with rasterio.open(layers[0]) as a, rasterio.open(layers[1]) as b:
            worst, profile = np.maximum(a.read(1), b.read(1)), a.profile
        assert (worst == 255).any()
        joined = tmp_path / f"{ref.id}.tif"
        with rasterio.open(joined, "w", **(profile | {"driver": "GTiff"})) as dst:
            dst.write(worst, 1)
        scenes.append(RefScene(ref.id, ref.when, ref.files, joined, classes=ref.classes, samples=ref.samples))
    want = composite(scenes, ref_grid(got), options["bands"], top_k=None, order="newest")
    assert_matches(got, want, off_by=1)


def test_a_quality_layer_that_does_not_fit_costs_its_scene_only(archives: Any, tmp_path: Path) -> None:
    """One is missing, one is another raster, one is damaged: each is named, the others compete."""
    key = "BRDF_Albedo_Band_Mandatory_Quality_Band6"
    items = [i for i in archives.items("mcd43a4") if i["properties"]["proj:transform"][5] < 0]
    assert len(items) == 3
    other = next(i for i in archives.items("mcd43a4") if i["properties"]["proj:transform"][5] > 0)
    del items[0]["assets"][key]
    items[1]["assets"][key] = other["assets"][key]
    options: dict[str, Any] = {
        "items": items, "bands": ["red", "swir16"], "bbox": archives.bbox_of(SOUTH), "band_quality": True,
    }  # fmt: skip
    got = run(archives, "mcd43a4", **options)
    assert got.source_ids == [items[2]["id"]]
    reasons = {s.id: s.reason for s in got.report.scenes}
    assert reasons[items[0]["id"]] == f"mask asset {key} is missing"
    assert "does not lie on the grid of BRDF_Albedo_Band_Mandatory_Quality_Band1" in reasons[items[1]["id"]]
    whole = Path(archives.folder) / "data" / urlsplit(items[2]["assets"][key]["href"]).path.lstrip("/")
    with tifffile.TiffFile(whole) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(whole.read_bytes()[: offset + 8] + b"\xff" * (whole.stat().st_size - offset - 8))
    items[2]["assets"][key] = {"href": str(damaged)}
    with pytest.raises(NoScenesError, match="quality tile 0"):
        run(archives, "mcd43a4", **(options | {"items": items[2:]}))


def test_masks_of_hls_come_from_overviews_where_the_output_is_coarse(archives: Any) -> None:
    archives.reset(log=True, require_sas=True)
    fine = run(archives, "hls", resolution=60)
    full = sum(b - a + 1 for p, a, b in archives.stats()["log"] if "Fmask" in p and a > 0)
    archives.reset(log=True, require_sas=True)
    coarse = run(archives, "hls", resolution=240)
    some = sum(b - a + 1 for p, a, b in archives.stats()["log"] if "Fmask" in p and a > 0)
    assert some < 0.3 * full
    assert fine.source_ids == coarse.source_ids


def test_bands_of_sentinel_alone_leave_landsat_out_by_name(archives: Any) -> None:
    got = run(archives, "hls", bands=["red", "rededge1"])
    assert all(".S30." in i for i in got.source_ids)
    said = [s.reason for s in got.report.scenes if ".L30." in s.id]
    assert said
    assert set(said) == {"no band rededge1 in hls2-l30"}


def test_mixed_dialects_are_each_read_in_their_own_way(archives: Any) -> None:
    """Sentinel-2 with and without offset, HLS and Landsat in one composite, on one scale."""
    items = [i for e in ("pc", "hls", "landsat") for i in archives.items(e)]
    strange = {
        **items[0],
        "id": "strange",
        "collection": "naip",
        "assets": {"image": {"href": "https://h/x.tif"}},
    }
    box, seen = archives.bbox_of("31TGJ"), {}
    for order in ("newest", "oldest"):
        got = run(archives, "hls", bbox=box, resolution=30, items=[*items, strange], order=order)
        assert set(got["collection"].split("+")) == {
            "sentinel-2-l2a", "hls2-l30", "hls2-s30", "landsat-c2-l2",
        }  # fmt: skip
        seen[order] = np.median(got["bands"]["red"][got["quality"] == 0])
        assert next(s.reason for s in got.report.scenes if s.id == "strange").startswith("collection 'naip'")
    alone = {
        e: np.median(c["bands"]["red"][c["quality"] == 0])
        for e in ("hls", "landsat", "pc")
        for c in [run(archives, e, bbox=box, resolution=30)]
    }
    assert max([*alone.values(), *seen.values()]) < 1.3 * min([*alone.values(), *seen.values()])


def test_modis_is_dated_by_the_day_it_describes(archives: Any) -> None:
    """The search also finds products whose period holds the day; only the one made for it is used."""
    got = run(archives, "mcd43a4", datetime="2024-07-07")
    assert got.source_dates == [datetime(2024, 7, 7, tzinfo=UTC)]
    assert any(s.reason == "outside the dates" for s in got.report.scenes)


def test_fix_20_a_box_across_180_degrees_has_no_sinusoidal_grid(archives: Any) -> None:
    with pytest.raises(InputError, match="output_crs='utm'"):
        run(archives, "mcd43a4", bbox=(179.9, -17.0, -179.9, -16.9))


def test_fix_37_a_sinusoidal_composite_is_written_with_its_crs(archives: Any, tmp_path: Path) -> None:
    got = run(archives, "mcd43a4", bbox=archives.bbox_of(SOUTH))
    assert (got["grid"]["epsg"], got["grid"]["proj4"]) == (0, got["grid"]["crs"])
    for path in (p for p in got.to_cog(tmp_path) if p.suffix == ".tif"):
        with rasterio.open(path) as src:
            assert src.crs is not None
            assert src.crs.to_dict()["proj"] == "sinu"
            assert src.bounds == pytest.approx(got["grid"]["bounds"])
    box = got.to_xarray().odc.geobox
    assert tuple(box.transform)[:6] == pytest.approx(got["grid"]["transform"])
    assert box.crs.to_epsg() is None
