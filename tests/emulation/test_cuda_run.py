"""The production flow on a device that is not there: whole composites, byte for byte the CPU engine's.

Search, transfer, batching, events, budgets and repair are the package's own; only the device behind
them is emulated, with its streams run against each other in an order drawn from a seed.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_device import EmulatedDevice, host
from forced_share import Forced
from whole_run import HOME, RIGHT, SOUTH, assert_same, forget_headers, item_of, path_of, run, winners

from bestpixel_gpu import engines
from bestpixel_gpu.engines.cpu.engine import CpuEngine
from bestpixel_gpu.engines.cuda import runs
from bestpixel_gpu.engines.cuda.engine import CudaEngine
from bestpixel_gpu.engines.cuda.share import Share
from bestpixel_gpu.errors import DeviceError, IncompleteError, PartialResultWarning

OnDevice = Callable[..., Any]


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnDevice]:
    """``run`` on an emulated device; its layers are looked at as they are when the call returns."""

    def run_there(server: Any, *where: Any, device: EmulatedDevice | None = None, **options: Any) -> Any:
        device = device or EmulatedDevice(seed=options.pop("seed", 1))
        own = {name: options.pop(name) for name in ("share", "receive_bytes") if name in options}
        monkeypatch.setattr(engines, "create", lambda *_: CudaEngine(device, gather=0, **own))
        made = run(server, *where, **options)
        monkeypatch.undo()
        return on_host(made)

    yield run_there
    own = ("bestpixel-load", "bestpixel-copy", "bestpixel-host")
    left = [t.name for t in threading.enumerate() if t.name.startswith(own)]
    assert not left, "the engine's threads end with the run"


def on_host(composite: Any) -> Any:
    """The composite with what its layers hold now: whoever takes them waits for no stream of ours."""
    names = ("quality", "observation_count", "selected_observation")
    return replace(
        composite,
        bands={n: host(a).copy() for n, a in composite.bands.items()},
        **{n: host(getattr(composite, n)).copy() for n in names},
    )


CASES: list[tuple[str, dict[str, Any]]] = [
    ("pc", {"tile": HOME}),
    ("pc", {"tile": HOME, "resolution": 60, "bands": ["red", "green", "swir16"]}),
    ("pc", {"tile": RIGHT, "top_k": 1, "fill": True, "cloud_buffer": 75}),
    ("pc", {"tile": SOUTH, "resampling": "nearest", "order": "newest", "top_k": None}),
    ("pc", {"tile": HOME, "resolution": 25, "rule": "latest", "cloud_buffer": 60}),
    ("pc", {"tile": "all", "resolution": 30, "rule": "ndvi", "bands": ["swir16", "nir"]}),
    ("pc", {"tile": "all", "resolution": 40, "coverage_target": 0.9}),
    ("earth-search", {"tile": HOME, "resolution": 20}),
    ("earth-search", {"tile": HOME, "crs": "EPSG:3857", "resolution": 30}),
    ("earth-search", {"tile": RIGHT, "mask_resampling": "nearest", "resolution": 50, "fill": False}),
]


@pytest.mark.parametrize(("endpoint", "options"), CASES, ids=lambda v: str(v)[:60])
def test_a_whole_run_gives_the_bytes_of_the_cpu(
    server: Any, on_device: OnDevice, endpoint: str, options: dict[str, Any]
) -> None:
    want = run(server, endpoint, **options)
    got = on_device(server, endpoint, **options)
    assert got.report.device == "cuda:0"
    assert_same(got, want)
    assert got.report.repair_rounds == want.report.repair_rounds


def test_uncertainty_on_the_device(server: Any, on_device: OnDevice) -> None:
    options: dict[str, Any] = {"tile": "all", "resolution": 30, "top_k": 2, "emit_uncertainty": True}
    want, device = run(server, **options), EmulatedDevice(seed=3)
    got = on_device(server, device=device, **options)
    assert_same(got, want)
    for band, unc in want.boa_unc.items():
        assert host(got.boa_unc[band]).tobytes() == unc.tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_streams_gives_the_same(server: Any, on_device: OnDevice, seed: int) -> None:
    want = run(server)
    for limit in (None, 24 << 20):
        got = on_device(server, seed=seed, memory_limit=limit, threads=1 + seed)
        assert_same(got, want)


@pytest.mark.parametrize("part", [0, 0.4, 1])
def test_any_share_of_the_host_gives_the_same(server: Any, on_device: OnDevice, part: float) -> None:
    options: dict[str, Any] = {"tile": "all", "resolution": 20, "order": "newest"}
    want = run(server, **options)
    got = on_device(server, share=Forced(part, seed=3), **options)
    assert_same(got, want)
    facts = got.report.device_facts
    device, host = facts["device_streams"], facts["host_streams"]
    assert device + host >= want.report.wanted_tiles
    assert host == pytest.approx(part * (device + host), abs=0.2 * (device + host) * (part == 0.4))


def test_a_slow_device_is_helped_and_the_report_says_so(server: Any, on_device: OnDevice) -> None:
    slow = EmulatedDevice(2, seconds={"inflate_streams_parallel": 3.0, "inflate_streams": 3.0})
    want, share = run(server), Share(2)
    for n in range(8):  # a run may be over before both sides were seen
        got = on_device(server, device=slow, share=share)
        assert_same(got, want)
        if n and got.report.device_facts["host_streams"]:
            break
    report = got.report
    facts = report.device_facts
    assert 0 < facts["host_streams"] <= share.counts["host_streams"]
    assert facts["device_streams"] < share.counts["device_streams"], "those of this run, not of both"
    assert facts["gb_s"]["block"].keys() >= {"stream", "host"}
    assert f"emulated, host inflated {facts['host_streams']} of" in str(report)
    assert json.loads(report.to_json())["device_facts"] == facts


@pytest.mark.parametrize(("endpoint", "options"), CASES[2:8:2], ids=lambda v: str(v)[:60])
def test_whatever_was_received_goes_straight(
    server: Any, on_device: OnDevice, endpoint: str, options: dict[str, Any]
) -> None:
    """Every body in pinned memory, though few are as large here; some are not where that is bounded."""
    want = run(server, endpoint, **options)
    ways = {"straight_bytes", "gathered_bytes"}
    caps = (1 << 30, {"straight_bytes"}), (1 << 16, ways), (0, {"gathered_bytes"}), (None, ways)
    for seed, (cap, goes) in enumerate(caps):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "STRAIGHT_BYTES", 1)
            device = EmulatedDevice(seed, pinnable=5 << 20 if cap is None else 1 << 30)
            given = {} if cap is None else {"receive_bytes": cap}
            got = on_device(server, endpoint, device=device, **given, **options)
        assert_same(got, want)
        facts = got.report.device_facts
        assert set() < {way for way in ways if facts[way]} <= goes


def test_repair_on_the_device(server: Any, on_device: OnDevice) -> None:
    """A damaged file: its scene's pixels go to the next best, as on the CPU."""
    options: dict[str, Any] = {"order": "newest", "top_k": None, "max_failed": 1.0}
    clean = run(server, **options)
    names = winners(clean).ravel().tolist()
    item = item_of(server.items("pc"), max(set(names), key=names.count))
    answers = []
    for go in (run, on_device):
        forget_headers()
        server.reset(faults={path_of(item, "B11") + "#tiles": "corrupt", path_of(item, "B04"): "404"})
        with pytest.warns(PartialResultWarning):
            answers.append(go(server, **options))
    assert_same(answers[1], answers[0])


