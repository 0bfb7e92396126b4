"""The GPU check on the emulated device: it runs whole, and what is wrong makes it fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from deflate_writer import fixed
from emulator import compiler

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_correctness
import gpu_inflate
import gpu_path
import gpu_shapes
import stack
from gpu_check import PARTS
from gpu_kernels import GOALS
from gpu_verdict import verdict

ROOT = Path(__file__).resolve().parents[2]

# What follows runs in a process of its own, before the check: a device that does one thing wrong.
PLANT = """
import sys
sys.path[:0] = [{benchmarks!r}, {emulation!r}]
import numpy as np
import emulated_device, gpu_check

launch = emulated_device.EmulatedDevice.launch

def plant(self, kernel, grid, block, args, stream=None):
    launch(self, kernel, grid, block, args, stream)
    found = ({pick}) if kernel[1] == {kernel!r} else None
    if found is not None:
        (stream or self.main).add(lambda a=emulated_device.host(found): {change})

emulated_device.EmulatedDevice.launch = plant
sys.exit(gpu_check.main(["--emulate", "--out", {out!r}, "--only", {only!r}]))
"""

# The emulated device with the host's clock for its own, so that what is made of times runs, too.
CLOCKED = """
import sys, time
sys.path[:0] = [{benchmarks!r}, {emulation!r}]
import gpu_bench, gpu_check, gpu_correctness

class Clocked(gpu_bench.EmulatedBench):
    emulated = False
    time, _most_repeats = gpu_bench.Bench.time, 1

    def __init__(self):
        super().__init__()
        self._scratch = self.device.empty(1, "u1")

    def mark(self, stream=None):
        self.device.synchronize()
        return time.perf_counter()

    def between(self, start, end):
        return end - start

    def clock_hz(self):
        return 1e9

gpu_check.EmulatedBench = Clocked
gpu_correctness.contract_suite = lambda device, seconds: {{"ok": None, "why": "not here"}}
sys.exit(gpu_check.main(["--emulate", "--out", {out!r}]))
"""
# The whole check where nothing is installed but what it is said to need.
BARE = """
import sys
sys.path.insert(0, {benchmarks!r})
others = ("aiohttp", "pyproj", "xarray", "odc", "pystac_client", "rasterio", "shapely", "pandas", "deflate",
          "imagecodecs", "tifffile", "cupy")
