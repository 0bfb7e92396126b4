"""The composite as an xarray Dataset that odc-geo, rioxarray and QGIS read without help."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from bestpixel_gpu.result.composite import NO_DATE, NO_SOURCE, NODATA, Composite

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

    from bestpixel_gpu.geo.grid import Grid

LAYERS: dict[str, dict[str, Any]] = {
    "quality": {
        "nodata": NODATA,
        "long_name": "score of the best observation, lower is better",
        "flag_values": np.array([0, 1, 2], np.uint16),
        "flag_meanings": "clear marginal dark",
    },
    "observation_count": {"long_name": "competing scenes with a usable score"},
    "selected_observation": {"nodata": NO_SOURCE, "long_name": "index into the attribute source_ids"},
    # No CF units here: a reader would decode them and stumble over the nodata value.
    "date": {"nodata": NO_DATE, "long_name": "days since 1970-01-01 (UTC) of the best observation"},
}
"""Attributes of the layers beside the bands."""


def to_dataset(composite: Composite) -> xr.Dataset:
    """Dataset of all bands and layers, dims (y, x), on the composite's own arrays.

    Coordinates are pixel centres in float64; ``spatial_ref`` holds the CRS as CF and GDAL write it.
    Nodata stands in ``attrs["nodata"]`` and nowhere else: as ``_FillValue`` it would turn integers
    into floats on the next open. Attributes are text, numbers or lists of them.
    """
    import xarray as xr

    if type(composite.quality).__module__.partition(".")[0] == "cupy":
        with suppress(ImportError):
            import cupy_xarray  # noqa: F401  (its import is its effect: the accessor .cupy)
    variables: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, array in composite.bands.items():
        text = {"units": "1", "long_name": f"{name} surface reflectance"}
        variables[name] = array, {"nodata": NODATA} | text | _SCALE
    for name, array in (composite.boa_unc or {}).items():
        text = {"units": "1", "long_name": f"{name} uncertainty"}
        variables[f"{name}_unc"] = array, text | _SCALE
    for name, attrs in LAYERS.items():
        variables[name] = composite[name], dict(attrs)
    dataset = xr.Dataset(
        {name: xr.Variable(("y", "x"), array, attrs) for name, (array, attrs) in variables.items()},
        coordinates(composite.grid),
        dataset_attrs(composite),
    )
    for name in variables:
        dataset[name].encoding["grid_mapping"] = "spatial_ref"
    if composite.period is None:
        return dataset
    start = np.datetime64(composite.period.start.replace(tzinfo=None).isoformat(), "ns")
    return dataset.assign_coords(time=start)  # so that a series can be concatenated along it


_SCALE: dict[str, Any] = {"reflectance_scale": 0.0001, "reflectance_offset": 0.0}
"""Not CF's names: a reader would apply those unasked."""


def geobox(grid: Grid) -> GeoBox:
    """The grid as odc-geo's GeoBox."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox(grid.shape, Affine(*grid.transform), grid.crs)


def coordinates(grid: Grid) -> dict[Any, Any]:
    """Coordinates y, x (or latitude, longitude turned to y, x) and spatial_ref."""
    from odc.geo.xr import xr_coords

    coords: dict[Any, Any] = xr_coords(geobox(grid), dims=("y", "x"))
    for name, centres in (("y", grid.rows()), ("x", grid.columns())):
        coords[name] = coords[name].copy(data=centres)  # the same bits for every box of one origin
    return coords


def dataset_attrs(composite: Composite) -> dict[str, Any]:
    """Where the data came from; nested values as JSON text, because NetCDF has no others."""
    report = composite.report
    lost = [{"id": s.id, "status": s.status, "reason": s.reason} for s in report.scenes if s.status != "used"]
    return {
        "history": f"best pixel composite by bestpixel-gpu {report.versions.get('bestpixel_gpu', '?')}",
        "endpoint": composite.endpoint,
        "collection": composite.collection,
        "source_ids": list(composite.source_ids),
        "source_dates": [when.isoformat() for when in composite.source_dates],
        "partition_tiles": list(composite.partition_tiles),
        "empty_pixels": report.empty_pixels,
        "lost_tiles": report.lost_tiles,
        "request": json.dumps(report.request),
        "scenes_lost": json.dumps(lost),
        "timings": json.dumps(composite.timings),
    }
