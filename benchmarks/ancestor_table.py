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
from calendar import monthrange
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ancestor_cases import ARCHIVES, CASES, EDITS, Case, Items, rewrite
from ancestor_fixes import PAGE
from ancestor_page import CAUSES, LAYERS, Comparison, Row, markdown
from ancestor_pixels import SINUSOIDAL, Look, Mask, Source, View, look, near_nothing
from ancestor_spread import Observations, observed

from bestpixel_gpu.catalog.providers import CollectionProfile, resolve_endpoint
from bestpixel_gpu.simulate import build, items, serve

RUNNER = Path(__file__).with_name("ancestor_run.py")
YEAR = "2024-01-01/2024-12-31"
CHUNK = 512
"""Side of the ancestor's chunks in output pixels."""
FALSE_NORTHING = 10_000_000
"""Metres between the two hemispheres of a UTM zone."""
Layers = dict[str, Any]


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
        for edit in EDITS.get(case.archive, ()):
            rewrite(place, *edit)
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
    """The archive's items by date, as the case gives them."""
    found = items(place, case.endpoint, base)  # type: ignore[arg-type]
    return case.items(sorted(found, key=lambda i: (i["properties"]["datetime"], i["id"])))


# ---- both runs ----
def arguments(case: Case, bbox: Sequence[float]) -> dict[str, Any]:
    """What both are called with."""
    dates = {} if "months" in case.call else {"datetime": YEAR}
    return {
        "bbox": list(bbox), "resolution": case.resolution, "endpoint": case.endpoint, "top_k": 3,
        "max_cloud_cover": 90, "bands": list(ARCHIVES[case.archive].bands), **dates, **case.call,
    }  # fmt: skip


def run_ancestor(python: str, case: Case, folder: Path) -> tuple[list[Layers], list[float]]:
    """(layers by name of each composite, bbox), by the ancestor."""
    place, endpoint = archive_of(case, folder), resolve_endpoint(case.endpoint)
    with serve(place) as server, tempfile.TemporaryDirectory() as scratch:
        found = candidates(case, place, server.url)
        for item in found:
            for asset in item["assets"].values():
                asset["href"] += "?sv=x" if endpoint.signed else ""  # it signs what has no such mark
        w, s, e, n = server.bbox if case.tile is None else server.bbox_of(server.tiles[case.tile])
        bbox = [w - case.wider, s - case.wider, e + case.wider, n + case.wider]
        call = arguments(case, bbox)
        job = {
            "searches": searches(call, found), "root": endpoint.root, "filtered": endpoint.cloud_filter,
            "collections": [p.collection for p in endpoint.collections], "call": call,
        }  # fmt: skip
        for _ in range(1 + case.warm):
            made = ask(python, job, Path(scratch))
    split: dict[str, Layers] = defaultdict(dict)
    for key, a in made.items():
        number, _, name = key.partition(" ")
        split[number][name] = a
    return list(split.values()), bbox


def searches(call: Mapping[str, Any], found: Items) -> dict[str, Items]:
    """What its searches would answer, by the dates it asks for."""
    limit = call["max_cloud_cover"]
    found = [i for i in found if limit >= 100 or i["properties"].get("eo:cloud_cover", 0) < limit]
    if "months" not in call:
        return {YEAR: found}
    asked = {(y, m): monthrange(y, m)[1] for y in call["years"] for m in call["months"]}
    return {
        f"{y}-{m:02d}-01/{y}-{m:02d}-{last}": [i for i in found if _month(i) == (y, m)]
        for (y, m), last in asked.items()
    }


def _month(item: Mapping[str, Any]) -> tuple[int, int]:
    own = item["properties"]
    when = datetime.fromisoformat(own["datetime"] or own["start_datetime"]).astimezone(UTC)
    return when.year, when.month


