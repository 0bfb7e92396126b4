"""What a run did: scenes, losses, bytes, time and the decisions behind them."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from bestpixel_gpu.errors import BestPixelWarning, OffsetWarning, PartialResultWarning
from bestpixel_gpu.plan.memory import mib

Status = Literal["used", "dropped", "failed"]

_EXTRA_READS = {
    "rule": {"ndvi": "rule='ndvi' reads red and nir of every scene that competes for a pixel"},
    "emit_uncertainty": {"True": "emit_uncertainty reads all bands of every selected scene"},
}
"""Arguments, their values and what these read beyond the winners' tiles."""
SHOWN_SCENES = 20
SHOWN_LOSSES = 5


@dataclass(slots=True)
class SceneRecord:
    """One item of the search and what became of it."""

    id: str
    date: str
    """Sensing time, ISO 8601; empty if unknown."""
    tile: str
    collection: str
    cloud_cover: float | None = None
    """Percent, as the item says."""
    offset: int = 0
    """DN that were subtracted."""
    offset_reason: str = ""
    status: Status = "used"
    reason: str = ""
    """Why it was dropped or failed."""
    clear_share: float | None = None
    """Clear pixels / all output pixels of the box."""
    selected: bool = False
    """Picked by some chunk; else it only fills."""
    rank: int | None = None
    """Its number in ``selected_observation``."""
    pixels_won: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """One tile that could not be read."""

    item: str
    asset: str
    tile: int
    status: int | None
    """HTTP status of the last attempt, where there was an answer."""
    attempts: int
    message: str


