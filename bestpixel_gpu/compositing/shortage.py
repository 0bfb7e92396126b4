"""Where there is less memory than the device told: smaller pieces, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from traceback import clear_frames
from typing import TypeVar

from bestpixel_gpu.compositing.masks import SceneMask
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.engines.contract import Window

T = TypeVar("T")
Job = tuple[Callable[[Window], T], Window]
"""Work on a window. It may be begun anew, on the whole window or on parts of it, if it raises MemoryError:
until it has all the memory it needs it changes nothing that it reads."""

LEAST_SIDE = 64
"""Pixels of a side below which a window is not cut."""


def halves(window: Window) -> list[Window]:
    """A window in two, cut across its longer side; a small one as it is."""
    r0, r1, c0, c1 = window
    if max(r1 - r0, c1 - c0) < 2 * LEAST_SIDE:
        return [window]
    if r1 - r0 > c1 - c0:
        middle = (r0 + r1) // 2
        return [(r0, middle, c0, c1), (middle, r1, c0, c1)]
    middle = (c0 + c1) // 2
    return [(r0, r1, c0, middle), (r0, r1, middle, c1)]


async def in_parts(
    session: Session,
    jobs: Sequence[Job[T]],
    masks: Sequence[SceneMask],
    cut: Callable[[Window], list[Window]],
    on_done: Callable[[int], None] | None = None,
) -> list[list[tuple[Window, T]]]:
    """What each job makes of its window, or of the parts of it that there is memory for, with these.

    All jobs are done at once. Those that find no room come again when the others are through: alone,
    without the codes that `masks` keep, and on parts of their windows where even that does not help.

    Raises
    ------
    MemoryError
        If there is no room for a part that cannot be cut.
    """
    found = await together([session.compute(_attempt, *job) for job in jobs], on_done)
    if None in found:
        await make_room(session, masks)
    for n, job in enumerate(jobs):
        if found[n] is None:
            _let_go(masks)  # of those that the last one kept, too
            found[n] = await session.compute(_part_by_part, *job, cut)
    return found


async def make_room(session: Session, masks: Sequence[SceneMask] = ()) -> None:
    """Have memory given back that is only kept, or held by what is left of a failed attempt."""
    _let_go(masks)
    await session.compute(session.engine.synchronize)  # loads that nobody waits for any more
    await session.compute(gc.collect)  # errors of tasks and the frames of these hold each other


def keep_codes(session: Session, mask: SceneMask) -> None:
    """Have a mask keep its codes, if there is room for them."""
    try:
        mask.keep(session)
    except MemoryError as error:
        mask.kept = None
        clear_frames(error.__traceback__)


def _let_go(masks: Sequence[SceneMask]) -> None:
    for mask in masks:
        mask.kept = None


def _attempt(work: Callable[[Window], T], window: Window) -> list[tuple[Window, T]] | None:
    try:
        return [(window, work(window))]
    except MemoryError:
        return None


def _part_by_part(
    work: Callable[[Window], T], window: Window, cut: Callable[[Window], list[Window]]
) -> list[tuple[Window, T]]:
    try:
        return [(window, work(window))]
    except MemoryError as error:
        parts = cut(window)
        if len(parts) < 2:
            raise
        clear_frames(error.__traceback__)  # some hold the error, and with it arrays
    return [pair for part in parts for pair in _part_by_part(work, part, cut)]
