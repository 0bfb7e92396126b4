"""A scene: one item as a composite sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from bestpixel_gpu.catalog.providers import CollectionProfile


@dataclass(frozen=True, slots=True)
class AssetRef:
    """One file of a scene: unsigned address and which of its samples to take."""

    href: str
    sample: int = 0
    key: str = ""
    """Asset key in the item, for messages."""
    shape: tuple[int, int] | None = None
    """(rows, cols) as the item says; the file's own tags decide."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """``(a, b, c, d, e, f)`` as the item says; the file's own tags decide."""


@dataclass(frozen=True, slots=True)
class OffsetDecision:
    """How many DN are subtracted, and why."""

    dn: int
    reason: str
    """One clause, for the report."""
    certain: bool = True
    """False where the metadata left a doubt that deserves a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One observation: item, files, place, time, radiometry."""

    id: str
    collection: str
    profile: CollectionProfile
    when: datetime
    """Sensing time, UTC; the start of the interval where only an interval is given, of a MODIS product
    the day it describes."""
    platform: str
    tile: str
    """MGRS code like ``31TCJ``, MODIS tile like ``h18v04``, WRS path and row; ``""`` if unknown."""
    cloud_cover: float | None
    """Percent, as the item says."""
    bands: dict[str, AssetRef]
    """Canonical band name -> file."""
    mask: AssetRef
    more_masks: tuple[AssetRef, ...] = ()
    """Masks of the same grid as `mask`; the worst class of all of them counts."""
    crs: str | None
    """CRS from the metadata (``EPSG:n``, WKT2 or PROJ), used where the file's GeoKeys are silent."""
    outline: tuple[tuple[float, float], ...] = ()
    """Footprint as (lon, lat), from the item; only for ``order="ancestor"``."""
    offset: OffsetDecision = field(default_factory=lambda: OffsetDecision(0, "not applicable"))
    baseline: str = ""
    generated: str = ""
    """Processing time, for choosing between duplicates."""
    datatake: str = ""
    """Datatake id without its ``_N..`` part; ``""`` if unknown."""
    strip_start: datetime | None = None
    """Start of the datastrip's sensing."""
    signed: bool = False
    """Its files need a token at read time (Planetary Computer)."""
