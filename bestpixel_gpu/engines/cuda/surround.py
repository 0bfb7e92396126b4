"""Codes near marked ones, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from bestpixel_gpu.engines.contract import Surround
from bestpixel_gpu.engines.cuda.device import Device, pitch
from bestpixel_gpu.engines.cuda.masks import ROWS, THREADS, patches


def surround(device: Device, data: Any, rule: Surround) -> None:
    """Change codes that are marked or near marked ones; see the contract."""
    if not data.size:
        return
    rows, cols = data.shape
    gaps = device.empty((rows, cols), np.uint16)
    grid, size = patches(rows, cols, THREADS, ROWS), (np.int64(rows), np.int64(cols))
    marked = device.upload(rule.marked.astype(np.uint8))
    args = [data, pitch(data), *size, marked, np.int64(rule.reach[0]), gaps]
    device.launch(("surround", "gaps_across"), grid, THREADS, args)
    reach = device.upload(rule.reach.astype(np.int32))
    becomes = device.upload(rule.becomes.astype(np.uint8))
    args = [gaps, data, pitch(data), *size, reach, np.int64(len(rule.reach)), becomes]
    device.launch(("surround", "near_down"), grid, THREADS, args)
