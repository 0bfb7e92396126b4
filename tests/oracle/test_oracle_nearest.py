"""Sampling against GDAL's warper and float64 arithmetic, on COGs whose pixels tell where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from numpy.typing import NDArray
from oracle_checks import assert_matches, build
from oracle_reference import (
    ONE,
    BandRule,
    RefGrid,
    RefScene,
    Source,
    band_layer,
    composite,
    level_for,
    mask_layer,
    near_edge,
    positions,
    step,
)
from oracle_scenes import MadeScene, Place, clear_scl, make_scene
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

PLACE = Place("EPSG:32631", 300000, 4900020)
SIZE = 1024
"""Pixels of 10 m."""
DAY = "2024-06-01T10:00:00+00:00"


def coordinates(rows: int, cols: int) -> dict[str, NDArray[np.uint16]]:
    """Two bands: the column and the row of every pixel, spread so that neighbours differ by 25."""
    r, c = np.mgrid[:rows, :cols]
    return {"red": (1000 + 25 * c).astype(np.uint16), "green": (1000 + 25 * r).astype(np.uint16)}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> MadeScene:
    """10 m bands with overviews of 20, 40 and 80 m."""
    folder = tmp_path_factory.mktemp("encoded")
    return make_scene(folder, "E10", DAY, coordinates(SIZE, SIZE), clear_scl(512, 512), PLACE)


@pytest.fixture(scope="module")
def encoded_30(tmp_path_factory: pytest.TempPathFactory) -> MadeScene:
    """30 m pixels: 40 m output makes every second column a tie between two of them."""
    folder = tmp_path_factory.mktemp("encoded30")
    bands = coordinates(900, 900)
    return make_scene(folder, "E30", DAY, bands, clear_scl(900, 900), PLACE, res=30, scl_res=30)


@pytest.fixture(scope="module")
def encoded_60(tmp_path_factory: pytest.TempPathFactory) -> MadeScene:
    folder = tmp_path_factory.mktemp("encoded60")
    bands = coordinates(600, 600)
    return make_scene(folder, "E60", DAY, bands, clear_scl(600, 600), PLACE, res=60, scl_res=60)


def warped(path: Any, grid: RefGrid, level: int, resampling: Resampling = Resampling.nearest) -> NDArray[Any]:
    """GDAL's warp of one level, its transformer within 1e-9 pixels of PROJ's own points."""
    left, top = grid.base_x + grid.col0 * grid.res, grid.base_y - grid.row0 * grid.res
    options = {} if level == 0 else {"overview_level": level - 1}
    with (
        rasterio.open(path, **options) as src,
        WarpedVRT(
            src,
            crs=grid.crs,
            transform=Affine(grid.res, 0, left, 0, -grid.res, top),
            width=grid.width,
            height=grid.height,
            resampling=resampling,
            tolerance=1e-9,
        ) as vrt,
    ):
        return vrt.read(1)


def assert_nearest_is_gdals(scene: MadeScene, grid: RefGrid, level: int | None = None) -> None:
    """The package, the reference and GDAL's warper choose the same pixel of the same level."""
    got = build(
        [scene.item], grid, ["red", "green"], top_k=None, resampling="nearest", mask_resampling="nearest"
    )
    for band in ("red", "green"):
        source = Source.open(scene.ref.files[band])
        read = level_for(grid, source)
        assert level is None or read == level
        want = warped(source.path, grid, read)
        want = np.where(want == 0, 65535, want)
        x, y = positions(grid, source, read)
        sure = ~(near_edge(x) | near_edge(y)) if grid.crs != PLACE.crs else np.ones(grid.shape, bool)
        assert sure.mean() > 0.99
        have = got["bands"][band]
        inside = have[sure] != 65535
        assert inside.mean() > 0.3
        np.testing.assert_array_equal(have[sure], want[sure])


BRACKETS = [
    (5, 0), (10, 0), (19.7, 0), (19.9, 1), (20, 1), (30, 1), (39.5, 1), (39.7, 2), (40, 2), (60, 2),
    (79, 2), (79.5, 3), (80, 3), (100, 3), (200, 3),
]  # fmt: skip


