"""Whole runs on a device with less memory than it told: byte for byte the CPU engine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from emulated_device import EmulatedDevice, host
from whole_run import HOME, assert_same, run

from bestpixel_gpu import engines
from bestpixel_gpu.compositing import rounds, setup, shortage
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.engines.cuda.engine import CudaEngine
from bestpixel_gpu.errors import MemoryLimitError
from bestpixel_gpu.geo.grid import chunk_edges

CASES: list[dict[str, Any]] = [
    {},
    {"endpoint": "earth-search", "fill": False, "order": "newest"},
    {"coverage_target": 0.9, "windowed_fetch": True},
    {"rule": "latest", "cloud_buffer": 75},
    {"rule": "ndvi", "bands": ["nir", "swir16"]},
    {"emit_uncertainty": True, "top_k": 2},
]
OnDevice = Callable[..., Any]


class ScarceDevice(EmulatedDevice):
    """Finds no room where it is told so; the layers of the result apart."""

    def __init__(self, seed: int, first: int | None = None) -> None:
        super().__init__(seed)
        self.first, self.asked, self.refused, self.spared = first, 0, 0, False

    def empty(self, shape: Any, dtype: Any, stream: Any = None) -> Any:
        with self.entered():
            self.asked += not self.spared
            if not self.spared and self.asked - 1 == self.first:
                self.refused += 1
                raise MemoryLimitError("no room")
            try:
                return super().empty(shape, dtype, stream)
            except MemoryLimitError:
                self.refused += 1
                raise

    def has_left(self, size: int) -> None:
        """Have so many bytes left, from now on."""
        with self.entered():
            self.total = self._used + size


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> OnDevice:
    """Runs in small pieces; on a device, if one is given, that has `room` bytes left when a stage begins."""
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, size: chunk_edges(origin, size, 48))
    monkeypatch.setattr(rounds, "SMALL_GRID", 0)
    monkeypatch.setattr(shortage, "LEAST_SIDE", 12)

    def run_there(
        server: Any, device: ScarceDevice | None = None, room: int = 1 << 40, **options: Any
    ) -> Any:
        if device is None:
            return run(server, **options)
        stage, layer = Session.stage, Session.layer

        @contextmanager
        def scarce_stage(session: Session, name: str) -> Iterator[None]:
            with stage(session, name):
                device.has_left(room)
                yield

        def spared_layer(session: Session, *args: Any) -> Any:
            with device.entered():
                device.spared, total, device.total = True, device.total, 1 << 40
                made = layer(session, *args)
                device.spared, device.total = False, total + made.nbytes
            return made

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "stage", scarce_stage)
            patch.setattr(Session, "layer", spared_layer)
            patch.setattr(engines, "create", lambda *_: CudaEngine(device, gather=0))
            return run(server, **options)

    return run_there


def assert_same_run(got: Any, want: Any) -> None:
    """Bytes, and what the report counts once."""
    layers = {n: host(getattr(got, n)) for n in ("quality", "observation_count", "selected_observation")}
    assert_same(replace(got, bands={b: host(a) for b, a in got.bands.items()}, **layers), want)
    for band, unc in (want.boa_unc or {}).items():
        assert host(got.boa_unc[band]).tobytes() == unc.tobytes()
    for name in ("failures", "lost_tiles", "repair_rounds", "empty_pixels"):
        assert getattr(got.report, name) == getattr(want.report, name), name


@pytest.mark.parametrize("options", CASES, ids=str)
def test_any_array_may_find_no_room(server: Any, on_device: OnDevice, options: dict[str, Any]) -> None:
    options = {"tile": HOME, "resolution": 20} | options
    want, plain = on_device(server, **options), ScarceDevice(1)
    assert_same_run(on_device(server, plain, **options), want)
    for n, first in enumerate((9, plain.asked // 2)):
        device = ScarceDevice(n, first)
        assert_same_run(on_device(server, device, **options), want)
        assert device.refused


@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_few_tiles_are_room_enough(server: Any, on_device: OnDevice, options: dict[str, Any]) -> None:
    options = {"tile": HOME, "resolution": 20} | options
    want, device = on_device(server, **options), ScarceDevice(1)
    got = on_device(server, device, 400_000, **options)
    assert_same_run(got, want)
    assert device.refused
