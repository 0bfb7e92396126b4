"""The landscape: fields, forest, a river, towns, as reflectance on an endless plane.

Every point of the plane has a material, a brightness and a vigour (how green its plants are).
Large forms come from periodic fractal noise, parcels and streets from hashed grids, so any window
can be drawn on its own and two overlapping tiles agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.simulate.spec import BANDS, Band, Tile, project

Floats = NDArray[np.float32]
Hash = NDArray[np.uint32]

# Reflectance by material in the order of spec.BANDS.
_SPECTRA = {
    "crop": (0.028, 0.034, 0.066, 0.040, 0.105, 0.300, 0.390, 0.415, 0.430, 0.430, 0.200, 0.100),
    "maize": (0.026, 0.030, 0.055, 0.032, 0.090, 0.320, 0.430, 0.455, 0.470, 0.470, 0.185, 0.085),
    "wheat": (0.055, 0.074, 0.116, 0.148, 0.200, 0.235, 0.255, 0.275, 0.290, 0.300, 0.350, 0.240),
    "stubble": (0.062, 0.086, 0.120, 0.145, 0.180, 0.205, 0.222, 0.245, 0.260, 0.275, 0.340, 0.255),
    "soil": (0.050, 0.064, 0.092, 0.125, 0.150, 0.168, 0.182, 0.200, 0.215, 0.230, 0.300, 0.245),
    "meadow": (0.030, 0.038, 0.075, 0.050, 0.115, 0.265, 0.330, 0.350, 0.365, 0.370, 0.220, 0.120),
    "lavender": (0.045, 0.066, 0.078, 0.082, 0.125, 0.190, 0.220, 0.240, 0.255, 0.260, 0.240, 0.160),
    "broadleaf": (0.016, 0.020, 0.042, 0.023, 0.070, 0.230, 0.300, 0.320, 0.330, 0.335, 0.145, 0.062),
    "conifer": (0.014, 0.017, 0.030, 0.019, 0.050, 0.135, 0.170, 0.185, 0.195, 0.200, 0.085, 0.036),
    "water": (0.040, 0.038, 0.042, 0.020, 0.018, 0.010, 0.009, 0.007, 0.006, 0.005, 0.001, -0.001),
    "gravel": (0.090, 0.112, 0.138, 0.158, 0.215, 0.225, 0.235, 0.245, 0.255, 0.260, 0.290, 0.250),
    "roofs": (0.075, 0.088, 0.108, 0.150, 0.175, 0.195, 0.210, 0.225, 0.235, 0.245, 0.260, 0.215),
    "street": (0.085, 0.098, 0.108, 0.118, 0.128, 0.138, 0.145, 0.152, 0.158, 0.165, 0.185, 0.170),
    "garden": (0.032, 0.042, 0.068, 0.055, 0.115, 0.235, 0.290, 0.305, 0.315, 0.320, 0.200, 0.115),
}
MATERIALS = tuple(_SPECTRA)
SPECTRA = np.array(list(_SPECTRA.values()), np.float32)
"""(material, band) reflectance."""
_M = {name: np.uint8(k) for k, name in enumerate(MATERIALS)}
_PLANTS = ("crop", "maize", "meadow", "lavender", "broadleaf", "conifer", "garden")
SCL_OF = np.array([6 if m == "water" else 4 if m in _PLANTS else 5 for m in MATERIALS], np.uint8)
"""Class of the scene classification by material."""

_CROPS = np.array(
    [
        _M[m]
        for m in (
            "crop",
            "crop",
            "maize",
            "wheat",
            "wheat",
            "stubble",
            "soil",
            "meadow",
            "meadow",
            "lavender",
        )
    ]
)
_GRAIN = np.array([0.5 if m == "water" else 2.2 if m in ("broadleaf", "conifer", "roofs", "garden") else 1.0
                   for m in MATERIALS], np.float32)  # fmt: skip
# How strongly vigour acts: plants that thrive are darker in the visible and brighter beyond it.
_VIGOUR = np.array([-0.5, -0.6, -0.5, -0.9, -0.3, 0.3, 0.5, 0.5, 0.5, 0.4, -0.3, -0.5], np.float32)
_TEXEL = 40.0  # metres of a texel of the large forms; they repeat after 41 km
_SUN = (0.55, -0.83)  # unit vector towards the sun (east, north): mid-morning, south-east
_ANGLES = np.radians([4.0, 31.0, -17.0, 52.0])


def noise(rng: np.random.Generator, n: int, slope: float, longest: float | None = None) -> Floats:
    """Periodic fractal noise of shape (n, n): mean 0, deviation 1, power falling as f**-slope.

    Waves longer than `longest` texels are damped.
    """
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :]).astype(np.float32)
    f[0, 0] = 1
    gain = f ** np.float32(-slope / 2)
    if longest:
        gain *= 1 / (1 + (f * longest) ** -4)
    gain[0, 0] = 0
    a = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n), np.float32)) * gain, s=(n, n))
    unit: Floats = (a / a.std()).astype(np.float32)
    return unit


def sample(table: Floats, x: NDArray[np.float64], y: NDArray[np.float64], texel: float) -> Floats:
    """`table`, repeated over the plane and interpolated bilinearly, at points of the plane (metres).

    `x` of shape (1, columns) and `y` of shape (rows, 1) are a grid along the axes, which is fast.
    """
    n = len(table)
    u, v = x / texel, -y / texel
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = (u - iu).astype(np.float32), (v - iv).astype(np.float32)
    c, r = iu.astype(np.int64) % n, iv.astype(np.int64) % n
    c1, r1 = (c + 1) % n, (r + 1) % n
    if x.shape[0] == 1 and y.shape[1] == 1:
        a, b = table[r[:, 0]], table[r1[:, 0]]
        a = a + fv * (b - a)
        left = a[:, c[0]]
        grid: Floats = left + fu * (a[:, c1[0]] - left)
        return grid
    top = table[r, c] + fu * (table[r, c1] - table[r, c])
    low = table[r1, c] + fu * (table[r1, c1] - table[r1, c])
    return top + fv * (low - top)


def _hash(*keys: NDArray[np.int64] | int) -> Hash:
    """Scrambled 32 bits of whole numbers, the same on every machine."""
    h: Hash = np.full((1, 1), 0x9E3779B9, np.uint32)
    for key in keys:
        h = (h ^ np.asarray(key).astype(np.uint32)) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        h = h ^ (h >> np.uint32(16))
    return h


def _unit(h: Hash, salt: int) -> Floats:
    """Numbers in [0, 1) from hashes; another `salt` gives others."""
    return (_hash(h.view(np.int32).astype(np.int64), salt) >> np.uint32(8)).astype(np.float32) / np.float32(
        2**24
    )


@dataclass(frozen=True, slots=True)
class Land:
    """What stands on each 10 m pixel of a window."""

    material: NDArray[np.uint8]
    light: Floats
    """Factor on every band: relief, parcel, grain."""
    vigour: Floats

    def reflectance(self, band: Band, factor: int = 0) -> Floats:
        """Mean over `factor` x `factor` points; by default over the 10 m points of the band's own pixels."""
        k, strip = BANDS.index(band), 720  # rows at a time, to bound the memory
        factor = factor or band.metres // 10
        parts = []
        for first in range(0, len(self.material), strip):
            rows = slice(first, first + strip)
            v = SPECTRA[:, k][self.material[rows]] * self.light[rows] * (1 + _VIGOUR[k] * self.vigour[rows])
            parts.append(pool(v, factor))
        return np.concatenate(parts)