sys.modules |= dict.fromkeys(others)
import gpu_check
sys.exit(gpu_check.main(["--emulate", "--out", {out!r}]))
"""
PLACES = {"benchmarks": str(ROOT / "benchmarks"), "emulation": str(ROOT / "tests" / "emulation")}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    compiler()
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=170, check=False)


def found_by(program: str, tmp_path: Path, **names: object) -> tuple[int, dict]:
    out = tmp_path / "found.json"
    done = run("-c", program.format(**PLACES, out=str(out), **names))
    assert out.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(out.read_text())


def wrong(found: dict) -> set[str]:
    return {check["what"] for check in found["checks"] if check["ok"] is False}


def all_kernels() -> set[str]:
    """Those that do not inflate; of kernels for several types the one for uint16."""
    text = "".join(path.read_text() for path in sorted((ROOT / "cuda").glob("*.cu")))
    names = {name.replace("##name", "u2") for name in re.findall(r"EMU_EXPORT\(([\w#]+)\)", text)}
    return {name for name in names if not name.startswith("inflate")}


def test_the_whole_check_runs_without_a_gpu(tmp_path):
    status, found = found_by(BARE, tmp_path)
    assert status == 0, found["errors"]
    assert found["emulated"] is True
    assert found["errors"] == []
    assert {check["ok"] for check in found["checks"]} == {True}
    composites = {c["what"].rpartition(", ")[2] for c in found["checks"] if c["what"].startswith("composite")}
    assert composites >= {"routed", "parallel", "serial", "host"}
    assert {r["way"] for r in found["inflate"]} == {"routed", "parallel", "serial"}
    assert all(r["wrong"] == 0 and r["gb_s"] is None for r in found["inflate"])
    assert set(GOALS) < {r["operation"] for r in found["kernels"]}
    assert all(r["seconds"] is None for r in found["kernels"])
    assert {kernel for r in found["kernels"] for kernel in r["kernels"]} == all_kernels()
    assert found["path"]["cpu_over_ours"] is None
    assert {r["inflates"] for r in found["few"] if r["streams"] == 4} == {"device", "host", "learned"}
    assert all(bool(r["host_streams"]) == (r["inflates"] == "host") for r in found["few"])
    assert len([r for r in found["sweep"] if "gather" in r]) == len(gpu_path.GATHERS)
    assert all(r["seconds"] is None for r in [*found["few"], *found["sweep"]])
    gathered, straight = (found["receive"][way] for way in ("gathered", "straight"))
    assert gathered["gathered_bytes"] == straight["gathered_bytes"] + straight["straight_bytes"]
    assert straight["straight_bytes"] > 10 * straight["gathered_bytes"], "all but the masks"
    assert gathered["batches"] == gathered["copies"] > 0
    assert straight["batches"] <= straight["copies"] < 2 * straight["batches"], "few come apart"
    rows = found["verdict"]
    assert {r["row"] for r in rows} == {"G1", "G2", "G3", "G4"}
    assert [r["met"] for r in rows if r["row"] == "G4"] == [True]
    assert all(r["measured"] is None and r["met"] is None for r in rows if r["row"] != "G4")


def test_nothing_is_begun_when_the_time_is_over(tmp_path):
    program = BARE.replace('"--emulate",', '"--emulate", "--seconds", "0",')
    status, found = found_by(program, tmp_path)
    assert (status, found["errors"]) == (0, [])
    assert [(c["what"], c["ok"]) for c in found["checks"]] == [(f"{p} was begun", None) for p in PARTS]
    assert list(found["seconds"]) == ["machine"]


def test_what_is_made_of_times(tmp_path):
    status, found = found_by(CLOCKED, tmp_path)
    assert status == 0, found["errors"]
    assert all(r["gb_s"] > 0 and r["clocks_per_token"] > 0 for r in found["inflate"])
    assert set(found["serial_from_ratio"]) == {"1", "2", "3"}
    assert all(r["seconds"] > 0 for r in [*found["few"], *found["sweep"]])
    assert all(r["share_of_copy"] > 0 for r in found["kernels"])
    assert all(r["first"] > 0 and r["processor_seconds"] > 0 for r in found["receive"].values())
    measured = {r["row"]: r["measured"] for r in found["verdict"] if r["measured"] is not None}
    assert set(measured) == {"G2", "G3", "G4"}  # G1 wants more streams than are emulated
    line = found["path"]["timeline"]
    assert 0 < line["under_way"]["inflate, any"] < line["seconds"]


PAINTED = "next(a for a in args if getattr(a, 'ndim', 0) == 2 and a.dtype == np.uint16)"
OUT, STATUS = "args[3]", "args[7] if args[3] is not None else None"  # not those of a loader's batch


@pytest.mark.parametrize(
    ("kernel", "pick", "change", "only", "what"),
    [
        ("paint_u2", PAINTED, "a.__setitem__((0, 0), a[0, 0] ^ 1)", "correctness", "composite"),
        ("paint_u2", PAINTED, "a.__setitem__((-1, -1), a[-1, -1] ^ 1)", "path", "composite of the path"),
        ("inflate_streams", STATUS, "a.__setitem__(9, a[9] == 0)", "correctness", "damaged streams, serial"),
        ("inflate_streams_parallel", STATUS, "a.fill(0)", "correctness", "damaged streams, parallel"),
        ("inflate_streams_parallel", OUT, "a.__setitem__(-1, 0)", "correctness", "damaged streams, parallel"),
        ("inflate_streams_parallel", OUT, "a.__setitem__(5, a[5] ^ 1)", "inflate", "inflate"),
        ("look_up", "args[0]", "1 / 0", "kernels", None),
    ],
    ids=["pixel", "pixel of the path", "a status", "all statuses", "guard", "decoded byte", "crash"],
)
def test_what_is_wrong_makes_it_fail(tmp_path, kernel, pick, change, only, what):
    names = {"kernel": kernel, "pick": pick, "change": change, "only": only}
    status, found = found_by(PLANT, tmp_path, **names)
    assert status == 1
    if what is None:
        assert [e["part"] for e in found["errors"]] == [only]
        assert "ZeroDivisionError" in found["errors"][0]["error"]
    else:
        assert wrong(found)
        assert all(name.startswith(what) for name in wrong(found))
        if what.startswith("composite"):
            assert [r["met"] for r in found["verdict"] if r["row"] == "G4"] == [False]


def test_an_emulated_run_is_no_result():
    out = ROOT / "benchmarks" / "results" / "gpu.json"
    done = run(str(ROOT / "benchmarks" / "gpu_check.py"), "--emulate", "--out", str(out))
    assert done.returncode == 2
    assert "no result" in done.stderr
    assert not out.exists()


def test_the_parallel_kernel_is_tried_in_other_shapes(tmp_path):
    out = tmp_path / "shapes.json"
    done = run(str(ROOT / "benchmarks" / "gpu_shapes.py"), "--emulate", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["shapes"]
    shapes = {tuple(row[macro] for macro in gpu_shapes.DEFAULT) for row in rows}
    assert len(shapes) == 1 + sum(map(len, gpu_shapes.TRIED.values()))
    assert all(row["wrong"] == 0 and row["gb_s"] is None for row in rows)
    text = (ROOT / "cuda" / "inflate_parallel.cu").read_text()
    built_in = {name: int(n) for name, n in re.findall(r"^#define (\w+) (\d+)", text, re.MULTILINE)}
    assert built_in == gpu_shapes.DEFAULT


def test_compute_sanitizer_is_asked_for_each_tool(tmp_path):
    seen = tmp_path / "seen"
    fake = tmp_path / "compute-sanitizer"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {seen}\n[ "$2" != memcheck ] || exit 86\n')
    fake.chmod(0o755)
    script = ROOT / "benchmarks" / "gpu_sanitize.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "memcheck: see its reports" in done.stdout
    assert [line.split()[1] for line in seen.read_text().splitlines()] == [
        "memcheck",
        "racecheck",
        "synccheck",
    ]
    assert "gpu_check.py --only sanitize-subset --device 0" in seen.read_text()


# ---- figures


def row(streams: int, way: str, gb_s: float, wrong: int = 0) -> dict:
    return {
        "kind": "reflectance", "size": 512, "streams": streams, "way": way, "gb_s": gb_s, "wrong": wrong
    }  # fmt: skip


def test_goals_that_are_met_and_not():
    found = {
        "checks": [{"what": "composite", "ok": True}, {"what": "composite", "ok": None}],
        "inflate": [
            row(2000, "routed", 44),
            row(2000, "nvcomp", 23),
            row(300, "routed", 14.9),
            row(64, "routed", 9, 1),
        ],
        "kernels": [{"operation": n, "share_of_copy": 0.6} for n in GOALS[1:]],
        "path": {"cpu_over_ours": 4.9, "cores": 16, "timeline": {"rest_over_inflate": 0.15}},
    }
    met = {r["goal"].partition(":")[0]: r["met"] for r in verdict(found) if r["row"] != "G1"}
    assert met == {
        GOALS[0]: None, **dict.fromkeys(GOALS[1:], True), "composite": False, "everything but inflate": True,
        "composites that differ in a byte, of 1": True,
    }  # fmt: skip
    inflate = [(r["measured"], r["met"]) for r in verdict(found) if r["row"] == "G1"]
    assert inflate == [(44, True), (44 / 23, False), (14.9, False), (None, None), (None, None), (None, None)]


def test_time_under_way_counts_once():
    assert gpu_path.covered([(3, 4), (0, 2), (1, 2.5), (3.5, 3.6), (4, 5)]) == pytest.approx(4.5)
    assert gpu_path.covered([]) == 0


def test_memory_that_grows_is_seen():
    kept = {"used before": 5, "kept after the first": 100, "kept after the second": 125, "used after": 5}
    assert not gpu_path.grew(kept)
    assert gpu_path.grew(kept | {"kept after the second": 126})
    assert gpu_path.grew(kept | {"used after": 6})


def test_where_the_serial_kernel_is_the_faster_one():
    def timed(streams: int, ratio: float, serial: float, parallel: float) -> list[dict]:
        both = {"serial": serial, "parallel": parallel}
        return [{"streams": streams, "ratio": ratio, "way": w, "seconds": s} for w, s in both.items()]

    rows = [
        *timed(8, 1.3, 9, 1), *timed(8, 10, 3, 2), *timed(300, 10, 1, 2), *timed(300, 4, 2, 1),
        *timed(300, 6, 1, 1.5), *timed(300, 1.3, 1, 2), {**timed(1, 10, 0, 0)[0], "seconds": None},
    ]  # fmt: skip
    assert gpu_inflate.crossings(rows) == {8: None, 300: 6}


def test_tokens_of_a_stream():
    rng = np.random.default_rng(1)
    data = bytes(rng.integers(0, 200, 5000, np.uint8))
    literals = zlib.compressobj(6, zlib.DEFLATED, 15, 8, zlib.Z_HUFFMAN_ONLY)
    assert gpu_inflate.count_tokens(literals.compress(data) + literals.flush()) == len(data)
    tokens = [7, (258, 1), 9, 9, (3, 2), (100, 258)]
    assert gpu_inflate.count_tokens(b"\x78\x9c" + fixed([*tokens, 256]) + bytes(8)) == len(tokens)
    assert gpu_inflate.count_tokens(zlib.compress(data, 0)) == 0


def test_the_suite_runs_as_far_as_what_it_needs_is_installed(monkeypatch):
    ran = []

    def pytest_runs(command, **options):
        ran.append([word for word in command if word.startswith("tests/")])
        assert options["env"]["CUDA_VISIBLE_DEVICES"] == "7"
        return subprocess.CompletedProcess(command, 0, stdout="803 passed")

    monkeypatch.setattr(gpu_correctness.subprocess, "run", pytest_runs)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    monkeypatch.setattr(gpu_correctness.importlib.util, "find_spec", absent("nothing"))
    found = gpu_correctness.contract_suite("cuda:1", 9)
    assert found == {"ok": True, "folders": ["tests/contract", "tests/gpu"], "tail": "803 passed"}
    monkeypatch.setattr(gpu_correctness.importlib.util, "find_spec", absent("aiohttp"))
    assert gpu_correctness.contract_suite("cuda:1", 9)["folders"] == ["tests/contract"]
    monkeypatch.setattr(gpu_correctness.importlib.util, "find_spec", absent("hypothesis"))
    told = {"ok": None, "why": "hypothesis is not installed"}
    assert gpu_correctness.contract_suite("cuda:1", 9) == told
    assert ran == [["tests/contract", "tests/gpu"], ["tests/contract"]]


def absent(name):
    """Finds every module but one."""
    return lambda wanted: None if wanted == name else object()


def test_damaged_streams_are_of_every_kind():
    cases = gpu_correctness.damaged(300, 32)
    right = [case.by_zlib() for case in cases]
    assert 60 < sum(r is not None for r in right) < 200
    assert any(r is not None and len(r) < case.room for case, r in zip(cases, right, strict=True))
    refused = [case for case, r in zip(cases, right, strict=True) if r is None]
    assert any(
        gpu_correctness.Case(c.stream, 1 << 20).by_zlib() is not None for c in refused
    )  # too little room


def test_the_stack_is_the_same_again():
    first, second = (stack.make_stack(64, 2, 1, 32, mask_tile=32) for _ in range(2))
    tiles = zip(first.bands[0][1], second.bands[0][1], strict=True)
    assert all(a.data == b.data for a, b in tiles)
