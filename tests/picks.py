"""Which scenes a chunk asks for, in plain loops over pixels: the rule of `plan/selection.py` once more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

CELLS = 16


def by_hand(
    clear: NDArray[Any],
    observed: NDArray[Any],
    ranks: Sequence[int],
    chunks: Sequence[tuple[slice, slice]],
    top_k: int | None,
) -> set[int]:
    """Indices of the picked scenes; `clear` and `observed` are bool, (scene, rows, cols), all of one tile.

    A chunk asks for its best scene `top_k` times at most, and not for one that adds less than a
    thousandth of what can be seen of it; the scene that adds most to those who ask for it is next.
    """
    if top_k is None:
        return set(ranks)
    shown = {(n, i): _shown(clear[i], observed[i], c) for n, c in enumerate(chunks) for i in ranks}
    picked: list[int] = []
    asked = [0] * len(chunks)
    while True:
        votes: dict[int, int] = dict.fromkeys(ranks, 0)
        wishes: dict[int, int] = {}
        for n in range(len(chunks)):
            cells = zip(*(shown[n, i] for i in ranks), strict=True)
            reachable = sum(max(valid for _, valid in cell) for cell in cells)
            gains = {i: _gain(shown, n, i, picked) for i in ranks}
            best = max(ranks, key=lambda i: gains[i])  # the first maximum: the better rank
            if asked[n] < top_k and gains[best] >= max(1, reachable / 1000):
                wishes[n] = best
                votes[best] += gains[best]
        if not wishes:
            return set(picked)
        chosen = max(ranks, key=lambda i: votes[i])
        picked.append(chosen)
        for n, wish in wishes.items():
            asked[n] += wish == chosen


def _shown(clear: NDArray[Any], observed: NDArray[Any], chunk: tuple[slice, slice]) -> list[tuple[int, int]]:
    """Clear and observed pixels of each cell."""

    def cuts(part: slice) -> list[slice]:
        size = part.stop - part.start
        return [slice(*e) for e in pairwise(part.start + m * size // CELLS for m in range(CELLS + 1))]

    cells = [(r, c) for r in cuts(chunk[0]) for c in cuts(chunk[1])]
    return [(int(clear[cell].sum()), int(observed[cell].sum())) for cell in cells]


def _gain(shown: dict[tuple[int, int], list[tuple[int, int]]], n: int, i: int, picked: Sequence[int]) -> int:
    """Pixels of chunk n that scene i shows clear, and that it shows at all, beyond the picked ones."""
    return sum(
        max(0, value - max((shown[n, p][cell][what] for p in picked), default=0))
        for cell, figures in enumerate(shown[n, i])
        for what, value in enumerate(figures)
    )
