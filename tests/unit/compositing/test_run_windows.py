"""windowed_fetch: scenes keep to the box around the chunks that picked them, and no seam is empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from by_hand import CHUNK, PLAIN, Stack, assert_as_by_hand
from whole_run import assert_same, run

from bestpixel_gpu.compositing import choice, setup
from bestpixel_gpu.errors import InputError
from bestpixel_gpu.geo.grid import chunk_edges
from bestpixel_gpu.plan.selection import outside_windows

CALL: dict[str, Any] = {**PLAIN, "coverage_target": 0.6, "min_k": 1, "max_k": 2, "order": "newest"}


@pytest.fixture
def picks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the chunks of 40 pixels of a run pick, with the scenes' ids."""
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, n: chunk_edges(origin, n, CHUNK))
    found: list[Any] = []
    real = choice.picks_adaptive

    def spy(scenes: Any, *args: Any, **options: Any) -> Any:
        picked = real(scenes, *args, **options)
        found.append(([s.id for s in scenes], picked))
        return picked

    monkeypatch.setattr(choice, "picks_adaptive", spy)
    return found


def test_the_box_around_the_chunks_that_picked() -> None:
    picks = np.zeros((3, 5, 6), bool)
    picks[0, [1, 3], [4, 2]] = True
    picks[1, 0, 0] = True
    inside = ~outside_windows(picks)
    want = np.zeros((5, 6), bool)
    want[1:4, 2:5] = True
    np.testing.assert_array_equal(inside[0], want)
    assert inside[1].sum() == 1
    assert inside[2].all()


@pytest.mark.parametrize(("fill", "share"), [(False, None), (True, 0.0), (0.05, 0.05)])
def test_fix_15_a_scene_wins_inside_its_window_only(
    country: Any, stack: Stack, picks: list[Any], fill: Any, share: Any
) -> None:
    got = run(country, **CALL, fill=fill, windowed_fetch=True)
    ids, picked = picks[0]
    place = [ids.index(i) for i in stack.ids]
    outside = outside_windows(picked)[place].reshape(len(place), -1)
    assert outside.any()
    chosen = {i for i in range(len(place)) if picked[place[i]].any()}
    assert_as_by_hand(got, stack.composite("newest", None, share, chosen, outside))
    free = run(country, **CALL, fill=fill)
    assert (np.asarray(free.selected_observation) != np.asarray(got.selected_observation)).any()
    seen = np.asarray(got.selected_observation) >= 0
    assert (np.asarray(got.bands["swir16"])[seen] != 65535).all(), "no seam without data"


def test_without_a_coverage_target_it_changes_nothing(country: Any) -> None:
    assert_same(run(country, **PLAIN, windowed_fetch=True), run(country, **PLAIN))
    with pytest.raises(InputError, match="windowed_fetch must be True or False"):
        run(country, **PLAIN, windowed_fetch=2)
