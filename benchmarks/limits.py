"""Where the CPU time of a composite goes, and how far each kind of work is from its limit.

    python benchmarks/limits.py --archives FOLDER

The engine's operations are timed on the threads that run them, the event loop by its thread's
clock. Limits are measured on this machine from what the run itself used: its byte ranges fetched
again by bare aiohttp, its tiles inflated again by libdeflate, and copies of as many bytes as the
other operations must read or write. JSON goes to benchmarks/results/limits.json, the table to
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import AGAINST_ANCESTOR, ROWS, Case
from peers import make_archive, served
from runs import HERE, Place, ask, ours
from tables import RESULTS, write_page

CASES = [case for row in AGAINST_ANCESTOR for case in ROWS[row]]
OPERATIONS = ("load", "classify", "resample", "statistics", "rank", "settle", "owners", "paint", "empty")
LOOP_THREAD = "bestpixel-io"
KEPT_BYTES = 512 << 20
"""Compressed bytes of tiles kept for the measurement of libdeflate; the rest is scaled."""


class Watch:
    """What a run did: CPU seconds by operation, its tiles and its byte ranges."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.moved: dict[str, int] = defaultdict(int)
        self.tiles: dict[str, list[Any]] = defaultdict(list)
        self.ranges: list[tuple[str, int, int]] = []
        self.kept = 0
        self.on_loop = 0.0
        """CPU seconds of operations that ran on the event loop's own thread."""
        self.own = 0.0
        """CPU seconds of the watch itself."""
        self.lock = threading.Lock()

    def engine(self, inner: Any) -> Any:
        """An engine that does the same under this watch."""
        return _Watched(inner, self)

    def note(self, name: str, seconds: float, args: tuple[Any, ...], result: Any) -> None:
        """Add one call of an operation."""
        start = time.thread_time()
        with self.lock:
            self.seconds[name] += seconds
            self.moved[name] += _moved(name, args, result)
            if threading.current_thread().name == LOOP_THREAD:
                self.on_loop += seconds
            for tile in _tiles(name, args):
                self.kept += len(tile.data)
                if self.kept < KEPT_BYTES:
                    self.tiles[name].append((bytes(tile.data), tile.layout))
            self.own += time.thread_time() - start


