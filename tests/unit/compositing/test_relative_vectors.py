"""Composites of the relative `pixels`, recorded: ours agree where its rules are sane, and only there.

Its two defects: an observation of nothing stands before cloud and ties with shadow in FULL, and SCL
puts one cloudy pixel over another and stops while some are left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.contract import NO_KEY, RankState, ScoreRaster, ValueState
from bestpixel_gpu.geo.pixel_map import HALF, ONE, AxisMap
from bestpixel_gpu.plan.scores import mask_table

Vectors = dict[str, NDArray[Any]]
FULL = ({0: (4, 5, 6, 7), 1: (1, 2, 3), 2: (8, 9, 10, 11)}, (4, 5, 6, 7))
"""Scores of the scene classes as FULL ranks them, nothing (0) apart; the clear ones."""
SCL = ({0: (2, 4, 5, 6, 11), 1: (1, 3, 7, 8, 9, 10)}, (2, 4, 5, 6, 11))


@pytest.fixture(scope="module")
def vectors(shared: Path) -> Vectors:
    with np.load(shared / "spec" / "vectors" / "pixels_composite.npz") as file:
        return dict(file)


def best(stack: Vectors, classes: Any, greenest: bool) -> NDArray[np.int64]:
    """Scene of every pixel by the engine's own rules, -1 where there is none."""
    engine = create("cpu", 1)
    by_score, clear = classes
    scores, is_clear, nodata = np.full(65536, 65535, np.uint16), np.zeros(65536, bool), np.arange(65536) == 0
    for score, values in by_score.items():
        scores[list(values)] = score
    is_clear[list(clear)] = True
    table = mask_table(scores, is_clear, nodata)
    shape = stack["SCL"].shape[1:]
    window = (0, shape[0], 0, shape[1])
    positions = AxisMap(*(np.arange(n, dtype=np.int64) * ONE + HALF for n in shape[::-1]))
    masks = [ScoreRaster(window, shape[1], shape[0], table.codes[scl]) for scl in stack["SCL"]]
    own = []
    for rank, mask in enumerate(masks):
        own.append(engine.empty(shape, np.uint32, NO_KEY))
        engine.rank(RankState(window, own[-1]), mask, positions, table, rank)
    keys = np.min(own, axis=0)
    if greenest:
        empty = (engine.empty(shape, d, f) for d, f in ((np.uint32, NO_KEY), (np.uint16, 0), (np.uint16, 0)))
        state = ValueState(*empty)
        for rank, key in enumerate(own):
            there = engine.rivals(keys, key, 16) != 0
            values = (np.where(there, stack[b][rank], 65535).astype(np.uint16) for b in ("B04", "B08"))
            engine.rank_values(state, keys, rank, *values)
        keys = state.keys
    quality, winners = np.empty(shape, np.uint16), np.empty(shape, np.int16)
    engine.settle(keys, quality, winners, len(masks))
    return winners.astype(np.int64)


@pytest.mark.parametrize("prefix", ["", "early_"])
def test_the_greenest_of_the_best_class(vectors: Vectors, prefix: str) -> None:
    stack = {b: vectors[prefix + b] for b in ("B04", "B08", "SCL")}
    ours, theirs = best(stack, FULL, greenest=True), vectors[prefix + "full_source_index"]
    seen = ours >= 0
    rows, cols = np.indices(ours.shape)
    empty = seen & (stack["SCL"][theirs, rows, cols] == 0)  # nothing beats cloud and shadow there
    np.testing.assert_array_equal(ours[seen & ~empty], theirs[seen & ~empty])
    assert int(empty.sum()) == (0 if prefix else 37)
    assert not np.isin(stack["SCL"][ours, rows, cols][empty], FULL[1]).any()
    np.testing.assert_array_equal(
        vectors[prefix + "full_out"][:2][:, seen & ~empty],
        np.array([stack[b][ours, rows, cols] for b in ("B04", "B08")])[:, seen & ~empty],
    )


@pytest.mark.parametrize("prefix", ["", "early_"])
def test_the_first_clear(vectors: Vectors, prefix: str) -> None:
    stack = {b: vectors[prefix + b] for b in ("B04", "B08", "SCL")}
    ours, theirs = best(stack, SCL, greenest=False), vectors[prefix + "scl_source_index"]
    rows, cols = np.indices(ours.shape)
    clear_once = np.isin(stack["SCL"], SCL[1]).any(axis=0)
    differ = (ours != theirs) & clear_once
    used = int(vectors["early_scenes_used"]) if prefix else len(stack["SCL"])
    assert (ours[differ] >= used).all(), "clear only in a scene that it did not read any more"
    assert bool(differ.any()) == bool(prefix)
    never = ~clear_once & (ours >= 0)
    assert (stack["SCL"][ours, rows, cols][never] > 0).all()
