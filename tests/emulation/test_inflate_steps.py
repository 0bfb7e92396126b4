"""The steps that inflate takes, counted: what stands at the head of each kernel, as a prediction for a GPU.

A warp's lanes go together: it takes as many steps as the lane that takes most.
"""

from __future__ import annotations

import re
import sys
import zlib
from functools import cache
from pathlib import Path

import deflate
import numpy as np
import pytest
from emulator import CUDA, build

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import stack

KERNELS = {"inflate": ("inflate_streams", 4), "inflate_parallel": ("inflate_streams_parallel", 1)}
"""By file: the kernel, and how many streams a block takes."""
TILE = 512
WRAPPED_AND_VERIFIED = 3
KINDS = {
    "reflectance (zlib 6)": (1, lambda data: zlib.compress(data, 6)),
    "reflectance (libdeflate 6)": (1, lambda data: bytes(deflate.zlib_compress(data, 6))),
    "rounded, ratio 4": (128, lambda data: zlib.compress(data, 6)),
    "scene classes, ratio 8": (None, lambda data: zlib.compress(data, 6)),
}
"""To which step reflectance is rounded, and who deflates it."""


def samples(rng, step):
    """Bytes of a tile before deflation."""
    if step is None:
        return stack.classes(rng, TILE).tobytes()
    pixels = stack.reflectance(rng, TILE) // step * step
    return np.diff(pixels, axis=1, prepend=np.zeros((TILE, 1), np.uint16)).astype("<u2").tobytes()


@cache
def steps_of(file, kind, n=2):
    """What a kernel counts on some tiles of a kind: steps by name, (of warps, of threads)."""
    rng, (step, encode) = np.random.default_rng(1), KINDS[kind]
    data = [samples(rng, step) for _ in range(n)]
    stored = [encode(d) for d in data]
    name, at_once = KERNELS[file]
    module = build(CUDA / f"{file}.cu")
    module.steps()
    room, starts = len(data[0]), np.cumsum([0, *map(len, stored)])
    out, written, status = np.empty(n * room, np.uint8), np.empty(n, np.uint32), np.full(n, -1, np.int32)
    stream = np.frombuffer(b"".join(stored) + bytes(64), np.uint8)
    sources = starts[:-1].astype(np.uint64), np.diff(starts).astype(np.uint32)
    slots = out, (np.arange(n) * room).astype(np.uint64), np.full(n, room, np.uint32)
    ends = written, status, np.uint32(n), np.uint32(WRAPPED_AND_VERIFIED)
    module.kernel(name)([-(-n // at_once)], [128], [stream, *sources, *slots, *ends])
    assert not status.any()
    assert out.tobytes() == b"".join(data)
    return module.steps()


def row_of(kind):
    """A row of the parallel kernel's table."""
    steps = steps_of("inflate_parallel", kind)
    tokens = steps["place"][1] / 32
    of_warps = [steps[name][0] / tokens for name in ("find", "count", "place", "copy")]
    return [*of_warps, steps["copying"][0] / steps["window"][0], steps["counting"][0] / steps["batch"][0]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_the_parallel_kernel_is_what_it_does(kind):
    head = (CUDA / "inflate_parallel.cu").read_text()
    found = re.search(rf"^//   {re.escape(kind)} +(.*)$", head, re.MULTILINE)
    assert found, f"no row of {kind!r}"
    assert row_of(kind) == pytest.approx([float(n) for n in found[1].split()], rel=0.1, abs=0.06)


def test_matches_that_the_serial_kernel_copies_one_by_one_are_as_many_as_it_says():
    head = (CUDA / "inflate.cu").read_text()
    found = re.search(r"Matches among 32 tokens: (\d+) in reflectance, (\d+) in scene classes", head)
    assert found
    for kind, said in zip(("reflectance (zlib 6)", "scene classes, ratio 8"), found.groups(), strict=True):
        steps = steps_of("inflate", kind)
        assert steps["copy"][0] / (steps["place"][1] / 32) == pytest.approx(float(said), abs=0.6)
