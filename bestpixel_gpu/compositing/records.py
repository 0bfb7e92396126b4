"""What masks showed of the grid in earlier runs: a scene that will not compete need not be looked at again.

Only where unselected scenes neither win nor are counted (``fill=False``) can a mask be left unread. Its
record is then as good as itself: it is found under the names of all that it was counted from.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from bestpixel_gpu import __version__
from bestpixel_gpu.compositing.masks import SceneMask, tiles_in
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.compositing.sweeps import CELLS, cells_for
from bestpixel_gpu.plan.selection import Counted
from bestpixel_gpu.transfer.cache import without_token


def keeps_records(session: Session) -> bool:
    """Tell whether this run may leave masks unread that are on record, and puts others there."""
    request = session.request
    selects = not request.by_time and (request.coverage_target > 0 or request.top_k is not None)
    return session.reader.disk is not None and request.fill is None and selects


async def recall(session: Session, mask: SceneMask) -> Counted | None:
    """What is on record of a mask, ``None`` if nothing is."""
    disk, name = session.reader.disk, _name(session, mask)
    if disk is None or not name:
        return None
    body = await asyncio.to_thread(disk.get_counts, name)
    return None if body is None else _unpacked(body, _arrays_of(session))


async def remember(session: Session, masks: Sequence[SceneMask]) -> None:
    """Put on record what masks show that were read and counted in this run, where that is not there yet."""
    disk = session.reader.disk
    if disk is None or not keeps_records(session):
        return
    new = {_name(session, m): m.counted for m in masks if m.tiles is not None and m.counted is not None}

    def put() -> None:
        for name, counted in new.items():
            if name and disk.get_counts(name) != (body := _packed(counted)):
                disk.put_counts(name, body)

    await asyncio.to_thread(put)


def _name(session: Session, mask: SceneMask) -> str:
    """What the record of a mask is called; empty if it has none.

    It holds all that the counts depend on: the file, its tag and where its tiles lie in it, how
    classes are scored, and where output pixels and chunks fall on it. A file without a tag, such as
    a local one, has none, for it could be replaced unseen; nor has a mask made of several files.
    """
    if mask.stamp is None or not mask.stamp.version or mask.scene.more_masks:
        return ""
    spans = [mask.level.span(i, mask.plane) for i in tiles_in(mask.grid, mask.window)]
    file = without_token(mask.scene.mask.href), mask.stamp.total, mask.stamp.version, spans
    scoring = mask.tables, mask.near, mask.nodata, mask.scene.profile.mask_grow
    places = mask.grid, mask.window, mask.positions, mask.footprint, session.chunks
    name = hashlib.sha1(__version__.encode(), usedforsecurity=False)
    for part in (*file, *scoring, *places, cells_for(session.request)):
        _add(name, part)
    return name.hexdigest()


def _add(name: Any, part: Any) -> None:
    if isinstance(part, np.ndarray):
        name.update(f"{part.dtype} {part.shape} ".encode())
        name.update(np.ascontiguousarray(part))
    elif is_dataclass(part):
        for field in fields(part):
            _add(name, getattr(part, field.name))
    else:
        name.update(f"{part!r};".encode())


def _arrays_of(session: Session) -> list[tuple[Any, tuple[int, ...]]]:
    """Type and shape of each array that a mask is counted in, see ``SceneCounts``."""
    chunks, cells = session.chunks, cells_for(session.request)
    shape = len(chunks.row_edges) - 1, len(chunks.col_edges) - 1
    by_cells = (bool if cells == CELLS else np.uint16), (*shape, cells**2)
    return [(np.int64, shape)] * 2 + [by_cells] * (2 if cells else 0)


def _packed(counted: Counted) -> bytes:
    return zlib.compress(b"".join(a.tobytes() for a in counted), 1)


def _unpacked(body: bytes, arrays: Sequence[tuple[Any, tuple[int, ...]]]) -> Counted | None:
    """The arrays; ``None`` if the body does not hold exactly them."""
    sizes = [np.dtype(kind).itemsize * math.prod(shape) for kind, shape in arrays]
    try:
        data = zlib.decompressobj().decompress(body, sum(sizes) + 1)
    except zlib.error:
        return None
    if len(data) != sum(sizes):
        return None
    starts = accumulate(sizes, initial=0)
    return tuple(
        np.frombuffer(data, kind, math.prod(shape), at).reshape(shape)
        for (kind, shape), at in zip(arrays, starts, strict=False)
    )
