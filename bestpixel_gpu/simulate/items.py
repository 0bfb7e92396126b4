"""STAC items of the embedded archive, with the fields and quirks of the real catalogues.

Hrefs start with ``{base}``, which the server (or :func:`bestpixel_gpu.simulate.items`) replaces:
``{base}/blob/<account>/<container>/...`` on the Planetary Computer, where reading needs a token
for that account and container, and ``{base}/s3/<bucket>/...`` on Earth Search.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.simulate.sky import beyond
from bestpixel_gpu.simulate.spec import (
    BAND,
    COLLECTIONS,
    ArchiveSpec,
    Dialect,
    Observation,
    Tile,
    project,
)

ACCOUNT, CONTAINER = "sentinel2l2a01", "sentinel2-l2"
MASK_METRES = 20
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_BUCKET = {
    "earth-search": "sentinel-cogs/sentinel-s2-l2a-cogs",
    "earth-search-c1": "e84-earth-search-sentinel-data/sentinel-2-c1-l2a",
}
_EXTENSIONS = {
    "pc": ("eo/v1.0.0", "sat/v1.0.0", "projection/v1.0.0"),
    "earth-search": ("projection/v1.1.0", "raster/v1.1.0", "mgrs/v1.0.0", "eo/v1.1.0", "grid/v1.1.0"),
    "earth-search-c1": ("projection/v1.1.0", "raster/v1.1.0", "mgrs/v1.0.0", "eo/v1.1.0", "file/v2.1.0"),
}
_SHARES = {
    "s2:nodata_pixel_percentage": (0,),
    "s2:cloud_shadow_percentage": (3,),
    "s2:vegetation_percentage": (4,),
    "s2:not_vegetated_percentage": (5,),
    "s2:water_percentage": (6,),
    "s2:unclassified_percentage": (7,),
    "s2:medium_proba_clouds_percentage": (8,),
    "s2:high_proba_clouds_percentage": (9,),
    "s2:thin_cirrus_percentage": (10,),
    "s2:snow_ice_percentage": (11,),
}


def has_offset(dialect: Dialect, baseline: str) -> bool:
    """Whether the stored pixels hold DN + 1000."""
    return dialect == "earth-search-c1" or (dialect == "pc" and float(baseline) >= 4)


def baseline_of(dialect: Dialect, one: Observation) -> str:
    """Processing baseline in that archive: Collection 1 holds nothing before 05.00."""
    return one.baseline if dialect != "earth-search-c1" or float(one.baseline) >= 5 else "05.00"


@dataclass(frozen=True, slots=True)
class Names:
    """Identifiers of one product in one archive."""

    dialect: Dialect
    one: Observation

    @property
    def baseline(self) -> str:
        """Like ``05.10``."""
        return baseline_of(self.dialect, self.one)

    @property
    def stamp(self) -> str:
        """Start of the datatake, compact."""
        return f"{self.one.when:%Y%m%dT%H%M%S}"

    @property
    def processed(self) -> str:
        """Processing time, compact."""
        return f"{self.one.generated:%Y%m%dT%H%M%S}"

    @property
    def strip(self) -> str:
        """Start of the datastrip, compact."""
        return f"{self.one.strip_start:%Y%m%dT%H%M%S}"

    @property
    def product(self) -> str:
        """ESA's product name."""
        one, code = self.one, self.baseline.replace(".", "")
        place = f"R{one.orbit:03d}_T{one.tile.name}"
        return f"S2{one.platform}_MSIL2A_{self.stamp}_N{code}_{place}_{self.processed}.SAFE"

    @property
    def item(self) -> str:
        """Item id."""
        one, tile = self.one, self.one.tile.name
        if self.dialect == "pc":
            return f"S2{one.platform}_MSIL2A_{self.stamp}_R{one.orbit:03d}_T{tile}_{self.processed}"
        if self.dialect == "earth-search":
            return f"S2{one.platform}_{tile}_{self.stamp[:8]}_{one.sequence}_L2A"
        return f"S2{one.platform}_T{tile}_{self.strip}_L2A" + (f"_{one.sequence}" if one.gain != 1 else "")

    def path(self, key: str, metres: int) -> str:
        """Path of an asset below the server's root; `key` as Sentinel-2 names it (``B04``, ``SCL``)."""
        one, tile = self.one, self.one.tile.name
        place = f"{tile[:2]}/{tile[2]}/{tile[3:]}"
        if self.dialect != "pc":
            zone = f"{one.tile.zone}/{tile[2]}/{tile[3:]}"
            return f"s3/{_BUCKET[self.dialect]}/{zone}/{one.when.year}/{one.when.month}/{self.item}/{key}.tif"
        granule = f"L2A_T{tile}_A{one.absolute_orbit:06d}_{self.strip}"
        return (
            f"blob/{ACCOUNT}/{CONTAINER}/{place}/{one.when:%Y/%m/%d}/{self.product}/GRANULE/{granule}"
            f"/IMG_DATA/R{metres}m/T{tile}_{self.stamp}_{key}_{metres}m.tif"
        )