def pool(a: Floats, factor: int) -> Floats:
    """Means of `factor` x `factor` pixels; a last incomplete one takes the pixels that exist, repeated."""
    if factor == 1:
        return a
    h, w = a.shape
    a = np.pad(a, ((0, -h % factor), (0, -w % factor)), "edge")
    means: Floats = a.reshape(a.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3), dtype=np.float32)
    return means


class World:
    """The landscape of one seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.seed = seed
        self.relief = noise(rng, 1024, 3.6, longest=200)
        self.woods = noise(rng, 1024, 2.9, longest=70)
        self.grain = noise(rng, 1024, 1.5)
        east, north = np.roll(self.relief, -1, 1) - self.relief, np.roll(self.relief, 1, 0) - self.relief
        self.shade = (_SUN[0] * east + _SUN[1] * north).astype(np.float32)
        self.shade /= self.shade.std()
        self.river = self._river(rng)

    @staticmethod
    def _river(rng: np.random.Generator) -> Floats:
        """Metres to the river (signed): zero line of a smooth field, moved so that it meets 0, 0."""
        bed = noise(rng, 1024, 5.5, longest=420)
        slope = np.hypot(
            (np.roll(bed, -1, 1) - np.roll(bed, 1, 1)) / 2, (np.roll(bed, -1, 0) - np.roll(bed, 1, 0)) / 2
        )
        away = np.clip(bed / np.maximum(slope, 0.01) * _TEXEL, -4000, 4000)
        r, c = np.unravel_index(np.argmax(slope - 1e3 * (np.abs(away) > 40)), away.shape)
        return np.roll(away, (-int(r), -int(c)), (0, 1)).astype(np.float32)

    def draw(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Land:
        """The land at points of the plane, metres east and north of its origin."""
        relief, grain = sample(self.relief, x, y, _TEXEL), sample(self.grain, x, y, 10.0)
        woods = sample(self.woods, x, y, 20.0)
        river = sample(self.river, x, y, _TEXEL) + 9 * grain
        material, light, vigour = self._parcels(x, y, relief, grain)

        forest = woods + 0.35 * relief + 0.05 * grain > 0.75
        material[forest] = np.where(woods + 0.15 * grain > 1.35, _M["conifer"], _M["broadleaf"])[forest]
        light[forest], vigour[forest] = 1.0, 0.15 * relief[forest]
        self._town((x, y), relief, woods, grain, material, light, vigour)
        width = np.clip(44 + 14 * relief, 26, 80)
        bank = np.abs(river) < width + 45
        material[bank] = np.where(woods > -0.3, _M["broadleaf"], _M["meadow"])[bank]
        gravel = np.abs(river + 20 * woods) < width - 2
        material[gravel], light[gravel] = _M["gravel"], 1.0
        stream = np.abs(river) < width - 10
        material[stream], light[stream], vigour[stream] = _M["water"], 1.0, 0.0

        hills = 0.05 + 0.06 * np.clip(relief + 0.6, 0, 2) * forest + 0.015
        light *= 1 + hills * sample(self.shade, x, y, _TEXEL) * (material != _M["water"])
        light *= 1 + 0.018 * _GRAIN[material] * np.clip(grain, -3, 3)
        return Land(material, np.clip(light, 0.35, 1.8), np.clip(vigour, -0.6, 0.6))

    def _parcels(
        self, x: NDArray[np.float64], y: NDArray[np.float64], relief: Floats, grain: Floats
    ) -> tuple[NDArray[np.uint8], Floats, Floats]:
        """Fields: a grid per region, each cell cut into strips, each strip with a crop of its own."""
        region = np.clip((relief * 1.1 + 2).astype(np.int64), 0, 3)
        cos, sin = np.cos(_ANGLES)[region], np.sin(_ANGLES)[region]
        bend = 40.0 * relief
        p, q = cos * x + sin * y + bend, cos * y - sin * x + bend
        cell_p, cell_q = np.floor(p / 460).astype(np.int64), np.floor(q / 330).astype(np.int64)
        cell = _hash(cell_p, cell_q, region, self.seed)
        along = (cell & np.uint32(1)).astype(bool)
        across = np.where(along, p / 460 - cell_p, q / 330 - cell_q)
        strips = 1 + (cell >> np.uint32(4)) % np.uint32(6)
        strip = (across * strips).astype(np.int64)
        parcel = _hash(cell.view(np.int32).astype(np.int64), strip, 7)

        material = _CROPS[(parcel >> np.uint32(3)) % np.uint32(len(_CROPS))]
        light = 1 + 0.26 * (_unit(parcel, 1) - np.float32(0.5))
        vigour = 0.5 * (_unit(parcel, 2) - np.float32(0.5)) + 0.05 * relief + 0.03 * grain
        edge = np.minimum(np.abs(p - 460 * np.rint(p / 460)), np.abs(q - 330 * np.rint(q / 330)))
        kind = _hash(np.rint(p / 460).astype(np.int64), np.rint(q / 330).astype(np.int64), 11)
        track = (edge < 5) & (kind % np.uint32(3) == 0)
        hedge = (edge < 9) & (kind % np.uint32(3) == 1)
        material[track], light[track] = _M["gravel"], 0.8
        material[hedge], vigour[hedge] = _M["broadleaf"], 0.0
        return material, light.astype(np.float32), vigour.astype(np.float32)

    def _town(
        self,
        at: tuple[NDArray[np.float64], NDArray[np.float64]],
        relief: Floats,
        woods: Floats,
        grain: Floats,
        material: NDArray[np.uint8],
        light: Floats,
        vigour: Floats,
    ) -> None:
        """Paint the towns, one in each 9 km square, that of the origin close to it."""
        x, y = at
        square = np.floor(x / 9000 + 0.5).astype(np.int64), np.floor(y / 9000 + 0.5).astype(np.int64)
        h = _hash(*square, self.seed, 5)
        home = (square[0] == 0) & (square[1] == 0)
        dx = x - 9000 * square[0] - np.where(home, -650, 5000 * (_unit(h, 1) - 0.5))
        dy = y - 9000 * square[1] - np.where(home, 350, 5000 * (_unit(h, 2) - 0.5))
        reach = (
            np.hypot(dx, 1.25 * dy) / np.where(home, 800, 300 + 700 * _unit(h, 3))
            + 0.25 * relief
            + 0.22 * woods
            + 0.05 * grain
        )
        town = reach < 1
        p, q = 0.94 * dx + 0.34 * dy + 25 * relief, 0.94 * dy - 0.34 * dx
        street = (np.abs(p - 110 * np.rint(p / 110)) < 8) | (np.abs(q - 75 * np.rint(q / 75)) < 8)
        house = _hash(np.floor(p / 31).astype(np.int64), np.floor(q / 24).astype(np.int64), self.seed, 6)
        built = _unit(house, 1) > 0.05 + 0.7 * reach
        kind = np.where(street, _M["street"], np.where(built, _M["roofs"], _M["garden"]))
        material[town] = kind[town]
        light[town] = (np.where(street, 1.0, 0.75 + 0.5 * _unit(house, 2)))[town]
        vigour[town] = 0.0


def plane_of(
    tile: Tile, metres: int, rows: slice = slice(None)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel centres of a tile as coordinates of its plane, metres: two vectors, or two full arrays.

    Full arrays where the plane is drawn in another CRS: PROJ at knots 640 m apart, linear between
    (off by millimetres).
    """
    n = -(-round(tile.side) // metres)
    steps = (np.arange(n, dtype=np.float64) + 0.5) * metres
    x, y = tile.x + steps, tile.y - steps[rows]
    x0, y0 = tile.plane_origin
    if tile.epsg == tile.plane_epsg:
        return x[None, :] - x0, y[:, None] - y0
    knots = np.arange(-1, round(tile.side) // 640 + 3) * 640.0
    gx, gy = project(tile.epsg, tile.plane_epsg, *np.meshgrid(tile.x + knots, tile.y - knots))
    across = np.maximum(0, 1 - np.abs((x - tile.x)[:, None] - knots) / 640)
    down = np.maximum(0, 1 - np.abs((tile.y - y)[:, None] - knots) / 640)
    u: NDArray[np.float64] = down @ (gx - x0) @ across.T
    v: NDArray[np.float64] = down @ (gy - y0) @ across.T
    return u, v


def land_of(world: World, tile: Tile, strip: int = 180) -> Land:
    """The land of a whole tile at 10 m, drawn strip by strip to bound the memory."""
    n = -(-round(tile.side) // 10)
    whole = Land(np.empty((n, n), np.uint8), np.empty((n, n), np.float32), np.empty((n, n), np.float32))
    for first in range(0, n, strip):
        rows = slice(first, first + strip)
        part = world.draw(*plane_of(tile, 10, rows))
        whole.material[rows], whole.light[rows], whole.vigour[rows] = part.material, part.light, part.vigour
    return whole
