"""What a pixel is, computed from the scene that won it: with the defects of `bestpixel` 0.3.0, and without.

A model of its sampling, written after its behaviour, in float64. A difference between the two
packages is put down to a defect only where the model with the defects gives the number that the
ancestor gave, and the one without them that of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer

NODATA = 65535
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
Mask = NDArray[np.bool_]
Reals = NDArray[np.float64]
Bounds = tuple[float, float, float, float]
Parts = tuple[NDArray[np.int64], Reals]


@dataclass(frozen=True)
class View:
    """The output grid."""

    bounds: Bounds
    crs: str
    res: float
    shape: tuple[int, int]

    def centres(self, rows: NDArray[Any], cols: NDArray[Any]) -> tuple[Reals, Reals]:
        """Coordinates of some pixels, x before y."""
        return self.bounds[0] + (cols + 0.5) * self.res, self.bounds[3] - (rows + 0.5) * self.res


@dataclass(frozen=True)
class Source:
    """One band of one scene, and how it is to be read."""

    path: str
    crs: str
    fill: int | None
    """``None``: it cannot be told from ground."""
    offset: int
    level: int = 0
    """0: full resolution."""


@dataclass(frozen=True)
class Look:
    """Of each output pixel: its number, and what is in it; NODATA and False where nobody won."""

    value: NDArray[np.int64]
    """With the defects."""
    right: NDArray[np.int64]
    """Without them."""
    tie: Mask
    """FIX-16: the exact sum lies within 0.1 of where rounding turns."""
    cut: Mask
    """FIX-2: a tap lies outside the window that the ancestor reads for the grid."""
    seam: Mask
    """FIX-15: it lies inside that one, and outside the scene's own."""
    shifted: Mask
    """FIX-3: the scene lies in another CRS, and is read half a source pixel aside."""
    mixed: Mask
    """FIX-4: a tap of weight > 0 is fill."""
    empty: Mask
    """FIX-4: the nearest source pixel is fill."""
    negative: Mask
    """FIX-31: a tap is a negative number, taken as 0."""


def look(view: View, sources: Sequence[Source], winner: NDArray[np.int64], chunk: int = 0) -> Look:
    """Look under every pixel; `sources` in the order of the winner's numbers.

    With a `chunk` (pixels) each scene is read over the chunks that it is needed for.
    """
    value, right = (np.full(winner.shape, NODATA, np.int64) for _ in range(2))
    made = Look(value, right, *(np.zeros(winner.shape, bool) for _ in range(7)))
    for k, source in enumerate(sources):
        rows, cols = np.nonzero(winner == k)
        if rows.size:
            own = _box(view, rows, cols, chunk) if chunk else view.bounds
            _sample(view, source, own, rows, cols, made)
    return made


