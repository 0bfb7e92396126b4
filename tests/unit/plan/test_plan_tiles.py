"""The read plan: every tile once, exact last uses, neighbours merged, honest peak."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bestpixel_gpu.cog.layout import Level, TileLayout
from bestpixel_gpu.plan.tiles import GROUP_BYTES, block_windows, plan_pass


def level(sizes: list[int], across: int, gap: int = 8) -> Level:
    counts = np.array(sizes, np.uint64)
    offsets = (1000 + np.concatenate([[0], np.cumsum(counts + np.uint64(gap))[:-1]])).astype(np.uint64)
    offsets[counts == 0] = 0
    return Level(
        width=across * 16, height=-(-len(sizes) // across) * 16, tile_width=16, tile_height=16,
        offsets=offsets, byte_counts=counts,
        layout=TileLayout(codec="deflate", width=16, height=16, bits=16),
    )  # fmt: skip


@settings(max_examples=60)
@given(st.data())
def test_plan_reads_each_tile_once_and_frees_it_after_its_last_use(data: st.DataObject) -> None:
    n_tiles, n_blocks, n_ranks = 12, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(0, 900_000), min_size=n_tiles, max_size=n_tiles))
    levels = {r: level(sizes, 4) for r in range(n_ranks)}
    needs = [
        {r: np.array(sorted(data.draw(st.sets(st.integers(0, n_tiles - 1)))), np.int64) for r in levels}
        for _ in range(n_blocks)
    ]
    bands = [(b, levels, dict.fromkeys(levels, 0)) for b in ("red", "nir")]
    plan = plan_pass(bands, {"red": needs, "nir": needs})
    fetched = [(g.band, g.rank, i) for g in plan.groups for i in g.indices]
    wanted = {
        (b, r, int(i)) for b, _, _ in bands for need in needs for r, t in need.items() for i in t if sizes[i]
    }
    assert sorted(fetched) == sorted(wanted)
    assert [g.first_job for g in plan.groups] == sorted(g.first_job for g in plan.groups)
    alive: set[object] = set()
    queue = list(plan.groups)
    most = 0
    for step, job in enumerate(plan.jobs):
        while queue and queue[0].first_job == step:
            g = queue.pop(0)
            alive |= {(g.band, g.rank, i) for i in g.indices}
        assert {(k.band, k.rank, k.index) for k in job.tiles} <= alive
        most = max(most, len(alive))
        alive -= {(k.band, k.rank, k.index) for k in job.last_use}
    assert not alive
    assert plan.peak == most
    assert plan.stored_bytes == sum(sizes[i] for _, _, i in fetched)


def test_neighbours_are_merged_within_the_gap_and_the_cap() -> None:
    small = level([1000] * 8, 8)
    plan = plan_pass([("red", {0: small}, {0: 0})], {"red": [{0: np.arange(8)}]})
    assert [g.indices for g in plan.groups] == [tuple(range(8))]
    far = level([1000] * 8, 8, gap=5000)
    assert len(plan_pass([("red", {0: far}, {0: 0})], {"red": [{0: np.arange(8)}]}).groups) == 8
    big = level([GROUP_BYTES // 2 + 1] * 4, 4)
    assert len(plan_pass([("red", {0: big}, {0: 0})], {"red": [{0: np.arange(4)}]}).groups) == 4


def test_column_strips_keep_less_alive() -> None:
    edges = np.arange(0, 4097, 512)
    wide, narrow = block_windows(edges, edges, 8), block_windows(edges, edges, 2)
    assert wide[0] == (0, 512, 0, 4096)
    assert narrow[:2] == [(0, 512, 0, 1024), (512, 1024, 0, 1024)]
    assert sum((b - a) * (d - c) for a, b, c, d in narrow) == 4096**2
