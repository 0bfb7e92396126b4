"""The composite as a STAC item."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from bestpixel_gpu.geo.crs import EDGE_POINTS, epsg_of, lonlat_box, parse_crs, transform
from bestpixel_gpu.geo.grid import Grid
from bestpixel_gpu.result.composite import Composite

_SCHEMAS = "https://stac-extensions.github.io"
EXTENSIONS = [
    f"{_SCHEMAS}/projection/v2.0.0/schema.json",
    f"{_SCHEMAS}/eo/v2.0.0/schema.json",
    f"{_SCHEMAS}/raster/v2.0.0/schema.json",
]
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_COMMON_NAMES = {"rededge1": "rededge071", "rededge2": "rededge075", "rededge3": "rededge078"}
"""Where the eo extension's common name is not ours."""


def stac_item(composite: Composite, layers: dict[str, tuple[str, float]]) -> dict[str, Any]:
    """STAC 1.1 Feature whose assets are ``./<layer>.tif`` and ``./report.json``.

    Parameters
    ----------
    layers : dict of name -> (data type, nodata)
        What the files hold.
    """
    grid = composite.grid
    start, end = _interval(composite)
    assets = {name: _asset(composite, name, *held) for name, held in layers.items()}
    assets["report"] = {"href": "./report.json", "type": "application/json", "roles": ["metadata"]}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": f"{composite.collection.replace('+', '-')}_{start:%Y%m%d}_{end:%Y%m%d}_composite",
        "geometry": footprint(grid),
        "bbox": list(_box(grid)),
        "properties": {
            "datetime": None,
            "start_datetime": _stamp(start),
            "end_datetime": _stamp(end),
            "gsd": grid.res_x,
            **_projection(grid),
            "bestpixel:source_ids": list(composite.source_ids),
            "bestpixel:partition_tiles": list(composite.partition_tiles),
            "bestpixel:empty_pixels": composite.report.empty_pixels,
            "bestpixel:endpoint": composite.endpoint,
            "bestpixel:collection": composite.collection,
            "bestpixel:versions": composite.report.versions,
        },
        "links": [],
        "assets": assets,
    }


def _asset(composite: Composite, name: str, dtype: str, nodata: float) -> dict[str, Any]:
    asset: dict[str, Any] = {"href": f"./{name}.tif", "type": COG_TYPE, "roles": ["data"]}
    asset |= {"data_type": dtype, "nodata": "nan" if nodata != nodata else nodata}
    if name in composite.bands:
        asset["roles"] = ["data", "reflectance"]
        asset |= {"raster:scale": 0.0001, "raster:offset": 0.0}
        asset["bands"] = [{"name": name, "eo:common_name": _COMMON_NAMES.get(name, name)}]
    return asset


def _projection(grid: Grid) -> dict[str, Any]:
    """Fields of the projection extension; PROJJSON where the CRS has no code."""
    epsg = epsg_of(grid.crs)
    named: dict[str, Any] = {"proj:code": f"EPSG:{epsg}" if epsg else None}
    if not epsg:
        named["proj:projjson"] = parse_crs(grid.crs).to_json_dict()
    return named | {
        "proj:bbox": list(grid.bounds),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform),
    }


def _box(grid: Grid) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees, seven decimals; west > east crosses 180 degrees."""
    west, south, east, north = (round(v, 7) for v in lonlat_box(grid.bounds, grid.crs))
    return west, south, east, north


def footprint(grid: Grid) -> dict[str, Any]:
    """GeoJSON of the grid's outline in degrees, anticlockwise; two boxes where it crosses 180 degrees."""
    west, south, east, north = _box(grid)
    if west > east:
        halves = ((west, 180.0), (-180.0, east))
        return {"type": "MultiPolygon", "coordinates": [[_ring(a, south, b, north)] for a, b in halves]}
    if (west, east) == (-180.0, 180.0):
        return {"type": "Polygon", "coordinates": [_ring(west, south, east, north)]}
    left, bottom, right, top = grid.bounds
    t = np.arange(EDGE_POINTS - 1) / (EDGE_POINTS - 1)
    x, y = left + (right - left) * t, bottom + (top - bottom) * t
    full = np.ones_like(t)
    xs = np.concatenate([x, right * full, left + right - x, left * full])
    ys = np.concatenate([bottom * full, y, top * full, bottom + top - y])
    lon, lat = transform(grid.crs, "EPSG:4326", xs, ys)
    lon = np.where(np.abs(lon) > 180.0, (lon + 180.0) % 360.0 - 180.0, lon)
    ring = [[round(a, 7), round(b, 7)] for a, b in zip(lon.tolist(), lat.tolist(), strict=True)]
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def _interval(composite: Composite) -> tuple[datetime, datetime]:
    """First and last sensing time of the competing scenes, UTC."""
    times = [w.replace(tzinfo=UTC) if w.tzinfo is None else w.astimezone(UTC) for w in composite.source_dates]
    return min(times), max(times)


def _stamp(when: datetime) -> str:
    """RFC 3339 with Z."""
    return when.isoformat().replace("+00:00", "Z")
