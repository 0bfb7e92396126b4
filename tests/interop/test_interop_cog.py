"""GDAL, rio-cogeo and pystac accept the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sample_composite import SINUSOIDAL, make_composite, make_grid

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.result import files

rasterio = pytest.importorskip("rasterio")
cogeo = pytest.importorskip("rio_cogeo.cogeo")

FOLDER = {
    "blue.tif",
    "green.tif",
    "red.tif",
    "quality.tif",
    "observation_count.tif",
    "selected_observation.tif",
    "date.tif",
    "report.json",
    "stac-item.json",
    "scenes.json",
}


@pytest.fixture(scope="module")
def big():
    return make_composite(make_grid(1300, 1100), bands=("blue", "red"))


@pytest.fixture(scope="module")
def folder(big, tmp_path_factory):
    root = tmp_path_factory.mktemp("cog") / "new" / "folder"
    assert {p.parent for p in big.to_cog(root)} == {root}
    return root


def test_the_folder_holds_every_layer_and_nothing_else(folder):
    assert {p.name for p in folder.iterdir()} == FOLDER - {"green.tif"}


@pytest.mark.parametrize("name", sorted(n for n in FOLDER - {"green.tif"} if n.endswith(".tif")))
def test_every_file_is_a_strictly_valid_cog(folder, name):
    valid, errors, warnings = cogeo.cog_validate(str(folder / name), strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(folder / name) as file:
        assert file.block_shapes == [(512, 512)]
        assert file.compression.name == "deflate"
        assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert file.overviews(1) == [2, 4]
        assert file.crs.to_epsg() == 32631
        assert file.tags()["AREA_OR_POINT"] == "Area"


def test_fix_37_pixels_types_nodata_and_place(folder, big):
    expected = {
        "red": (big.bands["red"], 65535),
        "quality": (big.quality, 65535),
        "observation_count": (big.observation_count, 0),
        "selected_observation": (big.selected_observation, -1),
        "date": (big.date, -2147483648),
    }
    for name, (array, nodata) in expected.items():
        with rasterio.open(folder / f"{name}.tif") as file:
            assert file.dtypes == (str(array.dtype),)
            assert file.nodata == nodata
            assert tuple(file.transform)[:6] == big.grid.transform
            assert file.descriptions == (name,)
            np.testing.assert_array_equal(file.read(1), array)
            assert json.loads(file.tags()["source_ids"]) == big.source_ids
            assert file.scales == ((0.0001,) if name == "red" else (1.0,))


def test_overviews_are_means_of_bands_and_samples_of_classes(folder, big):
    with rasterio.open(folder / "red.tif", overview_level=0) as file:
        half = file.read(1)
    full = big.bands["red"].astype(float)
    means = full.reshape(650, 2, 550, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(half[10:, 10:], means[10:, 10:], atol=0.5)
    assert (half[:5, :7] == 65535).all()
    assert half[6:, 8:].max() < 65535  # nodata is never mixed in
    with rasterio.open(folder / "selected_observation.tif", overview_level=0) as file:
        half = file.read(1)
    sources = big.selected_observation.reshape(650, 2, 550, 2)
    assert (half[:, None, :, None] == sources).any(axis=(1, 3)).all()


@pytest.mark.parametrize("name", ["one.TIF", "one.tiff"])
def test_every_spelling_of_a_tiff_is_one_file(tmp_path, name):
    assert make_composite().to_cog(str(tmp_path / name)) == [tmp_path / name]
    assert (tmp_path / name).is_file()


def test_one_file_with_all_bands(tmp_path):
    composite = make_composite(make_grid(600, 700))
    assert composite.to_cog(tmp_path / "all.tif") == [tmp_path / "all.tif"]
    assert [p.name for p in tmp_path.iterdir()] == ["all.tif"]
    assert cogeo.cog_validate(str(tmp_path / "all.tif"), strict=True) == (True, [], [])
    with rasterio.open(tmp_path / "all.tif") as file:
        assert file.descriptions == ("blue", "green", "red")
        np.testing.assert_array_equal(file.read(), np.stack(list(composite.bands.values())))


def test_a_crs_without_a_code_survives(tmp_path):
    grid = make_grid(crs=SINUSOIDAL, res=463.3127165)
    make_composite(grid).to_cog(tmp_path)
    with rasterio.open(tmp_path / "red.tif") as file:
        assert file.crs.to_dict()["proj"] == "sinu"
        assert file.crs.to_dict()["R"] == 6371007.181
        assert file.bounds == pytest.approx(grid.bounds)
    item = json.loads((tmp_path / "stac-item.json").read_text())
    assert item["properties"]["proj:code"] is None
    assert item["properties"]["proj:projjson"]["type"] == "ProjectedCRS"


def test_uncertainty_is_a_float_file_with_nan(tmp_path):
    unc = np.full((70, 90), 12.5, np.float32)
    unc[:10, :15] = np.nan
    make_composite(boa_unc={"red": unc}).to_cog(tmp_path)
    with rasterio.open(tmp_path / "red_unc.tif") as file:
        assert np.isnan(file.nodata)
        np.testing.assert_array_equal(file.read(1), unc)
    assert json.loads((tmp_path / "stac-item.json").read_text())["assets"]["red_unc"]["nodata"] == "nan"


def test_the_stac_item_is_read_by_pystac_and_finds_its_files(folder, big):
    pystac = pytest.importorskip("pystac")
    item = pystac.Item.from_file(str(folder / "stac-item.json"))
    assert item.ext.proj.epsg == 32631
    assert item.ext.proj.shape == [1300, 1100]
    assert item.common_metadata.start_datetime.isoformat() == "2024-07-02T10:50:31+00:00"
    assert item.common_metadata.end_datetime.isoformat() == "2024-07-12T10:50:31+00:00"
    assert item.properties["bestpixel:source_ids"] == big.source_ids
    for name, asset in item.assets.items():
        path = asset.get_absolute_href()
        assert path is not None
        if name != "report":
            with rasterio.open(path) as file:
                assert asset.extra_fields["nodata"] == file.nodata
                assert asset.extra_fields["data_type"] == file.dtypes[0]
    red = item.assets["red"].to_dict()
    assert red["bands"][0]["eo:common_name"] == "red"
    assert red["raster:scale"] == 0.0001


def test_the_items_outline_covers_the_grid(folder, big):
    item = json.loads((folder / "stac-item.json").read_text())
    shape = pytest.importorskip("shapely.geometry").shape(item["geometry"])
    assert shape.is_valid
    assert shape.exterior.is_ccw
    west, south, east, north = item["bbox"]
    assert shape.bounds == pytest.approx((west, south, east, north), abs=1e-6)
    left, bottom, right, top = big.grid.bounds
    with rasterio.open(folder / "red.tif") as file:
        corner = rasterio.warp.transform(file.crs, "EPSG:4326", [left, right], [bottom, top])
    assert shape.distance(pytest.importorskip("shapely").Point(corner[0][0], corner[1][0])) < 1e-6
    assert shape.distance(pytest.importorskip("shapely").Point(corner[0][1], corner[1][1])) < 1e-6


def test_an_outline_across_180_degrees_is_two_boxes(tmp_path):
    from bestpixel_gpu.geo.grid import native_grid
    from bestpixel_gpu.result.stac import footprint

    grid = native_grid((179.9, -17.0, -179.9, -16.9), 500.0)
    geometry = footprint(grid)
    assert geometry["type"] == "MultiPolygon"
    (west,), (east,) = geometry["coordinates"]
    assert max(x for x, _ in west) == 180.0
    assert min(x for x, _ in east) == -180.0
    assert min(x for x, _ in west) > 179.0
    assert max(x for x, _ in east) < -179.0


def test_an_outline_beyond_180_or_around_a_pole_is_where_maps_count_it():
    from bestpixel_gpu.geo.grid import Grid
    from bestpixel_gpu.result.stac import footprint

    def longitudes(*grid):
        (ring,) = footprint(Grid(*grid))["coordinates"]
        return min(x for x, _ in ring), max(x for x, _ in ring)

    assert longitudes("EPSG:4326", 200, 5, 0, 0, 0.1, 0.1, 200, 100) == (-160.0, -140.0)
    assert longitudes("EPSG:3031", -1e6, 1e6, 0, 0, 1000, 1000, 2000, 2000) == (-180.0, 180.0)


def test_writing_again_replaces_and_keeps_strangers(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    make_composite().to_cog(tmp_path)
    make_composite(bands=("red",)).to_cog(tmp_path)
    with rasterio.open(tmp_path / "red.tif") as file:
        assert file.read(1)[40, 40] == 1000 + 280 + 440
    assert {p.name for p in tmp_path.iterdir()} == FOLDER | {"notes.txt"}


def test_a_failure_in_the_middle_leaves_old_files_and_no_new_ones(tmp_path, monkeypatch):
    make_composite(bands=("red",)).to_cog(tmp_path)
    before = (tmp_path / "red.tif").read_bytes()
    (tmp_path / "quality.tif").unlink()
    there = {p.name for p in tmp_path.iterdir()}
    original, calls = files.save_cog, []

    def breaks(path, *args):
        original(path, *args)
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "save_cog", breaks)
    with pytest.raises(KeyboardInterrupt):
        make_composite().to_cog(tmp_path)
    assert len(calls) == 5
    assert {p.name for p in tmp_path.iterdir()} == there
    assert (tmp_path / "red.tif").read_bytes() == before


def test_a_place_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):  # noqa: PT011  (the system's words)
        make_composite().to_cog(tmp_path / "file" / "folder")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(IsADirectoryError):
        make_composite().to_cog(tmp_path / "folder.tif")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder.tif"}


def test_gdals_refusal_is_an_oserror_that_names_the_layer(tmp_path):
    with pytest.raises(OSError, match="cannot write red into"):
        files.save_cog(
            tmp_path / "absent" / "red.tif", make_composite(), {"red": np.ones((70, 90), "u2")}, 0, True, 6
        )


def test_without_rasterio_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    for name in ("folder", "one.tif"):
        with pytest.raises(InputError, match=r"COG needs rasterio: pip install 'bestpixel-gpu\[io\]'"):
            make_composite().to_cog(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("level", [0, 10, "9"])
def test_a_wrong_level_is_refused(tmp_path, level):
    with pytest.raises(InputError, match=r"1\.\.9"):
        make_composite().to_cog(tmp_path, level=level)
