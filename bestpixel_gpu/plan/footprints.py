"""Which MGRS tiles a chunk needs, from the places its candidates' rasters cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.geo.crs import box_outline, full_turn, same_crs, transform, unwrapped
from bestpixel_gpu.geo.grid import ChunkGrid, Grid
from bestpixel_gpu.geo.pixel_map import RasterFrame

Ring = NDArray[np.float64]
"""(n, 2) corners in the output CRS."""


def raster_ring(frame: RasterFrame, grid: Grid) -> Ring:
    """Outline of a raster in the grid's CRS: its corners, or 21 points a side across CRSs."""
    x0, y0, x1, y1 = frame.bounds
    if same_crs(frame.crs, grid.crs):
        return np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)])
    return _beside(np.column_stack(transform(frame.crs, grid.crs, *box_outline(frame.bounds))), grid)


def lonlat_ring(outline: Sequence[tuple[float, float]], grid: Grid) -> Ring:
    """An item's own footprint (degrees) in the grid's CRS, vertices only, as the ancestor does."""
    lon, lat = np.array(outline, float).T
    return _beside(np.column_stack(transform("EPSG:4326", grid.crs, lon, lat)), grid)


def _beside(ring: Ring, grid: Grid) -> Ring:
    """What is finite of a ring; in degrees whole, on the side of 180 on which the grid counts."""
    ring = ring[np.isfinite(ring).all(axis=1)]
    turn = full_turn(grid.crs)
    if turn is not None and len(ring):
        x = unwrapped(ring[:, 0], turn)
        middle = grid.left + grid.width * grid.res_x / 2
        ring[:, 0] = x + turn * np.rint((middle - (x.min() + x.max()) / 2) / turn)
    return ring


def required_tiles(
    grid: Grid, chunks: ChunkGrid, rings: Mapping[str, Sequence[Ring]]
) -> list[list[list[str]]]:
    """Tile codes each chunk requires, ``[chunk row][chunk col]``, largest exclusive area first.

    Required is a tile that covers at least one output pixel's area of the chunk which no other
    tile covers; else the one tile with the largest share (ties: the alphabetically last). A chunk
    that no footprint touches requires none.
    """
    n_rows, n_cols = len(chunks.row_edges) - 1, len(chunks.col_edges) - 1
    codes = sorted(rings)
    if len(codes) == 1:
        return [[codes[:] for _ in range(n_cols)] for _ in range(n_rows)]
    own, exclusive = _areas(grid, chunks, [rings[c] for c in codes])
    pixel = grid.res_x * grid.res_y
    out: list[list[list[str]]] = []
    for r in range(n_rows):
        row: list[list[str]] = []
        for c in range(n_cols):
            alone, whole = exclusive[:, r, c], own[:, r, c]
            need = [i for i in np.argsort(-alone, kind="stable") if alone[i] >= pixel]
            if not need and whole.max() > 0:
                need = [max(range(len(codes)), key=lambda i: (whole[i], codes[i]))]
            row.append([codes[i] for i in need])
        out.append(row)
    return out


def _areas(
    grid: Grid, chunks: ChunkGrid, rings: Sequence[Sequence[Ring]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area of each tile in each chunk, and the part of it that no other tile covers."""
    import shapely

    x = grid.left + chunks.col_edges * grid.res_x
    y = grid.top - chunks.row_edges * grid.res_y
    boxes = shapely.box(x[None, :-1], y[1:, None], x[None, 1:], y[:-1, None])
    shapes: list[Any] = [shapely.union_all(_faces(group)) for group in rings]
    own = [shapely.intersection(boxes, s) for s in shapes]
    exclusive = [
        shapely.area(shapely.difference(mine, shapely.union_all([s for j, s in enumerate(shapes) if j != i])))
        for i, mine in enumerate(own)
    ]
    return np.array([shapely.area(o) for o in own]), np.array(exclusive)


def _faces(rings: Sequence[Ring]) -> NDArray[Any]:
    """Polygons of the rings; not the lines that mending leaves of spikes, whose differences GEOS refuses."""
    import shapely

    mended = [shapely.make_valid(shapely.polygons(r)) for r in rings if len(r) > 2]
    parts: NDArray[Any] = shapely.get_parts(np.array(mended, object))
    faces: NDArray[Any] = parts[shapely.get_dimensions(parts) == 2]
    return faces
