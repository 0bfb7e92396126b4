"""The parallel inflate kernel in other shapes, one macro changed at a time, beside what was foretold.

    python benchmarks/gpu_shapes.py [--out FILE.json] [--device N] [--emulate]

To be run when ``gpu_check.py --only inflate`` has timed the shape that is built in; for the order of the
first measurements see ``benchmarks/gpu_notes.md``. The exit status is 0 when every shape gave zlib's
bytes, 2 without a device. No GPU has run this yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu_bench import Bench, EmulatedBench
from gpu_inflate import KERNELS, Kind, Streams, kinds

from bestpixel_gpu.errors import DeviceError

DEFAULT = {"PAR_WARPS": 4, "SUB_WORDS": 13, "LOOK": 512, "STAGE": 15360}
"""Of ``cuda/inflate_parallel.cu``."""
TRIED = {
    "PAR_WARPS": {1: -9, 2: -6, 8: -1},
    "SUB_WORDS": {9: None, 17: -3, 25: -4},
    "LOOK": {256: 4, 384: 0, 768: 6},
    "STAGE": {8192: None, 12288: None, 24576: None},
}
"""By how many per cent the instructions a token grow, where they were counted without a GPU."""
COUNTS = (1, 64, 300, 2000)
"""Streams in flight."""


def shapes() -> Iterator[tuple[dict[str, int], int | None]]:
    """The default, then every shape that differs in one macro; with what was foretold of it."""
    yield DEFAULT, 0
    for macro, values in TRIED.items():
        for value, instructions in values.items():
            yield DEFAULT | {macro: value}, instructions


def rates(bench: Bench, kind: Kind, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Each shape's rate at each count of streams in flight."""
    file, name, _ = KERNELS["parallel"]
    stored, expected, room = kind.stored(), kind.inflated(), kind.layout.inflated_bytes
    pick = np.arange(max(counts)) % len(stored)
    streams = Streams(bench.device, [stored[i] for i in pick], [room] * len(pick))
    for macros, instructions in shapes():
        launch, threads = bench.shaped(file, name, macros), 32 * macros["PAR_WARPS"]
        for n in counts:
            order = np.argsort(-streams.sizes[:n].astype(np.int64), kind="stable")  # the longest first
            streams.take(order)
            streams.soil()
            timing = bench.time(partial(launch, n, threads, streams.arguments(0, n)))
            yield {
                **macros, "streams": n, "seconds": timing.seconds, "repeats": timing.repeats,
                "gb_s": timing.rate(n * room), "instructions_foretold_percent": instructions,
                "wrong": streams.wrong(bench, expected, pick[order]),
            }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Time all shapes; 0 where every byte was right, 2 without a device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--emulate", action="store_true", help="no GPU, no times: a check of the script")
    options = parser.parse_args(arguments)
    try:
        bench = EmulatedBench() if options.emulate else Bench(options.device)
    except DeviceError as error:
        print(error)
        return 2
    kind, *_ = kinds((64,), 2) if options.emulate else kinds((512,), 24)
    rows = []
    for row in rates(bench, kind, (1, 3) if options.emulate else COUNTS):
        print(row, flush=True)
        rows.append(row)
    found = {"machine": bench.describe(), "emulated": bench.emulated, "shapes": rows}
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
