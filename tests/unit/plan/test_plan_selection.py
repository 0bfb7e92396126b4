"""Order and selection on hand-made masks; the ancestor's published expectations."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bestpixel_gpu.plan.selection import (
    SceneCounts,
    picks_adaptive,
    rank_order,
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


def by_pixel(k: SceneCounts) -> SceneCounts:
    """The same for the fixed selection: cells of one pixel."""
    cells = [a.astype(np.uint16) for a in (k.clear_cells, k.valid_cells) if a is not None]
    return SceneCounts(k.clear, k.valid, k.pixels, *cells)


def shown(clear: Any, valid: Any = 16) -> SceneCounts:
    """Pixels per scene, chunk and cell, of chunks of 16 cells of 16 pixels each."""
    c = np.array(clear, np.uint16)[:, None]
    v = np.broadcast_to(np.array(valid, np.uint16), np.array(clear).shape)[:, None].copy()
    return SceneCounts(c.sum(-1, dtype=np.int64), v.sum(-1, dtype=np.int64), np.full(c.shape[1:3], 256), c, v)


def fixed(k: SceneCounts, names: str, top_k: int) -> list[str]:
    scenes = [scene(n) for n in names]
    tiles = [["31TCJ"]] * k.clear.shape[2]
    picked = select_fixed(scenes, k, need(tiles), range(len(scenes)), top_k)
    return [n for n, p in zip(names, picked, strict=True) if p]


def left(n: int, of: int = 16, full: int = 16) -> list[int]:
    """The first n cells clear."""
    return [full] * n + [0] * (of - n)


def test_a_pick_that_adds_nothing_is_not_made() -> None:
    assert fixed(shown([[left(16)], [left(16)], [left(16)]]), "abc", 3) == ["a"]
    assert fixed(shown([[left(10)], [left(8)], [left(12)]]), "abc", 3) == ["c"]  # the larger holds the others


def test_what_another_chunks_pick_shows_counts() -> None:
    """b is best for both chunks but for a sliver of the first; a adds it; c adds nothing to both."""
    a, b, c = [left(16), left(2)], [left(15), left(16)], [left(14), left(15)]
    assert fixed(shown([a, b, c]), "abc", 3) == ["a", "b"]
    assert fixed(shown([a, b, c]), "abc", 1) == ["a", "b"]  # each chunk gets the one it names first


def test_top_k_is_a_cap_for_each_chunk() -> None:
    quarters = [[[16 * (cell // 4 == i) for cell in range(16)]] for i in range(4)]
    k = shown(quarters)
    assert [len(fixed(k, "abcd", n)) for n in (1, 2, 3, 4, 9)] == [1, 2, 3, 4, 4]


def test_a_chunk_that_spent_its_picks_on_another_scene_still_gains_from_others() -> None:
    """The cap counts what a chunk asked for, not what competes there because of other chunks."""
    a, b = [left(16), left(8)], [left(0), left(16)]
    assert fixed(shown([a, b]), "ab", 1) == ["a", "b"]


def test_fix_14_half_swaths_are_both_picked_although_one_is_clearer() -> None:
    """FIX-14: the other orbit's corner is observed too, however little of it is clear."""
    west, east = [16] * 8 + [0] * 8, [0] * 8 + [2] * 8
    k = shown([[west], [east]], [[[16] * 8 + [0] * 8], [[0] * 8 + [16] * 8]])
    assert fixed(k, "we", 2) == ["w", "e"]


def test_less_than_a_256th_of_what_can_be_seen_is_not_asked_for() -> None:
    nearly, rest = left(16, full=1000), left(0)
    for missing, expected in ((62, ["a"]), (63, ["a", "b"])):  # of 16 000
        a, b = list(nearly), list(rest)
        a[-1], b[-1] = 1000 - missing, 1000
        assert fixed(shown([[a], [b]], 1000), "ab", 2) == expected


def test_a_sliver_of_a_chunk_is_worth_a_pick_when_nothing_else_is_seen() -> None:
    sliver = [0] * 15 + [1]
    assert fixed(shown([[[0] * 16]], [[sliver]]), "a", 3) == ["a"]


def test_equal_gains_go_to_the_better_rank() -> None:
    scenes = [scene(n) for n in "abc"]
    k = shown([[left(8)], [left(8)], [left(8)]])
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        picked = select_fixed(scenes, k, need([["31TCJ"]]), order, 3)
        assert np.flatnonzero(picked).tolist() == [order[0]]


def need(tiles: list[list[str]]) -> list[list[list[str]]]:
    return [tiles]


def test_fix_13_clearest_is_clear_over_all_pixels_so_a_sliver_cannot_win() -> None:
    scenes = [scene("sliver", 2), scene("full", 1)]
    k = by_pixel(counts([[0.1], [0.9]], [[0.1], [1.0]]))
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
        ("ancestor", ["a", "b", "c"]),  # of its adaptive selection
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
    k = by_pixel(counts([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    picked = select_fixed(scenes, k, need([["31TCJ"], ["31TCJ", "32TLQ"]]), [0, 1, 2], 1)
    assert picked.tolist() == [True, True, True]
    assert select_fixed(scenes, k, need([["31TCJ"], ["31TCJ"]]), [0, 1, 2], 1).tolist() == [True, True, False]


def adaptive(k: SceneCounts, names: str, **options: Any) -> list[str]:
    scenes = [scene(n) for n in names]
    picked = picks_adaptive(scenes, k, need([["31TCJ"]]), range(len(scenes)), **options).any(axis=(1, 2))
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