def _box(view: View, rows: NDArray[Any], cols: NDArray[Any], chunk: int) -> Bounds:
    """Bounds of the box around the chunks in which a scene wins."""
    (left, _, _, top), (height, width) = view.bounds, view.shape
    first, last = (int(f(rows)) // chunk for f in (np.min, np.max))
    west, east = (int(f(cols)) // chunk for f in (np.min, np.max))
    bottom, right = min((last + 1) * chunk, height), min((east + 1) * chunk, width)
    step = view.res
    return left + west * chunk * step, top - bottom * step, left + right * step, top - first * chunk * step


@lru_cache(maxsize=8)
def _raster(path: str, level: int) -> tuple[NDArray[Any], float, float, float]:
    """(numbers, left, top, pixel) of one level of a file."""
    options = {"overview_level": level - 1} if level else {}
    with rasterio.open(path, **options) as src:
        return src.read(1), src.transform.c, src.transform.f, src.transform.a


@lru_cache(maxsize=16)
def _between(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def positions(
    view: View, crs: str, left: float, top: float, pixel: float, rows: Any, cols: Any
) -> tuple[Reals, Reals]:
    """Column and row of pixel centres in a raster, 0 at its corner."""
    x, y = view.centres(rows, cols)
    if crs != view.crs:
        x, y = _between(view.crs, crs).transform(x, y)
    return (x - left) / pixel, (top - y) / pixel


def _window(
    bounds: Bounds, grid_crs: str, crs: str, left: float, top: float, pixel: float, size: Any
) -> tuple[int, ...]:
    """Rows and columns that the ancestor reads: cut exactly at the bounds."""
    x0, y0, x1, y1 = bounds
    if crs != grid_crs:
        x0, y0, x1, y1 = _between(grid_crs, crs).transform_bounds(x0, y0, x1, y1, densify_pts=19)
    r = np.floor((top - y1) / pixel), np.ceil((top - y0) / pixel)
    c = np.floor((x0 - left) / pixel), np.ceil((x1 - left) / pixel)
    return (*np.clip(r, 0, size[0]).astype(int), *np.clip(c, 0, size[1]).astype(int))


def _sample(
    view: View, source: Source, own: Bounds, rows: NDArray[Any], cols: NDArray[Any], made: Look
) -> None:
    image, left, top, pixel = _raster(source.path, source.level)
    crossing = source.crs != view.crs
    u, v = positions(view, source.crs, left, top, pixel, rows, cols)
    (h, w), at = image.shape, (rows, cols)
    near = image[np.clip(v.astype(int), 0, h - 1), np.clip(u.astype(int), 0, w - 1)]
    made.right[at] = _right(image, source, u - 0.5, v - 0.5)
    place = view.crs, source.crs, left, top, pixel, image.shape
    window = _window(own, *place)
    x, y = _parts(u), _parts(v)
    if not crossing:
        # Counted from the window, so that the last bit of an exact position is the ancestor's too.
        x0, y0 = left + window[2] * pixel, top - window[0] * pixel
        first_col, first_row = (
            round((own[0] - view.bounds[0]) / view.res),
            round((view.bounds[3] - own[3]) / view.res),
        )
        x = _parts((own[0] - x0) / pixel + (cols - first_col + 0.5) * (view.res / pixel) - 0.5, window[2])
        y = _parts((y0 - own[3]) / pixel + (rows - first_row + 0.5) * (view.res / pixel) - 0.5, window[0])
    total, weight = np.zeros(len(rows)), np.zeros(len(rows))
    mixed, negative = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for _, c, tap, share in _taps(image, x, y):
        used = share * ((c >= window[2]) & (c < window[3]))
        total += used * np.maximum(tap, 0)
        weight += used
        mixed |= (tap == source.fill) & (share > 0)
        negative |= (tap < 0) & (tap != source.fill)
    lost_row, lost_col = _outside(window, y[0], x[0])
    cut = np.logical_or(*_outside(_window(view.bounds, *place), y[0], x[0]))
    exact = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    value = np.floor(exact + 0.5).astype(int)
    value[lost_row | (lost_col & crossing)] = NODATA
    made.value[at] = np.maximum(value - source.offset, 0)
    made.tie[at] = np.abs(exact % 1 - 0.5) < 0.1
    made.cut[at] = cut
    made.seam[at] = (lost_row | lost_col) & ~cut
    made.shifted[at] = crossing
    made.mixed[at] = mixed
    made.empty[at] = near == source.fill
    made.negative[at] = negative


def _parts(position: Reals, first: int = 0) -> Parts:
    """The pixel before a position, and how far behind it."""
    before = np.floor(position)
    return before.astype(int) + first, position - before


def _outside(window: tuple[int, ...], r0: NDArray[Any], c0: NDArray[Any]) -> tuple[Mask, Mask]:
    """Whether the tap's row or the next one, its column or the next one, lie outside."""
    top, end, left, right = window
    return (r0 < top) | (r0 + 1 >= end), (c0 < left) | (c0 + 1 >= right)


def _taps(image: NDArray[Any], x: Parts, y: Parts) -> Iterator[tuple[Any, Any, NDArray[np.int64], Reals]]:
    """(row, column, number, weight) of the four taps; numbers beyond the edge are those at it."""
    (h, w), (c0, dc), (r0, dr) = image.shape, x, y
    for r, wr in ((r0, 1 - dr), (r0 + 1, dr)):
        for c, wc in ((c0, 1 - dc), (c0 + 1, dc)):
            yield r, c, image[np.clip(r, 0, h - 1), np.clip(c, 0, w - 1)].astype(np.int64), wr * wc


def _right(image: NDArray[Any], source: Source, u: Reals, v: Reals) -> NDArray[np.int64]:
    """Bilinear of what is inside the raster and no fill."""
    h, w = image.shape
    total, weight = np.zeros(len(u)), np.zeros(len(u))
    for r, c, tap, share in _taps(image, _parts(u), _parts(v)):
        used = share * ((r >= 0) & (r < h) & (c >= 0) & (c < w) & (tap != source.fill))
        total += used * tap
        weight += used
    value = np.floor(np.divide(total, weight, out=np.zeros_like(total), where=weight > 0) + 0.5)
    return np.where(weight > 0, np.maximum(value.astype(np.int64) - source.offset, 0), NODATA)


def near_nothing(view: View, mask: Source, reach: int) -> Mask:
    """Output pixels whose mask pixel lies at most `reach` columns and rows from one without a class."""
    none = _raster(mask.path, 0)[0] == mask.fill
    for axis in (0, 1):
        padded = np.pad(none, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)])
        shifts = [np.take(padded, range(s, s + none.shape[axis]), axis) for s in range(2 * reach + 1)]
        none = np.logical_or.reduce(shifts)
    near: Mask = _taken(view, mask, none, True)
    return near


def nearest(view: View, mask: Source) -> NDArray[Any]:
    """Class of every output pixel."""
    return _taken(view, mask, _raster(mask.path, 0)[0], mask.fill)


def _taken(view: View, mask: Source, image: NDArray[Any], outside: Any) -> NDArray[Any]:
    """What an image on the mask's pixels holds under every output pixel."""
    (h, w), (_, left, top, pixel) = image.shape, _raster(mask.path, 0)
    u, v = positions(view, mask.crs, left, top, pixel, *np.indices(view.shape))
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    out: NDArray[Any] = np.full(view.shape, outside, image.dtype)
    out[inside] = image[v[inside].astype(int), u[inside].astype(int)]
    return out
