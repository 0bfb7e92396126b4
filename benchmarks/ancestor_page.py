"""What the page says of the comparisons with the ancestor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ancestor_fixes import FIXES, table
from numpy.typing import NDArray

LAYERS = ("quality", "selected_observation", "observation_count")
CAUSES = tuple(f"FIX-{number}" for number in FIXES)


@dataclass(frozen=True)
class Row:
    """One layer compared: pixels that agree, that differ by 1, that differ by cause or without one."""

    layer: str
    pixels: int
    agree: int
    by_one: int
    causes: Mapping[str, int]
    unexplained: int


@dataclass(frozen=True)
class Comparison:
    """One composite: grid, scenes composed on both sides in their order, every layer."""

    name: str
    shape: tuple[int, int]
    ancestor_ids: list[str]
    our_ids: list[str]
    rows: list[Row]


HEAD = """# The ancestor, pixel by pixel

Made by `benchmarks/ancestor_table.py`: `bestpixel` 0.3.0, its released wheel unmodified, and this
package with `order="ancestor", fill=False, mask_resampling="nearest"` make the same composites of
simulated scenes: one tile of 10.8 or 4.8 km, eight dates, bands of 10 m (red), 20 m (nir08, swir22) and
60 m (nir09), `top_k=3`, 10 m, unless the case says otherwise. A differing pixel is counted under the
first of the defects below that is really there. For FIX-1, 12 to 15, 17 to 19, 21, 28 and 36 that means:
once what the defect is about is taken away, the ancestor itself gives another number at that pixel, and
what then still differs from ours has one of the other causes. For FIX-2, 3, 4, 16 and 31 the cause is
in the source pixels under the one that differs, and a model in float64 gives both numbers within 1 DN:
with the defects the ancestor's, without them ours; in uncertainties, also FIX-27, it is in one of the
observations. FIX-16 is a difference of 1 DN where the exact sum lies within 0.1 DN of the turn of
rounding. The other defects have tests only.

- Files are without overviews unless a case says otherwise, so that both read the same pixels
  whatever the resolution. Class masks never have any here: the ancestor would read them coarser
  where it finds them, this package keeps to full resolution for Sentinel-2.
- From 10 m to 20 m on one grid, bilinear is the mean of four pixels and so is the overview: FIX-1 then
  costs bytes only. At 60 m it changes nearly every pixel.
- At 10 m the weights of a 60 m band are twelfths, at 20 m those of HLS sixths, so some of their sums
  lie exactly between two numbers: there the two arithmetics may round apart.
- Searches: the ancestor gets what a search with its dates and cloud limit would answer.
- South of the equator `output_crs="utm"` leaves the ancestor's HLS in the northern zone; here it is the
  southern one. At 20 m, which divides the 10 000 km between them, the pixels are the same ones.
- With `windowed_fetch` both keep a scene to the box of the chunks that chose it. The layer
  observation_count is then, to the bit, the one of the ancestor without it.
- Of MODIS, one row in five of swir16 holds nothing while the class mask, band 1's, calls it good: the
  ancestor composes fill there, here the next scene stands in for all bands.
- Uncertainties (`red_unc`: `boa_unc` of red) agree where they differ by 0.01 DN at most: they are
  floats, made by other sums.
"""


def markdown(results: list[Comparison], corrected: Sequence[NDArray[np.float32]]) -> str:
    """The page: a line for each case, the defects, then each case by layer.

    `corrected` are reflectances of ``correct_toa``, the ancestor's and ours.
    """
    out = [
        HEAD,
        "| case | grid | scenes | layers to the bit | band pixels to the bit | within 1 DN | unexplained |",
    ]
    out.append("|---|---|---|---|---|---|---|")
    for r in results:
        layers = r.rows[: len(LAYERS)]
        bands = [row for row in r.rows[len(LAYERS) :] if not row.layer.endswith("_unc")]
        pixels, agree = sum(b.pixels for b in bands), sum(b.agree for b in bands)
        near = agree + sum(b.by_one for b in bands)
        exact = sum(row.agree for row in layers) / sum(row.pixels for row in layers)
        cells = (
            r.name, f"{r.shape[0]} x {r.shape[1]}", _scenes(r), f"{exact:.4%}", f"{agree / pixels:.4%}",
            f"{near / pixels:.4%}", f"{sum(row.unexplained for row in r.rows):,}",
        )  # fmt: skip
        out.append(f"| {' | '.join(cells)} |")
    out += ["", table(), *_corrected(*corrected)]
    for r in results:
        out += [f"\n## {r.name}\n", "| layer | agree | differ by 1 | causes | unexplained |"]
        out += ["|---|---|---|---|---|", *_by_layer(r.rows)]
    return "\n".join([*out, ""])


def _corrected(old: NDArray[np.float32], new: NDArray[np.float32]) -> list[str]:
    """Reflectances of both compared, by their bits."""
    same = (old.view(np.uint32) == new.view(np.uint32)) | (np.isnan(old) & np.isnan(new))
    near = same | (np.abs(old - new) <= np.spacing(np.maximum(np.abs(old), np.abs(new))))
    lines = ["## correct_toa", "", "| reflectances | no numbers | to the bit | within one float |"]
    cells = f"{old.size:,}", f"{int(np.isnan(old).sum()):,}", f"{same.mean():.4%}", f"{near.mean():.4%}"
    return [*lines, "|---|---|---|---|", f"| {' | '.join(cells)} |"]


def _scenes(r: Comparison) -> str:
    """How many scenes are composed, and whether they are the same on both sides."""
    if r.our_ids == r.ancestor_ids:
        return f"{len(r.our_ids)}, the same"
    return f"{len(r.our_ids)}, of the ancestor {len(r.ancestor_ids)}"


def _by_layer(rows: list[Row]) -> list[str]:
    """Lines of a table; layers that agree to the bit share the first."""
    equal = [row.layer for row in rows if row.agree == row.pixels]
    lines = [f"| {', '.join(equal)} | 100.0000% |  |  | 0 |"] if equal else []
    for row in rows:
        if row.layer not in equal:
            causes = ", ".join(f"{cause}: {n:,}" for cause, n in row.causes.items() if n)
            share = f"{row.agree / row.pixels:.4%}"
            lines.append(f"| {row.layer} | {share} | {row.by_one or ''} | {causes} | {row.unexplained:,} |")
    return lines
