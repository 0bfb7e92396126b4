"""One month of five years, and twelve months of one: one by one and pipelined, ours and the ancestor's.

    python benchmarks/months.py --rounds 3

Needs what `peers.py` needs, whose processes, servers and ratios these are. Our pictures must be the same
bytes in every way that makes them. JSON goes to benchmarks/results/months.json, the tables to
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import calendar
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import ancestor_run
from cases import BANDS4, Case
from peers import make_archive as make_plain_archive
from peers import run_apart, served, summary
from runs import ENDPOINTS, ROOTS, SHARED, Place, warmed
from tables import RESULTS, write_page

FIVE = tuple(range(2020, 2025))
ARCHIVES = {  # name -> (first dates, options of the archive writer): a run of dates from each first one
    "july": ([f"{year}-07-02" for year in FIVE], "--dates 6 --dialect es"),
    "region": (
        [f"{year}-07-05" for year in FIVE],
        "--dates 4 --size 5490 --dialect es --bands red,green,blue,nir --level 1 --threads 1",
    ),
    "year": (["2024-01-02"], "--dates 73 --size 1024 --dialect es"),
}
ROOT, COLLECTION = "https://earth-search.aws.element84.com/v1", "sentinel-2-l2a"
"""What the ancestor's cache knows a search by, beside box and dates."""
OURS = ("pipelined", "one by one", "iterated")
WHO = (*OURS, "ancestor's months", "ancestor one by one")


@dataclass(frozen=True)
class Series(Case):
    """Months of years, each a composite."""

    work: str = "months"
    who: Sequence[str] = WHO
    years: Sequence[int] = FIVE
    months: Sequence[int] = (7,)

    @property
    def small(self) -> Self:
        """A month that `warm` has dates of."""
        return replace(super().small, years=(2024,), months=(7,))

    @property
    def label(self) -> str:
        """The case in a few words."""
        return f"{self.archive}: {len(self.years)} x {len(self.months)} months, {super().label}"

    @property
    def dates(self) -> list[str]:
        """The months as the ancestor asks for them."""
        pairs = [(y, m) for y in self.years for m in self.months]
        return [f"{y}-{m:02}-01/{y}-{m:02}-{calendar.monthrange(y, m)[1]:02}" for y, m in pairs]


CASES = [
    *(Series("july", resolution=res, latency_ms=ms) for res in (10, 60) for ms in (0, 100)),
    *(Series("year", years=(2024,), months=tuple(range(1, 13)), latency_ms=ms) for ms in (0, 100)),
    *(Series("region", bands=BANDS4, latency_ms=ms) for ms in (0, 100)),
]


