"""odc-geo, rioxarray, NetCDF and Zarr take the dataset as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from sample_composite import SINUSOIDAL, make_composite, make_grid

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.geo.grid import grid_of_geobox
from bestpixel_gpu.result import files

pytest.importorskip("rioxarray")
import odc.geo.xr  # noqa: F401  (registers .odc)
import rioxarray  # noqa: F401  (registers .rio)

BANDS = ["blue", "green", "red"]
LAYERS = ["quality", "observation_count", "selected_observation", "date"]


@pytest.fixture
def dataset():
    return make_composite().to_xarray()


def test_variables_dims_and_centres(dataset):
    composite = make_composite()
    assert list(dataset.data_vars) == BANDS + LAYERS
    assert dataset.sizes == {"y": 70, "x": 90}
    assert dataset.y.dtype == dataset.x.dtype == np.float64
    np.testing.assert_array_equal(dataset.x, composite.grid.columns())
    np.testing.assert_array_equal(dataset.y, composite.grid.rows())
    assert dataset.x.values[0] == composite.grid.left + 30.0
    assert dataset.x.attrs["units"] == "metre"
    assert (dataset.x.attrs["resolution"], dataset.y.attrs["resolution"]) == (60.0, -60.0)
    assert dataset.y.attrs["crs"] == "EPSG:32631"


def test_arrays_are_not_copied():
    composite = make_composite()
    dataset = composite.to_xarray()
    assert np.shares_memory(dataset.red.values, composite.bands["red"])
    assert np.shares_memory(dataset.quality.values, composite.quality)


def test_spatial_ref_is_cf_and_gdal(dataset):
    ref = dataset.spatial_ref
    assert ref.dtype == np.int32
    assert int(ref) == 32631
    assert ref.attrs["grid_mapping_name"] == "transverse_mercator"
    assert ref.attrs["crs_wkt"].startswith("PROJCRS[")
    assert ref.attrs["GeoTransform"] == "300060 60 0 4900020 0 -60"
    for name in BANDS + LAYERS:
        assert dataset[name].encoding["grid_mapping"] == "spatial_ref"
        assert "_FillValue" not in dataset[name].encoding | dataset[name].attrs


def test_accessors_read_place_and_nodata(dataset):
    grid = make_grid()
    assert dataset.odc.geobox.shape == grid.shape
    assert tuple(dataset.odc.geobox.transform)[:6] == grid.transform
    assert dataset.rio.crs.to_epsg() == 32631
    assert tuple(dataset.rio.transform())[:6] == grid.transform
    assert dataset.red.odc.nodata == dataset.red.rio.nodata == 65535
    assert dataset.selected_observation.rio.nodata == -1
    assert dataset.date.odc.nodata == -2147483648
    assert grid_of_geobox(dataset).bounds == grid.bounds


def test_one_pixel_still_has_a_geobox():
    grid = make_grid(1, 1)
    composite = make_composite(grid)
    assert composite.to_xarray().odc.geobox.transform[:6] == grid.transform


def test_a_crs_without_a_code_is_kept():
    dataset = make_composite(make_grid(crs=SINUSOIDAL, res=463.3127165)).to_xarray()
    assert dataset.odc.geobox.crs.proj.to_dict()["proj"] == "sinu"
    assert dataset.rio.crs.to_dict()["R"] == 6371007.181
    assert int(dataset.spatial_ref) == 0


def test_degrees_are_kept_as_y_and_x():
    dataset = make_composite(make_grid(crs="EPSG:4326", res=0.0005)).to_xarray()
    assert dataset.red.dims == ("y", "x")
    assert dataset.odc.geobox.crs.epsg == 4326
    assert dataset.rio.crs.to_epsg() == 4326


def test_meanings_and_origin_are_told(dataset):
    assert dataset.quality.attrs["flag_meanings"] == "clear marginal dark"
    np.testing.assert_array_equal(dataset.quality.attrs["flag_values"], [0, 1, 2])
    assert dataset.quality.attrs["flag_values"].dtype == dataset.quality.dtype
    assert dataset.red.attrs["reflectance_scale"] == 0.0001
    assert dataset.red.attrs["reflectance_offset"] == 0
    assert not {"scale_factor", "add_offset"} & set(dataset.red.attrs)
    assert json.loads(json.dumps(dataset.attrs)) == dataset.attrs
    assert json.loads(dataset.attrs["scenes_lost"])[0]["reason"] == "mask: 404 from example.test"
    assert json.loads(dataset.attrs["request"])["top_k"] == 3
    assert len(dataset.attrs["source_ids"]) == 3


def test_uncertainty_is_a_variable_where_it_was_made():
    unc = {"red": np.full((70, 90), np.nan, np.float32)}
    dataset = make_composite(boa_unc=unc).to_xarray()
    assert dataset.red_unc.dtype == np.float32
    assert "nodata" not in dataset.red_unc.attrs


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_round_trip_keeps_types_values_and_place(tmp_path, kind):
    if kind == "netcdf":
        pytest.importorskip("h5netcdf")
        pytest.importorskip("h5py")
    else:
        pytest.importorskip("zarr")
    composite = make_composite()
    made = composite.to_xarray()
    path = getattr(composite, f"to_{kind}")(tmp_path / "deep" / f"out.{kind}")
    back = (
        xr.open_dataset(path, engine="h5netcdf", decode_coords="all")
        if kind == "netcdf"
        else xr.open_zarr(path, decode_coords="all")
    )
    with back:
        for name in BANDS + LAYERS:
            assert back[name].dtype == made[name].dtype
            np.testing.assert_array_equal(back[name].values, made[name].values)
        assert back.red.odc.nodata == back.red.rio.nodata == 65535
        assert back.odc.geobox == made.odc.geobox
        assert tuple(back.rio.transform())[:6] == composite.grid.transform
        assert list(back.attrs["source_ids"]) == composite.source_ids
        np.testing.assert_array_equal(back.x, made.x)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_netcdf_is_packed_in_chunks(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = make_composite(make_grid(600, 700)).to_netcdf(tmp_path / "out.nc", level=6)
    with h5py.File(path) as file:
        assert file["red"].chunks == (512, 512)
        assert (file["red"].compression, file["red"].compression_opts) == ("gzip", 6)
        assert file["red"].shuffle


@pytest.mark.filterwarnings("error")
def test_zarr_is_chunked_and_opens_without_a_warning(tmp_path):
    pytest.importorskip("zarr")
    path = make_composite(make_grid(600, 700)).to_zarr(tmp_path / "out.zarr")
    with xr.open_zarr(path) as back:
        assert back.red.encoding["chunks"] == back.date.encoding["chunks"] == (512, 512)
        assert back.red.encoding["dtype"] == np.uint16


def test_zarr_does_not_touch_what_is_there(tmp_path):
    pytest.importorskip("zarr")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    with pytest.raises(InputError, match="exists"):
        make_composite().to_zarr(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "x"


@pytest.mark.parametrize(("call", "module"), [("to_zarr", "zarr"), ("to_netcdf", "h5netcdf")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, call, module):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"needs {module}: pip install 'bestpixel-gpu\[io\]'"):
        getattr(make_composite(), call)(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["to_zarr", "to_netcdf"])
def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch, call):
    original = getattr(xr.Dataset, call)

    def breaks(dataset, path, *args, **kwargs):
        original(dataset, path, *args, **kwargs)
        assert path.exists()
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, call, breaks)
    with pytest.raises(OSError, match="disk full"):
        getattr(make_composite(), call)(tmp_path / "out.nc")
    assert not list(tmp_path.iterdir())
