"""An emulated device whose arrays lie between guard bytes, and windows of arrays between guard pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from emulated_device import DeviceArray, EmulatedDevice, host

GUARD, VALUE = 256, 0x5C


class GuardedDevice(EmulatedDevice):
    """Keeps every array it made, to see whether anything was written beside it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._kept: list[DeviceArray] = []

    def empty(self, shape: Any, dtype: Any, stream: Any = None) -> DeviceArray:
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        whole = super().empty(nbytes + 2 * GUARD, np.uint8, stream)
        for part in (whole[:GUARD], whole[GUARD + nbytes :]):
            self.fill(part, VALUE, stream)
        self._kept.append(whole)
        return whole[GUARD : GUARD + nbytes].view(dtype).reshape(shape)

    def check(self) -> None:
        """Nothing was written outside of an array."""
        self.synchronize()
        for whole in self._kept:
            content = host(whole)
            assert (content[:GUARD] == VALUE).all()
            assert (content[-GUARD:] == VALUE).all()


class Windowed:
    """A host array as a window of a larger device array, whose other pixels nobody may touch.

    Attributes
    ----------
    array : DeviceArray
        The window, with a pitch of its own; upside down where `rng` says so.
    """

    def __init__(self, device: EmulatedDevice, rng: np.random.Generator, content: np.ndarray) -> None:
        around = rng.integers(0, 4, 4)
        rows, cols = content.shape
        noise = rng.integers(0, 250, (rows + around[:2].sum(), cols + around[2:].sum()))
        self._before = noise.astype(content.dtype)
        self._part = (
            slice(around[0], around[0] + rows),
            slice(around[2], around[2] + cols),
        )
        turn = slice(None, None, -1) if rng.random() < 0.3 else slice(None)
        self._turn = turn
        self._before[self._part] = content[turn]
        self._device, self._whole = device, device.upload(self._before)
        self.array = self._whole[self._part][turn]

    def content(self) -> np.ndarray:
        """What the window holds now; what lies around it must be as it was."""
        after = self._device.download(self._whole)
        got = after[self._part].copy()
        after[self._part] = self._before[self._part]
        np.testing.assert_array_equal(after, self._before)
        return got[self._turn]
