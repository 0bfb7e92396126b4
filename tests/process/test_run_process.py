"""Whole runs and their process: Ctrl-C, forks, memory over many runs, imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from whole_run import SOUTH, arguments, file_of, forget_headers, of_tile, run, with_href

ROOT = Path(__file__).resolve().parents[2]
NOISE = ("Exception in", "Task was destroyed", "never retrieved", "Unclosed", "Warning", "Fatal")


def start(source: str, *args: str) -> subprocess.Popen[str]:
    """A script in a process of its own, which says what it leaves open."""
    return subprocess.Popen(
        [sys.executable, "-W", "default::ResourceWarning", "-c", source, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


INTERRUPTED = """
import json, sys
from bestpixel_gpu import build_composite
call, where, told = json.loads(sys.argv[1]), sys.argv[2], []
def progress(stage, done, total):
    if stage == where and not told:
        told.append(done)
        print("there", flush=True)
if where == "search":
    print("there", flush=True)
try:
    build_composite(**call, progress=progress)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent another way there")
@pytest.mark.parametrize(
    ("where", "slow"),
    [("search", {"/search": "stall"}), ("masks", {"B0": "stall"}), ("tiles", {}), ("headers", {})],
)
def test_fix_34_ctrl_c_in_the_middle_of_a_run(server: Any, where: str, slow: dict[str, str]) -> None:
    forget_headers()
    server.reset(latency_ms=100, faults=slow)
    call = json.dumps(arguments(server, tile="all", concurrency=12))
    process = start(INTERRUPTED, call, where)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "there"
    while where == "search" and "fault" not in server.stats()["requests"]:
        time.sleep(0.05)  # until the search waits for its answer
    time.sleep(0.1)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 1.5
    assert out.split() == ["interrupted"]
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1
    for noise in (*NOISE, "Thread "):
        assert noise not in err, err


FORKED = """
import json, multiprocessing, sys
from bestpixel_gpu import build_composite
call = json.loads(sys.argv[1])
def total(n):
    got = build_composite(**call)
    return int(got.bands["red"].astype("int64").sum()), got.source_ids
before = total(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(total, range(3)) == [before] * 3
assert total(0) == before
print("well")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fix_26_a_run_in_forked_children_of_a_process_that_ran(server: Any) -> None:
    process = start(FORKED, json.dumps(arguments(server, tile=SOUTH)))
    out, err = process.communicate(timeout=60)
    lines = [x for x in err.splitlines() if "multi-threaded" not in x and "os.fork()" not in x]
    assert (process.returncode, out.strip(), lines) == (0, "well", [])


STRANGE = """
import json, sys
from bestpixel_gpu import build_composite, errors
call, items = (json.loads(a) for a in sys.argv[1:])
try:
    build_composite(**call | {"bbox": [5, 44, 6, 95]})
except errors.InputError as error:
    print(error)
print(int(build_composite(**call, items=items).bands["red"].astype("int64").sum()))
"""


def test_fix_05_latitudes_and_strips_do_not_end_the_process(server: Any, tmp_path: Path) -> None:
    """Either aborts the ancestor's; a TIFF in strips is read."""
    rasterio = pytest.importorskip("rasterio")
    want, items = run(server, tile=SOUTH), of_tile(server.items("pc"), SOUTH)
    for item in items:
        with rasterio.open(file_of(server, item, "B04")) as src:
            profile = {k: src.profile[k] for k in ("dtype", "width", "height", "crs", "transform", "nodata")}
            path = tmp_path / f"{item['id']}.tif"
            with rasterio.open(path, "w", "GTiff", count=1, compress="deflate", blockysize=8, **profile) as d:
                d.write(src.read())
        items = with_href(items, item["id"], "B04", str(path))
    process = start(STRANGE, json.dumps(arguments(server, tile=SOUTH)), json.dumps(items))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    refused, red = out.splitlines()
    assert "latitudes in -90..90" in refused
    assert int(red) == int(want.bands["red"].astype("int64").sum())


