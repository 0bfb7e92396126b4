"""Real CuPy without a GPU: where there is no driver, and on one that is not there (`absent_driver`).

Each test is a process of its own: CuPy cannot be imported twice, and most tests want none of it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import compiler

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FORKED = "tests/gpu/test_gpu_memory.py::test_a_forked_child_is_refused"  # in a process without the plugin

pytestmark = pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="needs CuPy")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where CuPy keeps what it compiled: once for all tests here, which skip where it cannot."""
    compiler()
    folder = tmp_path_factory.mktemp("kernels")
    code = "import absent_driver, cupy; cupy.empty(1, 'u1').fill(1)"
    done = started(folder, "-c", code)
    if done.returncode:
        pytest.skip(f"CuPy cannot compile here: {done.stderr.splitlines()[-1]}")
    return folder


def started(kernels: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "CUPY_CACHE_DIR": str(kernels), "PYTHONFAULTHANDLER": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=os.environ | own, timeout=170, capture_output=True, text=True, check=False,
    )  # fmt: skip


def python(kernels: Path, *arguments: str) -> str:
    """What a process printed that ended well."""
    done = started(kernels, *arguments)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def on_absent_driver(kernels: Path, code: str) -> str:
    """What a script printed that has CuPy, numpy and a `device` on the driver that is not there."""
    head = (
        "import absent_driver as driver, cupy, numpy as np\n"
        "from bestpixel_gpu.engines.cuda.cupy_device import CupyDevice\n"
        "from bestpixel_gpu.errors import DeviceError, MemoryLimitError\n"
        "device = CupyDevice()\n"
    )
    return python(kernels, "-c", head + code)


def has_driver() -> bool:
    code = "from cupy.cuda import runtime; print(runtime.driverGetVersion())"
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip() != "0"


def test_without_a_driver_it_is_said_and_auto_takes_the_cpu(kernels: Path) -> None:
    if has_driver():
        pytest.skip("there is a driver")
    code = """
import os, sys
from bestpixel_gpu.engines import create
from bestpixel_gpu.errors import DeviceError
assert "cupy" not in sys.modules
def said():
    chosen = create("auto", threads=1)
    assert "cupy" in sys.modules
    try:
        create("cuda")
    except DeviceError as error:
        return f"{chosen.name}|{chosen.note}|{error}|{error.__cause__}"
for _ in range(2):
    print(said(), flush=True)
    if not os.fork():  # nothing was started that a fork could break
        print(said(), flush=True)
        os._exit(0)
    os.wait()
"""
    says = "no NVIDIA driver was found: install one (nvidia-smi shows it), or use device='cpu'"
    want = f"cpu|device='auto' chose the CPU: {says}|device='cuda': {says}|None"
    assert python(kernels, "-c", code).splitlines() == [want] * 4


def test_the_suite_of_the_device_passes(kernels: Path) -> None:
    options = ["-p", "absent_driver", "-p", "no:cacheprovider", "-x", "-q", "-s", f"--deselect={FORKED}"]
    chosen = ["-m", "gpu", "tests/contract", "tests/gpu"]  # in the order of benchmarks/gpu_check.py
    told = python(kernels, "-m", "pytest", *options, *chosen)
    passed = re.search(r"(\d+) passed", told)
    assert passed is not None, told
    assert int(passed[1]) > 700, told
    assert not re.search(r"SKIPPED(?!.*'torch')", told), told


def test_pinned_memory_is_unpinned_with_its_last_view(kernels: Path) -> None:
    on_absent_driver(
        kernels,
        """
def freed():
    return [c for c in driver.asked if c[0] == "freeHost"]
block = device.pinned(5000)
part = block[7:].view(np.ndarray)[3:]
assert (block.dtype, block.flags.writeable, driver.asked[-1][0] == "freeHost") == (np.uint8, True, False)
assert [c[1:] for c in driver.asked if c[0] == "hostAlloc"][-1] == (5000, cupy.cuda.runtime.hostAllocPortable)
del block
assert not freed()
del part
assert len(freed()) == 1
""",
    )


def test_what_was_compiled_is_kept_for_later_processes(tmp_path: Path) -> None:
    code = """
from cupy.cuda import nvrtc
made, make = [], nvrtc.compileProgram
def noted(program, options):
    made.append(options)
    return make(program, options)
nvrtc.compileProgram = noted
device._kernel(("adler32", "adler32_check"))
device._kernel(("adler32", "adler32_check"))
assert all({"--std=c++17", "--fmad=false"} <= {*options} for options in made), made
print(len(made))
"""
    first, second = (int(on_absent_driver(tmp_path, code)) for _ in range(2))
    assert (first, second) == (2, 1), "what NVRTC's headers say is asked for again, and is empty"
    assert {path.suffix for path in tmp_path.iterdir()} == {".cubin"}


def test_cuda_without_its_headers_is_told_at_the_start(tmp_path: Path, kernels: Path) -> None:
    code = """
import absent_driver, cuda.pathfinder, cupy
cuda.pathfinder.find_nvidia_header_directory = lambda *_: None
try:
    cupy.empty(1, "u1").fill(1)
except Exception:
    from bestpixel_gpu.engines import create
    engine = create("auto", threads=1)
    print(engine.name, engine.note)
"""
    told = python(tmp_path, "-c", code)  # where nothing is compiled yet
    if not told:
        pytest.skip("this CuPy looks for CUDA's headers elsewhere")
    says = r"cpu device='auto' chose the CPU: cuda:0: CuPy cannot compile kernels \(.+\): .*install.*\n"
    assert re.fullmatch(says, told)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_refused(kernels: Path) -> None:
    source = (ROOT / "tests/gpu/test_gpu_memory.py").read_text()
    code = source.split('code = """')[1].split('"""')[0]
    assert on_absent_driver(kernels, code).split("\n")[:2] == ["([True, True], 'cpu')", "15"]


def test_what_benchmarks_ask_of_cupy(kernels: Path) -> None:
    on_absent_driver(
        kernels,
        """
import sys
sys.path.insert(0, "benchmarks")
import gpu_bench
for sanitized in (False, True):
    bench = gpu_bench.Bench(0, sanitized=sanitized)
    a, b = (bench.device.upload(np.full((4, 6), n, np.uint8)) for n in (1, 2))
    timing = bench.time(lambda: bench.copy(a, b), repeats=2)
    assert timing.seconds == 0 and timing.repeats >= 1
    assert (bench.device.download(a) == 2).all()
    assert bench.between(bench.mark(), bench.mark()) == 0
    facts = bench.describe()
    assert (facts["sms"], facts["device"], facts["cupy"]) == (1, "no GPU", cupy.__version__)
    assert (bench.memory()[0] == 0) == sanitized, "each array has an allocation of its own"
with bench.device.on(None):
    cupy.RawKernel(gpu_bench._SPIN, "spin").compile()
""",
    )
