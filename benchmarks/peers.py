"""Ours and the ancestor on the same archive and server, in turn: the goals' table.

    python benchmarks/peers.py --rows C1 C2 --rounds 5

Needs the folder `shared` beside the repository (archive, server and runner of the ancestor) and
the `bench` dependency group. Each run is a process of its own that has made a small composite
elsewhere before; CPU is user + system time of that process around the call; server apart. Ratios
are of medians over runs taken in turn. JSON goes to benchmarks/results, `--table` writes
docs/benchmarks.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("BESTPIXEL_SHARED", HERE.parents[1] / "shared"))
BANDS3 = ["red", "green", "blue"]
BANDS4 = [*BANDS3, "nir"]

# archive name -> options of the archive writer
ARCHIVES = {
    "warm": "--dates 3 --tiles 1 --size 256 --seed 9",
    "tile": "--dates 8 --tiles 1",
    "seam": "--dates 3 --tiles 2 --size 1024 --seam --dialect es",
    "full": "--dates 8 --size 10980 --dialect es --bands red,green,blue,nir --level 1 --threads 1",
}
CASES: dict[str, list[dict[str, Any]]] = {
    "C1": [{"archive": "tile", "endpoint": e, "resolution": 10} for e in ("es", "pc")],
    "C2": [{"archive": "tile", "endpoint": e, "resolution": 60} for e in ("es", "pc")],
    "C3": [
        {"archive": "full", "endpoint": "es", "resolution": r, "bands": b}
        for b in (["red"], BANDS4)
        for r in (60, 20)
    ],
    "C4": [{"archive": "seam", "endpoint": "es", "resolution": 20}],
    "C9": [
        {"archive": "tile", "endpoint": "es", "resolution": 60, "latency_ms": ms, "ours_only": True}
        for ms in (0, 20, 100)
    ],
}
GOALS = {  # row -> (figure, goal)
    "C1": {"cpu": 0.5, "wall": 0.6, "bytes_over_ideal": 1.05},
    "C2": {"cpu": 0.2, "bytes_over_ideal": 1.10},
    "C3": {"cpu": 0.15, "rss": 0.25},
    "C4": {"cpu": 0.1},
}
DATES = "2024-01-01/2024-12-31"


# ---- one run, in a process of its own ----


def run_one(who: str, case: dict[str, Any], folder: Path, url: str, warm_url: str) -> dict[str, Any]:
    """Measure one call in this process."""
    sys.path.insert(0, str(SHARED / "tools"))
    import peer_bestpixel as tool

    box = tool.inner_bbox(json.loads((folder / case["archive"] / "archive.json").read_text()))
    warm_box = tool.inner_bbox(json.loads((folder / "warm" / "archive.json").read_text()))
    call = {"ours": _ours, "ancestor": _ancestor}[who]
    call(tool, {**case, "resolution": 60}, warm_box, warm_url)
    _ask(url + f"/__reset?latency_ms={case.get('latency_ms', 0)}", method="POST")
    before, start = _usage(), time.perf_counter()
    out = call(tool, case, box, url)
    wall, after = time.perf_counter() - start, _usage()
    stats = _ask(url + "/__stats")
    result = {
        "wall_s": wall - out.pop("_outside", 0.0),
        "cpu_s": after[0] - before[0],
        "rss_mib": after[1],
        "requests": stats["requests"].get("data", 0),
        "bytes": stats["bytes"].get("data", 0),
        "shape": list(out["quality"].shape),
    }
    if who == "ours":
        result["seconds"] = {k: round(v, 4) for k, v in out["report"].seconds.items()}
        result["ideal_bytes"] = _ideal(tool, case, out, folder, box, url)
    return result


def _ours(tool: Any, case: dict[str, Any], box: list[float], url: str) -> Any:
    import bestpixel_gpu

    root = {"pc": "/pc/api/stac/v1", "es": "/es/v1"}[case["endpoint"]]
    return dict(
        bestpixel_gpu.build_composite(
            box, DATES, resolution=case["resolution"], top_k=3, fill=False, bands=case.get("bands"),
            endpoint={"pc": "pc", "es": "earth-search"}[case["endpoint"]], stac_url=url + root,
        )
    )  # fmt: skip


def _ancestor(tool: Any, case: dict[str, Any], box: list[float], url: str) -> Any:
    import bestpixel

    args = argparse.Namespace(url=url, endpoint=case["endpoint"], datetime=DATES, max_cloud=90.0)
    items = tool.search(args, box)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as cache:
        tool.seed(cache, args, box, items)
        return bestpixel.build_composite(
            tuple(box), DATES, resolution=case["resolution"], top_k=3, max_cloud_cover=90.0, disk_cache=cache,
            bands=case.get("bands"), endpoint={"pc": "pc", "es": "earth-search"}[case["endpoint"]],
        )  # fmt: skip


def _ideal(tool: Any, case: dict[str, Any], out: Any, folder: Path, box: list[float], url: str) -> int:
    """Ideal bytes of the goals: headers, full masks over the grid, each needed tile once."""
    args = argparse.Namespace(
        url=url, endpoint=case["endpoint"], datetime=DATES, max_cloud=90.0, out=folder / case["archive"]
    )
    items = tool.search(args, box)
    found = tool.ideal(args, out, items)
    grid = out["grid"]
    mask_out = {**out, "grid": {**grid, "resolution": min(grid["resolution"], 20.0)}}
    if grid["resolution"] > 20:  # the rule of the goals: masks at full resolution
        step = int(grid["resolution"] // 20)
        mask_out["grid"] |= {"width": grid["width"] * step, "height": grid["height"] * step}
        import numpy as np

        mask_out["selected_observation"] = np.full((grid["height"] * step, grid["width"] * step), -1)
        masks = tool.ideal(args, mask_out, items)["mask_bytes"]
    else:
        masks = found["mask_bytes"]
    owned = {k for k in range(len(out["source_ids"])) if (out["selected_observation"] == k).any()}
    headers = 16384 * (len(items) + len(owned) * len(out["bands"]))
    return int(headers + masks + found["band_bytes"])


def _usage() -> tuple[float, int]:
    import resource

    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime, use.ru_maxrss // 1024


def _ask(url: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return json.load(answer)


# ---- all runs ----


class Server:
    """The archive's own server, in a process apart."""

    def __init__(self, archive: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(SHARED / "tools" / "serve.py"), str(archive), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def make_archive(folder: Path, name: str) -> None:
    if not (folder / name / "archive.json").exists():
        tool = str(SHARED / "tools" / "archive.py")
        subprocess.run([sys.executable, tool, str(folder / name), *ARCHIVES[name].split()], check=True)


def measure(case: dict[str, Any], folder: Path, rounds: int) -> dict[str, Any]:
    """Ours and the ancestor in turn on one case."""
    for name in ("warm", case["archive"]):
        make_archive(folder, name)
    warm, main = Server(folder / "warm", 8191), Server(folder / case["archive"], 8192)
    who = ["ours"] if case.get("ours_only") else ["ours", "ancestor"]
    runs: dict[str, list[dict[str, Any]]] = {w: [] for w in who}
    try:
        for n in range(rounds):
            for w in who if n % 2 == 0 else who[::-1]:
                spec = json.dumps([w, case, str(folder), main.url, warm.url])
                out = subprocess.run(
                    [sys.executable, __file__, "--one", spec], stdout=subprocess.PIPE, check=True, text=True
                )
                runs[w].append(json.loads(out.stdout.splitlines()[-1]))
    finally:
        warm.stop()
        main.stop()
    return {"case": case, "runs": runs, "summary": summary(runs)}


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    def mid(who: str, key: str) -> float:
        return statistics.median(r[key] for r in runs[who])

    ours = runs["ours"]
    out = {
        "ours_cpu_s": mid("ours", "cpu_s"),
        "ours_wall_s": mid("ours", "wall_s"),
        "ours_rss_mib": mid("ours", "rss_mib"),
        "bytes_over_ideal": ours[0]["bytes"] / ours[0]["ideal_bytes"],
    }
    if "ancestor" in runs:
        out |= {
            "cpu": mid("ours", "cpu_s") / mid("ancestor", "cpu_s"),
            "wall": mid("ours", "wall_s") / mid("ancestor", "wall_s"),
            "rss": mid("ours", "rss_mib") / mid("ancestor", "rss_mib"),
            "bytes": ours[0]["bytes"] / runs["ancestor"][0]["bytes"],
            "ancestor_cpu_s": mid("ancestor", "cpu_s"),
        }
    return {k: round(v, 4) for k, v in out.items()}


def write_table(results: Path, target: Path) -> None:
    """docs/benchmarks.md from the JSON."""
    lines = [
        "# Benchmarks",
        "",
        "Generated by `python benchmarks/peers.py --table` from `benchmarks/results/peers.json`. Ratios ours /",
        "ancestor (`bestpixel` 0.3.0), medians of runs taken in turn on one shared 2-core machine, server apart.",
        "",
        "| row | case | CPU | wall | peak memory | bytes | bytes / ideal | goal met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, cases in json.loads(results.read_text())["rows"].items():
        for found in cases:
            s, case = found["summary"], found["case"]
            met = [
                f"{k} {'yes' if s[k] <= goal else 'NO'} (<= {goal})" for k, goal in GOALS.get(row, {}).items()
            ]
            name = f"{case['endpoint']}, {len(case.get('bands') or range(12))} bands, {case['resolution']} m"
            if "latency_ms" in case:
                name += f", {case['latency_ms']} ms latency, wall {s['ours_wall_s']:.2f} s"
            ratios = [
                f"{s[k]:.3f}" if k in s else "-" for k in ("cpu", "wall", "rss", "bytes", "bytes_over_ideal")
            ]
            lines.append(f"| {row} | {name} | {' | '.join(ratios)} | {'; '.join(met)} |")
    target.write_text("\n".join(lines) + "\n")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rows", nargs="*", default=list(CASES))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--archives", type=Path, default=Path(tempfile.gettempdir()) / "bestpixel-archives")
    p.add_argument("--table", action="store_true", help="only write docs/benchmarks.md")
    p.add_argument("--one", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        who, case, folder, url, warm = json.loads(args.one)
        print(json.dumps(run_one(who, case, Path(folder), url, warm)))
        return
    results = HERE / "results" / "peers.json"
    if not args.table:
        if not (SHARED / "tools").is_dir():
            sys.exit("needs the folder shared/ beside the repository")
        known = json.loads(results.read_text()) if results.exists() else {"rows": {}}
        known["machine"] = {"cpu_count": os.cpu_count(), "python": platform.python_version()}
        for row in args.rows:
            known["rows"][row] = [measure(case, args.archives, args.rounds) for case in CASES[row]]
            for found in known["rows"][row]:
                print(row, found["case"], found["summary"], flush=True)
            results.parent.mkdir(exist_ok=True)
            results.write_text(json.dumps(known, indent=1) + "\n")
    write_table(results, HERE.parent / "docs" / "benchmarks.md")


if __name__ == "__main__":
    main()
