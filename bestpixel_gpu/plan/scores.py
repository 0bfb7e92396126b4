"""Class rules of a collection as the one-byte codes that engines work with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NO_SCORE, NODATA_CODE, UNUSABLE_CODE, MaskTable


def mask_table(scores: NDArray[np.uint16], clear: NDArray[np.bool_], nodata: int) -> MaskTable:
    """Codes of every class value, rising with the score.

    Parameters
    ----------
    scores : uint16, (65536,)
        Score of each class value, 65535 where it is unusable.
    clear : bool, (65536,)
        Class values that count as clear.
    nodata : int
        The class value that observed nothing.

    Raises
    ------
    ValueError
        If there are more different (score, clear) pairs than codes.
    """
    rank = scores.astype(np.int64) * 2 + ~clear  # of two classes with one score the clear one sorts first
    usable = scores != NO_SCORE
    kinds = np.unique(rank[usable])
    if len(kinds) > UNUSABLE_CODE:
        raise ValueError(f"{len(kinds)} different mask scores: at most {UNUSABLE_CODE}")
    codes = np.full(len(scores), UNUSABLE_CODE, np.uint8)
    codes[usable] = np.searchsorted(kinds, rank[usable]).astype(np.uint8)
    codes[nodata] = NODATA_CODE
    by_code = np.full(256, NO_SCORE, np.uint16)
    by_code[: len(kinds)] = kinds >> 1
    is_clear = np.zeros(256, bool)
    is_clear[: len(kinds)] = kinds & 1 == 0
    return MaskTable(codes, by_code, is_clear)
