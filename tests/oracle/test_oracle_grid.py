"""Grids and positions against PROJ, and against figures recorded from the ancestor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle_reference import NOWHERE, ONE, RefGrid, Source, near_edge, positions, step
from oracle_scenes import YEAR, Place, clear_scl, make_scene
from pyproj import CRS, Transformer

from bestpixel_gpu import build_composite
from bestpixel_gpu.geo.grid import Grid, chunk_edges, grid_of_geobox, native_grid, outline_lonlat
from bestpixel_gpu.geo.pixel_map import OUTSIDE, AxisMap, Projector, RasterFrame

SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +a=6371007.181 +b=6371007.181 +units=m +no_defs"
RECORDED = [
    ((30.5, 30.5, 31.6, 31.5), 60, "utm", (260040, 3375000, 367080, 3487740), 32636, (1879, 1784)),
    ((30.5, -10.2, 30.6, -10.1), 60, "utm", (225960, 8871360, 237120, 8882580), 32736, (187, 186)),
    ((106.78, -6.22, 106.90, -6.10), 30, "utm-north", (696930, -687930, 710280, -674580), 32648, (445, 445)),
    ((30.5, 30.5, 31.6, 31.5), 500, "sinusoidal", (2891500, 3391000, 3028000, 3503000), 0, (224, 273)),
    ((30.5, 30.5, 31.6, 31.5), 500, "utm", (260000, 3375000, 367500, 3488000), 32636, (226, 215)),
]


@pytest.mark.parametrize(("bbox", "res", "projection", "bounds", "epsg", "shape"), RECORDED)
def test_grids_are_those_recorded_from_the_ancestor(
    bbox: Any, res: float, projection: Any, bounds: Any, epsg: int, shape: Any
) -> None:
    grid = native_grid(bbox, res, projection)
    assert grid.bounds == bounds
    assert grid.shape == shape
    said = grid.as_dict()
    assert (said["epsg"], said["width"], said["height"]) == (epsg, shape[1], shape[0])
    assert said["transform"] == [res, 0, bounds[0], 0, -res, bounds[3]]
    assert (said["proj4"] is None) == (epsg != 0)


def boxes(seed: int, n: int) -> list[tuple[float, float, float, float]]:
    """Random boxes of 0.01 to 2 degrees, of both hemispheres; some across the equator or 180 degrees."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        w, h = rng.uniform(0.01, 2, 2)
        lon, lat = rng.uniform(-179, 178), rng.uniform(-75, 75)
        if i % 5 == 0:
            lat = -h * rng.uniform(0.01, 0.99)
        if i % 5 == 1:
            lon = 180 - w * rng.uniform(0.01, 0.99)
        east = lon + w
        box = lon, lat, east - 360 if east > 180 else east, lat + h
        out.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    return out


