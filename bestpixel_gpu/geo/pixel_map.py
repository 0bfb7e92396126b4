"""Output pixel -> source pixel, in fixed point: the one place where positions are made.

A position is an int64 with 32 fractional bits in the *pixel-edge* convention: 0 is the left (top)
edge of the source's first pixel, so the nearest pixel is ``position >> 32``. Bilinear weights use
``position - 2**31``. Positions come from global output indices, each rounded for itself, so a
pixel's position does not depend on the box, the block or the order of work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.geo.crs import northing_shift, same_crs, transform
from bestpixel_gpu.geo.grid import Grid

Floats = NDArray[np.float64]
ONE = 1 << 32
HALF = 1 << 31
OUTSIDE = -(1 << 62)
"""Position of a point that has no place in the source."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class AxisMap:
    """Same CRS: column and row positions are independent tables.

    Attributes
    ----------
    x : int64, (grid width,)
        Source column position of each output column.
    y : int64, (grid height,)
        Source row position of each output row.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LatticeMap:
    """Another CRS: exact positions at every ``2**log2_step``-th output pixel centre.

    Output pixel ``(r, c)`` of the grid lies at ``R = r + row0``, ``C = c + col0`` of the lattice,
    i.e. in the cell of nodes ``(R >> k, C >> k)`` and the next ones, k = `log2_step`. With
    S = 2**k, fy = R & (S-1), fx = C & (S-1) a position is ::

        (n00 (S-fx)(S-fy) + n01 fx (S-fy) + n10 (S-fx) fy + n11 fx fy + 2**(2k-1)) >> 2k

    and for k = 0 it is the node itself. If one of the (1 or 4) nodes is :data:`OUTSIDE`, so is the pixel.

    Attributes
    ----------
    x, y : int64, (node rows, node columns)
        Source column and row positions of the nodes, within +-2**52.
    log2_step : int
        0..4.
    row0, col0 : int
        Lattice index of the grid's pixel (0, 0); 0 <= value < 2**log2_step.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    log2_step: int
    row0: int
    col0: int


PixelMap = AxisMap | LatticeMap


@dataclass(frozen=True, slots=True)
class RasterFrame:
    """Georeference of one raster: CRS, upper left corner, pixel and size at full resolution."""

    crs: str
    x0: float
    y0: float
    dx: float
    dy: float
    width: int
    height: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in the raster's CRS."""
        return self.x0, self.y0 - self.dy * self.height, self.x0 + self.dx * self.width, self.y0

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the raster, in its CRS."""
        return self.x0 + self.dx * self.width / 2, self.y0 - self.dy * self.height / 2


def identity_map(grid: Grid) -> AxisMap:
    """Positions of the grid's pixels on the grid itself: their centres."""
    return AxisMap(*(np.arange(n, dtype=np.int64) * ONE + HALF for n in (grid.width, grid.height)))


def pixel_step(grid: Grid, frame: RasterFrame) -> tuple[float, float]:
    """How many full-resolution source pixels one output column and one output row span.

    Exact in one CRS; else by PROJ over one output pixel at the centre of the source raster, so
    that it does not depend on the box. Not finite where the raster has no place in the grid's CRS.
    """
    if same_crs(grid.crs, frame.crs):
        return grid.res_x / frame.dx, grid.res_y / frame.dy
    cx, cy = frame.centre
    mx, my = transform(frame.crs, grid.crs, np.array([cx]), np.array([cy]))
    half = np.array([-0.5, 0.5, 0.0, 0.0])
    sx, sy = transform(grid.crs, frame.crs, mx + half * grid.res_x, my + half[::-1] * grid.res_y)
    u, v = sx / frame.dx, sy / frame.dy
    return float(np.hypot(u[1] - u[0], v[1] - v[0])), float(np.hypot(u[3] - u[2], v[3] - v[2]))


