"""The released wheel of the ancestor, `bestpixel` 0.3.0, unmodified, on one archive with this package.

It runs in a subprocess, in a Python of its own if need be::

    python -m venv ancestor && ancestor/bin/pip install bestpixel==0.3.0 numpy
    BESTPIXEL_ANCESTOR_PYTHON=$PWD/ancestor/bin/python pytest tests/oracle/test_oracle_ancestor.py

Each differing pixel must have one of its known defects under it (see benchmarks/ancestor_table.py,
which has many more cases).
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


MONTHS = "pc, months 8 and 7 by adaptive selection, emit_uncertainty=True, 20 m"
HERE = {
    "pc, top_k=2": "FIX-4",
    "earth-search, some dates cut by the swath": "FIX-4",
    "pc, three tiles, coverage_target=0.95": "FIX-2",
    "pc, two UTM zones, 20 m": "FIX-3",
    "hls, 20 m": "FIX-31",
    MONTHS: "FIX-27",
}
"""Some cases, and what each is about."""
CURED = tuple(c.name for c in table.CASES if c.cure and c.cure[0] in ("FIX-13", "FIX-14", "FIX-19", "FIX-36"))


@pytest.fixture(scope="module")
def python() -> str:
    found = table.ancestor_python()
    command = [str(found), "-c", "import bestpixel"]
    if found is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs bestpixel==0.3.0 and numpy in the Python that BESTPIXEL_ANCESTOR_PYTHON names")
    return str(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ancestor")


@pytest.mark.parametrize("name", HERE)
def test_every_difference_has_a_known_cause(folder: Path, python: str, name: str) -> None:
    case = next(c for c in table.CASES if c.name == name)
    results = table.run_case(case, python, folder)
    assert [r.our_ids for r in results] == [r.ancestor_ids for r in results]
    rows = {r.layer: r for r in results[0].rows}
    for row in (row for r in results for row in r.rows):
        assert row.unexplained == 0, row
        # Sums of a 60 m band at 10 m, and of HLS at 20 m, often lie exactly between two numbers.
        often = row.layer == "nir09" or case.endpoint == "hls"
        assert row.causes["FIX-16"] <= 0.03 * row.pixels * often, row
        if case.archive != "zones":
            assert row.agree > (0.85 if row.layer.endswith("_unc") else 0.95) * row.pixels, row
    if case.endpoint != "earth-search":
        assert rows["observation_count"].agree == rows["observation_count"].pixels
    assert any(row.causes[HERE[name]] for r in results for row in r.rows)


@pytest.mark.parametrize("name", CURED)
def test_the_ancestor_without_a_defect_is_this_package(folder: Path, python: str, name: str) -> None:
    """Months without an item's date, slivers, half swaths: what it misses is what makes the difference."""
    case = next(c for c in table.CASES if c.name == name)
    for result in table.run_case(case, python, folder):
        assert result.our_ids != result.ancestor_ids
        for row in result.rows:
            assert row.unexplained == 0, row
        assert result.rows[2].layer == "observation_count"
        assert result.rows[2].causes[case.cure[0]] == result.rows[2].pixels - result.rows[2].agree > 0


def test_surface_reflectance_is_the_ancestors_to_the_bit(python: str) -> None:
    old, new = table.correct_both(python)
    assert 1000 < np.isnan(old).sum() < 0.01 * old.size
    np.testing.assert_array_equal(old, new)


def test_a_slip_of_three_is_told_wherever_it_happens(
    folder: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all pixels differ for a reason: both numbers must be the models'."""
    right, rng, slips = table.run_ours, np.random.default_rng(1), {}

    def slipped(*args: Any) -> list[dict[str, Any]]:
        made = dict(right(*args)[0])
        bands, spreads = ({k: np.array(a) for k, a in made[key].items()} for key in ("bands", "boa_unc"))
        for name, a in [*bands.items(), *((f"{k}_unc", a) for k, a in spreads.items())]:
            slips[name] = rng.random(a.shape) < 0.01
            a[slips[name]] += a.dtype.type(3)
        return [made | {"bands": bands, "boa_unc": spreads}]

    monkeypatch.setattr(table, "run_ours", slipped)
    case = next(c for c in table.CASES if c.name == "pc, emit_uncertainty=True, two UTM zones, 20 m")
    (result,) = table.run_case(case, python, folder)
    for row in result.rows[len(table.LAYERS) :]:
        assert row.unexplained > 0.95 * slips[row.layer].sum(), row


def test_a_difference_without_a_cause_is_told() -> None:
    old, new = np.array([[1, 2, 3]]), np.array([[1, 9, 9]])
    row = table.explain("x", old, new, {"FIX-4": np.array([[True, True, False]])})
    assert (row.agree, row.causes["FIX-4"], row.unexplained) == (1, 1, 1)


def test_the_ancestors_own_defect_is_no_excuse_for_another_difference() -> None:
    """Where the cured ancestor differs, what is left against it must have a reason too."""
    case = next(c for c in table.CASES if c.cure)
    before, after, new = (np.array(v) for v in ([1, 1, 1, 1], [1, 2, 2, 2], [1, 2, 5, 5]))
    reasons = {"FIX-2": np.array([False, False, True, False])}
    row = table.explain("x", before, new, table.cured_or_reasons(case, before, after, new, reasons))
    assert (row.agree, row.causes[case.cure[0]], row.causes["FIX-2"], row.unexplained) == (1, 2, 0, 1)