@pytest.mark.parametrize("res", [10, 20, 60, 33.3, 500])
def test_native_grid_is_projs_bounds_snapped_outwards(res: float) -> None:
    for west, south, east, north in boxes(int(res), 60):
        wide = east if east > west else east + 360
        lon = (west + wide) / 2
        zone = min(int((lon - 360 if lon >= 180 else lon) + 180) // 6 + 1, 60)
        epsg = (32600 if south + north >= 0 else 32700) + zone
        grid = native_grid((west, south, east, north), res)
        assert grid.crs == f"EPSG:{epsg}"
        to_utm = Transformer.from_crs(4326, epsg, always_xy=True)
        sides = np.linspace(0, 1, 21)
        lons = np.concatenate([west + (wide - west) * sides] * 2 + [np.full(21, west), np.full(21, wide)])
        lats = np.concatenate(
            [np.full(21, south), np.full(21, north)] + [south + (north - south) * sides] * 2
        )
        x, y = to_utm.transform(lons, lats)
        assert grid.col0 == math.floor(x.min() / res)
        assert grid.row0 == -math.ceil(y.max() / res)
        assert grid.width == math.ceil(x.max() / res) - math.floor(x.min() / res)
        assert grid.height == math.ceil(y.max() / res) - math.floor(y.min() / res)
        if east > west:
            bounds = to_utm.transform_bounds(west, south, east, north, densify_pts=19)
            assert (grid.left, grid.bounds[1]) == pytest.approx(
                [math.floor(v / res) * res for v in bounds[:2]], abs=1e-6
            )


def test_centres_of_overlapping_boxes_coincide() -> None:
    a, b = native_grid((5.1, 50.1, 5.3, 50.3), 33.3), native_grid((5.2, 50.05, 5.45, 50.25), 33.3)
    shift = b.col0 - a.col0
    assert 0 < shift < a.width
    np.testing.assert_array_equal(a.columns()[shift:], b.columns()[: a.width - shift])


def test_search_box_holds_the_grid() -> None:
    for box in boxes(7, 60):
        grid = native_grid(box, 60)
        west, south, east, north = outline_lonlat(grid)
        x0, y0, x1, y1 = grid.bounds
        t = np.linspace(0, 1, 401)
        x = np.concatenate([x0 + (x1 - x0) * t] * 2 + [np.full(401, x0), np.full(401, x1)])
        y = np.concatenate([np.full(401, y0), np.full(401, y1)] + [y0 + (y1 - y0) * t] * 2)
        lon, lat = Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(x, y)
        if east < west:
            lon, east = np.where(lon < 0, lon + 360, lon), east + 360
        # Between two of the 21 points the outline may bulge by 1/1600 of a side's own sagitta.
        slack = 1e-3 * max(east - west, north - south)
        assert lon.min() >= west - slack
        assert lon.max() <= east + slack
        assert lat.min() >= south - slack
        assert lat.max() <= north + slack
        assert west <= box[0] + slack
        assert (box[2] if box[2] > box[0] else box[2] + 360) <= east + slack


@pytest.mark.parametrize(
    ("origin", "size"), [(0, 1024), (0, 513), (511, 3), (30213, 617), (-489929, 574), (-1, 1)]
)
def test_chunks_are_cut_at_multiples_of_512(origin: int, size: int) -> None:
    edges = chunk_edges(origin, size).tolist()
    inside = [e for e in range(1, size) if (origin + e) % 512 == 0]
    assert edges == [0, *inside, size]


def test_geobox_round_trip() -> None:
    grid = RefGrid.at("EPSG:3035", 4321000.5, 3210000.25, 12.5, 77, 55)
    got = grid_of_geobox(grid.geobox())
    assert (got.crs, got.left, got.top, got.shape, got.res_x) == (
        "EPSG:3035",
        4321000.5,
        3210000.25,
        (55, 77),
        12.5,
    )


# ---- positions ----
def as_source(frame: RasterFrame) -> Source:
    size = (frame.width, frame.height)
    crs = CRS.from_user_input(frame.crs)
    return Source("", crs, frame.x0, frame.y0, frame.dx, frame.dy, (size,), None)


def as_reference(grid: Grid) -> RefGrid:
    return RefGrid(
        grid.crs, grid.base_x, grid.base_y, grid.col0, grid.row0, grid.res_x, grid.width, grid.height
    )


def expanded(positions_: Any, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pixel's position as the documented formula of each map says, in Python's own integers."""
    if isinstance(positions_, AxisMap):
        x, y = np.meshgrid(positions_.x, positions_.y)
        return x, y
    k, s = positions_.log2_step, 1 << positions_.log2_step
    rows, cols = np.arange(grid.height) + positions_.row0, np.arange(grid.width) + positions_.col0
    fy, fx = np.meshgrid(rows & (s - 1), cols & (s - 1), indexing="ij")
    r, c = np.meshgrid(rows >> k, cols >> k, indexing="ij")
    out = []
    for a in (positions_.x, positions_.y):
        if k == 0:
            out.append(a[r, c])
            continue
        total = np.zeros(grid.shape, object)
        void = np.zeros(grid.shape, bool)
        for dr, wr in ((0, s - fy), (1, fy)):
            for dc, wc in ((0, s - fx), (1, fx)):
                node = a[r + dr, c + dc]
                void |= node == OUTSIDE
                total += (wr * wc).astype(object) * node.astype(object)
        value = np.where(void, 0, (total + (1 << (2 * k - 1))) // (1 << (2 * k))).astype(np.int64)
        value[void] = OUTSIDE
        out.append(value)
    return out[0], out[1]


@pytest.mark.parametrize(
    ("bbox", "res", "source_crs"),
    [
        ((0.5, 44.1, 0.62, 44.2), 60, "EPSG:32630"),
        ((5.95, 50.0, 6.05, 50.1), 20, "EPSG:32632"),
        ((29.98, -0.05, 30.05, 0.04), 30, "EPSG:32735"),
        ((20.1, 69.9, 20.5, 70.1), 100, SINUSOIDAL),
        ((-60.1, -33.1, -59.95, -33.0), 25, "EPSG:4326"),
        ((179.95, -17.0, -179.95, -16.9), 40, "EPSG:32760"),
    ],
)
def test_fix_23_positions_across_crs_are_within_2e_5_pixels_of_proj(
    bbox: Any, res: float, source_crs: str
) -> None:
    grid = native_grid(bbox, res)
    middle = Transformer.from_crs(grid.crs, source_crs, always_xy=True).transform(
        (grid.bounds[0] + grid.bounds[2]) / 2, (grid.bounds[1] + grid.bounds[3]) / 2
    )
    pixel = 1e-4 if source_crs == "EPSG:4326" else 10.0
    frame = RasterFrame(
        source_crs, middle[0] - 600 * pixel, middle[1] + 500 * pixel, pixel, pixel, 1100, 1200
    )
    got = Projector(grid).map_to(frame, frame.width, frame.height)
    want = positions(as_reference(grid), as_source(frame))
    near = [(w > -ONE) & (w < (n + 1) * ONE) for w, n in zip(want, (1100, 1200), strict=True)]
    touched = near[0] & near[1]
    assert touched.sum() > 1000
    for have, exact in zip(expanded(got, grid), want, strict=True):
        assert (exact[touched] != NOWHERE).all()
        assert np.abs(have - exact)[touched].max() < 2.5e-5 * ONE


def test_same_crs_positions_are_each_rounded_for_themselves() -> None:
    grid = Grid("EPSG:32631", 0.0, 0.0, 7500, -122502, 40.0, 40.0, 2744, 500)
    frame = RasterFrame("EPSG:32631", 300000.0, 4900020.0, 30.0, 30.0, 3660, 3660)
    got = Projector(grid).map_to(frame, frame.width, frame.height)
    assert isinstance(got, AxisMap)
    x, y = positions(as_reference(grid), as_source(frame))
    np.testing.assert_array_equal(got.x, x[0])
    np.testing.assert_array_equal(got.y, y[:, 0])
    exact = [(40 * (2 * (7500 + c) + 1) - 2 * 300000) // 60 for c in range(grid.width)]  # floor, in integers
    assert (got.x >> 32).tolist() == exact
    assert near_edge(got.x).sum() > 900  # and the exact ties are many


def test_step_is_measured_at_the_middle_of_the_source() -> None:
    from bestpixel_gpu.geo.pixel_map import pixel_step

    grid = native_grid((5.9, 50.0, 6.1, 50.1), 60)
    frame = RasterFrame("EPSG:32632", 280000.0, 5560000.0, 10.0, 10.0, 1000, 1000)
    assert pixel_step(grid, frame) == pytest.approx(step(as_reference(grid), as_source(frame)), rel=1e-9)


@pytest.mark.parametrize("crs", ["EPSG:4326", None])
def test_scenes_on_both_sides_of_180_degrees(tmp_path: Path, crs: str | None) -> None:
    """Each side's tile is asked for by the chunks it covers, in degrees (beyond 180) as in metres."""
    items = []
    for zone, tile, lon in ((32760, "60KYF", 179.94), (32701, "01KAB", -180.01)):
        x, y = Transformer.from_crs(4326, zone, always_xy=True).transform(lon, -16.9)
        place = Place(f"EPSG:{zone}", round(x, -2), round(y, -2))
        band = {"red": np.full((200, 200), zone - 32000, np.uint16)}
        made = make_scene(
            tmp_path, tile, "2024-07-01T00:00:00+00:00", band, clear_scl(200, 200), place, res=40, scl_res=40
        )
        made.item["properties"]["s2:mgrs_tile"] = tile
        items.append(made.item)
    got = build_composite(
        (179.96, -16.96, -179.97, -16.92), YEAR, 0.0004 if crs else 40, top_k=1, fill=False, crs=crs,
        items=items, endpoint="pc", bands=["red"], resampling="nearest", device="cpu",
    )  # fmt: skip
    assert got.report.empty_pixels == 0
    assert set(np.unique(got.bands["red"]).tolist()) == {701, 760}
    assert all(scene.selected for scene in got.report.scenes)
