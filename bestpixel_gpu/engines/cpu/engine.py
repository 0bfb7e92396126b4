"""The CPU engine: Numba kernels on the caller's thread, without the GIL."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import (
    CompressedTile,
    Footprint,
    MaskStatistics,
    MaskTable,
    Pool,
    RankState,
    ScoreRaster,
    Sums,
    Surround,
    TapGeometry,
    TapSource,
    Ticket,
    TileGrid,
    ValueState,
    Window,
)
from bestpixel_gpu.engines.cpu import keys as key_kernels
from bestpixel_gpu.engines.cpu import values
from bestpixel_gpu.engines.cpu.classify import classify
from bestpixel_gpu.engines.cpu.codes import resample
from bestpixel_gpu.engines.cpu.decode import Decoder
from bestpixel_gpu.engines.cpu.memory import default_budget, give_back
from bestpixel_gpu.engines.cpu.owners import owners
from bestpixel_gpu.engines.cpu.paint import CpuPool, paint
from bestpixel_gpu.engines.cpu.rank import rank, statistics
from bestpixel_gpu.engines.cpu.spread import spread
from bestpixel_gpu.engines.cpu.surround import surround
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import PixelMap
from bestpixel_gpu.transfer.buffers import BUFFERS

LARGE_ARRAY = 4 << 20
"""Bytes from which the allocator would mostly ask the system for new pages."""
LARGE_POOL = 64 << 20
"""Bytes of a pool for which freed memory is given back first; below, taking it anew costs more."""


class DoneTicket:
    """A batch that was done when it was asked for."""

    def __init__(self, status: NDArray[np.int8]) -> None:
        self._status = status

    def wait(self) -> NDArray[np.int8]:
        """Status of each tile of the batch."""
        return self._status

    def done(self) -> bool:
        """Always."""
        return True

    def add_done_callback(self, call: Callable[[], object]) -> None:
        """Call at once."""
        call()


class CpuEngine:
    """Fulfils :class:`~bestpixel_gpu.engines.contract.Engine` in ordinary memory.

    Every method does its work on the thread that calls it and returns when it is done; kernels
    run without the GIL, so callers use as many threads as they like, for instance `executor`.

    Parameters
    ----------
    threads : int, optional
        Workers of `executor`; the processors this process may use.
    decoder : Decoder, optional
        Decodes tiles; the fastest of this machine.
    """

    name = "cpu"
    note = ""
    lookahead = 16 << 20

    def __init__(self, threads: int | None = None, decoder: Decoder | None = None) -> None:
        self.threads = self.workers = threads or _usable_processors()
        self._decoder = decoder or Decoder.best()
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Threads for calls to this engine, started when first asked for."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="bestpixel-cpu")
            return self._executor

    def describe(self) -> dict[str, Any]:
        """Nothing: the versions say it."""
        return {}

    def empty(self, shape: tuple[int, ...], dtype: Any, fill: int | None = None) -> NDArray[Any]:
        """NumPy array, filled if asked; the memory of a large one is used again."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < LARGE_ARRAY:
            array = np.empty(shape, dtype)
        else:
            array = np.frombuffer(BUFFERS.take(size), dtype).reshape(shape)
        if fill is not None:
            array[...] = fill
        return array

    def fill(self, array: Any, value: int) -> None:
        """Set every pixel."""
        array[...] = value

    def from_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def pool(self, slot_bytes: int, n_slots: int) -> CpuPool:
        """Room for decoded tiles; its pages are taken when they are first used."""
        if slot_bytes * n_slots >= LARGE_POOL:
            give_back()
        return CpuPool(slot_bytes, n_slots)

    def receive_buffer(self, size: int) -> memoryview:
        """Ordinary memory, used again."""
        return BUFFERS.take(size)

    def load(self, pool: Pool, slots: Sequence[int], tiles: Sequence[CompressedTile]) -> Ticket:
        """Inflate, unpack, undo the predictor and the byte order of each tile into its slot."""
        assert isinstance(pool, CpuPool)
        for slot, tile in zip(slots, tiles, strict=True):
            if not 0 <= slot < pool.n_slots or tile.layout.decoded_bytes > pool.slot_bytes:
                raise ValueError(f"tile {tile.index} does not fit slot {slot} of {pool.n_slots}")
        return DoneTicket(self._decoder.decode(tiles, pool.data, [slot * pool.step for slot in slots]))

    def classify(
        self,
        tiles: Sequence[CompressedTile],
        grid: TileGrid,
        window: Window,
        table: MaskTable,
        *,
        nodata: int,
        grow: int = 0,
    ) -> tuple[ScoreRaster, NDArray[np.int8]]:
        """Decode mask tiles and map them to score codes over `window` of the mask raster."""
        return classify(self._decoder, tiles, grid, window, table, nodata, grow)

    def surround(self, mask: ScoreRaster, rule: Surround) -> None:
        """Change the raster's codes where they are marked, or near marked codes of its window."""
        surround(mask.data, rule)

    def resample(
        self, mask: ScoreRaster, positions: PixelMap, window: Window, *, footprint: Footprint | None = None
    ) -> ScoreRaster:
        """Score codes of a window of the output grid, one for each output pixel."""
        codes = resample(mask, positions, window, footprint)
        return ScoreRaster(window, window[3], window[1], codes)

    def statistics(
        self,
        mask: ScoreRaster,
        positions: PixelMap,
        window: Window,
        chunks: ChunkGrid,
        table: MaskTable,
        *,
        footprint: Footprint | None = None,
        cells: bool = False,
    ) -> MaskStatistics:
        """Count clear and valid output pixels per chunk; `window` starts and ends on chunk edges."""
        return statistics(mask, positions, window, chunks, table, footprint, cells)

    def rank(
        self,
        state: RankState,
        mask: ScoreRaster,
        positions: PixelMap,
        table: MaskTable,
        key_low: int,
        *,
        footprint: Footprint | None = None,
        chunks: ChunkGrid | None = None,
        barred: NDArray[np.bool_] | None = None,
    ) -> None:
        """One scene competes: ``keys = min(keys, scores[code] << 17 | key_low)``; counts grow."""
        rank(state, mask, positions, table, key_low, footprint, chunks, barred)

    def settle(
        self, keys: Any, quality: Any, winners: Any, n_scenes: int, where: Any = None
    ) -> NDArray[np.int64]:
        """Write what keys say, where marked; pixels of each rank, last those without a winner."""
        return key_kernels.settle(keys, quality, winners, n_scenes, where)

    def extra_wins(self, keys: Any, window: Window, chunks: ChunkGrid, n_scenes: int) -> NDArray[np.int64]:
        """Pixels that each unselected scene wins, by chunk."""
        return key_kernels.extra_wins(keys, window, chunks, n_scenes)

    def failed(self, bands: Sequence[Any], winners: Any) -> tuple[Window, Any] | None:
        """Box and marks of the pixels that have a winner and nodata in some band."""
        return key_kernels.failed(bands, winners)

    def keys_of(self, quality: Any, winners: Any, selected: NDArray[np.bool_], where: Any) -> Any:
        """The keys again from the layers, where marked."""
        return key_kernels.keys_of(quality, winners, selected, where)

    def reopen(self, bands: Sequence[Any], winners: Any, where: Any, n_scenes: int) -> NDArray[np.int64]:
        """Nodata into the marked pixels of all bands; counts their winners."""
        return key_kernels.reopen(bands, winners, where, n_scenes)

    def only(self, winners: Any, where: Any) -> Any:
        """A copy of the winners, -1 where not marked."""
        return key_kernels.only(winners, where)

    def rivals(self, keys: Any, own: Any, shift: int) -> Any:
        """Marks where a scene's own key agrees with `keys` above the lowest `shift` bits."""
        return values.rivals(keys, own, shift)

    def rank_values(
        self, best: ValueState, keys: Any, rank: int, low: Any, high: Any, floor: ValueState | None = None
    ) -> None:
        """The values of one scene compete: `best` keeps the observation that comes first."""
        values.rank_values(best, keys, rank, low, high, floor)

    def exhausted(self, keys: Any, best: Any) -> Any | None:
        """The last key of the same score and selection, where `keys` has one and `best` has none."""
        return values.exhausted(keys, best)

    def owners(
        self, window: Window, winners: Any, geometries: Mapping[int, TapGeometry]
    ) -> dict[int, NDArray[np.int64]]:
        """Tiles with a tap of weight > 0 under a pixel that a scene won."""
        return owners(window, winners, geometries)

    def paint(self, target: Any, window: Window, winners: Any, sources: Mapping[int, TapSource]) -> int:
        """Write the winners' samples into `target`; returns how many pixels became nodata."""
        return paint(target, window, winners, sources)

    def spread(
        self, sums: Sums, window: Window, sources: Mapping[int, TapSource], marks: Mapping[int, Any]
    ) -> None:
        """Add the values of some scenes, where they are marked, to the sums of `window`."""
        spread(sums, window, sources, marks)

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array itself."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def budget(self) -> int:
        """Half of the memory that this machine or container has left."""
        return default_budget()

    def close(self) -> None:
        """Stop the executor, if one was started."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=True, cancel_futures=True)
                self._executor = None


def _usable_processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
