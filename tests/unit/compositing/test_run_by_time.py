"""Rules that go by time: "latest" and "first", against a few lines of NumPy."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from by_hand import PLAIN, Stack, assert_as_by_hand
from whole_run import assert_same, run

from bestpixel_gpu.errors import InputError, NoScenesError

RULES: list[tuple[dict[str, Any], str]] = [
    ({"rule": "latest"}, "newest"),
    ({"rule": "latest", "order": "newest", "top_k": 1, "fill": False}, "newest"),
    ({"rule": "first"}, "oldest"),
    ({"rule": "first", "order": "cloud_cover", "coverage_target": 0.5}, "cloud_cover"),
]


@pytest.mark.parametrize(("options", "order"), RULES)
def test_time_decides_before_the_score(country: Any, stack: Stack, options: Any, order: str) -> None:
    got = run(country, **PLAIN, **options)
    assert_as_by_hand(got, stack.by_time(order))
    assert got.report.repair_rounds, "rims of swaths, where keys come back from the layers"
    assert all(s.selected for s in got.report.scenes if s.rank is not None)


def test_near_cloud_an_observation_is_not_usable_first(country: Any, stack: Stack) -> None:
    got = run(country, **PLAIN, rule="latest", cloud_buffer=90)
    assert_as_by_hand(got, stack.by_time("newest", stack.near_cloud(country, 90)))


def test_a_newer_marginal_one_stands_before_an_older_clear_one(country: Any, stack: Stack) -> None:
    latest, clearest = stack.by_time("newest"), stack.composite("newest", None, 0)
    better = (clearest["quality"] == 0) & (latest["quality"] == 1)
    assert better.any()
    assert (latest["date"][better] > clearest["date"][better]).all()
    got = run(country, **PLAIN, rule="latest")
    assert (np.asarray(got.quality)[better] == 1).all()
    usable = ((stack.score <= 1) & stack.ok).any(axis=0)
    assert (np.asarray(got.quality)[usable] <= 1).all(), "a shadow is no newer observation"


def test_the_winners_own_score_is_shown(server: Any) -> None:
    """Also where pixels cover several of the mask, and in another zone."""
    options: dict[str, Any] = {"tile": "all", "resolution": 45, "rule": "latest"}
    alone = {}
    for item in server.items("pc"):
        with suppress(NoScenesError):
            alone[item["id"]] = np.asarray(run(server, **options, items=[item]).quality)
    got = run(server, **options)
    source = np.asarray(got.selected_observation)
    for rank, ident in enumerate(got.source_ids):
        won = source == rank
        if won.any():
            np.testing.assert_array_equal(np.asarray(got.quality)[won], alone[ident][won])
    assert {0, 1} <= set(np.unique(got.quality))


def test_what_makes_no_sense_is_refused(server: Any) -> None:
    with pytest.raises(InputError, match="rule must be one of"):
        run(server, rule="best")
    with pytest.raises(InputError, match="rule='latest' goes by time"):
        run(server, rule="latest", order="cloud_cover")
    with pytest.raises(InputError, match="order='ancestor' goes with rule='clearest'"):
        run(server, rule="first", order="ancestor")


def test_the_default_is_what_it_was(server: Any) -> None:
    assert_same(run(server, rule="clearest", order="clearest"), run(server))
