"""Small scenes on disk: COGs written by GDAL, the STAC item, and what the reference needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from oracle_reference import RefScene
from pyproj import Transformer

PC_KEYS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "nir08": "B8A", "swir22": "B12"}
YEAR = "2024-01-01/2024-12-31"


@dataclass(frozen=True)
class Place:
    """Where a scene's rasters begin."""

    crs: str
    x0: float
    y0: float


@dataclass(frozen=True)
class MadeScene:
    item: dict[str, Any]
    ref: RefScene


def write_cog(
    path: Path,
    data: NDArray[Any],
    place: Place,
    res: float,
    *,
    nodata: float | None = None,
    overviews: int = 3,
    method: str = "AVERAGE",
    block: int = 128,
) -> Path:
    """A COG of GDAL's own COG driver, DEFLATE with predictor 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "COG", "count": 1, "dtype": data.dtype, "height": data.shape[0], "width": data.shape[1],
        "crs": place.crs, "transform": Affine(res, 0, place.x0, 0, -res, place.y0), "nodata": nodata,
        "compress": "DEFLATE", "predictor": "YES", "blocksize": block, "overviews": "IGNORE_EXISTING",
        "overview_count": overviews, "overview_resampling": method,
    }  # fmt: skip
    if not overviews:
        profile |= {"overviews": "NONE"}
        del profile["overview_count"]
    with rasterio.open(path, "w", **profile) as dst:
        dst.write(data, 1)
    return path


def make_scene(
    folder: Path,
    name: str,
    when: str,
    bands: Mapping[str, NDArray[Any]],
    scl: NDArray[Any],
    place: Place,
    *,
    res: float = 10,
    scl_res: float = 20,
    dialect: str = "pc",
    nodata: float | None = 0,
    overviews: int = 3,
    method: str = "AVERAGE",
    baseline: str = "03.01",
    cloud_cover: float = 10,
) -> MadeScene:
    """Write a scene's files; `bands` by common name. `dialect`: asset keys and habits of ``pc`` or ``es``."""
    at = folder / name
    files = {
        b: write_cog(at / f"{b}.tif", a, place, res, nodata=nodata, overviews=overviews, method=method)
        for b, a in bands.items()
    }
    mask = write_cog(at / "scl.tif", scl.astype(np.uint8), place, scl_res, overviews=2, method="NEAREST")
    box = lonlat_box(place, scl.shape, scl_res)
    w, s, e, n = box
    keys = {b: PC_KEYS[b] if dialect == "pc" else b for b in bands}
    assets = {keys[b]: {"href": str(p), "type": "image/tiff", "roles": ["data"]} for b, p in files.items()}
    assets["SCL" if dialect == "pc" else "scl"] = {"href": str(mask), "type": "image/tiff", "roles": ["data"]}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name,
        "collection": "sentinel-2-l2a", "bbox": box, "links": [], "assets": assets,
        "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]},
        "properties": {
            "datetime": when.replace("+00:00", "Z"), "platform": "sentinel-2b", "eo:cloud_cover": cloud_cover,
            "proj:epsg": int(place.crs.partition(":")[2]), "s2:processing_baseline": baseline,
            **({"s2:mgrs_tile": "31TCJ"} if dialect == "pc" else {"grid:code": "MGRS-31TCJ"}),
        },
    }  # fmt: skip
    harmonised = dialect == "es"
    offset = 1000 if float(baseline) >= 4 and not harmonised else 0
    ref = RefScene(
        name, datetime.fromisoformat(when), files, mask, offset, cloud_cover, harmonised=harmonised
    )
    return MadeScene(item, ref)


def lonlat_box(place: Place, shape: tuple[int, ...], res: float) -> list[float]:
    """West, south, east, north of a raster's corners."""
    to_lonlat = Transformer.from_crs(place.crs, "EPSG:4326", always_xy=True)
    x = place.x0 + res * shape[1] * np.array([0, 1, 1, 0])
    y = place.y0 - res * shape[0] * np.array([0, 0, 1, 1])
    lon, lat = to_lonlat.transform(x, y)
    return [float(v) for v in (lon.min(), lat.min(), lon.max(), lat.max())]


def clear_scl(rows: int, cols: int) -> NDArray[np.uint8]:
    """Vegetation everywhere."""
    return np.full((rows, cols), 4, np.uint8)
