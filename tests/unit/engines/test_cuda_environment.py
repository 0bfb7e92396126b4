"""Why CUDA cannot be used: one line for each reason, on stand-ins for CuPy.

The stand-ins answer as CuPy 14 does: without a driver its version is 0 and asking for devices fails
with status 35.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from bestpixel_gpu.engines.cuda import environment


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaErrorSome: status {status}")
        self.status = status


class Cupy(ModuleType):
    """``cupy`` with a driver, devices, an error of asking for them, and a compiler or not."""

    def __init__(self, driver=13000, built_for=12090, devices=1, error=None, compiler=True, hip=False):
        super().__init__("cupy")
        runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError, is_hip=hip)
        runtime.driverGetVersion = lambda: driver
        runtime.runtimeGetVersion = lambda: built_for
        runtime.getDeviceCount = lambda: self._count(devices, error)
        nvrtc = SimpleNamespace(getVersion=lambda: self._compiler(compiler))
        self.cuda = SimpleNamespace(runtime=runtime, nvrtc=nvrtc)
        self.asked = 0

    def _count(self, devices: int, error: int | None) -> int:
        self.asked += 1
        if error is not None:
            raise CUDARuntimeError(error)
        return devices

    def _compiler(self, there: bool) -> tuple[int, int]:
        if not there:
            raise RuntimeError('Failure finding "libnvrtc.so.12": No such file\nnor here\n')
        return 12, 9


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """No CUDA used so far, no distribution of CuPy installed: the set of those that are."""
    there: set[str] = set()

    def version(name: str) -> str:
        if name in there:
            return "14.2.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(environment, "_used_in", set())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails as if it were not there
    environment._import_cupy.cache_clear()
    yield there
    environment._import_cupy.cache_clear()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, bare: set[str]):
    def put(**answers) -> Cupy:
        cupy = Cupy(**answers)
        bare.add("cupy-cuda12x")
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        environment._import_cupy.cache_clear()
        return cupy

    return put


def problem(index: int = 0) -> str:
    reason = environment.problem(index)
    assert reason is not None
    assert "\n" not in reason
    return reason


def test_nothing_stands_against_it(use):
    use()
    assert environment.problem() is None
    use(devices=4)
    assert environment.problem(3) is None


def test_no_cupy():
    assert problem() == f"CuPy is not installed: {environment.INSTALL}"
    assert "bestpixel-gpu[cuda12]" in environment.INSTALL
    assert "[cuda13]" in environment.INSTALL


def test_two_cupys(bare):
    bare |= {"cupy-cuda13x", "cupy-cuda12x"}
    assert "cupy-cuda12x and cupy-cuda13x are installed together" in problem()
    assert "pip uninstall -y cupy-cuda12x cupy-cuda13x, then pip install" in problem()


def test_distributions_are_read_from_their_metadata(monkeypatch, tmp_path: Path):
    monkeypatch.undo()
    for name in ("cupy-cuda12x", "cupy-cuda13x"):
        info = tmp_path / f"{name.replace('-', '_')}-14.2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14.2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert environment.installed("cupy-cuda12x", "no-such-name", "cupy-cuda13x") == [
        "cupy-cuda12x",
        "cupy-cuda13x",
    ]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ImportError('\\n=====\\nlibfoo.so: missing\\nand more')", "(libfoo.so: missing)"),
        ("import no_such_module_of_cupys", "(No module named 'no_such_module_of_cupys')"),
        ("raise ValueError", "(ValueError)"),
        ("raise ImportError('long') from OSError('libbar.so: too old')", "(libbar.so: too old)"),
    ],
)
def test_a_broken_cupy(monkeypatch, tmp_path: Path, code: str, says: str):
    (tmp_path / "cupy.py").write_text(code)
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert problem().startswith(f"CuPy cannot be imported {says}: uninstall it")


def test_cupy_for_rocm(use):
    cupy = use(hip=True)
    assert "ROCm" in problem()
    assert not cupy.asked


def test_no_driver(use):
    use(driver=0, error=35)
    assert problem().startswith("no NVIDIA driver was found")


def test_an_old_driver(use):
    cupy = use(driver=12040, built_for=13020)
    assert problem() == (
        "the NVIDIA driver supports CUDA 12.4 and CuPy needs 13.2: "
        "update the driver, or pip install 'bestpixel-gpu[cuda12]' in its place"
    )
    use(driver=11040, built_for=12090)  # there is no extra for it
    assert problem() == "the NVIDIA driver supports CUDA 11.4 and CuPy needs 12.9: update the driver"
    use(driver=12000, built_for=12090, error=35)
    assert problem() == "the NVIDIA driver supports CUDA 12.0 and CuPy needs 12.9: update the driver"
    assert not cupy.asked


def test_no_device(use, monkeypatch):
    for answers in ({"error": 100}, {"devices": 0}):
        use(**answers)
        assert problem().startswith("the NVIDIA driver shows no device: see")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert problem().startswith("the NVIDIA driver shows no device with CUDA_VISIBLE_DEVICES='-1': see")


def test_no_such_device(use):
    use(devices=2)
    assert problem(2) == "there is no CUDA device 2: the driver shows 2, counted from 0"


def test_a_driver_that_fails(use):
    use(error=803)
    assert problem() == ("the NVIDIA driver failed (cudaErrorSome: status 803): see whether nvidia-smi works")


def test_no_compiler(use, bare):
    use(compiler=False)
    assert problem().endswith("no NVRTC, the compiler of CUDA kernels: pip install -U 'cupy-cuda12x[ctk]'")
    bare.clear()  # built from source, or by another installer
    bare.add("cupy")
    assert problem().endswith("install the CUDA toolkit")


def test_a_driver_that_does_not_start(use):
    use(error=3)  # so it answers in the child of a process where another library used CUDA
    assert "if this process was forked, start workers with multiprocessing_context='spawn'" in problem()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_refused_before_it_asks():
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cuda_environment import Cupy, environment
cupy = sys.modules["cupy"] = Cupy()

def in_child():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, f"{{environment.problem()}}|{{cupy.asked}}".encode())
        os._exit(0)
    os.wait()
    return os.read(read, 1000).decode()

print(in_child())
print(environment.problem(), cupy.asked)
print(in_child())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, parent, after = run.stdout.splitlines()
    assert before == "None|1"  # a child may be the first to use CUDA
    assert parent == "None 1"
    assert "multiprocessing_context='spawn'" in after
    assert after.endswith("|1")  # what the parent asked; the child asked nothing


def test_importing_touches_nothing():
    code = (
        "import sys; from bestpixel_gpu.engines.cuda import environment, nvcomp;"
        "print([m for m in sys.modules if m.split('.')[0] in ('cupy', 'nvidia', 'numba')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
