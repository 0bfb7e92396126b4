"""Where this package and its ancestor, `bestpixel` 0.3.0, give the same pixels, and where not and why.

    BESTPIXEL_ANCESTOR_PYTHON=/path/to/python python benchmarks/ancestor_table.py

writes docs/ancestor.md. The ancestor runs unmodified in a Python of its own that has its wheel and
NumPy (``pip install bestpixel==0.3.0 numpy``), on a simulated archive served on loopback, through
the tools in ``../shared/tools``. Both make the same composite of one tile at its native 10 m with
the ancestor's own order and selection; each differing pixel is put down to a known defect of the
ancestor only if the cause is really there under that pixel.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

BANDS = {"red": "B04", "nir08": "B8A", "swir22": "B12", "nir09": "B09"}
"""Bands of 10, 20, 20 and 60 m."""
CAUSES = ("FIX-2", "FIX-4", "FIX-16")
LAYERS = ("quality", "selected_observation", "observation_count")
YEAR = "2024-01-01/2024-12-31"
MAX_CLOUD = 90
TOP_K = 3


@dataclass(frozen=True)
class Case:
    """One archive: catalogue dialect, and whether every third date is cut by the edge of the swath."""

    name: str
    dialect: str
    cut: bool


CASES = (
    Case("pc, whole scenes", "pc", False),
    Case("earth-search, whole scenes", "es", False),
    Case("pc, two of eight dates cut by the swath", "pc", True),
)


@dataclass(frozen=True)
class Row:
    """One layer compared: pixels that agree, pixels that differ by cause, and those without one."""

    layer: str
    pixels: int
    agree: int
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


# ---- both runs ----
def make_archive(tools: Path, folder: Path, case: Case) -> None:
    """One tile of 1024 x 1024 pixels of 10 m, eight dates."""
    command = [sys.executable, str(tools / "archive.py"), str(folder), "--dates", "8", "--tiles", "1"]
    command += ["--size", "1024", "--dialect", case.dialect, "--bands", ",".join(BANDS)]
    command += [] if case.cut else ["--full-swath"]
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def served(tools: Path, folder: Path) -> Iterator[str]:
    """The archive on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(tools / "serve.py"), str(folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/__stats", timeout=1):
                break
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def run_ancestor(python: str, tools: Path, folder: Path, case: Case) -> tuple[dict[str, Any], list[float]]:
    """(layers by name, bbox) of the ancestor's composite."""
    out = folder / "ancestor.npz"
    with served(tools, folder) as url:
        command = [python, str(tools / "peer_bestpixel.py"), str(folder), "--url", url]
        command += ["--endpoint", case.dialect, "--resolution", "10", "--bands", ",".join(BANDS)]
        command += [
            "--datetime",
            YEAR,
            "--max-cloud",
            str(MAX_CLOUD),
            "--top-k",
            str(TOP_K),
            "--npz",
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the ancestor failed: {done.stderr.strip()[-500:]}")
    with np.load(out) as z:
        return {k: z[k] for k in z.files}, json.loads(done.stdout)["bbox"]


def local_items(folder: Path, case: Case) -> list[dict[str, Any]]:
    """The archive's items below the cloud limit, files as local paths."""
    text = (folder / f"items_{case.dialect}.json").read_text()
    items = json.loads(text.replace("{base}", (folder / "data").as_posix()))["features"]
    return [i for i in items if i["properties"]["eo:cloud_cover"] < MAX_CLOUD]


def run_ours(items: list[dict[str, Any]], bbox: list[float], case: Case) -> Any:
    """The same request made of this package."""
    from bestpixel_gpu import build_composite

    return build_composite(
        tuple(bbox), YEAR, resolution=10, top_k=TOP_K, max_cloud_cover=MAX_CLOUD, bands=list(BANDS),
        endpoint={"pc": "pc", "es": "earth-search"}[case.dialect], items=items, fill=False, order="ancestor",
        device="cpu",
    )  # fmt: skip


# ---- what lies under a pixel ----
@dataclass(frozen=True)
class Taps:
    """First tap and fraction of each output row or column on one axis of a source raster."""

    first: NDArray[np.int64]
    fraction: NDArray[np.float64]
    lost: NDArray[np.bool_]
    """The ancestor's read window, cut at the grid's bounds, lacks a tap."""


def taps(start: float, res: float, n: int, pixel: float, size: int) -> Taps:
    """`start`: distance from the source's edge to the grid's, both growing inwards, in metres."""
    u = (start + (np.arange(n) + 0.5) * res) / pixel - 0.5
    first = np.floor(u).astype(np.int64)
    low, high = max(0, int(start // pixel)), min(size, int(-(-(start + n * res) // pixel)))
    return Taps(first, u - first, (first < low) | (first + 1 >= high))


@dataclass(frozen=True)
class Under:
    """For each output pixel and one band: what the ancestor's winner holds there."""

    mixed: NDArray[np.bool_]
    """A tap of weight > 0 is fill."""
    empty: NDArray[np.bool_]
    """The nearest source pixel is fill."""
    cut: NDArray[np.bool_]
    """A tap lies outside the ancestor's window."""


def look_under(paths: list[str], winner: NDArray[np.int64], bounds: Any, res: float = 10) -> Under:
    """Look at one band of the winning scenes; `paths` in the order of the winner's numbers."""
    mixed, empty, cut = (np.zeros(winner.shape, bool) for _ in range(3))
    for k, path in enumerate(paths):
        with rasterio.open(path) as src:
            valid, t = src.read(1) > 0, src.transform
        h, w = valid.shape
        x = taps(bounds[0] - t.c, res, winner.shape[1], t.a, w)
        y = taps(t.f - bounds[3], res, winner.shape[0], t.a, h)
        fill = np.zeros(winner.shape, bool)
        for dr, wr in ((0, 1 - y.fraction), (1, y.fraction)):
            for dc, wc in ((0, 1 - x.fraction), (1, x.fraction)):
                r, c = np.clip(y.first + dr, 0, h - 1), np.clip(x.first + dc, 0, w - 1)
                fill |= ~valid[np.ix_(r, c)] & np.outer(wr > 0, wc > 0)
        near = np.ix_(*(np.floor(a.first + a.fraction + 0.5).astype(int) for a in (y, x)))
        won = winner == k
        mixed |= won & fill
        empty |= won & ~valid[near]
        cut |= won & (y.lost[:, None] | x.lost[None, :])
    return Under(mixed, empty, cut)


# ---- the comparison ----
def compare(case: Case, old: Mapping[str, Any], new: Any, items: list[dict[str, Any]]) -> Comparison:
    """Put every differing pixel down to its cause."""
    ids = [str(v) for v in old["source_ids"]]
    by_id = {i["id"]: i for i in items}
    winner = old["selected_observation"].astype(np.int64)
    key = BANDS if case.dialect == "pc" else {b: b for b in BANDS}
    under = {
        b: look_under([by_id[i]["assets"][key[b]]["href"] for i in ids], winner, old["bounds"]) for b in BANDS
    }
    empty = np.logical_or.reduce([u.empty for u in under.values()])
    rows = [explain(name, old[name], new[name], {"FIX-4": empty}) for name in LAYERS]
    for b, u in under.items():
        have, want = np.asarray(new["bands"][b]), old[b]
        last_digit = np.abs(have.astype(np.int64) - want) == 1
        rows.append(
            explain(b, want, have, {"FIX-2": u.cut & ~empty, "FIX-4": u.mixed | empty, "FIX-16": last_digit})
        )
    return Comparison(case, winner.shape, ids, list(new["source_ids"]), rows)


def explain(name: str, old: Any, new: Any, causes: Mapping[str, NDArray[np.bool_]]) -> Row:
    """Count the differing pixels by the first cause that holds."""
    left = np.asarray(old).astype(np.int64) != np.asarray(new).astype(np.int64)
    agree = int((~left).sum())
    counts = dict.fromkeys(CAUSES, 0)
    for cause, there in causes.items():
        counts[cause] = int((left & there).sum())
        left &= ~there
    return Row(name, left.size, agree, counts, int(left.sum()))


def run_case(case: Case, tools: Path, python: str, folder: Path) -> Comparison:
    """Make the archive, run both, compare."""
    make_archive(tools, folder, case)
    old, bbox = run_ancestor(python, tools, folder, case)
    items = local_items(folder, case)
    new = run_ours(items, bbox, case)
    if list(new["grid"]["bounds"]) != old["bounds"].tolist():
        raise RuntimeError(f"grids differ: {new['grid']['bounds']} and {old['bounds'].tolist()}")
    return compare(case, old, new, items)


HEAD = """# The ancestor, pixel by pixel

Made by `benchmarks/ancestor_table.py`: `bestpixel` 0.3.0, its released wheel unmodified, and this
package with `order="ancestor", fill=False, top_k=3` make the same composite of one simulated tile
(1024 x 1024 pixels of 10 m, eight dates, bands of 10, 20 and 60 m) at 10 m. A differing pixel is
counted under a cause only if that cause is found in the source pixels under it; FIX-16 is a
difference of 1 DN.

| cause | the ancestor | this package |
|---|---|---|
| FIX-2 | cuts its window at the grid: outer rows 65535 (64535 after an offset), columns extrapolated \
| reads the neighbours that bilinear needs |
| FIX-4 | fill enters bilinear sums at the swath's edge; a scene wins where its band is empty \
| drops invalid taps; the next best scene stands in |
| FIX-16 | float32 weights and sums, by the processor's own rounding | integers, weights of 15 bits |

At 10 m the weights of a 60 m band are twelfths, so one sum in about seventy lies exactly between
two numbers: there the two arithmetics may round apart.
"""


def markdown(results: list[Comparison]) -> str:
    """The page."""
    out = [HEAD]
    for r in results:
        same = "the same, in the same order" if r.our_ids == r.ancestor_ids else "DIFFERENT"
        out.append(f"## {r.case.name}\n\nGrid {r.shape[0]} x {r.shape[1]}; scenes composed: {same}.\n")
        out.append(
            f"| layer | agree | {' | '.join(CAUSES)} | unexplained |\n|---|---|{'---|' * len(CAUSES)}---|"
        )
        for row in r.rows:
            why = " | ".join(f"{row.causes[c]:,}" if row.causes[c] else "" for c in CAUSES)
            out.append(f"| {row.layer} | {row.agree / row.pixels:.4%} | {why} | {row.unexplained:,} |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    """Run every case and write the page."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("BESTPIXEL_SHARED", root.parent / "shared"))
    )
    parser.add_argument("--out", type=Path, default=root / "docs" / "ancestor.md")
    args = parser.parse_args()
    python = ancestor_python()
    if python is None:
        parser.error(
            "no Python with the ancestor: pip install bestpixel==0.3.0 numpy, set BESTPIXEL_ANCESTOR_PYTHON"
        )
    results = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(run_case(case, args.shared / "tools", python, Path(folder)))
    args.out.write_text(markdown(results))
    print(args.out.read_text())


if __name__ == "__main__":
    main()
