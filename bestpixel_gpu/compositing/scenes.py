"""Candidate scenes: searched or given, filtered, duplicates merged, every loss named."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from bestpixel_gpu.catalog import items as catalog_items
from bestpixel_gpu.catalog.duplicates import merge_duplicates
from bestpixel_gpu.catalog.items import SkipItem, scene_of
from bestpixel_gpu.catalog.scene import Scene
from bestpixel_gpu.catalog.search import SearchQuery, search, within
from bestpixel_gpu.compositing.session import Session, in_daemon_thread
from bestpixel_gpu.errors import CatalogError, NoScenesError
from bestpixel_gpu.geo.grid import outline_lonlat
from bestpixel_gpu.request import BBox
from bestpixel_gpu.result.report import SceneRecord
from bestpixel_gpu.transfer.cache import without_token


async def find_scenes(session: Session) -> list[Scene]:
    """Candidates of a request, in the order (time, id).

    Raises
    ------
    NoScenesError
        If nothing is left; the message says what was searched and what took the rest away.
    """
    raw = await _raw_items(session)
    session.report.items_found = len(raw)
    found = [(s, item) for item in raw if (s := _candidate(session, item)) is not None]
    kept, dropped = merge_duplicates([s for s, _ in found])
    names = {id(s) for s in kept}
    session.items = [item for s, item in found if id(s) in names]
    for scene, reason in dropped:
        _drop(session, scene.id, reason, scene)
    for scene in kept:
        session.report.scenes.append(_record(scene))
        if not scene.offset.certain:
            session.report.warn_offset(
                f"item {scene.id}: {scene.offset.reason}; give offset= to decide yourself"
            )
    if not kept:
        raise no_scenes(session)
    return sorted(kept, key=lambda s: (s.when, s.id))


def frozen(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with addresses that hold no token, so that they may be kept and shown."""
    return [
        item
        | {
            "assets": {
                key: asset | {"href": without_token(asset["href"])} if "href" in asset else asset
                for key, asset in item["assets"].items()
            }
        }
        for item in items
    ]


async def _raw_items(session: Session) -> list[dict[str, Any]]:
    request = session.request
    if request.items is not None:
        return catalog_items.item_dicts(request.items)
    start, end = session.span or session.interval
    query = SearchQuery(
        root=request.stac_url or session.endpoint.root,
        collections=tuple(p.collection for p in session.endpoint.collections),
        boxes=search_boxes(session),
        start=start,
        end=end,
        max_cloud_cover=request.max_cloud_cover if session.endpoint.cloud_filter else None,
        limit=session.endpoint.page_limit,
    )
    if session.searches is None:
        return await _searched(session, query)
    found = await session.searches.get(query.key, session.span, partial(_searched, session, query))
    return [item for item in found if within(item, *session.interval)]


async def _searched(session: Session, query: SearchQuery) -> list[dict[str, Any]]:
    """What a search finds; what it found before, while that is believed or the catalogue is down."""
    disk = session.reader.disk
    if disk is None:
        session.report.searches += 1
        return await in_daemon_thread(search, query)
    items, age = await asyncio.to_thread(disk.get_search, query.key) or (None, 0.0)
    if items is not None and age <= query.lifetime():
        return items
    session.report.searches += 1
    try:
        found = await in_daemon_thread(search, query)
    except CatalogError as exc:
        if items is None:
            raise
        session.report.warn(
            f"{exc}; the scenes are those that the same search found {_ago(age)} ago (disk_cache)"
        )
        return items
    await asyncio.to_thread(disk.put_search, query.key, found)
    return found


def _ago(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def search_boxes(session: Session) -> tuple[BBox, ...]:
    """The grid's outline in degrees; two boxes where it crosses 180 degrees."""
    west, south, east, north = outline_lonlat(session.grid)
    if west <= east:
        return ((west, south, east, north),)
    return (west, south, 180.0, north), (-180.0, south, east, north)


def _candidate(session: Session, item: dict[str, Any]) -> Scene | None:
    request = session.request
    name = str(item.get("id", "?"))
    try:
        scene = scene_of(
            item,
            session.endpoint.collections,
            session.read_bands,
            offset_override=request.offset,
            band_quality=request.band_quality,
            catalog_root=None if request.items is not None else (request.stac_url or session.endpoint.root),
        )
    except SkipItem as skip:
        _drop(session, name, str(skip))
        return None
    start, end = session.interval
    if (start is not None and scene.when < start) or (end is not None and scene.when >= end):
        _drop(session, name, "outside the dates", scene)
        return None
    cloudy = scene.cloud_cover is not None and scene.cloud_cover >= request.max_cloud_cover
    if cloudy and request.max_cloud_cover < 100:
        _drop(session, name, f"cloud cover {scene.cloud_cover:g} % >= max_cloud_cover", scene)
        return None
    reason = None if session.gate is None else session.gate(scene)
    if reason is not None:
        _drop(session, name, reason, scene)
        return None
    return scene


def _record(scene: Scene) -> SceneRecord:
    return SceneRecord(
        id=scene.id,
        date=scene.when.isoformat(),
        tile=scene.tile,
        collection=scene.collection,
        cloud_cover=scene.cloud_cover,
        offset=scene.offset.dn,
        offset_reason=scene.offset.reason,
    )


def _drop(session: Session, item: str, reason: str, scene: Scene | None = None) -> None:
    record = _record(scene) if scene is not None else SceneRecord(id=item, date="", tile="", collection="")
    record.status, record.reason = "dropped", reason
    session.report.scenes.append(record)


def no_scenes(session: Session) -> NoScenesError:
    """The error for an empty candidate list, with all that was searched and lost."""
    request, report = session.request, session.report
    lost = Counter(
        "could not be read" if s.status == "failed" else s.reason.partition(":")[0]
        for s in report.scenes
        if s.status != "used" and s.reason
    )
    example = next((f", {s.reason}" for s in report.scenes if s.status == "failed"), "")
    where = (
        "the given items"
        if request.items is not None
        else (
            f"{request.stac_url or session.endpoint.root}, "
            f"collections {', '.join(p.collection for p in session.endpoint.collections)}"
        )
    )
    why = "; ".join(f"{n} x {reason}" for reason, n in lost.most_common(5))
    box = ", ".join(f"{v:.4f}" for v in search_boxes(session)[0])
    return NoScenesError(
        f"no usable scene in {where} for bbox ({box}), dates {request.datetime}, "
        f"cloud cover < {request.max_cloud_cover:g} %: {report.items_found} found"
        f"{', none usable (' + why + example + ')' if why else ''}. "
        "Widen the dates, raise max_cloud_cover, or check bbox (west, south, east, north) and endpoint"
    )
