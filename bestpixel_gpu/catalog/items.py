"""STAC items as scenes: files, place, time and radiometry of one observation."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bestpixel_gpu.catalog.hrefs import SkipItem, absolute_href, check_href, check_readable
from bestpixel_gpu.catalog.providers import PROFILES, UNKNOWN_PROFILES, CollectionProfile, Endpoint
from bestpixel_gpu.catalog.radiometry import Override, decide_offset, find_baseline
from bestpixel_gpu.catalog.scene import AssetRef, Scene
from bestpixel_gpu.catalog.signing import needs_token
from bestpixel_gpu.errors import InputError

__all__ = ["SkipItem", "check_href", "item_dicts", "profile_of", "scene_of", "tile_code"]

Item = Mapping[str, Any]

_MGRS = re.compile(r"T?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})")
_SINUSOIDAL = re.compile(r"h\d{2}v\d{2}")
_STAMP = re.compile(r"\d{8}T\d{6}")


def item_dicts(items: Any) -> list[dict[str, Any]]:
    """Raw item dicts of whatever holds items.

    Parameters
    ----------
    items
        pystac Item or ItemCollection, pystac-client ItemSearch, GeoJSON Feature or
        FeatureCollection, or an iterable of such.

    Raises
    ------
    InputError
        If something in it is no item.
    """
    if isinstance(items, Mapping):
        if items.get("type") == "FeatureCollection":
            return item_dicts(items.get("features") or [])
        if "assets" not in items or not isinstance(items.get("properties"), Mapping):
            raise InputError(f"items: expected a STAC item, got a mapping with {', '.join(map(str, items))}")
        return [dict(items)]
    if hasattr(items, "items_as_dicts"):  # a search of pystac-client, not yet run
        return item_dicts(items.items_as_dicts())
    if hasattr(items, "to_dict") and hasattr(items, "assets"):
        # transform_hrefs=True would walk to the root catalogue, over the network if need be
        return [items.to_dict(transform_hrefs=False)]
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Iterable):
        raise InputError(
            f"items must be pystac items, item dicts or an ItemCollection, got {type(items).__name__}"
        )
    return [one for part in items for one in item_dicts(part)]


def scene_of(
    item: Item,
    profiles: Endpoint | Sequence[CollectionProfile],
    bands: Sequence[str],
    *,
    offset_override: Override = None,
    base: str | os.PathLike[str] | None = None,
    catalog_root: str | None = None,
) -> Scene:
    """One item as a scene.

    Parameters
    ----------
    item
        Raw item.
    profiles
        Profiles to look at first.
    bands
        Canonical names of the bands that the scene must have.
    offset_override
        As for :func:`~bestpixel_gpu.catalog.radiometry.decide_offset`.
    base
        Address that relative hrefs start from, for items without an absolute self link.
    catalog_root
        Root of the catalogue whose search found the item, whose hrefs are then not trusted to lead
        into this machine; ``None`` for the caller's own items.

    Raises
    ------
    SkipItem
        If the item cannot be a candidate.
    InputError
        If a relative href of the caller's own item cannot be resolved, or `offset_override` is no offset.
    """
    if not isinstance(item.get("assets"), Mapping) or not isinstance(item.get("properties"), Mapping):
        raise SkipItem("it has no assets or no properties")
    profile = profile_of(item, profiles.collections if isinstance(profiles, Endpoint) else profiles)
    files = {name: _asset_ref(item, _find_asset(item, profile, name), base, catalog_root) for name in bands}
    mask = _asset_ref(item, _find_mask(item, profile), base, catalog_root)
    properties = item["properties"]
    baseline = find_baseline(item)
    tile = tile_code(item)
    return Scene(
        id=str(item.get("id")),
        collection=str(item.get("collection") or ""),
        profile=profile,
        when=_sensing_time(properties),
        platform=str(properties.get("platform") or "").lower(),
        tile=tile,
        cloud_cover=_percent(properties.get("eo:cloud_cover")),
        bands=files,
        mask=mask,
        crs=_crs_text(item["assets"][mask.key], properties, tile),
        outline=_outline(item.get("geometry")),
        offset=decide_offset(item, profile, offset_override),
        baseline="" if baseline is None else f"{baseline[0]:05.2f}",
        generated=str(properties.get("s2:generation_time") or properties.get("created") or ""),
        datatake=_datatake(item),
        strip_start=_strip_start(properties),
        signed=any(needs_token(f.href) for f in (*files.values(), mask)),
    )


# ---- which collection ----


def profile_of(item: Item, profiles: Sequence[CollectionProfile]) -> CollectionProfile:
    """The profile that tells what the item's assets are.

    That of its collection, whichever archive has it under these keys; for an unknown collection
    the archive that its files come from, else the keys that fit.

    Raises
    ------
    SkipItem
        If none fits.
    """
    collection, assets = item.get("collection"), item.get("assets") or {}
    named = [p for p in (*profiles, *PROFILES) if p.collection == collection]
    for profile in named:
        if _fits(profile, assets):
            return profile
    if named:
        return named[0]
    fitting = [p for p in PROFILES if _fits(p, assets)]
    for profile in fitting:
        if profile.href_mark in _mask_href(profile, assets):
            return profile
    for profile in UNKNOWN_PROFILES:
        if _fits(profile, assets):
            return profile
    raise SkipItem(
        f"collection {collection!r} is not in this version and its asset keys fit no known one "
        "(Sentinel-2 L2A: B02.. and SCL, or blue.. and scl)"
    )


def _mask_href(profile: CollectionProfile, assets: Item) -> str:
    return next(str(a.get("href")) for k in profile.masks if (a := _lookup(assets, k)[1]))


def _fits(profile: CollectionProfile, assets: Item) -> bool:
    has_mask = any(_lookup(assets, k)[0] for k in profile.masks)
    return has_mask and any(_lookup(assets, k)[0] for k in profile.bands.values())


# ---- assets ----


def _lookup(assets: Item, key: str) -> tuple[str, Item]:
    """Key and asset of a name in whichever case; ``("", {})`` if there is none."""
    for spelling in (key, key.upper(), key.lower()):
        if isinstance(assets.get(spelling), Mapping):
            return spelling, assets[spelling]
    return "", {}


def _find_asset(item: Item, profile: CollectionProfile, band: str) -> str:
    """Asset key of a band."""
    assets = item["assets"]
    if band not in profile.bands:
        raise SkipItem(f"no band {band} in {profile.collection or 'its collection'}")
    names = (profile.bands[band], *profile.alternatives.get(band, ()))
    for name in names:
        if key := _lookup(assets, name)[0]:
            return key
    named: list[str] = [k for k, a in assets.items() if _band_name(a) in names]
    if len(named) == 1:
        return named[0]
    raise SkipItem(f"asset {names[0]} ({band}) is missing")


def _band_name(asset: Item) -> str:
    """Name of an asset's only band; empty for several (a picture) or none."""
    bands = asset.get("eo:bands") or asset.get("bands") or []
    return str(bands[0].get("name", "")) if len(bands) == 1 else ""


