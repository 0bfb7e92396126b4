"""correct_toa: the ancestor's check values, float32 step by step, the same on the device."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_device import EmulatedDevice

import bestpixel_gpu
from bestpixel_gpu.engines.cuda.engine import CudaEngine
from bestpixel_gpu.errors import InputError

ONE_BAND = {"xap": [1.27], "xbp": [0.08], "xcp": [0.145]}


@pytest.fixture
def device_engine():
    engine = CudaEngine(EmulatedDevice(seed=1), gather=0)
    yield engine
    engine.close()


def test_check_values():
    toa = np.array([[[0.1, 0.01, np.nan, np.inf, -np.inf]]], np.float32)
    got = bestpixel_gpu.correct_toa(toa, **ONE_BAND)
    assert got.dtype == np.float32
    assert got[0, 0, 0] == np.float32(0.04668187)
    assert got[0, 0, 1] == 0
    assert np.isnan(got[0, 0, 2:]).all()
    assert toa[0, 0, 0] == np.float32(0.1), "the input is left alone"


def test_each_step_is_rounded_to_float32_on_both_engines(device_engine):
    rng = np.random.default_rng(4)
    toa = rng.uniform(-0.2, 1.4, (5, 37, 61)).astype(np.float32)
    toa[rng.random(toa.shape) < 0.02] = np.nan
    coefficients = [rng.uniform(lo, hi, 5) for lo, hi in ((1, 2), (0, 0.2), (0, 0.3))]
    got = bestpixel_gpu.correct_toa(toa, *coefficients)
    f = np.float32
    for band, r, c in ((0, 0, 0), (2, 5, 60), (4, 36, 1)):
        a, b, k = (f(line[band]) for line in coefficients)
        y = f(f(a * toa[band, r, c]) - b)
        want = max(f(y / f(f(1) + f(k * y))), f(0))
        assert got[band, r, c] == want or np.isnan(toa[band, r, c])
    device = device_engine._device
    there = device_engine.correct_toa(device.upload(toa), np.array(coefficients, np.float32))
    np.testing.assert_array_equal(device.download(there).view(np.uint32), got.view(np.uint32))


@pytest.mark.parametrize(
    "toa", [np.zeros((1, 2, 2)), np.zeros((2, 2), np.float32), [[[0.1]]], np.zeros((1, 2, 2), np.uint16)]
)
def test_other_arrays_are_refused(toa):
    with pytest.raises(TypeError, match="float32 array"):
        bestpixel_gpu.correct_toa(toa, **ONE_BAND)


def test_other_lengths_are_refused():
    toa = np.zeros((2, 1, 1), np.float32)
    with pytest.raises(InputError, match="xap must hold one number for each of the 2 bands"):
        bestpixel_gpu.correct_toa(toa, **ONE_BAND)
    with pytest.raises(InputError, match="xcp must hold numbers"):
        bestpixel_gpu.correct_toa(toa[:1], [1], [0], ["clear"])


def test_nothing_gives_nothing():
    assert bestpixel_gpu.correct_toa(np.zeros((1, 0, 7), np.float32), **ONE_BAND).shape == (1, 0, 7)
