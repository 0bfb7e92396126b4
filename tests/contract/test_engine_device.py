"""One line instead of hundreds where there is no GPU: the suite then runs without the engine "cuda"."""

from __future__ import annotations

import pytest
from conftest import ENGINES, NO_DEVICE


@pytest.mark.gpu
def test_the_suite_runs_on_the_device():
    if NO_DEVICE is not None:
        pytest.skip(NO_DEVICE)
    assert any(getattr(e, "values", None) == ("cuda",) for e in ENGINES)
