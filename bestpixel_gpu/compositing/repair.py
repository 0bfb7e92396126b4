"""Repair: a pixel whose winner was invalid or lost goes to the next best observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.compositing.choice import Choice
from bestpixel_gpu.compositing.masks import compete
from bestpixel_gpu.compositing.painting import Block
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.engines.contract import NO_KEY, NODATA, RankState, Window
from bestpixel_gpu.plan.winners import count_wins, decode_keys, encode_keys


async def next_winners(
    session: Session, choice: Choice, layers: Mapping[str, Any], windows: list[Window]
) -> list[Block]:
    """Give every failed pixel of some windows the smallest key above the failed one.

    A pixel failed if it has a winner and any band holds nodata. Its bands become nodata until the
    next round paints them; where no scene is left, so do quality and winner. Returns the blocks to
    paint next, each cut to its failed pixels. Keys grow strictly, so rounds come to an end.
    """
    found = await together([session.compute(_repair_window, session, choice, layers, w) for w in windows])
    choice.wins = choice.wins + sum(change for _, change in found)
    return [block for block, _ in found if block is not None]


def _repair_window(
    session: Session, choice: Choice, layers: Mapping[str, Any], window: Window
) -> tuple[Block | None, NDArray[np.int64]]:
    """The block to paint again, and how many pixels each rank gained by the change."""
    n = len(choice.masks)
    cut = _failed(choice, layers, window)
    if cut is None:
        return None, np.zeros(n + 1, np.int64)
    window, bad = cut
    r0, r1, c0, c1 = window
    part = slice(r0, r1), slice(c0, c1)
    for band in layers.values():
        band[part][bad] = NODATA
    quality, winners = choice.quality[part], choice.winners[part]
    floor = encode_keys(quality, winners, choice.selected)
    floor[~bad] = NO_KEY
    keys = session.engine.empty(bad.shape, np.uint32, NO_KEY)
    state = RankState(window, keys, None, floor)
    compete(session, state, choice.competitors, choice.barred)
    new_quality, new_winners = np.empty_like(quality), np.empty_like(winners)
    decode_keys(keys, new_quality, new_winners)
    change = count_wins(new_winners[bad], n) - count_wins(winners[bad], n)
    quality[bad], winners[bad] = new_quality[bad], new_winners[bad]
    again = np.where(bad, new_winners, -1).astype(winners.dtype)
    return Block(window, again) if (again >= 0).any() else None, change


def _failed(
    choice: Choice, layers: Mapping[str, Any], window: Window
) -> tuple[Window, NDArray[np.bool_]] | None:
    """The failed pixels of a window, and the box around them."""
    r0, r1, c0, c1 = window
    part = slice(r0, r1), slice(c0, c1)
    bad = np.zeros((r1 - r0, c1 - c0), bool)
    for band in layers.values():
        bad |= band[part] == NODATA
    bad &= choice.winners[part] >= 0
    if not bad.any():
        return None
    rows, cols = np.flatnonzero(bad.any(axis=1)), np.flatnonzero(bad.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    return (r0 + top, r0 + bottom, c0 + left, c0 + right), bad[top:bottom, left:right]
