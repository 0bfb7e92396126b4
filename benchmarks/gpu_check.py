"""The proof on a GPU: same bytes as on the CPU, and how fast, in under eight minutes.

    python benchmarks/gpu_check.py [--out FILE.json] [--seconds 420] [--device N] [--only PART] [--emulate]

Brings its own data and needs no network: NumPy, Numba, CuPy and this repository (the package need not
be installed). pytest, nvCOMP and libdeflate (the `deflate` package) are used where they are installed.
What was found is printed and written to FILE as it comes, so a run that is cut keeps what it has.

1. machine: the device, its measured copy bandwidth, its clock, the cores beside it.
2. correctness: the contract suite; composites byte for byte against the CPU engine, by each way to
   inflate; damaged streams judged as zlib does, without a byte written outside.
3. inflate: GB/s decoded by streams in flight, beside what was predicted without a GPU.
4. kernels: each operation's share of the copy bandwidth.
5. path: a composite from host memory against the Numba engine on the cores beside the device; few
   tiles, and composites, by who inflates and by how long the loader waits for more.
6. receive: the same from receive buffers, gathered and straight from pinned memory.
7. verdict: the goals G1 to G4, measured and met.

The exit status is 0 unless something was wrong or broke (1), or there is no device (2); a goal of
speed that is not met is only reported. `--emulate` runs the same script at small sizes on the tests'
emulated device: a check of the script, with no times. No GPU has run this yet: until one has,
distrust its times.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import gpu_correctness
import gpu_inflate
import gpu_kernels
import gpu_path
import gpu_receive
import stack
from gpu_bench import Bench, EmulatedBench, cores
from gpu_verdict import verdict

from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.cpu.inflate import libdeflate, python_inflate
from bestpixel_gpu.engines.cuda.nvcomp import Nvcomp
from bestpixel_gpu.errors import DeviceError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SUITE_SECONDS = 120
SUBSET = "sanitize-subset"
"""What ``benchmarks/gpu_sanitize.py`` runs: every kernel once, at small sizes."""


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes
    ----------
    composites : tuple of (pixels, scenes, bands, tile, mask tile)
    damaged : tuple
        Streams, and the side of the tiles that they are made of.
    streams : tuple of int
        In flight.
    routed : tuple of int
        In flight where it is asked which kernel suits which ratio.
    tiles : tuple of int
        Sides of the tiles that are inflated.
    distinct : int
        Different ones.
    side, tile : int
        Output and tiles of the kernels.
    path, received : tuple
        As one of `composites`; tiles that are received first must be more than a few bytes.
    repeats : int
        Of the path.
    copied : int
        Bytes of a copy.
    """

    composites: tuple[tuple[int, int, int, int, int], ...]
    damaged: tuple[int, int]
    streams: tuple[int, ...]
    routed: tuple[int, ...]
    tiles: tuple[int, ...]
    distinct: int
    side: int
    tile: int
    path: tuple[int, int, int, int, int]
    received: tuple[int, int, int, int, int]
    repeats: int
    copied: int


FULL = Sizes(
    composites=((1024, 4, 2, 512, 512), (1501, 3, 2, 256, 512), (3000, 5, 2, 1024, 512)),
    damaged=(3000, 128),
    streams=gpu_inflate.COUNTS,
    routed=(8, 300, 2000),
    tiles=(512, 1024),
    distinct=24,
    side=8192,
    tile=512,
    path=(8192, 6, 4, 512, 512),
    received=(8192, 6, 4, 512, 512),
    repeats=5,
    copied=1 << 30,
)
SMALL = Sizes(
    composites=((128, 3, 2, 32, 32), (83, 2, 1, 64, 32)),
    damaged=(200, 32),
    streams=(1, 3),
    routed=(2,),
    tiles=(64,),
    distinct=2,
    side=192,
    tile=64,
    path=(128, 3, 2, 32, 32),
    received=(256, 2, 1, 64, 32),
    repeats=1,
    copied=1 << 12,
)


