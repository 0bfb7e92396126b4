"""Which scenes are selected, and the one total order that decides between equal scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.catalog.scene import Scene
from bestpixel_gpu.errors import InputError

FULL_MISSING = 0.01
"""A scene that misses at most this share of what can be seen counts as a full observer."""
MAX_TARGET = 0.999
LEAST_GAIN = 1 / 256
"""A pick adds at least this share of what can be seen of a chunk: one of the cells it is counted in."""


Counted = tuple[NDArray[Any], ...]
"""What one mask shows, (chunk row, chunk col, ...): clear, valid, and both by cells where they are wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class SceneCounts:
    """What the masks show, in output pixels, for each scene and chunk.

    Attributes
    ----------
    clear, valid : int64, (scene, chunk row, chunk col)
    pixels : int64, (chunk row, chunk col)
        Output pixels of each chunk.
    clear_cells, valid_cells : (scene, chunk row, chunk col, cell) or None
        The same by square cells of a chunk. Fixed selection: uint16, pixels, 16 x 16 cells.
        Adaptive: bool, 32 x 32 cells that are clear in at least half of what is observed; that
        are observed at all.
    """

    clear: NDArray[np.int64]
    valid: NDArray[np.int64]
    pixels: NDArray[np.int64]
    clear_cells: NDArray[Any] | None = None
    valid_cells: NDArray[Any] | None = None


def rank_order(
    scenes: Sequence[Scene], counts: SceneCounts, order: str | Callable[[Scene], Any]
) -> list[int]:
    """Indices of `scenes` in rank order, best first; every order is total, ids break the last ties.

    ``"clearest"`` clear pixels of the box, then newest; ``"cloud_cover"`` the item's own figure in
    whole percent (absent: 50), then newest; ``"newest"``; ``"oldest"``; ``"nearest:<date>"`` by
    distance in time, then earlier; a callable by its value, then older. ``"ancestor"`` is that of
    its adaptive selection, oldest first; that of its fixed one is made by :func:`select_ancestor`.
    """
    clear = counts.clear.sum(axis=(1, 2))
    target = _date_of(order) if isinstance(order, str) and order.startswith("nearest:") else None

    def age(s: Scene) -> float:
        return s.when.timestamp()

    def key(i: int) -> tuple[Any, ...]:
        s = scenes[i]
        name = (s.id, s.collection)
        if callable(order):
            return order(s), age(s), name
        if target is not None:
            return abs(age(s) - target), age(s), name
        keys: dict[str, tuple[Any, ...]] = {
            "clearest": (-int(clear[i]), -age(s), name),
            "cloud_cover": (percent_cloudy(s), -age(s), name),
            "newest": (-age(s), name),
            "oldest": (age(s), name),
            "ancestor": (age(s), name),
        }
        return keys[order]

    return sorted(range(len(scenes)), key=key)


def percent_cloudy(scene: Scene) -> int:
    """What the item says, in whole percent; 50 where it says nothing."""
    return 50 if scene.cloud_cover is None else math.floor(scene.cloud_cover + 0.5)


def _date_of(order: str) -> float:
    text = order.partition(":")[2]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"order {order!r}: write 'nearest:YYYY-MM-DD'") from None
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp()


def select_fixed(
    scenes: Sequence[Scene],
    counts: SceneCounts,
    required: list[list[list[str]]],
    ranks: Sequence[int],
    top_k: int,
) -> NDArray[np.bool_]:
    """Scenes that add clear or observed pixels to those picked before, `top_k` for a chunk and tile.

    A picked scene competes everywhere, so what it shows counts everywhere. One is picked after the
    other: each chunk that took fewer than `top_k` names the scene that adds most to it (at least
    :data:`LEAST_GAIN`), and the scene with the largest sum of those gains is picked and counted
    for the chunks that named it. A chunk thus gets its own best scenes, and none that brings nothing.
    Ties go to the better rank.
    """
    assert counts.clear_cells is not None
    assert counts.valid_cells is not None
    picked = np.zeros(len(scenes), bool)
    members = _by_tile(scenes)
    for tile, own in members.items():
        in_order = sorted(own, key=list(ranks).index)
        rows, cols = np.array(_chunks_that_need(required, tile), np.intp).reshape(-1, 2).T
        clear, valid = (a[in_order][:, rows, cols] for a in (counts.clear_cells, counts.valid_cells))
        picked[[in_order[m] for m in _cover(clear, valid, top_k)]] = True
    return picked


def _cover(clear: NDArray[Any], valid: NDArray[Any], top_k: int) -> list[int]:
    """Picks, by place; `clear` and `valid` are pixels (scene, chunk, cell), scenes in rank order.

    What several scenes show of a cell together is taken to be what the best of them shows.
    """
    seen = np.zeros((2, *clear.shape[1:]), clear.dtype)
    least = np.maximum(1, LEAST_GAIN * valid.max(axis=0, initial=0).sum(axis=-1, dtype=np.int64))
    room = np.full(clear.shape[1], top_k)
    picks: list[int] = []
    while room.any():
        gain = _added(clear, seen[0]) + _added(valid, seen[1])
        named = gain.argmax(axis=0)
        best = gain.max(axis=0)
        room[best < least] = 0  # nothing will add more later: what is seen only grows
        best[room == 0] = 0
        if not best.any():
            break
        sums = np.bincount(named, weights=best, minlength=len(clear))
        picks.append(pick := int(sums.argmax()))
        room[(named == pick) & (room > 0)] -= 1
        np.maximum(seen, (clear[pick], valid[pick]), out=seen)
    return picks


