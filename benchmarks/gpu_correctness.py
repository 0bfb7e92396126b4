"""Is it right? Composites against the CPU engine's, damaged streams against zlib, the contract suite."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_path
import numpy as np
import stack
from gpu_bench import Bench
from gpu_inflate import KERNELS, UNTOUCHED, Streams
from stack import Stack

from bestpixel_gpu.engines.contract import Engine
from bestpixel_gpu.engines.cuda import batches
from bestpixel_gpu.engines.cuda.nvcomp import Nvcomp

ROOT = Path(__file__).resolve().parents[1]
SUITES = {
    "tests/contract": ("pytest", "hypothesis"),
    "tests/gpu": ("aiohttp", "pyproj", "pystac_client", "xarray", "odc", "rasterio", "zarr", "h5netcdf"),
}
"""Folders of tests marked ``gpu``, and what each needs more than those before."""
NO_TESTS = 5
"""Exit status of pytest where nothing was selected."""
GUARD = 64

Check = Callable[..., None]
"""Told what was looked at, whether it is right (``None``: not seen), and details by name."""


# ---- composites


def composites(
    bench: Bench,
    cpu: Engine,
    stacks: Sequence[Stack],
    cores: int,
    nvcomp: Nvcomp | None,
    more: Callable[[], bool],
    check: Check,
) -> None:
    """Each stack by each way to inflate; every layer must be the CPU engine's."""
    for given in stacks:
        right = gpu_path.on_cpu(cpu, given, cores)
        what = f"composite of {len(given.masks)} x {len(given.bands)} x {given.size} pixels"
        for way, library, ratio in _ways(nvcomp):
            share = gpu_path.Fixed(way == "host", cores)
            if not more():
                check(f"{what}, {way}", None, why="no time left")
                continue
            with forced(ratio):
                engine = bench.engine(library, share=share)
                layers = gpu_path.on_device(engine, given)
                differing = gpu_path.differing(engine, layers, cpu, right)
                engine.close()
            check(f"{what}, {way}", not differing, differing=differing, crcs=stack.checksums(cpu, right))


@contextmanager
def forced(ratio: float) -> Iterator[None]:
    """Streams that grow less than `ratio` times go to the parallel kernel."""
    before, batches.BLOCK_RATIO = batches.BLOCK_RATIO, ratio  # type: ignore[assignment]
    try:
        yield
    finally:
        batches.BLOCK_RATIO = before


def _ways(nvcomp: Nvcomp | None) -> list[tuple[str, Nvcomp | None, float]]:
    own = [("routed", batches.BLOCK_RATIO), ("parallel", float("inf")), ("serial", 0.0)]
    ways = [(way, None, float(ratio)) for way, ratio in own]
    ways.append(("host", None, float(batches.BLOCK_RATIO)))
    return [*ways, *([("nvcomp", nvcomp, float(batches.BLOCK_RATIO))] if nvcomp else [])]


# ---- damaged streams


def damaged_streams(bench: Bench, n: int, size: int, check: Check) -> None:
    """Both kernels on `n` streams, some of them good."""
    cases = damaged(n, size)
    for which in KERNELS:
        found = judge(bench, which, cases)
        wrong = found["wrong verdicts"] or found["wrong bytes"] or found["guard bytes written"]
        check(f"damaged streams, {which}", not wrong and 0 < found["accepted"] < n, **found)


@dataclass(frozen=True)
class Case:
    """A stream and the room its output has."""

    stream: bytes
    room: int

    def by_zlib(self) -> bytes | None:
        """Its output; ``None`` where zlib refuses it or it needs more room."""
        decoder = zlib.decompressobj()
        try:
            out = decoder.decompress(self.stream, self.room + 1)
            if len(out) <= self.room and not decoder.eof:
                out += decoder.flush()
        except zlib.error:
            return None
        return out if decoder.eof and len(out) <= self.room else None


def damaged(n: int, size: int, seed: int = 5) -> list[Case]:
    """Streams of tiles of `size` x `size` pixels: cut, flipped, with too little room, or left alone."""
    rng = np.random.default_rng(seed)
    pixels = np.diff(stack.reflectance(rng, size), axis=1).tobytes()
    masks = stack.classes(rng, size).tobytes()
    raws = [pixels, masks, rng.bytes(size * size), bytes(size * size), masks[:1], b""]
    packed = [_packed(raw, level, how) for raw in raws for level, how in _HOW]
    return [_case(rng, *packed[int(rng.integers(len(packed)))]) for _ in range(n)]


_HOW = [(6, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_RLE), (6, zlib.Z_HUFFMAN_ONLY), (6, zlib.Z_FIXED), (0, 0)]


def _packed(raw: bytes, level: int, strategy: int) -> tuple[bytes, bytes]:
    packer = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
    return packer.compress(raw) + packer.flush(), raw


def _case(rng: np.random.Generator, good: bytes, raw: bytes) -> Case:
    stream, room, kind = bytearray(good), len(raw), int(rng.integers(6))
    if kind == 0:
        del stream[int(rng.integers(len(stream))) :]
    elif kind == 1:  # where most is decided: the frame and the first code lengths
        stream[int(rng.integers(min(len(stream), 80)))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        for _ in range(int(rng.integers(1, 5))):
            stream[int(rng.integers(len(stream)))] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        room = max(0, room - int(rng.integers(1, 300)))
    elif kind == 4:
        stream += rng.bytes(int(rng.integers(1, 40)))
        room += int(rng.integers(0, 40))
    return Case(bytes(stream), room)


def judge(bench: Bench, which: str, cases: Sequence[Case]) -> dict[str, int]:
    """How one kernel judges streams: verdicts and bytes that are not zlib's, guard bytes written."""
    streams = Streams(bench.device, [c.stream for c in cases], [c.room for c in cases], GUARD)
    streams.soil()
    streams.launch(which)
    out, status, written = map(bench.device.download, (streams.out, streams.status, streams.written))
    found = {"streams": len(cases), "accepted": 0, "wrong verdicts": 0, "wrong bytes": 0}
    guards = np.ones(out.size, np.bool_)
    for i, case in enumerate(cases):
        right, start = case.by_zlib(), int(streams.slots[i])
        guards[start : start + case.room] = False
        found["accepted"] += right is not None
        found["wrong verdicts"] += bool(status[i] == 0) != (right is not None)
        if status[i] == 0 and right is not None:
            found["wrong bytes"] += out[start : start + int(written[i])].tobytes() != right
    return found | {"guard bytes written": int((out[guards] != UNTOUCHED).sum())}


# ---- the contract suite


def contract_suite(device: str, seconds: float) -> dict[str, Any]:
    """Tests marked ``gpu``, in a process of their own that sees one device: what a check is told of them."""
    folders: list[str] = []
    for folder, needed in SUITES.items():
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing and not folders:
            return {"ok": None, "why": f"{missing[0]} is not installed"}
        if missing or not (ROOT / folder).is_dir():
            break
        folders.append(folder)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *folders]
    seen, number = os.environ.get("CUDA_VISIBLE_DEVICES"), device.partition(":")[2]
    visible = seen.split(",")[int(number)] if seen else number
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=seconds, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"ok": None, "why": f"not done within {seconds:.0f} s"}
    if done.returncode == NO_TESTS:
        return {"ok": None, "why": "no test is marked gpu"}
    return {"ok": done.returncode == 0, "folders": folders, "tail": done.stdout[-2000:]}
