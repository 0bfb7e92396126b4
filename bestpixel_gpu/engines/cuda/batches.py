"""One batch of stored tiles on its way through the device: a copy, inflate, unpack, statuses.

Bytes that were received into pinned memory go to the device from there, those of neighbours in one
copy. All others are gathered behind the batch's descriptions in pinned memory of its lane, and go
in one copy with these. Results come back in one copy behind the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import TILE_CORRUPT, TILE_OK
from bestpixel_gpu.engines.cuda import tiles
from bestpixel_gpu.engines.cuda.device import Device, Event, blocks
from bestpixel_gpu.engines.cuda.nvcomp import HEADER, TRAILER, Nvcomp, strip_zlib
from bestpixel_gpu.engines.cuda.pool import CudaPool
from bestpixel_gpu.engines.cuda.receive import Pinned, pinned_under
from bestpixel_gpu.engines.cuda.share import Turn, Way
from bestpixel_gpu.transfer.ranges import GAP_BYTES

BLOCK_RATIO = 6
"""Streams that grow less are decoded by a block of threads at many bits at once, others by a warp."""
STREAMS_PER_BLOCK = 4
"""Warps of ``inflate_streams``, as ``cuda/inflate.cu`` knows it."""
_WRAPPED_AND_VERIFIED = np.uint32(3)
COPIERS = 4
"""Threads that fill pinned memory: one alone does not keep up with the device."""
_ONE_COPIER = 4 << 20  # bytes up to which the loader's own thread is as fast
STRAIGHT_BYTES = 1 << 16
"""Fewer bytes are gathered sooner than another copy is asked for. A guess until it is measured."""


@dataclass(slots=True, eq=False)
class Entry:
    """A stored tile and where it goes.

    Attributes
    ----------
    stored : uint8 array
        Its bytes as they were read; a zlib stream, or samples where the codec is ``"none"``. Kept until
        the batch has ended: the device may be copying from there.
    inside : (int, int) or None
        Rows and columns wanted.
    sink : object
        Who is told how it went.
    place : int
        Its number there.
    safe : bool
        Not to be given to nvCOMP (again).
    """

    stored: NDArray[np.uint8]
    layout: TileLayout
    inside: tuple[int, int] | None
    pool: CudaPool
    slot: int
    sink: Any
    place: int
    safe: bool = False

    def way(self, nvcomp: Nvcomp | None) -> Way:
        """How its bytes are inflated."""
        if self.layout.codec == "none":
            return "raw"
        if nvcomp is not None and not self.safe and strip_zlib(self.stored.data) is not None:
            return "nvcomp"
        return "block" if self.layout.inflated_bytes < BLOCK_RATIO * self.stored.size else "warp"

    @property
    def before(self) -> int:
        """Bytes before the one that is best aligned."""
        return HEADER if self.layout.codec == "deflate" else 0


class Lane:
    """A stream and the pinned memory of the batch that is on it.

    Parameters
    ----------
    device : Device
    give_way : callable
        Has others give up pinned memory, where the system pins no more.

    Attributes
    ----------
    straight, gathered : int
        Stored bytes that went to the device from where they were received, and by way of this memory.
    """

    def __init__(self, device: Device, give_way: Callable[[], object] = lambda: None) -> None:
        self.stream = device.stream()
        self.straight = self.gathered = 0
        self._device, self._give_way = device, give_way
        self._pinned = np.empty(0, np.uint8)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes; what was in them is lost."""
        if self._pinned.size < size:
            self._pinned = np.empty(0, np.uint8)  # given back before more is asked for
            full = 1 << max(size - 1, 1 << 20).bit_length()
            try:
                self._pinned = self._device.pinned(full)
            except MemoryError:
                self._give_way()
                self._pinned = self._device.pinned(full)
        return self._pinned[:size]

    def release(self) -> None:
        """Give the memory back; no batch may be on the lane."""
        self._pinned = np.empty(0, np.uint8)


