"""GeoKeys against PROJ: what GDAL writes for a CRS, we must read as the same place."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyproj
import pytest
from tiff_reader import open_raster

from bestpixel_gpu.cog.geokeys import crs_of, is_pixel_point

rasterio = pytest.importorskip("rasterio")

CODES = [
    "EPSG:32632",
    "EPSG:32733",
    "EPSG:4326",
    "EPSG:3035",
    "EPSG:3857",
    "EPSG:26711",
    "EPSG:27700",
    "EPSG:3031",
]

# a CRS without a code, and a point on the ground near its centre
PROJ_STRINGS = {
    "modis_sinusoidal": ("+proj=sinu +lon_0=0 +R=6371007.181 +units=m", 20, 45),
    "laea": ("+proj=laea +lat_0=50.72 +lon_0=-3.51 +datum=WGS84 +units=m", -3.4, 50.8),
    "laea_polar_sphere": ("+proj=laea +lat_0=90 +lon_0=12 +R=6370997 +units=m", 30, 80),
    "aea": ("+proj=aea +lat_1=29.5 +lat_2=45.5 +lat_0=23 +lon_0=-96.5 +x_0=10 +y_0=-7 +datum=NAD83", -95, 40),
    "lcc_2sp": (
        "+proj=lcc +lat_1=49.2 +lat_2=44.1 +lat_0=46.5 +lon_0=3.2 +x_0=700000 +y_0=66e5 +ellps=GRS80", 4, 46,
    ),
    "lcc_1sp": (
        "+proj=lcc +lat_1=36 +lat_0=36 +lon_0=2.7 +k_0=0.99962 +x_0=5e5 +y_0=3e5 +ellps=clrk80", 3, 37,
    ),
    "tmerc": ("+proj=tmerc +lat_0=10 +lon_0=9.3 +k=0.99991 +x_0=200000 +y_0=-1e6 +ellps=bessel", 9, 48),
    "tmerc_us_foot": (
        "+proj=tmerc +lat_0=40 +lon_0=-75 +k=0.9999 +x_0=150000 +y_0=0 +datum=NAD83 +units=us-ft", -75, 41,
    ),
    "tmerc_foot": ("+proj=tmerc +lat_0=40 +lon_0=-75 +k=0.9999 +x_0=150000 +datum=WGS84 +units=ft", -75, 41),
    "tmerc_own_unit": (
        "+proj=tmerc +lat_0=40 +lon_0=-75 +k=0.9999 +x_0=3000 +datum=WGS84 +to_meter=20", -75, 41,
    ),
    "utm_own_ellipsoid": ("+proj=utm +zone=33 +a=6378200 +rf=298 +units=m", 15.5, 50),
    "mercator_scale": ("+proj=merc +lon_0=100 +k=0.997 +x_0=39e5 +y_0=9e5 +ellps=bessel", 110, -7),
    "mercator_latitude": ("+proj=merc +lat_ts=42 +lon_0=51 +x_0=5 +ellps=krass", 51, 42),
    "polar_latitude": ("+proj=stere +lat_0=90 +lat_ts=70 +lon_0=-45 +ellps=clrk66", -40, 75),
    "polar_south": ("+proj=stere +lat_0=-90 +lat_ts=-71 +lon_0=30 +x_0=8 +ellps=GRS80", 20, -75),
    "polar_scale": ("+proj=stere +lat_0=90 +k=0.994 +lon_0=10 +x_0=2e6 +y_0=2e6 +ellps=WGS84", 20, 80),
    "equirectangular": ("+proj=eqc +lat_ts=30 +lon_0=10 +R=6371007", 12, 33),
    "azimuthal_equidistant": (
        "+proj=aeqd +lat_0=53 +lon_0=24 +x_0=5837287 +y_0=2121415 +datum=WGS84", 20, 50,
    ),
    "oblique_stereographic": (
        "+proj=sterea +lat_0=52.1 +lon_0=5.3 +k=0.9999079 +x_0=155e3 +y_0=463e3 +ellps=bessel", 5, 52,
    ),
    "cylindrical_equal_area": ("+proj=cea +lat_ts=30 +lon_0=0 +datum=WGS84", 20, 30),
    "geographic_ellipsoid": ("+proj=longlat +a=6378200 +rf=298.1", 10, 50),
    "geographic_sphere": ("+proj=longlat +R=6371229", 10, 50),
    "geographic_shifted": ("+proj=longlat +ellps=intl +towgs84=-87,-98,-121", 10, 50),
    "geographic_seven": (
        "+proj=longlat +ellps=bessel +towgs84=598.1,73.7,418.2,0.202,0.045,-2.455,6.7", 10, 50,
    ),
    "geographic_meridian": ("+proj=longlat +ellps=bessel +pm=17.6666666666667", 10, 50),
}  # fmt: skip


def write(path: Path, crs: str) -> bytes:
    transform = rasterio.transform.from_origin(0, 0, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8", crs=crs, transform=transform
    ) as dst:
        dst.write(np.zeros((1, 4, 4), np.uint8))
    return path.read_bytes()


@pytest.mark.parametrize("code", CODES)
def test_codes_are_kept(tmp_path: Path, code: str) -> None:
    assert open_raster(write(tmp_path / "a.tif", code))[0].crs == code


@pytest.mark.parametrize("name", PROJ_STRINGS)
def test_user_defined_crs_lies_where_gdal_puts_it(tmp_path: Path, name: str) -> None:
    text, lon, lat = PROJ_STRINGS[name]
    path = tmp_path / "a.tif"
    ours = open_raster(write(path, text))[0].crs
    assert ours is not None
    assert ours.startswith("+proj=")
    with rasterio.open(path) as src:
        theirs = src.crs.to_wkt()
    assert_same_place(
        ours, theirs, np.array([lon, lon + 0.5, lon - 1.0]), np.array([lat, lat + 1.0, lat - 0.5])
    )


def assert_same_place(ours: str, theirs: str, lon: np.ndarray, lat: np.ndarray) -> None:
    """Both ways: projected coordinates to 1 mm, and degrees to less than that."""
    a = pyproj.Transformer.from_crs("EPSG:4326", ours, always_xy=True)
    b = pyproj.Transformer.from_crs("EPSG:4326", theirs, always_xy=True)
    xa, xb = np.array(a.transform(lon, lat)), np.array(b.transform(lon, lat))
    assert np.isfinite(xa).all()
    geographic = pyproj.CRS(ours).is_geographic
    np.testing.assert_allclose(xa, xb, rtol=0, atol=1e-8 if geographic else 1e-3)
    back = np.array(pyproj.Transformer.from_crs(ours, theirs, always_xy=True).transform(*xa))
    np.testing.assert_allclose(back, xb, rtol=0, atol=1e-8 if geographic else 1e-3)


def test_real_scene_without_a_code(shared: Path) -> None:
    paths = sorted((shared / "data" / "s2_real" / "exe-s2-l2a-20m").glob("*/B02.tif"))
    assert paths
    for path in paths:
        raster, _ = open_raster(path.read_bytes())
        with rasterio.open(path) as src:
            assert raster.transform == tuple(src.transform)[:6]
            assert src.crs.to_epsg() is None
            assert_same_place(raster.crs, src.crs.to_wkt(), np.array([-3.6, -3.5]), np.array([50.7, 50.74]))


def test_datum_that_a_proj_string_cannot_name_gives_nothing() -> None:
    base = [1, 1, 0, 4, 1024, 0, 1, 1, 3072, 0, 1, 32767, 3075, 0, 1, 1, 2048, 0, 1]
    assert crs_of([*base, 4277], (), "") is None  # OSGB36: 100 m off its ellipsoid
    assert crs_of([*base, 4326], (), "") == "+proj=tmerc +x_0=0.0 +y_0=0.0 +datum=WGS84 +units=m +no_defs"


@pytest.mark.parametrize(
    "directory", [[], [1], [1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 99], [1, 1, 0, 1, 1024, 0, 1]]
)
def test_directories_without_keys(directory: list[int]) -> None:
    assert crs_of(directory, (), "") is None
    assert not is_pixel_point(directory)


def test_directory_that_declares_more_than_it_holds() -> None:
    directory = [1, 1, 0, 77, 1024, 0, 1, 1, 1025, 0, 1, 2, 3072, 0, 1, 32632, 3076, 0]
    assert crs_of(directory, (), "") == "EPSG:32632"
    assert is_pixel_point(directory)


def test_wild_directories_never_crash() -> None:
    draw = random.Random(5)
    known = [1024, 1025, *range(2048, 2063), *range(3072, 3096)]
    values = [0, 1, 2, 9, 15, 17, 24, 4326, 6326, 7030, 9001, 9002, 9102, 16032, 32767, 65535]
    doubles = (0.0, -91.0, float("nan"), float("inf"), 6378137.0, 298.25, 1e308)
    found = 0
    for _ in range(3000):
        keys = [
            (k, draw.choice([0, 34736, 34737, 9]), draw.choice([1, 3]), draw.choice(values[:10]))
            for k in known
        ]
        keys = [
            (k, 0, 1, draw.choice(values)) if draw.random() < 0.6 else (k, w, n, v) for k, w, n, v in keys
        ]
        text = crs_of([1, 1, 0, len(keys), *(n for key in keys for n in key)], doubles, "a|b|")
        assert text is None or text.startswith(("EPSG:", "+proj="))
        found += text is not None and "nan" not in text and "inf" not in text
    assert found > 100
