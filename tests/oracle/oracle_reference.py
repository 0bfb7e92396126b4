"""A whole composite, slowly: the pixel rules in NumPy, with rasterio's pixels and PROJ's positions.

It shares nothing with the package: rasters are read by GDAL in full, positions of another CRS are
PROJ's own at every pixel, every scene is painted everywhere, and the winner is one ``argmin`` over
the keys of the observations that turned out valid. So there are no blocks, no plan, no repair rounds
and no lattice to go wrong, only the rules themselves.

Positions are int64 with 32 fractional bits, pixel-edge convention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from picks import by_hand
from pyproj import CRS, Transformer

ONE = 1 << 32
HALF = 1 << 31
NOWHERE = -(1 << 62)
NO_KEY = np.int64(0xFFFFFFFF)
NO_SCORE = 65535
NOTHING = 2 * (NO_SCORE + 1)
NO_DATE = -2147483648
EDGE = 1e-4
"""Pixels: nearer than this to a source pixel's edge, another way to project may choose its neighbour."""

SCL_SCORES = np.full(65536, NO_SCORE, np.int64)
SCL_SCORES[[4, 5, 6, 11]] = 0
SCL_SCORES[7] = 1
SCL_SCORES[[2, 3]] = 2


@dataclass(frozen=True, eq=False)
class MaskRule:
    """Scores by class (unsigned bits), which count as clear, which observed nothing."""

    scores: NDArray[np.int64]
    clear: NDArray[np.bool_]
    empty: tuple[int, ...] = (0,)
    overviews: bool = False
    """Read from the overview whose pixel is at most half of an output pixel, or all of it if nearest."""


SCL = MaskRule(SCL_SCORES, SCL_SCORES == 0)


def bit_rule(
    judge: Callable[[int], tuple[int, bool]], n: int, empty: tuple[int, ...], *, overviews: bool = False
) -> MaskRule:
    """A rule asked of each of `n` values in turn; values beyond are unusable."""
    scores, clear = np.full(65536, NO_SCORE, np.int64), np.zeros(65536, bool)
    for value in range(n):
        if value not in empty:
            scores[value], clear[value] = judge(value)
    return MaskRule(scores, clear, empty, overviews)


def judge_fmask(v: int) -> tuple[int, bool]:
    """HLS Fmask in the order in which the ancestor asks."""
    bits = [bool(v >> b & 1) for b in range(8)]
    aerosol = v >> 6
    clear = not any(bits[:4]) and aerosol <= 1
    if bits[1]:
        return NO_SCORE, False
    if bits[0] or bits[3]:
        return 2, False
    return int(bits[2] or aerosol >= 2 or bits[4]), clear


FMASK = bit_rule(judge_fmask, 256, (255,), overviews=True)


# ---- places ----
@dataclass(frozen=True)
class RefGrid:
    """North-up output grid; pixel (r, c) has global index (row0 + r, col0 + c) from (base_x, base_y)."""

    crs: str
    base_x: float
    base_y: float
    col0: int
    row0: int
    res: float
    width: int
    height: int

    @classmethod
    def at(cls, crs: str, x0: float, y0: float, res: float, width: int, height: int) -> RefGrid:
        """A grid anchored at its own upper left corner, as a geobox is."""
        return cls(crs, x0, y0, 0, 0, res, width, height)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @cached_property
    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(x of columns, y of rows)."""
        x = self.base_x + (self.col0 + np.arange(self.width) + 0.5) * self.res
        y = self.base_y - (self.row0 + np.arange(self.height) + 0.5) * self.res
        return x, y

    def geobox(self) -> Any:
        """The same grid for ``build_composite(geobox=...)``."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        left, top = self.base_x + self.col0 * self.res, self.base_y - self.row0 * self.res
        return GeoBox(self.shape, Affine(self.res, 0, left, 0, -self.res, top), self.crs)

    def chunks(self, size: int = 512) -> list[tuple[slice, slice]]:
        """Blocks of `size` pixels anchored at global index 0."""

        def cuts(origin: int, n: int) -> list[slice]:
            own = (origin + np.arange(n)) // size
            edges = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), n]
            return [slice(a, b) for a, b in pairwise(edges)]

        return [(r, c) for r in cuts(self.row0, self.height) for c in cuts(self.col0, self.width)]


