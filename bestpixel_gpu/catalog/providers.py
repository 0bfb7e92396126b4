"""The table of archives: where to search, which asset is which band, what its numbers mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from bestpixel_gpu.catalog.classes import ClassRules, MaskKind, class_rules
from bestpixel_gpu.errors import InputError
from bestpixel_gpu.geo.grid import MODIS_PIXEL, Projection

OffsetRule = Literal["baseline", "always-1000", "harmonised-0", "none"]
Family = Literal["sentinel-2", "hls", "mcd43", "landsat"]
"""Whose ids and properties an item has."""

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
    on_request: frozenset[str] = frozenset()
    """Bands that are read only when they are named: few scenes have them, or another name has the file."""
    family: Family = "sentinel-2"
    masks: tuple[str, ...]
    """Keys of the mask asset, the usual one first."""
    mask_kind: MaskKind = "scl"
    mask_nodata: int = 0
    """Class that observed nothing, where a file carries no tag."""
    band_masks: Mapping[str, str] = field(default_factory=dict)
    """Canonical band name -> key of its own quality layer, for ``band_quality=True``."""
    mask_grow: int = 0
    """Mask pixels around `mask_nodata` that are unusable too."""
    mask_overviews: bool = False
    """Classes survive in overviews (proven nearest); else masks are read at full resolution."""
    valid_lo: int = 1
    valid_hi: int = 32767
    """Valid samples are within ``valid_lo .. valid_hi``."""
    ignore_nodata_tag: bool = False
    """The files' nodata value is a valid sample: fill is told by the mask alone."""
    mul: int = 1
    add: int = 0
    div: int = 1
    """Value = (mul sample + add) / div, after the offset."""
    offset_rule: OffsetRule = "baseline"
    trust_raster_offset: bool = True
    """Whether ``raster:bands.offset`` tells the truth where there is no baseline."""
    northern_zones: bool = False
    """Every tile lies in the northern UTM zone of its code, south of the equator too, and what items
    say of their CRS is not to be trusted."""
    href_mark: str = ""
    """Part of an address that only this archive's files have."""

    @property
    def class_rules(self) -> ClassRules:
        """Scores of the mask's class values."""
        return class_rules(self.mask_kind)


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
    projection: Projection = "utm"
    """Of the output with ``output_crs="native"``."""
    pixel: float = 10.0
    """Finest pixel of its bands, in metres."""
    anchor: float = 0.0
    """Where the edges of its pixels lie, in metres beyond multiples of `pixel`; the output's too."""

    @property
    def bands(self) -> tuple[str, ...]:
        """All bands that can be asked for, in canonical order."""
        known = {b for p in self.collections for b in p.bands}
        return tuple(b for b in BAND_KEYS if b in known)

    @property
    def default_bands(self) -> tuple[str, ...]:
        """Those that every scene has."""
        special = frozenset[str]().union(*(p.on_request for p in self.collections))
        return tuple(b for b in self.bands if b not in special)


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

# In HLS only B01 to B04 mean the same in both collections.
_HLS_VISIBLE = {name: BAND_KEYS[name] for name in ("coastal", "blue", "green", "red")}

HLS_S30 = CollectionProfile(
    collection="hls2-s30",
    bands=_HLS_VISIBLE
    | {name: BAND_KEYS[name] for name in ("rededge1", "rededge2", "rededge3")}
    | {"nir": "B8A", "nir08": "B8A", "swir16": "B11", "swir22": "B12"},
    on_request=frozenset({"rededge1", "rededge2", "rededge3", "nir08"}),
    family="hls",
    masks=("Fmask",),
    mask_kind="fmask",
    mask_nodata=255,
    mask_overviews=True,
    valid_lo=-9998,
    offset_rule="none",
    northern_zones=True,
    href_mark="HLS.S30.",
)

HLS_L30 = replace(
    HLS_S30,
    collection="hls2-l30",
    bands=_HLS_VISIBLE | {"nir": "B05", "nir08": "B05", "swir16": "B06", "swir22": "B07"},
    on_request=frozenset({"nir08"}),
    href_mark="HLS.L30.",
)

_STACTOOLS_HLS = {
    "coastal": "coastal_aerosol", "blue": "blue", "green": "green", "red": "red",
    "rededge1": "red_edge_1", "rededge2": "red_edge_2", "rededge3": "red_edge_3",
    "nir": "nir_narrow", "nir08": "nir_narrow", "swir16": "swir_1", "swir22": "swir_2",
}  # fmt: skip

