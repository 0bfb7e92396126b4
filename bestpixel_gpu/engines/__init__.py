"""Engines: memory and arithmetic of a device behind one contract."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from bestpixel_gpu.errors import DeviceError, InputError

if TYPE_CHECKING:
    from bestpixel_gpu.engines.contract import Engine

__all__ = ["create", "release_memory"]


def create(device: str = "auto", threads: int | None = None, inflate: str = "auto") -> Engine:
    """Engine of a device; its `note` says what the caller should know about the choice.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``"auto"`` takes the first CUDA device if it can be used, else the CPU.
    threads : int, optional
        Threads of the CPU engine's own executor.
    inflate : {"auto", "nvcomp", "safe"}
        Who inflates on a CUDA device, see :class:`~bestpixel_gpu.engines.cuda.engine.CudaEngine`.

    Raises
    ------
    InputError
        If there is no such device name.
    DeviceError
        If the named device cannot be used; the message says what to do.
    """
    if device == "cpu":
        return _cpu(threads)
    if device != "auto" and not re.fullmatch(r"cuda(:[0-9]+)?", device):
        raise InputError(f"device={device!r}: expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    index = int(device.partition(":")[2] or 0)
    try:
        return _cuda(index, inflate)
    except DeviceError as error:
        if device != "auto":
            raise DeviceError(f"device={device!r}: {error}") from error.__cause__
        return _cpu(threads, f"device='auto' chose the CPU: {error}")


def _cpu(threads: int | None, note: str = "") -> Engine:
    from bestpixel_gpu.engines.cpu.engine import CpuEngine

    engine = CpuEngine(threads)
    engine.note = note
    return engine


def _cuda(index: int, inflate: str) -> Engine:
    from bestpixel_gpu.engines.cuda.environment import problem

    reason = problem(index)
    if reason is not None:
        raise DeviceError(reason)
    from bestpixel_gpu.engines.cuda.engine import kept_engine

    return kept_engine(index, inflate)


def release_memory() -> None:
    """Give back device memory that is kept for the next run; nothing where no device was used.

    No run may be under way in another thread.
    """
    module = sys.modules.get("bestpixel_gpu.engines.cuda.engine")
    if module is not None:
        module.release_memory()