def ask(python: str, job: Mapping[str, Any], scratch: Path) -> Layers:
    """Arrays that the ancestor makes of a job; its cache lies in `scratch`."""
    note, out = scratch / "job.json", scratch / "result.npz"
    note.write_text(json.dumps(job))
    command = [python, str(RUNNER), str(note), str(scratch / "cache"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the ancestor failed: {done.stderr.strip()[-500:]}")
    with np.load(out) as z:
        return {k: z[k] for k in z.files}


def run_ours(case: Case, bbox: list[float], found: Items) -> list[Any]:
    """The same request made of this package."""
    from bestpixel_gpu import build_composite, build_monthly_composites

    call = arguments(case, bbox) | {
        "items": found, "fill": False, "order": "ancestor", "mask_resampling": "nearest", "device": "cpu",
        **case.ours,
    }  # fmt: skip
    return build_monthly_composites(**call) if "months" in call else [build_composite(**call)]


def correct_both(python: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random reflectances, some of them no numbers, corrected by the ancestor and here."""
    from bestpixel_gpu import correct_toa

    rng = np.random.default_rng(6)
    toa = rng.uniform(-0.2, 1.5, (12, 500, 500)).astype(np.float32)
    toa.ravel()[::997] = np.resize([np.nan, np.inf, -np.inf, 0, -0.0], toa.size // 997 + 1)
    lines = rng.uniform([[1.0], [0.0], [0.0]], [[2.0], [0.2], [0.3]], (3, 12))
    given: dict[str, Any] = {"toa": toa} | dict(zip(("xap", "xbp", "xcp"), lines, strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "toa.npz", **given)
        old = ask(python, {"toa": str(Path(scratch) / "toa.npz")}, Path(scratch))["corrected"]
    return old, correct_toa(**given)


# ---- the comparison ----
def compare(case: Case, old: Layers, cured: Layers, new: Any, found: Items) -> Comparison:
    """Put every differing pixel down to its cause; `cured` is `old` where the case names no cure."""
    windowed = bool(case.call.get("windowed_fetch"))
    base = old if windowed else cured  # both keep a scene to its window; only what is counted differs
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
    because = partial(cured_or_reasons, case)
    rows = []
    for name in LAYERS:
        have, before, after = (_layer(name, layers, every) for layers in (new, old, cured))
        fill = any_edge if name == "observation_count" else lost
        rows.append(explain(name, before, have, because(before, after, have, {"FIX-4": fill})))
    own = [by_id[i] for i in new["source_ids"]]
    own_winner = np.asarray(new["selected_observation"]).astype(np.int64)
    for band, u in under.items():
        have, before, after = (
            np.asarray(a).astype(np.int64) for a in (new["bands"][band], old[band], base[band])
        )
        right = look(view, [_source(case, i, band) for i in own], own_winner).right
        reasons = _reasons(u, after, have, lost)
        reasons = {cause: there & (np.abs(right - have) <= 1) for cause, there in reasons.items()}
        rows.append(explain(band, before, have, because(before, after, have, reasons)))
    if case.call.get("emit_uncertainty"):
        masks = [_mask(case, i) for i in scenes]
        for band in new["bands"]:
            seen = observed(view, [_source(case, i, band) for i in scenes], masks, edges)
            rows.append(_spread(band, seen, old, new, lost))
    name = f"{case.name}: month {new['month']}" if "months" in case.call else case.name
    return Comparison(name, winner.shape, [str(v) for v in old["source_ids"]], list(new["source_ids"]), rows)


def _spread(band: str, seen: Observations, old: Layers, new: Any, lost: Mask) -> Row:
    """The uncertainty of a band: no cure, each difference must be in the observations."""
    before, have = (
        np.nan_to_num(np.asarray(a), nan=65535) for a in (old[f"{band}_unc"], new["boa_unc"][band])
    )
    reasons = seen.reasons(before, have, old[band], new["bands"][band], new["quality"], lost)
    return explain(f"{band}_unc", before, have, reasons, near=0.01)


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
    path = _path(item, profile.bands[band])
    return Source(path, _crs(item), fill, 1000 * late, _level(path, case.resolution) if case.level else 0)


def _mask(case: Case, item: Mapping[str, Any]) -> Source:
    profile = _profile(case, item)
    return Source(_path(item, profile.masks[0]), _crs(item), profile.mask_nodata, 0)


def _path(item: Mapping[str, Any], key: str) -> str:
    return str(item["assets"][key]["href"]).removeprefix("file://")


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
            out[k] = near_nothing(view, _mask(case, item), profile.mask_grow)
    return out


def explain(name: str, old: Any, new: Any, causes: Mapping[str, Mask], near: float = 0) -> Row:
    """Count the differing pixels by the first cause that holds; `near` is no difference yet."""
    gap = np.abs(np.asarray(old, np.float64) - np.asarray(new, np.float64))
    left = gap > near
    agree, by_one = int((~left).sum()), int((left & (gap <= 1)).sum())
    counts = dict.fromkeys(CAUSES, 0)
    for cause, there in causes.items():
        counts[cause] = int((left & there).sum())
        left &= ~there
    return Row(name, left.size, agree, by_one, counts, int(left.sum()))


def run_case(case: Case, python: str, folder: Path) -> list[Comparison]:
    """Make the archive (below `folder`, for all cases), run both, compare composite by composite."""
    old, bbox = run_ancestor(python, case, folder)
    healed = replace(case, **case.cure[1]) if case.cure else case
    cured = run_ancestor(python, healed, folder)[0] if case.cure else old
    found = candidates(case, archive_of(case, folder))
    new = run_ours(case, bbox, found)
    known = found + candidates(healed, archive_of(healed, folder))
    return [_checked(case, *three, known) for three in zip(old, cured, new, strict=True)]


def _checked(case: Case, old: Layers, cured: Layers, new: Any, found: Items) -> Comparison:
    north = FALSE_NORTHING * (int(new["grid"]["epsg"]) - int(old["epsg"]) == 100)
    if list(new["grid"]["bounds"]) != (old["bounds"] + [0, north, 0, north]).tolist():
        raise RuntimeError(f"grids differ: {new['grid']['bounds']} and {old['bounds'].tolist()}")
    if old["month"] and old["month"] != f"{new['year']}-{new['month']:02d}":
        raise RuntimeError(f"months differ: {new['year']}-{new['month']:02d} and {old['month']}")
    return compare(case, old, cured, new, found)


def main() -> None:
    """Run every case and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--case", help="only cases with this in their name, on standard output")
    args = parser.parse_args()
    python = ancestor_python()
    if python is None:
        parser.error(
            "no Python with the ancestor: pip install bestpixel==0.3.0 numpy, set BESTPIXEL_ANCESTOR_PYTHON"
        )
    with tempfile.TemporaryDirectory() as folder:
        chosen = [c for c in CASES if args.case is None or args.case in c.name]
        results = [r for c in chosen for r in run_case(c, python, Path(folder))]
    text = markdown(results, correct_both(python))
    if args.case is None:
        args.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
