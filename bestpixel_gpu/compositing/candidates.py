"""The candidates: scenes whose masks show something of the grid, and what they show of it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bestpixel_gpu.catalog.scene import Scene
from bestpixel_gpu.compositing.masks import MASK_ERRORS, MaskFailure, SceneMask, fetch_mask, open_mask
from bestpixel_gpu.compositing.records import keeps_records, recall, remember
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.compositing.sweeps import count_masks
from bestpixel_gpu.errors import IncompleteError


async def find_candidates(session: Session, scenes: Sequence[Scene]) -> list[SceneMask]:
    """Masks of the scenes, counted; a scene whose mask fails is no candidate.

    A mask stays unread where it is on record what it shows, until its scene is chosen.
    """
    find = _on_record_or_read if keeps_records(session) else _read
    return await _counted(session, [find(session, s) for s in scenes])


async def read_chosen(
    session: Session, masks: Sequence[SceneMask], chosen: Sequence[SceneMask]
) -> list[SceneMask]:
    """The candidates when all `chosen` ones have been read and counted; what fails is none any more."""
    unread = {id(m.scene): m for m in chosen if m.tiles is None}
    work = [_read(session, m.scene, replace(m, counted=None)) for m in unread.values()]
    read = {id(m.scene): m for m in await _counted(session, work, masks)}
    return [read.get(id(m.scene), m) for m in masks if id(m.scene) not in unread or id(m.scene) in read]


async def _counted(
    session: Session, work: Sequence[Awaitable[SceneMask | MaskFailure]], beside: Sequence[SceneMask] = ()
) -> list[SceneMask]:
    """Masks that come of `work`, counted beside others that are there already."""
    with session.stage("masks"):
        found = await together(list(work), lambda n: session.progress("masks", n, len(work)))
    masks = [m for m in found if isinstance(m, SceneMask)]
    failures = [m for m in found if isinstance(m, MaskFailure)]
    with session.stage("statistics"):
        good, undecoded = await count_masks(session, masks, beside)
        await remember(session, masks)
    _note(session, [*failures, *undecoded])
    return good


async def _on_record_or_read(session: Session, scene: Scene) -> SceneMask | MaskFailure:
    """A scene's mask, unread where it is on record what it shows."""
    try:
        mask = await _open(session, scene)
    except MASK_ERRORS as exc:
        return MaskFailure(scene, str(exc), exc)
    if isinstance(mask, MaskFailure):
        return mask
    mask.counted = await recall(session, mask)
    return await _read(session, scene, mask) if mask.counted is None else mask


async def _open(session: Session, scene: Scene) -> SceneMask | MaskFailure:
    """A scene's mask, opened here or by a run beside this one."""
    if session.masks is None:
        return await open_mask(session, scene)
    key = "opened", scene.collection, scene.id
    found: Any = await session.masks.get(key, scene.when, partial(open_mask, session, scene))
    return replace(found, scene=scene)  # type: ignore[no-any-return]


async def _read(session: Session, scene: Scene, opened: SceneMask | None = None) -> SceneMask | MaskFailure:
    """A scene's mask, read here or by a run beside this one."""
    if session.masks is None:
        return await fetch_mask(session, scene, opened)
    key = scene.collection, scene.id
    found: Any = await session.masks.get(key, scene.when, partial(fetch_mask, session, scene, opened))
    if isinstance(found, MaskFailure):
        session.masks.drop(key)  # the next to ask may have more luck
        return replace(found, scene=scene)
    session.masks.weigh(key, found.nbytes)
    return replace(found, scene=scene, kept=None, counted=None)  # type: ignore[no-any-return]


def _note(session: Session, failures: Sequence[MaskFailure]) -> None:
    for failure in failures:
        record = session.report.scene(failure.scene.id)
        record.status = "failed" if failure.error is not None else "dropped"
        record.reason = failure.reason
        if failure.error is not None and session.request.errors == "raise":
            raise IncompleteError(
                f"item {failure.scene.id}, asset {failure.scene.mask.key}: {failure.reason}", session.report
            ) from failure.error