class Projector:
    """Makes the pixel maps of one grid; PROJ's points are shared by all rasters of one CRS."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._nodes: dict[tuple[str, int], _Nodes] = {}
        self._maps: dict[tuple[RasterFrame, int, int], PixelMap] = {}
        self._steps: dict[RasterFrame, tuple[float, float]] = {}

    def sibling(self) -> Projector:
        """Another of the same grid, without maps: PROJ's points are shared with this one."""
        other = Projector(self.grid)
        other._nodes = self._nodes
        return other

    def step(self, frame: RasterFrame) -> tuple[float, float]:
        """:func:`pixel_step` of the grid on a raster."""
        frame = self._at_hand(frame)
        if frame not in self._steps:
            self._steps[frame] = pixel_step(self.grid, frame)
        return self._steps[frame]

    def map_to(self, frame: RasterFrame, width: int, height: int) -> PixelMap:
        """Positions of the grid's pixels on a level of `width` x `height` pixels of a raster."""
        frame = self._at_hand(frame)
        key = (frame, width, height)
        if key not in self._maps:
            same = same_crs(self.grid.crs, frame.crs)
            make = self._axis_map if same else self._lattice_map
            self._maps[key] = make(frame, width, height)
        return self._maps[key]

    def _at_hand(self, frame: RasterFrame) -> RasterFrame:
        """The same raster in the grid's hemisphere, where it lies in the other half of its UTM zone."""
        shift = northing_shift(frame.crs, self.grid.crs)
        return frame if shift is None else replace(frame, crs=self.grid.crs, y0=frame.y0 + shift)

    def _axis_map(self, frame: RasterFrame, width: int, height: int) -> PixelMap:
        x = (self.grid.columns() - frame.x0) * width / (frame.dx * frame.width)
        y = (frame.y0 - self.grid.rows()) * height / (frame.dy * frame.height)
        return AxisMap(_fixed(x), _fixed(y))

    def _lattice_map(self, frame: RasterFrame, width: int, height: int) -> PixelMap:
        for k in range(MAX_LOG2_STEP, -1, -1):
            nodes = self._nodes_of(frame.crs, k)
            if (
                k == 0
                or nodes.worst_error(frame) * max(width / frame.width, height / frame.height) < TOLERANCE_PX
            ):
                break
        x = (nodes.x - frame.x0) * width / (frame.dx * frame.width)
        y = (frame.y0 - nodes.y) * height / (frame.dy * frame.height)
        return LatticeMap(_fixed(x), _fixed(y), k, nodes.row0, nodes.col0)

    def _nodes_of(self, crs: str, k: int) -> _Nodes:
        if (crs, k) not in self._nodes:
            self._nodes[crs, k] = _Nodes(self.grid, crs, k)
        return self._nodes[crs, k]


MAX_LOG2_STEP = 4
TOLERANCE_PX = 2e-5
"""Largest error of an interpolated position, in source pixels."""
_FAR = float(1 << 20)


def _fixed(pixels: Floats) -> NDArray[np.int64]:
    """Positions rounded to 32 fractional bits, each for itself; not finite becomes OUTSIDE."""
    ok = np.isfinite(pixels)
    near: Floats = np.clip(np.where(ok, pixels, 0.0), -_FAR, _FAR)
    out: NDArray[np.int64] = np.rint(near * ONE).astype(np.int64)
    out[~ok] = OUTSIDE
    return out