class _Watched:
    def __init__(self, inner: Any, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in OPERATIONS:
            return method

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            result = method(*args, **kwargs)
            self._watch.note(name, time.thread_time() - start, args, result)
            return result

        return timed


def _tiles(name: str, args: tuple[Any, ...]) -> list[Any]:
    """Compressed tiles of a call."""
    tiles = args[2] if name == "load" else args[0] if name == "classify" else ()
    return [t for t in tiles if t.data is not None]


def _moved(name: str, args: tuple[Any, ...], result: Any) -> int:
    """Bytes that a call must read or write at least; decoded bytes where it inflates."""
    if name in ("load", "classify"):
        return sum(t.layout.decoded_bytes for t in _tiles(name, args))
    if name == "empty":
        return int(result.nbytes)
    if name == "settle":
        return sum(int(array.nbytes) for array in args[:3])
    window = args[0].window if name == "rank" else args[2] if name in ("resample", "statistics") else None
    if window is None:
        window = args[0] if name == "owners" else args[1]
    pixels = (window[1] - window[0]) * (window[3] - window[2])
    # rank: code, key, count; resample: code in and out; paint: winner, sample in, sample out
    return pixels * {"rank": 7, "resample": 2, "statistics": 1, "owners": 2, "paint": 6}[name]


# ---- limits, measured on this machine ----


def copy_rate() -> float:
    """Bytes a second read and written by a copy of 64 MiB."""
    import numpy as np

    source = np.ones(64 << 20, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(6):
        start = time.thread_time()
        np.copyto(target, source)
        best = min(best, time.thread_time() - start)
    return 2 * source.nbytes / best


def fresh_rate() -> float:
    """Bytes a second written to memory that the process did not have before."""
    import numpy as np

    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        np.full(256 << 20, 1, np.uint8)
        best = min(best, time.thread_time() - start)
    return (256 << 20) / best


def inflate_seconds(tiles: list[Any], decoded: int) -> float:
    """Libdeflate on a run's own tiles, scaled to all of them; best of two."""
    import deflate

    best = float("inf")
    for _ in range(2):
        start = time.thread_time()
        for data, layout in tiles:
            deflate.zlib_decompress(data, layout.inflated_bytes)
        best = min(best, time.thread_time() - start)
    return best * decoded / sum(layout.decoded_bytes for _, layout in tiles)


async def _fetch(ranges: list[tuple[str, int, int]]) -> None:
    import aiohttp

    gate = asyncio.Semaphore(16)
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def get(url: str, offset: int, length: int) -> None:
            span = {"Range": f"bytes={offset}-{offset + length - 1}"}
            async with gate, session.get(url, headers=span) as answer:
                await answer.read()

        await asyncio.gather(*(get(*r) for r in ranges))


def receive_seconds(ranges: list[tuple[str, int, int]]) -> float:
    """The same ranges by bare aiohttp, 16 at once; best of two."""
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        asyncio.run(_fetch(ranges))
        best = min(best, time.process_time() - start)
    return best


# ---- one case, in a process of its own ----


def run_case(case: Case, place: Place, warm: Place) -> dict[str, Any]:
    """Stages of one composite."""
    watch = Watch()
    with ours(case, warm) as work:
        work()
    _put_under(watch)
    with ours(case, place) as work:
        ask(place.url + "/__reset", "POST")
        cpu, loop, wall = time.process_time(), _loop_seconds(), time.perf_counter()
        out = work()
        cpu, loop = time.process_time() - cpu - watch.own, _loop_seconds() - loop - watch.on_loop
        wall = time.perf_counter() - wall
        read = ask(place.url + "/__stats")["bytes"]["data"]
    rates = {"copy": copy_rate(), "fresh": fresh_rate()}
    stages = [_receive(watch, loop, read)]
    stages += [_decode(watch, name, rates) for name in ("load", "classify") if watch.tiles[name]]
    for name in ("resample", "statistics", "rank", "settle", "owners", "empty", "paint"):
        if watch.seconds[name]:
            limit = watch.moved[name] / rates["fresh" if name == "empty" else "copy"]
            stages.append(_stage(name, MOVED[name], watch.moved[name], limit, watch.seconds[name]))
    known = loop + sum(watch.seconds.values())
    stages.append(_stage("rest", "search, counts of wins, queues", 0, 0.0, cpu - known))
    seconds = {k: round(v, 4) for k, v in out.report.seconds.items()}
    return {
        "case": asdict(case), "label": case.label, "cpu_s": round(cpu, 4), "wall_s": round(wall, 4),
        "seconds": seconds, "stages": stages, "rates": rates,
    }  # fmt: skip


MOVED = {
    "resample": "codes in and out",
    "statistics": "codes in",
    "rank": "codes, keys, counts",
    "settle": "keys in, layers out",
    "owners": "winners",
    "empty": "layers and keys, first touch",
    "paint": "winners, samples in and out",
}


def _stage(stage: str, what: str, moved: int, limit: float, cpu: float) -> dict[str, Any]:
    return {
        "stage": stage, "what": what, "bytes": moved, "limit_s": round(limit, 5), "cpu_s": round(cpu, 5),
    }  # fmt: skip


def _receive(watch: Watch, loop: float, read: int) -> dict[str, Any]:
    limit = receive_seconds(watch.ranges)
    return _stage("event loop", "answers (limit: bare aiohttp)", read, limit, loop)


def _decode(watch: Watch, name: str, rates: dict[str, float]) -> dict[str, Any]:
    """Inflate by libdeflate, then one more pass over the decoded bytes."""
    tiles, decoded = watch.tiles[name], watch.moved[name]
    limit = inflate_seconds(tiles, decoded) + 2 * decoded / rates["copy"]
    return _stage(name, "decoded tiles (limit: libdeflate + a copy)", decoded, limit, watch.seconds[name])


def _put_under(watch: Watch) -> None:
    """From now on engines and transports of this process are watched."""
    from bestpixel_gpu import engines
    from bestpixel_gpu.transfer.http import HttpTransport

    create, read_range = engines.create, HttpTransport.read_range
    engines.create = lambda *args: watch.engine(create(*args))  # type: ignore[assignment]

    async def noted(self: Any, url: str, offset: int, length: int, *args: Any, **kwargs: Any) -> Any:
        watch.ranges.append((url, offset, length))
        return await read_range(self, url, offset, length, *args, **kwargs)

    HttpTransport.read_range = noted  # type: ignore[assignment]


def _loop_seconds() -> float:
    """CPU seconds of the event loop's thread so far."""
    ident = next(t.ident for t in threading.enumerate() if t.name == LOOP_THREAD)
    assert ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


# ---- all cases ----


def main() -> None:
    """Measure each case apart, write JSON and page."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--archives", type=Path, default=Path(tempfile.gettempdir()) / "bestpixel-archives")
    p.add_argument("--one", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        case, *places = json.loads(args.one)
        print(json.dumps(run_case(Case(**case), *(Place(Path(f), u) for f, u in places))))
        return
    found = []
    for case in CASES:
        for name in ("warm", case.archive):
            make_archive(args.archives / name)
        with served(args.archives / "warm") as warm, served(args.archives / case.archive) as place:
            spec = json.dumps([asdict(case), *([str(w.folder), w.url] for w in (place, warm))])
            command = [sys.executable, str(HERE / "limits.py"), "--one", spec]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    rates = {
        "a copy reads and writes": f"{found[0]['rates']['copy'] / 1e9:.1f} GB/s",
        "fresh memory is written at": f"{found[0]['rates']['fresh'] / 1e9:.1f} GB/s",
    }
    result = {"rounds": 1, "rates": rates, "cases": found}
    (RESULTS / "limits.json").write_text(json.dumps(result, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