HLS_S30_NAMES, HLS_L30_NAMES = (
    replace(p, collection="hls", bands={b: _STACTOOLS_HLS[b] for b in p.bands}) for p in (HLS_S30, HLS_L30)
)
"""The same files under the keys of the stactools package; for items given by the caller."""

_MODIS_BANDS = {"blue": 3, "green": 4, "red": 1, "nir": 2, "nir08": 2, "swir16": 6, "swir22": 7}
_MODIS_QUALITY = "BRDF_Albedo_Band_Mandatory_Quality_Band"

MCD43A4 = CollectionProfile(
    collection="modis-43A4-061",
    bands={name: f"Nadir_Reflectance_Band{n}" for name, n in _MODIS_BANDS.items()},
    on_request=frozenset({"nir08"}),
    family="mcd43",
    masks=(f"{_MODIS_QUALITY}1",),
    mask_kind="mcd43",
    mask_nodata=255,
    band_masks={name: f"{_MODIS_QUALITY}{n}" for name, n in _MODIS_BANDS.items()},
    valid_lo=0,
    valid_hi=32766,
    offset_rule="none",
    href_mark="MCD43A4.",
)

# Surface reflectance is 2.75e-5 DN - 0.2, so x 10000 it is (11 DN - 80000) / 40.
LANDSAT = CollectionProfile(
    collection="landsat-c2-l2",
    bands={
        "coastal": "coastal", "blue": "blue", "green": "green", "red": "red",
        "nir": "nir08", "nir08": "nir08", "swir16": "swir16", "swir22": "swir22",
    },
    on_request=frozenset({"coastal", "nir08"}),  # Landsat 4 to 7 have no coastal band
    family="landsat",
    masks=("qa_pixel",),
    mask_kind="qa_pixel",
    mask_nodata=1,
    valid_hi=65535,
    mul=11,
    add=-80000,
    div=40,
    offset_rule="none",
    href_mark="_L2S",
)  # fmt: skip

PROFILES = (
    PC_S2, ES_S2, ES_C1, ES_V0, HLS_S30, HLS_L30, HLS_S30_NAMES, HLS_L30_NAMES, MCD43A4, LANDSAT,
)  # fmt: skip
UNKNOWN_PROFILES = (
    PC_S2,
    replace(ES_C1, collection="", offset_rule="baseline", href_mark=""),
    replace(HLS_S30, collection="", bands=_HLS_VISIBLE, href_mark=""),
)
"""For collections that no profile names: their keys fit, their radiometry is told by the item."""

_PC = "https://planetarycomputer.microsoft.com/api/stac/v1"
_EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"

ENDPOINTS = (
    Endpoint(
        name="pc",
        aliases=("planetary-computer", "planetary_computer"),
        root=_PC,
        collections=(PC_S2,),
        signed=True,
        page_limit=250,
    ),
    Endpoint(
        name="earth-search",
        aliases=("es", "element84"),
        root=_EARTH_SEARCH,
        collections=(ES_S2,),
        page_limit=50,  # answers beyond about 6 MB fail with 502
    ),
    Endpoint(
        name="earth-search-c1",
        root=_EARTH_SEARCH,
        collections=(ES_C1,),
        page_limit=50,
    ),
    Endpoint(
        name="hls",
        aliases=("hls2", "hls-l30-s30"),
        root=_PC,
        collections=(HLS_L30, HLS_S30),
        signed=True,
        page_limit=250,
        projection="utm-north",
        pixel=30.0,
    ),
    Endpoint(
        name="mcd43a4",
        aliases=("modis-43a4", "modis-43A4-061", "modis43a4"),
        root=_PC,
        collections=(MCD43A4,),
        cloud_filter=False,
        signed=True,
        page_limit=250,
        projection="sinusoidal",
        pixel=MODIS_PIXEL,
    ),
    Endpoint(
        name="landsat",
        aliases=("landsat-c2-l2",),
        root=_PC,
        collections=(LANDSAT,),
        signed=True,
        page_limit=250,
        projection="utm-north",
        pixel=30.0,
        anchor=15.0,
    ),
)


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
    raise InputError(f"endpoint {name!r} is not known: choose from {known}")


def _names(endpoints: Iterable[Endpoint]) -> list[str]:
    return [n for e in endpoints for n in (e.name, *e.aliases)]
