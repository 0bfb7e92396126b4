"""Inflate on a device: streams in its memory, and the rates of each way to decode them.

``serial`` is ``cuda/inflate.cu`` (a warp per stream), ``parallel`` is ``cuda/inflate_parallel.cu`` (a
block per stream), ``routed`` gives each stream to one of them as the engine does.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import stack
from gpu_bench import Bench, Timing
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import CompressedTile
from bestpixel_gpu.engines.cpu import numba_inflate
from bestpixel_gpu.engines.cpu.jit import int64, kernel, uint64
from bestpixel_gpu.engines.cpu.prefix_code import (
    BITS,
    DISTANCE_ROOT,
    END,
    LITERAL,
    LITERAL_ROOT,
    entry_of,
    workspace,
)
from bestpixel_gpu.engines.cuda.batches import BLOCK_RATIO, STREAMS_PER_BLOCK
from bestpixel_gpu.engines.cuda.device import blocks
from bestpixel_gpu.engines.cuda.nvcomp import HEADER, TRAILER, Nvcomp, payload_slot

KERNELS = {
    "serial": ("inflate", "inflate_streams", STREAMS_PER_BLOCK),
    "parallel": ("inflate_parallel", "inflate_streams_parallel", 1),
}
COUNTS = (1, 8, 64, 132, 300, 800, 2000, 4096)
ROUNDED = (32, 128, 256, 512, 1024)
"""Steps to which reflectance is rounded: tiles that deflate 2.6, 4.3, 6, 10 and 18 times."""
MOST = 8 << 30
"""Inflated bytes in flight: 4096 tiles of 1024 x 1024."""
UNTOUCHED = 0xA5
_WRAPPED_AND_VERIFIED = np.uint32(3)


class Model(NamedTuple):
    """What was predicted without a GPU, in clocks a token.

    Attributes
    ----------
    stream : float
        Of a stream alone on its multiprocessor.
    sm : float
        Of a multiprocessor that is full, if it lost nothing; half of that speed is expected.
    """

    stream: float
    sm: float


MODELS = {
    ("reflectance", "serial"): Model(430, 23),
    ("reflectance", "parallel"): Model(16.6, 3.9),
    ("classes", "serial"): Model(600, 42),
    ("classes", "parallel"): Model(130, 31),
}
"""By instructions counted on the emulator and latencies guessed; real tiles of a ratio near 1.3, and
scene classes of a ratio near 10."""
EXPECTED = {
    "serial": {1: 0.007, 64: 0.4, 300: 2, 800: 5, 4096: 8},
    "parallel": {1: 0.175, 64: 11, 300: 32, 800: 45, 2000: 45, 4096: 45},
}
"""GB/s that follow for reflectance in tiles of 512 x 512 on 132 multiprocessors at 1.75 GHz."""


class Streams:
    """zlib streams in device memory, and a slot for each; guard bytes lie between the slots."""

    def __init__(self, device: Any, stored: Sequence[bytes], rooms: Sequence[int], guard: int = 0) -> None:
        self._device = device
        starts, at = [], 0
        for data in stored:
            starts.append(payload_slot(at))
            at = starts[-1] + len(data)
        host = np.zeros(at + 64, np.uint8)
        for start, data in zip(starts, stored, strict=True):
            host[start : start + len(data)] = np.frombuffer(data, np.uint8)
        self.n, self.data = len(stored), device.upload(host)
        self.starts, self.sizes = np.array(starts, np.uint64), np.array([len(s) for s in stored], np.uint32)
        self.rooms = np.array(rooms, np.uint32)
        steps = self.rooms.astype(np.uint64) + np.uint64(guard)
        self.slots = np.cumsum(steps) - steps + np.uint64(guard)
        self.out = device.empty(int(steps.sum()) + guard, np.uint8)
        self.written, self.status = device.empty(self.n, np.uint32), device.empty(self.n, np.int32)
        self.take(np.arange(self.n))

    def take(self, order: NDArray[np.intp]) -> None:
        """From now on these streams in this order; their slots are the first ones."""
        self.count, upload = len(order), self._device.upload
        self.inputs = [upload(a[order]) for a in (self.starts, self.sizes)]
        self.outputs = [upload(a[: self.count]) for a in (self.slots, self.rooms)]

    def arguments(self, first: int, n: int) -> list[Any]:
        """What a kernel is given to inflate `n` streams from `first` on."""
        args = [self.data, *(a[first:] for a in self.inputs), self.out, *(a[first:] for a in self.outputs)]
        return [*args, self.written[first:], self.status[first:], np.uint32(n), _WRAPPED_AND_VERIFIED]

    def launch(self, which: str, first: int = 0, n: int | None = None) -> None:
        """Inflate the streams from `first` on by one of :data:`KERNELS`."""
        n = self.count - first if n is None else n
        if not n:
            return
        file, name, at_once = KERNELS[which]
        self._device.launch((file, name), blocks(n, at_once), 128, self.arguments(first, n))

    def verify(self) -> None:
        """Compare the checksums of what lies in the slots, as after nvCOMP."""
        args = [self.data, *self.inputs, self.out, *self.outputs, self.status, np.uint32(self.count)]
        self._device.launch(("adler32", "adler32_check"), self.count, 128, args)

    def soil(self) -> None:
        """Leave nothing of an earlier turn in slots and statuses."""
        self._device.fill(self.out, UNTOUCHED)
        self._device.fill(self.status, -1)

    def wrong(self, bench: Bench, expected: NDArray[np.uint8], pick: Sequence[int]) -> int:
        """Refused streams and differing slots, where stream i should hold row ``pick[i]``."""
        rows = self.out[: self.count * expected.shape[1]].reshape(self.count, expected.shape[1])
        refused = int((self._device.download(self.status)[: self.count] != 0).sum())
        return refused + bench.wrong_rows(rows, expected, pick)


@dataclass(frozen=True)
class Kind:
    """Tiles of one kind.

    Attributes
    ----------
    name : str
        ``"reflectance"`` or ``"classes"``.
    size : int
        Pixels along a side.
    tiles : list of CompressedTile
        Different ones, repeated in a batch.
    """

    name: str
    size: int
    tiles: list[CompressedTile]

    @property
    def layout(self) -> TileLayout:
        """Of all tiles."""
        return self.tiles[0].layout

    @property
    def ratio(self) -> float:
        """Inflated over stored bytes."""
        return self.layout.inflated_bytes * len(self.tiles) / sum(map(len, self.stored()))

    def stored(self) -> list[bytes]:
        """The tiles' streams."""
        return [bytes(t.data) for t in self.tiles if t.data is not None]

    def inflated(self) -> NDArray[np.uint8]:
        """What zlib makes of the tiles, (tiles, bytes)."""
        return np.stack([np.frombuffer(zlib.decompress(s), np.uint8) for s in self.stored()])


