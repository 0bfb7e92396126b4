"""The CUDA engine: kernels on a device, one stream for the work and two more for loading."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    TileGrid,
    ValueState,
    Window,
)
from bestpixel_gpu.engines.cuda import keys as key_kernels
from bestpixel_gpu.engines.cuda import masks, values
from bestpixel_gpu.engines.cuda.device import Device
from bestpixel_gpu.engines.cuda.loading import (
    GATHER_SECONDS,
    INFLATED_BYTES,
    STORED_BYTES,
    Loader,
    LoadTicket,
)
from bestpixel_gpu.engines.cuda.nvcomp import Nvcomp
from bestpixel_gpu.engines.cuda.owners import owners
from bestpixel_gpu.engines.cuda.paint import failures, start_painting
from bestpixel_gpu.engines.cuda.pool import CudaPool
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.receive import RECEIVE_BYTES, Receiver
from bestpixel_gpu.engines.cuda.share import Share
from bestpixel_gpu.engines.cuda.spread import spread
from bestpixel_gpu.engines.cuda.surround import surround
from bestpixel_gpu.engines.cuda.tables import Tables
from bestpixel_gpu.engines.cuda.toa import correct_toa
from bestpixel_gpu.errors import DeviceError, InputError
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import PixelMap

WORKERS = 32
"""Calls at once: they wait for the device, and those that load go there together."""
LOOKAHEAD_BYTES = 512 << 20
"""Two batches. A guess until it is measured."""
_IN_A_BATCH = 16
"""Batches inflate at most one part in this many of the free memory, twice; see `CudaEngine.budget`."""


def open_engine(index: int = 0, inflate: str = "auto") -> CudaEngine:
    """Engine of a CUDA device.

    Parameters
    ----------
    index : int
        Number of the device among those the process sees.
    inflate : {"auto", "nvcomp", "safe"}
        ``"safe"``: the package's kernels. ``"nvcomp"``: nvCOMP, and the kernels for what it
        refuses. ``"auto"``: nvCOMP where it is installed and the device decompresses in hardware.

    Raises
    ------
    InputError
        If there is no such way to inflate.
    DeviceError
        If the device, or an nvCOMP that was asked for, cannot be used.
    """
    from bestpixel_gpu.engines.cuda.cupy_device import CupyDevice

    if inflate not in ("auto", "nvcomp", "safe"):
        raise InputError(f"inflate={inflate!r}: expected 'auto', 'nvcomp' or 'safe'")
    device = CupyDevice(index)
    nvcomp, note = None, ""
    if inflate == "nvcomp" or (inflate == "auto" and device.inflates_in_hardware):
        try:
            nvcomp = Nvcomp.load(driver=device.driver)
        except DeviceError as error:
            if inflate == "nvcomp":
                raise
            note = f"{device.name} does not use its decompression engine: {error}"
    engine = CudaEngine(device, nvcomp)
    engine.note = note
    return engine


_kept: dict[tuple[int, int, str], CudaEngine] = {}
_keeping = threading.Lock()


def kept_engine(index: int = 0, inflate: str = "auto") -> CudaEngine:
    """:func:`open_engine`, once for each process, device and way to inflate, and again after a loss.

    Compiled kernels, pinned memory and the allocator's pool serve the next run too. An engine that
    broke is given up: the next one works, or says why the device cannot be used.
    """
    key = os.getpid(), index, inflate
    with _keeping:
        if key in _kept and not _kept[key].works():
            broken = _kept.pop(key)
            broken.kept = False
            broken.close()
        if key not in _kept:
            _kept[key] = open_engine(index, inflate)
            _kept[key].kept = True
        return _kept[key]


def release_memory() -> None:
    """Give back the device memory that this process keeps for its next run."""
    for (process, *_), engine in list(_kept.items()):
        if process == os.getpid():
            engine.release_memory()


class CudaEngine:
    """Fulfils :class:`~bestpixel_gpu.engines.contract.Engine` on a CUDA device.

    Methods ask for work on the device's main stream and return, those with an answer when it is
    there. What they return lies in device memory: CuPy arrays.

    Parameters
    ----------
    device : Device
    nvcomp : Nvcomp, optional
        Inflates instead of the kernels, which inflate again what it refuses.
    gather, share
        As for :class:`~bestpixel_gpu.engines.cuda.loading.Loader`.
    receive_bytes : int
        Most bytes of pinned memory for bodies; 0 has all of them received into ordinary memory.
    """

    def __init__(
        self,
        device: Device,
        nvcomp: Nvcomp | None = None,
        *,
        gather: float = GATHER_SECONDS,
        share: Share | None = None,
        receive_bytes: int = RECEIVE_BYTES,
    ) -> None:
        self.name, self.note = device.name, ""
        self.workers, self.lookahead = WORKERS, LOOKAHEAD_BYTES
        self.kept = False
        self._device, self._nvcomp = device, nvcomp
        free, _ = device.memory()
        self._receiver = Receiver(device, receive_bytes)
        self._loader = Loader(
            device,
            nvcomp,
            stored_bytes=min(STORED_BYTES, free // (2 * _IN_A_BATCH)),
            inflated_bytes=min(INFLATED_BYTES, free // _IN_A_BATCH),
            gather=gather,
            share=share,
            receiver=self._receiver,
        )
        self._maps, self._tables = Maps(device), Tables(device)

    def empty(self, shape: tuple[int, ...], dtype: Any, fill: int | None = None) -> Any:
        """Device array, filled if asked."""
        made = self._device.empty(shape, dtype)
        if fill is not None:
            self._device.fill(made, fill)
        return made

    def fill(self, array: Any, value: int) -> None:
        """Set every pixel."""
        self._device.fill(array, value)

    def from_host(self, array: NDArray[Any]) -> Any:
        """Device array with the same content."""
        return self._device.upload(array)

    def to_host(self, array: Any) -> NDArray[Any]:
        """Copy in ordinary memory."""
        return self._device.download(array)

    def pool(self, slot_bytes: int, n_slots: int) -> CudaPool:
        """Room for decoded tiles."""
        return CudaPool(self._device, slot_bytes, n_slots)

    def receive_buffer(self, size: int) -> memoryview:
        """Writable bytes for a body, pinned if there is room: tiles in them go straight to the device."""
        return self._receiver.take(size)

    def load(self, pool: Pool, slots: Sequence[int], tiles: Sequence[CompressedTile]) -> LoadTicket:
        """Inflate and unpack each tile into its slot, together with what other callers ask for."""
        assert isinstance(pool, CudaPool)
        return self._loader.load(pool, slots, tiles)

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
        stored = [i for i, tile in enumerate(tiles) if tile.data is not None]
        size = max((tiles[i].layout.decoded_bytes for i in stored), default=0)
        pool = CudaPool(self._device, size, len(stored))
        status = np.zeros(len(tiles), np.int8)
        status[stored] = self.load(pool, range(len(stored)), [tiles[i] for i in stored]).wait()
        addresses: dict[int, int | None] = {i: None for i, tile in enumerate(tiles) if tile.data is None}
        addresses |= {i: pool.address(slot) for slot, i in enumerate(stored) if not status[i]}
        decoded = [masks.DecodedTile(tiles[i].index, tiles[i].layout, at) for i, at in addresses.items()]
        raster = masks.classify(self._device, self._tables, decoded, grid, window, table, nodata, grow)
        return raster, status

    def surround(self, mask: ScoreRaster, rule: Surround) -> None:
        """Change the raster's codes where they are marked, or near marked codes of its window."""
        surround(self._device, mask.data, rule)

    def resample(
        self, mask: ScoreRaster, positions: PixelMap, window: Window, *, footprint: Footprint | None = None
    ) -> ScoreRaster:
        """Score codes of a window of the output grid, one for each output pixel."""
        return masks.resample(self._device, self._maps, mask, positions, window, footprint)

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
        device, maps, tables = self._device, self._maps, self._tables
        return masks.statistics(
            device, maps, tables, mask, positions, window, chunks, table, footprint, cells
        )

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
        device, maps, tables = self._device, self._maps, self._tables
        key_kernels.rank(
            device, maps, tables, state, mask, positions, table, key_low, footprint, chunks, barred
        )

    def settle(
        self, keys: Any, quality: Any, winners: Any, n_scenes: int, where: Any = None
    ) -> NDArray[np.int64]:
        """Write what keys say, where marked; pixels of each rank, last those without a winner."""
        return key_kernels.settle(self._device, keys, quality, winners, n_scenes, where)

    def extra_wins(self, keys: Any, window: Window, chunks: ChunkGrid, n_scenes: int) -> NDArray[np.int64]:
        """Pixels that each unselected scene wins, by chunk."""
        return key_kernels.extra_wins(self._device, self._tables, keys, window, chunks, n_scenes)

    def failed(self, bands: Sequence[Any], winners: Any) -> tuple[Window, Any] | None:
        """Box and marks of the pixels that have a winner and nodata in some band."""
        return key_kernels.failed(self._device, bands, winners)

    def keys_of(self, quality: Any, winners: Any, selected: NDArray[np.bool_], where: Any) -> Any:
        """The keys again from the layers, where marked."""
        return key_kernels.keys_of(self._device, quality, winners, selected, where)

    def reopen(self, bands: Sequence[Any], winners: Any, where: Any, n_scenes: int) -> NDArray[np.int64]:
        """Nodata into the marked pixels of all bands; counts their winners."""
        return key_kernels.reopen(self._device, bands, winners, where, n_scenes)

    def only(self, winners: Any, where: Any) -> Any:
        """A copy of the winners, -1 where not marked."""
        return key_kernels.only(self._device, winners, where)

    def rivals(self, keys: Any, own: Any, shift: int) -> Any:
        """Marks where a scene's own key agrees with `keys` above the lowest `shift` bits."""
        return values.rivals(self._device, keys, own, shift)

    def rank_values(
        self, best: ValueState, keys: Any, rank: int, low: Any, high: Any, floor: ValueState | None = None
    ) -> None:
        """The values of one scene compete: `best` keeps the observation that comes first."""
        values.rank_values(self._device, best, keys, rank, low, high, floor)

    def exhausted(self, keys: Any, best: Any) -> Any | None:
        """The last key of the same score and selection, where `keys` has one and `best` has none."""
        return values.exhausted(self._device, keys, best)

    def owners(
        self, window: Window, winners: Any, geometries: Mapping[int, TapGeometry]
    ) -> dict[int, NDArray[np.int64]]:
        """Tiles with a tap of weight > 0 under a pixel that a scene won."""
        return owners(self._device, self._maps, window, winners, geometries)

    def paint(self, target: Any, window: Window, winners: Any, sources: Mapping[int, TapSource]) -> int:
        """Write the winners' samples into `target`; returns how many pixels became nodata."""
        with _reading(sources):
            count = start_painting(self._device, self._maps, target, window, winners, sources)
        return failures(self._device, count)

    def spread(
        self, sums: Sums, window: Window, sources: Mapping[int, TapSource], marks: Mapping[int, Any]
    ) -> None:
        """Add the values of some scenes, where they are marked, to the sums of `window`."""
        with _reading(sources):
            spread(self._device, self._maps, sums, window, sources, marks)

    def correct_toa(self, toa: Any, coefficients: NDArray[np.float32]) -> Any:
        """Surface reflectance of a CuPy array; see :func:`bestpixel_gpu.correct_toa`."""
        out = correct_toa(self._device, toa, coefficients)
        self._device.synchronize()  # whoever asked for it works on another stream
        return out

    def synchronize(self) -> None:
        """Wait until the device has done everything, loads that nobody waited for included."""
        self._loader.wait()
        self._device.synchronize()

    def budget(self) -> int:
        """Three quarters of the device memory that is free; batches under way take from the rest."""
        return self._device.memory()[0] // 4 * 3

    def works(self) -> bool:
        """Whether the device still answers and tiles can be loaded."""
        try:
            self._device.memory()
        except DeviceError:
            return False
        return not self._loader.broken

    def release_memory(self) -> None:
        """Give back what is only kept for later; nobody may be asking for work meanwhile."""
        self._maps.clear()
        self._tables.clear()
        self._receiver.clear()
        for lane in self._loader.lanes:
            lane.release()
        self._device.release_memory()

    def describe(self) -> dict[str, Any]:
        """Device, driver, versions, who inflated how much, and the rates by which that was divided.

        Of the stored bytes that went to the device, some went straight from where they were received,
        the others were gathered first; `copies` took all of them there, in `batches`.
        """
        inflate, share = str(self._nvcomp) if self._nvcomp is not None else "kernels", self._loader.share
        lanes = self._loader.lanes
        ways = {
            "straight_bytes": sum(lane.straight for lane in lanes),
            "gathered_bytes": sum(lane.gathered for lane in lanes),
            "batches": sum(lane.batches for lane in lanes),
            "copies": sum(lane.copies for lane in lanes),
        }
        return {**self._device.describe(), "inflate": inflate, **share.counts, **ways, "gb_s": share.rates()}

    def close(self) -> None:
        """End the loader's thread and give back memory, as far as a device that is lost allows.

        An engine that is kept for the next run (:func:`kept_engine`) stays as it is.
        """
        if self.kept:
            return
        self._loader.close()
        with suppress(DeviceError):
            self.release_memory()


@contextmanager
def _reading(sources: Mapping[int, TapSource]) -> Iterator[None]:
    """Work on the main stream that reads the slots of some sources: after their loads, before later ones."""
    pools: dict[int, CudaPool] = {}
    for source in sources.values():
        assert isinstance(source.pool, CudaPool)
        pools[id(source.pool)] = source.pool
        source.pool.before_reading(source.slots)
    yield
    for pool in pools.values():
        pool.after_reading()
