"""Which tiles chunks require, where outlines cross 180 degrees or have spikes."""

from __future__ import annotations

import numpy as np
import pytest

from bestpixel_gpu.geo.crs import box_outline, transform
from bestpixel_gpu.geo.grid import ChunkGrid, Grid
from bestpixel_gpu.geo.pixel_map import RasterFrame
from bestpixel_gpu.plan.footprints import Ring, raster_ring, required_tiles

WEST = RasterFrame("EPSG:32760", 813200, 8129200, 40, 40, 200, 200)
EAST = RasterFrame("EPSG:32701", 179300, 8129100, 40, 40, 200, 200)


def degrees(left: float) -> tuple[Grid, ChunkGrid]:
    grid = Grid("EPSG:4326", left, -16.92, 0, 0, 0.0004, 0.0004, 175, 100)
    return grid, ChunkGrid(np.array([0, 100]), np.array([0, 148, 175]))


@pytest.mark.parametrize("left", [179.96, -180.04, 539.96])
def test_in_degrees_rasters_lie_on_the_grids_side_of_180(left: float) -> None:
    grid, chunks = degrees(left)
    rings = {"60KYF": [raster_ring(WEST, grid)], "01KAB": [raster_ring(EAST, grid)]}
    for (ring,) in rings.values():
        assert left - 0.3 < ring[:, 0].min() < ring[:, 0].max() < left + 0.3
        assert (ring[0] == ring[-1]).all(), "closed to the bit"
    first, second = required_tiles(grid, chunks, rings)[0]
    assert (set(first), second) == ({"60KYF", "01KAB"}, ["01KAB"])


def test_spikes_of_rounding_are_no_area() -> None:
    """Corners that lie 1e-14 degrees beside themselves: mending such an outline leaves lines."""
    grid, chunks = degrees(179.96)

    def ring(frame: RasterFrame, shift: float) -> Ring:
        lon, lat = transform(frame.crs, grid.crs, *box_outline(frame.bounds))
        return np.column_stack([np.unwrap(lon, period=360.0) + shift, lat])

    rings = {"60KYF": [ring(WEST, 0)], "01KAB": [ring(EAST, 0 if ring(EAST, 0)[0, 0] > 0 else 360)]}
    first, second = required_tiles(grid, chunks, rings)[0]
    assert (set(first), second) == ({"60KYF", "01KAB"}, ["01KAB"])