def kinds(sizes: Sequence[int], distinct: int) -> list[Kind]:
    """Reflectance in tiles of each size, then class masks."""
    out = [Kind("reflectance", n, stack.reflectance_tiles(n, n=distinct)) for n in sizes]
    return [*out, *(Kind("classes", n, stack.mask_tiles(n, n=distinct)) for n in sizes)]


def rounded(size: int, distinct: int) -> list[Kind]:
    """Reflectance rounded to ever larger steps: what lies between the two kinds that archives hold."""
    return [
        Kind(f"rounded to {step}", size, stack.reflectance_tiles(size, n=distinct, step=step))
        for step in ROUNDED
    ]


def crossings(rows: Iterable[dict[str, Any]]) -> dict[int, float | None]:
    """By streams in flight, the ratio from which on the serial kernel is the faster one."""
    times: dict[int, dict[float, dict[str, float]]] = {}
    for row in rows:
        if row["seconds"]:
            times.setdefault(row["streams"], {}).setdefault(row["ratio"], {})[row["way"]] = row["seconds"]
    found: dict[int, float | None] = {}
    for n, by_ratio in times.items():
        found[n] = None
        for ratio, by_way in sorted(by_ratio.items(), reverse=True):
            if by_way.get("serial", math.inf) >= by_way.get("parallel", 0.0):
                break
            found[n] = ratio
    return found


