"""cloud_buffer in whole runs: rims of clouds are marginal, exactly, on both engines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_hand import CHUNK, PLAIN, Stack, assert_as_by_hand
from whole_run import HOME, assert_same, run

from bestpixel_gpu.compositing import setup
from bestpixel_gpu.errors import InputError
from bestpixel_gpu.geo.grid import chunk_edges
from bestpixel_gpu.plan.memory import Budget


def buffered(country: Any, stack: Stack, metres: float) -> Stack:
    """The scenes with scores as they are near cloud."""
    near = stack.near_cloud(country, metres) & (stack.score < 2)
    assert (near & (stack.score == 0)).any()
    made = object.__new__(Stack)
    made.__dict__.update(stack.__dict__)
    made.score = np.where(near, 1, stack.score)
    return made


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, n: chunk_edges(origin, n, CHUNK))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("metres", [21, 100.5])
@pytest.mark.parametrize("options", [("newest", None, True), ("clearest", 2, 0.001), ("oldest", 1, False)])
def test_rims_of_clouds_are_marginal(country: Any, stack: Stack, metres: float, options: Any) -> None:
    order, top_k, fill = options
    got = run(country, **PLAIN, cloud_buffer=metres, order=order, top_k=top_k, fill=fill)
    share = {True: 0.0, False: None}[fill] if isinstance(fill, bool) else fill
    assert_as_by_hand(got, buffered(country, stack, metres).composite(order, top_k, share))


def test_a_rim_loses_to_what_is_clear_elsewhere(country: Any, stack: Stack) -> None:
    options = {**PLAIN, "order": "newest", "top_k": None}
    plain, kept = run(country, **options), run(country, **options, cloud_buffer=100)
    near = stack.near_cloud(country, 100)
    at = [stack.ids.index(i) for i in plain.source_ids]
    rows, cols = np.indices(plain.grid.shape)
    clear_apart = ((stack.score == 0) & ~near & stack.ok).any(axis=0)
    won = [np.array(at)[np.asarray(c.selected_observation)] for c in (plain, kept)]
    assert (near[won[0], rows, cols] & clear_apart).mean() > 0.05
    assert not (near[won[1], rows, cols] & clear_apart).any()
    assert (np.asarray(kept.quality)[clear_apart] == 0).all()


def test_the_same_in_parts_and_from_any_box(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"tile": "all", "resolution": 15, "cloud_buffer": 130, "top_k": None, "order": "newest"}
    want = run(server, **options)
    assert (np.asarray(want.quality) == 1).any()
    real = Budget.of
    monkeypatch.setattr(Budget, "of", lambda *args: replace(real(*args), strip=1, codes=0))
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, n: chunk_edges(origin, n, 96))
    assert_same(run(server, **options, threads=3), want)
    west, south, east, north = server.bbox_of(HOME)
    inner = (west + (east - west) / 3, south + (north - south) / 3, east, north)
    part = run(server, **{**options, "bbox": inner, "tile": HOME})
    r, c = (round((want.grid.top - part.grid.top) / 15), round((part.grid.left - want.grid.left) / 15))
    h, w = part.grid.shape
    np.testing.assert_array_equal(part.quality, np.asarray(want.quality)[r : r + h, c : c + w])


def test_what_makes_no_sense_is_refused(server: Any) -> None:
    with pytest.raises(InputError, match="cloud_buffer must be a number"):
        run(server, cloud_buffer=-1)
    with pytest.raises(InputError, match="no clouds in the masks of mcd43a4"):
        run(server, cloud_buffer=500, endpoint="mcd43a4", bands=["red"], resolution=500)