@pytest.mark.parametrize(("res", "level"), BRACKETS)
def test_nearest_is_gdals_on_every_level(encoded: MadeScene, res: float, level: int) -> None:
    n = int(min(400, 10000 / res))
    assert_nearest_is_gdals(encoded, RefGrid.at(PLACE.crs, 300000, 4900020, res, n, n), level)
    assert_nearest_is_gdals(encoded, RefGrid.at(PLACE.crs, 300033, 4899971, res, n, n), level)


@pytest.mark.parametrize("corner", [(300000, 4900020), (299970, 4900080), (301000, 4899010)])
@pytest.mark.parametrize("pair", [(30, 40), (60, 80)])
def test_ties_between_two_pixels_fall_as_gdals(
    encoded_30: MadeScene, encoded_60: MadeScene, pair: tuple[int, int], corner: tuple[int, int]
) -> None:
    """30 -> 40 m and 60 -> 80 m: output centres lie exactly on source edges, and exact is exact."""
    scene = {30: encoded_30, 60: encoded_60}[pair[0]]
    n = 420 if pair[0] == 60 else 640
    grid = RefGrid.at(PLACE.crs, *corner, pair[1], n, n)
    source = Source.open(scene.ref.files["red"])
    x, _ = positions(grid, source)
    if corner[0] % pair[0] == 0:
        assert ((x & (ONE - 1)) == 0).mean() > 0.2
    assert_nearest_is_gdals(scene, grid, 0)


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:3035", "EPSG:32630"])
@pytest.mark.parametrize(("res", "level"), [(7, 0), (10, 0), (24, 1), (60, 2), (100, 3)])
def test_nearest_across_crs_is_gdals(encoded: MadeScene, crs: str, res: float, level: int) -> None:
    centre = Transformer.from_crs(PLACE.crs, crs, always_xy=True).transform(305120, 4894900)
    n = int(min(420, 11000 / res))
    x0, y0 = (round(v / res) * res for v in centre)
    assert_nearest_is_gdals(encoded, RefGrid.at(crs, x0 - n // 2 * res, y0 + n // 2 * res, res, n, n), level)


def test_fix_01_level_is_told_by_its_constant(tmp_path: Path) -> None:
    """Every level holds a number of its own, so no other level can hide behind a ramp."""
    made = make_scene(tmp_path, "L", DAY, {}, clear_scl(SIZE // 2, SIZE // 2), PLACE, overviews=0)
    path = tmp_path / "L" / "red.tif"
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, PLACE.x0, PLACE.y0, 0.0), True),
        (34735, "H", len(keys), keys, True),
        (42113, "s", 2, "0", True),
    ]
    with tifffile.TiffWriter(path) as tif:
        for k in range(4):
            level = np.full((SIZE >> k, SIZE >> k), 2000 + k, np.uint16)
            own: dict[str, Any] = {"extratags": tags} if k == 0 else {"subfiletype": 1}
            tif.write(
                level, tile=(128, 128), compression="zlib", photometric="minisblack", metadata=None, **own
            )
    made.item["assets"]["B04"] = {"href": str(path), "type": "image/tiff"}
    assert Source.open(path).sizes == ((1024, 1024), (512, 512), (256, 256), (128, 128))
    for res, level in BRACKETS:
        n = int(8000 / res)
        grid = RefGrid.at(PLACE.crs, 301000, 4899000, res, n, n)
        red = build([made.item], grid, ["red"], top_k=None)["bands"]["red"]
        assert np.unique(red).tolist() == [2000 + level], f"at {res} m"


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32632"])
@pytest.mark.parametrize("res", [5, 10, 15, 20, 60])
def test_bilinear_is_float64_on_ramps(encoded: MadeScene, crs: str, res: float) -> None:
    """A ramp of 25 DN a pixel: half a pixel of shift would be 12 DN, and 1 is the most allowed."""
    centre = Transformer.from_crs(PLACE.crs, crs, always_xy=True).transform(305120, 4894900)
    n = int(min(300, 8000 / res))
    x0, y0 = (round(v / 10) * 10 for v in centre)
    grid = RefGrid.at(crs, x0 - n // 2 * res, y0 + n // 2 * res, res, n, n)
    got = build([encoded.item], grid, ["red", "green"], top_k=None, mask_resampling="nearest")
    assert (got["quality"] == 0).all()
    truth = Transformer.from_crs(crs, PLACE.crs, always_xy=True)
    x, y = truth.transform(*np.meshgrid(*grid.centres))
    # Averaged overviews keep a ramp a ramp in ground coordinates, to the rounding of each average.
    column, row = (x - PLACE.x0) / 10 - 0.5, (PLACE.y0 - y) / 10 - 0.5
    coarse = level_for(grid, Source.open(encoded.ref.files["red"])) > 0
    for name, where in (("red", column), ("green", row)):
        gap = got["bands"][name].astype(float) - (1000 + 25 * where)
        assert np.abs(gap).max() <= (1.51 if coarse else 0.51), name
        assert abs(gap.mean()) < (0.6 if coarse else 0.05), name
    for name in ("red", "green"):
        real = band_layer(grid, encoded.ref.files[name], BandRule(), arithmetic="float")
        gap = got["bands"][name].astype(int) - real.value
        assert np.abs(gap).max() <= 1
        assert (gap != 0).mean() < 0.02


@pytest.mark.parametrize("res", [10, 20, 60, 120])
@pytest.mark.parametrize("metres", [10, 30, 60])
def test_fix_02_a_box_inside_the_scene_loses_no_row(
    request: pytest.FixtureRequest, metres: int, res: float
) -> None:
    """From pixels six times as large to twelve times as small: the outermost pixels are the ramp's too."""
    scene = request.getfixturevalue("encoded" if metres == 10 else f"encoded_{metres}")
    n = int(min(200, 6000 / res))
    grid = RefGrid.at(PLACE.crs, PLACE.x0 + 1200, PLACE.y0 - 1200, res, n, n)
    got = build([scene.item], grid, ["red", "green"], top_k=None, mask_resampling="nearest")
    assert (got["quality"] == 0).all()
    x, y = np.meshgrid(*grid.centres)
    coarse = level_for(grid, Source.open(scene.ref.files["red"])) > 0
    for name, where in (("red", (x - PLACE.x0) / metres), ("green", (PLACE.y0 - y) / metres)):
        gap = got["bands"][name] - (1000 + 25 * (where - 0.5))
        assert np.abs(gap).max() <= (1.51 if coarse else 0.51), name


def test_fix_33_a_checkerboard_becomes_its_mean(tmp_path: Path) -> None:
    """Two taps of many pixels would give 1000, 5000 or what lies between, by chance."""
    board = np.where(np.indices((SIZE, SIZE)).sum(axis=0) % 2, 1000, 5000).astype(np.uint16)
    made = make_scene(tmp_path, "C", DAY, {"red": board}, clear_scl(SIZE // 2, SIZE // 2), PLACE)
    for res in (20, 33.3, 40, 60, 100):
        n = int(6000 / res)
        grid = RefGrid.at(PLACE.crs, 301003, 4899001, res, n, n)
        red = build([made.item], grid, ["red"], top_k=None)["bands"]["red"]
        assert np.unique(red).tolist() == [3000], f"at {res} m"


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32632", "EPSG:3035"])
@pytest.mark.parametrize("res", [3, 7, 9])
def test_bilinear_is_gdals_where_gdal_does_not_average(
    encoded_noise: MadeScene, crs: str, res: float
) -> None:
    """Below the source's own resolution GDAL's bilinear kernel has the same four taps."""
    centre = Transformer.from_crs(PLACE.crs, crs, always_xy=True).transform(305120, 4894900)
    x0, y0 = (round(v / 10) * 10 + 3 for v in centre)
    grid = RefGrid.at(crs, x0, y0, res, 300, 250)
    want = warped(encoded_noise.ref.files["red"], grid, 0, Resampling.bilinear).astype(int)
    got = build([encoded_noise.item], grid, ["red"], top_k=None)["bands"]["red"].astype(int)
    assert np.abs(got - want).max() <= 1


@pytest.fixture(scope="module")
def encoded_noise(tmp_path_factory: pytest.TempPathFactory) -> MadeScene:
    """No smooth surface to hide behind: every pixel is a number of its own."""
    data = np.random.default_rng(4).integers(1000, 5000, (SIZE, SIZE)).astype(np.uint16)
    return make_scene(tmp_path_factory.mktemp("noise"), "R", DAY, {"red": data}, clear_scl(512, 512), PLACE)


def test_half_a_pixel_of_shift_would_show(encoded: MadeScene) -> None:
    """The ramp test can fail: the same comparison with positions moved by half a pixel is far off."""
    grid = RefGrid.at(PLACE.crs, 301005, 4899005, 10, 100, 100)
    moved = RefGrid.at(PLACE.crs, 301010, 4899005, 10, 100, 100)
    a = band_layer(grid, encoded.ref.files["red"], BandRule(), arithmetic="float").value
    b = band_layer(moved, encoded.ref.files["red"], BandRule(), arithmetic="float").value
    assert (b - a).min() >= 12
    got = build([encoded.item], grid, ["red"], top_k=None)["bands"]["red"].astype(int)
    assert np.abs(got - a).max() <= 1


# ---- swath edges, rims, zeros ----
def swath(shape: tuple[int, int], res: float, shift: float = 0.0, slope: float = 0.21) -> NDArray[np.bool_]:
    """Pixels on the near side of an oblique edge through the middle of the scene."""
    r, c = np.mgrid[: shape[0], : shape[1]]
    return (c + 0.5) * res + slope * (r + 0.5) * res < 0.6 * SIZE * 10 + shift


def edge_scene(
    folder: Path, name: str, when: str, *, flip: bool = False, seed: int = 0, **options: Any
) -> MadeScene:
    """A flat scene of 3000 with noise of its own rank, cut by the swath; bands cut 30 m apart."""
    rng = np.random.default_rng(seed)
    noise = options.pop("noise", 300)
    bands = {}
    for i, band in enumerate(("red", "nir")):
        data = 3000 + rng.integers(0, noise + 1, (SIZE, SIZE))
        keep = swath((SIZE, SIZE), 10, 30.0 * i)
        bands[band] = np.where(~keep if flip else keep, data, 0).astype(np.uint16)
    scl = rng.choice([4, 4, 4, 5, 6, 7, 3, 8, 9, 2, 11], (SIZE // 16, SIZE // 16)).repeat(8, 0).repeat(8, 1)
    keep = swath(scl.shape, 20, 10.0)
    scl = np.where(~keep if flip else keep, scl, 0)
    return make_scene(folder, name, when, bands, scl, PLACE, **options)


def three_edges(folder: Path, **options: Any) -> list[MadeScene]:
    """Two scenes cut by one edge, one on each side, and a third cut as the first."""
    return [
        edge_scene(folder, "A", DAY, seed=1, **options),
        edge_scene(folder, "B", "2024-06-06T10:00:00+00:00", seed=2, flip=True, **options),
        edge_scene(folder, "C", "2024-06-11T10:00:00+00:00", seed=3, **options),
    ]


def split(made: list[MadeScene]) -> tuple[list[dict[str, Any]], list[RefScene]]:
    return [m.item for m in made], [m.ref for m in made]


AREA = {10: (640, 300), 17: (380, 200), 20: (560, 260), 33.3: (330, 150), 60: (180, 90), 95: (110, 60)}


def grid_at(res: float) -> RefGrid:
    """Around the edge, over the raster's north rim, corner at no special place."""
    width, height = AREA[res]
    return RefGrid.at(PLACE.crs, 300906, 4900311, res, width, height)


@pytest.mark.parametrize("tag", [0, None], ids=["tagged", "untagged"])
@pytest.mark.parametrize("res", [10, 17, 20, 33.3, 60, 95])
@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
def test_swath_edges_equal_the_reference(
    tmp_path_factory: pytest.TempPathFactory, tag: int | None, res: float, resampling: str
) -> None:
    items, scenes = split(cached_edges(tmp_path_factory, tag))
    grid = grid_at(res)
    want = composite(scenes, grid, ["red", "nir"], top_k=None, resampling=resampling)
    assert want.repaired > 0 or res > 50
    assert not want.doubtful.any()
    got = build(items, grid, ["red", "nir"], top_k=None, resampling=resampling)
    assert_matches(got, want)
    for band in ("red", "nir"):
        value = got["bands"][band]
        seen = value != 65535
        assert ((value[seen] >= 3000) & (value[seen] <= 3300)).all(), "fill has entered a sum"
        np.testing.assert_array_equal(seen, got["quality"] != 65535)


_made: dict[Any, list[MadeScene]] = {}


def cached_edges(factory: pytest.TempPathFactory, tag: int | None) -> list[MadeScene]:
    if tag not in _made:
        _made[tag] = three_edges(factory.mktemp("edges"), nodata=tag)
    return _made[tag]


def test_untagged_averages_do_have_rims(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The rims that the rule removes are there: GDAL averaged the fill into the overviews."""
    for tag, rim in ((0, False), (None, True)):
        data = Source.open(cached_edges(tmp_path_factory, tag)[0].ref.files["red"]).read(2)
        assert bool(((data > 0) & (data < 2900)).any()) is rim


def test_swath_edges_across_crs_equal_the_reference(tmp_path_factory: pytest.TempPathFactory) -> None:
    centre = Transformer.from_crs(PLACE.crs, "EPSG:32632", always_xy=True).transform(305500, 4898500)
    x0, y0 = (round(v / 10) * 10 for v in centre)
    for tag in (0, None):
        items, scenes = split(cached_edges(tmp_path_factory, tag))
        for res, n in ((10, 300), (45, 90)):
            grid = RefGrid.at("EPSG:32632", x0 - n // 2 * res, y0 + n // 2 * res, res, n, n)
            want = composite(scenes, grid, ["red", "nir"], top_k=None)
            got = build(items, grid, ["red", "nir"], top_k=None)
            assert_matches(got, want, off_by=1)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("fill", [0.001, 0.05, True, False])
def test_selection_by_chunk_equals_the_reference(
    tmp_path_factory: pytest.TempPathFactory, top_k: int, fill: float | bool
) -> None:
    items, scenes = split(cached_edges(tmp_path_factory, 0))
    share = (0.0 if fill else None) if isinstance(fill, bool) else fill
    grid = grid_at(10)
    assert len(grid.chunks()) == 2
    want = composite(scenes, grid, ["red", "nir"], top_k=top_k, fill=share, order="oldest")
    got = build(items, grid, ["red", "nir"], top_k=top_k, fill=fill, order="oldest")
    assert_matches(got, want)


@pytest.mark.parametrize(("top_k", "fill"), [(1, False), (1, 0.4)])
def test_native_grid_cuts_chunks_at_the_crs_origin(
    tmp_path_factory: pytest.TempPathFactory, top_k: int, fill: float | bool
) -> None:
    """Asked for by a box in degrees: chunks begin where index x / res is a multiple of 512."""
    from bestpixel_gpu import build_composite

    items, scenes = split(cached_edges(tmp_path_factory, 0))
    bbox = (0.53, 44.19, 0.59, 44.225)
    options = {"items": items, "bands": ["red"], "endpoint": "pc", "order": "newest", "device": "cpu"}
    got = build_composite(bbox, "2024-01-01/2024-12-31", resolution=10, top_k=top_k, fill=fill, **options)
    left, _, _, top = got["grid"]["bounds"]
    col0, row0 = round(left / 10), -round(top / 10)
    assert (col0 * 10, row0 * -10) == (left, top)
    grid = RefGrid(PLACE.crs, 0, 0, col0, row0, 10, got["grid"]["width"], got["grid"]["height"])
    own = RefGrid.at(PLACE.crs, left, top, 10, grid.width, grid.height)
    want, other = (
        composite(scenes, g, ["red"], top_k=top_k, fill=fill or None, order="newest") for g in (grid, own)
    )
    assert (want.bands["red"] != other.bands["red"]).any(), "the anchor must matter for this test to tell"
    assert_matches(got, want)


def dark_scene(folder: Path, name: str, when: str, seed: int) -> MadeScene:
    """As Earth Search's `sentinel-2-l2a`: 1000 DN already taken off, so that water holds true zeros."""
    rng = np.random.default_rng(seed)
    keep = swath((SIZE, SIZE), 10)
    water = np.kron(rng.random((SIZE // 32, SIZE // 32)) < 0.3, np.ones((32, 32), bool))
    land = rng.integers(0, 400, (SIZE, SIZE))
    data = np.where(water, rng.random((SIZE, SIZE)) < 0.1, land)
    bands = {"red": np.where(keep, data, 0).astype(np.uint16)}
    scl = np.where(water[::2, ::2], 6, 4)
    scl = np.where(swath(scl.shape, 20), scl, 0)
    return make_scene(folder, name, when, bands, scl, PLACE, dialect="es", baseline="05.10")


@pytest.mark.parametrize("res", [10, 20, 50])
def test_zeros_of_harmonised_archives_are_values(tmp_path: Path, res: int) -> None:
    dates = {"D1": DAY, "D2": "2024-07-01T10:00:00+00:00"}
    items, scenes = split([dark_scene(tmp_path, d, when, i) for i, (d, when) in enumerate(dates.items())])
    n = 4000 // res
    grid = RefGrid.at(PLACE.crs, 304000, 4899000, res, n, n)
    want = composite(scenes, grid, ["red"], top_k=None)
    got = build(items, grid, ["red"], top_k=None, endpoint="earth-search")
    assert_matches(got, want)
    assert (got["bands"]["red"] == 0).mean() > 0.01
    empty = got["quality"] == 65535
    assert 0.05 < empty.mean() < 0.95
    # 5 mask pixels of 20 m: nothing within 100 m (along the axes) of the swath's edge is believed.
    x, y = positions(grid, Source.open(scenes[0].mask))
    column, row = x / ONE, y / ONE
    beyond = (column + 5) * 20 + 0.21 * (row + 5) * 20 > 0.6 * SIZE * 10 + 40
    assert empty[beyond].all()


def test_offset_is_subtracted_and_clamped_after_sampling(tmp_path: Path) -> None:
    """Baseline 05.10: raw 1..999 are darker than dark and become 0, never nodata."""
    rng = np.random.default_rng(5)
    bands = {"red": rng.integers(900, 1200, (SIZE, SIZE)).astype(np.uint16)}
    made = make_scene(tmp_path, "N", DAY, bands, clear_scl(512, 512), PLACE, baseline="05.10")
    grid = RefGrid.at(PLACE.crs, 301000, 4899000, 14, 300, 300)
    want = composite([made.ref], grid, ["red"], top_k=None)
    assert made.ref.offset == 1000
    assert (want.bands["red"] == 0).mean() > 0.1
    assert_matches(build([made.item], grid, ["red"], top_k=None), want)


@pytest.mark.parametrize("res", [21, 25, 30, 40, 50, 60, 70, 100, 130])
def test_worst_class_under_an_output_pixel(tmp_path_factory: pytest.TempPathFactory, res: float) -> None:
    items, scenes = split(cached_edges(tmp_path_factory, 0)[:1])
    n = int(9000 / res)
    for x0, y0 in ((300000, 4900020), (300007, 4900031), (299990, 4899990)):
        grid = RefGrid.at(PLACE.crs, x0, y0, res, n, n)
        want = composite(scenes, grid, ["red"], top_k=None)
        centre = mask_layer(grid, scenes[0].mask, worst=False).score
        assert (want.scores[0] >= centre).all()
        assert (want.scores[0] > centre).any() or (x0 == 300000 and res == 40)
        assert_matches(build(items, grid, ["red"], top_k=None), want)


def test_worst_of_one_block_is_its_maximum(tmp_path: Path) -> None:
    """Aligned 60 m over 20 m: the reference itself against a plain 3 x 3 maximum."""
    rng = np.random.default_rng(9)
    classes, share = [0, 2, 3, 4, 5, 6, 7, 8, 11], [1, 1, 1, 50, 20, 20, 2, 2, 3]
    scl = rng.choice(classes, (512, 512), p=np.array(share) / 100)
    made = make_scene(tmp_path, "W", DAY, coordinates(SIZE, SIZE), scl, PLACE)
    grid = RefGrid.at(PLACE.crs, PLACE.x0, PLACE.y0, 60, 170, 170)
    table = {0: 65535, 2: 2, 3: 2, 4: 0, 5: 0, 6: 0, 7: 1, 8: 65535, 11: 0}
    blocks = np.vectorize(table.get)(scl[:510, :510]).reshape(170, 3, 170, 3).max(axis=(1, 3))
    layer = mask_layer(grid, made.ref.mask)
    np.testing.assert_array_equal(layer.score, blocks)
    assert step(grid, Source.open(made.ref.mask)) == (3, 3)
    got = build([made.item], grid, ["red"], top_k=None, errors="repair")
    np.testing.assert_array_equal(got["quality"], blocks)
