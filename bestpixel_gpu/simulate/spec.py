"""What an embedded archive holds: its tiles, dates and observations, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import InputError

if TYPE_CHECKING:
    from pyproj import Transformer

Dialect = Literal["pc", "earth-search", "earth-search-c1", "hls", "mcd43a4", "landsat"]
DIALECTS: tuple[Dialect, ...] = ("pc", "earth-search", "earth-search-c1", "hls", "mcd43a4", "landsat")
COLLECTIONS: dict[str, tuple[str, ...]] = {
    "pc": ("sentinel-2-l2a",),
    "earth-search": ("sentinel-2-l2a",),
    "earth-search-c1": ("sentinel-2-c1-l2a",),
    "hls": ("hls2-l30", "hls2-s30"),
    "mcd43a4": ("modis-43A4-061",),
    "landsat": ("landsat-c2-l2",),
}

HOME_EPSG, HOME = 32631, (300000.0, 4900020.0)
"""CRS and upper left corner of the first tile."""
SEAM_X = 739380.0
"""Easting in zone 31, at the latitude of :data:`HOME`, where zone 32 begins (6 degrees east)."""
SOUTH_EPSG, SOUTH = 32733, (432000.0, 7400020.0)
"""CRS and upper left corner of the southern tile."""
SOUTH_DATES = 3
"""Passes over the southern tile."""


@dataclass(frozen=True, slots=True)
class Band:
    """One spectral band: canonical name, name in Sentinel-2, native pixel size in metres."""

    name: str
    key: str
    metres: int


BANDS = (
    Band("coastal", "B01", 60),
    Band("blue", "B02", 10),
    Band("green", "B03", 10),
    Band("red", "B04", 10),
    Band("rededge1", "B05", 20),
    Band("rededge2", "B06", 20),
    Band("rededge3", "B07", 20),
    Band("nir", "B08", 10),
    Band("nir08", "B8A", 20),
    Band("nir09", "B09", 60),
    Band("swir16", "B11", 20),
    Band("swir22", "B12", 20),
)
BAND = {b.name: b for b in BANDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSpec:
    """An archive, described; the same description gives the same bytes.

    The defaults make the small archive of `demo` and of the tests.
    """

    dialects: tuple[Dialect, ...] = ("pc", "earth-search")
    """Whose layout and metadata are imitated."""
    tiles: int = 3
    """MGRS tiles of the home country; neighbours overlap by 9 % of a side, as the real ones do."""
    across: int = 0
    """Tiles in a row; 0: all in one row."""
    seam: bool = True
    """The country lies on the border of UTM zones 31 and 32; its last column is gridded in 32."""
    south: bool = True
    """One more tile, in the southern hemisphere, on the first three dates."""
    size: int = 240
    """Side of a tile in 10 m pixels; a real one has 10980."""
    dates: int = 6
    """Passes, five days apart, by two satellites in turn."""
    start: str = "2024-07-02"
    """Day of the first pass."""
    cover: tuple[float, ...] = (0.40, 0.12, 0.08, 0.55, 0.10, 0.25)
    """Cloud share by date, repeated as needed."""
    cut_dates: tuple[int, ...] = (2,)
    """Dates (by index) on which the edge of the swath crosses the country."""
    baselines: tuple[str, ...] = ("03.01", "05.10")
    """Processing baseline by date; the last one holds for all later dates."""
    duplicate_date: int | None = 1
    """On this date the first tile exists twice: the same datatake from an older baseline too."""
    split_date: int | None = 3
    """On this date the second tile (or the first, if alone) comes as two parts of two datastrips."""
    bands: tuple[str, ...] = ("coastal", "blue", "green", "red", "nir", "swir16")
    """Canonical band names; the class mask is always there."""
    block: int | None = 64
    """Side of the TIFF tiles on all levels; ``None``: as the dialect has them (256 to 1024)."""
    nbits: Literal[15, 16] | None = None
    """Bits of a stored reflectance; ``None``: 15 on pc (16 before baseline 04.00), else 16."""
    nodata: bool | None = None
    """Whether files carry the nodata tag; ``None``: all but those of pc before baseline 04.00."""
    overviews: Literal["chain", "subifd"] = "chain"
    """Where overviews are listed; real archives chain them."""
    level: int = 6
    """Compression level (libdeflate, 1..12)."""
    seed: int = 2
    """Of landscape and clouds."""

    def __post_init__(self) -> None:
        """Refuse what could not be built.

        Raises
        ------
        InputError
            If a field is out of range or names something unknown.
        """
        unknown = [b for b in self.bands if b not in BAND] + [d for d in self.dialects if d not in DIALECTS]
        if unknown:
            raise InputError(
                f"unknown band or dialect {unknown[0]!r}: choose of {sorted(BAND)} and {DIALECTS}"
            )
        if not (self.tiles >= 1 and self.dates >= 1 and self.size >= 12 and self.size % 2 == 0):
            raise InputError("an archive needs tiles >= 1, dates >= 1 and an even size >= 12")
        if not self.cover or not all(0 <= c < 1 for c in self.cover) or not self.baselines:
            raise InputError("an archive needs cloud shares in [0, 1) and at least one baseline")


@dataclass(frozen=True, slots=True)
class Tile:
    """One MGRS tile and where it lies in the landscape."""

    name: str
    epsg: int
    x: float
    """Easting of the left edge."""
    y: float
    """Northing of the upper edge."""
    side: float
    """Length of an edge, metres."""
    plane_epsg: int
    """CRS in which the landscape is drawn."""
    plane_origin: tuple[float, float]
    """Point of that CRS where the landscape's own coordinates are 0, 0."""
    span: float
    """Width of the whole country this tile belongs to, metres; for the swath's edge."""

    @property
    def zone(self) -> int:
        """UTM zone."""
        return self.epsg % 100

    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Easting and northing of the outline, clockwise from the upper left, unclosed."""
        return self.x + self.side * np.array([0.0, 1, 1, 0]), self.y - self.side * np.array([0.0, 0, 1, 1])

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """``(west, south, east, north)`` in degrees of a box inside the tile."""
        return inner_box([self])


@dataclass(frozen=True, slots=True)
class Observation:
    """One product: a tile on a date, from one processing."""

    tile: Tile
    date: int
    """Index of the pass."""
    when: datetime
    """Start of the datatake, UTC."""
    platform: Literal["A", "B"]
    baseline: str
    sequence: int = 0
    """Number of the product among those of its tile and day."""
    part: Literal["all", "north", "south"] = "all"
    """Which half of the tile its datastrip covers."""
    gain: float = 1.0
    """Radiometric difference of an older processing."""

    @property
    def orbit(self) -> int:
        """Relative orbit."""
        return 108 if self.tile.epsg < 32700 else 33

    @property
    def absolute_orbit(self) -> int:
        """Number of the revolution since launch."""
        return {"A": 47100, "B": 38200}[self.platform] + 143 * (self.date // 2)

    @property
    def generated(self) -> datetime:
        """Processing time; a later sequence was processed later."""
        return self.when.replace(microsecond=0) + timedelta(
            hours=4, minutes=35, seconds=17, days=self.sequence
        )

    @property
    def strip_start(self) -> datetime:
        """Start of the datastrip; the second of a split pass starts later."""
        return self.when.replace(microsecond=0) + timedelta(seconds=214 + 31 * (self.part == "south"))


@lru_cache(maxsize=32)
def _transformer(source: int | str, target: int | str) -> Transformer:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


def project(
    source: int | str, target: int | str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of one EPSG code (or PROJ string) in another, x before y."""
    u, v = _transformer(source, target).transform(x, y)
    return np.asarray(u, np.float64), np.asarray(v, np.float64)


