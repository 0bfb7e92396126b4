"""When an item was sensed, and by which pass: what tells two observations from one listed twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bestpixel_gpu.catalog.hrefs import SkipItem
from bestpixel_gpu.catalog.providers import Family

Item = Mapping[str, Any]

_STAMP = re.compile(r"\d{8}T\d{6}")
_HLS = re.compile(r"HLS\.(?P<product>[LS]30)\.T\w{5}\.(?P<time>\d{7}T\d{6})\.v")
_MCD43 = re.compile(r"MCD43A\d\.A(?P<day>\d{7})\.h\d\dv\d\d(\.\d{3}(\.(?P<made>\d{13}))?)?")
_LANDSAT = re.compile(r"(?P<sensor>L[A-Z]\d\d)_L2S[PR]_\d{6}_(?P<day>\d{8})_(\d{8}_)?\d\d_\w\w")


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Time and pass of an item."""

    when: datetime
    """Sensing time, UTC; of a MODIS product the day it describes."""
    datatake: str
    """Name of the pass, the same in every processing of it; ``""`` if unknown."""
    strip_start: datetime | None
    """When the part of the pass that the item shows began, within a few seconds."""
    generated: str
    """Processing time; later ones sort behind."""


def acquisition_of(item: Item, family: Family) -> Acquisition:
    """Time and pass of an item, from its properties and, where these say less, its id.

    Raises
    ------
    SkipItem
        If nothing tells its time.
    """
    properties, ident = item["properties"], str(item.get("id") or "")
    generated = str(properties.get("s2:generation_time") or properties.get("created") or "")
    if family == "mcd43" and (found := _MCD43.match(ident)):
        # The item's own times are those of the days around, from which the product was made.
        day = datetime.strptime(found["day"], "%Y%j").replace(tzinfo=UTC)
        return Acquisition(day, f"A{found['day']}", day, found["made"] or generated)
    when = _sensing_time(properties)
    if family == "hls" and (found := _HLS.match(ident)):
        start = datetime.strptime(found["time"], "%Y%jT%H%M%S").replace(tzinfo=UTC)
        return Acquisition(when, f"HLS.{found['product']}", start, generated)
    if family == "landsat" and (found := _LANDSAT.match(ident)):
        generated = str(properties.get("landsat:product_generated") or generated)
        return Acquisition(when, f"{found['sensor']}_{found['day']}", when, generated)
    return Acquisition(when, _datatake(item), _strip_start(properties), generated)


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
    """Sentinel-2's datatake without the baseline; from the product name where no field tells it."""
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
