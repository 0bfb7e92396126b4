"""Where this package and its ancestor, `bestpixel` 0.3.0, give the same pixels, and where not and why.

    BESTPIXEL_ANCESTOR_PYTHON=/path/to/python python benchmarks/ancestor_table.py

writes docs/ancestor.md. The ancestor runs unmodified in a Python of its own that has its wheel and
NumPy (``pip install bestpixel==0.3.0 numpy``), on simulated archives served on loopback. This
package makes the same composite with the ancestor's own order and selection. Each differing pixel is
put down to a known defect of the ancestor only if the cause is really there: either it is in the
source pixels under it (`ancestor_pixels.py`), or the ancestor itself gives another number there once
what the defect is about is taken away.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ancestor_cases import ARCHIVES, CASES, Case
from ancestor_pixels import SINUSOIDAL, Look, Mask, Source, View, look, near_nothing

from bestpixel_gpu.catalog.providers import CollectionProfile, resolve_endpoint
from bestpixel_gpu.simulate import build, items, serve

RUNNER = Path(__file__).with_name("ancestor_run.py")
LAYERS = ("quality", "selected_observation", "observation_count")
CAUSES = ("FIX-1", "FIX-2", "FIX-3", "FIX-4", "FIX-15", "FIX-16", "FIX-18", "FIX-31")
YEAR = "2024-01-01/2024-12-31"
CHUNK = 512
"""Side of the ancestor's chunks in output pixels."""
FALSE_NORTHING = 10_000_000
"""Metres between the two hemispheres of a UTM zone."""
Items = list[dict[str, Any]]


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
    """One case: grid, scenes composed on both sides in their order, every layer."""

    case: Case
    shape: tuple[int, int]
    ancestor_ids: list[str]
    our_ids: list[str]
    rows: list[Row]


def ancestor_python() -> str | None:
    """A Python that can import the ancestor: the one named in the environment, or this one."""
    named = os.environ.get("BESTPIXEL_ANCESTOR_PYTHON")
    if named:
        return named if shutil.which(named) else None
    return sys.executable if importlib.util.find_spec("bestpixel") else None


# ---- archives ----
def archive_of(case: Case, folder: Path) -> Path:
    """The case's archive, built below `folder` where it is not there yet."""
    place = folder / f"{case.archive}-{case.overviews}"
    if not place.exists():
        build(ARCHIVES[case.archive], place)
        for path in (place / "data").rglob("*.[tT][iI][fF]"):
            mask = any(word in path.name for word in ("SCL", "Fmask", "Quality"))
            if case.overviews == "none" or mask:
                _hide_overviews(path)
    return place


def _hide_overviews(path: Path) -> None:
    """Unlink all directories but the first: no chain, and a private tag instead of SubIFDs."""
    raw = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", raw, 4)[0]
    count = struct.unpack_from("<H", raw, first)[0]
    for at in range(first + 2, first + 2 + 12 * count, 12):
        if struct.unpack_from("<H", raw, at)[0] == 330:
            struct.pack_into("<H", raw, at, 331)
    struct.pack_into("<I", raw, first + 2 + 12 * count, 0)
    path.write_bytes(raw)


def candidates(case: Case, place: Path, base: str | None = None) -> Items:
    """The archive's items by date; each granule once where the case says so."""
    found = items(place, case.endpoint, base)  # type: ignore[arg-type]
    found.sort(key=lambda i: (i["properties"]["datetime"], i["id"]))
    if case.only_once:
        days = {(i["collection"], i["properties"]["datetime"][:10], i["bbox"][0]): i for i in found}
        found = list(days.values())
    return found


# ---- both runs ----
def arguments(case: Case, bbox: Sequence[float]) -> dict[str, Any]:
    """What both are called with."""
    bands = list(ARCHIVES[case.archive].bands)
    return {
        "bbox": list(bbox), "datetime": YEAR, "resolution": case.resolution, "endpoint": case.endpoint,
        "top_k": 3, "max_cloud_cover": 90, "bands": bands, **case.call,
    }  # fmt: skip