@dataclass(frozen=True)
class Source:
    """One raster file as GDAL describes it."""

    path: str
    crs: CRS
    x0: float
    y0: float
    dx: float
    dy: float
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of full resolution, then of each overview."""
    nodata: float | None

    @classmethod
    def open(cls, path: str | Path) -> Source:
        with rasterio.open(path) as src:
            t = src.transform
            assert not t.b
            assert not t.d
            sizes = [(src.width, src.height)]
            n = len(src.overviews(1))
            crs, nodata = CRS.from_wkt(src.crs.to_wkt()), src.nodata
        for i in range(n):
            with rasterio.open(path, overview_level=i) as src:
                sizes.append((src.width, src.height))
        return cls(str(path), crs, t.c, t.f, t.a, -t.e, tuple(sizes), nodata)

    def read(self, level: int = 0) -> NDArray[Any]:
        options = {} if level == 0 else {"overview_level": level - 1}
        with rasterio.open(self.path, **options) as src:
            data = src.read(1)
        assert data.shape == self.sizes[level][::-1]
        return data


def is_same(grid: RefGrid, source: Source) -> bool:
    return CRS.from_user_input(grid.crs).equals(source.crs, ignore_axis_order=True) or is_twin(
        grid, source.crs
    )


def is_twin(grid: RefGrid, crs: CRS) -> bool:
    """Both are the same UTM zone, of different hemispheres: 10 000 km apart in northing, else one."""
    codes = CRS.from_user_input(grid.crs).to_epsg() or 0, crs.to_epsg() or 0
    return {c // 100 for c in codes} == {326, 327} and codes[0] % 100 == codes[1] % 100


def positions(grid: RefGrid, source: Source, level: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(x, y) of every output pixel centre on a level of `source`, each (H, W)."""
    w, h = source.sizes[level]
    w0, h0 = source.sizes[0]
    x, y = places(grid, source.crs)
    return (
        _fixed((x - source.x0) * w / (source.dx * w0)),
        _fixed((source.y0 - y) * h / (source.dy * h0)),
    )


@lru_cache(maxsize=2)
def places(grid: RefGrid, crs: CRS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y) of every output pixel centre in another CRS, by PROJ at each."""
    x, y = np.meshgrid(*grid.centres)
    here = CRS.from_user_input(grid.crs)
    if here.equals(crs, ignore_axis_order=True):
        return x, y
    if is_twin(grid, crs):
        return x, y - 1e7 * (CRS.from_user_input(grid.crs).to_epsg() // 100 - crs.to_epsg() // 100)
    x, y = Transformer.from_crs(here, crs, always_xy=True).transform(x, y)
    return np.asarray(x), np.asarray(y)


def _fixed(pixels: NDArray[np.float64]) -> NDArray[np.int64]:
    ok = np.isfinite(pixels) & (np.abs(pixels) < 2**29)
    out = np.rint(np.where(ok, pixels, 0) * ONE).astype(np.int64)
    out[~ok] = NOWHERE
    return out


def step(grid: RefGrid, source: Source) -> tuple[float, float]:
    """Full-resolution source pixels under one output column and one output row."""
    if is_same(grid, source):
        return grid.res / source.dx, grid.res / source.dy
    here, there = CRS.from_user_input(grid.crs), source.crs
    cx = source.x0 + source.dx * source.sizes[0][0] / 2
    cy = source.y0 - source.dy * source.sizes[0][1] / 2
    x, y = Transformer.from_crs(there, here, always_xy=True).transform(cx, cy)
    to_source = Transformer.from_crs(here, there, always_xy=True)

    def span(ex: float, ey: float) -> float:
        a = to_source.transform(x - ex / 2, y - ey / 2)
        b = to_source.transform(x + ex / 2, y + ey / 2)
        return float(np.hypot((b[0] - a[0]) / source.dx, (b[1] - a[1]) / source.dy))

    return span(grid.res, 0), span(0, grid.res)


def level_for(grid: RefGrid, source: Source, share: float = 1.0) -> int:
    """The coarsest level that is not coarser than `share` of the output, within one percent."""
    limit = 1.01 * max(1.0, share * min(step(grid, source)))
    return max(i for i, (w, _) in enumerate(source.sizes) if source.sizes[0][0] / w <= limit)


def near_edge(position: NDArray[np.int64], at: int = 0) -> NDArray[np.bool_]:
    """Where a position is closer than `EDGE` to a pixel's edge (or, with `at` = HALF, its centre)."""
    offset = (position - at) & (ONE - 1)
    return np.minimum(offset, ONE - offset) < EDGE * ONE


