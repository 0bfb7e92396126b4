"""Divisions of streams between device and host that nothing was measured for."""

from __future__ import annotations

import random
from collections.abc import Sequence

from bestpixel_gpu.engines.cuda.share import Share, Way


class Forced(Share):
    """The host gets each stream with a probability, whatever is known; seen is seen as ever."""

    def __init__(self, part: float, seed: int = 0, workers: int = 3) -> None:
        super().__init__(workers)
        self.part, self.asked, self._draw = part, 0, random.Random(seed)

    def for_host(self, streams: Sequence[tuple[Way, int]]) -> list[int]:
        chosen = [i for i in range(len(streams)) if self._draw.random() < self.part]
        self.asked += 1
        return chosen
