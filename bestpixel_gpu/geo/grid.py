"""The output grid: where every output pixel lies, in which CRS, under which global index, in which chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.geo.crs import SINUSOIDAL, crs_text, epsg_of, project_bounds, utm_epsg

CHUNK = 512
"""Edge of a selection chunk in output pixels."""
Projection = Literal["utm", "utm-north", "sinusoidal"]
"""UTM of the hemisphere; of the north everywhere (negative northings in the south); that of MODIS."""
MODIS_PIXEL = 1111950.519667 / 2400
"""Side of a 500 m MODIS pixel, in metres; their edges lie on its multiples."""


@dataclass(frozen=True, slots=True)
class Grid:
    """North-up grid of square or oblong pixels.

    The centre of pixel (r, c) is ``x = base_x + (col0 + c + 1/2) res_x`` and
    ``y = base_y - (row0 + r + 1/2) res_y``: `col0`, `row0` are *global* indices, counted from the
    CRS origin (base 0) or, for a foreign geobox, from its own corner. Every position is made from
    them, so overlapping grids of one origin share their pixels exactly.
    """

    crs: str
    """``"EPSG:n"`` where there is a code, else WKT2 or a PROJ string."""
    base_x: float
    base_y: float
    col0: int
    row0: int
    res_x: float
    res_y: float
    width: int
    height: int

    @property
    def left(self) -> float:
        """X of the left edge, in CRS units."""
        return self.base_x + self.col0 * self.res_x

    @property
    def top(self) -> float:
        """Y of the upper edge, in CRS units."""
        return self.base_y - self.row0 * self.res_y

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) of the outer pixel edges, in CRS units."""
        right = self.base_x + (self.col0 + self.width) * self.res_x
        bottom = self.base_y - (self.row0 + self.height) * self.res_y
        return self.left, bottom, right, self.top

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.height, self.width

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """(a, b, c, d, e, f) as rasterio's Affine orders them."""
        return self.res_x, 0.0, self.left, 0.0, -self.res_y, self.top

    def columns(self, at: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """X of pixel centres: of all columns, or of (fractional) grid columns `at` + 1/2."""
        c = np.arange(self.width, dtype=np.float64) if at is None else at
        return self.base_x + (self.col0 + c + 0.5) * self.res_x

    def rows(self, at: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Y of pixel centres: of all rows, or of (fractional) grid rows `at` + 1/2."""
        r = np.arange(self.height, dtype=np.float64) if at is None else at
        return self.base_y - (self.row0 + r + 0.5) * self.res_y

    def as_dict(self) -> dict[str, Any]:
        """The ancestor's ``grid`` entry: bounds, epsg, proj4, crs, resolution, width, height, transform."""
        epsg = epsg_of(self.crs)
        return {
            "bounds": list(self.bounds),
            "epsg": epsg or 0,
            "proj4": None if epsg else self.crs,
            "crs": self.crs,
            "resolution": self.res_x,
            "width": self.width,
            "height": self.height,
            "transform": list(self.transform),
        }


def chunk_edges(origin: int, size: int, chunk: int = CHUNK) -> NDArray[np.int64]:
    """Edges of chunks anchored at global index 0, in grid pixels: 0, ..., `size`.

    `origin` is the global index of the grid's first row or column.
    """
    first = (origin // chunk + 1) * chunk - origin
    return np.array([0, *range(first, size, chunk), size], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkGrid:
    """How chunks cut the output grid: rising edges, first 0, last the grid's size.

    Windows are half-open and in grid pixels: ``(row0, row1, col0, col1)``.
    """

    row_edges: NDArray[np.int64]
    col_edges: NDArray[np.int64]

    def edges_in(self, window: tuple[int, int, int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Edges of the chunks of a window, counted from its first pixel; errors as :meth:`under`."""
        rows, cols = self.under(window)
        return (
            self.row_edges[rows.start : rows.stop + 1] - window[0],
            self.col_edges[cols.start : cols.stop + 1] - window[2],
        )

    def under(self, window: tuple[int, int, int, int]) -> tuple[slice, slice]:
        """Chunk rows and chunk columns of a window.

        Raises
        ------
        ValueError
            If it does not start and end on chunk edges.
        """
        return _between(self.row_edges, *window[:2]), _between(self.col_edges, *window[2:])

    def halves(self, window: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
        """A window of whole chunks in two, across the side of more chunks; a single chunk as it is.

        Raises
        ------
        ValueError
            As :meth:`under`.
        """
        (r0, r1, c0, c1), (rows, cols) = window, self.under(window)
        down, across = rows.stop - rows.start, cols.stop - cols.start
        if max(down, across) < 2:
            return [window]
        if down >= across:
            middle = int(self.row_edges[rows.start + down // 2])
            return [(r0, middle, c0, c1), (middle, r1, c0, c1)]
        middle = int(self.col_edges[cols.start + across // 2])
        return [(r0, r1, c0, middle), (r0, r1, middle, c1)]


def _between(edges: NDArray[np.int64], start: int, end: int) -> slice:
    first, last = (int(np.searchsorted(edges, place)) for place in (start, end))
    on_edges = last < len(edges) and edges[first] == start and edges[last] == end
    if not (on_edges and start < end):
        raise ValueError(f"window {start}..{end} does not start and end on chunk edges")
    return slice(first, last)


def native_grid(
    bbox: tuple[float, float, float, float],
    resolution: float,
    projection: Projection = "utm",
    anchor: float = 0.0,
) -> Grid:
    """Grid of a box in degrees, snapped outwards to multiples of `resolution`.

    The UTM zone is that of the box's centre; west > east is a crossing of 180 degrees, where the
    centre longitude is the wrapped middle. Bounds are those of 21 points along each side. With
    `anchor` edges lie that far beyond the multiples.

    Raises
    ------
    InputError
        If a box that crosses 180 degrees is wanted in the sinusoidal grid, which is torn there.
    """
    west, south, east, north = bbox
    if projection == "sinusoidal":
        if west > east:
            raise InputError(
                f"bbox {bbox} crosses 180 degrees, where the sinusoidal grid is torn: give output_crs='utm'"
            )
        return grid_in(bbox, resolution, SINUSOIDAL, anchor)
    span = east - west if east >= west else east - west + 360.0
    lon = (west + span / 2 + 180.0) % 360.0 - 180.0
    lat = 0.0 if projection == "utm-north" else (south + north) / 2
    return grid_in(bbox, resolution, f"EPSG:{utm_epsg(lon, lat)}", anchor)


def grid_in(
    bbox: tuple[float, float, float, float], resolution: float, crs: str, anchor: float = 0.0
) -> Grid:
    """Grid in any CRS over a box in degrees, snapped outwards to multiples of `resolution` + `anchor`."""
    xmin, ymin, xmax, ymax = (v - anchor for v in project_bounds(bbox, crs))
    c0, c1 = math.floor(xmin / resolution), math.ceil(xmax / resolution)
    r0, r1 = math.floor(ymin / resolution), math.ceil(ymax / resolution)
    return Grid(crs_text(crs), anchor, anchor, c0, -r1, resolution, resolution, c1 - c0, r1 - r0)


def grid_of_geobox(box: Any) -> Grid:
    """Grid of an odc-geo ``GeoBox``, or of an xarray object that has one at ``.odc.geobox``.

    Raises
    ------
    InputError
        If there is no CRS, or the box is rotated, sheared or not north-up.
    """
    box = _geobox(box)
    if box.crs is None:
        raise InputError("geobox has no CRS: give one that has")
    t = box.transform
    if t.b or t.d or t.a <= 0 or t.e >= 0:
        raise InputError(f"geobox must be north-up and unrotated, its transform is {tuple(t)[:6]}")
    height, width = box.shape
    epsg = box.crs.to_epsg()
    text = f"EPSG:{epsg}" if epsg else box.crs.to_wkt()
    return Grid(text, float(t.c), float(t.f), 0, 0, float(t.a), float(-t.e), int(width), int(height))


def _geobox(like: Any) -> Any:
    if all(hasattr(like, name) for name in ("transform", "crs", "shape", "boundary")):  # a GeoBox
        return like
    import odc.geo.xr  # noqa: F401  (registers the accessor)

    box = getattr(getattr(like, "odc", None), "geobox", None)
    if box is None:
        raise InputError(
            "like= / geobox= must be an odc-geo GeoBox or an xarray object with a CRS and a regular grid, "
            f"got {type(like).__name__}"
        )
    return box


def outline_lonlat(grid: Grid) -> tuple[float, float, float, float]:
    """Search box (west, south, east, north) of the grid's outline, 21 points a side, in degrees.

    west > east where the outline crosses 180 degrees.
    """
    from bestpixel_gpu.geo.crs import lonlat_box

    return lonlat_box(grid.bounds, grid.crs)