def make_item(
    spec: ArchiveSpec, names: Names, classes: NDArray[np.uint8], sizes: dict[str, int]
) -> dict[str, Any]:
    """One item.

    Parameters
    ----------
    classes
        The scene classification, for the item's percentages.
    sizes
        Bytes of each file, by its Sentinel-2 key.
    """
    one, dialect = names.one, names.dialect
    ring = footprint(spec, one)
    mask_key = "SCL" if dialect == "pc" else "scl"
    assets = {}
    for name in spec.bands:
        band = BAND[name]
        asset = _asset(names, band.key, band.metres, sizes[band.key])
        asset["eo:bands"] = [{"name": band.key, "common_name": name}]
        assets[band.key if dialect == "pc" else name] = asset
    assets[mask_key] = _asset(names, "SCL", MASK_METRES, sizes["SCL"])
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            f"https://stac-extensions.github.io/{e}/schema.json" for e in _EXTENSIONS[dialect]
        ],
        "id": names.item,
        "collection": COLLECTIONS[dialect][0],
        "bbox": np.min(ring, axis=0).tolist() + np.max(ring, axis=0).tolist(),
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": _properties(names, classes),
        "assets": assets,
        "links": [],
    }


def _properties(names: Names, classes: NDArray[np.uint8]) -> dict[str, Any]:
    one, dialect, tile = names.one, names.dialect, names.one.tile
    seen = max(1, int((classes > 0).sum()))
    counts = np.bincount(classes.ravel(), minlength=12)
    shares = {
        k: round(float(counts[list(c)].sum()) * 100 / (classes.size if c == (0,) else seen), 6)
        for k, c in _SHARES.items()
    }
    unit = f"S2{one.platform}"
    common = {
        "eo:cloud_cover": round(float(counts[8:11].sum()) * 100 / seen, 6),
        "proj:epsg": tile.epsg,
        "instruments": ["msi"],
        "s2:processing_baseline": names.baseline,
        "s2:product_uri": names.product,
        "s2:product_type": "S2MSI2A",
        "s2:datatake_id": f"G{unit}_{names.stamp}_{one.absolute_orbit:06d}_N{names.baseline}",
        "s2:datatake_type": "INS-NOBS",
        "s2:datastrip_id": f"{unit}_OPER_MSI_L2A_DS_2{one.platform}PS_{names.processed}"
        f"_S{names.strip}_N{names.baseline}",
        "s2:generation_time": one.generated.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        **shares,
    }
    if dialect == "pc":
        return {
            "datetime": one.when.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "platform": f"Sentinel-2{one.platform}",
            "constellation": "Sentinel 2",
            "s2:mgrs_tile": tile.name,
            "sat:orbit_state": "descending",
            "sat:relative_orbit": one.orbit,
            **common,
        }
    second = int(tile.name[3:].encode().hex(), 16) % 40  # Earth Search times each granule by itself
    sensed = one.strip_start + timedelta(seconds=second, milliseconds=635)
    own = {
        "datetime": sensed.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "platform": f"sentinel-2{one.platform.lower()}",
        "constellation": "sentinel-2",
        "mgrs:utm_zone": tile.zone,
        "mgrs:latitude_band": tile.name[2],
        "mgrs:grid_square": tile.name[3:],
        "grid:code": f"MGRS-{tile.name}",
        **common,
    }
    if dialect == "earth-search":
        own["s2:sequence"] = str(one.sequence)
        own["earthsearch:boa_offset_applied"] = float(names.baseline) >= 4
    return own


def _asset(names: Names, key: str, metres: int, size: int) -> dict[str, Any]:
    tile, dialect = names.one.tile, names.dialect
    n = -(-round(tile.side) // metres)
    asset: dict[str, Any] = {
        "href": "{base}/" + names.path(key, metres),
        "type": COG_TYPE,
        "roles": ["data"] if key == "SCL" or dialect == "pc" else ["data", "reflectance"],
        "gsd": metres,
        "proj:shape": [n, n],
        "proj:transform": [metres, 0, tile.x, 0, -metres, tile.y],
    }
    if dialect == "pc":
        asset["proj:bbox"] = [tile.x, tile.y - n * metres, tile.x + n * metres, tile.y]
        return asset
    raster: dict[str, Any] = {"nodata": 0, "data_type": "uint16", "spatial_resolution": metres}
    if key == "SCL":
        raster["data_type"] = "uint8"
    else:
        # on sentinel-2-l2a this offset is already in the pixels: the real catalogue says so too
        raster |= {"scale": 0.0001, "offset": -0.1 if float(names.baseline) >= 4 else 0}
    asset["raster:bands"] = [raster]
    if dialect == "earth-search-c1":
        asset["file:size"] = size
    return asset


def footprint(spec: ArchiveSpec, one: Observation) -> list[list[float]]:
    """Outline in degrees, unclosed, counter-clockwise: the tile, cut where the product ends."""
    tile = one.tile
    points = list(zip(*in_plane(tile, *tile.corners()), strict=True))
    past = [float(beyond(spec, one, np.array([x]), np.array([y]))[0]) for x, y in points]
    ring: list[tuple[float, float]] = []
    for i, p in enumerate(points):
        j = (i + 1) % len(points)
        if past[i] < 0:
            ring.append((float(p[0]), float(p[1])))
        if past[i] * past[j] < 0 and np.isfinite(past[i]):
            t = past[i] / (past[i] - past[j])
            q = points[j]
            ring.append((float(p[0] + t * (q[0] - p[0])), float(p[1] + t * (q[1] - p[1]))))
    x, y = np.array(ring).T
    lon, lat = project(tile.plane_epsg, 4326, x + tile.plane_origin[0], y + tile.plane_origin[1])
    return [[round(float(a), 7), round(float(b), 7)] for a, b in zip(lon, lat, strict=True)][::-1]


def in_plane(
    tile: Tile, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of a tile's CRS as coordinates of its plane."""
    u, v = project(tile.epsg, tile.plane_epsg, x, y)
    return u - tile.plane_origin[0], v - tile.plane_origin[1]
