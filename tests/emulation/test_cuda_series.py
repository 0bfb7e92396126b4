"""A series of periods on a device that is not there: the bytes of single runs on the CPU."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from emulated_device import EmulatedDevice
from whole_run import HOME, arguments, assert_same

from bestpixel_gpu import build_composite, engines, iter_composites
from bestpixel_gpu.engines.cuda.engine import CudaEngine

PERIODS = ["2024-07-01/2024-07-20", "2024-07-10/2024-08-10"]
"""They share masks."""
CASES: list[dict[str, Any]] = [
    {"resolution": 30, "rule": "ndvi", "bands": ["nir"], "top_k": None, "emit_uncertainty": True},
    {"resolution": 30, "rule": "latest", "cloud_buffer": 75},
    {"resolution": 20, "coverage_target": 0.9, "windowed_fetch": True},
]


def on_host(composite: Any, device: EmulatedDevice) -> Any:
    """The composite with its layers downloaded."""
    names = ("quality", "observation_count", "selected_observation")
    unc = composite.boa_unc
    return replace(
        composite,
        bands={n: device.download(a) for n, a in composite.bands.items()},
        boa_unc=None if unc is None else {n: device.download(a) for n, a in unc.items()},
        **{n: device.download(getattr(composite, n)) for n in names},
    )


@pytest.mark.parametrize("options", CASES, ids=str)
def test_every_period_has_the_bytes_of_its_own_run_on_the_cpu(
    server: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    call = arguments(server, tile=HOME, **options)
    del call["datetime"]
    device = EmulatedDevice(seed=1)
    monkeypatch.setattr(engines, "create", lambda *_: CudaEngine(device, gather=0))
    made = [on_host(one, device) for one in iter_composites(**call, datetime=PERIODS)]
    monkeypatch.undo()
    assert [one.report.device for one in made] == ["cuda:0", "cuda:0"]
    for one in made:
        want = build_composite(**call, datetime=one.period.dates)
        assert_same(one, want)
        for band, unc in (want.boa_unc or {}).items():
            assert one.boa_unc[band].tobytes() == unc.tobytes()
    left = [
        t.name
        for t in threading.enumerate()
        if t.name.startswith(("bestpixel-load", "bestpixel-copy", "bestpixel-host"))
    ]
    assert not left, "the engine's threads end with the series"
