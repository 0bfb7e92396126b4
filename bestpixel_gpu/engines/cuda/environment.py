"""Whether CUDA can be used here, and if not, why: one line that says what to do.

Nothing of CUDA is touched by importing this module. CUDA does not survive a fork: the process that
first found a device is remembered, and its forked children are refused before they touch anything.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import metadata
from typing import Any

INSTALL = "pip install 'bestpixel-gpu[cuda12]' (or [cuda13] for a driver of CUDA 13)"
CUPY = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
"""Distributions that all install the one package ``cupy``."""

INITIALIZATION_ERROR = 3
INSUFFICIENT_DRIVER = 35
NO_DEVICE = 100
"""Values of ``cudaError_t`` (CUDA Runtime API, data types)."""

_SPAWN = "start workers with multiprocessing_context='spawn', or use device='cpu' in them"

_used_in: set[int] = set()
"""Processes that found a device, this one or one it was forked from: asking starts the driver."""


def problem(index: int = 0) -> str | None:
    """Why CUDA device number `index` cannot be used, ``None`` where nothing stands against it.

    Imports CuPy, starts the CUDA driver and loads the kernel compiler, but makes no context and
    takes no device memory.
    """
    if _used_in - {os.getpid()}:
        return f"CUDA was in use before this process was forked, and does not survive it: {_SPAWN}"
    cupy, reason = _import_cupy()
    reason = reason or _device_problem(cupy.cuda.runtime, index)
    if reason is None:
        _used_in.add(os.getpid())
        reason = _compiler_problem(cupy.cuda.nvrtc)
    return reason


def installed(*distributions: str) -> list[str]:
    """Those of the named distributions that are installed, in the order given."""
    found = []
    for name in distributions:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


@cache
def _import_cupy() -> tuple[Any, str | None]:
    """CuPy, or what keeps it from being imported: looked for once, as each look costs most of a millisecond."""
    found = installed(*CUPY)
    if len(found) > 1:
        both = " and ".join(found)
        return None, (
            f"{both} are installed together and overwrite each other: "
            f"pip uninstall -y {' '.join(found)}, then {INSTALL}"
        )
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return None, f"CuPy is not installed: {INSTALL}"
        return None, _broken_cupy(error)
    except Exception as error:  # extension modules fail to load in many ways, and "auto" must go on
        return None, _broken_cupy(error)
    if cupy.cuda.runtime.is_hip:
        return None, f"CuPy is installed for ROCm, and this package needs CUDA: uninstall it, then {INSTALL}"
    return cupy, None


def _broken_cupy(error: Exception) -> str:
    return f"CuPy cannot be imported ({_one_line(error.__cause__ or error)}): uninstall it, then {INSTALL}"


def _device_problem(runtime: Any, index: int) -> str | None:
    """What the driver has against the device; `runtime` is ``cupy.cuda.runtime``."""
    try:
        driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            return "no NVIDIA driver was found: install one (nvidia-smi shows it), or use device='cpu'"
        if driver // 1000 < built_for // 1000:
            return _old_driver(driver, built_for)
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == INSUFFICIENT_DRIVER:
            return _old_driver(driver, built_for)
        if error.status == INITIALIZATION_ERROR:
            return f"the NVIDIA driver does not start here; if this process was forked, {_SPAWN}"
        if error.status != NO_DEVICE:
            return f"the NVIDIA driver failed ({_one_line(error)}): see whether nvidia-smi works"
        count = 0
    if index < count:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    limit = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
    if count == 0:
        return f"the NVIDIA driver shows no device{limit}: see what nvidia-smi lists, or use device='cpu'"
    return f"there is no CUDA device {index}: the driver shows {count}{limit}, counted from 0"


def _compiler_problem(nvrtc: Any) -> str | None:
    """What keeps kernels from being compiled; CuPy's wheels hold no compiler."""
    try:
        nvrtc.getVersion()
    except Exception:  # its class differs with how CuPy was built
        return f"CuPy finds no NVRTC, the compiler of CUDA kernels: {_toolkit()}"
    return None


def compiler_trouble(error: Exception) -> str:
    """Why a first kernel was not made, and what to do; CuPy's wheels do not hold CUDA's headers either."""
    return f"CuPy cannot compile kernels ({_one_line(error)}): {_toolkit()}"


def _toolkit() -> str:
    wheels = [name for name in installed(*CUPY) if name != "cupy"]
    return f"pip install -U '{wheels[0]}[ctk]'" if wheels else "install the CUDA toolkit"


def _old_driver(driver: int, built_for: int) -> str:
    advice = f"update the driver, or pip install 'bestpixel-gpu[cuda{driver // 1000}]' in its place"
    if driver // 1000 < 12 or driver // 1000 >= built_for // 1000:
        advice = "update the driver"
    return (
        f"the NVIDIA driver supports CUDA {version_text(driver)} and CuPy needs {version_text(built_for)}: "
        f"{advice}"
    )


def version_text(version: int) -> str:
    """``"12.9"`` of 12090, as CUDA counts its versions."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _one_line(error: BaseException) -> str:
    """The first line of a message that says something; CuPy frames some of its own in rules."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.strip("=-")), type(error).__name__)
