"""Every file of a TIFF corpus through the production path, and what became of it."""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tiff_reader import SMALL_ENOUGH, Decode, decode_with_numpy, fill_of, open_raster, read_level

from bestpixel_gpu.errors import CorruptTileError, FormatError

Outcome = Literal["equal", "wrong", "opened", "refused", "damaged"]
"""opened: a header that is read, of an image too large to hold; refused: an error that names the
header's feature or fault; damaged: an error that names a tile."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one file. `verdict` is the corpus's own."""

    file: str
    verdict: str
    outcome: Outcome
    reason: str = ""

    @property
    def group(self) -> str:
        """The verdict without its numbers."""
        groups = ("equal", "differ", "shape", "tifffile fails", "rasterio fails", "both fail", "not read")
        return next(g for g in groups if self.verdict.startswith(g))

    @property
    def kind(self) -> str:
        """The reason without the numbers of this one file."""
        if self.outcome == "damaged":
            return "a tile does not decode to its size"
        words = re.sub(r"\d[\d-]*", "n", self.reason)
        return self.reason if "not supported" in self.reason else words


def check_corpus(folder: Path, decode: Decode = decode_with_numpy) -> list[Result]:
    """Results in the order of INDEX.csv."""
    with (folder / "INDEX.csv").open(newline="", encoding="utf-8") as table:
        return [check_file(folder, row, decode) for row in csv.DictReader(table)]


def check_file(folder: Path, row: dict[str, str], decode: Decode) -> Result:
    data = (folder / row["file"]).read_bytes()
    outcome: Outcome
    reason = ""
    try:
        raster, _ = open_raster(data)
        level = raster.levels[0]
        if level.width * level.height * raster.samples > SMALL_ENOUGH:
            outcome = "opened"
        else:
            pixels = read_level(data, level, fill_of(raster), decode)
            outcome = "equal" if matches(pixels, row) else "wrong"
    except CorruptTileError as error:
        outcome, reason = "damaged", str(error)
    except FormatError as error:
        outcome, reason = "refused", str(error)
    return Result(row["file"], row["verdict"], outcome, reason)


def matches(pixels: np.ndarray, row: dict[str, str]) -> bool:
    """Whether the pixels have a hash of the corpus. GDAL 3.10 reads half floats as single ones."""
    expected = {row["sha256_pixels_rasterio"], row["sha256_pixels_tifffile"]} - {""}
    shapes = [pixels, pixels.astype(np.float32)] if pixels.dtype == np.float16 else [pixels]
    return any(hashlib.sha256(a.tobytes()).hexdigest() in expected for a in shapes)