def run_ancestor(python: str, case: Case, folder: Path) -> tuple[dict[str, Any], list[float]]:
    """(layers by name, bbox) of the ancestor's composite."""
    place, endpoint = archive_of(case, folder), resolve_endpoint(case.endpoint)
    with serve(place) as server, tempfile.TemporaryDirectory() as scratch:
        limit = case.call.get("max_cloud_cover", 90)
        found = candidates(case, place, server.url)
        found = [i for i in found if i["properties"].get("eo:cloud_cover", 0) < limit]
        for item in found:
            for asset in item["assets"].values():
                asset["href"] += "?sv=x" if endpoint.signed else ""  # it signs what has no such mark
        bbox = list(server.bbox if case.tile is None else server.bbox_of(server.tiles[case.tile]))
        job = {
            "items": found, "root": endpoint.root, "filtered": endpoint.cloud_filter,
            "collections": [p.collection for p in endpoint.collections], "call": arguments(case, bbox),
        }  # fmt: skip
        note, out = Path(scratch) / "job.json", Path(scratch) / "result.npz"
        note.write_text(json.dumps(job))
        done = subprocess.run(
            [python, str(RUNNER), str(note), str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the ancestor failed: {done.stderr.strip()[-500:]}")
        with np.load(out) as z:
            return {k: z[k] for k in z.files}, bbox


def run_ours(case: Case, bbox: list[float], found: Items) -> Any:
    """The same request made of this package."""
    from bestpixel_gpu import build_composite

    return build_composite(
        **arguments(case, bbox),
        items=found,
        fill=False,
        order="ancestor",
        mask_resampling="nearest",
        device="cpu",
    )


# ---- the comparison ----
def compare(
    case: Case, old: Mapping[str, Any], cured: Mapping[str, Any], new: Any, found: Items
) -> Comparison:
    """Put every differing pixel down to its cause; `cured` is `old` where the case names no cure."""
    windowed = bool(case.call.get("windowed_fetch"))
    base = (
        old if windowed else cured
    )  # both packages keep a scene to its window; only what is counted differs
    ids = [str(v) for v in base["source_ids"]]
    every = sorted({*ids, *map(str, old["source_ids"]), *new["source_ids"]})
    winner = base["selected_observation"].astype(np.int64)
    view = View(
        tuple(cured["bounds"].tolist()), f"EPSG:{cured['epsg']}" if cured["epsg"] else SINUSOIDAL,
        case.resolution, winner.shape,
    )  # fmt: skip
    by_id = {i["id"]: i for i in found}
    scenes = [by_id[i] for i in ids]
    chunk = CHUNK if windowed else 0
    under = {b: look(view, [_source(case, i, b) for i in scenes], winner, chunk) for b in new["bands"]}
    empty = np.logical_or.reduce([u.empty for u in under.values()])
    edges = _beside_nothing(case, view, scenes)
    lost = empty | np.logical_or.reduce([(winner == k) & edge for k, edge in edges.items()], initial=False)
    any_edge = empty | np.logical_or.reduce([*edges.values()], initial=False)
    rows = []
    for name in LAYERS:
        have, before, after = (_layer(name, layers, every) for layers in (new, old, cured))
        fill = any_edge if name == "observation_count" else lost
        rows.append(explain(name, before, have, cured_or_reasons(case, before, after, have, {"FIX-4": fill})))
    own = [by_id[i] for i in new["source_ids"]]
    own_winner = np.asarray(new["selected_observation"]).astype(np.int64)
    for band, u in under.items():
        have, before, after = (
            np.asarray(a).astype(np.int64) for a in (new["bands"][band], old[band], base[band])
        )
        right = look(view, [_source(case, i, band) for i in own], own_winner).right
        reasons = _reasons(u, after, have, lost)
        reasons = {cause: there & (np.abs(right - have) <= 1) for cause, there in reasons.items()}
        rows.append(explain(band, before, have, cured_or_reasons(case, before, after, have, reasons)))
    return Comparison(case, winner.shape, [str(v) for v in old["source_ids"]], list(new["source_ids"]), rows)


def _layer(name: str, layers: Any, every: list[str]) -> NDArray[np.int64]:
    """A layer; winners as places in `every`."""
    values = np.asarray(layers[name]).astype(np.int64)
    if name != "selected_observation":
        return values
    places = np.array([every.index(str(i)) for i in layers["source_ids"]] + [-1])
    return places[values]


def cured_or_reasons(
    case: Case, before: Any, after: Any, new: Any, reasons: Mapping[str, Mask]
) -> dict[str, Mask]:
    """The reasons, before them the case's own: the cured ancestor differs, and what is left has a reason."""
    if case.cure is None:
        return dict(reasons)
    rest = np.logical_or.reduce([new == after, *reasons.values()])
    return {case.cure[0]: (before != after) & rest} | dict(reasons)


def _reasons(u: Look, old: NDArray[np.int64], new: NDArray[np.int64], lost: Mask) -> dict[str, Mask]:
    """Where each defect is in the ancestor's number, which the model with the defects must give."""
    modelled = np.abs(u.value - old) <= 1
    return {
        "FIX-2": modelled & u.cut & ~lost,
        "FIX-15": modelled & u.seam & ~lost,
        "FIX-3": modelled & u.shifted & ~lost,
        "FIX-4": modelled & (u.mixed | lost),
        "FIX-31": modelled & u.negative,
        "FIX-16": modelled & u.tie & (np.abs(new - old) == 1),
    }


def _profile(case: Case, item: Mapping[str, Any]) -> CollectionProfile:
    return next(p for p in resolve_endpoint(case.endpoint).collections if p.collection == item["collection"])


def _crs(item: Mapping[str, Any]) -> str:
    """Where the ancestor takes a scene to lie: by its tile code, HLS always in the north."""
    if item["collection"].startswith("modis"):
        return SINUSOIDAL
    code = item["id"].split(".")[2][1:] if item["collection"].startswith("hls") else _mgrs(item["properties"])
    south = code[2] < "N" and not item["collection"].startswith("hls")
    return f"EPSG:{326 + south}{code[:2]}"


def _mgrs(properties: Mapping[str, Any]) -> str:
    return str(properties.get("s2:mgrs_tile") or properties["grid:code"].removeprefix("MGRS-"))


def _source(case: Case, item: Mapping[str, Any], band: str) -> Source:
    profile = _profile(case, item)
    fill = None if profile.mask_grow else {"hls": -9999, "mcd43": 32767}.get(profile.family, 0)
    late = case.endpoint == "pc" and float(item["properties"]["s2:processing_baseline"]) >= 4
    path = item["assets"][profile.bands[band]]["href"].removeprefix("file://")
    return Source(path, _crs(item), fill, 1000 * late, _level(path, case.resolution) if case.level else 0)


def _level(path: str, res: float) -> int:
    """The coarsest level that is not coarser than the output."""
    import rasterio

    with rasterio.open(path) as src:
        return sum(f * src.transform.a <= res for f in src.overviews(1))


def _beside_nothing(case: Case, view: View, scenes: Items) -> dict[int, Mask]:
    """Where scenes are not used, beside their masks' edge, because their fill cannot be told from ground."""
    out = {}
    for k, item in enumerate(scenes):
        profile = _profile(case, item)
        if profile.mask_grow:
            path = item["assets"][profile.masks[0]]["href"].removeprefix("file://")
            out[k] = near_nothing(view, Source(path, _crs(item), profile.mask_nodata, 0), profile.mask_grow)
    return out


def explain(name: str, old: Any, new: Any, causes: Mapping[str, NDArray[np.bool_]]) -> Row:
    """Count the differing pixels by the first cause that holds."""
    gap = np.abs(np.asarray(old).astype(np.int64) - np.asarray(new).astype(np.int64))
    left = gap != 0
    agree, by_one = int((~left).sum()), int((gap == 1).sum())
    counts = dict.fromkeys(CAUSES, 0)
    for cause, there in causes.items():
        counts[cause] = int((left & there).sum())
        left &= ~there
    return Row(name, left.size, agree, by_one, counts, int(left.sum()))


def run_case(case: Case, python: str, folder: Path) -> Comparison:
    """Make the archive (below `folder`, for all cases), run both, compare."""
    old, bbox = run_ancestor(python, case, folder)
    cured = run_ancestor(python, replace(case, **case.cure[1]), folder)[0] if case.cure else old
    found = candidates(case, archive_of(case, folder))
    new = run_ours(case, bbox, found)
    north = FALSE_NORTHING * (int(new["grid"]["epsg"]) - int(old["epsg"]) == 100)
    if list(new["grid"]["bounds"]) != (old["bounds"] + [0, north, 0, north]).tolist():
        raise RuntimeError(f"grids differ: {new['grid']['bounds']} and {old['bounds'].tolist()}")
    return compare(case, old, cured, new, found)


# ---- the page ----
HEAD = """# The ancestor, pixel by pixel

Made by `benchmarks/ancestor_table.py`: `bestpixel` 0.3.0, its released wheel unmodified, and this
package with `order="ancestor", fill=False, mask_resampling="nearest"` make the same composite of
simulated scenes: one tile of 10.8 km, eight dates, bands of 10 m (red), 20 m (nir08, swir22) and 60 m
(nir09), `top_k=3`, 10 m, unless the case says otherwise. A differing pixel is counted under the first
cause of the table that is really there. For FIX-1 and 18 that means: once what the defect is about
is taken away, the ancestor itself gives another number at that pixel, and what then still differs from
ours has one of the other causes. For those the cause is in the source pixels under the one that
differs, and a model in float64 gives both numbers within 1 DN: with the defects the ancestor's,
without them ours. FIX-16 is a difference of 1 DN where the exact sum lies within 0.1 DN of the turn
of rounding.

| cause | the ancestor | this package |
|---|---|---|
| FIX-1 | reads full resolution: it looks for overviews in SubIFDs only | reads the fitting overview |
| FIX-2 | cuts its window at the grid: outer rows 65535 (64535 after an offset), columns extrapolated \\
| reads the neighbours that bilinear needs |
| FIX-3 | across CRSs bands are read half a source pixel aside, masks are not | reads where the pixel is |
| FIX-4 | fill enters bilinear sums at the swath's edge; a scene wins where its band is empty \\
| drops invalid taps; the next best scene stands in |
| FIX-15 | `windowed_fetch`: a scene's own window is cut like that too; it counts inside it only \\
| reads the neighbours; a scene counts wherever it observes |
| FIX-16 | float32 weights and sums, by the processor's own rounding | integers, weights of 15 bits |
| FIX-18 | an acquisition listed twice competes and counts twice | once |
| FIX-31 | negative numbers are 0 before they are interpolated | they stay negative until then |

- Files are without overviews unless a case says otherwise, so that both read the same pixels
  whatever the resolution. Class masks never have any here: the ancestor would read them coarser
  where it finds them, this package keeps to full resolution for Sentinel-2.
- From 10 m to 20 m on one grid, bilinear is the mean of four pixels and so is the overview: FIX-1 then
  costs bytes only. At 60 m it changes nearly every pixel.
- At 10 m the weights of a 60 m band are twelfths, at 20 m those of HLS sixths, so some of their sums
  lie exactly between two numbers: there the two arithmetics may round apart.
- Cloud limits: the ancestor gets what a search with that limit would answer.
- South of the equator `output_crs="utm"` leaves the ancestor's HLS in the northern zone; here it is the
  southern one. At 20 m, which divides the 10 000 km between them, the pixels are the same ones.
- With `windowed_fetch` both keep a scene to the box of the chunks that chose it. The layer
  observation_count is then, to the bit, the one of the ancestor without it.
- Of MODIS, one row in five of swir16 holds nothing while the class mask, band 1's, calls it good: the
  ancestor composes fill there, here the next scene stands in for all bands.
- Not compared, because the two mean different things: `order` and selection other than the ancestor's
  (FIX-13, 14, 17), `emit_uncertainty`, months, `correct_toa`.
"""


def markdown(results: list[Comparison]) -> str:
    """The page: a line for each case, then each of them by layer."""
    out = [
        HEAD,
        "| case | grid | scenes | layers to the bit | band pixels to the bit | within 1 DN | unexplained |",
    ]
    out.append("|---|---|---|---|---|---|---|")
    for r in results:
        layers, bands = r.rows[: len(LAYERS)], r.rows[len(LAYERS) :]
        pixels, agree = sum(b.pixels for b in bands), sum(b.agree for b in bands)
        near = agree + sum(b.by_one for b in bands)
        exact = sum(row.agree for row in layers) / sum(row.pixels for row in layers)
        cells = (
            r.case.name, f"{r.shape[0]} x {r.shape[1]}", _scenes(r), f"{exact:.4%}", f"{agree / pixels:.4%}",
            f"{near / pixels:.4%}", f"{sum(row.unexplained for row in r.rows):,}",
        )  # fmt: skip
        out.append(f"| {' | '.join(cells)} |")
    for r in results:
        out += [f"\n## {r.case.name}\n", "| layer | agree | differ by 1 | causes | unexplained |"]
        out += ["|---|---|---|---|---|", *_by_layer(r.rows)]
    return "\n".join([*out, ""])


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


def main() -> None:
    """Run every case and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    page = Path(__file__).resolve().parents[1] / "docs" / "ancestor.md"
    parser.add_argument("--out", type=Path, default=page)
    parser.add_argument("--case", help="only cases with this in their name, on standard output")
    args = parser.parse_args()
    python = ancestor_python()
    if python is None:
        parser.error(
            "no Python with the ancestor: pip install bestpixel==0.3.0 numpy, set BESTPIXEL_ANCESTOR_PYTHON"
        )
    with tempfile.TemporaryDirectory() as folder:
        chosen = [c for c in CASES if args.case is None or args.case in c.name]
        results = [run_case(c, python, Path(folder)) for c in chosen]
    if args.case is None:
        args.out.write_text(markdown(results))
    else:
        print(markdown(results))


if __name__ == "__main__":
    main()