@dataclass(slots=True)
class Report:
    """Running record of one composite; complete when the composite is.

    Attributes
    ----------
    request : dict
        The arguments, JSON-able.
    scenes : list of SceneRecord
        Every item found: used, dropped or failed, with the reason.
    failures : list of Failure
        Every tile that could not be read.
    bytes, requests, retries : int
        What went over the network, searches apart.
    requests_by_kind : dict
        Requests for ``"header"``, ``"tile"`` and ``"json"`` (tokens).
    searches : int
        Searches of the catalogue: 0 where the items were given or known from the cache on disk.
    masks_spared : int
        Masks that were not read, as the cache on disk knew that their scenes are not selected.
    seconds : dict
        Stage -> wall seconds.
    memory : dict
        Planned bytes by purpose, with peak and limit.
    wanted_tiles, lost_tiles : int
        Band tiles of the read plans, and those that could not be read.
    repair_rounds : int
        Rounds in which the next best observation replaced an unreadable or invalid one.
    empty_pixels : int
        Output pixels without any observation.
    decoded_pixels : int
        Pixels of all inflated tiles.
    undecided_offsets : int
        Scenes whose radiometric offset the metadata do not tell.
    """

    request: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    device_note: str = ""
    """Why this device, where the caller left the choice; how it works, where that may differ."""
    device_facts: dict[str, Any] = field(default_factory=dict)
    """Of a CUDA device: model, compute capability, versions, what inflates; streams and decoded bytes that
    device and host inflated in this run (and in runs beside it: they share the device), and stored bytes
    that went to the device straight from where they were received, or gathered, with the batches and copies
    that took; the rates seen by then, decoded GB/s by way of decoding."""
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    items_found: int = 0
    scenes: list[SceneRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bytes: int = 0
    requests: int = 0
    requests_by_kind: dict[str, int] = field(default_factory=dict)
    searches: int = 0
    masks_spared: int = 0
    retries: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    wanted_tiles: int = 0
    lost_tiles: int = 0
    repair_rounds: int = 0
    empty_pixels: int = 0
    decoded_pixels: int = 0
    undecided_offsets: int = 0

    @contextmanager
    def only_if_done(self) -> Iterator[None]:
        """Tiles wanted and lost inside do not count where it ends with too little memory: it begins anew."""
        failures, wanted, lost = len(self.failures), self.wanted_tiles, self.lost_tiles
        try:
            yield
        except MemoryError:
            del self.failures[failures:]
            self.wanted_tiles, self.lost_tiles = wanted, lost
            raise

    @classmethod
    def begin(cls, request: dict[str, Any], device: str, threads: int, device_note: str = "") -> Report:
        """Report of a run that starts now, with the versions it runs on."""
        versions = dict(_versions())
        return cls(
            request=request, device=device, device_note=device_note, threads=threads, versions=versions
        )

    def note_device(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Keep what the engine says of its device, and by how much its counts grew."""
        self.device_facts = {
            name: fact - before[name] if isinstance(fact, int) else fact for name, fact in now.items()
        }

    def scene(self, id: str) -> SceneRecord:  # noqa: A002  (STAC's own word)
        """Record of an item: the used one where a dropped twin has the same id; KeyError if none."""
        same = [s for s in self.scenes if s.id == id]
        if not same:
            raise KeyError(id)
        return next((s for s in same if s.status == "used"), same[-1])

    def warn(self, message: str, category: type[BestPixelWarning] = BestPixelWarning) -> None:
        """Keep a warning and raise it through :mod:`warnings`."""
        self.warnings.append(message)
        warnings.warn(message, category, stacklevel=2)

    def warn_offset(self, message: str) -> None:
        """Keep a warning about a radiometric offset; only the first one is also raised."""
        self.warnings.append(message)
        self.undecided_offsets += 1
        if self.undecided_offsets == 1:
            warnings.warn(message, OffsetWarning, stacklevel=2)

    def warn_if_partial(self) -> None:
        """Raise one :class:`PartialResultWarning` if tiles or scenes were lost."""
        failed = self.counts["failed"]
        if self.lost_tiles or failed:
            self.warn(
                f"{self.lost_tiles} tiles and {failed} scenes could not be read; the next best observation "
                f"stands in their place, {self.empty_pixels} pixels are empty; see .report",
                PartialResultWarning,
            )

    @property
    def extra_reads(self) -> str:
        """What the request reads beyond the winners' tiles, in words; empty if nothing."""
        notes = (_EXTRA_READS.get(name, {}).get(str(value), "") for name, value in self.request.items())
        return "; ".join(filter(None, notes))

    @property
    def counts(self) -> dict[str, int]:
        """Items by what became of them: found, used, selected, dropped, failed."""
        by_status = Counter(s.status for s in self.scenes)
        return {
            "found": max(self.items_found, len(self.scenes)),
            "used": by_status["used"],
            "selected": sum(s.selected for s in self.scenes if s.status == "used"),
            "dropped": by_status["dropped"],
            "failed": by_status["failed"],
        }

    def to_dict(self) -> dict[str, Any]:
        """All fields and the counts, as JSON-able values."""
        return asdict(self) | {"counts": self.counts, "extra_reads": self.extra_reads}

    def to_json(self, indent: int | None = 2) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self._lines())
        parts = [f"{name:<{width}}  {text}" for name, text in self._lines()]
        rows = self._scene_rows()
        if rows:
            parts += ["", text_table([_HEADINGS, *rows])]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        facts = _html_rows(self._lines())
        rows = [_HEADINGS, *self._scene_rows()]
        return f"<table>{facts}</table><table>{_html_rows(rows[:1], 'th')}{_html_rows(rows[1:])}</table>"

    def _lines(self) -> list[tuple[str, str]]:
        """The facts in a few words, one for each line."""
        n = self.counts
        times = ", ".join(f"{stage} {s:.2f}" for stage, s in self.seconds.items())
        lines = [
            ("scenes", f"{n['used']} of {n['found']} compete, {n['selected']} selected, "
                       f"{n['dropped']} dropped, {n['failed']} failed"),
            ("tiles", f"{self.wanted_tiles} wanted, {self.lost_tiles} lost, "
                      f"{self.repair_rounds} rounds of repair"),
            ("empty", f"{self.empty_pixels} pixels without an observation"),
            ("read", f"{mib(self.bytes)} in {self.requests} requests, {self.retries} retries"),
            ("seconds", f"{sum(self.seconds.values()):.2f}" + (f" ({times})" if times else "")),
            ("device", f"{self.device}{self._facts()}, {self.threads} threads"
                       + (f" ({self.device_note})" if self.device_note else "")),
        ]  # fmt: skip
        if self.extra_reads:
            lines.append(("also", self.extra_reads))
        lost = [(str(s.status), f"{s.id}: {s.reason}") for s in self.scenes if s.status != "used"]
        lost += [("tile", f"{f.item} {f.asset} {f.tile}: {f.message}") for f in self.failures]
        for group in (lost, [("warning", w) for w in self.warnings]):
            lines += group[:SHOWN_LOSSES]
            if len(group) > SHOWN_LOSSES:
                lines.append(("...", f"{len(group) - SHOWN_LOSSES} more"))
        return lines

    def _facts(self) -> str:
        """The device's model, and what the host did beside it."""
        facts = self.device_facts
        if "device" not in facts:
            return ""
        host = facts["host_streams"]
        both = f", host inflated {host} of {host + facts['device_streams']} streams" if host else ""
        return f", {facts['device']}{both}"

    def _scene_rows(self) -> list[tuple[str, ...]]:
        """Cells of the scenes that compete, in rank order."""
        used = [s for s in self.scenes if s.status == "used"]
        used.sort(key=lambda s: (s.rank is None, s.rank or 0))
        rows = [_row(s) for s in used[:SHOWN_SCENES]]
        if len(used) > SHOWN_SCENES:
            rows.append(("...", f"{len(used) - SHOWN_SCENES} more", *[""] * (len(_HEADINGS) - 2)))
        return rows


_HEADINGS = ("rank", "item", "date", "tile", "cloud %", "clear %", "pixels", "offset")


def _row(s: SceneRecord) -> tuple[str, ...]:
    return (
        "" if s.rank is None else str(s.rank),
        s.id,
        s.date[:10],
        s.tile,
        "" if s.cloud_cover is None else f"{s.cloud_cover:.1f}",
        "" if s.clear_share is None else f"{100 * s.clear_share:.1f}",
        str(s.pixels_won),
        str(s.offset),
    )


def text_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as lines of text, columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _html_rows(rows: Iterable[tuple[str, ...]], cell: str = "td") -> str:
    """Rows as HTML, escaped."""
    left = f'<{cell} style="text-align:left">'
    return "".join(f"<tr>{''.join(f'{left}{escape(c)}</{cell}>' for c in row)}</tr>" for row in rows)


@cache
def _versions() -> dict[str, str]:
    """Versions that can change a result or its speed."""
    from bestpixel_gpu import __version__

    found = {"bestpixel_gpu": __version__}
    for name in ("numpy", "numba", "deflate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    from pyproj import proj_version_str

    return found | {"proj": proj_version_str}
