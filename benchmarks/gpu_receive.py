"""What pinned receive buffers are worth: composites whose tiles are received first, both ways.

In place of a network a copy puts neighbouring tiles into a buffer that the engine gives, as many at once
as a reader asks for in one request, with no more under way than a run allows. Both ways pay for that
copy. From ordinary memory the engine then gathers the tiles; from pinned memory the device takes them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gpu_path
import numpy as np
import stack
from gpu_bench import Bench
from numpy.typing import NDArray
from stack import Stack

from bestpixel_gpu.engines.contract import CompressedTile, Engine, Pool, Ticket
from bestpixel_gpu.engines.cuda.receive import RECEIVE_BYTES
from bestpixel_gpu.transfer.ranges import GROUP_BYTES

WAYS = {"gathered": 0, "straight": RECEIVE_BYTES}
"""Bytes that the engine may pin."""
UNDER_WAY = 128 << 20
"""Stored bytes of one caller that wait to be decoded; two callers load at once."""


class Tickets:
    """Several promises as one."""

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        self._tickets = tickets

    def wait(self) -> NDArray[np.int8]:
        """Status of each tile."""
        return np.concatenate([ticket.wait() for ticket in self._tickets])


class Receiving:
    """An engine whose tiles are received before it gets them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def classify(self, tiles: Sequence[CompressedTile], *args: Any, **options: Any) -> Any:
        """Of tiles that are received together."""
        return self._engine.classify(received(self._engine, tiles), *args, **options)

    def load(self, pool: Pool, slots: Sequence[int], tiles: Sequence[CompressedTile]) -> Tickets:
        """One request after the other."""
        tickets: list[Ticket] = []
        under_way: deque[tuple[Ticket, int]] = deque()
        for part in requests(tiles):
            ticket = self._engine.load(pool, slots[part], received(self._engine, tiles[part]))
            tickets.append(ticket)
            under_way.append((ticket, stored_bytes(tiles[part])))
            while sum(size for _, size in under_way) > UNDER_WAY:
                under_way.popleft()[0].wait()
        return Tickets(tickets)


def stored_bytes(tiles: Sequence[CompressedTile]) -> int:
    """Of all tiles."""
    return sum(len(tile.data or b"") for tile in tiles)


def requests(tiles: Sequence[CompressedTile]) -> Iterator[slice]:
    """Neighbours that a reader asks for together."""
    first = size = 0
    for i in range(len(tiles)):
        more = stored_bytes(tiles[i : i + 1])
        if size and size + more > GROUP_BYTES:
            yield slice(first, i)
            first, size = i, 0
        size += more
    yield slice(first, len(tiles))


def received(engine: Engine, tiles: Sequence[CompressedTile]) -> list[CompressedTile]:
    """The tiles again, beside each other in a buffer of the engine's."""
    buffer, at, out = engine.receive_buffer(stored_bytes(tiles)), 0, []
    for tile in tiles:
        data = tile.data or b""
        part = buffer[at : at + len(data)]
        part[:] = data
        out.append(replace(tile, data=part.toreadonly()))
        at += len(data)
    return out


def measure(bench: Bench, given: Stack, repeats: int) -> dict[str, Any]:
    """Seconds, processor seconds, bytes and copies of each way; the first composite pins what others use."""
    found: dict[str, Any] = {}
    for way, cap in WAYS.items():
        engine = bench.engine(receive_bytes=cap)
        receiving: Any = Receiving(engine)
        start = time.perf_counter()
        sums = stack.checksums(engine, gpu_path.on_device(receiving, given))
        first, processor = time.perf_counter() - start, time.process_time()
        taken = gpu_path.wall(lambda receiving=receiving: gpu_path.on_device(receiving, given), repeats)
        processor = (time.process_time() - processor) / len(taken)
        facts = engine.describe()
        engine.close()
        seconds = {"first": first, "seconds": float(np.median(taken)), "processor_seconds": processor}
        found[way] = {
            **(dict.fromkeys(seconds) if bench.emulated else seconds), "repeats": len(taken),
            **{name: facts[name] for name in ("straight_bytes", "gathered_bytes", "batches", "copies")},
            "checksums": sums,
        }  # fmt: skip
    return found
