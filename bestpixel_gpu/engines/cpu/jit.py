"""How kernels are compiled: without the GIL, kept on disk, few ways of passing arrays."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from bestpixel_gpu.engines import fixed_point

F = TypeVar("F", bound=Callable[..., Any])

_INLINED = (
    "../fixed_point.py",
    "jit.py",
    "native.py",
    "prefix_code.py",
    "lanes.py",
    "lattice.py",
    "sample.py",
    "unpack.py",
)
"""Modules whose functions are compiled into the kernels of others."""


def _stamp() -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in _INLINED:
        digest.update((here / name).read_bytes())
    return digest.hexdigest()[:12]


_STAMP = _stamp()


def kernel(function: F) -> F:
    """Compile a function at its first call for each set of argument types, and keep the code on disk.

    The code lies where Numba puts it: ``NUMBA_CACHE_DIR``, ``__pycache__`` beside the source or the
    user's cache folder. Where none of them can be written, a private folder below the system's
    temporary folder is taken. Numba renews a kernel when its own file changes; the stamp in the
    name renews it when an inlined module does.
    """
    function.__qualname__ += f"_{_STAMP}"
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        compiled.enable_caching()
    except RuntimeError:
        _enable_caching_in(_private_folder(), compiled)
    return compiled  # type: ignore[no-any-return]


def _enable_caching_in(folder: str | None, compiled: Any) -> None:
    if folder is None:
        return
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, folder
    try:
        compiled.enable_caching()
    except RuntimeError:
        pass  # compiled anew in each process
    finally:
        config.CACHE_DIR = before


def _private_folder() -> str | None:
    """A folder that only this user can write: cached code is executed, so nobody may plant it."""
    if not hasattr(os, "getuid"):
        return None
    path = Path(tempfile.gettempdir()) / f"bestpixel-gpu-kernels-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
    except OSError:
        return None
    private = (
        info.st_uid == os.getuid() and not info.st_mode & 0o077 and path.is_dir() and not path.is_symlink()
    )
    return str(path) if private else None


def inlined(function: F) -> F:
    """Leave a function to be compiled into the kernels that call it.

    LLVM is told to do so: by itself it leaves the larger ones as calls, which pass every field of
    every tuple through memory.
    """
    register_jitable(forceinline=True)(function)
    return function


int64: Any = np.int64
uint64: Any = np.uint64
"""Conversions inside kernels, where they yield plain machine integers."""

nearest = inlined(fixed_point.nearest)
first_tap = inlined(fixed_point.first_tap)
second_weight = inlined(fixed_point.second_weight)
first_weighed = inlined(fixed_point.first_weighed)
last_weighed = inlined(fixed_point.last_weighed)
box_edge = inlined(fixed_point.box_edge)
weighted_mean = inlined(fixed_point.weighted_mean)
rational = inlined(fixed_point.rational)


def plane(array: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """A 2-D array or view as one flat array and the step from row to row, in elements.

    Kernels see all windows of all arrays as one type, so each is compiled once.

    Raises
    ------
    ValueError
        If neighbours of a row are not neighbours in memory.
    """
    rows, cols = array.shape
    size = array.itemsize
    if not array.size:
        return np.empty(0, array.dtype), max(cols, 1)
    if cols > 1 and array.strides[1] != size:
        raise ValueError("rows of an engine array must be contiguous in memory")
    step = array.strides[0] // size if rows > 1 else cols
    if step < cols or (rows > 1 and array.strides[0] % size):
        raise ValueError("rows of an engine array must follow one another in memory")
    flat = np.lib.stride_tricks.as_strided(
        array, ((rows - 1) * step + cols,), (size,), writeable=array.flags.writeable
    )
    return flat, step


def table(array: Any, dtype: Any) -> NDArray[Any]:
    """A small array as the one type that kernels take: C-contiguous and writable."""
    return np.require(array, dtype, ["C", "W"])
