"""Positions: exact ties, independence of the box, lattice error against PROJ."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from pyproj import Transformer

from bestpixel_gpu.geo.grid import Grid
from bestpixel_gpu.geo.pixel_map import (
    ONE,
    OUTSIDE,
    AxisMap,
    LatticeMap,
    Projector,
    RasterFrame,
    pixel_step,
    source_window,
)

UTM31 = RasterFrame("EPSG:32631", 300000.0, 4900020.0, 10.0, 10.0, 10980, 10980)


def _interpolate(m: LatticeMap, table: np.ndarray, height: int, width: int) -> np.ndarray:
    """The documented formula, in Python integers."""
    k, s = m.log2_step, 1 << m.log2_step
    out = np.empty((height, width), object)
    for r in range(height):
        for c in range(width):
            R, C = r + m.row0, c + m.col0
            i, j, fy, fx = R >> k, C >> k, R & (s - 1), C & (s - 1)
            n = [[int(table[i + a, j + b]) for b in (0, 1)] for a in (0, 1)]
            total = (
                n[0][0] * (s - fx) * (s - fy) + n[0][1] * fx * (s - fy)
                + n[1][0] * (s - fx) * fy + n[1][1] * fx * fy
            )  # fmt: skip
            out[r, c] = (total + (1 << 2 * k >> 1)) >> 2 * k
    return out


def test_thirty_to_forty_metres_is_exact_in_eighths() -> None:
    grid = Grid("EPSG:32631", 0, 0, 10000, -163334, 30.0, 30.0, 2744, 10)
    m = Projector(grid).map_to(UTM31, 2745, 2745)
    assert isinstance(m, AxisMap)
    exact = [Fraction((2 * (10000 + c) + 1) * 15 - 300000) / 40 for c in range(grid.width)]
    assert all(abs(int(x) - q * ONE) <= Fraction(1, 2) for x, q in zip(m.x, exact, strict=True))
    assert all(q.denominator == 8 and int(x) == q * ONE for x, q in zip(m.x, exact, strict=True))


@pytest.mark.parametrize("res", [10.0, 33.3, 60.0, 7.77])
def test_position_does_not_depend_on_the_box(res: float) -> None:
    wide = Grid("EPSG:32631", 0, 0, 9000, -150000, res, res, 500, 400)
    cut = Grid("EPSG:32631", 0, 0, 9123, -149950, res, res, 100, 90)
    a, b = (Projector(g).map_to(UTM31, 5490, 5490) for g in (wide, cut))
    assert np.array_equal(a.x[123:223], b.x)
    assert np.array_equal(a.y[50:140], b.y)


@pytest.mark.parametrize(
    ("dst", "res"), [("EPSG:32632", 10.0), ("EPSG:32632", 60.0), ("EPSG:3035", 10.0), ("EPSG:4326", 1e-4)]
)
def test_lattice_is_within_two_hundred_thousandths_of_a_pixel(dst: str, res: float) -> None:
    x, y = Transformer.from_crs("EPSG:32631", dst, always_xy=True).transform(400000.0, 4850000.0)
    grid = Grid(dst, 0, 0, round(x / res), -round(y / res), res, res, 150, 130)
    level = 10980 if res < 60 else 2745
    m = Projector(grid).map_to(UTM31, level, level)
    assert isinstance(m, LatticeMap)
    back = Transformer.from_crs(dst, "EPSG:32631", always_xy=True)
    gx, gy = np.meshgrid(grid.columns(), grid.rows())
    ex, ey = back.transform(gx, gy)
    scale = level / 109800.0
    for table, exact in ((m.x, (ex - UTM31.x0) * scale), (m.y, (UTM31.y0 - ey) * scale)):
        mine = _interpolate(m, table, grid.height, grid.width).astype(float) / ONE
        assert np.abs(mine - exact).max() < 2.5e-5


def test_place_without_a_counterpart_is_outside() -> None:
    grid = Grid("EPSG:4326", 0, 0, -180, -90, 1.0, 1.0, 360, 180)
    m = Projector(grid).map_to(RasterFrame("EPSG:3031", -3e6, 3e6, 1000, 1000, 6000, 6000), 6000, 6000)
    assert isinstance(m, LatticeMap)
    assert (m.x == OUTSIDE).any() or np.abs(m.x).max() <= 1 << 52


def test_step_is_exact_in_one_crs_and_near_it_across_zones() -> None:
    grid = Grid("EPSG:32631", 0, 0, 0, 0, 60.0, 30.0, 10, 10)
    assert pixel_step(grid, UTM31) == (6.0, 3.0)
    other = Grid("EPSG:32632", 0, 0, 0, 0, 60.0, 60.0, 10, 10)
    assert pixel_step(other, UTM31) == pytest.approx((6.0, 6.0), rel=5e-3)


def test_source_window_holds_every_position() -> None:
    grid = Grid("EPSG:32632", 0, 0, -8000, -490000, 10.0, 10.0, 3000, 2000)
    m = Projector(grid).map_to(UTM31, 10980, 10980)
    box = source_window(m, (100, 400), (50, 900), 1, 10980, 10980)
    gx, gy = np.meshgrid(grid.columns()[50:900], grid.rows()[100:400])
    x, y = Transformer.from_crs("EPSG:32632", "EPSG:32631", always_xy=True).transform(gx, gy)
    col, row = np.floor((x - UTM31.x0) / 10), np.floor((UTM31.y0 - y) / 10)
    inside = (col >= 0) & (col < 10980) & (row >= 0) & (row < 10980)
    if box is None:
        assert not inside.any()
    else:
        r0, r1, c0, c1 = box
        assert ((row[inside] >= r0) & (row[inside] < r1) & (col[inside] >= c0) & (col[inside] < c1)).all()


def test_fix_29_the_two_hemispheres_of_a_utm_zone_share_every_position() -> None:
    """Northings 10 000 km apart are one projection: tables, not a lattice, and the same to the bit."""
    from bestpixel_gpu.geo.crs import northing_shift

    grid = Grid("EPSG:32733", 0.0, 0.0, 21600, -370000, 20.0, 20.0, 300, 200)
    frame = RasterFrame("EPSG:32633", 431970.0, -2599950.0, 30.0, 30.0, 400, 300)
    own = RasterFrame("EPSG:32733", 431970.0, 7400050.0, 30.0, 30.0, 400, 300)
    got, want = (Projector(grid).map_to(f, 400, 300) for f in (frame, own))
    assert isinstance(got, AxisMap)
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(got.y, want.y)
    assert Projector(grid).step(frame) == Projector(grid).step(own)
    assert northing_shift("EPSG:32633", "EPSG:32733") == -northing_shift("EPSG:32733", "EPSG:32633") == 1e7
    for other in ("EPSG:32633", "EPSG:32634", "EPSG:32661", "EPSG:3035", "+proj=utm +zone=33"):
        assert northing_shift("EPSG:32633", other) is None
        assert northing_shift(other, "EPSG:32633") is None
