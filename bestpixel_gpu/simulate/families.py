"""How HLS, MODIS and Landsat hold the landscape: grids, names, numbers, class masks.

All follow the real ones of the Planetary Computer with their quirks: HLS lies in northern UTM zones
everywhere while its items claim otherwise, the overviews of MODIS and Landsat masks are averaged into
nonsense, items of MODIS have no EPSG code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.simulate.sky import CIRRUS, HIGH, MEDIUM, SHADOW, UNCLASSIFIED, Sky
from bestpixel_gpu.simulate.spec import BAND, Dialect, Observation, Tile, project
from bestpixel_gpu.simulate.tiff import CogLayout
from bestpixel_gpu.simulate.world import Floats

SINUSOIDAL = "+proj=sinu +R=6371007.181 +units=m"
MODIS_TILE, MODIS_LEFT, MODIS_TOP = 1111950.519667, -20015109.354, 10007554.677
_CLOUDS = (MEDIUM, HIGH, CIRRUS)
Image = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a product's rasters lie."""

    name: str
    """MGRS tile, WRS path and row, or MODIS tile."""
    tile: Tile
    """A Sentinel-2 tile of the country it shows."""
    crs: int | str
    x: float
    y: float
    pixel: float
    rows: int
    cols: int

    def points(self, fine: int, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points of the country's plane: `fine` x `fine` in every pixel of some rows."""
        step = self.pixel / fine
        x = self.x + (np.arange(self.cols * fine) + 0.5) * step
        y = self.y - (np.arange(rows.start * fine, min(rows.stop, self.rows) * fine) + 0.5) * step
        u, v = project(self.crs, self.tile.plane_epsg, *np.meshgrid(x, y))
        return u - self.tile.plane_origin[0], v - self.tile.plane_origin[1]

    def ring(self) -> list[list[float]]:
        """Outline in degrees, unclosed, counter-clockwise."""
        right, bottom = self.x + self.cols * self.pixel, self.y - self.rows * self.pixel
        lon, lat = project(
            self.crs,
            4326,
            np.array([self.x, self.x, right, right]),
            np.array([self.y, bottom, bottom, self.y]),
        )
        return [[round(float(a), 7), round(float(b), 7)] for a, b in zip(lon, lat, strict=True)]


def frame_of(name: str, tiles: list[Tile], crs: int | str, pixel: float, anchor: float = 0.0) -> Frame:
    """A frame around some tiles, its edges on multiples of `pixel` beyond `anchor`."""
    corners = np.array([project(t.epsg, crs, *t.corners()) for t in tiles])
    low, high = (f(corners, axis=(0, 2)) - anchor for f in (np.min, np.max))
    c0, r1 = int(np.floor(low[0] / pixel)), int(np.ceil(high[1] / pixel))
    cols, rows = int(np.ceil(high[0] / pixel)) - c0, r1 - int(np.floor(low[1] / pixel))
    return Frame(name, tiles[0], crs, anchor + c0 * pixel, anchor + r1 * pixel, pixel, rows, cols)


@dataclass(frozen=True, slots=True)
class Scene:
    """One product: a frame on a date."""

    frame: Frame
    when: datetime
    ident: str
    collection: str
    path: str
    """Of its files below the server's root, without the end of their names."""
    keys: dict[str, str]
    """Canonical band name -> asset key."""
    seen: Observation
    """The Sentinel-2 product of the same place and date, for the edge of the swath."""
    properties: dict[str, Any]
    """Those that only its kind has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one archive stores what it sees."""

    fine: int
    """Points along a pixel's side whose mean it shows."""
    bands: CogLayout
    masks: CogLayout
    stored: Callable[[Floats], Image]
    """Reflectance as numbers of the file."""
    quality: Callable[[Sky, NDArray[np.bool_]], dict[str, Image]]
    """Masks by asset key, from the sky and where water is; still without the swath's edge."""
    scenes: Callable[[list[Observation]], list[Scene]]
    """All products, from those of Sentinel-2."""
    file: Callable[[str], str] = "{}.tif".format
    """End of a file's name by asset key."""


# ---- HLS ----

_L30 = dict(zip(("coastal", "blue", "green", "red", "nir", "swir16", "swir22"), range(1, 8), strict=True))
_S30 = {b: BAND[b].key for b in ("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3")} | {
    "nir": "B8A", "swir16": "B11", "swir22": "B12",
}  # fmt: skip


def _hls_scenes(observations: list[Observation]) -> list[Scene]:
    """Landsat on even dates, Sentinel-2 on odd ones; one Landsat granule is listed a second time."""
    out = []
    for one in observations:
        tile, product, odd = one.tile, "LS"[one.date % 2] + "30", one.date % 4 // 2
        frame = frame_of(tile.name, [tile], 32600 + tile.zone, 30.0)
        keys = {b: f"B{n:02d}" for b, n in _L30.items()} if product == "L30" else _S30
        twice = one.date == 0 and tile == observations[0].tile
        for second in range(1 + twice):
            when = one.when.replace(microsecond=0) + timedelta(seconds=second)
            ident = f"HLS.{product}.T{tile.name}.{when:%Y%jT%H%M%S}.v2.0"
            place = f"{tile.name[:2]}/{tile.name[2]}/{tile.name[3]}/{tile.name[4]}"
            claimed = 32700 + tile.zone if tile.name[2] < "N" else 32600 + tile.zone
            out.append(
                Scene(
                    frame, when, ident, f"hls2-{product.lower()}",
                    f"blob/hls2euwest/hls2/{product}/{place}/{when:%Y/%m/%d}/{ident}/{ident}.",
                    keys,
                    one,
                    {
                        "platform": f"landsat-{8 + odd}" if product == "L30" else f"sentinel-2{'ab'[odd]}",
                        "created": f"2024-09-0{1 + second}T00:00:00Z",
                        "proj:code": claimed if tile.name[2] < "N" else f"EPSG:{claimed}",
                        "processing:software": {"Cloud Masking": "Fmask v4.7"},
                    },
                )
            )  # fmt: skip
    return out


def _fmask(sky: Sky, water: NDArray[np.bool_]) -> dict[str, Image]:
    c = sky.classes
    bits = 64 + 32 * water + 2 * np.isin(c, _CLOUDS) + 8 * (c == SHADOW) + 4 * (c == UNCLASSIFIED)
    return {"Fmask": bits.astype(np.uint8)}


# ---- Landsat ----

_SR = {"coastal": 1, "blue": 2, "green": 3, "red": 4, "nir": 5, "swir16": 6, "swir22": 7}
_QA = {SHADOW: 23888, UNCLASSIFIED: 21826, MEDIUM: 22280, HIGH: 22280, CIRRUS: 54596}


def _landsat_scenes(observations: list[Observation]) -> list[Scene]:
    """One scene a date over each country, on pixel edges 15 m beside the multiples of 30."""
    out = []
    for row, group in enumerate(_countries(observations)):
        tiles = list(dict.fromkeys(one.tile for one in group))
        frame = frame_of(f"19802{8 + row}", tiles, 32600 + tiles[0].zone, 30.0, 15.0)
        for one in _by_date(group):
            sensor = f"LC0{8 + one.date % 2}"
            day = f"{one.when:%Y%m%d}"
            product = f"{sensor}_L2SP_{frame.name}_{day}_{one.when + timedelta(days=9):%Y%m%d}_02_T1"
            ident = f"{sensor}_L2SP_{frame.name}_{day}_02_T1"
            place = f"{one.when:%Y}/{frame.name[:3]}/{frame.name[3:]}"
            out.append(
                Scene(
                    frame, one.when, ident, "landsat-c2-l2",
                    f"blob/landsateuwest/landsat-c2/level-2/standard/oli-tirs/{place}/{product}/{product}_",
                    {b: "nir08" if b == "nir" else b for b in _SR},
                    one,
                    {
                        "platform": f"landsat-{sensor[-1]}", "landsat:wrs_path": frame.name[:3],
                        "landsat:wrs_row": frame.name[3:], "landsat:correction": "L2SP",
                        "landsat:collection_category": "T1", "proj:epsg": frame.crs,
                        "created": "2024-09-01T00:00:00Z",
                    },
                )
            )  # fmt: skip
    return out


def _qa_pixel(sky: Sky, water: NDArray[np.bool_]) -> dict[str, Image]:
    out = np.where(water, 21952, 21824).astype(np.uint16)
    for name, value in _QA.items():
        out[sky.classes == name] = value
    return {"qa_pixel": out}


def _landsat_file(key: str) -> str:
    bands = {"nir08" if b == "nir" else b: n for b, n in _SR.items()}
    return f"SR_B{bands[key]}.TIF" if key in bands else f"{key.upper()}.TIF"


def _landsat_numbers(reflectance: Floats) -> Image:
    return np.clip(np.rint((reflectance.astype(np.float64) + 0.2) / 2.75e-5), 1, 65535).astype(np.uint16)


# ---- MODIS ----

_MCD43 = {"red": 1, "nir": 2, "blue": 3, "green": 4, "swir16": 6, "swir22": 7}
DEAD_BAND, DEAD_ROWS = 6, 5
"""Every so many rows of this band have no value: dead detectors."""


def _modis_scenes(observations: list[Observation]) -> list[Scene]:
    """One product a date over each country: a window of the real tile's grid."""
    out = []
    for group in _countries(observations):
        frame = frame_of("", list(dict.fromkeys(one.tile for one in group)), SINUSOIDAL, MODIS_TILE / 2400)
        h, v = int((frame.x - MODIS_LEFT) // MODIS_TILE), int((MODIS_TOP - frame.y) // MODIS_TILE)
        for one in _by_date(group):
            day = one.when.replace(hour=0, minute=0, second=0, microsecond=0)
            ident = f"MCD43A4.A{day:%Y%j}.h{h:02d}v{v:02d}.061.2024300{one.date:02d}1234"
            last = day + timedelta(days=8, milliseconds=-1)
            out.append(
                Scene(
                    frame, day, ident, "modis-43A4-061",
                    f"blob/modiseuwest/modis-061-cogs/MCD43A4/{h:02d}/{v:02d}/{day:%Y%j}/{ident}_",
                    {b: f"Nadir_Reflectance_Band{n}" for b, n in _MCD43.items()},
                    one,
                    {
                        "datetime": stamp(day + (last - day) / 2), "start_datetime": stamp(day),
                        "end_datetime": stamp(last), "platform": "", "instruments": [],
                        "modis:horizontal-tile": h, "modis:vertical-tile": v,
                        "proj:epsg": None, "proj:wkt2": _sinusoidal_wkt(),
                    },
                )
            )  # fmt: skip
    return out


def _mandatory_quality(sky: Sky, water: NDArray[np.bool_]) -> dict[str, Image]:
    c = sky.classes
    worth = np.where(np.isin(c, _CLOUDS), 255, np.isin(c, (SHADOW, UNCLASSIFIED))).astype(np.uint8)
    layers: dict[str, Image] = {
        f"BRDF_Albedo_Band_Mandatory_Quality_Band{n}": worth.copy() for n in sorted(_MCD43.values())
    }
    layers[f"BRDF_Albedo_Band_Mandatory_Quality_Band{DEAD_BAND}"][::DEAD_ROWS] = 255
    return layers


@cache
def _sinusoidal_wkt() -> str:
    from pyproj import CRS

    text: str = CRS.from_user_input(SINUSOIDAL).to_wkt()
    return text


# ---- all ----


def _countries(observations: list[Observation]) -> list[list[Observation]]:
    """Products of each country: its tiles share a landscape."""
    groups: dict[tuple[int, tuple[float, float]], list[Observation]] = {}
    for one in observations:
        groups.setdefault((one.tile.plane_epsg, one.tile.plane_origin), []).append(one)
    return list(groups.values())


def _by_date(group: list[Observation]) -> list[Observation]:
    """The first product of each date."""
    return list({one.date: one for one in reversed(group)}.values())[::-1]


def stamp(when: datetime) -> str:
    """RFC 3339 as the catalogues write it."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


FAMILIES: dict[Dialect, Family] = {
    "hls": Family(
        fine=3,
        bands=CogLayout(
            block=256, overview_block=128, bits=16, predictor=2, ghost=False, fixed_levels=4, fill=-9999
        ),
        masks=CogLayout(
            block=256,
            overview_block=128,
            bits=8,
            predictor=2,
            ghost=False,
            fixed_levels=4,
            fill=255,
            nearest=True,
        ),
        stored=lambda r: np.rint(r * np.float32(10000)).astype(np.int16),
        quality=_fmask,
        scenes=_hls_scenes,
    ),
    "mcd43a4": Family(
        fine=8,
        bands=CogLayout(block=512, overview_block=512, bits=16, fixed_levels=3, fill=32767),
        masks=CogLayout(block=512, overview_block=512, bits=8, fixed_levels=3, fill=255),
        stored=lambda r: np.clip(np.rint(r * np.float32(10000)), 0, 32766).astype(np.int16),
        quality=_mandatory_quality,
        scenes=_modis_scenes,
    ),
    "landsat": Family(
        fine=3,
        bands=CogLayout(block=256, overview_block=256, bits=16, predictor=2, ghost=False, fixed_levels=6),
        masks=CogLayout(
            block=256, overview_block=256, bits=16, predictor=2, ghost=False, fixed_levels=6, fill=1
        ),
        stored=_landsat_numbers,
        quality=_qa_pixel,
        scenes=_landsat_scenes,
        file=_landsat_file,
    ),
}
