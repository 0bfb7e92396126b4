"""Whole runs on a device: the CPU's bytes, in arrays of CuPy that every way out takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_run import HOME, LAYERS, arguments, assert_same, run

import bestpixel_gpu
from bestpixel_gpu.engines.cuda.environment import problem

REASON = problem()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("pc", {}),
    ("earth-search", {"resolution": 20, "memory_limit": 24 << 20}),
    ("pc", {"tile": "all", "resolution": 40, "top_k": 2, "emit_uncertainty": True}),
    ("pc", {"tile": "all", "resolution": 30, "rule": "ndvi", "bands": ["swir16", "nir"]}),
    ("pc", {"resolution": 25, "rule": "latest", "cloud_buffer": 60, "windowed_fetch": True}),
]


@pytest.mark.parametrize(("endpoint", "options"), CASES, ids=lambda v: str(v)[:60])
def test_a_whole_run_gives_the_bytes_of_the_cpu(server: Any, endpoint: str, options: dict[str, Any]) -> None:
    import cupy

    want = run(server, endpoint, **options)
    got = run(server, endpoint, device="auto", **options)
    assert (got.report.device, got.report.device_note) == ("cuda:0", "")
    arrays = [*got.bands.values(), *(got[name] for name in LAYERS), *(got.boa_unc or {}).values()]
    assert {type(array) for array in arrays} == {cupy.ndarray}
    assert_same(got.to_numpy(), want)
    for band, unc in (want.boa_unc or {}).items():
        assert got.boa_unc[band].get().tobytes() == unc.tobytes()


def test_a_series_gives_the_bytes_of_the_cpu(server: Any) -> None:
    from bestpixel_gpu import iter_composites

    call = arguments(server, tile=HOME, resolution=30)
    call["datetime"] = ["2024-07-01/2024-07-20", "2024-07-10/2024-08-10"]
    for want, got in zip(iter_composites(**call), iter_composites(**call | {"device": "cuda"}), strict=True):
        assert got.report.device == "cuda:0"
        assert_same(got.to_numpy(), want)


def test_a_device_that_is_not_the_first(server: Any) -> None:
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one device only")
    want, got = run(server), run(server, device="cuda:1")
    assert got.report.device == "cuda:1"
    assert {layer.data.device.id for layer in got.to_xarray().data_vars.values()} == {1}
    assert_same(got.to_numpy(), want)
    with cupy.cuda.Device(1):
        toa = cupy.asarray(np.linspace(0, 1, 48, dtype=np.float32).reshape(2, 4, 6))
    lines = [(1.1, 1.2), (0.1, 0.2), (0.15, 0.1)]
    corrected = bestpixel_gpu.correct_toa(toa[:, ::2], *lines)
    assert corrected.device.id == 1
    np.testing.assert_array_equal(corrected.get(), bestpixel_gpu.correct_toa(toa.get()[:, ::2], *lines))
    assert cupy.cuda.runtime.getDevice() == 0, "the caller's current device stays"


def test_every_way_out(server: Any, tmp_path: Path) -> None:
    import cupy

    want, got = run(server), run(server, device="cuda")
    dataset = got.to_xarray()
    assert {type(layer.data) for layer in dataset.data_vars.values()} == {cupy.ndarray}
    assert dataset.as_numpy().equals(want.to_xarray())
    for way in ("to_cog", "to_netcdf", "to_zarr"):
        getattr(got, way)(tmp_path / f"{way} device")
        getattr(want, way)(tmp_path / f"{way} host")
    for host in tmp_path.glob("to_cog host/*.tif"):
        assert (tmp_path / "to_cog device" / host.name).read_bytes() == host.read_bytes()
    assert list(tmp_path.glob("to_cog host/*.tif"))
    pictures = [np.asarray(one.quicklook(["red"])) for one in (got, want)]
    np.testing.assert_array_equal(*pictures)


def test_cupy_xarrays_accessor_is_there(server: Any) -> None:
    pytest.importorskip("cupy_xarray")
    want, dataset = run(server), run(server, device="cuda").to_xarray()
    assert dataset.cupy.is_cupy
    assert dataset.cupy.as_numpy().equals(want.to_xarray())
