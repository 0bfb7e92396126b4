"""HLS, MODIS and Landsat: the same landscape and weather in the files and items of other archives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.simulate.families import FAMILIES, Family, Image, Scene, stamp
from bestpixel_gpu.simulate.items import COG_TYPE
from bestpixel_gpu.simulate.sky import Weather, beyond
from bestpixel_gpu.simulate.spec import BAND, ArchiveSpec, Dialect, observations_of
from bestpixel_gpu.simulate.tiff import CogLayout, GeoReference, write_cog
from bestpixel_gpu.simulate.world import MATERIALS, Land, World

_STRIP = 60  # rows of pixels drawn at a time
Jobs = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]


def build_products(
    spec: ArchiveSpec, folder: Path, dialect: Dialect, world: World, weather: list[Weather], jobs: Jobs
) -> list[dict[str, Any]]:
    """The items of one archive, after all of its files are written."""
    family = FAMILIES[dialect]
    whole = [replace(one, part="all") for one in observations_of(spec) if not one.sequence]
    scenes = family.scenes(whole)
    items: list[dict[str, Any]] = []
    for frame in dict.fromkeys(s.frame for s in scenes):
        lands = [
            world.draw(*frame.points(family.fine, slice(r, r + _STRIP))) for r in range(0, frame.rows, _STRIP)
        ]
        one_scene = partial(_write_scene, spec, folder, family, lands, weather)
        items += jobs(one_scene, [s for s in scenes if s.frame == frame])
    return items


def _write_scene(
    spec: ArchiveSpec, folder: Path, family: Family, lands: list[Land], weather: list[Weather], scene: Scene
) -> dict[str, Any]:
    """The item of one scene, after its files are written."""
    frame, seen, fine = scene.frame, scene.seen, family.fine
    x, y = frame.points(1, slice(0, frame.rows))
    sky = weather[seen.date].at(x, y)
    outside = beyond(spec, seen, x, y) >= 0
    material = np.concatenate([land.material[fine // 2 :: fine, fine // 2 :: fine] for land in lands])
    images: dict[str, tuple[Image, CogLayout]] = {}
    masks = family.quality(sky, material == MATERIALS.index("water"))
    for key, mask in masks.items():
        mask[outside] = family.masks.fill
        images[key] = mask, family.masks
    factor = np.float32(np.random.default_rng([spec.seed, 2, seen.date]).uniform(0.98, 1.02))
    for band in (b for b in spec.bands if b in scene.keys):
        key = scene.keys[band]
        ground = np.concatenate([land.reflectance(BAND[band], fine) for land in lands])
        image = family.stored(sky.cover_all(ground * factor, BAND[band]))
        image[outside | _without_value(key, masks)] = family.bands.fill
        images[key] = image, family.bands
    for key, (image, layout) in images.items():
        block, overview = spec.block or layout.block, spec.block or layout.overview_block
        where = GeoReference(frame.crs if isinstance(frame.crs, int) else 0, frame.x, frame.y, frame.pixel)
        path = folder / "data" / f"{scene.path}{family.file(key)}"
        write_cog(path, image, where, replace(layout, block=block, overview_block=overview, level=spec.level))
    cloud = 100 * float((sky.classes >= 8).mean())
    return _item(scene, {key: _asset(scene, family.file(key)) for key in images}, cloud)


def _without_value(key: str, masks: dict[str, Image]) -> NDArray[np.bool_]:
    """Where a band of MODIS holds nothing: where its own quality layer says so."""
    own = masks.get(key.replace("Nadir_Reflectance", "BRDF_Albedo_Band_Mandatory_Quality"))
    return np.zeros((1, 1), bool) if own is None else own == 255


def _asset(scene: Scene, end: str) -> dict[str, Any]:
    return {"href": f"{{base}}/{scene.path}{end}", "type": COG_TYPE, "roles": ["data"]}


def _item(scene: Scene, assets: dict[str, Any], cloud: float) -> dict[str, Any]:
    frame = scene.frame
    ring = frame.ring()
    properties: dict[str, Any] = {
        "datetime": stamp(scene.when),
        "proj:shape": [frame.rows, frame.cols],
        "proj:transform": [frame.pixel, 0.0, frame.x, 0.0, -frame.pixel, frame.y, 0.0, 0.0, 1.0],
    }
    if scene.collection != "modis-43A4-061":
        properties["eo:cloud_cover"] = round(cloud, 2)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
        "id": scene.ident,
        "collection": scene.collection,
        "bbox": np.min(ring, axis=0).tolist() + np.max(ring, axis=0).tolist(),
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": properties | scene.properties,
        "assets": assets,
        "links": [],
    }
