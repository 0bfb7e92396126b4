"""Every kernel under AddressSanitizer and UBSan: its own tests once more, in a process of their own.

Those that inflate are in `test_inflate_kernels.py`, each stream at the end of its memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import CUDA, sanitizer_environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SANITIZED = """
import sys
sys.path.insert(0, {emulation!r})
import emulated_device, emulator, pytest

sanitized, ran, kernel = set(), set(), emulator.Module.kernel

def build(source):
    module = emulator.build(source, sanitize=True)
    sanitized.add(module)
    return module

def noted(self, name):
    if self in sanitized:
        ran.add(name)
    return kernel(self, name)

emulated_device.build, emulator.Module.kernel = build, noted
status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--timeout", "0", *sys.argv[1:]])
print("kernels:", *sorted(ran))
sys.exit(status)
"""
TESTS = {
    "tests/emulation/test_tile_kernels.py": {"unpack"},
    "tests/emulation/test_mask_kernels.py": {"masks"},
    "tests/emulation/test_key_kernels.py": {"keys", "rank"},
    "tests/emulation/test_owners_kernels.py": {"owners"},
    "tests/emulation/test_paint_kernels.py": {"paint"},
    "tests/emulation/test_spread_kernels.py": {"spread"},
    "tests/emulation/test_correct_toa.py": {"toa"},
    "tests/contract/test_engine_surround.py": {"surround"},
    "tests/contract/test_engine_values.py": {"values"},
}
"""Files of tests, and those of the kernels that they run."""


def kernels(file: str) -> set[str]:
    """What a file exports; of kernels for several types the one for uint16."""
    names = re.findall(r"EMU_EXPORT\(([\w#]+)\)", (CUDA / f"{file}.cu").read_text())
    return {name.replace("##name", "u2") for name in names}


def test_no_kernel_is_left_out() -> None:
    elsewhere = {"inflate", "inflate_parallel", "adler32"}
    assert {path.stem for path in CUDA.glob("*.cu")} == set().union(elsewhere, *TESTS.values())


@pytest.mark.slow
@pytest.mark.parametrize("tests", TESTS, ids=lambda path: Path(path).stem)
def test_sanitizers_find_nothing(tests: str) -> None:
    code = SANITIZED.format(emulation=str(HERE))
    command = [sys.executable, "-c", code, tests]
    if tests.startswith("tests/contract"):
        command += ["-k", "emulated"]
    environment = sanitizer_environment()
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    ran = set(run.stdout.splitlines()[-1].split()[1:])
    assert ran >= set().union(*map(kernels, TESTS[tests]))
