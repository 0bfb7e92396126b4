"""How many DN a scene's files carry on top of reflectance x 10000, decided from its metadata.

Since processing baseline 04.00 ESA's products hold DN + 1000. The baseline decides, never the
date: reprocessed scenes of 2015 hold the offset too. Some archives took it off again.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bestpixel_gpu.catalog.providers import CollectionProfile
from bestpixel_gpu.catalog.scene import OffsetDecision
from bestpixel_gpu.errors import InputError

Item = Mapping[str, Any]
Override = int | Mapping[str, int] | Callable[[Any], int | None] | None

OFFSET_DN = 1000
FIRST_WITH_OFFSET = 4.0
_BASELINE = re.compile(r"N?(\d{2})\.?(\d{2})")
_IN_NAME = re.compile(r"_N(\d{2})\.?(\d{2})(?=[_.]|$)")


def decide_offset(item: Item, profile: CollectionProfile, override: Override = None) -> OffsetDecision:
    """DN to subtract from a scene's samples, and why.

    Parameters
    ----------
    item
        Raw STAC item.
    profile
        What is known of its collection.
    override : int, mapping id -> int, or callable(item) -> int or None
        The caller's word, which comes first. ``None``, or nothing for this item: the metadata decide.

    Raises
    ------
    InputError
        If `override` yields no whole number within int16.
    """
    own = _overridden(item, override)
    if own is not None:
        return OffsetDecision(own, "offset= of the caller")
    if profile.offset_rule == "none":
        return OffsetDecision(0, "no offset in this collection")
    if profile.offset_rule == "always-1000":
        return OffsetDecision(OFFSET_DN, "always 1000 in this collection")
    if profile.offset_rule == "harmonised-0":
        return _harmonised(item)
    found = find_baseline(item)
    if found is not None:
        baseline, source = found
        dn, sign = (OFFSET_DN, ">=") if baseline >= FIRST_WITH_OFFSET else (0, "<")
        return OffsetDecision(dn, f"baseline {baseline:05.2f}{source} {sign} 04.00")
    if profile.trust_raster_offset and (raster := _raster_offset(item, profile)) is not None:
        dn, offset = raster
        return OffsetDecision(dn, f"raster:bands.offset {offset:g}")
    return OffsetDecision(0, "no baseline found: 0 assumed", certain=False)


def find_baseline(item: Item) -> tuple[float, str] | None:
    """Processing baseline and where it was read (empty: its own field); ``None`` if unknown."""
    properties = item.get("properties") or {}
    for name in ("s2:processing_baseline", "sentinel:processing_baseline"):
        value = _number(properties.get(name))
        if value is not None:
            return value, ""
    names = {
        "product name": (properties.get("s2:product_uri"), properties.get("sentinel:product_id")),
        "item id": (item.get("id"),),
        "datatake id": (properties.get("s2:datatake_id"),),
    }
    for source, texts in names.items():
        for text in texts:
            match = _IN_NAME.search(text) if isinstance(text, str) else None
            if match:
                return float(f"{match[1]}.{match[2]}"), f" ({source})"
    return None


def _number(value: Any) -> float | None:
    """A baseline written as ``"05.11"``, ``"N0511"`` or a number."""
    if isinstance(value, str):
        match = _BASELINE.fullmatch(value.strip())
        if match:
            return float(f"{match[1]}.{match[2]}")
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _harmonised(item: Item) -> OffsetDecision:
    """The provider took the offset off; its flag is wrong often enough to be doubted, not believed."""
    properties = item.get("properties") or {}
    flags = (properties.get(f"{s}:boa_offset_applied") for s in ("earthsearch", "sentinel"))
    found = find_baseline(item)
    if False in flags and found is not None and found[0] >= FIRST_WITH_OFFSET:
        reason = f"harmonised by the provider, though the flag of baseline {found[0]:05.2f} denies it"
        return OffsetDecision(0, reason, certain=False)
    return OffsetDecision(0, "harmonised by the provider")


def _overridden(item: Item, override: Override) -> int | None:
    if override is None:
        return None
    ident = item.get("id")
    if isinstance(override, Mapping):
        value = override.get(str(ident))
    else:
        value = override(item) if callable(override) else override
    if value is None:
        return None
    try:
        dn = operator.index(value)
    except TypeError:
        raise InputError(f"offset for item {ident} must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or not -32768 <= dn <= 32767:
        raise InputError(f"offset for item {ident} must be within -32768..32767, got {value!r}")
    return dn


def _raster_offset(item: Item, profile: CollectionProfile) -> tuple[int, float] | None:
    """(DN, offset in reflectance) that the item's raster metadata state for the first band that has any."""
    assets = item.get("assets") or {}
    keys = {k for name, key in profile.bands.items() for k in (key, *profile.alternatives.get(name, ()))}
    for key, asset in assets.items():
        if key not in keys and key.upper() not in keys and key.lower() not in keys:
            continue
        for band in _raster_bands(asset):
            offset, scale = _number(band.get("offset")), _number(band.get("scale"))
            if offset is not None:
                return round(-offset / (scale or 1e-4)), offset
    return None


def _raster_bands(asset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Raster metadata of an asset's bands, in the words of raster extension 1 or 2."""
    yield from asset.get("raster:bands") or ()
    for band in (*(asset.get("bands") or ()), asset):
        yield {"offset": band.get("raster:offset"), "scale": band.get("raster:scale")}