def _find_mask(item: Item, profile: CollectionProfile) -> str:
    for name in profile.masks:
        if key := _lookup(item["assets"], name)[0]:
            return key
    raise SkipItem(f"mask asset {profile.masks[0]} is missing")


def _asset_ref(
    item: Item, key: str, base: str | os.PathLike[str] | None, catalog_root: str | None
) -> AssetRef:
    asset = item["assets"][key]
    href = asset.get("href")
    if not isinstance(href, str) or not href:
        raise SkipItem(f"asset {key} has no href")
    check_readable(key, asset, href)
    try:
        href = absolute_href(href, item, base)
    except InputError:
        if catalog_root is None:
            raise
        raise SkipItem(f"asset {key} has a relative href") from None
    if catalog_root is not None:
        check_href(href, catalog_root)
    properties = item["properties"]
    shape = _numbers(asset.get("proj:shape", properties.get("proj:shape")), 2)
    transform = _numbers(asset.get("proj:transform", properties.get("proj:transform")), 6)
    return AssetRef(
        href,
        key=key,
        shape=None if shape is None else (int(shape[0]), int(shape[1])),
        transform=transform,  # type: ignore[arg-type]
    )


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """The first `count` numbers of a list; ``None`` if it is none. Transforms come with six or nine."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < count:
        return None
    try:
        return tuple(float(v) for v in value[:count])
    except (TypeError, ValueError):
        return None


# ---- time and acquisition ----


def _sensing_time(properties: Item) -> datetime:
    for name in ("datetime", "start_datetime"):
        when = _time(properties.get(name))
        if when is not None:
            return when
    raise SkipItem("it has neither datetime nor start_datetime")


def _time(text: Any) -> datetime | None:
    """Aware UTC time of RFC 3339 text; ``None`` if it is none."""
    if isinstance(text, datetime):
        when = text
    else:
        try:
            when = datetime.fromisoformat(str(text))
        except ValueError:
            return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _datatake(item: Item) -> str:
    """Datatake without the baseline; from the product name where the item has no such field."""
    properties = item["properties"]
    datatake = str(properties.get("s2:datatake_id") or "").partition("_N")[0]
    if datatake:
        return datatake
    for name in (properties.get("s2:product_uri"), properties.get("sentinel:product_id"), item.get("id")):
        parts = str(name or "").split("_")
        if len(parts) > 2 and parts[1].startswith("MSIL") and _STAMP.fullmatch(parts[2]):
            return f"G{parts[0]}_{parts[2]}"
    return ""


def _strip_start(properties: Item) -> datetime | None:
    match = re.search(rf"_S({_STAMP.pattern})_", str(properties.get("s2:datastrip_id") or ""))
    return _time(match[1]) if match else None


def _percent(value: Any) -> float | None:
    try:
        percent = float(value)
    except (TypeError, ValueError):
        return None
    return percent if math.isfinite(percent) else None


# ---- place ----


def tile_code(item: Item) -> str:
    """MGRS tile like ``31TCJ`` (or MODIS tile like ``h18v04``); empty if unknown."""
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
    return next((code for t in texts if (code := _tile(str(t or "")))), "")


def _joined_code(properties: Item, prefix: str) -> str:
    parts = (properties.get(f"{prefix}:{k}") for k in ("utm_zone", "latitude_band", "grid_square"))
    return "".join("" if p is None else str(p) for p in parts)


def _tile(text: str) -> str:
    match = _MGRS.fullmatch(text)
    if match and 1 <= int(match[1]) <= 60:
        return f"{int(match[1]):02d}{match[2]}{match[3]}"
    return text if _SINUSOIDAL.fullmatch(text) else ""


def _crs_text(asset: Item, properties: Item, tile: str) -> str | None:
    """CRS of an asset: its own, else the item's, else the UTM zone of the tile."""
    for source in (asset, properties):
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
    if _MGRS.fullmatch(tile):
        return f"EPSG:{(32600 if tile[2] >= 'N' else 32700) + int(tile[:2])}"
    return None


def _outline(geometry: Any) -> tuple[tuple[float, float], ...]:
    """Outer ring of a polygon, of the first of several; as the ancestor sees footprints."""
    if not isinstance(geometry, Mapping):
        return ()
    parts = geometry.get("coordinates") or ()
    if geometry.get("type") == "MultiPolygon":
        parts = parts[0] if parts else ()
    elif geometry.get("type") != "Polygon":
        return ()
    return tuple((float(p[0]), float(p[1])) for p in parts[0]) if parts else ()
