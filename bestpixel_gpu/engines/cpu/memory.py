"""How much memory there is."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

_UNKNOWN = 4 << 30
SHARE = 2
"""The engine takes one part in this many of what is free."""


def available_bytes() -> int:
    """Free memory of this machine or container, whichever is less."""
    free = _meminfo() or _sysconf() or _UNKNOWN
    limit = _cgroup_limit()
    return min(free, limit) if limit is not None else free


def default_budget() -> int:
    """Bytes an engine may use if nobody says otherwise: half of what is available."""
    return available_bytes() // SHARE


def give_back() -> None:
    """Hand freed memory back to the system, where the C library keeps some.

    glibc keeps tens of MiB for each thread that freed large arrays.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return None


def _meminfo(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _sysconf() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The container's limit, by cgroup v2, else v1; ``None`` without one."""
    for path in (root / "memory.max", root / "memory/memory.limit_in_bytes"):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None
