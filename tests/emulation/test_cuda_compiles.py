"""Every kernel compiles for every architecture, without spills, by nvcc and by NVRTC.

What the files say of registers is what the compiler says: it is the prediction for the first run on a
GPU, with the blocks that follow from it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

CUDA = Path(__file__).resolve().parents[2] / "cuda"
SOURCES = [*sorted(CUDA.glob("*.cu")), Path(__file__).with_name("emulator_kernels.cu")]
ARCHITECTURES = ("75", "80", "90", "100", "120")
OPTIONS = ("--std=c++17", "--fmad=false")
COMPILER = "release 13.0"
"""Of nvcc, whose figures the kernels' files give."""


def name(path: Path) -> str:
    return path.stem


@cache
def nvcc() -> str:
    found = shutil.which("nvcc")
    if not found:
        pytest.skip("needs nvcc")
    return found


@cache
def architectures() -> list[str]:
    known = subprocess.check_output([nvcc(), "--list-gpu-arch"], text=True).split()
    return [a for a in ARCHITECTURES if f"compute_{a}" in known]


def written(source: Path) -> dict[str, int]:
    """Registers of each kernel as the file's comments give them."""
    text = source.read_text().replace("\n//", "")
    found = re.search(r"Registers on sm_90: ([^;]*);", text)
    assert found, f"{source.name} says nothing of registers"
    return {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", found[1])}


def compiled(log: str) -> dict[str, int]:
    """Registers of each kernel on sm_90 by ptxas; of kernels for several types those for 16 bits."""
    pattern = r"entry function '(\w+)' for 'sm_90'.*?Used (\d+) registers"
    found = {name: int(n) for name, n in re.findall(pattern, log, re.DOTALL)}
    return {name: n for name, n in found.items() if not re.search(r"_([ui][14]|i2)$", name)}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_nvcc_compiles_without_spills(source: Path, tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures()]
    command = [nvcc(), *OPTIONS, *targets, f"-I{CUDA}", "-Werror=all-warnings", "-Xptxas=-v", "-fatbin"]
    command += ["-o", str(tmp_path / "out.fatbin"), str(source)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode == 0, run.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", run.stderr)
    assert len(spills) >= len(targets)
    assert {n for pair in spills for n in pair} == {"0"}, run.stderr
    version = subprocess.check_output([nvcc(), "--version"], text=True)
    if source.parent == CUDA and COMPILER in version and "90" in architectures():
        assert written(source) == compiled(run.stderr)


@cache
def nvrtc() -> ctypes.CDLL:
    """NVRTC of the process's packages, the toolkit or the system."""
    folders = [Path(p) / "nvidia" for p in sys.path]
    folders += [Path(p) for k in ("CUDA_PATH", "CUDA_HOME") if (p := os.environ.get(k))]
    folders += [Path(found).resolve().parents[1]] if (found := shutil.which("nvcc")) else []
    names = [
        str(p)
        for f in folders
        for sub in ("cuda_nvrtc/lib", "cu13/lib", "lib64")
        for p in f.glob(f"{sub}/libnvrtc.so*")
    ]
    for library in (*names, "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    pytest.skip("needs libnvrtc")


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_nvrtc_compiles_with_our_headers_alone(source: Path) -> None:
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    headers = sorted(CUDA.glob("*.cuh"))
    texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
    names = (ctypes.c_char_p * len(headers))(*[h.name.encode() for h in headers])
    text, label = source.read_bytes(), source.name.encode()
    assert not library.nvrtcCreateProgram(ctypes.byref(program), text, label, len(headers), texts, names)
    options = [o.encode() for o in (*OPTIONS, "--gpu-architecture=sm_90")]
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed, log.value.decode()
