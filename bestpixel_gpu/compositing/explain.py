"""What a request would read and take, without touching a band tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bestpixel_gpu.compositing.run import Decision, decide
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.plan.memory import mib
from bestpixel_gpu.plan.tiles import FetchGroup, TileKey
from bestpixel_gpu.result.report import SceneRecord
from bestpixel_gpu.transfer.transport import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The cost of a request.

    Attributes
    ----------
    scenes : list of SceneRecord
        Every item found: used, dropped or failed, with the reason.
    grid : dict
        As in the composite.
    header_bytes, mask_bytes : int
        Read already, to find the rest.
    bytes_by_band : dict
        Compressed band tiles the first round would read.
    requests : int
        Range requests in all.
    memory : dict
        Bytes by purpose, peak and limit.
    note : str
        What is read beyond the winners' tiles. The other bands' bytes are then those of the scenes
        that are best by score and order.
    """

    scenes: list[SceneRecord]
    grid: dict[str, Any]
    header_bytes: int
    mask_bytes: int
    bytes_by_band: dict[str, int]
    tiles_by_band: dict[str, int]
    requests: int
    memory: dict[str, int]
    note: str = ""

    @property
    def total_bytes(self) -> int:
        """Headers, masks and band tiles."""
        return self.header_bytes + self.mask_bytes + sum(self.bytes_by_band.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"total_bytes": self.total_bytes}

    def __str__(self) -> str:
        used = [s for s in self.scenes if s.status == "used"]
        lines = [
            f"grid      {self.grid['width']} x {self.grid['height']} px of {self.grid['resolution']:g}"
            f" in {self.grid['crs'][:40]}",
            f"scenes    {len(used)} of {len(self.scenes)} compete",
            f"read      {mib(self.total_bytes)} in {self.requests} requests",
            f"  headers {mib(self.header_bytes)}, masks {mib(self.mask_bytes)}",
            *(f"  {b:<9} {mib(n)} in {self.tiles_by_band[b]} tiles" for b, n in self.bytes_by_band.items()),
            f"memory    {mib(self.memory['peak'])} at the peak, limit {mib(self.memory['limit'])}",
            *([f"note      {self.note}"] if self.note else []),
        ]
        return "\n".join(lines)


async def explain(session: Session) -> Explanation:
    """Run through masks, winners and headers, and add up what painting would read."""
    decision = await decide(session)
    read = session.request.index_bands
    groups = []
    if decision.contest is not None:
        groups += await decision.contest.tiles([b.window for b in decision.work.blocks])
    groups += [g for p in decision.plans for g in p.groups if g.band not in read]
    groups += [g for p in decision.spread for g in p.groups]
    size = dict.fromkeys(session.read_bands, 0)
    tiles = dict.fromkeys(session.read_bands, 0)
    counters = session.counters
    requests = counters.requests
    for band, lengths in _read(session, decision, groups):
        size[band] += sum(lengths)
        tiles[band] += len(lengths)
        requests += bool(lengths)
    return Explanation(
        scenes=session.report.scenes,
        grid=session.grid.as_dict(),
        header_bytes=counters.by_kind.get("header", Tally()).bytes,
        mask_bytes=counters.by_kind.get("tile", Tally()).bytes,  # of masks: no other has been read
        bytes_by_band=size,
        tiles_by_band=tiles,
        requests=requests,
        memory=decision.memory.as_dict(),
        note=session.report.extra_reads,
    )


def _read(
    session: Session, decision: Decision, groups: Sequence[FetchGroup]
) -> Iterator[tuple[str, list[int]]]:
    """Band and lengths of the tiles that each request of a run brings: those at hand are not asked for."""
    kept: set[TileKey] = set()
    room = session.budget.kept
    for group in groups:
        scene = decision.choice.masks[group.rank].scene
        file = decision.files.get(scene, group.band)
        assert file is not None  # it was planned by its header
        lengths = []
        for key in (TileKey(group.band, group.rank, i) for i in group.indices):
            span = file.level.span(key.index, file.plane)
            if span is None or key in kept:
                continue
            lengths.append(span[1])
            if not scene.profile.ignore_nodata_tag and span[1] <= room:  # as they are kept for repair
                kept.add(key)
                room -= span[1]
        yield group.band, lengths
