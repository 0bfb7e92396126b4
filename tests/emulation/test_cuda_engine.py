"""The CUDA engine on the emulated device: what the contract's tests do not ask of every engine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import pytest
from emulated_device import EmulatedDevice

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.contract import NO_KEY, Footprint, RankState, SampleRule, TileGrid
from bestpixel_gpu.engines.cpu.engine import CpuEngine
from bestpixel_gpu.engines.cuda import engine as cuda_engine
from bestpixel_gpu.engines.cuda.engine import CudaEngine, open_engine
from bestpixel_gpu.errors import DeviceError, InputError

ONE = 2**32


@pytest.fixture
def engine_of():
    """Makes engines; closes them."""
    made = []

    def make(*args, **options):
        made.append(CudaEngine(EmulatedDevice(*args, **options), gather=0))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("bestpixel-load", "bestpixel-copy"))]


GRID = TileGrid(width=150, height=90, tile_width=32, tile_height=32)
ROWS, COLS = 70, 120


class Scenes:
    """Three scenes with masks and a band, the same for every engine."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.table = cases.score_table(rng)
        self.slots = [cases.some_slots(rng, GRID) for _ in range(3)]
        self.rules = [SampleRule(lo=1, hi=32767, nodata=0, erode=r == 1) for r in range(3)]
        self.maps = [cases.some_map(rng, "axis" if r else "lattice", ROWS, COLS, GRID) for r in range(3)]
        self.masks = [cases.mask_tiles(rng, GRID, 8, "u") for _ in range(3)]
        self.bands = [cases.levels(rng, GRID, np.dtype("u2"), rule) for rule in self.rules]

    def composite(self, engine):
        """Rank, settle, paint; every layer, and what was counted on the way."""
        window = (0, ROWS, 0, COLS)
        state = RankState(
            window, engine.empty((ROWS, COLS), np.uint32, NO_KEY), engine.empty((ROWS, COLS), np.uint16, 0)
        )

        def read(rank):
            return engine.classify(self.masks[rank], GRID, (0, 90, 0, 150), self.table, nodata=0, grow=1)

        with ThreadPoolExecutor(3) as threads:
            masks = list(threads.map(read, range(3)))
        for rank, (mask, _) in enumerate(masks):
            engine.rank(state, mask, self.maps[rank], self.table, rank, footprint=Footprint(ONE, ONE))
        quality, winners = engine.empty((ROWS, COLS), np.uint16), engine.empty((ROWS, COLS), np.int16)
        counts = engine.settle(state.keys, quality, winners, 3)
        sources = {
            r: cases.source_for(engine, self.bands[r], GRID, self.maps[r], self.rules[r], self.slots[r])
            for r in range(3)
        }
        band = engine.empty((ROWS, COLS), np.uint16, 65535)
        failed = engine.paint(band, window, winners, sources)
        owned = engine.owners(window, winners, {r: s.geometry for r, s in sources.items()})
        layers = [np.array(engine.to_host(a)) for a in (state.keys, state.counts, quality, winners, band)]
        return [*layers, counts, np.array(failed), *owned.values(), *(status for _, status in masks)]


@pytest.mark.parametrize("seed", range(6))
def test_every_order_of_streams_gives_the_cpus_bytes(engine_of, seed):
    scenes = Scenes(seed)
    want, got = scenes.composite(CpuEngine(2)), scenes.composite(engine_of(seed))
    assert [a.dtype for a in got] == [a.dtype for a in want]
    assert [a.tobytes() for a in got] == [a.tobytes() for a in want]


@pytest.mark.parametrize("lost_at", [0, 3, 9, 14])
def test_a_lost_device_is_an_error_and_the_engine_closes(engine_of, lost_at):
    engine = engine_of(lost_at=lost_at)
    with pytest.raises(DeviceError, match="device lost"):
        Scenes(0).composite(engine)
    engine.close()
    engine.close()


