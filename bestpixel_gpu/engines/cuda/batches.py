"""One batch of stored tiles on its way through the device: a copy, inflate, unpack, statuses.

Bytes that were received into pinned memory go to the device from there. All others are gathered
behind the batch's descriptions, in a piece of pinned memory near what was received last. What lies
together goes in one copy, mostly all of it. Results come back in one copy behind the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import TILE_CORRUPT, TILE_OK
from bestpixel_gpu.engines.cuda import runs, tiles
from bestpixel_gpu.engines.cuda.device import Device, Event, blocks
from bestpixel_gpu.engines.cuda.nvcomp import HEADER, TRAILER, Nvcomp, strip_zlib
from bestpixel_gpu.engines.cuda.pool import CudaPool
from bestpixel_gpu.engines.cuda.receive import Receiver, slab_of
from bestpixel_gpu.engines.cuda.runs import Piece, Run
from bestpixel_gpu.engines.cuda.share import Turn, Way

BLOCK_RATIO = 6
"""Streams that grow less are decoded by a block of threads at many bits at once, others by a warp."""
STREAMS_PER_BLOCK = 4
"""Warps of ``inflate_streams``, as ``cuda/inflate.cu`` knows it."""
_BLOCK = -1  # among the numbers of a batch's pieces: its descriptions, and what is gathered
_WRAPPED_AND_VERIFIED = np.uint32(3)
COPIERS = 4
"""Threads that fill pinned memory: one alone does not keep up with the device."""
_ONE_COPIER = 4 << 20  # bytes up to which the loader's own thread is as fast


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

    def piece(self, anywhere: bool) -> Piece | None:
        """Where it lies in pinned memory; `anywhere` if it may lie anywhere on the device, too."""
        if slab_of(self.stored) is None:
            return None
        return Piece.of(self.stored, None if anywhere else self.before)


class Lane:
    """A stream and the pinned memory of the batch that is on it.

    Parameters
    ----------
    device : Device
    receiver : Receiver
        Gives the memory while it has room, and gives its own up where the system pins no more.

    Attributes
    ----------
    straight, gathered : int
        Stored bytes that went to the device from where they were received, and by way of this memory.
    batches, copies : int
        What the lane has started, and the copies to the device that it took.
    """

    def __init__(self, device: Device, receiver: Receiver) -> None:
        self.stream = device.stream()
        self.straight = self.gathered = self.batches = self.copies = 0
        self._device, self._receiver = device, receiver
        self._own = np.empty(0, np.uint8)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes; what was in them is lost."""
        near = self._receiver.pinned(size)
        if near is not None:
            return near
        if self._own.size < size:
            self._own = np.empty(0, np.uint8)  # given back before more is asked for
            full = 1 << max(size - 1, 1 << 20).bit_length()
            try:
                self._own = self._device.pinned(full)
            except MemoryError:
                self._receiver.give_way()
                self._own = self._device.pinned(full)
        return self._own[:size]

    def release(self) -> None:
        """Give the memory back; no batch may be on the lane."""
        self._own = np.empty(0, np.uint8)


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
        self._memory = device.empty(self._lay_out(), np.uint8, lane.stream)
        self._start = device.address(self._memory)
        self._event: Event | None = None
        self._marks: list[Event] = []

    def _lay_out(self) -> int:
        """Give everything its place; how many bytes of device memory that takes."""
        entries, n, k = self.entries, self._streams, self._count["nvcomp"]
        straight = runs.worth_a_copy(
            {i: piece for i, e in enumerate(entries) if (piece := e.piece(anywhere=k <= i < n))}
        )
        self._lay_out_block([i for i in range(len(entries)) if i not in straight])
        pieces = straight | {_BLOCK: Piece.of(self._block)}
        self._runs = sorted(runs.joined(pieces), key=lambda run: _BLOCK in run.pieces)  # the block's is last
        memory = _Places()
        at: dict[int, int] = {}
        for run in self._runs:
            place = memory.place(run.end - run.start, 0 if run.aligned is None else run.aligned - run.start)
            at |= {i: place + pieces[i].start - run.start for i in run.pieces}
            run.at = place
        self._block_at = at[_BLOCK]
        at |= {i: self._block_at + place for i, place in self._gathered.items()}
        self._stored = [at[i] for i in range(len(entries))]
        self._inflated = [
            memory.place(e.layout.inflated_bytes) if not e.layout.in_place else None for e in entries[:n]
        ]
        self._work_bytes = self._nvcomp_work_bytes() if k else 0
        self._work = memory.place(self._work_bytes)
        return memory.place(0)

    def _lay_out_block(self, gathered: list[int]) -> None:
        """Take pinned memory for descriptions, for what does not go straight, and for results."""
        entries, n, k = self.entries, self._streams, self._count["nvcomp"]
        self._undone = [i for i, e in enumerate(entries) if i >= n or not tiles.is_native(e.layout)]
        block = _Places()
        for name in ("in_at", "out_at"):
            block.field(name, np.uint64, n)
        for name in ("in_size", "out_size"):
            block.field(name, np.uint32, n)
        for name in ("payload", "payload_size", "room"):
            block.field(name, np.uint64, k)
        block.field("tiles", np.int64, len(self._undone) * len(tiles.Tile._fields))
        self._gathered = {i: block.place(entries[i].stored.size, entries[i].before) for i in gathered}
        results = block.place(0)
        block.field("status", np.int32, n)
        block.field("written", np.uint32, n)
        block.field("written_nvcomp", np.uint64, k)
        self._results = slice(results, block.place(0))
        self._fields = block.fields
        self._block = self._lane.pinned(self._results.stop)

    def start(self, copiers: Executor) -> None:
        """Fill the pinned memory and ask for all the work; returns before it is done."""
        device, stream = self._device, self._stream
        for run in self._runs[:-1]:  # on their way while the last one's block is filled
            self._copy(run)
        self._describe()
        self._gather(copiers)
        self._copy(self._runs[-1])
        pools = {id(e.pool): e.pool for e in self.entries}.values()
        for pool in pools:
            stream.wait_for(pool.read)
        self._inflate()
        wanted = [e.inside or (e.layout.height, 0) for e in (self.entries[i] for i in self._undone)]
        rows = max((rows for rows, _ in wanted), default=0)
        tiles.undo(device, self._on_device("tiles"), len(self._undone), rows, stream)
        results = self._on_device("status")[: self._results.stop - self._results.start]
        device.copy_out(self._block[self._results], results, stream)
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

    def _copy(self, run: Run) -> None:
        target = self._memory[run.at : run.at + run.end - run.start]
        self._device.copy_in(target, run.memory[run.start : run.end], self._stream)

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
        places = list(self._gathered.items())

        def copy(part: slice) -> None:
            for i, at in places[part]:
                stored = self.entries[i].stored
                self._block[at : at + stored.size] = stored

        gathered = sum(self.entries[i].stored.size for i, _ in places)
        lane = self._lane
        lane.gathered += gathered
        lane.straight += sum(e.stored.size for e in self.entries) - gathered
        lane.batches += 1
        lane.copies += len(self._runs)
        if gathered < _ONE_COPIER:
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
        nvcomp, start = self._nvcomp, self._start + self._block_at
        at = {name: start + field.at for name, field in self._fields.items()}

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
        return self._block[field.at : field.at + field.size].view(field.dtype)

    def _on_device(self, name: str, first: int = 0) -> Any:
        field = self._fields[name]
        return self._memory[self._block_at + field.at + first * field.dtype.itemsize :]


class _Field(NamedTuple):
    at: int
    dtype: np.dtype[Any]
    size: int


class _Places:
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
