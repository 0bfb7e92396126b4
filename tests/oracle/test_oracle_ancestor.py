"""The released wheel of the ancestor, `bestpixel` 0.3.0, unmodified, on one archive with this package.

It runs in a subprocess, in a Python of its own if need be::

    python -m venv ancestor && ancestor/bin/pip install bestpixel==0.3.0 numpy
    BESTPIXEL_ANCESTOR_PYTHON=$PWD/ancestor/bin/python pytest tests/oracle/test_oracle_ancestor.py

Each differing pixel must have one of its known defects under it (see benchmarks/ancestor_table.py).
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ancestor_table.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ancestor_table", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


table = load()


@pytest.fixture(scope="module")
def python() -> str:
    found = table.ancestor_python()
    command = [str(found), "-c", "import bestpixel"]
    if found is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs bestpixel==0.3.0 and numpy in the Python that BESTPIXEL_ANCESTOR_PYTHON names")
    return str(found)


@pytest.mark.parametrize("case", table.CASES, ids=lambda c: c.name)
def test_every_difference_has_a_known_cause(shared: Path, tmp_path: Path, python: str, case: object) -> None:
    result = table.run_case(case, shared / "tools", python, tmp_path)
    assert result.our_ids == result.ancestor_ids
    rows = {r.layer: r for r in result.rows}
    for row in result.rows:
        assert row.unexplained == 0, row
        assert row.agree > 0.97 * row.pixels, row
        # Sums of a 60 m band at 10 m often lie exactly between two numbers.
        assert row.causes["FIX-16"] <= (0.015 if row.layer == "nir09" else 0) * row.pixels, row
    assert rows["observation_count"].agree == rows["observation_count"].pixels
    if not result.case.cut:
        for layer in table.LAYERS:
            assert rows[layer].agree == rows[layer].pixels
        for band in table.BANDS:
            assert rows[band].causes["FIX-4"] == 0
        assert rows["red"].causes["FIX-2"] >= result.shape[1] // 2  # its last row
    else:
        assert rows["swir22"].causes["FIX-4"] > 0


def test_a_difference_without_a_cause_is_told() -> None:
    old, new = np.array([[1, 2, 3]]), np.array([[1, 9, 9]])
    row = table.explain("x", old, new, {"FIX-4": np.array([[True, True, False]])})
    assert (row.agree, row.causes["FIX-4"], row.unexplained) == (1, 1, 1)