@dataclass(slots=True, eq=False)
class Run:
    """Bytes ``start .. end - 1`` of a pinned buffer, which one copy takes.

    Attributes
    ----------
    before : int
        Bytes before the first that is to be aligned.
    starts : dict
        Where each of the entries in it starts in the buffer, by its index in the batch.
    at : int
        Where `start` goes in the batch's device memory.
    """

    buffer: Pinned
    start: int
    end: int
    before: int
    starts: dict[int, int]
    at: int = 0


class Batch:
    """Tiles that go through the device together.

    Making one takes its memory and asks for no work, so it can be refused; :meth:`start` asks for
    the work, :meth:`finish` waits for it.

    Attributes
    ----------
    entries : list of Entry
        Sorted by way and, within, the longest stream first: it must not be the last to end.

    Raises
    ------
    MemoryError
        If the device or the host has no room for it.
    """

    def __init__(self, device: Device, lane: Lane, entries: Sequence[Entry], nvcomp: Nvcomp | None) -> None:
        ways: dict[Way, list[Entry]] = {"nvcomp": [], "block": [], "warp": [], "raw": []}
        for entry in sorted(entries, key=lambda e: -e.stored.size):
            ways[entry.way(nvcomp)].append(entry)
        self.entries = [e for part in ways.values() for e in part]
        self._count = {way: len(part) for way, part in ways.items()}
        self._streams = len(entries) - len(ways["raw"])
        self._device, self._lane, self._stream, self._nvcomp = device, lane, lane.stream, nvcomp
        self._lay_out()
        self._pinned = lane.pinned(self._copied_back.stop)
        self._memory = device.empty(self._size, np.uint8, lane.stream)
        self._start = device.address(self._memory)
        self._event: Event | None = None
        self._marks: list[Event] = []

    def _lay_out(self) -> None:
        """Give everything its place: descriptions, stored bytes, results, runs, what is inflated."""
        entries, n, k = self.entries, self._streams, self._count["nvcomp"]
        block = _Block()
        self._undone = [i for i, e in enumerate(entries) if i >= n or not tiles.is_native(e.layout)]
        for name in ("in_at", "out_at"):
            block.field(name, np.uint64, n)
        for name in ("in_size", "out_size"):
            block.field(name, np.uint32, n)
        for name in ("payload", "payload_size", "room"):
            block.field(name, np.uint64, k)
        block.field("tiles", np.int64, len(self._undone) * len(tiles.Tile._fields))
        self._runs = _runs(entries, range(k, n))
        straight = {i for run in self._runs for i in run.starts}
        self._gathered = [i for i in range(len(entries)) if i not in straight]
        self._stored = [0] * len(entries)
        for i in self._gathered:
            self._stored[i] = block.place(entries[i].stored.size, entries[i].before)
        self._copied_in = slice(0, block.place(0))
        block.field("status", np.int32, n)
        block.field("written", np.uint32, n)
        block.field("written_nvcomp", np.uint64, k)
        self._copied_back = slice(self._copied_in.stop, block.place(0))
        for run in self._runs:  # beyond what has its like in the lane's memory
            run.at = block.place(run.end - run.start, run.before)
            for i, start in run.starts.items():
                self._stored[i] = run.at + start - run.start
        self._inflated = [
            block.place(e.layout.inflated_bytes) if not e.layout.in_place else None for e in entries[:n]
        ]
        self._work_bytes = self._nvcomp_work_bytes() if k else 0
        self._work = block.place(self._work_bytes)
        self._size = block.place(0)
        self._fields = block.fields

    def start(self, copiers: Executor) -> None:
        """Fill the pinned memory and ask for all the work; returns before it is done."""
        device, stream = self._device, self._stream
        for run in self._runs:  # on their way while the rest is gathered
            target = self._memory[run.at : run.at + run.end - run.start]
            device.copy_in(target, run.buffer[run.start : run.end], stream)
        self._describe()
        self._gather(copiers)
        device.copy_in(self._memory[self._copied_in], self._pinned[self._copied_in], stream)
        pools = {id(e.pool): e.pool for e in self.entries}.values()
        for pool in pools:
            stream.wait_for(pool.read)
        self._inflate()
        wanted = [e.inside or (e.layout.height, 0) for e in (self.entries[i] for i in self._undone)]
        rows = max((rows for rows, _ in wanted), default=0)
        tiles.undo(device, self._on_device("tiles"), len(self._undone), rows, stream)
        device.copy_out(self._pinned[self._copied_back], self._memory[self._copied_back], stream)
        self._event = stream.record()
        for pool in pools:
            pool.loading([e.slot for e in self.entries if e.pool is pool], self._event)

    def finish(self) -> NDArray[np.int8]:
        """Wait; the status of each of the entries. Those nvCOMP refuses may be good all the same."""
        assert self._event is not None
        self._event.wait()
        n, k = self._streams, self._count["nvcomp"]
        written = self._on_host("written").astype(np.uint64)
        written[:k] = self._on_host("written_nvcomp")
        good = np.ones(len(self.entries), np.bool_)
        good[:n] = (self._on_host("status") == 0) & (written == self._on_host("out_size"))
        for pool in {id(e.pool): e.pool for e in self.entries}.values():
            pool.loaded(self._event)
        return np.where(good, TILE_OK, TILE_CORRUPT).astype(np.int8)

    def turns(self) -> list[Turn]:
        """What the streams of each way took on the device, once :meth:`finish` has returned."""
        found, first, marks = [], 0, iter(self._marks)
        start = next(marks)
        for way, n in self._count.items():
            if n and way != "raw":
                sizes = [e.layout.inflated_bytes for e in self.entries[first : first + n]]
                start, before = next(marks), start
                found.append(Turn(way, n, max(sizes), sum(sizes), start.since(before)))
            first += n
        return found

    def used_nvcomp(self, i: int) -> bool:
        """Whether an entry was given to nvCOMP."""
        return i < self._count["nvcomp"]

    def _describe(self) -> None:
        n, k = self._streams, self._count["nvcomp"]
        entries, start = self.entries, self._start
        sources = [start + at for at in self._stored]
        for i, at in enumerate(self._inflated):
            entry = entries[i]
            sources[i] = entry.pool.address(entry.slot) if at is None else start + at
        self._on_host("in_at")[:] = self._stored[:n]
        self._on_host("out_at")[:] = sources[:n]
        self._on_host("in_size")[:] = [e.stored.size for e in entries[:n]]
        self._on_host("out_size")[:] = [e.layout.inflated_bytes for e in entries[:n]]
        self._on_host("payload")[:] = [start + at + HEADER for at in self._stored[:k]]
        self._on_host("payload_size")[:] = [e.stored.size - HEADER - TRAILER for e in entries[:k]]
        self._on_host("room")[:] = [e.layout.inflated_bytes for e in entries[:k]]
        described = [
            tiles.describe(e.layout, sources[i], e.pool.address(e.slot), e.inside)
            for i, e in ((i, entries[i]) for i in self._undone)
        ]
        self._on_host("tiles")[:] = np.array(described, np.int64).ravel()

    def _gather(self, copiers: Executor) -> None:
        def copy(part: slice) -> None:
            for i in self._gathered[part]:
                stored, at = self.entries[i].stored, self._stored[i]
                self._pinned[at : at + stored.size] = stored

        gathered = sum(self.entries[i].stored.size for i in self._gathered)
        self._lane.gathered += gathered
        self._lane.straight += sum(e.stored.size for e in self.entries) - gathered

        if self._copied_in.stop < _ONE_COPIER:
            copy(slice(None))
        else:
            list(copiers.map(copy, (slice(i, None, COPIERS) for i in range(COPIERS))))

    def _inflate(self) -> None:
        self._mark()
        first = self._count["nvcomp"]
        if first:
            self._inflate_by_nvcomp(first)
            self._mark()
        if n := self._count["block"]:
            self._launch(("inflate_parallel", "inflate_streams_parallel"), n, first, n)
            self._mark()
        first += n
        if n := self._count["warp"]:
            self._launch(("inflate", "inflate_streams"), blocks(n, STREAMS_PER_BLOCK), first, n)
            self._mark()

    def _mark(self) -> None:
        self._marks.append(self._stream.record(timed=True))

    def _launch(self, kernel: tuple[str, str], grid: int, first: int, n: int) -> None:
        names = ("in_at", "in_size", "out_at", "out_size", "written", "status")
        in_at, in_size, *others = (self._on_device(name, first) for name in names)
        # no base for the outputs: they lie in several blocks of memory, so their offsets are addresses
        args = [self._memory, in_at, in_size, None, *others, np.uint32(n), _WRAPPED_AND_VERIFIED]
        self._device.launch(kernel, grid, 128, args, self._stream)

    def _inflate_by_nvcomp(self, n: int) -> None:
        assert self._nvcomp is not None
        nvcomp, at = self._nvcomp, {name: self._start + f.at for name, f in self._fields.items()}

        def decompress(handle: int) -> None:
            nvcomp.decompress_async(
                at["payload"],
                at["payload_size"],
                at["room"],
                at["written_nvcomp"],
                n,
                self._start + self._work,
                self._work_bytes,
                at["out_at"],
                at["status"],
                handle,
            )

        self._device.call(decompress, self._stream)
        names = ("in_at", "in_size", "out_at", "out_size", "status")
        in_at, in_size, out_at, out_size, status = (self._on_device(name) for name in names)
        args = [self._memory, in_at, in_size, None, out_at, out_size, status, np.uint32(n)]
        self._device.launch(("adler32", "adler32_check"), n, 128, args, self._stream)

    def _nvcomp_work_bytes(self) -> int:
        assert self._nvcomp is not None
        sizes = [e.layout.inflated_bytes for e in self.entries[: self._count["nvcomp"]]]
        return max(self._nvcomp.temp_bytes(len(sizes), max(sizes), sum(sizes)), 1)

    def _on_host(self, name: str) -> NDArray[Any]:
        field = self._fields[name]
        return self._pinned[field.at : field.at + field.size].view(field.dtype)

    def _on_device(self, name: str, first: int = 0) -> Any:
        field = self._fields[name]
        return self._memory[field.at + first * field.dtype.itemsize :]


