"""What each class value of a mask is worth, for every kind of mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MaskKind = Literal["scl", "fmask", "qa_pixel", "mcd43"]
Values = NDArray[np.int64]
Scored = tuple[dict[int, NDArray[np.bool_]], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]
"""(score -> its values, clear values, values that observed nothing, cloud or its shadow).

A value takes its worst score.
"""

UNUSABLE = 65535
"""Score of a class that makes no observation."""
N_VALUES = 65536


@dataclass(frozen=True, slots=True, eq=False)
class ClassRules:
    """What each class value of a mask is worth.

    Attributes
    ----------
    scores : uint16, (65536,)
        Lower is better: 0 clear, 1 marginal, 2 dark; 65535 is unusable.
    clear : bool, (65536,)
        Counts as clear in statistics.
    nodata : bool, (65536,)
        Observed nothing.
    cloudy : bool, (65536,)
        Cloud, cirrus or the shadow of one: what `cloud_buffer` keeps away from.
    """

    scores: NDArray[np.uint16]
    clear: NDArray[np.bool_]
    nodata: NDArray[np.bool_]
    cloudy: NDArray[np.bool_]


@cache
def class_rules(kind: MaskKind) -> ClassRules:
    """The rules of a kind of mask, made once."""
    by_score, clear, nodata, cloudy = _KINDS[kind](np.arange(N_VALUES))
    scores = np.full(N_VALUES, UNUSABLE, np.uint16)
    for score in sorted(by_score):
        scores[by_score[score]] = score
    scores[nodata] = UNUSABLE
    rules = ClassRules(scores, clear & ~nodata, nodata, cloudy & ~nodata)
    for table in (rules.scores, rules.clear, rules.nodata, rules.cloudy):
        table.setflags(write=False)
    return rules


def _scl(v: Values) -> Scored:
    """Sentinel-2 scene classification.

    0 no data, 1 saturated or defective, 2 dark or in topographic shadow, 3 cloud shadow,
    4 vegetation, 5 not vegetated, 6 water, 7 unclassified, 8 and 9 cloud of medium and high
    probability, 10 thin cirrus, 11 snow or ice.
    """
    clear = np.isin(v, (4, 5, 6, 11))
    return {0: clear, 1: v == 7, 2: np.isin(v, (2, 3))}, clear, v == 0, np.isin(v, (3, 8, 9, 10))


def _fmask(v: Values) -> Scored:
    """Fmask of HLS: bits 0 cirrus, 1 cloud, 2 next to cloud or shadow, 3 shadow, 4 snow, 5 water.

    Bits 6 and 7 hold the aerosol level: 0 climatology, 1 low, 2 moderate, 3 high. 255 is fill,
    whatever its bits say.
    """
    aerosol = v >> 6
    by_score = {
        0: v < 256,
        1: _any_bit(v, 2, 4) | (aerosol >= 2),
        2: _any_bit(v, 0, 3),
        UNUSABLE: _any_bit(v, 1) | (v >= 256),
    }
    clear = ~_any_bit(v, 0, 1, 2, 3) & (aerosol <= 1)
    return by_score, clear, v == 255, _any_bit(v, 0, 1, 3) & (v < 256)


def _qa_pixel(v: Values) -> Scored:
    """QA_PIXEL of Landsat Collection 2, scored like the Fmask of HLS: both come of one algorithm.

    ======  ==============================  ====================================
    bits    says                            is worth
    ======  ==============================  ====================================
    0       fill                            nothing was observed
    3, 8-9  cloud; 3 high confidence in it  unusable
    2, 14-  cirrus; 3 high confidence       2: seen through, but not corrected
    4, 10-  cloud shadow; 3 high            2: dark
    1       dilated cloud, its rim          1
    8-9     2 medium confidence in cloud    1: the cloud bit is not set for it
    5, 12-  snow or ice; 3 high             1, but clear in statistics
    7       water                           0
    6       neither cloud nor its rim       not looked at
    ======  ==============================  ====================================

    A flag is set at high confidence only, so either of the two is enough. Confidences of 0 (none) and
    1 (low) say nothing, nor does 2 but for cloud: it is reserved. Bit 6 is set under shadow and cirrus,
    and unset over some clear water. Landsat 4 to 7 leave the bits of cirrus 0. Source: USGS LSDS-1619
    (Landsat 8-9 Collection 2 Level 2 Science Product Guide, version 6, tables 6-2 and 6-3) and LSDS-1618
    (Landsat 4-7, version 4, tables 5-5 and 5-6); the scores are ours.
    """
    cloud, shadow, snow, cirrus = (v >> first & 3 for first in (8, 10, 12, 14))
    opaque = _any_bit(v, 3) | (cloud == 3)
    dim = _any_bit(v, 2, 4) | (shadow == 3) | (cirrus == 3)
    rim = _any_bit(v, 1) | (cloud == 2)
    by_score = {0: v >= 0, 1: rim | _any_bit(v, 5) | (snow == 3), 2: dim, UNUSABLE: opaque}
    return by_score, ~(opaque | dim | rim), _any_bit(v, 0), opaque | dim


def _mcd43(v: Values) -> Scored:
    """BRDF_Albedo_Band_Mandatory_Quality: 0 full inversion, 1 magnitude inversion, 255 fill."""
    return {0: v == 0, 1: v == 1}, v == 0, v == 255, v < 0


def _any_bit(v: Values, *bits: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (v & sum(1 << b for b in bits)) != 0
    return found


_KINDS: dict[MaskKind, Callable[[Values], Scored]] = {
    "scl": _scl,
    "fmask": _fmask,
    "qa_pixel": _qa_pixel,
    "mcd43": _mcd43,
}
