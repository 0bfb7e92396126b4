"""Order and selection on hand-made masks; the ancestor's published expectations."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bestpixel_gpu.plan.selection import (
    SceneCounts,
    rank_order,
    select_adaptive,
    select_ancestor,
    select_fixed,
)

CELLS = 1024


def scene(name: str, day: int = 1, tile: str = "31TCJ", cloud: float | None = None) -> Any:
    return SimpleNamespace(
        id=name, collection="c", tile=tile, cloud_cover=cloud, when=datetime(2024, 7, day, tzinfo=UTC)
    )


def counts(clear: list[list[float]], valid: list[list[float]] | None = None) -> SceneCounts:
    """Shares per scene and chunk (one row of chunks) of 1000 pixels each; cells alike from the left."""
    c = np.round(np.array(clear) * 1000).astype(np.int64)[:, None, :]
    v = (
        np.full_like(c, 1000)
        if valid is None
        else np.round(np.array(valid) * 1000).astype(np.int64)[:, None, :]
    )
    n = np.arange(CELLS)
    return SceneCounts(
        c, v, np.full(c.shape[1:], 1000), n < (c / 1000 * CELLS)[..., None], n < (v / 1000 * CELLS)[..., None]
    )


def need(tiles: list[list[str]]) -> list[list[list[str]]]:
    return [tiles]


def test_clearest_is_clear_over_all_pixels_so_a_sliver_cannot_win() -> None:
    scenes = [scene("sliver", 2), scene("full", 1)]
    k = counts([[0.1], [0.9]], [[0.1], [1.0]])
    assert rank_order(scenes, k, "clearest") == [1, 0]
    assert select_fixed(scenes, k, need([["31TCJ"]]), [1, 0], 1).tolist() == [False, True]
    picked, order = select_ancestor(scenes, k, need([["31TCJ"]]), 1)
    assert picked.tolist() == [True, False]  # FIX-13: the ancestor takes the sliver
    assert order[0] == 0


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("newest", ["c", "b", "a"]),
        ("oldest", ["a", "b", "c"]),
        ("cloud_cover", ["b", "c", "a"]),
        ("nearest:2024-07-02", ["b", "a", "c"]),
        (lambda s: -s.when.day, ["c", "b", "a"]),
        (lambda s: 0, ["a", "b", "c"]),
    ],
)
def test_orders(order: Any, expected: list[str]) -> None:
    scenes = [scene("a", 1, cloud=60), scene("b", 2, cloud=10.4), scene("c", 3)]
    k = counts([[0.5], [0.5], [0.5]])
    assert [scenes[i].id for i in rank_order(scenes, k, order)] == expected
    turned = scenes[::-1]
    assert [turned[i].id for i in rank_order(turned, k, order)] == expected


def test_fixed_picks_per_chunk_and_tile() -> None:
    scenes = [scene("a"), scene("b"), scene("other", tile="32TLQ")]
    k = counts([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    picked = select_fixed(scenes, k, need([["31TCJ"], ["31TCJ", "32TLQ"]]), [0, 1, 2], 1)
    assert picked.tolist() == [True, True, True]
    assert select_fixed(scenes, k, need([["31TCJ"], ["31TCJ"]]), [0, 1, 2], 1).tolist() == [True, True, False]


def adaptive(k: SceneCounts, names: str, **options: Any) -> list[str]:
    scenes = [scene(n) for n in names]
    picked = select_adaptive(scenes, k, need([["31TCJ"]]), range(len(scenes)), **options)
    return [n for n, p in zip(names, picked, strict=True) if p]


def test_adaptive_as_the_ancestors_own_tests_expect() -> None:
    assert len(adaptive(counts([[1.0], [1.0], [1.0]]), "abc", target=0.95, min_k=2, max_k=8)) == 2
    k = counts([[0.5], [0.5], [0.5]])
    k.clear_cells[1] = ~k.clear_cells[0]
    assert adaptive(k, "abc", target=0.95, min_k=1, max_k=8) == ["a", "b"]
    disjoint = counts([[0.1]] * 4)
    for i in range(4):
        disjoint.clear_cells[i] = (np.arange(CELLS) // 102) == i
    assert len(adaptive(disjoint, "abcd", target=0.95, min_k=1, max_k=3)) == 3
    full_first = counts([[0.5], [0.6]], [[1.0], [0.6]])
    assert adaptive(full_first, "fp", target=0.4, min_k=1, max_k=8) == ["f"]
    cloudy = counts([[1.0], [0.0]])
    assert adaptive(cloudy, "ce", target=0.95, min_k=1, max_k=8) == ["c"]
