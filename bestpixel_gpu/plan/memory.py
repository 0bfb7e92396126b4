"""How many bytes a request takes at its peak, and what would fit where it does not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NoReturn

from bestpixel_gpu.errors import MemoryLimitError

BAND_BYTES = 2
UNCERTAINTY_BYTES = 4
LAYER_BYTES = 4
"""Quality and observation count."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Budget:
    """What each purpose may take at most: fixed sizes where there is plenty, shares where there is not."""

    strip: int
    """Keys and layers of a strip that is ranked at once, per thread."""
    codes: int
    """Score codes kept until the winners are known, all masks together."""
    repair_codes: int
    """Score codes kept for repair."""
    undecoded: int
    """Compressed bytes under way or waiting to be decoded."""
    starved: int
    """The same where decoding waits for the network, as it does far from the host."""
    kept: int
    """Compressed band tiles kept for repair."""

    @classmethod
    def of(cls, limit: int, output: int, threads: int, bands: int, lookahead: int) -> Budget:
        """Shares of what the output leaves of the limit; `bands` of its bytes are the bands.

        `lookahead` bytes of decoded tiles are what the engine likes to have at hand.
        """
        spare = max(limit - output, 0)
        return cls(
            strip=max(min(64 * MIB, spare // (2 * threads)), MIB),
            codes=min(64 * MIB + bands, spare // 4),  # there are no bands yet
            repair_codes=min(16 * MIB, spare // 8),
            undecoded=max(min(max(32 * MIB, lookahead // 2), spare // 4), MIB),
            starved=max(min(max(64 * MIB, lookahead // 2), spare // 4), MIB),
            kept=min(64 * MIB, spare // 8),
        )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by purpose. Ranking and painting do not overlap."""

    output: int
    """Bands, quality, counts, winners."""
    ranking: int
    """What is there before or after the bands are painted: strips of keys and decoded masks, of all
    threads, and kept codes that do not fit where bands go; values that compete; sums of uncertainty."""
    masks: int
    """Compressed class masks, and the codes kept of them for repair."""
    in_flight: int
    """Compressed bytes under way, waiting to be decoded, or kept for repair."""
    tiles: int
    """Decoded tiles in pools."""
    limit: int

    @property
    def peak(self) -> int:
        """Most bytes at once."""
        return self.output + self.masks + max(self.ranking, self.in_flight + self.tiles)

    def as_dict(self) -> dict[str, int]:
        """JSON-able, with the peak."""
        return asdict(self) | {"peak": self.peak}


def output_bytes(pixels: int, n_bands: int, rank_bytes: int = 2, n_uncertain: int = 0) -> int:
    """Bytes of the layers a composite holds: bands, some of them with their uncertainty, and the rest."""
    return pixels * (n_bands * BAND_BYTES + n_uncertain * UNCERTAINTY_BYTES + LAYER_BYTES + rank_bytes)


def check_output(pixels: int, n_bands: int, limit: int, resolution: float, n_uncertain: int = 0) -> None:
    """Refuse a result that cannot fit, before any request is made.

    Raises
    ------
    MemoryLimitError
        With limits, resolutions and areas that would fit.
    """
    need = output_bytes(pixels, n_bands, n_uncertain=n_uncertain)
    if need > limit:
        what = f"{pixels:,} pixels x {n_bands} bands need {mib(need)} for the result alone"
        more = f"to at least {mib(need)} and what masks and tiles take"
        raise _refusal(what, limit, more, 2 * need / limit, resolution)


def no_room(pixels: int, n_bands: int, n_uncertain: int, device: str) -> MemoryLimitError:
    """The error of a result for whose arrays the device has no room, whatever it told."""
    need = mib(output_bytes(pixels, n_bands, n_uncertain=n_uncertain))
    return MemoryLimitError(
        f"{pixels:,} pixels x {n_bands} bands need {need} for the result alone, and {device} has less left: "
        "take a coarser resolution, a smaller area or fewer bands, or end what else uses its memory"
    )


def refuse(need: int, what: str, limit: int, pixels: int, n_bands: int, resolution: float) -> NoReturn:
    """Raise the error that names what would fit.

    What is missing counts twice: up to half of what the output leaves is shared out (:class:`Budget`), so
    with more room more is taken.
    """
    output, missing = output_bytes(pixels, n_bands), need - limit
    room = output - 2 * missing
    what = f"{pixels:,} pixels x {n_bands} bands need {mib(need)} {what}"
    more = f"to at least {mib(limit + 2 * missing)}"
    raise _refusal(what, limit, more, output / room if room > 0 else math.inf, resolution)


def _refusal(what: str, limit: int, more: str, too_large: float, resolution: float) -> MemoryLimitError:
    """The error; no coarseness is named where none would do."""
    smaller = ""
    if math.isfinite(too_large):
        coarser = _up(resolution * math.sqrt(too_large))
        smaller = f"take resolution >= {coarser}, an area {_up(too_large)} times smaller, or "
    less = smaller or "or take "
    return MemoryLimitError(
        f"{what} but memory_limit is {mib(limit)}: raise memory_limit {more}, {less}fewer bands"
    )


def _up(number: float) -> str:
    """Three digits, rounded up."""
    step = 10.0 ** (math.floor(math.log10(number)) - 2)
    return f"{math.ceil(number / step) * step:g}"


def mib(n: int) -> str:
    """Bytes in words, rounded up: whoever takes a limit from a message has enough."""
    return (
        f"{math.ceil(n / MIB / 10.24) / 100:.2f} GiB"
        if n >= 1 << 30
        else f"{math.ceil(n / MIB * 10) / 10:.1f} MiB"
    )