def _runs(entries: Sequence[Entry], anywhere: range) -> list[Run]:
    """Neighbours in pinned buffers, and the bytes that were received between them.

    Streams of the entries `anywhere` are read from any address by the kernels. nvCOMP and unpacking want
    theirs aligned, so those join a run only where it happens to put them right.
    """
    lying: list[tuple[int, int, int, Pinned]] = []
    for i, entry in enumerate(entries):
        buffer = pinned_under(entry.stored)
        if buffer is not None:
            start = entry.stored.ctypes.data - buffer.ctypes.data
            lying.append((id(buffer), start, i, buffer))
    runs: list[Run] = []
    for _, start, i, buffer in sorted(lying, key=lambda place: place[:3]):
        end, before = start + entries[i].stored.size, entries[i].before
        last = runs[-1] if runs else None
        if last is not None and last.buffer is buffer and start <= last.end + GAP_BYTES:
            aligned = (start + before - last.start - last.before) % tiles.ALIGNMENT == 0
            if aligned or i in anywhere:
                last.end, last.starts[i] = max(last.end, end), start
                continue
        runs.append(Run(buffer, start, end, before, {i: start}))
    return [run for run in runs if run.end - run.start >= STRAIGHT_BYTES]


class _Field(NamedTuple):
    at: int
    dtype: np.dtype[Any]
    size: int


class _Block:
    """Places in a block of memory, one behind the other."""

    def __init__(self) -> None:
        self.fields: dict[str, _Field] = {}
        self._end = 0

    def place(self, size: int, before: int = 0) -> int:
        """Room for `size` bytes, of which those after `before` start at a multiple of 16."""
        at = self._end + (-self._end - before) % tiles.ALIGNMENT
        self._end = at + size
        return at

    def field(self, name: str, dtype: Any, count: int) -> None:
        """Room for an array."""
        kind = np.dtype(dtype)
        size = count * kind.itemsize
        self.fields[name] = _Field(self.place(size), kind, size)
