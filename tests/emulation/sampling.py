"""An engine that has what painting asks for, on an emulated device; random sources for it."""

from __future__ import annotations

from collections.abc import Sequence

import cases
import numpy as np
from emulated_device import host
from guarded_device import GuardedDevice, Windowed
from reference import ReferenceEngine, decode

from bestpixel_gpu.engines.contract import CompressedTile, TileGrid
from bestpixel_gpu.engines.cuda.positions import Maps

REFERENCE = ReferenceEngine()
DTYPES = ["u2", "u2", "u2", "i2", "u1", "i1", "u4", "i4"]


class Pool:
    """Slots in device memory that the host fills behind the device's back."""

    def __init__(self, device: GuardedDevice, slot_bytes: int, n_slots: int) -> None:
        self.slot_bytes, self.n_slots = slot_bytes, n_slots
        self.step = -(-slot_bytes // 64) * 64
        self.data = device.empty(self.step * n_slots, np.uint8)


class SamplingEngine:
    """The device, its maps, and the part of an engine with which `cases.source_for` loads tiles."""

    def __init__(self, seed: int) -> None:
        self.device = GuardedDevice(seed)
        self.maps = Maps(self.device)

    def pool(self, slot_bytes: int, n_slots: int) -> Pool:
        return Pool(self.device, slot_bytes, n_slots)

    def load(self, pool: Pool, slots: Sequence[int], tiles: Sequence[CompressedTile]) -> _Loaded:
        self.device.synchronize()  # guards are in place, and nothing else writes the pool
        for slot, tile in zip(slots, tiles, strict=True):
            samples = decode(tile.data, tile.layout)
            rows, cols = tile.inside or samples.shape
            there = host(pool.data)[pool.step * slot :][: samples.nbytes]
            there.view(samples.dtype).reshape(samples.shape)[:rows, :cols] = samples[:rows, :cols]
        return _Loaded()


class _Loaded:
    def wait(self) -> np.ndarray:
        return np.zeros(1, np.int8)


class SampleCase:
    """Scenes under one grid, in the reference's memory and on a device."""

    def __init__(self, seed: int, kind: str, rows: int, cols: int, grid: TileGrid | None = None) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.engine = SamplingEngine(seed)
        self.window = cases.some_window(rng, rows, cols) if grid is None else (0, rows, 0, cols)
        self.shape = self.window[1] - self.window[0], self.window[3] - self.window[2]
        ranks = [int(r) for r in np.sort(rng.choice([0, 3, 11, 700, 30000], 3, replace=False))]
        self.winners = cases.winners_of(rng, *self.shape, (*ranks, 5))
        self.want, self.got = {}, {}
        for rank in ranks[:2] if seed % 5 else ranks:
            level = grid or cases.some_grid(rng)
            dtype = np.dtype(str(rng.choice(DTYPES)))
            rule = cases.some_rule(rng, dtype)
            data = cases.levels(rng, level, dtype, rule)
            mixed = ["axis", "lattice"][int(rng.integers(2))]
            positions = cases.some_map(rng, mixed if kind == "mixed" else kind, rows, cols, level)
            slots = cases.some_slots(rng, level)
            self.want[rank] = cases.source_for(REFERENCE, data, level, positions, rule, slots)
            self.got[rank] = cases.source_for(self.engine, data, level, positions, rule, slots)

    def windowed(self, content: np.ndarray) -> Windowed:
        """A part of a larger array of the device."""
        return Windowed(self.engine.device, self.rng, content)
