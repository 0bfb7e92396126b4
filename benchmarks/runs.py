"""One run in a process of its own: work that has been made small elsewhere first, then measured."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import CLOUDIEST, Case

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("BESTPIXEL_SHARED", HERE.parents[1] / "shared"))
DATES = "2024-01-01/2024-12-31"
ENDPOINTS = {"pc": "pc", "es": "earth-search"}
PROC_STATUS = Path("/proc/self/status")
ROOTS = {"pc": "/pc/api/stac/v1", "es": "/es/v1"}


@dataclass(frozen=True)
class Place:
    """An archive: its folder, and the address that serves it."""

    folder: Path
    url: str

    @property
    def note(self) -> dict[str, Any]:
        """What the archive says of itself."""
        return json.loads((self.folder / "archive.json").read_text())

    @property
    def box(self) -> list[float]:
        """Largest box inside its tiles, degrees."""
        return _tool().inner_bbox(self.note)

    def search(self, case: Case, dates: str = DATES) -> list[dict[str, Any]]:
        """Its items, by one search."""
        return _tool().search(self._arguments(case, dates), self.box)

    def _arguments(self, case: Case, dates: str = DATES) -> argparse.Namespace:
        return argparse.Namespace(
            url=self.url, endpoint=case.endpoint, datetime=dates, max_cloud=90.0, out=self.folder
        )


def run_one(who: str, case: Case, place: Place, warm: Place, keep: str = "") -> dict[str, Any]:
    """Figures of one run in this process; `keep` names a file for its picture."""
    if case.work == "import":
        return _import()
    if case.work == "first":
        return _first_minus_second(case, place, warm)
    figures, out, stats = warmed(RUNNERS[who], case, place, warm)
    if keep:
        _keep(keep, out)
    if who == "ours" and case.work == "composite":
        figures |= _of_report(out, stats)
        if "ancestor" in case.who:
            figures["ideal_bytes"] = _ideal(case, out, place)
    return figures


def warmed(prepare: Any, case: Case, place: Place, warm: Place) -> tuple[dict[str, Any], Any, Any]:
    """(figures, result, server's counters) of work that has been done small before."""
    with prepare(case.small, warm) as work:
        work()
    with prepare(case, place) as work:
        ask(f"{place.url}/__reset?latency_ms={case.latency_ms}", "POST")
        held = _resident("VmRSS:")
        before, start = _usage(), time.perf_counter()
        out = work()
        wall, after = time.perf_counter() - start, _usage()
        stats = ask(place.url + "/__stats")
        ask(f"{place.url}/__reset?latency_ms=0", "POST")
    figures = {
        "wall_s": wall,
        "cpu_s": after[0] - before[0],
        "rss_mib": after[1],
        "held_mib": held,
        "requests": stats["requests"].get("data", 0),
        "bytes": stats["bytes"].get("data", 0),
    }
    return figures, out, stats


# ---- who does it: each returns the work to be measured ----


@contextmanager
def ours(case: Case, place: Place) -> Iterator[Callable[[], Any]]:
    """Our own work: a composite, or plain reads through the pieces."""
    import bestpixel_gpu

    if case.work in "NOW":
        from plain import read_ours, target

        hrefs = _hrefs(place)
        yield lambda: read_ours(hrefs, target(case.work, place.note))
        return
    items = [i for i in place.search(case) if i["id"] != case.without] if case.items else None
    where = {"geobox": _geobox(case, place)} if case.window else {"bbox": place.box}
    yield lambda: bestpixel_gpu.build_composite(
        **{"bbox": None, **where}, datetime=DATES, resolution=case.resolution, top_k=case.top_k, fill=False,
        bands=case.bands and list(case.bands), endpoint=ENDPOINTS[case.endpoint], items=items,
        stac_url=place.url + ROOTS[case.endpoint],
    )  # fmt: skip


@contextmanager
def ancestor(case: Case, place: Place) -> Iterator[Callable[[], Any]]:
    """`bestpixel` 0.3.0, its released wheel; as for us, one search is part of the work."""
    import bestpixel

    def work() -> Any:
        items = place.search(case)
        _tool().seed(cache, place._arguments(case), place.box, items)
        return bestpixel.build_composite(
            tuple(place.box), DATES, resolution=case.resolution, top_k=case.top_k, max_cloud_cover=90.0,
            disk_cache=cache, bands=case.bands and list(case.bands), endpoint=ENDPOINTS[case.endpoint],
        )  # fmt: skip

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as cache:
        yield work


@contextmanager
def picture_peer(case: Case, place: Place, name: str) -> Iterator[Callable[[], Any]]:
    """odc-stac or stackstac: one search, load, mask, rank, select."""
    import pictures

    from bestpixel_gpu.geo.grid import native_grid

    grid = native_grid(tuple(place.box), case.resolution)
    make = {"odc-stac": pictures.odc_stac, "stackstac": pictures.stackstac}[name]
    yield lambda: make(place.search(case), list(case.bands or ()), grid)


@contextmanager
def rasterio(case: Case, place: Place) -> Iterator[Callable[[], Any]]:
    """Plain reads by GDAL."""
    from plain import read_rasterio, target

    hrefs, want = _hrefs(place), target(case.work, place.note)
    yield lambda: read_rasterio(hrefs, want, case.work)


RUNNERS: dict[str, Callable[[Case, Place], Any]] = {
    "ours": ours,
    "ancestor": ancestor,
    "odc-stac": lambda case, place: picture_peer(case, place, "odc-stac"),
    "stackstac": lambda case, place: picture_peer(case, place, "stackstac"),
    "rasterio": rasterio,
}


# ---- start-up ----


def _import() -> dict[str, Any]:
    start = time.process_time()
    import numpy  # noqa: F401

    middle = time.process_time()
    import bestpixel_gpu  # noqa: F401

    end = time.process_time()
    return {"cpu_s": end - start, "numpy_cpu_s": middle - start, "rss_mib": _usage()[1]}


def _first_minus_second(case: Case, place: Place, warm: Place) -> dict[str, Any]:
    """The same small composite twice, from two servers, so that the second finds no cached header."""
    import bestpixel_gpu  # noqa: F401

    cost = []
    for where in (warm, place):
        with ours(case, where) as work:
            before = _usage()[0]
            work()
            cost.append(_usage()[0] - before)
    return {
        "cpu_s": cost[0],
        "second_cpu_s": cost[1],
        "first_minus_second_s": cost[0] - cost[1],
        "rss_mib": _usage()[1],
    }


# ---- helpers ----


def _tool() -> Any:
    """The ancestor's runner; also knows what a reader that knew the answer would read."""
    if str(SHARED / "tools") not in sys.path:
        sys.path.insert(0, str(SHARED / "tools"))
    import peer_bestpixel

    return peer_bestpixel


def _hrefs(place: Place) -> list[str]:
    """Addresses of all band files, date by date."""
    text = (place.folder / "items_es.json").read_text().replace("{base}", place.url + "/data")
    items = json.loads(text)["features"]
    return [i["assets"][b]["href"] for i in items for b in ("red", "green", "blue", "nir")]


def _geobox(case: Case, place: Place) -> Any:
    """A window of the first tile."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    tile, res = place.note["tile_list"][0], case.resolution
    r0, r1, c0, c1 = case.window or (0, 0, 0, 0)
    corner = Affine(res, 0, tile["ul"][0] + c0 * res, 0, -res, tile["ul"][1] - r0 * res)
    return GeoBox((r1 - r0, c1 - c0), corner, f"EPSG:{tile['epsg']}")


def _of_report(out: Any, stats: dict[str, Any]) -> dict[str, Any]:
    """Seconds by stage, memory plan, and what the output holds."""
    layers = [*out.bands.values(), out.quality, out.observation_count, out.selected_observation]
    mask = [v["bytes"] for k, v in stats["paths"].items() if k.endswith(f"{CLOUDIEST}/SCL.tif")]
    won = {s.id: s.pixels_won for s in out.report.scenes}
    return {
        "shape": list(out.quality.shape),
        "seconds": {k: round(v, 4) for k, v in out.report.seconds.items()},
        "memory": out.report.memory,
        "wanted_tiles": out.report.wanted_tiles,
        "output_bytes": sum(a.nbytes for a in layers),
        "cloudy_mask_bytes": sum(mask),
        "cloudy_pixels_won": won.get(CLOUDIEST, 0),
    }


def _keep(path: str, out: Any) -> None:
    """The picture, for a comparison: bands by name, and the winner as a date's place in time."""
    import numpy as np

    if isinstance(out, list):
        layers = {str(k): np.where(a == 65535, 0, a) for k, a in enumerate(out[:4])}
    elif isinstance(out, dict):
        layers = out
    else:
        place = np.argsort(np.argsort([d.timestamp() for d in out.source_dates]))
        winner = np.append(place, -1)[out.selected_observation].astype(np.int16)
        layers = {**out.bands, "winner": winner}
    np.savez(path, **layers)


def _ideal(case: Case, out: Any, place: Place) -> int:
    """Ideal bytes of the goals: headers, full masks over the grid, each needed tile once."""
    import numpy as np

    tool, args, items = _tool(), place._arguments(case), place.search(case)
    found = tool.ideal(args, out, items)
    masks, grid = found["mask_bytes"], out["grid"]
    if grid["resolution"] > 20:  # the rule of the goals: masks at full resolution
        step = int(grid["resolution"] // 20)
        shape = grid["height"] * step, grid["width"] * step
        fine = {**grid, "resolution": 20.0, "height": shape[0], "width": shape[1]}
        masks = tool.ideal(args, {**out, "grid": fine, "selected_observation": np.full(shape, -1)}, items)[
            "mask_bytes"
        ]
    owned = np.unique(out["selected_observation"])
    headers = 16384 * (len(items) + int((owned >= 0).sum()) * len(out["bands"]))
    return int(headers + masks + found["band_bytes"])


def _usage() -> tuple[float, int]:
    """(CPU seconds, peak MiB) of this process."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime, _resident("VmHWM:")


def _resident(which: str) -> int:
    """MiB of this process in memory, now (``VmRSS:``) or at most (``VmHWM:``)."""
    # Linux hands the parent's ru_maxrss on to what it starts; its own file tells this program's
    if not PROC_STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    line = next(line for line in PROC_STATUS.read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) // 1024


def ask(url: str, method: str = "GET") -> Any:
    """JSON from the archive's server."""
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return json.load(answer)


def main() -> None:
    """Read one run from the command line, print its figures."""
    spec = json.loads(sys.argv[1])
    places = [Place(Path(folder), url) for folder, url in (spec["place"], spec["warm"])]
    print(json.dumps(run_one(spec["who"], Case(**spec["case"]), *places, spec["keep"])))


if __name__ == "__main__":
    main()
