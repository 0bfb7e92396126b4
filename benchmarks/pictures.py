"""The best-pixel picture as users of odc-stac and stackstac make it: load all, mask, rank, select.

Every date's class mask and bands are loaded on the output grid; dates are ranked by their share of
clear pixels, and each pixel takes the first date of its best class. GDAL reads with two threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plain import GDAL_SETTINGS, THREADS

PROJECTION = "https://stac-extensions.github.io/projection/v1.1.0/schema.json"
UNUSABLE = 65535


def scores() -> NDArray[np.uint16]:
    """Score of each class of the Sentinel-2 scene classification, the smallest is the best."""
    from bestpixel_gpu.catalog.classes import class_rules

    return class_rules("scl").scores[:256]


def select(
    classes: NDArray[Any], bands: dict[str, NDArray[Any]], times: Sequence[Any]
) -> dict[str, NDArray[Any]]:
    """The picture of stacks (date, row, column); ``winner`` is the date's place in time."""
    score = scores()[classes]
    clear = [float((s == 0).mean()) for s in score]
    order = sorted(range(len(times)), key=lambda k: (-clear[k], -times[k].astype(np.int64)))
    shape = classes.shape[1:]
    best = np.full(shape, UNUSABLE, np.uint16)
    out: dict[str, NDArray[Any]] = {b: np.full(shape, 65535, np.uint16) for b in bands}
    out["winner"] = np.full(shape, -1, np.int16)
    place = np.argsort(np.argsort(times))
    for k in order:
        better = score[k] < best
        np.copyto(best, score[k], where=better)
        out["winner"][better] = place[k]
        for b, stack in bands.items():
            np.copyto(out[b], stack[k], where=better)
    return out


def pystac_items(items: list[dict[str, Any]]) -> list[Any]:
    """Items whose projection fields are declared."""
    import pystac

    return [pystac.Item.from_dict({**i, "stac_extensions": [PROJECTION]}) for i in items]


def odc_stac(items: list[dict[str, Any]], bands: Sequence[str], grid: Any) -> dict[str, NDArray[Any]]:
    """By odc-stac."""
    os.environ.update(GDAL_SETTINGS)
    import odc.stac
    from affine import Affine
    from odc.geo.geobox import GeoBox

    box = GeoBox(grid.shape, Affine(*grid.transform), grid.crs)
    loaded = odc.stac.load(
        pystac_items(items), bands=["scl", *bands], geobox=box, groupby="id", pool=THREADS, nodata=0,
        resampling={"scl": "nearest", "*": "bilinear"}, dtype={"scl": "uint8", "*": "uint16"},
    )  # fmt: skip
    return select(loaded["scl"].values, {b: loaded[b].values for b in bands}, loaded.time.values)


def stackstac(items: list[dict[str, Any]], bands: Sequence[str], grid: Any) -> dict[str, NDArray[Any]]:
    """By stackstac on dask's threads; one dtype for all, and nearest, which on this grid is a copy."""
    os.environ.update(GDAL_SETTINGS)
    import dask
    import stackstac as peer
    from rasterio.enums import Resampling

    with dask.config.set(scheduler="threads", num_workers=THREADS):
        cube = peer.stack(
            pystac_items(items), assets=["scl", *bands], epsg=int(grid.crs.split(":")[1]), bounds=grid.bounds,
            resolution=grid.res_x, resampling=Resampling.nearest, dtype="uint16", fill_value=np.uint16(0),
            rescale=False, xy_coords=False,
        ).compute()  # fmt: skip
    stacks = {str(b): cube.values[:, n] for n, b in enumerate(cube.band.values)}
    return select(stacks["scl"], {b: stacks[b] for b in bands}, cube.time.values)