def _added(shown: NDArray[Any], seen: NDArray[Any]) -> NDArray[np.int64]:
    """Pixels that each scene adds to each chunk, (scene, chunk)."""
    return np.array([(np.maximum(s, seen) - seen).sum(axis=-1, dtype=np.int64) for s in shown])


def picks_adaptive(
    scenes: Sequence[Scene],
    counts: SceneCounts,
    required: list[list[list[str]]],
    ranks: Sequence[int],
    *,
    target: float,
    min_k: int,
    max_k: int,
) -> NDArray[np.bool_]:
    """Scenes picked greedily until `target` of what can be seen of each chunk and tile is clear.

    Full observers come first; a chunk takes at least `min_k` and at most `max_k` scenes of a tile.
    Ties go to the better rank. Returns who picked whom, (scene, chunk row, chunk column).
    """
    picks = np.zeros(counts.clear.shape, bool)
    cap = max(max_k, min_k, 1)
    members = _by_tile(scenes)
    for tile, own in members.items():
        in_order = sorted(own, key=list(ranks).index)
        for r, c in _chunks_that_need(required, tile):
            picks[_greedy(counts, in_order, r, c, min(target, MAX_TARGET), min_k, cap), r, c] = True
    return picks


def outside_windows(picks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Chunks beside the box around those that picked a scene; none for a scene that nobody picked."""

    def span(axis: int) -> NDArray[np.bool_]:
        hits: NDArray[np.bool_] = np.atleast_2d(picks.any(axis=axis))
        both: NDArray[np.bool_] = np.logical_or.accumulate(hits, axis=1)
        return both & np.logical_or.accumulate(hits[:, ::-1], axis=1)[:, ::-1]

    rows, cols = span(2), span(1)
    picked = np.asarray(picks.any(axis=(1, 2)))
    outside: NDArray[np.bool_] = ~(rows[:, :, None] & cols[:, None, :]) & picked[:, None, None]
    return outside


def _greedy(
    counts: SceneCounts, members: list[int], r: int, c: int, target: float, min_k: int, cap: int
) -> list[int]:
    assert counts.clear_cells is not None
    assert counts.valid_cells is not None
    clear = {i: counts.clear_cells[i, r, c] for i in members}
    valid = {i: counts.valid_cells[i, r, c] for i in members if counts.valid[i, r, c] > 0}
    if not valid:
        return []
    reachable = np.logical_or.reduce(list(valid.values()))
    total = int(reachable.sum())
    full = {i for i, v in valid.items() if (reachable & ~v).sum() <= FULL_MISSING * total}
    covered = np.zeros_like(reachable)
    left = [i for i in members if i in valid]
    taken: list[int] = []
    while left and len(taken) < cap:
        if len(taken) >= min_k and covered.sum() >= target * total:
            break
        gain = {i: int((clear[i] & reachable & ~covered).sum()) for i in left}
        best = next(
            (
                i
                for group in (full, set(valid) - full)
                if (i := _best(left, group, gain)) is not None and gain[i] > 0
            ),
            None,
        )
        if best is None:
            if len(taken) >= min_k:
                break
            best = next(i for i in (_best(left, full, gain), _best(left, set(left), gain)) if i is not None)
        taken.append(best)
        left.remove(best)
        covered |= clear[best]
    return taken


def _best(left: list[int], group: set[int], gain: dict[int, int]) -> int | None:
    return max((i for i in left if i in group), key=lambda i: gain[i], default=None)  # the first maximum


def select_ancestor(
    scenes: Sequence[Scene], counts: SceneCounts, required: list[list[list[str]]], top_k: int
) -> tuple[NDArray[np.bool_], list[int]]:
    """Picks and composition order of ``bestpixel`` 0.3.0: by clear / observed pixels of the whole box.

    Returns the selection and all scenes in order: the picks as the ancestor lists them (by chunk,
    then required tile, then clear share), then the rest.
    """
    clear, valid = counts.clear.sum(axis=(1, 2)), counts.valid.sum(axis=(1, 2))
    chronological = sorted(range(len(scenes)), key=lambda i: (scenes[i].when, scenes[i].id))
    usable = [i for i in chronological if valid[i] > 0 and scenes[i].tile]
    share = {i: clear[i] / valid[i] for i in usable}
    best = {t: sorted(m, key=lambda i: -share[i]) for t, m in _by_tile(scenes, usable).items()}
    order: dict[int, None] = {}
    for row in required:
        for tiles in row:
            for tile in tiles:
                order.update(dict.fromkeys(best.get(tile, [])[:top_k]))
    picked = np.zeros(len(scenes), bool)
    picked[list(order)] = True
    rest = sorted((i for i in chronological if i not in order), key=lambda i: -share.get(i, 0.0))
    return picked, [*order, *rest]


def _by_tile(scenes: Sequence[Scene], indices: Sequence[int] | None = None) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for i in range(len(scenes)) if indices is None else indices:
        groups.setdefault(scenes[i].tile, []).append(i)
    return groups


def _chunks_that_need(required: list[list[list[str]]], tile: str) -> list[tuple[int, int]]:
    return [(r, c) for r, row in enumerate(required) for c, tiles in enumerate(row) if tile in tiles]
