"""How many bytes a request takes at its peak, and what would fit where it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bestpixel_gpu.errors import MemoryLimitError

KEY_BYTES = 4
COUNT_BYTES = 2
QUALITY_BYTES = 2
BAND_BYTES = 2


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by purpose. The two stages do not overlap: keys are gone before bands are made."""

    output: int
    """Bands, quality, counts, winners."""
    keys: int
    masks: int
    """Compressed class masks, kept for repair."""
    in_flight: int
    """Compressed bytes on their way or waiting to be decoded."""
    tiles: int
    """Decoded tiles in pools."""
    limit: int

    @property
    def peak(self) -> int:
        """Most bytes at once."""
        ranking = self.keys + self.layers + self.masks
        return max(ranking, self.output + self.masks + self.in_flight + self.tiles)

    @property
    def layers(self) -> int:
        """Never more than the output."""
        return min(self.output, self.keys * (QUALITY_BYTES + COUNT_BYTES + 4) // KEY_BYTES)

    def as_dict(self) -> dict[str, int]:
        """JSON-able, with the peak."""
        return {
            "output": self.output,
            "keys": self.keys,
            "masks": self.masks,
            "in_flight": self.in_flight,
            "tiles": self.tiles,
            "peak": self.peak,
            "limit": self.limit,
        }


def output_bytes(pixels: int, n_bands: int, rank_bytes: int = 2) -> int:
    """Bytes of the layers a composite holds."""
    return pixels * (n_bands * BAND_BYTES + QUALITY_BYTES + COUNT_BYTES + rank_bytes)


def check_output(pixels: int, n_bands: int, limit: int, resolution: float) -> None:
    """Refuse a result that cannot fit, before any request is made.

    Raises
    ------
    MemoryLimitError
        With limits, resolutions and areas that would fit.
    """
    ranking = pixels * (KEY_BYTES + COUNT_BYTES + QUALITY_BYTES + 2)
    need = max(output_bytes(pixels, n_bands), ranking)
    if need > limit:
        refuse(need, limit, pixels, n_bands, resolution)


def refuse(need: int, limit: int, pixels: int, n_bands: int, resolution: float) -> None:
    """Raise the error that names what would fit."""
    coarser = resolution * math.sqrt(need / limit)
    raise MemoryLimitError(
        f"{pixels:,} pixels x {n_bands} bands need {mib(need)} but memory_limit is {mib(limit)}: "
        f"raise memory_limit to at least {mib(need)}, take resolution >= {coarser:.3g}, "
        f"an area {need / limit:.2g} times smaller, or fewer bands"
    )


def mib(n: int) -> str:
    """Bytes in words."""
    return f"{n / (1 << 30):.2f} GiB" if n >= 1 << 30 else f"{-(-n // (1 << 20))} MiB"
