"""Every known defect of `bestpixel` 0.3.0, what this package does instead, and the tests that prove it.

    python benchmarks/ancestor_fixes.py

writes the table of them in docs/ancestor.md anew. The tests are those whose names carry the number:
``test_fix_07_...``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ancestor.md"
TITLE = "## Its defects, and the tests"


class Fix(NamedTuple):
    """What is wrong in the ancestor, and what is done here."""

    ancestor: str
    ours: str


FIXES = {
    1: Fix(
        "looks for overviews in SubIFDs only, where GDAL does not write them: full resolution is read",
        "follows the chain of directories, and SubIFDs: the fitting overview is read",
    ),
    2: Fix(
        "cuts its window at the grid: outer rows are 65535 (64535 after an offset), columns extrapolated",
        "reads the neighbours that bilinear needs; an offset is taken from valid values only",
    ),
    3: Fix(
        "across CRSs bands are read half a source pixel aside, masks are not",
        "reads bands and masks where the pixel is",
    ),
    4: Fix(
        "fill enters bilinear sums at the swath's edge; a scene wins where its band is empty",
        "drops taps that are fill; where nothing is left the next best scene stands in",
    ),
    5: Fix(
        "a TIFF in strips, a latitude above 90 or a next link without a body ends the process",
        "strips are read, the others are exceptions or the end of the search",
    ),
    6: Fix(
        "a tile that cannot be read costs its scene without a word; if all are lost, the result is empty",
        "repairs the pixels under the tile and names it; `errors=`, `max_failed`; nothing at all raises",
    ),
    7: Fix(
        "tokens are never renewed; without one it reads unsigned", "renewed in time, and when one is refused"
    ),
    8: Fix(
        "asks for a token for every asset of every item, one after the other, whatever its host",
        "one token for each container that is read, blob storage only",
    ),
    9: Fix("waits for ever", "time limits for connecting, for silence, for a request and for the call"),
    10: Fix(
        "takes the whole file for the range that it asked for",
        "compares status, range and length; cuts the range out of a small file, hangs up on a large one",
    ),
    11: Fix(
        "waits as long as `Retry-After` says; one failed search loses all months, a failed month is missing",
        "waits 30 s at most, repeats searches; a month without a composite is an entry with its error",
    ),
    12: Fix(
        "with a warm cache, scenes without a clear pixel are not usable any more",
        "keeps all that was counted, counts again what is chosen: warm and cold runs give the same bytes",
    ),
    13: Fix(
        "ranks by clear / observed pixels: a clear sliver of a scene comes before a nearly clear whole one",
        "ranks by clear pixels, picks what adds most",
    ),
    14: Fix(
        "picks the clearest scenes of a tile even if all of them leave the same half empty",
        "a scene that sees what no other sees is picked",
    ),
    15: Fix(
        "`windowed_fetch`: a scene's own window is cut like that too; it counts inside it only",
        "reads the neighbours; a scene counts wherever it observes; blocks and boxes change no pixel",
    ),
    16: Fix(
        "float32 weights and sums from the window's corner, by the processor's own rounding",
        "integers from global positions, weights of 15 bits",
    ),
    17: Fix(
        "between equal scores the place in the list decides, and lists are made in two ways",
        "one total order, `order=`, whatever the order of items and answers",
    ),
    18: Fix("an acquisition listed twice competes and counts twice", "the newest processing of it, once"),
    19: Fix("an item without `datetime` belongs to no month", "`start_datetime` and `end_datetime` stand in"),
    20: Fix(
        "makes something of reversed boxes, NaN, resolution 0; sizes beyond memory are not checked",
        "refused before any request; boxes across 180 degrees are read",
    ),
    21: Fix(
        "sparse tiles, BigTIFF, big-endian, LZW, ZSTD, strips, several samples: scene lost, or wrong pixels",
        "read; what cannot be is refused by name when the header is read",
    ),
    22: Fix(
        "headers and tasks without limit, every scene and band in memory until the end",
        "one limit for all requests, bytes in flight and memory counted; bands are painted block by block",
    ),
    23: Fix(
        "decodes and projects inside network tasks, every pixel again for every band",
        "threads for the pixels; a lattice of points for each raster, error below 2.5e-5 px",
    ),
    24: Fix("writes tokens into its cache", "leaves them out, also of messages and reports"),
    25: Fix(
        "caches never expire; calls at once share the last one's folder",
        "lifetimes, sizes and tags are compared; every call has its folder, every writer its file",
    ),
    26: Fix("threads and client of the first call are dead in a forked child", "each process makes its own"),
    27: Fix(
        "`boa_unc`: fill, 64535 and observations of every class are in the variance",
        "valid values of the winner's score",
    ),
    28: Fix(
        "takes the zone from the tile code, else that of the grid",
        "the file says where it lies, then the item",
    ),
    29: Fix(
        "beyond the equator or a zone's edge everything goes through FIX-3",
        "two hemispheres of a zone are one CRS; both sides of an edge lie right",
    ),
    30: Fix(
        "earth-search: never subtracts, whatever the item says",
        "the same, with a warning where the item's flag denies it (it is no proof); `offset=` decides",
    ),
    31: Fix(
        "negative numbers are 0 before they are interpolated",
        "they stay negative until then; 0 is an observation",
    ),
    32: Fix(
        "MODIS: band 1's quality stands for all bands; the grid lies askew on its pixels",
        "`band_quality=True`: the worst of all bands; `resolution='native'`",
    ),
    33: Fix(
        "two taps also where a pixel covers many: aliases",
        "overviews are means; of the fitting one a pixel covers less than two",
    ),
    34: Fix(
        "goes on after the first error and after Ctrl-C; a failed range is read anew as a whole",
        "cancels what is under way, hangs up, asks again for the lost tiles only",
    ),
    35: Fix("a wrong band is told after search and masks", "before any request"),
    36: Fix("the last second of a period is not in it; months go by text", "half-open spans of parsed times"),
    37: Fix(
        "GeoTIFFs without model and raster type, sinusoidal without a CRS, -1 written as 65535",
        "written by GDAL's COG driver and checked with it",
    ),
}


def proofs(tests: Path) -> dict[int, list[str]]:
    """Names of the test functions that carry a number, by it."""
    found = defaultdict(set)
    for path in tests.rglob("test_*.py"):
        for name, number in re.findall(r"^def (test_fix_(\d+)_\w+)", path.read_text(encoding="utf-8"), re.M):
            found[int(number)].add(name)
    return {number: sorted(names) for number, names in found.items()}


def table() -> str:
    """The section of the page."""
    proven = proofs(ROOT / "tests")
    lines = [TITLE, "", "| | the ancestor | this package | tests |", "|---|---|---|---|"]
    for number, fix in FIXES.items():
        names = "<br>".join(f"`{name}`" for name in proven.get(number, []))
        lines.append(f"| FIX-{number} | {fix.ancestor} | {fix.ours} | {names} |")
    return "\n".join([*lines, ""])


def section(page: str) -> str:
    """The same section as it stands in a page."""
    start = page.index(TITLE)
    return page[start : page.index("\n## ", start)]


def main() -> None:
    """Replace the section in the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(section(page), table()), encoding="utf-8")


if __name__ == "__main__":
    main()
