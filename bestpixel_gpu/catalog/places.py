"""Where an item lies: tile code, CRS, footprint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bestpixel_gpu.geo.crs import SINUSOIDAL

Item = Mapping[str, Any]

_MGRS = re.compile(r"T?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})")
_MODIS = re.compile(r"h\d{2}v\d{2}")
_WRS = re.compile(r"\d{6}")


def tile_code(item: Item) -> str:
    """MGRS tile like ``31TCJ``, MODIS tile like ``h18v04`` or WRS path and row; empty if unknown."""
    properties = item["properties"]
    grid = str(properties.get("grid:code") or "")
    texts = [
        properties.get("s2:mgrs_tile"),
        properties.get("mgrs:tile"),
        grid.removeprefix("MGRS-") if grid.startswith("MGRS-") else "",
        *(_joined_code(properties, prefix) for prefix in ("mgrs", "sentinel")),
    ]
    ident = str(item.get("id") or "")
    if ident.startswith(("S2", "HLS.", "MCD43A")):
        texts += re.split(r"[._]", ident)
    return next((code for t in texts if (code := _tile(str(t or "")))), "") or _wrs(properties, grid)


def _joined_code(properties: Item, prefix: str) -> str:
    parts = (properties.get(f"{prefix}:{k}") for k in ("utm_zone", "latitude_band", "grid_square"))
    return "".join("" if p is None else str(p) for p in parts)


def _tile(text: str) -> str:
    match = _MGRS.fullmatch(text)
    if match and 1 <= int(match[1]) <= 60:
        return f"{int(match[1]):02d}{match[2]}{match[3]}"
    return text if _MODIS.fullmatch(text) else ""


def _wrs(properties: Item, grid: str) -> str:
    """Path and row of a Landsat scene, three digits each."""
    path, row = (str(properties.get(f"landsat:wrs_{k}") or "") for k in ("path", "row"))
    code = f"{path:0>3}{row:0>3}" if path and row else grid.removeprefix("WRS2-")
    return code if _WRS.fullmatch(code) else ""


def crs_of_item(asset: Item, properties: Item, tile: str, *, northern: bool = False) -> str | None:
    """CRS of an asset: its own, else the item's, else that of the tile.

    Parameters
    ----------
    asset, properties
        The asset's and the item's fields.
    tile : str
        As :func:`tile_code` finds it.
    northern : bool
        The file lies in the northern zone of its MGRS tile, whatever the fields say.
    """
    mgrs = _MGRS.fullmatch(tile)
    if mgrs and northern:
        return f"EPSG:{32600 + int(mgrs[1])}"
    for source in (asset, properties):
        if text := _declared(source):
            return text
    if mgrs:
        return f"EPSG:{(32600 if mgrs[2] >= 'N' else 32700) + int(mgrs[1])}"
    return SINUSOIDAL if _MODIS.fullmatch(tile) else None


def _declared(source: Item) -> str | None:
    """CRS that the fields of the projection extension declare, in any of its versions."""
    code = source.get("proj:code") or source.get("proj:epsg")
    text = str(code).upper().removeprefix("EPSG:")
    if text.isdigit() and int(text):
        return f"EPSG:{int(text)}"
    if isinstance(code, str) and ":" in code and not text.endswith("NONE"):
        return code
    wkt, projjson = source.get("proj:wkt2"), source.get("proj:projjson")
    if isinstance(wkt, str) and wkt:
        return wkt
    if projjson:
        return projjson if isinstance(projjson, str) else json.dumps(projjson, sort_keys=True)
    return None


def outline_of(geometry: Any) -> tuple[tuple[float, float], ...]:
    """Outer ring of a polygon, of the first of several; as the ancestor sees footprints."""
    if not isinstance(geometry, Mapping):
        return ()
    parts = geometry.get("coordinates") or ()
    if geometry.get("type") == "MultiPolygon":
        parts = parts[0] if parts else ()
    elif geometry.get("type") != "Polygon":
        return ()
    return tuple((float(p[0]), float(p[1])) for p in parts[0]) if parts else ()