# ---- masks ----
@dataclass
class MaskLayer:
    """One scene's mask on the output grid; `doubtful` where the projection's last digits decide."""

    score: NDArray[np.int64]
    clear: NDArray[np.bool_]
    observed: NDArray[np.bool_]
    doubtful: NDArray[np.bool_]


def grown(flag: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """`flag` spread to the square of `radius` pixels around it, cut at the raster's edge."""
    out = flag.copy()
    h, w = flag.shape
    for dr in range(-radius, radius + 1):
        for dc in range(-radius, radius + 1):
            to = slice(max(dr, 0), h + min(dr, 0)), slice(max(dc, 0), w + min(dc, 0))
            of = slice(max(-dr, 0), h + min(-dr, 0)), slice(max(-dc, 0), w + min(-dc, 0))
            out[to] |= flag[of]
    return out


def mask_layer(
    grid: RefGrid,
    path: str | Path,
    *,
    worst: bool = True,
    grow: int = 0,
    rule: MaskRule = SCL,
) -> MaskLayer:
    """Scores of a class mask: the worst under each output pixel, or the nearest."""
    source = Source.open(path)
    level = level_for(grid, source, 0.5 if worst else 1.0) if rule.overviews else 0
    classes = source.read(level).astype(np.int64)
    empty = np.isin(classes, rule.empty) | (classes == source.nodata)
    classes &= 0xFFFF
    # One number that sorts as "worse": score, the unclear of two, unusable, nothing observed.
    badness = np.where(grown(empty, grow), NOTHING, 2 * rule.scores[classes] + ~rule.clear[classes])
    x, y = positions(grid, source, level)
    h, w = classes.shape
    inside = (x >= 0) & (y >= 0) & (x < w * ONE) & (y < h * ONE)
    col, row = np.clip(x >> 32, 0, w - 1), np.clip(y >> 32, 0, h - 1)
    result = badness[row, col]
    w0, h0 = source.sizes[0]
    steps = step(grid, source)[0] * w / w0, step(grid, source)[1] * h / h0
    box = worst and min(steps) > 1.01
    doubtful = near_edge(x) | near_edge(y)
    if box:
        half_x, half_y = (int(np.rint(s * HALF)) for s in steps)
        c0, c1 = (np.clip(first_centre(x + s), 0, w) for s in (-half_x, half_x))
        r0, r1 = (np.clip(first_centre(y + s), 0, h) for s in (-half_y, half_y))
        result = np.full(grid.shape, -1, np.int64)
        for dr in range(int((r1 - r0).max())):
            for dc in range(int((c1 - c0).max())):
                here = (r0 + dr < r1) & (c0 + dc < c1)
                value = badness[np.minimum(r0 + dr, h - 1), np.minimum(c0 + dc, w - 1)]
                result = np.where(here, np.maximum(result, value), result)
        result = np.where(result < 0, badness[row, col], result)
        for centre, half in ((x, half_x), (y, half_y)):
            doubtful |= near_edge(centre - half, HALF) | near_edge(centre + half, HALF)
    result[~inside] = NOTHING
    if is_same(grid, source):
        doubtful[:] = False
    score, observed = np.minimum(result // 2, NO_SCORE), result < NOTHING
    return MaskLayer(score, (result % 2 == 0) & (score < NO_SCORE), observed, doubtful)


def first_centre(position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the first source pixel whose centre lies at or beyond `position`."""
    return -((HALF - position) >> 32)


# ---- bands ----
@dataclass(frozen=True)
class BandRule:
    """Valid range, and the exact rational ``(mul v + add) / div`` after sampling."""

    lo: int = 1
    hi: int = 32767
    ignore_tag: bool = False
    mul: int = 1
    add: int = 0
    div: int = 1


@dataclass
class BandLayer:
    value: NDArray[np.int64]
    valid: NDArray[np.bool_]
    doubtful: NDArray[np.bool_]
    level: int


def band_layer(
    grid: RefGrid,
    path: str | Path,
    rule: BandRule,
    *,
    resampling: str = "bilinear",
    arithmetic: str = "integer",
    level: int | None = None,
) -> BandLayer:
    """One band of one scene everywhere on the grid; `value` 0..65534 where `valid`."""
    source = Source.open(path)
    level = level_for(grid, source) if level is None else level
    data = source.read(level).astype(np.int64)
    ok = (data >= rule.lo) & (data <= rule.hi)
    if rule.ignore_tag:
        pass  # 0 is a value; the grown mask keeps away from what averaging did to the swath's edge
    elif source.nodata is not None:
        ok &= data != source.nodata
    elif level > 0:
        ok = ~grown(~ok, 2)  # averages may have smeared the fill by two pixels
    h, w = data.shape
    x, y = positions(grid, source, level)
    inside = (x >= 0) & (y >= 0) & (x < w * ONE) & (y < h * ONE)
    col, row = np.clip(x >> 32, 0, w - 1), np.clip(y >> 32, 0, h - 1)
    valid = inside & ok[row, col]
    doubtful = near_edge(x) | near_edge(y)
    if is_same(grid, source):
        doubtful[:] = False
    if resampling == "nearest":
        sample_num, sample_den = data[row, col], np.ones_like(x)
    elif arithmetic == "integer":
        sample_num, sample_den = bilinear_integer(data, ok, x, y)
    else:
        real = bilinear_real(data, ok, x, y)
        out = np.floor((rule.mul * real + rule.add) / rule.div + 0.5)
        return BandLayer(np.clip(np.where(valid, out, 0), 0, 65534).astype(np.int64), valid, doubtful, level)
    rounded = (2 * sample_num + sample_den) // np.maximum(2 * sample_den, 1)
    out = (2 * (rule.mul * rounded + rule.add) + rule.div) // (2 * rule.div)
    return BandLayer(np.clip(np.where(valid, out, 0), 0, 65534), valid, doubtful, level)


def bilinear_integer(
    data: NDArray[np.int64], ok: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(sum of weight x value, sum of weights) over the valid taps; fractions of 15 bits."""
    h, w = data.shape
    u, v = x - HALF, y - HALF
    fu, fv = (u & (ONE - 1)) + (1 << 16) >> 17, (v & (ONE - 1)) + (1 << 16) >> 17
    num, den = np.zeros_like(x), np.zeros_like(x)
    for dr, wr in ((0, (1 << 15) - fv), (1, fv)):
        for dc, wc in ((0, (1 << 15) - fu), (1, fu)):
            r, c = (v >> 32) + dr, (u >> 32) + dc
            inside = (r >= 0) & (c >= 0) & (r < h) & (c < w)
            r, c = np.clip(r, 0, h - 1), np.clip(c, 0, w - 1)
            weight = np.where(inside & ok[r, c], wr * wc, 0)
            num += weight * data[r, c]
            den += weight
    return num, den


def bilinear_real(
    data: NDArray[np.int64], ok: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The same in float64, with unrounded fractions."""
    h, w = data.shape
    u, v = x / ONE - 0.5, y / ONE - 0.5
    c0, r0 = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    num, den = np.zeros(x.shape), np.zeros(x.shape)
    for dr in (0, 1):
        for dc in (0, 1):
            r, c = r0 + dr, c0 + dc
            inside = (r >= 0) & (c >= 0) & (r < h) & (c < w)
            r, c = np.clip(r, 0, h - 1), np.clip(c, 0, w - 1)
            weight = np.where(inside & ok[r, c], (1 - np.abs(v - r)) * (1 - np.abs(u - c)), 0.0)
            num += weight * data[r, c]
            den += weight
    return np.divide(num, den, out=np.zeros_like(num), where=den > 0)


def touching(
    grid: RefGrid, path: str | Path, box: tuple[int, int, int, int], resampling: str
) -> NDArray[np.bool_]:
    """Output pixels with a tap of weight > 0 in a box of the level that is read."""
    source = Source.open(path)
    level = level_for(grid, source)
    w, h = source.sizes[level]
    r0, r1, c0, c1 = box
    part = np.zeros((h, w), np.int64)
    part[r0:r1, c0:c1] = 1
    x, y = positions(grid, source, level)
    if resampling == "nearest":
        col, row = x >> 32, y >> 32
        return (row >= r0) & (row < r1) & (col >= c0) & (col < c1)
    return bilinear_integer(part, np.ones_like(part, bool), x, y)[0] > 0


# ---- scenes ----
@dataclass(frozen=True)
class RefScene:
    """One observation: what the reference needs to know of an item."""

    id: str
    when: datetime
    files: Mapping[str, str | Path]
    mask: str | Path
    offset: int = 0
    cloud_cover: float | None = None
    lost: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """Band -> box (row0, row1, col0, col1) of the level that is read, which cannot be read."""
    classes: MaskRule = SCL
    samples: BandRule | None = None
    """Valid range and rational; by default that of Sentinel-2."""
    harmonised: bool = False
    """The producer already subtracted the offset, so 0 is a value and class 0 is grown by 5 pixels."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> RefScene:
        """From a plain dict {id, date, cloud_cover, files, mask, offset}; `date` in ISO form."""
        return cls(
            plain["id"],
            datetime.fromisoformat(plain["date"]),
            plain["files"],
            plain["mask"],
            plain.get("offset", 0),
            plain.get("cloud_cover"),
            harmonised=plain.get("harmonised", False),
        )

    @property
    def rule(self) -> BandRule:
        if self.samples is not None:
            return self.samples
        if self.harmonised:
            return BandRule(lo=0, ignore_tag=True)
        return BandRule(add=-self.offset)


@dataclass
class RefComposite:
    """Every layer, and what else a test may ask."""

    bands: dict[str, NDArray[np.uint16]]
    quality: NDArray[np.uint16]
    observation_count: NDArray[np.uint16]
    selected_observation: NDArray[np.int64]
    source_ids: list[str]
    date: NDArray[np.int32]
    doubtful: NDArray[np.bool_]
    """Where positions within `EDGE` of a source pixel's edge could change the answer."""
    clear_counts: dict[str, int]
    picked: list[str]
    scores: NDArray[np.int64] = field(repr=False)
    """(scene in rank order, H, W)."""
    repaired: int = 0
    """Pixels whose first winner held no valid sample."""


def in_order(scenes: Sequence[RefScene], clear: Sequence[int], order: str) -> list[int]:
    """Indices, best first."""

    def key(i: int) -> tuple[Any, ...]:
        s, age = scenes[i], scenes[i].when.timestamp()
        if order == "clearest":
            return -clear[i], -age, s.id
        if order == "cloud_cover":
            return 50 if s.cloud_cover is None else int(np.floor(s.cloud_cover + 0.5)), -age, s.id
        return {"newest": (-age, s.id), "oldest": (age, s.id)}[order]

    return sorted(range(len(scenes)), key=key)


def composite(
    scenes: Sequence[RefScene],
    grid: RefGrid,
    bands: Sequence[str],
    *,
    order: str = "clearest",
    top_k: int | None = 3,
    fill: float | None = 0.001,
    worst: bool = True,
    resampling: str = "bilinear",
    arithmetic: str = "integer",
) -> RefComposite:
    """The composite of scenes that all have every band.

    `fill` is the least share of a chunk that an unselected scene must win; ``None``: selected only.
    """
    made = [
        mask_layer(grid, s.mask, worst=worst, grow=5 if s.harmonised else 0, rule=s.classes) for s in scenes
    ]
    clear = [int(m.clear.sum()) for m in made]
    ranks = in_order(scenes, clear, order)
    chunks = grid.chunks()
    clear_pixels, observed = (np.array([getattr(m, n) for m in made]) for n in ("clear", "observed"))
    chosen = by_hand(clear_pixels, observed, ranks, chunks, top_k)
    picked = [i in chosen for i in ranks]
    if fill is None:
        ranks = [i for i, yes in zip(ranks, picked, strict=True) if yes]
        picked = [True] * len(ranks)
    scenes, layers = [scenes[i] for i in ranks], [made[i] for i in ranks]
    scores = np.array([m.score for m in layers]).reshape(len(layers), *grid.shape)
    low = np.array([rank | (0 if yes else 1 << 16) for rank, yes in enumerate(picked)], np.int64)
    keys = np.where(scores == NO_SCORE, NO_KEY, scores << 17 | low[:, None, None])
    keys = without_small_wins(keys, chunks, fill or 0.0)
    first = keys.copy()
    values = np.zeros((len(bands), len(scenes), *grid.shape), np.int64)
    doubtful = np.logical_or.reduce([m.doubtful for m in layers])
    for n, s in enumerate(scenes):
        for b, name in enumerate(bands):
            layer = band_layer(grid, s.files[name], s.rule, resampling=resampling, arithmetic=arithmetic)
            values[b, n] = layer.value
            keys[n][~layer.valid] = NO_KEY
            if name in s.lost:
                keys[n][touching(grid, s.files[name], s.lost[name], resampling)] = NO_KEY
            doubtful |= layer.doubtful
    best = keys.min(axis=0)
    winner = np.where(best == NO_KEY, -1, best & 0xFFFF)
    rows, cols = np.indices(grid.shape)
    days = np.array([(s.when.date() - date(1970, 1, 1)).days for s in scenes], np.int32)
    return RefComposite(
        bands={
            name: np.where(winner < 0, 65535, values[b][np.maximum(winner, 0), rows, cols]).astype(np.uint16)
            for b, name in enumerate(bands)
        },
        quality=np.where(winner < 0, NO_SCORE, best >> 17).astype(np.uint16),
        observation_count=(scores != NO_SCORE).sum(axis=0).astype(np.uint16),
        selected_observation=winner,
        source_ids=[s.id for s in scenes],
        date=np.where(winner < 0, NO_DATE, days[np.maximum(winner, 0)]).astype(np.int32),
        doubtful=doubtful,
        clear_counts={s.id: int(m.clear.sum()) for s, m in zip(scenes, layers, strict=True)},
        picked=[s.id for s, yes in zip(scenes, picked, strict=True) if yes],
        scores=scores,
        repaired=int((first.min(axis=0) != best).sum()),
    )


def without_small_wins(
    keys: NDArray[np.int64], chunks: Sequence[tuple[slice, slice]], share: float
) -> NDArray[np.int64]:
    """Keys without those of unselected scenes in chunks where they win less than `share` of the pixels."""
    keys = keys.copy()
    best = keys.min(axis=0)
    barred = []
    for chunk in chunks:
        part = best[chunk]
        for n in range(len(keys)):
            mine = (part != NO_KEY) & ((part & 0xFFFF) == n) & ((part >> 16 & 1) == 1)
            if 0 < mine.sum() < share * part.size:
                barred.append((n, *chunk))
    for place in barred:
        keys[place] = NO_KEY
    return keys
