"""Sinusoidal rasters written by GDAL: places, fill and the tear at 180 degrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle_scenes import Place, write_cog
from pyproj import Transformer

from bestpixel_gpu import build_composite

SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +a=6371007.181 +b=6371007.181 +units=m +no_defs"
PIXEL = 1111950.519667 / 2400
QUALITY = "BRDF_Albedo_Band_Mandatory_Quality_Band1"


def product(
    folder: Path, tile: str, col0: int, row0: int, red: NDArray[np.int16], quality: NDArray[np.uint8]
) -> dict[str, Any]:
    """An item with a red band and its quality, whose corner lies at so many pixels from the origin."""
    place = Place(SINUSOIDAL, col0 * PIXEL, -row0 * PIXEL)
    at = folder / tile
    files = {
        "Nadir_Reflectance_Band1": write_cog(at / "red.tif", red, place, PIXEL, nodata=32767),
        QUALITY: write_cog(at / "quality.tif", quality, place, PIXEL, nodata=255, method="CUBIC"),
    }
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": f"MCD43A4.A2025061.{tile}.061.2025070035331",
        "collection": "modis-43A4-061", "geometry": None, "links": [],
        "properties": {"datetime": None, "start_datetime": "2025-03-02T00:00:00Z", "proj:epsg": None},
        "assets": {k: {"href": str(p)} for k, p in files.items()},
    }  # fmt: skip


def run(items: list[dict[str, Any]], bbox: tuple[float, ...], **options: Any) -> Any:
    defaults = {"resolution": 500, "endpoint": "mcd43a4", "bands": ["red"], "device": "cpu", "threads": 1}
    return build_composite(bbox, "2025-03-02", items=items, **(defaults | options))


def pixel_positions(grid: Any, col0: int, row0: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Source column and row (edges) of every output pixel centre, by PROJ."""
    x, y = np.meshgrid(grid.columns(), grid.rows())
    sx, sy = Transformer.from_crs(grid.crs, SINUSOIDAL, always_xy=True).transform(x, y)
    return sx / PIXEL - col0, -sy / PIXEL - row0


@pytest.mark.parametrize("crs", ["utm", "EPSG:3035", None])
def test_fix_03_a_ramp_lies_where_proj_puts_it(tmp_path: Path, crs: str | None) -> None:
    """The ancestor shifted by half a pixel, 231 m, when it left the sinusoidal grid."""
    col0, row0, n = 1600, -10900, 200  # about 9.8 degrees east, 45.4 north
    rows, cols = np.indices((n, n))
    red = (2000 + 20 * cols + 10 * rows).astype(np.int16)
    item = product(tmp_path, "h18v04", col0, row0, red, np.zeros((n, n), np.uint8))
    got = run([item], (9.9, 44.8, 10.3, 45.2), crs=crs, **({"output_crs": "native"} if crs is None else {}))
    u, v = pixel_positions(got.grid, col0, row0)
    assert u.min() > 1
    assert v.min() > 1
    assert max(u.max(), v.max()) < n - 1
    want = 2000 + 20 * (u - 0.5) + 10 * (v - 0.5)
    assert (got["quality"] == 0).all()
    assert np.abs(np.asarray(got["bands"]["red"]) - want).max() < 0.51


def test_fix_04_fill_is_never_mixed_in(tmp_path: Path) -> None:
    """Half of the tile holds the fill 32767, which the quality calls good: 3000 or nothing comes out."""
    n = 200
    red = np.full((n, n), 3000, np.int16)
    red[:, 100:] = 32767
    item = product(tmp_path, "h18v04", 1600, -10900, red, np.zeros((n, n), np.uint8))
    for resolution in (500, 250, 2000):
        got = run([item], (9.9, 44.8, 10.3, 45.2), resolution=resolution, crs="utm")
        assert set(np.unique(got["bands"]["red"]).tolist()) == {3000, 65535}
        assert ((got["bands"]["red"] == 65535) == (got["quality"] == 65535)).all()


def test_zero_is_a_value_and_a_magnitude_inversion_is_marginal(tmp_path: Path) -> None:
    n = 200
    quality = np.zeros((n, n), np.uint8)
    quality[:, 100:], quality[:, 130:] = 1, 255
    item = product(tmp_path, "h18v04", 1600, -10900, np.zeros((n, n), np.int16), quality)
    got = run([item], (9.9, 44.8, 10.3, 45.2), output_crs="native", resolution="native")
    assert set(np.unique(got["quality"]).tolist()) == {0, 1, 65535}
    np.testing.assert_array_equal(got["bands"]["red"], np.where(got["quality"] == 65535, 65535, 0))


def test_both_sides_of_180_degrees_meet_in_utm(tmp_path: Path) -> None:
    """Tiles h35 and h00 lie at opposite ends of the sinusoidal grid; in UTM no pixel is missing between."""
    lat, n = -17.0, 300
    edge = Transformer.from_crs("EPSG:4326", SINUSOIDAL, always_xy=True).transform(179.999999, lat)
    col, row = round(edge[0] / PIXEL), -round(edge[1] / PIXEL) - n // 2
    good = np.zeros((n, n), np.uint8)
    items = [
        product(tmp_path, "h35v10", col - n // 2, row, np.full((n, n), 1000, np.int16), good),
        product(tmp_path, "h00v10", -col - n // 2, row, np.full((n, n), 2000, np.int16), good),
    ]
    got = run(items, (179.8, lat - 0.1, -179.8, lat + 0.1), crs="utm")
    red = np.asarray(got["bands"]["red"])
    assert set(np.unique(red).tolist()) == {1000, 2000}
    x, y = np.meshgrid(got.grid.columns(), got.grid.rows())
    lon, _ = Transformer.from_crs(got.grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    np.testing.assert_array_equal(red, np.where(lon > 0, 1000, 2000))
