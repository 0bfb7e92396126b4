"""Slots of decoded tiles in device memory, and the order between who writes and who reads them."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cuda.device import Device, Event

ALIGNMENT = 64


class CudaPool:
    """Slots in one block of device memory.

    Attributes
    ----------
    slot_bytes, n_slots : int
    step : int
        Bytes from slot to slot, a multiple of 64.
    data : uint8 device array, (step * n_slots,)
    read : Event
        On the main stream, after the last work there that read the pool. A load waits for it.
    """

    def __init__(self, device: Device, slot_bytes: int, n_slots: int) -> None:
        self.slot_bytes, self.n_slots = slot_bytes, n_slots
        self.step = -(-slot_bytes // ALIGNMENT) * ALIGNMENT
        self.data = device.empty(self.step * n_slots, np.uint8)
        self.read = device.main.record()  # whatever used this memory before did so on the main stream
        self._start = device.address(self.data)
        self._device = device
        self._loading: dict[int, Event] = {}
        self._lock = threading.Lock()

    def address(self, slot: int) -> int:
        """Where a slot starts."""
        return self._start + slot * self.step

    def loading(self, slots: Iterable[int], event: Event) -> None:
        """`slots` are written by work that has ended at `event`."""
        with self._lock:
            self._loading |= dict.fromkeys(slots, event)

    def loaded(self, event: Event) -> None:
        """The work before `event` has ended: nobody need wait for it any more."""
        with self._lock:
            self._loading = {slot: e for slot, e in self._loading.items() if e is not event}

    def before_reading(self, slots: NDArray[np.int32]) -> None:
        """Let the main stream wait for the loads into `slots` that are still under way."""
        with self._lock:
            events = {id(e): e for slot, e in self._loading.items() if (slots == slot).any()}
        for event in events.values():
            self._device.main.wait_for(event)

    def after_reading(self) -> None:
        """Let later loads wait for what the main stream has been asked for so far."""
        self.read = self._device.main.record()
