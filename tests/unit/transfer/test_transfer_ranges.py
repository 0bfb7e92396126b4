"""Merging of byte ranges."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestpixel_gpu.transfer.ranges import Group, merge

SPANS = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 800)), max_size=40)


@pytest.mark.parametrize(
    ("spans", "gap", "cap", "groups"),
    [
        ([], 10, 100, []),
        ([(5, 3)], 10, 100, [(5, 3, (0,))]),
        ([(0, 10), (20, 10)], 10, 100, [(0, 30, (0, 1))]),
        ([(0, 10), (21, 10)], 10, 100, [(0, 10, (0,)), (21, 10, (1,))]),
        ([(20, 10), (0, 10)], 10, 100, [(0, 30, (1, 0))]),
        ([(0, 60), (60, 40)], 0, 100, [(0, 100, (0, 1))]),
        ([(0, 60), (60, 41)], 0, 100, [(0, 60, (0,)), (60, 41, (1,))]),
        ([(0, 500), (10, 20), (490, 20)], 0, 100, [(0, 500, (0, 1)), (490, 20, (2,))]),
        ([(7, 4), (7, 4), (7, 4)], 0, 4, [(7, 4, (0, 1, 2))]),
    ],
)
def test_groups(spans, gap, cap, groups):
    assert merge(spans, gap, cap) == [Group(*g) for g in groups]


@given(SPANS, st.integers(0, 300), st.integers(1, 2000))
def test_every_span_lies_in_exactly_one_group(spans, gap, cap):
    groups = merge(spans, gap, cap)
    assert sorted(i for g in groups for i in g.members) == list(range(len(spans)))
    for group in groups:
        inside = [spans[i] for i in group.members]
        assert group.offset == min(o for o, _ in inside)
        assert group.offset + group.length == max(o + n for o, n in inside)
        assert group.length <= max(cap, *(n for _, n in inside))
        wanted = set().union(*(range(o, o + n) for o, n in inside))
        holes = sorted(set(range(group.offset, group.offset + group.length)) - wanted)
        runs = [1] if holes else []
        for before, here in pairwise(holes):
            if here == before + 1:
                runs[-1] += 1
            else:
                runs.append(1)
        assert max(runs, default=0) <= gap


@given(SPANS, st.integers(0, 300))
def test_without_a_cap_no_two_groups_could_be_merged(spans, gap):
    groups = merge(spans, gap, 1 << 40)
    for one, two in pairwise(groups):
        assert two.offset > one.offset + one.length + gap