def rates(
    bench: Bench,
    kind: Kind,
    counts: Iterable[int],
    nvcomp: Nvcomp | None,
    clock_hz: float | None,
    more: Callable[[], bool],
) -> Iterable[dict[str, Any]]:
    """Each way's rate at each count of streams in flight, for as long as `more` says so."""
    room = kind.layout.inflated_bytes
    free, _ = bench.device.memory()
    counts = [n for n in counts if n * room <= min(MOST, free // 4)]
    stored, expected = kind.stored(), kind.inflated()
    pick = np.arange(max(counts)) % len(stored)
    streams = Streams(bench.device, [stored[i] for i in pick], [room] * len(pick))
    tokens = np.array([count_tokens(s) for s in stored])
    for n in counts:
        order = np.argsort(
            -streams.sizes[:n].astype(np.int64), kind="stable"
        )  # the longest first, as in a batch
        streams.take(order)
        for way, work in _ways(streams, streams.sizes[order], room, nvcomp, bench).items():
            if not more():
                return
            streams.soil()
            timing = bench.time(work)
            wrong = streams.wrong(bench, expected, pick[order])
            row = {
                "kind": kind.name,
                "size": kind.size,
                "ratio": round(kind.ratio, 2),
                "streams": n,
                "way": way,
            }
            yield (
                row
                | _figures(row, timing, n * room, tokens[pick[order]], clock_hz, bench.sms)
                | {"wrong": wrong}
            )


def _ways(
    streams: Streams, sizes: NDArray[np.uint32], room: int, nvcomp: Nvcomp | None, bench: Bench
) -> dict[str, Callable[[], object]]:
    in_blocks = int((BLOCK_RATIO * sizes.astype(np.int64) > room).sum())  # they come first: the longest

    def routed() -> None:
        streams.launch("parallel", 0, in_blocks)
        streams.launch("serial", in_blocks)

    ways: dict[str, Callable[[], object]] = {  # the serial kernel first: its clocks tell which model holds
        "serial": lambda: streams.launch("serial"),
        "parallel": lambda: streams.launch("parallel"),
        "routed": routed,
    }
    return ways | ({"nvcomp": _by_nvcomp(streams, room, nvcomp, bench)} if nvcomp else {})


def _by_nvcomp(streams: Streams, room: int, nvcomp: Nvcomp, bench: Bench) -> Callable[[], object]:
    device, n = bench.device, streams.count
    starts, sizes = (device.download(a) for a in streams.inputs)
    data, out = (np.uint64(device.address(a)) for a in (streams.data, streams.out))
    payloads, lengths = (
        starts + data + np.uint64(HEADER),
        sizes.astype(np.uint64) - np.uint64(HEADER + TRAILER),
    )
    rooms = np.full(n, room, np.uint64)
    arrays = [device.upload(a) for a in (payloads, lengths, rooms, rooms, streams.slots[:n] + out)]
    work_bytes = max(1, nvcomp.temp_bytes(n, room, n * room))
    arrays += [device.empty(work_bytes, np.uint8), streams.status]

    def ask(handle: int) -> None:
        payload, length, capacity, written, target, memory, status = map(device.address, arrays)
        sizes = n, memory, work_bytes
        nvcomp.decompress_async(payload, length, capacity, written, *sizes, target, status, handle)

    return lambda: device.call(ask, device.main)


def _figures(
    row: dict[str, Any],
    timing: Timing,
    decoded: int,
    tokens: NDArray[np.int64],
    clock_hz: float | None,
    sms: int,
) -> dict[str, Any]:
    """What a timing says, beside what was predicted of it."""
    clocks = timing.seconds * clock_hz if timing.seconds is not None and clock_hz else None
    alone = row["streams"] <= sms
    each = None if clocks is None else clocks / tokens.max() if alone else clocks * sms / tokens.sum()
    model = MODELS.get((row["kind"], row["way"]))
    return {
        "seconds": timing.seconds,
        "repeats": timing.repeats,
        "gb_s": timing.rate(decoded),
        "clocks_per_token": each,
        "of": "a stream alone on a multiprocessor" if alone else "a multiprocessor",
        "predicted_clocks_per_token": model and (model.stream if alone else model.sm),
        "predicted_gb_s": EXPECTED.get(row["way"], {}).get(row["streams"])
        if (row["kind"], row["size"]) == ("reflectance", 512)
        else None,
    }


def count_tokens(stream: bytes) -> int:
    """Literals and matches of a good zlib stream; what is stored without a code has none."""
    data = np.frombuffer(stream, np.uint8)
    return int(_count_tokens(data.ctypes.data, data.size, workspace()))


@kernel
def _count_tokens(source: Any, n_in: Any, work: Any) -> Any:
    at, final, tokens = 16, False, 0
    while not final:
        word = int64(numba_inflate._window(source, n_in, at) & uint64(7))
        final, kind = bool(word & 1), word >> 1
        at += 3
        if kind == 0:
            byte = (at + 7) >> 3
            size = int64(numba_inflate._window(source, n_in, 8 * byte) & uint64(0xFFFF))
            at = 8 * (byte + 4 + size)
            continue
        if kind == 2:
            at = numba_inflate._dynamic_code(source, n_in, at, work)
        else:
            numba_inflate._fixed_code(work)
        while True:
            bits = numba_inflate._window(source, n_in, at)
            entry = entry_of(work.literals, LITERAL_ROOT, bits)
            at += int64(entry & uint64(BITS))
            if entry & uint64(END):
                break
            tokens += 1
            if not entry & uint64(LITERAL):
                entry = entry_of(work.distances, DISTANCE_ROOT, bits >> (entry & uint64(BITS)))
                at += int64(entry & uint64(BITS))
    return tokens