def inner_box(tiles: list[Tile], across: int = 1) -> tuple[float, float, float, float]:
    """``(west, south, east, north)`` in degrees of a box inside a block of tiles, `across` in a row."""
    outline = np.array([project(t.epsg, 4326, *t.corners()) for t in tiles])  # tile, lon or lat, corner
    lon, lat = outline[:, 0], outline[:, 1]
    complete = len(tiles) // across * across  # an incomplete last row is left out
    rows = np.arange(complete).reshape(-1, across)
    west, east = lon[rows[:, 0]][:, [0, 3]].max(), lon[rows[:, -1]][:, [1, 2]].min()
    south, north = lat[rows[-1]][:, [2, 3]].max(), lat[rows[0]][:, [0, 1]].min()
    edge = 0.0005
    box = (west + edge, south + edge, east - edge, north - edge)
    return round(float(box[0]), 5), round(float(box[1]), 5), round(float(box[2]), 5), round(float(box[3]), 5)


def tiles_of(spec: ArchiveSpec) -> list[Tile]:
    """Tiles of the home country row by row, then the southern one."""
    across = spec.across or spec.tiles
    side, step = spec.size * 10.0, round(spec.size * 10 * 0.91 / 60) * 60.0
    left = HOME[0] if not spec.seam else round((SEAM_X - (across - 1) * step) / 60) * 60.0
    span = side + step * (across - 1)
    down = -(-spec.tiles // across)
    origin = (left + span / 2, HOME[1] - (side + step * (down - 1)) / 2)
    out = []
    for k in range(spec.tiles):
        row, column = divmod(k, across)
        epsg, x, y = HOME_EPSG, left + column * step, HOME[1] - row * step
        shift = column
        if spec.seam and column == across - 1:
            epsg, shift = HOME_EPSG + 1, 0
            centre = project(HOME_EPSG, epsg, np.array(x + side / 2), np.array(y - side / 2))
            x = round((float(centre[0]) - side / 2) / 60) * 60.0
            y = round((float(centre[1]) + side / 2) / 60) * 60.0
        first_x = x - shift * step
        name = mgrs_name(epsg, first_x + side / 2, y + row * step - side / 2, right=shift, down=row)
        out.append(Tile(name, epsg, x, y, side, HOME_EPSG, origin, span))
    if spec.south:
        centre_x, centre_y = SOUTH[0] + side / 2, SOUTH[1] - side / 2
        name = mgrs_name(SOUTH_EPSG, centre_x, centre_y)
        far = (centre_x - 3e5, centre_y + 2e5)  # another part of the endless landscape
        out.append(Tile(name, SOUTH_EPSG, *SOUTH, side, SOUTH_EPSG, far, side))
    return out


def mgrs_name(epsg: int, x: float, y: float, right: int = 0, down: int = 0) -> str:
    """MGRS code of the 100 km square at `x`, `y`, moved by so many squares.

    Tiles smaller than 100 km take the squares' names one after the other all the same.
    """
    zone = epsg % 100
    _, lat = project(epsg, 4326, np.array(x), np.array(y))
    band = "CDEFGHJKLMNPQRSTUVWX"[min(int((float(lat) + 80) // 8), 19)]
    columns = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3]
    rows = "ABCDEFGHJKLMNPQRSTUV"
    first = 0 if zone % 2 else 5
    column = columns[(int(x // 100_000) - 1 + right) % 8]
    row = rows[(int(y // 100_000) + first - down) % 20]
    return f"{zone:02d}{band}{column}{row}"


def observations_of(spec: ArchiveSpec) -> list[Observation]:
    """Every product of the archive, by date, then tile."""
    tiles = tiles_of(spec)
    first = datetime.fromisoformat(spec.start + "T10:36:29.024").replace(tzinfo=UTC)
    out: list[Observation] = []
    for date in range(spec.dates):
        baseline = spec.baselines[min(date, len(spec.baselines) - 1)]
        platform: Literal["A", "B"] = "AB"[date % 2]  # type: ignore[assignment]
        for index, tile in enumerate(tiles):
            if tile.epsg > 32700 and date >= SOUTH_DATES:
                continue
            when = first + timedelta(days=5 * date, minutes=-98 * (tile.epsg > 32700))
            one = Observation(tile, date, when, platform, baseline)
            if date == spec.split_date and index == min(1, spec.tiles - 1):
                out += [replace(one, part="north"), replace(one, part="south", sequence=1)]
            elif date == spec.duplicate_date and index == 0:
                older = f"{float(baseline) - 0.01:05.2f}"
                out += [replace(one, baseline=older, gain=1.01), replace(one, sequence=1)]
            else:
                out.append(one)
    return out
