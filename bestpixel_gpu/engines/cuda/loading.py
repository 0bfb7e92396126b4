"""Loading: what many callers ask for goes to the device in batches of the loader's own thread.

With nothing under way a batch starts at once with what there is; while one is, requests pile up and
go together. Two batches are on the device at a time, each on a stream of its own, so the next one's
copy and its first streams run beside the last ones of the one before; the loader waits for a batch
only when the next has started. Streams that the host inflates sooner (`share.py`) are inflated by threads
of their own and come back as samples, to go with a later batch.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import TILE_CORRUPT, TILE_OK, CompressedTile
from bestpixel_gpu.engines.cpu.inflate import python_inflate
from bestpixel_gpu.engines.cuda import tiles
from bestpixel_gpu.engines.cuda.batches import COPIERS, Batch, Entry, Lane
from bestpixel_gpu.engines.cuda.device import Device
from bestpixel_gpu.engines.cuda.nvcomp import Nvcomp
from bestpixel_gpu.engines.cuda.pool import CudaPool
from bestpixel_gpu.engines.cuda.receive import Receiver
from bestpixel_gpu.engines.cuda.share import Share, Way
from bestpixel_gpu.errors import DeviceError

STORED_BYTES = 128 << 20
"""Most stored bytes of a batch: pinned memory, twice."""
INFLATED_BYTES = 256 << 20
"""Most decoded bytes of a batch. 500 tiles of 512 x 512 uint16; two batches fill an H200."""
GATHER_SECONDS = 0.0
"""How long the first batch after a rest waits for more. Not at all: what comes while it is being made goes
with the second lane, and a run that waits for the network would pay at every rest."""


class LoadTicket:
    """The promise of the tiles of one call.

    Attributes
    ----------
    ended : threading.Event
        Set when every status is known, or none will come.
    """

    def __init__(self, n: int) -> None:
        self._status = np.full(n, TILE_CORRUPT, np.int8)
        self._left = n
        self._error: BaseException | None = None
        self.ended = threading.Event()
        self._calls: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        if not n:
            self.ended.set()

    def wait(self) -> NDArray[np.int8]:
        """Status of each tile of the call.

        Raises
        ------
        DeviceError, MemoryError
            What kept the device from decoding them.
        """
        self.ended.wait()
        if self._error is not None:
            raise self._error
        return self._status

    def done(self) -> bool:
        """Whether `wait` would return at once."""
        return self.ended.is_set()

    def add_done_callback(self, call: Callable[[], object]) -> None:
        """Call when it is done, on the loader's thread; at once if it is."""
        with self._lock:
            if not self.ended.is_set():
                self._calls.append(call)
                return
        call()

    def settle(self, place: int, status: int) -> None:
        """The status of one tile."""
        with self._lock:
            self._status[place] = status
            self._left -= 1
            if self._left:
                return
        self._end(None)

    def fail(self, error: BaseException) -> None:
        """No status will come any more."""
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if self.ended.is_set():
                return
            self._error = error
            self.ended.set()
            calls, self._calls = self._calls, []
        for call in calls:
            with suppress(Exception):  # a caller's error, such as a closed event loop, is not the loader's
                call()