@pytest.mark.parametrize("lost_at", [0, 9])  # while a tile is loaded, and after
def test_the_run_after_a_loss_gets_an_engine_that_works_or_the_reason(monkeypatch, lost_at):
    devices = [EmulatedDevice(lost_at=lost_at), EmulatedDevice(), EmulatedDevice(lost_at=0)]
    for device in devices:
        device.driver, device.inflates_in_hardware = 13000, False
    kept = {}

    def opened(index):
        if not devices:
            raise DeviceError("cuda:0 cannot be used (any more)")
        return devices.pop(0)

    monkeypatch.setattr("bestpixel_gpu.engines.cuda.cupy_device.CupyDevice", opened)
    monkeypatch.setattr("bestpixel_gpu.engines.cuda.environment.problem", lambda index: None)
    monkeypatch.setattr(cuda_engine, "_kept", kept)

    first = create("auto")
    with pytest.raises(DeviceError, match="lost"):
        Scenes(0).composite(first)
    first.close()  # the run's end: a kept engine stays
    second = create("auto")
    assert (second.name, second is first, list(kept.values())) == ("cuda:0", False, [second])
    Scenes(0).composite(second)
    second.close()
    assert create("cuda:0") is second

    second._loader.close()  # broken otherwise than by the device
    with pytest.raises(DeviceError, match="lost"):
        Scenes(0).composite(create("cuda"))
    last = create("auto")
    assert (last.name, kept) == ("cpu", {})
    assert last.note == "device='auto' chose the CPU: cuda:0 cannot be used (any more)"
    assert not [t for t in threading.enumerate() if t.name.startswith("bestpixel-load")]


def test_memory_runs_out_with_an_error_and_comes_back(engine_of):
    engine = engine_of(total=1 << 20)
    assert engine.budget() == 3 << 18
    with pytest.raises(MemoryError):
        engine.pool(1 << 19, 4)
    pool = engine.pool(1 << 19, 1)
    assert engine.budget() == 3 << 17
    del pool
    engine.release_memory()
    assert engine.budget() == 3 << 18


def test_host_arrays_go_and_come_back(engine_of):
    engine = engine_of()
    given = np.arange(60, dtype=np.int32).reshape(6, 10)
    whole = engine.from_host(given[::2, ::-1])
    engine.fill(whole[1:3, 2:4], -7)
    got = engine.to_host(whole)
    assert isinstance(got, np.ndarray)
    want = given[::2, ::-1].copy()
    want[1:3, 2:4] = -7
    np.testing.assert_array_equal(got, want)


def test_synchronize_waits_for_loads_too(engine_of):
    engine = engine_of()
    layout = TileLayout(codec="deflate", width=16, height=16, bits=16)
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16, 1)
    ticket = engine.load(engine.pool(512, 1), [0], [cases.compressed(pixels, layout)])
    engine.synchronize()
    assert ticket.done()


def test_what_the_report_says(engine_of):
    engine = engine_of()
    assert engine.name == "cuda:0"
    counts = dict.fromkeys(("device_streams", "device_bytes", "host_streams", "host_bytes"), 0)
    counts |= dict.fromkeys(("straight_bytes", "gathered_bytes", "batches", "copies"), 0)
    assert engine.describe() == {"device": "emulated", "inflate": "kernels", **counts, "gb_s": {}}


class Library:
    """Stands for nvCOMP."""

    def __str__(self):
        return "nvCOMP 6.0.0 at somewhere"


@pytest.mark.parametrize(
    ("inflate", "hardware", "installed", "expected"),
    [
        ("safe", True, True, "kernels"),
        ("auto", False, True, "kernels"),
        ("auto", True, True, "nvCOMP 6.0.0 at somewhere"),
        ("auto", True, False, "kernels"),
        ("nvcomp", False, True, "nvCOMP 6.0.0 at somewhere"),
    ],
)
def test_what_inflates(monkeypatch, inflate, hardware, installed, expected):
    device, asked = EmulatedDevice(), []
    device.driver, device.inflates_in_hardware = 13000, hardware

    def load(*, driver):
        asked.append(driver)
        if not installed:
            raise DeviceError("nvCOMP is not installed")
        return Library()

    monkeypatch.setattr("bestpixel_gpu.engines.cuda.cupy_device.CupyDevice", lambda index: device)
    monkeypatch.setattr(cuda_engine.Nvcomp, "load", load)
    engine = open_engine(0, inflate)
    assert engine.describe()["inflate"] == expected
    assert engine.note == (
        "" if installed else "cuda:0 does not use its decompression engine: nvCOMP is not installed"
    )
    assert set(asked) <= {13000}


def test_nvcomp_that_was_asked_for_must_be_there(monkeypatch):
    device = EmulatedDevice()
    device.driver, device.inflates_in_hardware = 13000, False
    monkeypatch.setattr("bestpixel_gpu.engines.cuda.cupy_device.CupyDevice", lambda index: device)
    monkeypatch.setenv("BESTPIXEL_NVCOMP_LIBRARY", "/nowhere/libnvcomp.so")
    with pytest.raises(DeviceError, match="nvCOMP cannot be loaded"):
        open_engine(0, "nvcomp")
    with pytest.raises(InputError, match="inflate='fast'"):
        open_engine(0, "fast")
