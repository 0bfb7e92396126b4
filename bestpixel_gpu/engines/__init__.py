"""Engines: memory and arithmetic of a device behind one contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bestpixel_gpu.errors import DeviceError, InputError

if TYPE_CHECKING:
    from bestpixel_gpu.engines.contract import Engine

__all__ = ["create"]


def create(device: str = "auto", threads: int | None = None) -> Engine:
    """Engine of a device.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        ``"auto"`` takes the best device there is.
    threads : int, optional
        Threads of the CPU engine's own executor.

    Raises
    ------
    InputError
        If there is no such device name.
    DeviceError
        If the device cannot be used.
    """
    if device in ("auto", "cpu"):
        from bestpixel_gpu.engines.cpu.engine import CpuEngine

        return CpuEngine(threads)
    if device == "cuda" or device.startswith("cuda:"):
        raise DeviceError("the CUDA engine is not in this version; use device='cpu' or 'auto'")
    raise InputError(f"device={device!r}: expected 'auto', 'cpu' or 'cuda'")
