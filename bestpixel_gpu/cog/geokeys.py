"""GeoKeys to a CRS: an EPSG code where the file has one, else a PROJ string.

Numbers and names of the keys: OGC GeoTIFF 1.1 (19-008r4), annex B and clause 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Value = int | float | str | tuple[float, ...]

MODEL_TYPE, RASTER_TYPE, CITATION = 1024, 1025, 1026
GEODETIC_CRS, DATUM, PRIME_MERIDIAN, ANGULAR_UNITS = 2048, 2050, 2051, 2054
ELLIPSOID, SEMI_MAJOR, SEMI_MINOR, INVERSE_FLATTENING = 2056, 2057, 2058, 2059
PRIME_MERIDIAN_LONGITUDE, TO_WGS84 = 2061, 2062
PROJECTED_CRS, PROJECTION, METHOD, LINEAR_UNITS, LINEAR_UNIT_SIZE = 3072, 3074, 3075, 3076, 3077
USER_DEFINED = 32767

_SCALAR_PARAMETERS = {
    "lat_1": (3078,),
    "lat_2": (3079,),
    "lon_0": (3080, 3084, 3088),  # natural origin, false origin, centre
    "lat_0": (3081, 3085, 3089),
    "k_0": (3092, 3093),
}
_FALSE_EASTING, _FALSE_NORTHING = (3082, 3086, 3090), (3083, 3087, 3091)
_POLE_LONGITUDE = 3095

_METHODS = {
    1: "tmerc lat_0 lon_0 k_0",
    7: "merc lon_0",
    8: "lcc lat_1 lat_2 lat_0 lon_0",
    9: "lcc lat_0 lon_0 k_0",
    10: "laea lat_0 lon_0",
    11: "aea lat_1 lat_2 lat_0 lon_0",
    12: "aeqd lat_0 lon_0",
    15: "stere",
    16: "sterea lat_0 lon_0 k_0",
    17: "eqc lat_0 lon_0",
    24: "sinu lon_0",
    28: "cea lon_0",
}
"""PROJ's name and parameters of each coordinate transformation method."""
_METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937, 9036: 1000.0}
_DATUMS = {
    6326: "+datum=WGS84", 6269: "+datum=NAD83", 6267: "+datum=NAD27",
    6258: "+ellps=GRS80", 6283: "+ellps=GRS80", 6001: "+ellps=airy", 6004: "+ellps=bessel",
    6008: "+ellps=clrk66", 6012: "+ellps=clrk80", 6019: "+ellps=GRS80", 6022: "+ellps=intl",
    6024: "+ellps=krass", 6030: "+ellps=WGS84",
}  # fmt: skip
"""Datums that PROJ strings can name, and those that are only an ellipsoid (code - 6000 + 7000)."""
_ELLIPSOIDS = {
    7001: "airy", 7004: "bessel", 7008: "clrk66", 7012: "clrk80", 7019: "GRS80",
    7022: "intl", 7024: "krass", 7030: "WGS84", 7043: "WGS72",
}  # fmt: skip


def crs_of(directory: Sequence[int], doubles: Sequence[float], ascii_params: str) -> str | None:
    """``"EPSG:n"`` or a PROJ string, ``None`` where the keys name no CRS that either can hold.

    Parameters
    ----------
    directory : sequence of int
        GeoKeyDirectoryTag: header of four, then four numbers a key. May be cut short.
    doubles : sequence of float
        GeoDoubleParamsTag.
    ascii_params : str
        GeoAsciiParamsTag.
    """
    keys = read_keys(directory, doubles, ascii_params)
    model = keys.get(MODEL_TYPE)
    if model == 1 or (model != 2 and PROJECTED_CRS in keys):
        return _code(keys.get(PROJECTED_CRS)) or _projected(keys)
    if model == 2 or (model is None and GEODETIC_CRS in keys):
        return _code(keys.get(GEODETIC_CRS)) or _geographic(keys)
    return None


def is_pixel_point(directory: Sequence[int]) -> bool:
    """Whether coordinates mean pixel centres (GTRasterType 2) instead of corners."""
    return read_keys(directory, (), "").get(RASTER_TYPE) == 2


def read_keys(directory: Sequence[int], doubles: Sequence[float], ascii_params: str) -> dict[int, Value]:
    """Value of each key that the directory really holds, whatever number it declares."""
    keys: dict[int, Value] = {}
    if len(directory) < 4:
        return keys
    for at in range(4, min(4 + 4 * directory[3], len(directory) - 3), 4):
        key, where, count, value = directory[at : at + 4]
        if where == 0:
            keys[key] = value
        elif where == 34736 and count == 1 and value < len(doubles):
            keys[key] = doubles[value]
        elif where == 34736 and value + count <= len(doubles):
            keys[key] = tuple(doubles[value : value + count])
        elif where == 34737:
            keys[key] = ascii_params[value : value + count].rstrip("|\0")
    return keys


def _code(value: Value | None) -> str | None:
    return f"EPSG:{value}" if isinstance(value, int) and 1024 <= value < USER_DEFINED else None


