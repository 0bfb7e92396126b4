"""Makes the reference engine importable and lists the engines under test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

ENGINES = ["cpu"]


@pytest.fixture(scope="session", params=ENGINES)
def engine(request):
    from bestpixel_gpu.engines import create

    made = create(request.param, threads=4)
    yield made
    made.close()


@pytest.fixture(scope="session", params=[*ENGINES, "cpu without libdeflate"])
def decoding_engine(request):
    """Engine for what inflates: also the CPU engine as it is where the deflate wheel is missing."""
    if request.param in ENGINES:
        from bestpixel_gpu.engines import create

        made = create(request.param, threads=4)
    else:
        from bestpixel_gpu.engines.cpu.decode import Decoder
        from bestpixel_gpu.engines.cpu.engine import CpuEngine
        from bestpixel_gpu.engines.cpu.inflate import with_numba

        made = CpuEngine(4, Decoder(None, with_numba))
    yield made
    made.close()
