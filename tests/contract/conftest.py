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
