"""CRS parsing and exact transformations, by PROJ."""

from __future__ import annotations

import math
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
    """Transformer between two CRS, x before y; one per thread, because PROJ's are not shared.

    Raises
    ------
    InputError
        If PROJ knows no way from one to the other.
    """
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    cache: dict[tuple[str, str], Transformer] = _local.__dict__.setdefault("transformers", {})
    key = (src, dst)
    if key not in cache:
        try:
            cache[key] = Transformer.from_crs(parse_crs(src), parse_crs(dst), always_xy=True)
        except ProjError as exc:  # the CRS of a drawing, say
            raise InputError(f"PROJ knows no way from {src[:80]!r} to {dst[:80]!r}") from exc
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


@lru_cache(maxsize=256)
def full_turn(text: str) -> float | None:
    """What longitudes repeat after, in the units of a geographic CRS (360 degrees); ``None`` for others."""
    crs = parse_crs(text)
    return 2 * math.pi / float(crs.axis_info[0].unit_conversion_factor) if crs.is_geographic else None


def unwrapped(lon: NDArray[np.float64], turn: float = 360.0) -> NDArray[np.float64]:
    """Longitudes along a line, without its jumps by `turn`; equal ones stay equal to the bit."""
    turns = np.cumsum(np.rint(np.diff(lon, prepend=lon[:1]) / turn))
    return lon - turn * turns


def box_outline(
    bounds: tuple[float, float, float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """21 points along each side of a box, anticlockwise from the upper left corner."""
    x0, y0, x1, y1 = bounds
    t = np.arange(EDGE_POINTS) / (EDGE_POINTS - 1)
    along_x, along_y = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
    full = np.ones(EDGE_POINTS)
    return (
        np.concatenate([x0 * full, along_x, x1 * full, along_x[::-1]]),
        np.concatenate([along_y[::-1], y0 * full, along_y, y1 * full]),
    )


def project_bounds(bbox: tuple[float, float, float, float], crs: str) -> tuple[float, float, float, float]:
    """Bounds in `crs` of a box in degrees, 21 points a side; west > east crosses 180 degrees.

    Raises
    ------
    InputError
        If `crs` is no map projection nor geographic, no point of the outline has a place in it, or the
        box crosses 180 degrees where it is torn.
    """
    plane = parse_crs(crs)
    if not (plane.is_projected or plane.is_geographic):
        raise InputError(f"{crs[:80]} has no plane for a grid: choose a projected or geographic CRS")
    west, south, east, north = bbox
    lon, lat = box_outline((west, south, east if east >= west else east + 360.0, north))
    x, y = transform("EPSG:4326", crs, lon, lat)
    ok = np.isfinite(x) & np.isfinite(y)
    if not ok.any():
        raise InputError(f"bbox {bbox} has no place in {crs}: choose another crs")
    x, y, turn = x[ok], y[ok], full_turn(crs)
    if turn is not None:
        x = unwrapped(x, turn)
    elif west > east and len(x) > 1 and np.abs(np.diff(x)).max() > (x.max() - x.min()) / 2:
        raise InputError(
            f"bbox {bbox} crosses 180 degrees, where {crs[:80]} is torn: choose another crs, or leave it out"
        )
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def lonlat_box(bounds: tuple[float, float, float, float], crs: str) -> tuple[float, float, float, float]:
    """Box in degrees, within -180..180, around `bounds`; west > east if it crosses 180 degrees.

    Around a pole it holds all longitudes.
    """
    lon, lat = transform(crs, "EPSG:4326", *box_outline(bounds))
    ok = np.isfinite(lon) & np.isfinite(lat)
    if not ok.any():
        raise InputError(f"the grid {bounds} in {crs} has no place on the globe")
    lon, lat = unwrapped(lon[ok]), lat[ok]
    west, south, east, north = float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())
    poles = [pole for pole in (-90.0, 90.0) if _holds_pole(bounds, crs, pole)]
    if poles or east - west >= 360.0:
        return -180.0, min([south, *poles]), 180.0, max([north, *poles])
    return _wrapped(west), south, _wrapped(east), north


def _holds_pole(bounds: tuple[float, float, float, float], crs: str, latitude: float) -> bool:
    x0, y0, x1, y1 = bounds
    (x,), (y,) = transform("EPSG:4326", crs, np.zeros(1), np.full(1, latitude))
    return bool(x0 < x < x1 and y0 < y < y1)


def _wrapped(lon: float) -> float:
    return lon if -180.0 <= lon <= 180.0 else (lon + 180.0) % 360.0 - 180.0