class _Nodes:
    """Exact points of another CRS under every 2**k-th output pixel centre, and the error between."""

    def __init__(self, grid: Grid, crs: str, k: int) -> None:
        step = 1 << k
        first_r, first_c = grid.row0 // step, grid.col0 // step
        self.row0, self.col0 = grid.row0 - first_r * step, grid.col0 - first_c * step
        n_rows = (self.row0 + grid.height - 1) // step + 2
        n_cols = (self.col0 + grid.width - 1) // step + 2
        self._grid, self._crs, self._k = grid, crs, k
        self._rows: Floats = np.arange(n_rows, dtype=np.float64) * step - self.row0
        self._cols: Floats = np.arange(n_cols, dtype=np.float64) * step - self.col0
        self.x, self.y = self._project(self._rows, self._cols)
        self._error: Floats | None = None

    def _project(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        gx, gy = np.meshgrid(self._grid.columns(cols), self._grid.rows(rows))
        x, y = transform(self._grid.crs, self._crs, gx.ravel(), gy.ravel())
        return x.reshape(gx.shape), y.reshape(gx.shape)

    def worst_error(self, frame: RasterFrame) -> float:
        """Largest interpolation error, in full-resolution pixels, of the cells that touch a raster.

        Tested at the middles of the four edges *and* at the centre of every cell: between conformal
        grids the centre's error cancels.
        """
        if self._error is None:
            self._error = self._cell_errors()
        x0, y0, x1, y1 = frame.bounds
        with np.errstate(invalid="ignore"):
            inside = ~(
                (_cells(np.fmax, self.x) < x0)
                | (_cells(np.fmin, self.x) > x1)
                | (_cells(np.fmax, self.y) < y0)
                | (_cells(np.fmin, self.y) > y1)
            )
        errors = self._error[inside & np.isfinite(self._error)]
        return float(errors.max()) / min(frame.dx, frame.dy) if errors.size else 0.0

    def _cell_errors(self) -> Floats:
        half = (1 << self._k) / 2
        mid_r: Floats = self._rows[:-1] + half
        mid_c: Floats = self._cols[:-1] + half

        def off(rows: Floats, cols: Floats, mean: Callable[..., Floats]) -> Floats:
            x, y = self._project(rows, cols)
            with np.errstate(invalid="ignore"):
                return np.maximum(np.abs(x - mean(self.x)), np.abs(y - mean(self.y)))

        along = off(self._rows, mid_c, lambda a: (a[:, :-1] + a[:, 1:]) / 2)
        down = off(mid_r, self._cols, lambda a: (a[:-1] + a[1:]) / 2)
        centre = off(mid_r, mid_c, lambda a: (a[:-1, :-1] + a[1:, :-1] + a[:-1, 1:] + a[1:, 1:]) / 4)
        with np.errstate(invalid="ignore"):
            edges = np.maximum(np.maximum(along[:-1], along[1:]), np.maximum(down[:, :-1], down[:, 1:]))
            return np.maximum(edges, centre)


def _cells(pick: Callable[..., Floats], a: Floats) -> Floats:
    """`pick` (fmin or fmax) over the four corners of every cell."""
    return pick(pick(a[:-1, :-1], a[1:, :-1]), pick(a[:-1, 1:], a[1:, 1:]))


def source_window(
    positions: PixelMap, rows: tuple[int, int], cols: tuple[int, int], margin: int, width: int, height: int
) -> tuple[int, int, int, int] | None:
    """Box of source pixels (row0, row1, col0, col1) that holds every position of a window of the grid.

    `margin` pixels are added on each side, then the box is cut at the raster's edge; ``None`` if
    nothing is left.
    """
    if isinstance(positions, AxisMap):
        x, y = positions.x[cols[0] : cols[1]], positions.y[rows[0] : rows[1]]
    else:
        k = positions.log2_step
        r = slice((rows[0] + positions.row0) >> k, ((rows[1] - 1 + positions.row0) >> k) + 2)
        c = slice((cols[0] + positions.col0) >> k, ((cols[1] - 1 + positions.col0) >> k) + 2)
        x, y = positions.x[r, c], positions.y[r, c]
        ok = (x != OUTSIDE) & (y != OUTSIDE)
        x, y = x[ok], y[ok]
    if not x.size or not y.size:
        return None
    c0, c1 = (int(x.min()) >> 32) - margin, (int(x.max()) >> 32) + 1 + margin
    r0, r1 = (int(y.min()) >> 32) - margin, (int(y.max()) >> 32) + 1 + margin
    box = max(r0, 0), min(r1, height), max(c0, 0), min(c1, width)
    return box if box[0] < box[1] and box[2] < box[3] else None