class Loader:
    """Decodes tiles into slots.

    Parameters
    ----------
    device : Device
    nvcomp : Nvcomp, optional
        Inflates what looks like a zlib stream; what it refuses, and what fails its checksum, is
        inflated again by the kernels. Without it they inflate everything.
    stored_bytes, inflated_bytes : int
        Bounds of a batch; halved when memory runs out.
    gather : float
        Seconds that the first batch after a rest waits for more.
    share : Share, optional
        Who divides the streams between device and host; one that learns, with half of the processors.
    receiver : Receiver, optional
        Gives pinned memory; one of its own that has none for bodies.
    """

    def __init__(
        self,
        device: Device,
        nvcomp: Nvcomp | None = None,
        *,
        stored_bytes: int = STORED_BYTES,
        inflated_bytes: int = INFLATED_BYTES,
        gather: float = GATHER_SECONDS,
        share: Share | None = None,
        receiver: Receiver | None = None,
    ) -> None:
        self._device, self._nvcomp = device, nvcomp
        self._stored_bytes, self._inflated_bytes = stored_bytes, inflated_bytes
        self._gather = gather
        self.share = share or Share(_host_workers())
        receiver = receiver or Receiver(device, 0)
        self.lanes = [Lane(device, receiver), Lane(device, receiver)]
        self._waiting: deque[Entry] = deque()
        self._open: set[LoadTicket] = set()
        self._changed = threading.Condition()
        self._broken: BaseException | None = None
        self._thread: threading.Thread | None = None

    def load(self, pool: CudaPool, slots: Sequence[int], given: Sequence[CompressedTile]) -> LoadTicket:
        """Ask for tiles in slots; returns at once.

        Raises
        ------
        FormatError
            If a layout is not one the kernels unpack.
        DeviceError
            If the device was lost, or the loader closed.
        """
        ticket = LoadTicket(len(given))
        entries = [
            _entry(tile, pool, slot, ticket, place)
            for place, (slot, tile) in enumerate(zip(slots, given, strict=True))
        ]
        with self._changed:
            if self._broken is not None:
                raise self._broken
            if self._thread is None or not self._thread.is_alive():  # a forked child's is not
                self._thread = threading.Thread(target=self._run, name="bestpixel-load", daemon=True)
                self._thread.start()
            if entries:
                self._open.add(ticket)
            self._waiting += (e for e in entries if _may_fit(e))
            self._changed.notify()
        for entry in entries:
            if not _may_fit(entry):
                self._settle(entry, TILE_CORRUPT)
        return ticket

    @property
    def broken(self) -> bool:
        """Whether nothing can be loaded any more."""
        return self._broken is not None

    def wait(self) -> None:
        """Wait until everything that was asked for has ended, well or not."""
        with self._changed:
            tickets = list(self._open)
        for ticket in tickets:
            ticket.ended.wait()

    def close(self) -> None:
        """End the thread. What is on the device is finished; what still waits fails."""
        with self._changed:
            if self._broken is None:
                self._broken = DeviceError("the engine was closed")
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        running: Batch | None = None
        began_alone = False
        try:
            lanes = cycle(self.lanes)
            with (
                ThreadPoolExecutor(COPIERS, thread_name_prefix="bestpixel-copy") as copiers,
                ThreadPoolExecutor(self.share.workers, thread_name_prefix="bestpixel-host") as hosts,
            ):
                while (entries := self._take(rest=running is None)) is not None:
                    entries = self._divide(entries, hosts)
                    alone = running is None
                    started = self._begin(entries, next(lanes), copiers, alone)
                    if running is not None:
                        self._end(running, hosts, began_alone and started is None)
                    running, began_alone = started, alone
        except BaseException as error:  # whatever it is, nobody may wait for ever
            self._broken = self._broken or error
        with self._changed:
            abandoned, self._open = self._open, set()
            self._waiting.clear()
        for ticket in abandoned:
            ticket.fail(self._broken or DeviceError("the engine was closed"))

    def _take(self, rest: bool) -> list[Entry] | None:
        """What waits, as much as a batch may hold; waits for it at `rest`. ``None`` when there is an end."""
        with self._changed:
            if rest:
                self._changed.wait_for(lambda: self._waiting or self._broken)
                self._changed.wait_for(lambda: self._broken, self._gather)
            if self._broken is not None:
                return None if rest else []
            stored = inflated = 0
            taken: list[Entry] = []
            while self._waiting:
                stored += self._waiting[0].stored.size
                inflated += self._waiting[0].layout.inflated_bytes
                if taken and (stored > self._stored_bytes or inflated > self._inflated_bytes):
                    break
                taken.append(self._waiting.popleft())
            return taken

    def _begin(self, entries: list[Entry], lane: Lane, copiers: Executor, alone: bool) -> Batch | None:
        """A batch on its way; ``None`` where there was nothing to do, or too little memory for it."""
        if not entries:
            return None
        try:
            batch = Batch(self._device, lane, entries, self._nvcomp)
            batch.start(copiers)
        except MemoryError as error:
            lane.stream.record().wait()  # what has begun must not meet the next attempt, nor others its memory
            if alone and len(entries) == 1:
                entries[0].sink.fail(error.with_traceback(None))  # whose frames would keep the pool
                self._forget(entries[0].sink)
                return None
            if alone:
                self._inflated_bytes = sum(e.layout.inflated_bytes for e in entries) // 2
            self._put_back(entries)  # the memory of the batch that is running may do
            return None
        return batch

    def _end(self, batch: Batch, hosts: Executor, alone: bool) -> None:
        """Tell how a batch went, but for tiles that the kernels are to try after nvCOMP."""
        again, statuses = [], batch.finish()
        for turn in batch.turns():
            self.share.device_ended(turn, alone)
            if self.share.due(turn.way):
                one = next(e for e in reversed(batch.entries) if e.way(self._nvcomp) == turn.way)
                hosts.submit(self._look_at_host, one, turn.way)
        for i, (entry, status) in enumerate(zip(batch.entries, statuses, strict=True)):
            if status != TILE_OK and batch.used_nvcomp(i):
                again.append(replace(entry, safe=True))
            else:
                self._settle(entry, int(status))
        self._put_back(again)

    def _divide(self, entries: list[Entry], hosts: Executor) -> list[Entry]:
        """What the device is to do; threads of the host begin with the rest."""
        streams = [e for e in entries if e.layout.codec != "none"]
        chosen = self.share.for_host([(e.way(self._nvcomp), e.layout.inflated_bytes) for e in streams])
        for n in range(self.share.workers):
            if part := [streams[i] for i in chosen[n :: self.share.workers]]:
                hosts.submit(self._inflate_on_host, part)
        theirs = {id(streams[i]) for i in chosen}
        return [e for e in entries if id(e) not in theirs]

    def _inflate_on_host(self, entries: list[Entry]) -> None:
        """Give streams back as samples; on a thread of the host."""
        inflated = []
        for entry in entries:
            way, size = entry.way(self._nvcomp), entry.layout.inflated_bytes
            try:
                raw, seconds = _inflate(entry)
            except BaseException as error:  # whatever it is, nobody may wait for ever
                entry.sink.fail(error)
                self._forget(entry.sink)
                continue
            finally:
                self.share.host_ended(way, size)
            if raw is None:
                self._settle(entry, TILE_CORRUPT)
            else:
                self.share.host_saw(way, size, seconds)
                layout = replace(entry.layout, codec="none")
                inflated.append(replace(entry, stored=np.frombuffer(raw, np.uint8), layout=layout))
        self._put_back(inflated)

    def _look_at_host(self, entry: Entry, way: Way) -> None:
        """Time a stream that the device has done; the first time may load what inflates, or compile it."""
        if _inflate(entry)[0] is not None:
            self.share.host_saw(way, entry.layout.inflated_bytes, _inflate(entry)[1])

    def _put_back(self, entries: list[Entry]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed(entries))
            self._changed.notify()

    def _settle(self, entry: Entry, status: int) -> None:
        entry.sink.settle(entry.place, status)
        if entry.sink.done():
            self._forget(entry.sink)

    def _forget(self, ticket: LoadTicket) -> None:
        with self._changed:
            self._open.discard(ticket)


def _entry(tile: CompressedTile, pool: CudaPool, slot: int, ticket: LoadTicket, place: int) -> Entry:
    layout = tile.layout
    tiles.describe(layout, 0, 0, tile.inside)  # whatever is wrong, the caller is told and not the loader
    if not 0 <= slot < pool.n_slots or layout.decoded_bytes > pool.slot_bytes:
        raise ValueError(f"tile {tile.index} does not fit slot {slot} of {pool.n_slots}")
    assert tile.data is not None
    return Entry(np.frombuffer(tile.data, np.uint8), layout, tile.inside, pool, slot, ticket, place)


def _inflate(entry: Entry) -> tuple[bytes | bytearray | NDArray[np.uint8] | None, float]:
    """What a stream holds, ``None`` where it is damaged, and the seconds it took."""
    start = time.perf_counter()
    raw = python_inflate()(entry.stored.data, entry.layout.inflated_bytes)
    return raw, time.perf_counter() - start


def _host_workers() -> int:
    """Half of the processors that this process may use; the others read and give orders."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n // 2)


def _may_fit(entry: Entry) -> bool:
    """Samples as they are must be exactly the layout's bytes."""
    return entry.layout.codec != "none" or entry.stored.size == entry.layout.inflated_bytes
