"""A device that can be timed: the only module of the GPU check that knows CuPy.

Times are those of CUDA events on the device's main stream. Before each one a buffer larger than the
device's cache is filled: nothing is warm, and what is timed has been asked for before the fill ends,
so the host's time to ask is not in it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cuda.engine import CudaEngine
from bestpixel_gpu.engines.cuda.nvcomp import Nvcomp

EMULATION = Path(__file__).resolve().parents[1] / "tests" / "emulation"
REPEATS = 11
FEWEST = 3
"""Timings of what takes long, see `Bench.time`."""
_FLUSH = 512 << 20
_AT_ONCE = 64
"""Slots compared by one call."""
_SPIN = """extern "C" __global__ void spin(long long *clocks) {
  const long long start = clock64();
  while (clock64() - start < 100000000) { }
  *clocks = clock64() - start;
}"""
_SMI = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


class Timing(NamedTuple):
    """Median seconds of several; ``None`` where nothing can be measured."""

    seconds: float | None
    repeats: int

    def rate(self, amount: float) -> float | None:
        """Thousands of millions of something a second."""
        return None if self.seconds is None else amount / self.seconds / 1e9


class Bench:
    """A GPU.

    Parameters
    ----------
    index : int
    sanitized : bool
        Runs under a sanitizer: everything is done once, and each array is a block of memory of its
        own, which the sanitizer can tell from its neighbours.

    Attributes
    ----------
    device : CupyDevice
    emulated : bool
        Whether nothing can be measured.
    sms : int
        Multiprocessors.
    """

    emulated = False

    def __init__(self, index: int, *, sanitized: bool = False) -> None:
        from bestpixel_gpu.engines.cuda.cupy_device import CupyDevice

        self.device: Any = CupyDevice(index)
        import cupy

        self._cupy, self._index = cupy, index
        if sanitized:
            cupy.cuda.set_allocator(None)
        self._most_repeats = 1 if sanitized else REPEATS
        self._scratch = self.device.empty(1 << 20 if sanitized else _FLUSH, np.uint8)
        self.sms = int(self._properties()["multiProcessorCount"])

    def describe(self) -> dict[str, Any]:
        """Device, driver and versions; clocks and power as ``nvidia-smi`` tells them, where it does."""
        found = self._properties()
        sizes = {"l2_mib": found["l2CacheSize"] >> 20, "memory_gib": found["totalGlobalMem"] >> 30}
        return {**self.device.describe(), "sms": self.sms, **sizes, "nvidia-smi": self._smi()}

    def engine(self, nvcomp: Nvcomp | None = None, device: Any = None, **options: Any) -> CudaEngine:
        """An engine on the device, or on one that looks like it."""
        return CudaEngine(device or self.device, nvcomp, **options)

    def nvcomp(self) -> Nvcomp:
        """The library, where there is one; else :class:`DeviceError`."""
        return Nvcomp.load(driver=self.device.driver)

    def mark(self, stream: Any = None) -> Any:
        """A point in a stream's work, by default the main stream's, that knows its time."""
        with self.device.on(stream) as used:
            event = self._cupy.cuda.Event()
            event.record(used)
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one mark to another, once both have passed."""
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end)) / 1e3

    def time(
        self,
        work: Callable[[], object],
        before: Callable[[], object] | None = None,
        repeats: int = REPEATS,
        most: float = 3.0,
    ) -> Timing:
        """Median device time of work on the main stream, a first turn left out.

        `before` is done each time without being timed. After `most` seconds fewer repeats do, but
        at least :data:`FEWEST`.
        """
        taken: list[float] = []
        started = time.perf_counter()
        for turn in range(min(repeats, self._most_repeats) + 1):
            if before is not None:
                before()
            self.device.fill(self._scratch, turn & 1)
            start = self.mark()
            work()
            seconds = self.between(start, self.mark())
            if turn:
                taken.append(seconds)
            if len(taken) >= FEWEST and time.perf_counter() - started > most:
                break
        return Timing(statistics.median(taken), len(taken))

    def copy(self, target: Any, source: Any) -> None:
        """Copy within the device."""
        with self.device.on(None):
            self._cupy.copyto(target, source)

    def shaped(self, file: str, name: str, macros: Mapping[str, int]) -> Callable[..., None]:
        """A kernel with other macros than its file's, to be called with grid, block and arguments."""
        from bestpixel_gpu.engines.cuda.cupy_device import OPTIONS, source

        defined = "".join(f"#define {macro} {value}\n" for macro, value in macros.items())
        with self.device.on(None):
            kernel = self._cupy.RawKernel(defined + source(file), name, options=OPTIONS)

        def launch(grid: int, block: int, args: Sequence[Any]) -> None:
            with self.device.on(None):
                kernel((grid,), (block,), tuple(args))

        return launch

    def wrong_rows(self, found: Any, expected: NDArray[np.uint8], pick: Sequence[int]) -> int:
        """How many rows i of `found` (uint8, 2-D, on the device) are not row ``pick[i]`` of `expected`."""
        wrong = 0
        with self.device.on(None):
            right, rows = self._cupy.asarray(expected), self._cupy.asarray(np.asarray(pick))
            for at in range(0, len(rows), _AT_ONCE):
                part = slice(at, at + _AT_ONCE)
                wrong += int((found[part] != right[rows[part]]).any(axis=1).sum())
        return wrong

    def clock_hz(self) -> float | None:
        """Clocks a second of the multiprocessors, as one of them counts them at this moment."""
        with self.device.on(None):
            spin, clocks = self._cupy.RawKernel(_SPIN, "spin"), self._cupy.zeros(1, np.int64)
        seconds = self.time(lambda: self._spin(spin, clocks), repeats=FEWEST).seconds
        return float(self.device.download(clocks)[0]) / seconds if seconds else None

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory that arrays lie in, and that the process keeps for them and later ones."""
        with self.device.on(None):
            pool = self._cupy.get_default_memory_pool()
            return int(pool.used_bytes()), int(pool.total_bytes())

    def _spin(self, spin: Any, clocks: Any) -> None:
        with self.device.on(None):
            spin((1,), (1,), (clocks,))

    def _properties(self) -> dict[str, Any]:
        with self.device.on(None):
            found: dict[str, Any] = self._cupy.cuda.runtime.getDeviceProperties(self._index)
            return found

    def _smi(self) -> dict[str, str]:
        if not shutil.which("nvidia-smi"):
            return {}
        bus = self._cupy.cuda.runtime.deviceGetPCIBusId(self._index)
        command = ["nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader", "-i", bus]
        try:
            line = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return {}
        return dict(zip(_SMI, map(str.strip, line.split(",")), strict=False))


class EmulatedBench(Bench):
    """The tests' emulated device: the same work, done once, and no times."""

    emulated = True

    def __init__(self) -> None:
        sys.path.insert(0, str(EMULATION))
        from emulated_device import EmulatedDevice

        self.device = EmulatedDevice(seed=3)
        self.sms = 1

    def describe(self) -> dict[str, Any]:
        """What the device says of itself."""
        return dict(self.device.describe())

    def nvcomp(self) -> Nvcomp:
        """None: nvCOMP cannot be emulated."""
        from bestpixel_gpu.errors import DeviceError

        raise DeviceError("nvCOMP cannot be emulated")

    def mark(self, stream: Any = None) -> Any:
        """Nothing."""
        return None

    def between(self, start: Any, end: Any) -> float:
        """No time."""
        return 0.0

    def time(
        self,
        work: Callable[[], object],
        before: Callable[[], object] | None = None,
        repeats: int = REPEATS,
        most: float = 3.0,
    ) -> Timing:
        """Do it once."""
        if before is not None:
            before()
        work()
        self.device.synchronize()
        return Timing(None, 0)

    def copy(self, target: Any, source: Any) -> None:
        """Copy by way of the host."""
        pinned = self.device.pinned(source.nbytes)
        pinned[:] = self.device.download(source).view(np.uint8).ravel()
        self.device.copy_in(target, pinned.view(target.dtype).reshape(target.shape), self.device.main)
        self.device.synchronize()

    def shaped(self, file: str, name: str, macros: Mapping[str, int]) -> Callable[..., None]:
        """Compiled by g++."""
        from emulated_device import CUDA, host
        from emulator import build

        kernel = build(CUDA / f"{file}.cu", options=[f"-D{m}={v}" for m, v in macros.items()]).kernel(name)

        def launch(grid: int, block: int, args: Sequence[Any]) -> None:
            plain = [a if isinstance(a, np.generic) else host(a) for a in args]
            self.device.main.add(lambda: kernel((grid,), (block,), plain))

        return launch

    def wrong_rows(self, found: Any, expected: NDArray[np.uint8], pick: Sequence[int]) -> int:
        """Compared on the host."""
        return int((self.device.download(found) != expected[np.asarray(pick)]).any(axis=1).sum())

    def clock_hz(self) -> float | None:
        """None."""
        return None

    def memory(self) -> tuple[int, int]:
        """What arrays lie in; it keeps nothing."""
        free, total = self.device.memory()
        return total - free, total - free


def cores() -> float:
    """Processors that this process may use, fewer where its container is held to less."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else min(allowed, int(quota) / int(period))
