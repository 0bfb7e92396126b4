"""One acquisition listed twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestpixel_gpu.catalog.duplicates import merge_duplicates
from bestpixel_gpu.catalog.providers import PC_S2
from bestpixel_gpu.catalog.scene import AssetRef, Scene

STRIP = datetime(2024, 6, 1, 10, 0, 0, tzinfo=UTC)
BASE = Scene(
    id="a",
    collection="c",
    profile=PC_S2,
    when=STRIP,
    platform="sentinel-2a",
    tile="31TCJ",
    cloud_cover=None,
    bands={},
    mask=AssetRef("m"),
    crs=None,
    baseline="04.00",
    generated="2024-06-01T12:00:00Z",
    datatake="GS2A_20240601T095500_000123",
    strip_start=STRIP,
)


def scene(ident: str, **change: Any) -> Scene:
    return replace(BASE, id=ident, **change)


@pytest.mark.parametrize(
    ("other", "kept", "reason"),
    [
        (scene("b", baseline="05.10"), "b", "duplicate of b: baseline 05.10 over 04.00"),
        (scene("b", baseline=""), "a", "duplicate of a: baseline 04.00 over unknown"),
        (scene("b", generated="2024-07-01T00:00:00Z"), "b", "duplicate of b: processed later"),
        (scene("b"), "b", "duplicate of b"),
        (scene("b", strip_start=STRIP + timedelta(seconds=5), baseline="03.00"), "a", None),
        (scene("b", strip_start=None, baseline="05.00"), "b", None),
        (scene("b", datatake="GS2A_20240601T095500", baseline="05.00"), "b", None),
        (scene("b", collection="other", baseline="05.00"), "b", None),
        (scene("a"), "a", "listed twice"),
        (scene("a", tile="", datatake=""), None, None),
    ],
)
def test_fix_18_duplicates(other: Scene, kept: str | None, reason: str | None) -> None:
    for pair in ([BASE, other], [other, BASE]):
        left, dropped = merge_duplicates(pair)
        if kept is None:
            assert (left, dropped) == (pair, [])
            continue
        assert [s.id for s in left] == [kept]
        assert len(dropped) == 1
        assert reason is None or dropped[0][1] == reason


@pytest.mark.parametrize(
    "other",
    [
        scene("b", strip_start=STRIP + timedelta(seconds=5.1)),
        scene("b", strip_start=STRIP + timedelta(seconds=60), baseline="05.00"),
        scene("b", strip_start=None),
        scene("b", strip_start=None, baseline=""),
        scene("b", platform="sentinel-2b"),
        scene("b", tile="31TDJ"),
        scene("b", datatake="GS2A_20240606T095500_000199"),
    ],
)
def test_what_is_no_duplicate(other: Scene) -> None:
    assert merge_duplicates([BASE, other]) == ([BASE, other], [])


def test_without_tile_or_datatake_only_the_same_item_is_one() -> None:
    bare = [scene(i, tile="", datatake="", strip_start=None) for i in ("a", "b", "a")]
    left, dropped = merge_duplicates(bare)
    assert [s.id for s in left] in (["a", "b"], ["b", "a"])
    assert [r for _, r in dropped] == ["listed twice"]


@given(
    st.lists(
        st.builds(
            scene,
            st.sampled_from("abcdef"),
            baseline=st.sampled_from(["", "02.12", "05.00"]),
            tile=st.sampled_from(["31TCJ", "31TDJ"]),
            strip_start=st.sampled_from(
                [None, STRIP, STRIP + timedelta(seconds=4), STRIP + timedelta(hours=1)]
            ),
        ),
        max_size=8,
    ),
    st.randoms(),
)
def test_the_choice_does_not_depend_on_the_order(scenes: list[Scene], random: Any) -> None:
    left, dropped = merge_duplicates(scenes)
    assert len(left) + len(dropped) == len(scenes)
    unique = {(s.id, s.tile, s.baseline, s.strip_start) for s in scenes}
    if len({(s.id) for s in scenes}) == len(unique):  # ids that differ, as in a catalogue
        shuffled = scenes[:]
        random.shuffle(shuffled)
        again = merge_duplicates(shuffled)[0]
        assert {s.id for s in again} == {s.id for s in left}
