"""CUDA kernels on the CPU: build a ``.cu`` file with the host's C++ compiler, launch its kernels.

What is modelled, and what is not, stands at the head of ``cuda_emulation.h``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
CUDA = HERE.parents[1] / "cuda"
FLAGS = (
    *("-std=c++17", "-g", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas"),
)

STEPS = ("find", "count", "place", "copy", "batch", "counting", "window", "copying")
"""What the kernels count with ``EMU_STEP``, in the header's order."""


class EmulationError(RuntimeError):
    """A launch that did not finish: a deadlock, a wrong mask, too many switches."""


class _Config(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("max_switches", ctypes.c_uint64),
    ]


class Kernel:
    """One kernel; call it as ``kernel(grid, block, args)``."""

    def __init__(self, library: ctypes.CDLL, name: str, lock: threading.Lock) -> None:
        self._library, self._entry, self._lock = library, library["emu_" + name], lock

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        shared_mem: int = 0,
        seed: int = 0,
        max_switches: int = 0,
    ) -> None:
        """Run all blocks; returns when the kernel has ended.

        Parameters
        ----------
        grid, block : sequence of 1 to 3 int
        args : numpy arrays (their first element's address), numpy scalars of the kernel's exact
            types, or None for a null pointer
        shared_mem : int
            Bytes of dynamic shared memory.
        seed : int
            0 runs the lanes in ascending order; any other seed draws a random schedule.
        max_switches : int
            Stop after so many switches between threads; 0 for no limit.

        Raises
        ------
        EmulationError
            If the kernel cannot finish.
        """
        config = _Config(_three(grid), _three(block), shared_mem, 0, seed, max_switches)
        values = [_argument(a) for a in args]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*[ctypes.addressof(v) for v in values])
        with self._lock:  # a library has one set of fibers and one error text
            if self._entry(ctypes.byref(config), pointers):
                raise EmulationError(self._library.emu_error().decode())


class Module:
    """A built ``.cu`` file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.emu_error.restype = ctypes.c_char_p
        self._lock = threading.Lock()

    def kernel(self, name: str) -> Kernel:
        """A kernel of the file, exported there by ``EMU_EXPORT(name)``."""
        return Kernel(self._library, name, self._lock)

    def steps(self) -> dict[str, tuple[int, int]]:
        """Steps that the file's kernels have taken since the last look, by name: of warps, of threads."""
        found = (ctypes.c_uint64 * (2 * len(STEPS)))()
        with self._lock:
            self._library.emu_steps(found)
        return {name: (found[i], found[i + len(STEPS)]) for i, name in enumerate(STEPS)}


def build(source: Path, *, sanitize: bool = False, options: Sequence[str] = ()) -> Module:
    """Kernels of a ``.cu`` file, compiled for the CPU; skips the test where that is impossible.

    The library's name carries a hash of all that went in: a file is compiled once per change,
    however many processes ask.

    Parameters
    ----------
    source : Path
    sanitize : bool
        Build with AddressSanitizer and UBSan; the process must run in :func:`sanitizer_environment`.
    options : sequence of str
        Further options of the compiler, such as ``-DNAME=VALUE``.
    """
    flags = [*FLAGS, "-O1" if sanitize else "-O2", "-I", str(HERE), "-I", str(CUDA), *options]
    if sanitize:
        flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    source = source.resolve()
    return _loaded(_compiled(source, flags))


def compiler() -> str:
    """The host's C++ compiler; skips the test where there is none."""
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if sys.platform != "linux" or not found:
        pytest.skip("the emulator needs Linux and a C++17 compiler (g++, or CXX)", allow_module_level=True)
    return found


def sanitizer_environment() -> dict[str, str]:
    """Environment of a Python process that may load sanitized libraries."""
    names = ("libasan.so", "libubsan.so")
    found = [subprocess.check_output([compiler(), f"-print-file-name={n}"], text=True).strip() for n in names]
    if not all(os.path.isabs(path) for path in found):
        pytest.skip("the C++ compiler has no sanitizer libraries")
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


_lock = threading.RLock()


@cache
def _cached(path: Path) -> Module:
    return Module(path)


def _loaded(path: Path) -> Module:
    with _lock:  # one Module, hence one lock of launches, per library
        return _cached(path)


def _compiled(source: Path, flags: Sequence[str]) -> Path:
    headers = sorted({*source.parent.glob("*.cuh"), *CUDA.glob("*.cuh"), HERE / "cuda_emulation.h"})
    recipe = repr([compiler(), *flags]).encode()
    key = hashlib.sha256(b"\0".join([recipe, *(p.read_bytes() for p in (source, *headers))])).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"bestpixel-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{source.stem}-{key[:16]}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        subprocess.run([compiler(), *flags, "-x", "c++", str(source), "-o", str(part)], check=True)
        part.replace(library)
    return library


def _three(sizes: Sequence[int]) -> Any:
    return (ctypes.c_uint32 * 3)(*(*sizes, 1, 1)[:3])


def _argument(value: Any) -> Any:
    """What an argument's bytes are, as ``cuLaunchKernel`` takes them."""
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, np.generic):
        return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
    raise TypeError(f"kernel argument {value!r}: pass a numpy array, a numpy scalar or None")
