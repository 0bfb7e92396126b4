"""One line instead of hundreds where there is no GPU: the suite then runs without the engine "cuda"."""

from __future__ import annotations

import pytest

from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.cuda.environment import problem


@pytest.mark.gpu
def test_the_suite_runs_on_the_device():
    reason = problem()
    if reason is not None:
        pytest.skip(reason)
    assert create("cuda").name == "cuda:0"