def test_a_device_that_is_lost_is_an_error_and_leaves_nothing(server: Any, on_device: OnDevice) -> None:
    device = EmulatedDevice(seed=1, lost_at=9)
    with pytest.raises(DeviceError, match="lost"):
        on_device(server, device=device)


def test_too_little_device_memory_is_told(server: Any, on_device: OnDevice) -> None:
    from bestpixel_gpu.errors import MemoryLimitError

    with pytest.raises((MemoryLimitError, DeviceError, IncompleteError), match="memory"):
        on_device(server, device=EmulatedDevice(seed=1, total=1 << 20))


@contextmanager
def pools_of_at_most(most: int, engine: Any) -> Iterator[list[int]]:
    """An engine that finds no room for more slots; gives how many were asked for."""
    pool, asked = engine.pool, []

    def short(own: Any, slot_bytes: int, n_slots: int) -> Any:
        asked.append(n_slots)
        if n_slots > most:
            raise MemoryError(f"{n_slots} slots")
        return pool(own, slot_bytes, n_slots)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "pool", short)
        yield asked


def test_pools_shrink_where_others_took_the_memory(server: Any, on_device: OnDevice) -> None:
    options: dict[str, Any] = {"tile": "all", "resolution": 20}
    want = run(server, **options)
    with pools_of_at_most(40, CudaEngine) as asked:
        assert_same(on_device(server, **options), want)
    assert max(asked) > 40, "there was something to refuse"


@pytest.mark.parametrize("options", [{}, {"endpoint": "earth-search", "order": "newest"}], ids=str)
def test_blocks_are_halved_where_even_the_least_pool_has_no_room(
    server: Any, on_device: OnDevice, options: dict[str, Any]
) -> None:
    """A pool for a block of the plan is refused; a finer one has fewer tiles. The same on the CPU."""
    options = {"tile": "all", "resolution": 20} | options
    want = run(server, **options)
    for engine, go in ((CudaEngine, on_device), (CpuEngine, run)):
        with pools_of_at_most(20, engine) as asked:
            got = go(server, **options)
        assert_same(got, want)
        assert min(n for n in asked if n) <= 20 < max(asked)


def test_a_pool_that_finds_no_room_at_all_is_an_error(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(CpuEngine, "pool", none)
    with pytest.raises(MemoryError, match="no room"):
        run(server, resolution=60)


def test_cupy_xarray_is_there_where_arrays_are_cupys(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    composite = run(server, resolution=60)
    (tmp_path / "cupy_xarray.py").write_text(
        "import xarray\n\n\n@xarray.register_dataset_accessor('stands_for_cupy')\n"
        "class Accessor:\n    def __init__(self, dataset):\n        self.there = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy_xarray", raising=False)
    assert not hasattr(composite.to_xarray(), "stands_for_cupy"), "host arrays have no use for it"
    cupys = type("ndarray", (np.ndarray,), {"__module__": "cupy"})
    dataset = replace(composite, quality=composite.quality.view(cupys)).to_xarray()
    assert dataset.stands_for_cupy.there
    del sys.modules["cupy_xarray"]


def test_a_second_run_needs_no_more_memory(server: Any, on_device: OnDevice) -> None:
    device = EmulatedDevice(seed=1)
    peaks = []
    for _ in range(3):
        on_device(server, device=device)
        peaks.append(device.total - device.memory()[0])
    assert peaks[0] == peaks[1] == peaks[2]