MANY = """
import gc, json, os, sys, threading
from bestpixel_gpu import build_composite
call = json.loads(sys.argv[1])
def rss():
    gc.collect()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
def handles():
    return len(os.listdir("/proc/self/fd")), threading.active_count()
seen = []
for n in range(11):
    build_composite(**call)
    seen.append((rss(), *handles()))
print(json.dumps(seen))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_many_runs_do_not_grow_the_process(server: Any) -> None:
    process = start(MANY, json.dumps(arguments(server, tile="all")))
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    seen = json.loads(out)
    assert seen[-1][0] - seen[3][0] < 5, seen
    assert {s[1] for s in seen[1:]} == {seen[1][1]}, "file handles"
    assert {s[2] for s in seen[1:]} == {seen[1][2]}, "threads"


ENDS = """
import json, sys
from bestpixel_gpu import build_composite
got = build_composite(**json.loads(sys.argv[1]))
print(got.report.empty_pixels)
"""


def test_a_script_ends_without_a_word(server: Any) -> None:
    process = start(ENDS, json.dumps(arguments(server, tile=SOUTH)))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "0", "")


IMPORT = """
import json, resource, sys, threading
import numpy
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
before, known = cpu(), set(sys.modules)
import bestpixel_gpu
bestpixel_gpu.build_composite, bestpixel_gpu.explain, dir(bestpixel_gpu)
new = {m.partition(".")[0] for m in set(sys.modules) - known}
print(json.dumps([cpu() - before, sorted(new), threading.active_count()]))
"""


def test_importing_is_cheap() -> None:
    """The names of the package bring neither compilers nor event loops, threads nor projections."""
    found = []
    for _ in range(2):
        process = start(IMPORT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        found.append(json.loads(out))
    heavy = {
        "numba", "aiohttp", "pyproj", "xarray", "odc", "pystac_client", "pystac", "rasterio", "shapely",
        "pandas", "dask", "requests", "imagecodecs", "cupy", "tifffile",
    }  # fmt: skip
    assert not heavy & set(found[0][1])
    assert found[0][2] == 1
    assert min(f[0] for f in found) < 0.25


RIVALS = """
import json, sys, threading
from bestpixel_gpu import build_composite
call = json.loads(sys.argv[1])
found = []
def work():
    got = build_composite(**call)
    found.append({n: a.tobytes() for n, a in got.bands.items()})
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert len(found) == 4 and all(f == found[0] for f in found)
print("well")
"""


def test_runs_of_several_threads_at_once(server: Any) -> None:
    process = start(RIVALS, json.dumps(arguments(server, tile=SOUTH)))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "well", "")


def test_no_thread_of_a_run_outlives_it(server: Any) -> None:
    import threading

    before = set(threading.enumerate())  # a search of a test before this one may still be waiting
    run(server, tile=SOUTH)
    left = {t.name for t in set(threading.enumerate()) - before if t.name.startswith("bestpixel-")}
    assert left <= {"bestpixel-io"}


LEFT_OPEN = """
import json, sys
from bestpixel_gpu import iter_composites
months = iter_composites(**json.loads(sys.argv[1]), period="P5D")
print(next(months).period)
"""


def test_a_script_may_end_in_the_middle_of_a_series(server: Any) -> None:
    """The iterator is let go when no thread but the main one runs any more."""
    server.reset(latency_ms=20)
    process = start(LEFT_OPEN, json.dumps(arguments(server, tile=SOUTH)))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.strip(), err) == (0, "2024-07-01_2024-07-05", "")


EXITS = """
import json, sys
from bestpixel_gpu import build_composite
call = json.loads(sys.argv[1])
def enough(*step):
    sys.exit(3)
try:
    build_composite(**call, progress=enough)
except SystemExit as end:
    print(end.code, build_composite(**call).report.empty_pixels)
"""


def test_a_callable_that_ends_the_program_does_not_end_the_loop(server: Any) -> None:
    process = start(EXITS, json.dumps(arguments(server, tile=SOUTH)))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.strip(), err) == (0, "3 0", "")
