"""Keys and what they say: score, selected or not, rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NO_KEY, NO_SCORE, SCORE_SHIFT, ChunkGrid
from bestpixel_gpu.errors import InputError

RANK_BITS = 0xFFFF
NOT_SELECTED = 1 << 16
MAX_SCENES = 1 << 16
PIECE = 1 << 16
"""Pixels looked at at once where temporary copies are made."""


def low_key(rank: int, selected: bool) -> int:
    """The part of a key below the score: (not selected) << 16 | rank."""
    return rank | (0 if selected else NOT_SELECTED)


def rank_dtype(n_scenes: int) -> np.dtype[Any]:
    """int16 as the ancestor has it, int32 where the ranks do not fit.

    Raises
    ------
    InputError
        Beyond the 65536 candidates that a key can tell apart.
    """
    if n_scenes > MAX_SCENES:
        raise InputError(
            f"{n_scenes} candidate scenes: at most {MAX_SCENES}; shorten the period or lower max_cloud_cover"
        )
    return np.dtype(np.int16 if n_scenes <= 32768 else np.int32)


def decode_keys(keys: NDArray[np.uint32], quality: NDArray[np.uint16], winner: NDArray[Any]) -> None:
    """Write what keys say: quality and rank of the winner, 65535 and -1 where there is none."""
    step = max(1, PIECE // max(keys.shape[1], 1))
    for start in range(0, len(keys), step):
        part = slice(start, start + step)
        none = keys[part] == np.uint32(NO_KEY)
        quality[part] = keys[part] >> np.uint32(SCORE_SHIFT)
        winner[part] = keys[part] & np.uint32(RANK_BITS)
        quality[part][none] = NO_SCORE
        winner[part][none] = -1


def encode_keys(
    quality: NDArray[np.uint16], winner: NDArray[Any], selected: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """The keys again, from the layers; `selected` by rank. NO_KEY where there is no winner."""
    ranks = winner.astype(np.int64) & RANK_BITS
    low = ranks | np.where(selected, 0, NOT_SELECTED)[np.minimum(ranks, len(selected) - 1)]
    keys: NDArray[np.uint32] = (quality.astype(np.int64) << SCORE_SHIFT | low).astype(np.uint32)
    keys[winner < 0] = NO_KEY
    return keys


def count_wins(winner: NDArray[Any], n_scenes: int) -> NDArray[np.int64]:
    """Pixels of each rank, and in the last entry those without a winner."""
    counts = np.zeros(n_scenes + 1, np.int64)
    flat = winner.reshape(-1)
    for start in range(0, flat.size, PIECE):  # small pieces: their int64 copies stay in cache
        counts += np.bincount(flat[start : start + PIECE].astype(np.int64) + 1, minlength=n_scenes + 1)
    return np.roll(counts, -1)


def small_wins(
    keys: NDArray[np.uint32], rows: tuple[int, int], chunks: ChunkGrid, n_scenes: int, share: float
) -> NDArray[np.bool_]:
    """Unselected scenes that win less than `share` of a chunk, (scene, chunk row, chunk col).

    `keys` are those of the grid rows `rows`, which start and end on chunk edges; other chunks
    stay False.
    """
    barred = np.zeros((n_scenes, len(chunks.row_edges) - 1, len(chunks.col_edges) - 1), bool)
    for r in range(barred.shape[1]):
        top, bottom = int(chunks.row_edges[r]) - rows[0], int(chunks.row_edges[r + 1]) - rows[0]
        if top < 0 or bottom > rows[1] - rows[0]:
            continue
        for c in range(barred.shape[2]):
            part = keys[top:bottom, chunks.col_edges[c] : chunks.col_edges[c + 1]]
            extra = part[(part & np.uint32(NOT_SELECTED) != 0) & (part != np.uint32(NO_KEY))]
            wins = np.bincount(extra & np.uint32(RANK_BITS), minlength=n_scenes)
            barred[:, r, c] = (wins > 0) & (wins < share * part.size)
    return barred
