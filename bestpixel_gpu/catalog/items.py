"""STAC items as scenes: files, place, time and radiometry of one observation."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bestpixel_gpu.catalog.acquisition import acquisition_of
from bestpixel_gpu.catalog.hrefs import SkipItem, absolute_href, check_href, check_readable
from bestpixel_gpu.catalog.places import crs_of_item, outline_of, tile_code
from bestpixel_gpu.catalog.providers import PROFILES, UNKNOWN_PROFILES, CollectionProfile, Endpoint
from bestpixel_gpu.catalog.radiometry import Override, decide_offset, find_baseline
from bestpixel_gpu.catalog.scene import AssetRef, Scene
from bestpixel_gpu.catalog.signing import needs_token
from bestpixel_gpu.errors import InputError

__all__ = ["SkipItem", "check_href", "item_dicts", "profile_of", "scene_of"]

Item = Mapping[str, Any]


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
    band_quality: bool = False,
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
    band_quality
        Whether the quality layers of all `bands` count, where each has its own.
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
    mask, *more = (
        _asset_ref(item, k, base, catalog_root) for k in _masks(item, profile, bands, band_quality)
    )
    properties = item["properties"]
    baseline = find_baseline(item)
    tile = tile_code(item)
    taken = acquisition_of(item, profile.family)
    return Scene(
        id=str(item.get("id")),
        collection=str(item.get("collection") or ""),
        profile=profile,
        when=taken.when,
        platform=str(properties.get("platform") or "").lower(),
        tile=tile,
        cloud_cover=_percent(properties.get("eo:cloud_cover")),
        bands=files,
        mask=mask,
        more_masks=tuple(more),
        crs=crs_of_item(item["assets"][mask.key], properties, tile, northern=profile.northern_zones),
        outline=outline_of(item.get("geometry")),
        offset=decide_offset(item, profile, offset_override),
        baseline="" if baseline is None else f"{baseline[0]:05.2f}",
        generated=taken.generated,
        datatake=taken.datatake,
        strip_start=taken.strip_start,
        signed=any(needs_token(f.href) for f in (*files.values(), mask, *more)),
    )


# ---- which collection ----


def profile_of(item: Item, profiles: Sequence[CollectionProfile]) -> CollectionProfile:
    """The profile that tells what the item's assets are.

    That of its collection whose keys fit, and of several the one whose files have such addresses;
    for an unknown collection the one with such addresses, else the keys that fit.

    Raises
    ------
    SkipItem
        If none fits.
    """
    collection, assets = item.get("collection"), item.get("assets") or {}
    named = [p for p in (*profiles, *PROFILES) if p.collection == collection]
    fitting = [p for p in named or PROFILES if _fits(p, assets)]
    marked = [p for p in fitting if p.href_mark in _mask_href(p, assets)]
    if named:
        return (marked or fitting or named)[0]
    for profile in (*marked, *UNKNOWN_PROFILES):
        if _fits(profile, assets):
            return profile
    raise SkipItem(
        f"collection {collection!r} is not known and its asset keys fit no known one (Sentinel-2 L2A, "
        "HLS, MCD43A4, Landsat C2 L2)"
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


def _masks(item: Item, profile: CollectionProfile, bands: Sequence[str], band_quality: bool) -> list[str]:
    """Keys of the mask, or of the quality layers of all bands."""
    own = [profile.band_masks[b] for b in bands if b in profile.band_masks] if band_quality else []
    if own:
        return [_mask_key(item, (name,)) for name in dict.fromkeys(own)]
    return [_mask_key(item, profile.masks)]


def _mask_key(item: Item, names: Sequence[str]) -> str:
    for name in names:
        if key := _lookup(item["assets"], name)[0]:
            return key
    raise SkipItem(f"mask asset {names[0]} is missing")


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


def _percent(value: Any) -> float | None:
    try:
        percent = float(value)
    except (TypeError, ValueError):
        return None
    return percent if math.isfinite(percent) else None
