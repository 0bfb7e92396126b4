"""Whole composites of random scenes, grids and options against the slow reference."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from oracle_checks import assert_matches, build
from oracle_reference import RefGrid, Source, composite, level_for
from oracle_scenes import MadeScene, Place, make_scene
from pyproj import Transformer

from bestpixel_gpu.errors import MemoryLimitError, PartialResultWarning

SIDE = 2400
"""Metres of a scene's side: 240 pixels of 10 m, 120 of 20 m."""


def blobs(rng: np.random.Generator, n: int, share: float) -> NDArray[np.bool_]:
    """Blocky patches on n x n pixels."""
    small = rng.random((9, 9)) < share
    at = np.arange(n) * 9 // n
    return small[np.ix_(at, at)]


def random_scene(
    folder: Path, rng: np.random.Generator, number: int, place: Place, dialect: str, **fixed: Any
) -> MadeScene:
    """A scene with its own clouds, gaps, edges, nodata tag, baseline and pyramid."""
    corner = Place(
        place.crs, place.x0 + 20 * int(rng.integers(-40, 40)), place.y0 + 20 * int(rng.integers(-40, 40))
    )
    n, m = SIDE // 10, SIDE // 20
    classes = np.kron(rng.choice(12, (m // 4, m // 4), p=CLASS_SHARE), np.ones((4, 4), int))
    gap = blobs(rng, m, 0.1)
    classes[gap] = 0
    bands = {}
    for name in ("red", "nir"):
        data = rng.integers(1, 4000, (n, n)) + number
        # The bands' gaps are a little larger or smaller than the mask's.
        data[np.roll(np.kron(gap, np.ones((2, 2), bool)), int(rng.integers(-3, 4)), axis=1)] = 0
        data[blobs(rng, n, 0.03)] = 0
        data[blobs(rng, n, 0.02)] = 32768 + number  # beyond what the product can hold: invalid too
        bands[name] = data.astype(np.uint16)
    when = f"2024-06-{number + 1:02d}T10:{int(rng.integers(60)):02d}:00+00:00"
    options: dict[str, Any] = {
        "nodata": [0, None][int(rng.integers(2))],
        "overviews": int(rng.integers(0, 4)),
        "method": str(rng.choice(["AVERAGE", "NEAREST", "CUBIC"])),
        "baseline": str(rng.choice(["02.12", "04.00", "05.11"])),
        "cloud_cover": float(rng.choice([3.2, 3.4, 40.5, 71.0])),
        "dialect": dialect,
    }
    return make_scene(folder, f"S{number}", when, bands, classes, corner, **(options | fixed))


CLASS_SHARE = np.array([2, 1, 5, 5, 25, 15, 10, 6, 10, 10, 6, 5]) / 100


def random_grid(rng: np.random.Generator, crs: str, place: Place) -> RefGrid:
    res = float(rng.choice([4, 10, 13.7, 20, 30, 41, 60, 90]))
    width, height = (int(min(400, rng.uniform(0.6, 1.4) * SIDE / res)) for _ in range(2))
    x, y = Transformer.from_crs(place.crs, crs, always_xy=True).transform(
        place.x0 + SIDE / 2 + rng.uniform(-600, 600), place.y0 - SIDE / 2 + rng.uniform(-600, 600)
    )
    return RefGrid.at(crs, round(x - width * res / 2), round(y + height * res / 2), res, width, height)


def random_options(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """(for the package, for the reference)."""
    same = {
        "order": str(rng.choice(["clearest", "cloud_cover", "newest", "oldest"])),
        "top_k": [None, 1, 2, 3][int(rng.integers(4))],
        "resampling": str(rng.choice(["bilinear", "bilinear", "nearest"])),
    }
    fill = [True, False, 0.001, 0.02, 0.2][int(rng.integers(5))]
    worst = bool(rng.integers(2))
    share = {True: 0.0, False: None}[fill] if isinstance(fill, bool) else fill
    return (
        same | {"fill": fill, "mask_resampling": "worst" if worst else "nearest"},
        same | {"fill": share, "worst": worst},
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_composite_equals_the_reference(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng([seed, 2024])
    place = Place("EPSG:32631", 400020, 5000040)
    dialect = "es" if seed % 5 == 4 else "pc"
    made = [random_scene(tmp_path, rng, i, place, dialect) for i in range(int(rng.integers(1, 7)))]
    other = seed % 4 == 3
    grid = random_grid(rng, str(rng.choice(["EPSG:32632", "EPSG:3035"])) if other else place.crs, place)
    ours, theirs = random_options(rng)
    want = composite([m.ref for m in made], grid, ["red", "nir"], **theirs)
    endpoint = {"pc": "pc", "es": "earth-search"}[dialect]
    got = build([m.item for m in made], grid, ["red", "nir"], endpoint=endpoint, **ours)
    # Noise of 4000 DN a pixel, positions to 2e-5 px and weights to 2^-15: up to 1 DN, here and there.
    assert_matches(got, want, off_by=1 if other else 0, most_off=0.2)


def test_fix_29_scenes_of_two_zones_make_one_picture(tmp_path: Path) -> None:
    """One scene lies in the grid's zone, its neighbour in the next: both compete in every pixel."""
    rng = np.random.default_rng(77)
    here = Place("EPSG:32631", 739980, 5000040)
    x, y = Transformer.from_crs(here.crs, "EPSG:32632", always_xy=True).transform(here.x0, here.y0)
    there = Place("EPSG:32632", round(x / 20) * 20, round(y / 20) * 20)
    made = [random_scene(tmp_path, rng, i, here if i % 2 else there, "pc") for i in range(4)]
    for m, tile in zip(made, ("32TKP", "31TGJ", "32TKP", "31TGJ"), strict=True):
        m.item["properties"]["s2:mgrs_tile"] = tile
    for res, order in ((10, "newest"), (45, "oldest")):
        n = SIDE // res
        grid = RefGrid.at(here.crs, here.x0 + 100, here.y0 - 100, res, n, n)
        want = composite([m.ref for m in made], grid, ["red"], order=order, top_k=None)
        assert len(np.unique(want.selected_observation)) >= 4
        got = build([m.item for m in made], grid, ["red"], order=order, top_k=None)
        assert_matches(got, want, off_by=1, most_off=0.2)


def tile_at(path: Path, level: int, tile: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """(box in pixels of the level, first byte and length) of one tile."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[level]
        side, across = page.tilelength, -(-page.imagewidth // page.tilewidth)
        r, c = tile // across * side, tile % across * side
        return (r, r + side, c, c + side), (page.dataoffsets[tile], page.databytecounts[tile])


def spoil(path: Path, start: int, size: int) -> None:
    """Overwrite the middle of some bytes."""
    with path.open("r+b") as file:
        file.seek(start + size // 3)
        file.write(b"\xff" * (size // 3))


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32632"])
@pytest.mark.parametrize(
    ("res", "resampling"), [(10, "bilinear"), (13, "bilinear"), (30, "bilinear"), (7, "nearest")]
)
def test_tiles_that_cannot_be_read_are_mended(tmp_path: Path, res: float, resampling: str, crs: str) -> None:
    """Every pixel that needs a spoilt tile goes to the next best scene, and no other one does."""
    rng = np.random.default_rng(12)
    place = Place("EPSG:32631", 400020, 5000040)
    made, spoilt = [], []
    for i in range(4):
        m = random_scene(tmp_path, rng, i, place, "pc", nodata=0)
        lost = {}
        for band, tile in (("red", i), ("nir", (i + 1) % 4)):
            source = Source.open(m.ref.files[band])
            level = level_for(RefGrid.at(place.crs, 0, 0, res, 1, 1), source)
            if source.sizes[level][0] > 128 or tile == 0:
                lost[band], bytes_ = tile_at(Path(source.path), level, tile)
                spoilt.append((Path(source.path), *bytes_))
        made.append(MadeScene(m.item, replace(m.ref, lost=lost)))
    x, y = Transformer.from_crs(place.crs, crs, always_xy=True).transform(place.x0, place.y0)
    grid = RefGrid.at(crs, round(x), round(y), res, int(2400 / res), int(2200 / res))
    want = composite([m.ref for m in made], grid, ["red", "nir"], top_k=None, resampling=resampling)
    unhurt = [replace(m.ref, lost={}) for m in made]
    whole = composite(unhurt, grid, ["red", "nir"], top_k=None, resampling=resampling)
    assert (whole.selected_observation != want.selected_observation).sum() > 50
    for place_in_file in spoilt:
        spoil(*place_in_file)
    with pytest.warns(PartialResultWarning):
        got = build(
            [m.item for m in made], grid, ["red", "nir"], top_k=None, max_failed=1.0, resampling=resampling
        )
    assert_matches(got, want, off_by=int(crs != place.crs), most_off=0.2)


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32632"])
def test_many_blocks_under_a_tight_memory_limit(tmp_path: Path, crs: str) -> None:
    """Three by three chunks and the least memory the refusal names: the reference knows no blocks."""
    rng = np.random.default_rng(31)
    place = Place("EPSG:32631", 400020, 5000040)
    made = [random_scene(tmp_path, rng, i, place, "pc") for i in range(3)]
    x, y = Transformer.from_crs(place.crs, crs, always_xy=True).transform(place.x0, place.y0)
    grid = RefGrid.at(crs, round(x), round(y) - 100, 2, 1100, 1060)
    assert len(grid.chunks()) == 9
    want = composite([m.ref for m in made], grid, ["red", "nir"], top_k=1, fill=0.02)
    items = [m.item for m in made]
    got, limit = None, 8
    for _ in range(3):  # one refusal before the files' headers are known, one after
        try:
            got = build(items, grid, ["red", "nir"], top_k=1, fill=0.02, memory_limit=round(limit * 2**20))
            break
        except MemoryLimitError as refused:
            limit = float(re.findall(r"at least ([\d.]+) MiB", str(refused))[0])
    assert limit > 8, "8 MiB cannot hold the result alone"
    assert got is not None, "the size named last does not fit either"
    assert_matches(got, want, off_by=int(crs != place.crs), most_off=0.2)


def test_cloud_cover_counts_in_whole_percent(tmp_path: Path) -> None:
    """3.4 and 2.6 are both 3: the newer goes first; half percents go up."""
    rng = np.random.default_rng(8)
    place = Place("EPSG:32631", 400020, 5000040)
    made = []
    for i, cloud in enumerate((2.6, 3.4, 2.5, 3.5, 2.49)):
        m = random_scene(tmp_path, rng, i, place, "pc")
        m.item["properties"]["eo:cloud_cover"] = cloud
        made.append(MadeScene(m.item, replace(m.ref, cloud_cover=cloud)))
    grid = RefGrid.at(place.crs, place.x0, place.y0, 30, 60, 60)
    want = composite([m.ref for m in made], grid, ["red"], order="cloud_cover", top_k=None)
    assert want.source_ids == ["S4", "S2", "S1", "S0", "S3"]
    got = build([m.item for m in made], grid, ["red"], order="cloud_cover", top_k=None)
    assert_matches(got, want)


@pytest.mark.parametrize("res", [8, 20, 30, 34, 60])
def test_sources_in_degrees_have_two_scales(tmp_path: Path, res: float) -> None:
    """1e-4 degrees at 55 north are 6.4 m across and 11.1 m down: the finer one picks the level."""
    rng = np.random.default_rng(21)
    n = 320
    scl = np.kron(rng.choice([4, 5, 8, 3], (n // 16, n // 16)), np.ones((8, 8), int))
    bands = {"red": rng.integers(1000, 1400, (n, n)).astype(np.uint16)}
    place = Place("EPSG:4326", 8.9, 55.03)
    made = make_scene(
        tmp_path, "D", "2024-06-01T10:00:00+00:00", bands, scl, place, res=1e-4, scl_res=2e-4, overviews=3
    )
    x, y = Transformer.from_crs(4326, 32632, always_xy=True).transform(8.9, 55.03)
    grid = RefGrid.at("EPSG:32632", round(x) + 20, round(y) - 30, res, int(2000 / res), int(3000 / res))
    want = composite([made.ref], grid, ["red"], top_k=None)
    assert (want.quality < 3).mean() > 0.5
    assert_matches(build([made.item], grid, ["red"], top_k=None), want, off_by=1, most_off=0.1)


def test_random_scenes_do_exercise_repair(tmp_path: Path) -> None:
    rng = np.random.default_rng([1, 2024])
    place = Place("EPSG:32631", 400020, 5000040)
    made = [random_scene(tmp_path, rng, i, place, "pc") for i in range(5)]
    grid = RefGrid.at(place.crs, place.x0, place.y0, 10, 240, 240)
    want = composite([m.ref for m in made], grid, ["red", "nir"], top_k=None)
    assert want.repaired > 100
    by_red = composite([replace(m.ref, offset=0) for m in made], grid, ["red"], top_k=None)
    assert (by_red.selected_observation != want.selected_observation).any(), "validity is that of all bands"
