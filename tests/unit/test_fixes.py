"""Every defect of the ancestor has a test whose name carries its number, and the page says which."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ancestor_fixes", ROOT / "benchmarks" / "ancestor_fixes.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fixes = load()


def test_every_number_has_a_test_that_carries_it() -> None:
    assert list(fixes.FIXES) == list(range(1, 38))
    assert set(fixes.proofs(ROOT / "tests")) == set(fixes.FIXES)


def test_the_page_lists_them_as_they_are() -> None:
    page = fixes.PAGE.read_text(encoding="utf-8")
    assert fixes.section(page) == fixes.table(), "run python benchmarks/ancestor_fixes.py"


def test_a_test_that_is_renamed_or_missing_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(
        "def test_fix_07_tokens():\n    pass\n\n\n    def test_fix_08_inner():\n        pass\n"
    )
    assert fixes.proofs(tmp_path / "tests") == {7: ["test_fix_07_tokens"]}
    before = fixes.table()
    monkeypatch.setattr(fixes, "ROOT", tmp_path)
    assert fixes.table() != before
    assert "`test_fix_07_tokens` |" in fixes.table()
