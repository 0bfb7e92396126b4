"""The table of archives: where to search, which asset is which band, what its numbers mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import InputError

MaskKind = Literal["scl"]
OffsetRule = Literal["baseline", "always-1000", "harmonised-0"]

UNUSABLE = 65535
"""Score of a class that makes no observation."""

BAND_KEYS = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "swir16": "B11",
    "swir22": "B12",
}
"""Canonical band names, in their order, and the numbers that Sentinel-2 gives them."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassRules:
    """What each class value of a mask is worth.

    Attributes
    ----------
    scores : uint16, (65536,)
        Lower is better; 65535 is unusable.
    clear : bool, (65536,)
        Counts as clear in statistics.
    nodata : int
        The class that observed nothing.
    """

    scores: NDArray[np.uint16]
    clear: NDArray[np.bool_]
    nodata: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollectionProfile:
    """One collection: asset keys, class mask, validity and radiometry of its files.

    A profile equals itself only, so that it can be a key of caches.
    """

    collection: str
    """Collection id in the catalogue."""
    bands: Mapping[str, str]
    """Canonical band name -> asset key, in canonical order."""
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Canonical band name -> other keys (or ``eo:bands`` names) it goes by."""
    masks: tuple[str, ...]
    """Keys of the mask asset, the usual one first."""
    mask_kind: MaskKind = "scl"
    mask_nodata: int = 0
    """Class that observed nothing."""
    mask_grow: int = 0
    """Mask pixels around `mask_nodata` that are unusable too."""
    mask_overviews: bool = False
    """Classes survive in overviews (proven nearest); else masks are read at full resolution."""
    valid_lo: int = 1
    valid_hi: int = 32767
    """Valid samples are within ``valid_lo .. valid_hi``."""
    ignore_nodata_tag: bool = False
    """The files' nodata value is a valid sample: fill is told by the mask alone."""
    band_nodata: int = 0
    """Fill of the bands where a file carries no tag."""
    mul: int = 1
    add: int = 0
    div: int = 1
    """Value = (mul sample + add) / div, after the offset."""
    offset_rule: OffsetRule = "baseline"
    trust_raster_offset: bool = True
    """Whether ``raster:bands.offset`` tells the truth where there is no baseline."""
    href_mark: str = ""
    """Part of an address that only this archive's files have."""

    @property
    def class_rules(self) -> ClassRules:
        """Scores of the mask's class values."""
        return _class_rules(self.mask_kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A catalogue to search, and how to speak to it."""

    name: str
    aliases: tuple[str, ...] = ()
    root: str
    """Root of the STAC API; the search is at ``{root}/search``."""
    collections: tuple[CollectionProfile, ...]
    cloud_filter: bool = True
    """Items carry ``eo:cloud_cover``, so the server can filter by it."""
    signed: bool = False
    """Files need a token."""
    page_limit: int
    """Items asked for per page."""


def scl_scores() -> dict[int, tuple[int | None, bool, bool]]:
    """Sentinel-2 scene classes: class -> (score, ``None`` if unusable; clear; nodata).

    0 no data, 1 saturated or defective, 2 dark or in topographic shadow, 3 cloud shadow,
    4 vegetation, 5 not vegetated, 6 water, 7 unclassified, 8 and 9 cloud of medium and high
    probability, 10 thin cirrus, 11 snow or ice.
    """
    table: dict[int, tuple[int | None, bool, bool]] = {c: (None, False, c == 0) for c in range(12)}
    table |= dict.fromkeys((4, 5, 6, 11), (0, True, False))
    table |= dict.fromkeys((7,), (1, False, False))
    table |= dict.fromkeys((2, 3), (2, False, False))
    return table


_SCORES = {"scl": scl_scores}


@cache
def _class_rules(kind: MaskKind) -> ClassRules:
    scores = np.full(65536, UNUSABLE, np.uint16)
    clear = np.zeros(65536, bool)
    nodata = 0
    for value, (score, is_clear, is_nodata) in _SCORES[kind]().items():
        if score is not None:
            scores[value] = score
        clear[value] = is_clear
        if is_nodata:
            nodata = value
    scores.setflags(write=False)
    clear.setflags(write=False)
    return ClassRules(scores, clear, nodata)


PC_S2 = CollectionProfile(
    collection="sentinel-2-l2a", bands=BAND_KEYS, masks=("SCL",), href_mark="/sentinel2-l2/"
)

ES_C1 = CollectionProfile(
    collection="sentinel-2-c1-l2a",
    bands={name: name for name in BAND_KEYS},
    alternatives={name: (key,) for name, key in BAND_KEYS.items()},
    masks=("scl",),
    offset_rule="always-1000",
    href_mark="/sentinel-2-c1-l2a/",
)

# These files hold max(DN - 1000, 0): 0 is dark ground as well as fill, and beyond 32767 the
# subtraction has wrapped. Only the mask tells fill from ground; it is 2 x coarser, so it grows.
ES_S2 = replace(
    ES_C1,
    collection="sentinel-2-l2a",
    valid_lo=0,
    ignore_nodata_tag=True,
    mask_grow=5,
    offset_rule="harmonised-0",
    trust_raster_offset=False,
    href_mark="/sentinel-s2-l2a-cogs/",
)

ES_V0 = replace(ES_S2, collection="sentinel-s2-l2a-cogs", bands=BAND_KEYS, alternatives={}, masks=("SCL",))
"""The same files as :data:`ES_S2` under the keys of the retired API; for items given by the caller."""

PROFILES = (PC_S2, ES_S2, ES_C1, ES_V0)
UNKNOWN_PROFILES = (PC_S2, replace(ES_C1, collection="", offset_rule="baseline", href_mark=""))
"""For collections that no profile names: their keys fit, their radiometry is told by the item."""

ENDPOINTS = (
    Endpoint(
        name="pc",
        aliases=("planetary-computer", "planetary_computer"),
        root="https://planetarycomputer.microsoft.com/api/stac/v1",
        collections=(PC_S2,),
        signed=True,
        page_limit=250,
    ),
    Endpoint(
        name="earth-search",
        aliases=("es", "element84"),
        root="https://earth-search.aws.element84.com/v1",
        collections=(ES_S2,),
        page_limit=50,  # answers beyond about 6 MB fail with 502
    ),
    Endpoint(
        name="earth-search-c1",
        root="https://earth-search.aws.element84.com/v1",
        collections=(ES_C1,),
        page_limit=50,
    ),
)
_LATER = ("hls", "hls2", "hls-l30-s30", "mcd43a4", "modis-43a4", "modis-43A4-061", "modis43a4", "landsat")


def resolve_endpoint(name: str) -> Endpoint:
    """Endpoint of a name or alias; ``"auto"`` is Earth Search on AWS in the USA, else the Planetary Computer.

    Raises
    ------
    InputError
        If there is no such endpoint; the message lists them.
    """
    if name == "auto":
        name = "earth-search" if os.environ.get("AWS_REGION", "").startswith("us-") else "pc"
    for endpoint in ENDPOINTS:
        if name == endpoint.name or name in endpoint.aliases:
            return endpoint
    known = ", ".join(repr(n) for n in ("auto", *_names(ENDPOINTS)))
    why = "is not in this version" if name in _LATER else "is not known"
    raise InputError(f"endpoint {name!r} {why}: choose from {known}")


def _names(endpoints: Iterable[Endpoint]) -> list[str]:
    return [n for e in endpoints for n in (e.name, *e.aliases)]
