"""Which tiles the winners' samples need, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import TapGeometry, Window
from bestpixel_gpu.engines.cuda.device import Device, blocks
from bestpixel_gpu.engines.cuda.paint import check_winners, winner_arguments
from bestpixel_gpu.engines.cuda.positions import Maps
from bestpixel_gpu.engines.cuda.sources import upload_geometries

THREADS = 128
"""Of a block of ``cuda/owners.cu``."""
ROWS = 16
"""Rows of each of its threads."""


def owners(
    device: Device, maps: Maps, window: Window, winners: Any, geometries: Mapping[int, TapGeometry]
) -> dict[int, NDArray[np.int64]]:
    """Tiles with a tap of weight > 0 under a pixel that a scene won; see the contract.

    One launch and one copy back, a bit per tile, for all ranks.
    """
    if not check_winners(window, winners) or not geometries:
        return {rank: np.zeros(0, np.int64) for rank in geometries}
    row0, row1, col0, col1 = window
    sources = upload_geometries(device, maps, geometries)
    bits = device.empty(blocks(int(sources.first_tile[-1]), 32), np.uint32)
    device.fill(bits, 0)
    place = map(np.int64, (row0, col0, row1 - row0, col1 - col0))
    args = [sources.structs, *winner_arguments(winners, sources), *place, bits]
    grid = blocks(col1 - col0, THREADS) * blocks(row1 - row0, ROWS)
    device.launch(("owners", "owners"), grid, THREADS, args)
    marks = np.unpackbits(device.download(bits).view(np.uint8), bitorder="little")
    ends = sources.first_tile
    parts = zip(geometries, ends[:-1], ends[1:], strict=True)
    return {rank: np.flatnonzero(marks[first:end]) for rank, first, end in parts}
