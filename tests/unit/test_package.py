"""The package itself: quick import, lazy names, rooms that import downwards only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bestpixel_gpu

ROOT = Path(bestpixel_gpu.__file__).parent
# Higher rooms may import lower ones; rooms in one row do not know each other.
ROOMS = [
    {"cli"},
    {"series"},
    {"api"},
    {"compositing"},
    {"result"},
    {"plan"},
    {"engines"},
    {"transfer"},
    {"catalog"},
    {"cog"},
    {"geo"},
    {"request", "options", "errors"},
]
APART = {"simulate": {"simulate", "errors"}}
LEVEL = {room: i for i, row in enumerate(ROOMS) for room in row}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bestpixel_gpu"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("bestpixel_gpu.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    room = parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in _imports(path):
        if room in APART:
            assert other in APART[room], f"{path.name} imports {other}"
        elif room not in (other, "cli"):  # the command line may use any room, simulate too
            assert LEVEL[other] > LEVEL[room] or {room, other} <= ROOMS[-1], f"{path.name} imports {other}"


def test_import_is_light() -> None:
    code = (
        "import sys, bestpixel_gpu\n"
        "heavy = {'numba', 'cupy', 'pyproj', 'aiohttp', 'pystac_client', 'xarray', 'pandas', 'rasterio',"
        " 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import threading; print(threading.active_count())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "1"]


def test_every_public_name_resolves() -> None:
    for name in bestpixel_gpu.__all__:
        assert getattr(bestpixel_gpu, name) is not None
    assert set(bestpixel_gpu.__all__) <= set(dir(bestpixel_gpu))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        bestpixel_gpu.nonsense
