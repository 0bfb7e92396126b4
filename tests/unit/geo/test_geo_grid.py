"""Grids from boxes, geoboxes and other CRSs."""

from __future__ import annotations

import numpy as np
import pytest

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.geo.crs import SINUSOIDAL
from bestpixel_gpu.geo.grid import (
    MODIS_PIXEL,
    Grid,
    chunk_edges,
    grid_in,
    grid_of_geobox,
    native_grid,
    outline_lonlat,
)


def test_grid_dict_has_the_ancestors_keys() -> None:
    d = native_grid((30.5, 30.5, 31.6, 31.5), 60.0).as_dict()
    assert d["bounds"] == [260040.0, 3375000.0, 367080.0, 3487740.0]
    assert (d["epsg"], d["width"], d["height"], d["proj4"]) == (32636, 1784, 1879, None)
    assert d["transform"] == [60.0, 0.0, 260040.0, 0.0, -60.0, 3487740.0]


def test_chunks_are_anchored_at_the_origin() -> None:
    assert chunk_edges(1000, 600).tolist() == [0, 24, 536, 600]
    assert chunk_edges(1024, 512).tolist() == [0, 512]
    assert chunk_edges(-3, 10).tolist() == [0, 3, 10]
    assert chunk_edges(0, 1200).tolist() == [0, 512, 1024, 1200]


def test_crossing_180_degrees_takes_the_wrapped_middle() -> None:
    grid = native_grid((179.5, -17.0, -179.7, -16.5), 100.0)
    assert grid.crs == "EPSG:32760"
    assert grid.width * 100 < 120_000
    west, _, east, _ = outline_lonlat(grid)
    assert west > 179 > -179 > east


def test_grids_of_the_archives() -> None:
    box = (106.78, -6.22, 106.90, -6.10)
    assert native_grid(box, 30.0, "utm-north").crs == "EPSG:32648"
    assert native_grid(box, 30.0).crs == "EPSG:32748"
    landsat = native_grid(box, 60.0, "utm-north", 15.0)
    assert {v % 60 for v in landsat.bounds} == {15.0}
    assert landsat.bounds[0] <= native_grid(box, 1.0, "utm-north").bounds[0]
    modis = native_grid(box, MODIS_PIXEL, "sinusoidal")
    assert (modis.crs, modis.as_dict()["epsg"], modis.as_dict()["proj4"]) == (SINUSOIDAL, 0, SINUSOIDAL)
    tile_x, tile_y = -20015109.354 + 28 * 1111950.519667, 10007554.677 - 9 * 1111950.519667  # h28v09
    for value, edge in ((modis.left, tile_x), (modis.top, tile_y)):
        assert (value - edge) / MODIS_PIXEL == pytest.approx(round((value - edge) / MODIS_PIXEL), abs=1e-6)
    with pytest.raises(InputError, match="torn"):
        native_grid((179.9, -17.0, -179.9, -16.9), 500.0, "sinusoidal")


def test_geobox_keeps_its_own_origin() -> None:
    GeoBox = pytest.importorskip("odc.geo.geobox").GeoBox
    box = GeoBox.from_bbox((460500, 5615100, 467100, 5622100), crs="EPSG:32630", resolution=20)
    grid = grid_of_geobox(box)
    assert (grid.col0, grid.row0, grid.width, grid.height) == (0, 0, 330, 350)
    assert np.allclose(grid.columns()[:2], [460510, 460530])
    assert np.allclose(grid.rows()[:2], [5622090, 5622070])
    assert grid_of_geobox(xr_like(box)) == grid


def xr_like(box: object) -> object:
    from odc.geo.xr import xr_zeros

    return xr_zeros(box)


def test_foreign_objects_are_refused() -> None:
    with pytest.raises(InputError, match="GeoBox"):
        grid_of_geobox(np.zeros((3, 3)))


def test_other_crs() -> None:
    grid = grid_in((-3.56, 50.69, -3.46, 50.75), 20.0, "EPSG:3035")
    assert grid.crs == "EPSG:3035"
    assert grid.left % 20 == grid.top % 20 == 0
    with pytest.raises(InputError, match="unknown CRS"):
        grid_in((0, 0, 1, 1), 10.0, "EPSG:123456789")


def search_box(crs: str, left: float, top: float, pixel: float, width: int, height: int) -> list[float]:
    return [round(v, 6) for v in outline_lonlat(Grid(crs, left, top, 0, 0, pixel, pixel, width, height))]


def test_degrees_beyond_180_are_searched_where_catalogues_count_them() -> None:
    """Datasets from 0 to 360 degrees, boxes across 180, half the globe and all of it."""
    assert search_box("EPSG:4326", 200, 5, 0.1, 200, 100) == [-160, -5, -140, 5]
    assert search_box("EPSG:4326", -185, 5, 0.1, 100, 100) == [175, -5, -175, 5]
    assert search_box("EPSG:4326", -100, 5, 0.1, 2000, 100) == [-100, -5, 100, 5]
    assert search_box("EPSG:4326", -180, 85, 0.1, 3600, 1700) == [-180, -85, 180, 85]
    across = grid_in((179.9, -17.0, -179.9, -16.9), 0.001, "EPSG:4326")
    assert (across.width, [round(v, 6) for v in outline_lonlat(across)]) == (200, [179.9, -17, -179.9, -16.9])


def test_around_a_pole_all_longitudes_are_searched() -> None:
    west, south, east, north = search_box("EPSG:3031", -1.5e6, 1.5e6, 10000, 300, 300)
    assert (west, south, east) == (-180, -90, 180)
    assert north == pytest.approx(-70.65, abs=0.01)
    assert search_box("EPSG:3413", -1e5, 1e5, 1000, 200, 200)[3] == 90
    beside = search_box("EPSG:3031", 1e6, 1e6, 1000, 300, 300)
    assert beside == pytest.approx([45, -78.8, 61.7, -74.99], abs=0.01)


@pytest.mark.parametrize(
    ("crs", "says"),
    [
        ("EPSG:3857", "crosses 180 degrees, where EPSG:3857 is torn"),
        ("EPSG:5773", "no plane"),
        ("EPSG:4978", "no plane"),
        ('LOCAL_CS["drawing",UNIT["metre",1]]', "no plane"),
    ],
)
def test_crs_that_cannot_hold_a_grid(crs: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        grid_in((179.9, -17.0, -179.9, -16.9), 10.0, crs)
