"""Memory that kernels reach by pointer belongs to their callers.

Numba gives a kernel's own array back after the last statement that names it, however long a pointer
into it is used; another thread may then be given the same memory.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bestpixel_gpu.engines import cpu

MODULES = sorted(Path(cpu.__file__).parent.glob("*.py"))


def names_of(target: ast.expr) -> list[str]:
    return [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]


def makes_arrays(value: ast.expr) -> bool:
    """Whether an expression calls a function of NumPy, such as ``np.empty``."""
    calls = [n.func for n in ast.walk(value) if isinstance(n, ast.Call)]
    return any(
        isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "np" for f in calls
    )


def own_arrays_by_pointer(function: ast.FunctionDef) -> set[str]:
    """Arrays that a function makes and takes a pointer of."""
    made: set[str] = set()
    taken: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and makes_arrays(node.value):
            made.update(name for target in node.targets for name in names_of(target))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "start_of":
            of = node.args[0]
            while isinstance(of, ast.Subscript | ast.Attribute):
                of = of.value
            taken.update([of.id] if isinstance(of, ast.Name) else [])
    return made & taken


def functions_of(source: str) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_no_kernel_takes_a_pointer_of_an_array_of_its_own(path: Path) -> None:
    assert {
        f.name: found for f in functions_of(path.read_text()) if (found := own_arrays_by_pointer(f))
    } == {}


def test_the_search_finds_one() -> None:
    source = "def f(a):\n  x, y = np.empty(3), 1\n  p = start_of(x[0])\n  q = start_of(a.x)\n"
    assert own_arrays_by_pointer(functions_of(source)[0]) == {"x"}
