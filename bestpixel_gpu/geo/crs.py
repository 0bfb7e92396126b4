"""CRS parsing and exact transformations, by PROJ."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import InputError

if TYPE_CHECKING:
    from pyproj import CRS, Transformer

EDGE_POINTS = 21
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +a=6371007.181 +b=6371007.181 +units=m +no_defs"
"""CRS of the MODIS land products."""
_local = threading.local()


@lru_cache(maxsize=256)
def parse_crs(text: str) -> CRS:
    """PROJ's CRS of ``EPSG:n``, WKT, PROJ string or PROJJSON.

    Raises
    ------
    InputError
        If PROJ does not understand it.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(text)
    except CRSError as exc:
        raise InputError(f"unknown CRS {text[:80]!r}: give 'EPSG:n', WKT or a PROJ string") from exc


@lru_cache(maxsize=256)
def crs_text(crs: Any) -> str:
    """The shortest faithful spelling: ``EPSG:n`` where the input is that, else as given."""
    if isinstance(crs, int):
        crs = f"EPSG:{crs}"
    if not isinstance(crs, str):
        crs = crs.to_wkt()
    epsg = epsg_of(crs)
    return f"EPSG:{epsg}" if epsg else str(crs)


@lru_cache(maxsize=256)
def epsg_of(text: str) -> int | None:
    """EPSG code, ``None`` if the CRS has none."""
    if text.upper().startswith("EPSG:") and text[5:].isdigit():
        return int(text[5:])
    return parse_crs(text).to_epsg()


def utm_epsg(lon: float, lat: float) -> int:
    """UTM code of a point in degrees, without the exceptions of Norway and Svalbard."""
    zone = min(max(int((lon + 180.0) // 6) + 1, 1), 60)
    return (32600 if lat >= 0 else 32700) + zone


def transformer(src: str, dst: str) -> Transformer:
    """Transformer between two CRS, x before y; one per thread, because PROJ's are not shared."""
    from pyproj import Transformer

    cache: dict[tuple[str, str], Transformer] = _local.__dict__.setdefault("transformers", {})
    key = (src, dst)
    if key not in cache:
        cache[key] = Transformer.from_crs(parse_crs(src), parse_crs(dst), always_xy=True)
    return cache[key]


def transform(
    src: str, dst: str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of one CRS in another; not finite where there is no place for them."""
    out_x, out_y = transformer(src, dst).transform(x, y)
    return np.asarray(out_x), np.asarray(out_y)


def same_crs(a: str, b: str) -> bool:
    """Whether two spellings mean one CRS (axis order aside)."""
    return a == b or _same_crs(a, b)


@lru_cache(maxsize=1024)
def _same_crs(a: str, b: str) -> bool:
    return bool(parse_crs(a).equals(parse_crs(b), ignore_axis_order=True))


@lru_cache(maxsize=256)
def metres_per_unit(text: str) -> float:
    """Metres in a unit of a projected CRS.

    Raises
    ------
    InputError
        If its units are degrees.
    """
    crs = parse_crs(text)
    if not crs.is_projected:
        raise InputError(f"a distance in metres has no length in {text[:80]!r}: its units are not lengths")
    return float(crs.axis_info[0].unit_conversion_factor)


@lru_cache(maxsize=256)
def northing_shift(src: str, dst: str) -> float | None:
    """Metres between the northings of a UTM zone's two hemispheres; ``None`` for any other pair of CRSs.

    They are one projection by definition, so that no transformation and no rounding lies between.
    """
    a, b = (int(t[5:]) if _is_utm(t) else 0 for t in (src, dst))
    return None if a == b or not a or not b or a % 100 != b % 100 else 1e7 * (b // 100 - a // 100)


def _is_utm(text: str) -> bool:
    return text[:8] in ("EPSG:326", "EPSG:327") and len(text) == 10 and "01" <= text[8:] <= "60"


def box_outline(
    bounds: tuple[float, float, float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """21 points along each side of a box, side by side."""
    x0, y0, x1, y1 = bounds
    t = np.arange(EDGE_POINTS) / (EDGE_POINTS - 1)
    along_x, along_y = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
    full = np.ones(EDGE_POINTS)
    return (
        np.concatenate([along_x, along_x, x0 * full, x1 * full]),
        np.concatenate([y0 * full, y1 * full, along_y, along_y]),
    )


def project_bounds(bbox: tuple[float, float, float, float], crs: str) -> tuple[float, float, float, float]:
    """Bounds in `crs` of a box in degrees, 21 points a side; west > east crosses 180 degrees.

    Raises
    ------
    InputError
        If no point of the outline has a place in the CRS.
    """
    west, south, east, north = bbox
    lon, lat = box_outline((west, south, east if east >= west else east + 360.0, north))
    x, y = transform("EPSG:4326", crs, lon, lat)
    ok = np.isfinite(x) & np.isfinite(y)
    if not ok.any():
        raise InputError(f"bbox {bbox} has no place in {crs}: choose another crs")
    x, y = x[ok], y[ok]
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def lonlat_box(bounds: tuple[float, float, float, float], crs: str) -> tuple[float, float, float, float]:
    """Box in degrees around the outline of `bounds`; west > east if it crosses 180 degrees."""
    lon, lat = transform(crs, "EPSG:4326", *box_outline(bounds))
    ok = np.isfinite(lon) & np.isfinite(lat)
    if not ok.any():
        raise InputError(f"the grid {bounds} in {crs} has no place on the globe")
    lon, lat = lon[ok], lat[ok]
    west, east = float(lon.min()), float(lon.max())
    if east - west > 180.0:  # the outline jumps from +180 to -180
        west, east = float(lon[lon > 0].min()), float(lon[lon <= 0].max())
    return west, float(lat.min()), east, float(lat.max())
