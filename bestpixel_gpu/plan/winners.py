"""Keys: what decides between observations, and how many scenes they can tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NOT_SELECTED
from bestpixel_gpu.errors import InputError

MAX_SCENES = 1 << 16


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


def small_wins(wins: NDArray[np.int64], pixels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Where a scene wins, but less than `share` of a chunk; (scene, chunk row, chunk col)."""
    small: NDArray[np.bool_] = (wins > 0) & (wins < share * pixels)
    return small
