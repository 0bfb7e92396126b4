"""352 files of other projects: equal pixels, or an error of ours; never a crash or a wrong picture."""

from __future__ import annotations

import contextlib
import csv
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from corpus import Result, check_corpus, check_file
from tiff_reader import decode_with_engine, decode_with_numpy, fill_of, open_raster, read_level

from bestpixel_gpu.cog.layout import Level
from bestpixel_gpu.errors import FormatError

pytest.importorskip("imagecodecs")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    folder = shared / "data" / "tiff_corpus"
    if not (folder / "INDEX.csv").is_file():
        pytest.skip("needs the TIFF corpus (shared/data/tiff_corpus)")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[Result]:
    return check_corpus(folder)


def test_no_picture_is_wrong(results: list[Result]) -> None:
    assert len(results) > 300
    assert [r for r in results if r.outcome == "wrong"] == []


def test_what_both_readers_agree_on_is_read(results: list[Result]) -> None:
    """Every file with a sure reference is read, but for features that are refused by name."""
    sure = [r for r in results if r.group == "equal"]
    missed = [r for r in sure if r.outcome != "equal"]
    assert len(sure) - len(missed) >= 199
    refused_by_name = ("complex samples", "(LZMA)", "24 bits", "lacks tile offsets", "past the end", "holds")
    assert [r for r in missed if not any(name in r.reason for name in refused_by_name)] == []


def test_what_no_reader_reads_is_refused(results: list[Result]) -> None:
    bad = [r for r in results if r.group in ("both fail", "rasterio fails")]
    assert len(bad) > 60
    assert [r for r in bad if r.outcome not in ("refused", "damaged")] == []


def test_every_error_is_one_line_with_a_reason(results: list[Result]) -> None:
    errors = [r for r in results if r.outcome in ("refused", "damaged")]
    assert [r for r in errors if not r.reason or "\n" in r.reason or len(r.reason) > 250] == []


def test_no_header_takes_long(folder: Path) -> None:
    for path in sorted(folder.glob("*.tif*")):
        data = path.read_bytes()
        start = time.process_time()
        with contextlib.suppress(FormatError):
            open_raster(data)
        assert time.process_time() - start < 0.5, path.name


def test_cpu_engine_gives_the_same_outcomes(folder: Path, results: list[Result]) -> None:
    decoded = check_corpus(folder, decode_with_engine())
    differ = [(a, b) for a, b in zip(results, decoded, strict=True) if a.outcome != b.outcome]
    assert differ == []


def test_overviews_and_masks_of_the_corpus_equal_gdals(folder: Path, results: list[Result]) -> None:
    rasterio = pytest.importorskip("rasterio")
    compared = masks = 0
    for path in [folder / r.file for r in results if r.outcome == "equal"]:
        data = path.read_bytes()
        raster, _ = open_raster(data)
        if len(raster.levels) == 1 and not raster.masks:
            continue
        for level in raster.levels:
            with rasterio.open(path, **gdal_level(rasterio, path, level)) as src:
                if level is not raster.levels[0]:
                    got = read_level(data, level, fill_of(raster))
                    np.testing.assert_array_equal(got, src.read(), err_msg=path.name)
                    compared += 1
                mask = raster.mask_of(level)
                if mask is not None:
                    got = read_level(data, mask, 0)[0] != 0
                    np.testing.assert_array_equal(got, src.read_masks(1) != 0, err_msg=path.name)
                    masks += 1
    assert compared >= 30
    assert masks >= 8


def gdal_level(rasterio: ModuleType, path: Path, level: Level) -> dict[str, int]:
    """Option by which rasterio opens the level of this size; GDAL keeps the file's order."""
    with rasterio.open(path) as src:
        numbers = range(len(src.overviews(1)))
        if src.shape == (level.height, level.width):
            return {}
    for number in numbers:
        with rasterio.open(path, overview_level=number) as src:
            if src.shape == (level.height, level.width):
                return {"overview_level": number}
    raise AssertionError(f"GDAL has no level of {level.width} x {level.height} in {path.name}")


def test_a_changed_pixel_would_be_seen(folder: Path) -> None:
    """The comparison itself can fail."""
    with (folder / "INDEX.csv").open(newline="", encoding="utf-8") as table:
        row = next(r for r in csv.DictReader(table) if r["file"] == "generated__hostile_00_control_valid.tif")
    row = row | {"sha256_pixels_rasterio": "0" * 64, "sha256_pixels_tifffile": ""}
    assert check_file(folder, row, decode_with_numpy).outcome == "wrong"
