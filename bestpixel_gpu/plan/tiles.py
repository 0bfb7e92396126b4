"""The read plan: which tiles, in which order, needed until when; exact reference counts.

The output is painted in blocks. A *job* paints one band of one block; a *pass* is the list of jobs
that share one pool of tile slots. Tiles are fetched in the order in which the jobs need them first
and freed after the job that needs them last, so each is fetched once, and the pool needs no more
slots than `PassPlan.peak`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import Level
from bestpixel_gpu.engines.contract import Window

GROUP_GAP = 4096
"""Neighbouring tiles are fetched in one request over gaps up to this many bytes."""
GROUP_BYTES = 4 << 20
"""Largest merged request, in bytes."""

Needs = Mapping[int, NDArray[np.int64]]
"""Tiles one block needs of one band: rank -> rising tile indices."""


@dataclass(frozen=True, slots=True)
class TileKey:
    """One tile of one band of one scene."""

    band: str
    rank: int
    index: int


@dataclass(frozen=True, slots=True)
class Job:
    """Paint one band of one block, once the tiles are there."""

    band: str
    block: int
    tiles: tuple[TileKey, ...]
    last_use: tuple[TileKey, ...]
    """Those of `tiles` that no later job needs."""


@dataclass(frozen=True, slots=True)
class FetchGroup:
    """Neighbouring tiles of one file, read together."""

    band: str
    rank: int
    indices: tuple[int, ...]
    first_job: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class PassPlan:
    """Jobs in painting order, groups in fetching order, and how many slots that takes."""

    jobs: tuple[Job, ...]
    groups: tuple[FetchGroup, ...]
    slot_bytes: int
    peak: int
    """Most tiles alive at once; a pool of this many slots never stalls."""

    @property
    def uses(self) -> Counter[TileKey]:
        """How many jobs need each tile."""
        return Counter(key for job in self.jobs for key in job.tiles)

    @property
    def n_tiles(self) -> int:
        """Tiles fetched."""
        return sum(len(g.indices) for g in self.groups)

    @property
    def stored_bytes(self) -> int:
        """Compressed bytes fetched, gaps aside."""
        return sum(g.stored_bytes for g in self.groups)


def block_windows(row_edges: NDArray[np.int64], col_edges: NDArray[np.int64], across: int) -> list[Window]:
    """Blocks of one chunk row by `across` chunk columns, column strips outermost.

    That order keeps only one tile row of one strip alive; with all columns in one strip it is
    plain row order.
    """
    cols = [*col_edges[:-1:across].tolist(), int(col_edges[-1])]
    return [
        (int(r0), int(r1), int(c0), int(c1)) for c0, c1 in pairwise(cols) for r0, r1 in pairwise(row_edges)
    ]


def plan_pass(
    bands: Sequence[tuple[str, Mapping[int, Level], Mapping[int, int]]], needs: Mapping[str, Sequence[Needs]]
) -> PassPlan:
    """Order the reads of some bands.

    Parameters
    ----------
    bands : sequence of (name, rank -> level, rank -> plane)
        In painting order.
    needs : band -> needs of each block
    """
    steps = [(name, b) for name, _, _ in bands for b in range(len(needs[name]))]
    files = {name: (levels, planes) for name, levels, planes in bands}
    wanted: list[tuple[TileKey, ...]] = []
    last: dict[TileKey, int] = {}
    groups: list[FetchGroup] = []
    for step, (name, b) in enumerate(steps):
        levels, planes = files[name]
        keys: list[TileKey] = []
        for rank, indices in needs[name][b].items():
            level, plane = levels[rank], planes[rank]
            stored = [i for i in indices.tolist() if level.span(i, plane) is not None]
            own = [TileKey(name, rank, i) for i in stored]
            new = [k.index for k in own if k not in last]
            groups += [
                FetchGroup(name, rank, part, step, size) for part, size in _neighbours(level, plane, new)
            ]
            last.update(dict.fromkeys(own, step))
            keys += own
        wanted.append(tuple(keys))
    jobs = tuple(
        Job(name, b, keys, tuple(k for k in keys if last[k] == step))
        for step, ((name, b), keys) in enumerate(zip(steps, wanted, strict=True))
    )
    size = max((level.layout.decoded_bytes for _, levels, _ in bands for level in levels.values()), default=0)
    return PassPlan(jobs, tuple(groups), size, _peak(jobs, groups))


def _neighbours(level: Level, plane: int, indices: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Runs of tiles that lie next to each other in the file, with their bytes."""
    spans = sorted((level.span(i, plane) or (0, 0), i) for i in indices)
    run: list[int] = []
    start = end = size = 0
    for (offset, length), i in spans:
        if run and (offset - end > GROUP_GAP or offset + length - start > GROUP_BYTES):
            yield tuple(run), size
            run = []
        if not run:
            start, size = offset, 0
        run.append(i)
        end, size = max(end, offset + length) if len(run) > 1 else offset + length, size + length
    if run:
        yield tuple(run), size


def _peak(jobs: Sequence[Job], groups: Sequence[FetchGroup]) -> int:
    arrive = np.zeros(len(jobs) + 1, np.int64)
    for g in groups:
        arrive[g.first_job] += len(g.indices)
    alive = most = 0
    for step, job in enumerate(jobs):
        alive += int(arrive[step])
        most = max(most, alive)
        alive -= len(job.last_use)
    return most
