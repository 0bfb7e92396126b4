"""The sky of each date: moving clouds, their shadows, and where the swath ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.simulate.spec import BANDS, ArchiveSpec, Band, Observation, Tile
from bestpixel_gpu.simulate.world import Floats, noise, plane_of, pool, sample

_TEXEL = 20.0  # metres of a texel of the cloud field, which repeats after 20 km
_FALL = (-300.0, 340.0)  # where a shadow falls, metres east and north of its cloud
_CLOUD = np.array([0.60, 0.60, 0.59, 0.60, 0.61, 0.62, 0.63, 0.63, 0.63, 0.55, 0.42, 0.31], np.float32)
_SHADE = np.array([0.78, 0.72, 0.62, 0.55, 0.52, 0.48, 0.46, 0.45, 0.45, 0.45, 0.38, 0.36], np.float32)
NO_DATA, SHADOW, UNCLASSIFIED, MEDIUM, HIGH, CIRRUS = 0, 3, 7, 8, 9, 10
"""Classes of the scene classification."""


def _ramp(a: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((a - np.float32(low)) / np.float32(high - low), 0, 1)
    smooth: Floats = t * t * (3 - 2 * t)
    return smooth


@dataclass(frozen=True, slots=True)
class Sky:
    """What stands between the ground and the sensor, over one tile on its 20 m grid or at other points."""

    opacity: NDArray[np.float16]
    brightness: NDArray[np.float16]
    shade: NDArray[np.float16]
    """0 in the sun, 1 in full shadow."""
    classes: NDArray[np.uint8]
    """0 where the sky decides nothing, else the class of the scene classification."""

    def cover(self, ground: Floats, band: Band, rows: slice) -> Floats:
        """`ground` (rows of the band's grid, reflectance) as it is seen through this sky."""
        return _seen(
            ground,
            band,
            *(
                _regrid(a, band.metres, rows, ground.shape)
                for a in (self.opacity, self.brightness, self.shade)
            ),
        )

    def cover_all(self, ground: Floats, band: Band) -> Floats:
        """`ground` on the grid of this sky itself, seen through it."""
        return _seen(
            ground, band, *(a.astype(np.float32) for a in (self.opacity, self.brightness, self.shade))
        )


def _seen(ground: Floats, band: Band, opacity: Floats, brightness: Floats, shade: Floats) -> Floats:
    k = BANDS.index(band)
    dark = ground * (1 - shade * (1 - _SHADE[k]))
    seen: Floats = dark + opacity * (_CLOUD[k] * brightness - dark)
    return seen


def _regrid(a: NDArray[np.float16], metres: int, rows: slice, shape: tuple[int, ...]) -> Floats:
    """Rows of a 20 m field on a grid of 10, 20 or 60 m: interpolated, taken or averaged."""
    if metres == 20:
        return a[rows].astype(np.float32)
    if metres == 60:
        return pool(a.astype(np.float32), 3)[rows]
    first, last = rows.start // 2, -(-rows.stop // 2)
    window = np.pad(a, 1, "edge")[first : last + 2].astype(np.float32)
    for axis in (0, 1):
        window = _double(window, axis)
    out: Floats = window[rows.start - 2 * first :][: shape[0], : shape[1]]
    return out


def _double(a: Floats, axis: int) -> Floats:
    """Twice as many samples along `axis`, bilinear; the outermost of `a` serve as neighbours only."""
    a = np.moveaxis(a, axis, 0)
    out = np.empty((2 * (len(a) - 2), *a.shape[1:]), np.float32)
    out[0::2] = 0.75 * a[1:-1] + 0.25 * a[:-2]
    out[1::2] = 0.75 * a[1:-1] + 0.25 * a[2:]
    return np.moveaxis(out, 0, axis)


class Weather:
    """Clouds of one date over the whole world.

    Every second date takes the negative of the cloud field of the date before, so that what one
    hides the next shows.
    """

    def __init__(self, spec: ArchiveSpec, date: int) -> None:
        rng = np.random.default_rng([spec.seed, 1, date // 2])
        field = noise(rng, 1024, 3.5, longest=110)
        shift = rng.integers(0, 1024, 2)
        self.field = np.roll(field, tuple(shift), (0, 1)) * np.float32(-1 if date % 2 else 1)
        cover = spec.cover[date % len(spec.cover)]
        self.field -= np.float32(np.quantile(self.field, 1 - cover)) if cover else np.float32(9)
        # lit from the south-east: the side that rises towards the sun's direction is darker
        self.relief = self.field - np.roll(self.field, (-3, -3), (0, 1))

    def over(self, tile: Tile) -> Sky:
        """The sky above a tile."""
        return self.at(*plane_of(tile, 20))

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Sky:
        """The sky above points of the plane."""
        c = sample(self.field, x, y, _TEXEL)
        above = sample(self.field, x - _FALL[0], y - _FALL[1], _TEXEL)
        opacity, shade = _ramp(c, -0.06, 0.8), _ramp(above, -0.04, 0.3)
        brightness = 0.62 + 0.38 * np.tanh(1.3 * c) + 1.1 * sample(self.relief, x, y, _TEXEL)
        classes = np.zeros(c.shape, np.uint8)
        classes[shade > 0.15] = SHADOW
        for lowest, name in ((-0.03, UNCLASSIFIED), (0.02, CIRRUS), (0.08, MEDIUM), (0.35, HIGH)):
            classes[c > lowest] = name
        bright = np.clip(brightness, 0.3, 1.35).astype(np.float16)
        return Sky(opacity.astype(np.float16), bright, shade.astype(np.float16), classes)


def beyond(
    spec: ArchiveSpec, one: Observation, x: NDArray[np.float64], y: NDArray[np.float64], shift: float = 0.0
) -> NDArray[np.float64]:
    """Metres past the edge of what the product holds, at points of the plane; negative inside.

    The swath's edge lies 12 degrees off north; the border of two datastrips runs across it.
    """
    if one.part != "all":
        tile = one.tile
        middle = tile.y - tile.side / 2 - tile.plane_origin[1]
        south = middle - y - 0.21 * (x - (tile.x + tile.side / 2 - tile.plane_origin[0]))
        return south + shift if one.part == "north" else -south + shift
    if one.date not in spec.cut_dates:
        return np.full(np.broadcast_shapes(x.shape, y.shape), -np.inf)
    side = 1 if one.date % 2 else -1
    edge: NDArray[np.float64] = side * (x - 0.21 * y - side * 0.33 * one.tile.span) + shift
    return edge
