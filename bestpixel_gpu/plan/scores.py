"""Class rules of a collection as the one-byte codes that engines work with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NO_SCORE, NODATA_CODE, UNUSABLE_CODE, MaskTable, Surround

MARGINAL = 1
"""Score of what lies near cloud; up to it, an observation is usable for rules that go by time."""
_TIER, _SCORE = 40, 1  # a kind of observation: what decides first, its score, and whether it is not clear


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTables:
    """The codes of a mask's classes, and what they mean.

    Attributes
    ----------
    classify : MaskTable
        Class -> code. With a surround: the code before it is looked for.
    rank : MaskTable
        Code -> what decides between observations first; codes rise with it.
    quality : MaskTable
        Code -> score; the same as `rank` unless time decides first.
    marked, becomes : bool (256,), uint8 (256,)
        As in :class:`~bestpixel_gpu.engines.contract.Surround`; nothing is marked without `cloudy`.
    """

    classify: MaskTable
    rank: MaskTable
    quality: MaskTable
    marked: NDArray[np.bool_]
    becomes: NDArray[np.uint8]


def mask_table(scores: NDArray[np.uint16], clear: NDArray[np.bool_], nodata: NDArray[np.bool_]) -> MaskTable:
    """Codes of every class value, rising with the score; see :func:`score_tables`."""
    return score_tables(scores, clear, nodata).rank


def score_tables(
    scores: NDArray[np.uint16],
    clear: NDArray[np.bool_],
    nodata: NDArray[np.bool_],
    cloudy: NDArray[np.bool_] | None = None,
    *,
    by_time: bool = False,
) -> ScoreTables:
    """Codes of every class value.

    Parameters
    ----------
    scores : uint16, (65536,)
        Score of each class value, 65535 where it is unusable.
    clear : bool, (65536,)
        Class values that count as clear.
    nodata : bool, (65536,)
        Class values that observed nothing.
    cloudy : bool, (65536,), optional
        Class values around which an observation is marginal at best.
    by_time : bool
        Clear and marginal observations are one before the other only in time: both rank as 0. What
        is marginal for a cloud near by ranks as 1.

    Raises
    ------
    ValueError
        If there are more different kinds than codes.
    """
    score = scores.astype(np.int64)
    tier = np.where(score <= MARGINAL, 0, score) if by_time else score
    kind = tier << _TIER | score << _SCORE | ~clear  # of two classes with one score the clear one sorts first
    near = np.where(score <= MARGINAL, MARGINAL << _TIER | MARGINAL << _SCORE | 1, kind)
    usable = scores != NO_SCORE
    kinds = np.unique(np.concatenate([kind[usable], near[usable] if cloudy is not None else kind[:0]]))
    codes = np.full(len(scores), UNUSABLE_CODE, np.uint8)
    codes[usable] = np.searchsorted(kinds, kind[usable]).astype(np.uint8)
    codes[nodata] = NODATA_CODE
    becomes = np.arange(256, dtype=np.uint8)
    before, marked = codes.copy(), np.zeros(256, bool)
    if cloudy is not None:
        becomes[codes[usable]] = np.searchsorted(kinds, near[usable]).astype(np.uint8)
        for spare, code in zip(range(UNUSABLE_CODE - 1, -1, -1), np.unique(codes[cloudy]), strict=False):
            before[cloudy & (codes == code)] = spare  # a code of its own until the surround is known
            marked[spare], becomes[spare] = True, becomes[code]
    if len(kinds) + int(marked.sum()) > UNUSABLE_CODE:
        raise ValueError(f"{len(kinds)} different mask scores: at most {UNUSABLE_CODE - int(marked.sum())}")
    is_clear = np.zeros(256, bool)
    is_clear[: len(kinds)] = kinds & 1 == 0
    rank = MaskTable(codes, _by_code(kinds >> _TIER), is_clear)
    quality = MaskTable(codes, _by_code(kinds >> _SCORE & NO_SCORE), is_clear)
    return ScoreTables(MaskTable(before, rank.scores, is_clear), rank, quality, marked, becomes)


def _by_code(scores: NDArray[np.int64]) -> NDArray[np.uint16]:
    out = np.full(256, NO_SCORE, np.uint16)
    out[: len(scores)] = scores
    return out


def surround(tables: ScoreTables, across: float, down: float, radius: float) -> Surround | None:
    """What pixels nearer than `radius` to cloud become; ``None`` where no other pixel is that near.

    Parameters
    ----------
    across, down : float
        Sides of a mask pixel.
    radius : float
        In the same unit. Distances are those of pixel centres, compared exactly.
    """
    width, height, limit = (Fraction(v) ** 2 for v in (across, down, radius))
    reach: list[int] = []
    while (left := limit - len(reach) ** 2 * height) > 0:
        reach.append(math.isqrt(math.ceil(left / width) - 1))  # the largest j with j^2 width < left
    if len(reach) <= 1 and not any(reach):
        return None
    return Surround(tables.marked, tables.becomes, np.array(reach, np.int64))
