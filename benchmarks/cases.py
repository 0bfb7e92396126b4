"""What is measured: archives, the cases of each row, and the goals they are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

ARCHIVES = {  # name -> options of the archive writer
    "warm": "--dates 3 --tiles 1 --size 256 --seed 9",
    "tile": "--dates 8 --tiles 1",
    "seam": "--dates 3 --tiles 2 --size 1024 --seam --dialect es",
    "full": "--dates 8 --size 10980 --dialect es --bands red,green,blue,nir --level 1 --threads 1",
}
BANDS4 = ("red", "green", "blue", "nir")
PEERS = ("ours", "odc-stac", "stackstac")
FULL = 10980
HALF = 5120  # five rows of tiles: both parts of the split read each tile once


@dataclass(frozen=True)
class Case:
    """One measurement: an archive, the work on it, and who does it."""

    archive: str
    work: str = "composite"
    """``composite``, ``picture``, ``N``, ``O``, ``W``, ``import`` or ``first``."""
    who: Sequence[str] = ("ours", "ancestor")
    endpoint: str = "es"
    resolution: float = 60
    bands: Sequence[str] | None = None
    top_k: int | None = 3
    latency_ms: float = 0
    window: Sequence[int] | None = None
    """(row0, row1, col0, col1) of the first tile, in pixels of the resolution; else its inner box."""
    items: bool = False
    """The items are handed over, not searched."""
    without: str = ""
    """The item left out."""

    @property
    def small(self) -> Self:
        """The same for the archive `warm`."""
        return replace(self, window=None, without="", resolution=max(self.resolution, 20))

    @property
    def label(self) -> str:
        """The case in a few words."""
        if self.work in TASKS:
            return f"{self.work}: {TASKS[self.work]}"
        if self.work == "import":
            return "import"
        n = len(self.bands) if self.bands else 12
        parts = [self.endpoint, f"{n} band{'s' * (n > 1)}", f"{self.resolution:g} m"]
        if self.window:
            parts.append(f"rows {self.window[0]}-{self.window[1]}, columns {self.window[2]}-{self.window[3]}")
        if self.work == "first":
            parts.append("items handed over" if self.items else "with search")
        if self.without:
            parts.append("one date less")
        return ", ".join(parts) + f", {self.latency_ms:g} ms latency" * bool(self.latency_ms)


TASKS = {
    "N": "windows of 2048 x 2048 at 10 m",
    "O": "whole tiles of 109.8 km at 60 m, from overviews",
    "W": "2048 x 2048 at 10 m in the neighbouring zone",
}
CLOUDIEST = "S2B_31TCJ_20240727_0_L2A"
BOX = (1024, 1536, 1024, 1536)
WHOLE, UPPER, LOWER = (0, FULL, 0, FULL), (0, HALF, 0, FULL), (HALF, FULL, 0, FULL)

ROWS: dict[str, list[Case]] = {
    "C1": [Case("tile", endpoint=e, resolution=10) for e in ("es", "pc")],
    "C2": [Case("tile", endpoint=e) for e in ("es", "pc")],
    "C3": [Case("full", resolution=r, bands=b) for b in (("red",), BANDS4) for r in (60, 20)],
    "C4": [Case("seam", resolution=20)],
    "C5": [Case("tile", work="picture", who=PEERS, resolution=10, bands=BANDS4, top_k=None)],
    "C6": [Case("full", work=task, who=("ours", "rasterio")) for task in TASKS],
    "C7": [
        Case("warm", work="import", who=("ours",)),
        *(Case("warm", work="first", who=("ours",), items=items) for items in (False, True)),
    ],
    "C8": [
        *(Case("full", who=("ours",), resolution=10, bands=BANDS4, window=w) for w in (WHOLE, UPPER, LOWER)),
        Case("full", who=("ours",), resolution=10, bands=("red",), window=WHOLE),
        *(Case("full", who=("ours",), bands=BANDS4, items=True, without=w) for w in ("", CLOUDIEST)),
    ],
    "C9": [
        *(Case("full", who=("ours",), resolution=20, bands=BANDS4, latency_ms=ms) for ms in (0, 20, 100)),
        *(Case("tile", who=("ours",), resolution=10, window=BOX, latency_ms=ms) for ms in (0, 100)),
        *(Case("tile", who=("ours",), latency_ms=ms) for ms in (0, 100)),
    ],
}

AGAINST_ANCESTOR = ("C1", "C2", "C3", "C4")
KERNELS = [Case("warm", work="W"), Case("tile", resolution=10)]


@dataclass(frozen=True)
class Goal:
    """A figure of one case, or of a whole row, and what it may be at most."""

    text: str
    limit: float
    value: Callable[[Any], float]
    unit: str = ""


def ratio(figure: str, limit: float, peer: str = "ancestor") -> Goal:
    """Ours / peer, of medians."""
    return Goal(f"{figure} / {peer}", limit, lambda s: s["ratios"][peer][figure])


def over_ideal(limit: float) -> Goal:
    """Bytes over the ideal ones."""
    return Goal("bytes / ideal", limit, lambda s: s["bytes_over_ideal"])


CASE_GOALS: dict[str, Callable[[Case], list[Goal]]] = {
    "C1": lambda _: [ratio("cpu", 0.5), ratio("wall", 0.6), over_ideal(1.05)],
    "C2": lambda _: [ratio("cpu", 0.2), over_ideal(1.10)],
    "C3": lambda _: [ratio("cpu", 0.15), ratio("rss", 0.25)],
    "C4": lambda _: [ratio("cpu", 0.1)],
    "C5": lambda _: [ratio("cpu", 0.25, "odc-stac"), ratio("cpu", 0.1, "stackstac")],
    "C6": lambda case: [ratio("cpu", {"N": 0.75, "O": 0.55, "W": 0.20}[case.work], "rasterio")],
}


def ours(s: dict[str, Any], figure: str) -> float:
    """Our median of a figure."""
    return float(s["medians"]["ours"][figure])


def beyond_output(s: dict[str, Any]) -> float:
    """GiB that the process held beyond its output at its peak."""
    return (ours(s, "rss_mib") * 2**20 - ours(s, "output_bytes")) / 2**30


def beyond_output_of(n_bands: int, s: list[dict[str, Any]]) -> float:
    """The same, for more bands: the line through one band and four."""
    one, four = beyond_output(s[3]), beyond_output(s[0])
    return four + (n_bands - 4) * (four - one) / 3


ROW_GOALS: dict[str, list[Goal]] = {
    "C7": [
        Goal("import", 0.15, lambda s: ours(s[0], "cpu_s"), "CPU s"),
        Goal("first - second, with search", 1.2, lambda s: ours(s[1], "first_minus_second_s"), "CPU s"),
        Goal("first - second, items handed over", 1.0, lambda s: ours(s[2], "first_minus_second_s"), "CPU s"),
    ],
    "C8": [
        Goal("peak - output, 4 bands", 1.0, lambda s: beyond_output(s[0]), "GiB"),
        Goal("peak - output, carried on to 12 bands", 1.0, lambda s: beyond_output_of(12, s), "GiB"),
        Goal(
            "distance from 1 of CPU of two parts / CPU of the whole",
            0.1,
            lambda s: abs((ours(s[1], "cpu_s") + ours(s[2], "cpu_s")) / ours(s[0], "cpu_s") - 1),
        ),
        Goal(
            "bytes of one more cloudy date / its mask and header",
            1.0,
            lambda s: (ours(s[4], "bytes") - ours(s[5], "bytes")) / ours(s[4], "cloudy_mask_bytes"),
        ),
    ],
    "C9": [
        Goal("wall at 20 ms / at 0 ms", 1.5, lambda s: ours(s[1], "wall_s") / ours(s[0], "wall_s")),
        Goal("wall at 100 ms / at 0 ms", 1.5, lambda s: ours(s[2], "wall_s") / ours(s[0], "wall_s")),
        Goal(
            "round trips of a box of 512 px",
            8,
            lambda s: (ours(s[4], "wall_s") - ours(s[3], "wall_s")) / 0.1,
        ),
    ],
}