def _number(keys: dict[int, Value], *names: int) -> float | None:
    """First of these keys that holds a finite number."""
    for name in names:
        value = keys.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return None


def _geographic(keys: dict[int, Value]) -> str | None:
    frame = _frame(keys)
    return f"+proj=longlat {frame} +no_defs" if frame else None


def _projected(keys: dict[int, Value]) -> str | None:
    """PROJ string of a user-defined projection."""
    frame, metres, projection = _frame(keys), _unit(keys), _projection(keys)
    if frame is None or metres is None or projection is None:
        return None
    easting = (_number(keys, *_FALSE_EASTING) or 0.0) * metres
    northing = (_number(keys, *_FALSE_NORTHING) or 0.0) * metres
    shift = "" if projection.startswith("+proj=utm") else f" +x_0={easting!r} +y_0={northing!r}"
    unit = "+units=m" if metres == 1.0 else f"+to_meter={metres!r}"
    return f"{projection}{shift} {frame} {unit} +no_defs"


def _projection(keys: dict[int, Value]) -> str | None:
    zone = keys.get(PROJECTION)
    if isinstance(zone, int) and (16001 <= zone <= 16060 or 16101 <= zone <= 16160):
        return f"+proj=utm +zone={zone % 100}" + (" +south" if zone > 16100 else "")
    method = keys.get(METHOD)
    if not isinstance(method, int) or method not in _METHODS:
        return None
    name, *wanted = _METHODS[method].split()
    values = {p: _number(keys, *_SCALAR_PARAMETERS[p]) for p in wanted}
    if method == 15:
        values = _polar(keys)
    elif method == 9:
        values["lat_1"] = values["lat_0"]
    elif method in (7, 17, 28):
        values["lat_ts"] = _number(keys, 3078)
        if method == 7 and values["lat_ts"] is None:
            values["k_0"] = _number(keys, *_SCALAR_PARAMETERS["k_0"])
    return f"+proj={name}" + "".join(f" +{p}={v!r}" for p, v in values.items() if v is not None)


def _polar(keys: dict[int, Value]) -> dict[str, float | None]:
    """Polar stereographic: a latitude of true scale, or a scale at the pole."""
    latitude = _number(keys, *_SCALAR_PARAMETERS["lat_0"]) or 0.0
    longitude = _number(keys, _POLE_LONGITUDE, *_SCALAR_PARAMETERS["lon_0"])
    values: dict[str, float | None] = {"lat_0": math.copysign(90.0, latitude), "lon_0": longitude}
    if abs(latitude) < 90.0:
        values["lat_ts"] = latitude
    values["k_0"] = _number(keys, *_SCALAR_PARAMETERS["k_0"])
    return values


def _unit(keys: dict[int, Value]) -> float | None:
    """Metres in a unit of the projected coordinates."""
    unit = keys.get(LINEAR_UNITS, 9001)
    if unit == USER_DEFINED:
        size = _number(keys, LINEAR_UNIT_SIZE)
        return size if size is not None and size > 0 else None
    return _METRES.get(unit) if isinstance(unit, int) else None


def _frame(keys: dict[int, Value]) -> str | None:
    """Datum or ellipsoid, shift to WGS 84 and prime meridian, as PROJ spells them."""
    if keys.get(ANGULAR_UNITS, 9102) not in (9102, 9122):
        return None
    body = _body(keys)
    if body is None:
        return None
    shift = keys.get(TO_WGS84)
    if isinstance(shift, tuple) and len(shift) in (3, 7) and all(map(math.isfinite, shift)):
        body += " +towgs84=" + ",".join(repr(float(v)) for v in shift)
    meridian = _number(keys, PRIME_MERIDIAN_LONGITUDE)
    if keys.get(PRIME_MERIDIAN, 8901) not in (8901, USER_DEFINED) and meridian is None:
        return None
    return body + (f" +pm={meridian!r}" if meridian else "")


def _body(keys: dict[int, Value]) -> str | None:
    """Datum by code, else the ellipsoid by its axes or code.

    A datum that a PROJ string cannot name gives ``None``: its ellipsoid alone would lie up to
    hundreds of metres off.
    """
    crs, datum = keys.get(GEODETIC_CRS), keys.get(DATUM)
    if isinstance(crs, int) and 4000 <= crs < USER_DEFINED:
        return _DATUMS.get(crs + 2000)
    if isinstance(datum, int) and datum not in (0, USER_DEFINED):
        return _DATUMS.get(datum)
    a, b, rf = (_number(keys, k) for k in (SEMI_MAJOR, SEMI_MINOR, INVERSE_FLATTENING))
    if a is not None and a > 0:
        if rf is not None and rf > 1:
            return f"+a={a!r} +rf={rf!r}"
        if b is not None and 0 < b <= a:
            return f"+a={a!r} +b={b!r}"
        if rf == 0.0:
            return f"+a={a!r} +b={a!r}"
        return None
    ellipsoid = keys.get(ELLIPSOID)
    name = _ELLIPSOIDS.get(ellipsoid) if isinstance(ellipsoid, int) else None
    return f"+ellps={name}" if name else None