class Report:
    """What was found so far, printed and kept on disk.

    Attributes
    ----------
    found : dict
    """

    def __init__(self, path: Path | None, emulated: bool) -> None:
        self._path = path
        self.found: dict[str, Any] = {"emulated": emulated, "checks": [], "errors": [], "seconds": {}}

    def say(self, *words: object) -> None:
        """Print at once."""
        print(*words, flush=True)

    def put(self, part: str, value: Any) -> None:
        """Keep a part's findings."""
        self.found[part] = value
        self.save()

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Keep one more row of a part."""
        self.found.setdefault(part, []).append(row)
        self.save()

    def check(self, what: str, ok: bool | None, **detail: Any) -> None:
        """Keep whether something is right; ``None`` where it could not be seen."""
        self.found["checks"].append({"what": what, "ok": ok, **detail})
        shown = "" if ok else ", ".join(f"{k}: {v}" for k, v in detail.items())
        self.say("  " + {True: "ok   ", False: "WRONG", None: "-    "}[ok], what, shown)
        self.save()

    def failed(self) -> bool:
        """Whether anything was wrong or broke."""
        return bool(self.found["errors"]) or any(c["ok"] is False for c in self.found["checks"])

    def save(self) -> None:
        """Write the file anew; whoever reads it finds the old one or this one."""
        if self._path is None:
            return
        part = self._path.with_name(self._path.name + ".part")
        part.write_text(json.dumps(self.found, indent=1) + "\n")
        part.replace(self._path)


@dataclass(frozen=True)
class Run:
    """One run of the check: where, how much, until when."""

    bench: Bench
    report: Report
    sizes: Sizes
    subset: bool
    deadline: float

    def until(self, share: float) -> Callable[[], bool]:
        """Whether a part may go on that may use `share` of the time that is left now."""
        end = time.monotonic() + share * max(0.0, self.deadline - time.monotonic())
        return lambda: time.monotonic() < end

    def nvcomp(self) -> Nvcomp | None:
        """The library, where it can be used; the report says which, or why not."""
        found: Nvcomp | None = None
        try:
            found = self.bench.nvcomp()
            self.report.put("nvcomp", str(found))
        except DeviceError as error:
            self.report.put("nvcomp", str(error))
        return found


# ---- the parts


def machine(run: Run) -> None:
    """Device, versions, bandwidths."""
    bench, n = run.bench, run.sizes.copied
    device = bench.device
    source, target, pinned = (*(device.empty(n, np.uint8) for _ in range(2)), device.pinned(n))
    device.fill(source, 1)
    copies = {
        "copy_gb_s": bench.time(lambda: bench.copy(target, source)).rate(2 * n),
        "host_to_device_gb_s": bench.time(lambda: device.copy_in(target, pinned, device.main)).rate(n),
        "device_to_host_gb_s": bench.time(lambda: device.copy_out(pinned, source, device.main)).rate(n),
    }
    found = {
        **bench.describe(), **copies, "sm_clock_hz": bench.clock_hz(), "cores": cores(), "cpu": _cpu_name(),
        "python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__,
        "cpu_inflate": "libdeflate" if libdeflate() else python_inflate().__name__,
        "kernels": _kernels_digest(),
    }  # fmt: skip
    for name, value in found.items():
        run.report.say(f"  {name}: {value}")
    run.report.put("machine", found)


def correctness(run: Run) -> None:
    """The contract suite, composites, damaged streams."""
    more, check = run.until(0.5), run.report.check
    gpu_correctness.damaged_streams(run.bench, *run.sizes.damaged, check)
    stacks = [_stack(sizes) for sizes in run.sizes.composites]
    cpu = create("cpu", threads=_threads())
    gpu_correctness.composites(run.bench, cpu, stacks, _threads(), run.nvcomp(), more, check)
    cpu.close()
    if run.bench.emulated or run.subset:
        return
    seconds = min(SUITE_SECONDS, 0.3 * (run.deadline - time.monotonic()))
    check("contract suite", **gpu_correctness.contract_suite(run.bench.device.name, max(10.0, seconds)))


def inflate(run: Run) -> None:
    """Rates of each way to inflate."""
    more, nvcomp = run.until(0.5), run.nvcomp()
    clock = run.bench.clock_hz()
    run.report.say("  kind, side, streams, way: GB/s; clocks a token (predicted)")
    sizes = run.sizes
    kinds = [(kind, sizes.streams) for kind in gpu_inflate.kinds(sizes.tiles, sizes.distinct)]
    kinds += [(kind, sizes.routed) for kind in gpu_inflate.rounded(sizes.tiles[0], sizes.distinct)]
    for kind, counts in kinds:
        if not more():
            break
        for row in gpu_inflate.rates(run.bench, kind, counts, nvcomp, clock, more):
            run.report.add("inflate", row)
            where = f"{row['kind']}, {row['size']}, {row['streams']}, {row['way']}"
            clocks = f"{_number(row['clocks_per_token'])} ({_number(row['predicted_clocks_per_token'])})"
            run.report.say(f"  {where}: {_number(row['gb_s'])}; {clocks}")
            if row["wrong"]:
                run.report.check(f"inflate {where}", False, wrong=row["wrong"])
    serial_from = gpu_inflate.crossings(run.report.found.get("inflate", ()))
    run.report.put("serial_from_ratio", serial_from)
    run.report.say(f"  the serial kernel is faster from a ratio of, by streams: {serial_from}")


def kernels(run: Run) -> None:
    """Each operation against the copy bandwidth."""
    more = run.until(0.6)
    tape = gpu_kernels.Tape(run.bench.device)
    engine = run.bench.engine(device=tape)
    copy = run.report.found.get("machine", {}).get("copy_gb_s")
    operations = _while(more, gpu_kernels.operations(engine, run.sizes.side, run.sizes.tile))
    for row in gpu_kernels.measure(run.bench, operations, tape, copy):
        run.report.add("kernels", row)
        run.report.say(
            f"  {row['operation']}: {_number(row['gb_s'])} GB/s, {_number(row['share_of_copy'])} of a copy"
        )
    engine.close()


def path(run: Run) -> None:
    """Host memory to composite, both engines."""
    more, given, cpu = run.until(0.8), _stack(run.sizes.path), create("cpu", threads=_threads())
    found = gpu_path.measure(run.bench, cpu, given, _threads(), run.sizes.repeats)
    cpu.close()
    run.report.put("path", found)
    for name, value in found.items():
        run.report.say(f"  {name}: {value}")
    run.report.check("composite of the path", not found["differing"], differing=found["differing"])
    run.report.check("a second composite takes no more memory", not gpu_path.grew(found["memory"]))
    for part, tried in (("few", gpu_path.few), ("sweep", gpu_path.sweep)):
        for row in _while(more, tried(run.bench, given, _threads(), run.sizes.repeats)):
            run.report.add(part, row)
            run.report.say(f"  {part}: {row}")


def receive(run: Run) -> None:
    """A composite out of buffers that bodies were received into, pinned and not."""
    found = gpu_receive.measure(run.bench, _stack(run.sizes.received), run.sizes.repeats)
    run.report.put("receive", found)
    for way, row in found.items():
        told = ", ".join(f"{name} {value}" for name, value in row.items() if name != "checksums")
        run.report.say(f"  {way}: {told}")
    gathered, straight = found["gathered"], found["straight"]
    same = gathered["checksums"] == straight["checksums"]
    run.report.check("received either way, tiles give the same composite", same)
    went = straight["straight_bytes"] > 0 and gathered["straight_bytes"] == 0
    run.report.check("what is received into pinned memory goes straight", went)


PARTS: dict[str, Callable[[Run], None]] = {
    "correctness": correctness,
    "inflate": inflate,
    "kernels": kernels,
    "path": path,
    "receive": receive,
}


def _stack(sizes: tuple[int, int, int, int, int]) -> stack.Stack:
    size, scenes, bands, tile, mask_tile = sizes
    return stack.make_stack(size, scenes, bands, tile, mask_tile=mask_tile)


def _while(more: Callable[[], bool], things: Iterable[Any]) -> Iterator[Any]:
    for thing in things:
        if not more():
            return
        yield thing


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _threads() -> int:
    return max(1, round(cores()))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _kernels_digest() -> str:
    """Which kernels these were."""
    files = sorted((ROOT / "cuda").glob("*.cu*"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


# ---- all


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; 0 unless something was wrong, 2 without a device."""
    options = _options(arguments)
    report, started = Report(options.out, options.emulate), time.monotonic()
    report.found["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    subset = options.only == SUBSET
    try:
        bench = EmulatedBench() if options.emulate else Bench(options.device, sanitized=subset)
    except DeviceError as error:
        report.say(error)
        return 2
    sizes = SMALL if options.emulate or subset else FULL
    run = Run(bench, report, sizes, subset, started + options.seconds)
    chosen = ("correctness", "kernels") if subset else (options.only,) if options.only else tuple(PARTS)
    for name, part in {"machine": machine, **{n: PARTS[n] for n in chosen}}.items():
        begun = time.monotonic()
        report.say(f"{name}, {begun - started:.0f} s")
        if name != "machine" and begun > run.deadline:
            report.check(f"{name} was begun", None, why="no time was left")
            continue
        try:
            gc.collect()
            bench.device.release_memory()
            part(run)
        except Exception:  # the other parts may still tell something
            report.found["errors"].append({"part": name, "error": traceback.format_exc()})
            report.say(traceback.format_exc())
        report.found["seconds"][name] = round(time.monotonic() - begun, 1)
        report.put("verdict", verdict(report.found))
    report.say("verdict")
    for row in report.found["verdict"]:
        met = {True: "met", False: "NOT MET", None: "-"}[row["met"]]
        report.say(f"  {row['row']} {row['goal']}: {_number(row['measured'])} {met}")
    return int(report.failed())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, help="JSON file, written after every part")
    parser.add_argument("--seconds", type=float, default=420, help="no more is begun after that")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--only", choices=[*PARTS, SUBSET])
    parser.add_argument("--emulate", action="store_true", help="no GPU, no times: a check of the script")
    options = parser.parse_args(arguments)
    if options.emulate and options.out and RESULTS in options.out.resolve().parents:
        parser.error("an emulated run is no result: --out elsewhere")
    return options


if __name__ == "__main__":
    sys.exit(main())
