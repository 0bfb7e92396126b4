"""One batch of stored tiles on its way through the device: a copy, inflate, unpack, statuses.

Everything a batch needs lies in one block of pinned memory and goes to the device in one copy:
descriptions first, then the tiles' bytes. Results come back in one copy behind the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import TILE_CORRUPT, TILE_OK
from bestpixel_gpu.engines.cuda import tiles
from bestpixel_gpu.engines.cuda.device import Device, Event, blocks
from bestpixel_gpu.engines.cuda.nvcomp import HEADER, TRAILER, Nvcomp, strip_zlib
from bestpixel_gpu.engines.cuda.pool import CudaPool

Way = Literal["raw", "nvcomp", "block", "warp"]

BLOCK_RATIO = 6
"""Streams that grow less are decoded by a block of threads at many bits at once, others by a warp."""
STREAMS_PER_BLOCK = 4
"""Warps of ``inflate_streams``, as ``cuda/inflate.cu`` knows it."""
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
        Its bytes as they were read; a zlib stream, or samples where the codec is ``"none"``.
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


class Lane:
    """A stream and the pinned memory of the batch that is on it."""

    def __init__(self, device: Device) -> None:
        self.stream = device.stream()
        self._device = device
        self._pinned = np.empty(0, np.uint8)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes; what was in them is lost."""
        if self._pinned.size < size:
            self._pinned = np.empty(0, np.uint8)  # given back before more is asked for
            self._pinned = self._device.pinned(1 << max(size - 1, 1 << 20).bit_length())
        return self._pinned[:size]


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
        self._device, self._stream, self._nvcomp = device, lane.stream, nvcomp
        self._lay_out()
        self._pinned = lane.pinned(self._copied_back.stop)
        self._memory = device.empty(self._size, np.uint8, lane.stream)
        self._start = device.address(self._memory)
        self._event: Event | None = None

    def _lay_out(self) -> None:
        """Give everything its place: descriptions and stored bytes, results, what is inflated."""
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
        self._stored = [
            block.place(e.stored.size, HEADER if e.layout.codec == "deflate" else 0) for e in entries
        ]
        self._copied_in = slice(0, block.place(0))
        block.field("status", np.int32, n)
        block.field("written", np.uint32, n)
        block.field("written_nvcomp", np.uint64, k)
        self._copied_back = slice(self._copied_in.stop, block.place(0))
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
        self._describe()
        self._copy_stored(copiers)
        pools = {id(e.pool): e.pool for e in self.entries}.values()
        for pool in pools:
            stream.wait_for(pool.read)
        device.copy_in(self._memory[self._copied_in], self._pinned[self._copied_in], stream)
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

    def _copy_stored(self, copiers: Executor) -> None:
        def copy(part: slice) -> None:
            for entry, at in zip(self.entries[part], self._stored[part], strict=True):
                self._pinned[at : at + entry.stored.size] = entry.stored

        if self._copied_in.stop < _ONE_COPIER:
            copy(slice(None))
        else:
            list(copiers.map(copy, (slice(i, None, COPIERS) for i in range(COPIERS))))

    def _inflate(self) -> None:
        first = self._count["nvcomp"]
        if first:
            self._inflate_by_nvcomp(first)
        if n := self._count["block"]:
            self._launch(("inflate_parallel", "inflate_streams_parallel"), n, first, n)
        first += n
        if n := self._count["warp"]:
            self._launch(("inflate", "inflate_streams"), blocks(n, STREAMS_PER_BLOCK), first, n)

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
