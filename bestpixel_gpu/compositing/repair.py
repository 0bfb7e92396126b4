"""Repair: a pixel whose winner was invalid or lost goes to the next best observation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.compositing.choice import Choice
from bestpixel_gpu.compositing.rounds import Block
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.compositing.shortage import halves, in_parts
from bestpixel_gpu.compositing.sweeps import compete
from bestpixel_gpu.engines.contract import NO_KEY, RankState, Window


async def next_winners(
    session: Session, choice: Choice, layers: Mapping[str, Any], windows: list[Window]
) -> tuple[list[Block], list[int]]:
    """Give every failed pixel of some windows the smallest key above the failed one.

    A pixel failed if it has a winner and any band holds nodata. Its bands become nodata until the
    next round paints them; where no scene is left, so do quality and winner. Returns the blocks to
    paint next, each cut to its failed pixels, and the ranks that won some. Keys grow strictly, so
    rounds come to an end.
    """
    look = partial(_repair_window, session, choice, layers)
    parts = await in_parts(session, [(look, w) for w in windows], choice.masks, halves)
    found = [f for of_window in parts for _, f in of_window if f is not None]
    choice.wins = choice.wins + sum(won - lost for _, lost, won in found)
    ranks = {r for _, _, won in found for r in np.flatnonzero(won[:-1]).tolist()}
    return [block for block, _, _ in found if block is not None], sorted(ranks)


def _repair_window(
    session: Session, choice: Choice, layers: Mapping[str, Any], window: Window
) -> tuple[Block | None, NDArray[np.int64], NDArray[np.int64]] | None:
    """The block to paint again, and how many pixels each rank lost and won by the change."""
    engine, n = session.engine, len(choice.masks)
    r0, r1, c0, c1 = window
    part = slice(r0, r1), slice(c0, c1)
    found = engine.failed([band[part] for band in layers.values()], choice.winners[part])
    if found is None:
        return None
    (top, bottom, left, right), bad = found
    window = r0 + top, r0 + bottom, c0 + left, c0 + right
    part = slice(window[0], window[1]), slice(window[2], window[3])
    quality, winners = choice.quality[part], choice.winners[part]
    floor = engine.keys_of(quality, winners, choice.selected, bad)
    lost = engine.reopen([band[part] for band in layers.values()], winners, bad, n)
    keys = engine.empty(bad.shape, np.uint32, NO_KEY)
    compete(session, RankState(window, keys, None, floor), choice.competitors, choice.barred)
    again, scored = engine.empty(bad.shape, winners.dtype, -1), engine.empty(bad.shape, quality.dtype)
    engine.settle(keys, scored, again, n, bad)
    won = engine.settle(keys, quality, winners, n, bad)  # last: whoever begins anew finds the same failed
    return Block(window, again) if won[:-1].any() else None, lost, won
