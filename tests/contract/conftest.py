"""Makes the reference engine importable and lists the engines under test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bestpixel_gpu.engines.cuda.environment import problem

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "emulation")]

ENGINES = ["cpu", "cuda emulated"]
NO_DEVICE = problem()
if NO_DEVICE is None:
    ENGINES.append(pytest.param("cuda", marks=pytest.mark.gpu))


def make(name):
    """An engine by its name here."""
    if name == "cuda emulated":
        from emulated_device import EmulatedDevice

        from bestpixel_gpu.engines.cuda.engine import CudaEngine

        return CudaEngine(EmulatedDevice(seed=7), gather=0)
    if name == "cpu without libdeflate":
        from bestpixel_gpu.engines.cpu.decode import Decoder
        from bestpixel_gpu.engines.cpu.engine import CpuEngine
        from bestpixel_gpu.engines.cpu.inflate import with_numba

        return CpuEngine(4, Decoder(None, with_numba))
    from bestpixel_gpu.engines import create

    return create(name, threads=4)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    made = make(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module", params=[*ENGINES, "cpu without libdeflate"])
def decoding_engine(request):
    """Engine for what inflates: also the CPU engine as it is where the deflate wheel is missing."""
    made = make(request.param)
    yield made
    made.close()
