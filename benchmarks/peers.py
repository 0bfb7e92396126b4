"""Ours and others on the same archives and servers, in turn: the goals' table.

    python benchmarks/peers.py --rows C1 C2 --rounds 5

Needs the folder `shared` beside the repository (archive, server and runner of the ancestor) and
the `bench` dependency group. Each run is a process of its own that has done the same work small
and elsewhere before; CPU is user + system time of that process around the call, server apart.
Ratios are of medians over runs taken in turn. Each row goes to benchmarks/results/ROW.json;
``--table`` only writes docs/benchmarks.md from these files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import ARCHIVES, KERNELS, ROWS, Case
from runs import HERE, SHARED, Place
from tables import RESULTS, write_page


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Place]:
    """An archive behind its own server, in a process apart, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(SHARED / "tools" / "serve.py"), str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield Place(folder, server.stdout.readline().strip())
        finally:
            server.terminate()


def make_archive(folder: Path) -> None:
    """Write the archive of that name, once."""
    if not (folder / "archive.json").exists():
        tool = str(SHARED / "tools" / "archive.py")
        subprocess.run([sys.executable, tool, str(folder), *ARCHIVES[folder.name].split()], check=True)


def run_apart(
    who: str, case: Case, place: Place, warm: Place, keep: str = "", script: Path = HERE / "runs.py"
) -> dict[str, Any]:
    """One run in a process of its own."""
    where = {"place": [str(place.folder), place.url], "warm": [str(warm.folder), warm.url]}
    spec = json.dumps({"who": who, "case": asdict(case), "keep": keep, **where})
    command = [sys.executable, str(script), spec]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def fill_kernel_cache(archives: Path) -> None:
    """Run once, unmeasured, what between them uses every kernel: nobody pays for compiling."""
    for case in (*KERNELS, *ROWS["C2"], *ROWS["C4"]):
        for name in ("warm", case.archive):
            make_archive(archives / name)
        with served(archives / "warm") as warm, served(archives / case.archive) as place:
            run_apart("ours", case, place, warm)


def measure(case: Case, archives: Path, rounds: int) -> dict[str, Any]:
    """All who do one case, in turn; pictures of the first round are compared."""
    for name in ("warm", case.archive):
        make_archive(archives / name)
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in case.who}
    with (
        tempfile.TemporaryDirectory() as kept,
        served(archives / "warm") as warm,
        served(archives / case.archive) as place,
    ):
        pictures = {who: f"{kept}/{who}.npz" for who in case.who}
        comparable = case.work in ("picture", "N", "O", "W")
        for n in range(rounds):
            for who in case.who if n % 2 == 0 else case.who[::-1]:
                keep = pictures[who] if comparable and n == 0 else ""
                runs[who].append(run_apart(who, case, place, warm, keep))
        equal = {who: compare(pictures["ours"], pictures[who]) for who in case.who[1:] if comparable}
    found = summary(runs) | {"equal": equal}
    return {"case": asdict(case), "label": case.label, "runs": runs, "summary": found}


def compare(one: str, other: str) -> dict[str, float]:
    """How far two pictures agree, over all bands; also where the winner is the same."""
    import numpy as np

    with np.load(one) as a, np.load(other) as b:
        bands = [name for name in a.files if name != "winner"]
        first, second = (np.stack([z[name] for name in bands]).astype(np.int64) for z in (a, b))
        apart = first - second
        out = {
            "equal": float((apart == 0).mean()),
            "within 1": float((abs(apart) <= 1).mean()),
            "mean": float(first.mean()),
            "mean difference": float(apart.mean()),
        }
        if "winner" in a.files:
            same = a["winner"] == b["winner"]
            out |= {"same winner": float(same.mean()), "equal there": float((apart[:, same] == 0).mean())}
    return {k: round(v, 6) for k, v in out.items()}


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of every figure, and ratios of the first (ours) to each other."""
    medians = {
        who: {
            k: round(statistics.median(r[k] for r in found), 5)
            for k, v in found[0].items()
            if isinstance(v, int | float)
        }
        for who, found in runs.items()
    }
    ours, out = next(iter(medians.values())), {"medians": medians, "ratios": {}}
    for who, other in list(medians.items())[1:]:
        keys = {"cpu": "cpu_s", "wall": "wall_s", "rss": "rss_mib", "bytes": "bytes"}
        out["ratios"][who] = {k: round(ours[v] / other[v], 4) for k, v in keys.items()}
    if "ideal_bytes" in ours:
        out["bytes_over_ideal"] = round(ours["bytes"] / ours["ideal_bytes"], 4)
    return out


def main() -> None:
    """Measure the rows asked for, write JSON and page."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--archives", type=Path, default=Path(tempfile.gettempdir()) / "bestpixel-archives")
    p.add_argument("--table", action="store_true", help="only write docs/benchmarks.md")
    args = p.parse_args()
    if not args.table:
        if not (SHARED / "tools").is_dir():
            sys.exit("needs the folder shared/ beside the repository")
        machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
        RESULTS.mkdir(exist_ok=True)
        fill_kernel_cache(args.archives)
        for row in args.rows:
            found = [measure(case, args.archives, args.rounds) for case in ROWS[row]]
            result = {"row": row, "rounds": args.rounds, "machine": machine, "cases": found}
            (RESULTS / f"{row}.json").write_text(json.dumps(result, indent=1) + "\n")
            for f in found:
                s = f["summary"]
                print(row, f["label"], s["ratios"], s["medians"]["ours"], s["equal"], flush=True)
    write_page()


if __name__ == "__main__":
    main()
