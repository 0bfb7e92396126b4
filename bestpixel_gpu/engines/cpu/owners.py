"""Which tiles the winners' samples need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import TapGeometry, Window
from bestpixel_gpu.engines.cpu.jit import first_weighed, inlined, int64, kernel, last_weighed, nearest, table
from bestpixel_gpu.engines.cpu.lattice import Lattice, Line, lattice_of, line_at, nodes_of, piece_end
from bestpixel_gpu.engines.cpu.spans import spans_of
from bestpixel_gpu.geo.pixel_map import AxisMap


class Need(NamedTuple):
    """Sizes on both axes, and how far a sample reaches around its taps."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    across: int
    bilinear: int
    margin: int


def owners(
    window: Window, winners: NDArray[Any], geometries: Mapping[int, TapGeometry]
) -> dict[int, NDArray[np.int64]]:
    """Tiles with a tap of weight > 0 under a pixel that a scene won; see the contract."""
    wanted = {
        rank: np.zeros((geometry.grid.tiles_down, geometry.grid.tiles_across), np.uint8)
        for rank, geometry in geometries.items()
    }
    tables: dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}
    for rank, spans in spans_of(winners, list(geometries)):
        geometry = geometries[rank]
        need, positions = _need_of(geometry), geometry.positions
        if isinstance(positions, AxisMap):
            if rank not in tables:
                tables[rank] = _axis_tables(positions, window, need)
            mark_axis(spans, *tables[rank], wanted[rank])
        else:
            mark_lattice(spans, lattice_of(positions, window[0], window[2]), need, wanted[rank])
    return {rank: np.flatnonzero(tiles) for rank, tiles in wanted.items()}


def _need_of(geometry: TapGeometry) -> Need:
    grid = geometry.grid
    return Need(
        grid.width,
        grid.height,
        grid.tile_width,
        grid.tile_height,
        grid.tiles_across,
        int(geometry.bilinear),
        geometry.margin,
    )


def _axis_tables(
    positions: AxisMap, window: Window, need: Need
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tiles of each row and of each column of the window, see :func:`tile_ranges`."""
    row0, row1, col0, col1 = window
    rows, cols = np.empty((3, row1 - row0), np.int32), np.empty((3, col1 - col0), np.int32)
    tile_ranges(table(positions.y[row0:row1], np.int64), need.height, need.tile_height, need, rows)
    tile_ranges(table(positions.x[col0:col1], np.int64), need.width, need.tile_width, need, cols)
    return rows, cols


@kernel
def tile_ranges(positions: Any, size: int, tile: int, need: Need, out: Any) -> None:
    """First and last tile on one axis that each position needs; ``0, -1`` outside the raster.

    The third field tells where the run of positions ends that need the same ones.
    """
    for i in range(positions.size):
        out[0, i], out[1, i] = _tiles(positions[i], size, tile, need)
    end = positions.size
    for i in range(positions.size - 1, -1, -1):
        following = min(i + 1, positions.size - 1)
        if out[0, i] != out[0, following] or out[1, i] != out[1, following]:
            end = following
        out[2, i] = end


@inlined
def _tiles(position: int, size: int, tile: int, need: Need) -> Any:
    first = last = nearest(position)
    if first < 0 or first >= size:
        return 0, -1
    if need.bilinear:
        first, last = first_weighed(position), last_weighed(position)
    return max(first - need.margin, 0) // tile, min(last + need.margin, size - 1) // tile


@kernel
def mark_axis(spans: Any, rows: Any, cols: Any, wanted: Any) -> None:
    """Mark the tiles of spans, from the tiles of each row and each column."""
    for s in range(spans.shape[0]):
        top, bottom = rows[0, spans[s, 0]], rows[1, spans[s, 0]]
        c = spans[s, 1]
        while c < spans[s, 2]:
            for i in range(top, bottom + 1):
                for j in range(cols[0, c], cols[1, c] + 1):
                    wanted[i, j] = 1
            c = cols[2, c]


@kernel
def mark_lattice(spans: Any, lattice: Lattice, need: Need, wanted: Any) -> None:
    """Mark the tiles of spans, from the ends of each cell's piece where these agree."""
    nodes = nodes_of(lattice)
    for s in range(spans.shape[0]):
        row, col, end = int64(spans[s, 0]), int64(spans[s, 1]), int64(spans[s, 2])
        while col < end:
            stop = piece_end(nodes, col, end)
            line = line_at(nodes, row, col)
            if line.inside:
                last = stop - 1 - col
                if _one_tile(line, last, need):
                    last = 0
                for i in range(last + 1):
                    _mark(
                        (line.x + i * line.dx) >> line.shift,
                        (line.y + i * line.dy) >> line.shift,
                        need,
                        wanted,
                    )
            col = stop


@inlined
def _one_tile(line: Line, last: int, need: Need) -> Any:
    """Both ends of a line need one and the same tile; then so does all between them."""
    left, right = _tiles(line.x >> line.shift, need.width, need.tile_width, need)
    left2, right2 = _tiles((line.x + last * line.dx) >> line.shift, need.width, need.tile_width, need)
    if left != right or left2 != left or right2 != left:
        return False
    top, bottom = _tiles(line.y >> line.shift, need.height, need.tile_height, need)
    top2, bottom2 = _tiles((line.y + last * line.dy) >> line.shift, need.height, need.tile_height, need)
    return top == bottom and top2 == top and bottom2 == top


@inlined
def _mark(x: int, y: int, need: Need, wanted: Any) -> None:
    left, right = _tiles(x, need.width, need.tile_width, need)
    top, bottom = _tiles(y, need.height, need.tile_height, need)
    for i in range(top, bottom + 1):
        for j in range(left, right + 1):
            wanted[i, j] = 1