def make_archive(folder: Path) -> None:
    """Write the archive of that name, once: all its runs of dates, as one."""
    if folder.name not in ARCHIVES:
        make_plain_archive(folder)
        return
    if folder.exists():
        return
    half, features = folder.with_suffix(".part"), []
    shutil.rmtree(half, ignore_errors=True)
    starts, options = ARCHIVES[folder.name]
    for seed, start in enumerate(starts):
        own = f"--start {start} --seed {seed + 1} {options}"
        tool = str(SHARED / "tools" / "archive.py")
        subprocess.run([sys.executable, tool, str(half), *own.split()], check=True)
        features += json.loads((half / "items_es.json").read_text())["features"]
    (half / "items_es.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    half.rename(folder)


# ---- the ways: each returns the work to be measured ----


@contextmanager
def ours(case: Series, place: Place, way: str, look: Callable[[Any], Any]) -> Iterator[Callable[[], Any]]:
    """Composites as a list; from the iterator what `look` makes of each, for none is kept."""
    import bestpixel_gpu

    call: dict[str, Any] = {
        "bbox": place.box, "resolution": case.resolution, "top_k": case.top_k, "fill": False,
        "bands": case.bands and list(case.bands), "endpoint": ENDPOINTS[case.endpoint],
        "stac_url": place.url + ROOTS[case.endpoint],
    }  # fmt: skip
    series = call | {"years": list(case.years), "months": list(case.months)}
    yield {
        "pipelined": lambda: bestpixel_gpu.build_monthly_composites(**series),
        "one by one": lambda: [bestpixel_gpu.build_composite(datetime=d, **call) for d in case.dates],
        "iterated": lambda: [look(c) for c in bestpixel_gpu.iter_monthly_composites(**series)],
    }[way]


@contextmanager
def ancestor(case: Series, place: Place, monthly: bool) -> Iterator[Callable[[], Any]]:
    """Its released wheel; the searches, which it would send side by side for months, are part of the work."""
    import bestpixel

    call: dict[str, Any] = {
        "bbox": place.box, "resolution": case.resolution, "top_k": case.top_k, "max_cloud_cover": 90.0,
        "bands": case.bands and list(case.bands), "endpoint": ENDPOINTS[case.endpoint],
    }  # fmt: skip

    job = {"root": ROOT, "collections": [COLLECTION], "filtered": True, "call": call}

    def search(dates: str) -> None:
        note = Path(cache) / "search" / f"{ancestor_run.search_key(job, dates)}.json"
        note.write_text(json.dumps({"schema": 1, "data": place.search(case, dates)}))

    def months() -> Any:
        with ThreadPoolExecutor(len(case.dates)) as pool:
            list(pool.map(search, case.dates))
        return bestpixel.build_monthly_composites(
            years=list(case.years), months=list(case.months), disk_cache=cache, **call
        )

    def one(dates: str) -> Any:
        search(dates)
        return bestpixel.build_composite(datetime=dates, disk_cache=cache, **call)

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as cache:
        (Path(cache) / "search").mkdir()
        yield months if monthly else lambda: [one(dates) for dates in case.dates]


def run_one(who: str, case: Series, place: Place, warm: Place, keep: str) -> dict[str, Any]:
    """Figures of one run in this process; the iterator's composites are looked at only with `keep`."""
    look = fingerprint if keep else type

    def prepare(case: Series, place: Place) -> Any:
        return ours(case, place, who, look) if who in OURS else ancestor(case, place, who == WHO[3])

    figures, out, _ = warmed(prepare, case, place, warm)
    if len(out) != len(case.dates):  # the ancestor leaves out what failed
        raise RuntimeError(f"{case.label}: {len(out)} composites of {len(case.dates)} by {who}")
    if who in OURS[:2]:
        figures["output_bytes"] = sum(layer.nbytes for c in out for layer in layers(c))
        out = [fingerprint(c) for c in out]
    return figures | ({"pictures": out} if isinstance(out[0], str) else {})


def layers(composite: Any) -> list[Any]:
    """All arrays of a composite."""
    c = composite
    return [*c.bands.values(), c.quality, c.observation_count, c.selected_observation]


def fingerprint(composite: Any) -> str:
    """A digest of every layer."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in layers(composite):
        digest.update(layer)
    return digest.hexdigest()


# ---- all of them, in turn ----


def measure(case: Series, archives: Path, rounds: int) -> dict[str, Any]:
    """All ways of one case, in turn; ours must agree, the iterator's in one more run."""
    for name in ("warm", case.archive):
        make_archive(archives / name)
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in case.who}
    with served(archives / "warm") as warm, served(archives / case.archive) as place:
        script = Path(__file__)
        looked_at = run_apart("iterated", case, place, warm, "pictures", script=script)
        for n in range(rounds):
            for who in case.who if n % 2 == 0 else case.who[::-1]:
                runs[who].append(run_apart(who, case, place, warm, script=script))
    found = {tuple(run.pop("pictures", ())) for all_runs in runs.values() for run in all_runs} - {()}
    if found != {tuple(looked_at["pictures"])}:
        raise RuntimeError(f"{case.label}: our pictures are not the same in all ways")
    return {"case": asdict(case), "label": case.label, "runs": runs, "summary": summary(runs)}


def main() -> None:
    """Measure all cases (or, handed a run, do that one), write JSON and page."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("run", nargs="?", help="one run as JSON; what is measured is processes of this")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--archives", type=Path, default=Path(tempfile.gettempdir()) / "bestpixel-archives")
    args = p.parse_args()
    if args.run:
        spec = json.loads(args.run)
        place, warm = (Place(Path(folder), url) for folder, url in (spec["place"], spec["warm"]))
        print(json.dumps(run_one(spec["who"], Series(**spec["case"]), place, warm, spec["keep"])))
        return
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    found = []
    for case in CASES:
        found.append(measure(case, args.archives, args.rounds))
        print(case.label, found[-1]["summary"]["ratios"], flush=True)
    result = {"rounds": args.rounds, "machine": machine, "cases": found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "months.json").write_text(json.dumps(result, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
