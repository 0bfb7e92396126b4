"""Build an embedded archive: COGs and STAC items of a small simulated country."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.simulate.families import FAMILIES
from bestpixel_gpu.simulate.items import MASK_METRES, Names, baseline_of, has_offset, make_item
from bestpixel_gpu.simulate.products import build_products
from bestpixel_gpu.simulate.sky import Sky, Weather, beyond
from bestpixel_gpu.simulate.spec import (
    BAND,
    ArchiveSpec,
    Band,
    Dialect,
    Observation,
    Tile,
    inner_box,
    observations_of,
    tiles_of,
)
from bestpixel_gpu.simulate.tiff import CogLayout, GeoReference, write_cog
from bestpixel_gpu.simulate.world import SCL_OF, Floats, Land, World, land_of, plane_of

FORMAT = 1
"""Raised when the same description comes to mean other bytes."""
_STRIP = 720  # rows computed at a time
Classes = NDArray[np.uint8]
Jobs = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]


def build(spec: ArchiveSpec, folder: Path, *, threads: int | None = None) -> Path:
    """`folder`, holding the archive; nothing is done where the same one already stands.

    ``data/`` holds the files, ``items_<dialect>.json`` the items, and ``archive.json``, written
    last, the description.

    Parameters
    ----------
    threads
        Files written at a time; default: the cores of the machine, eight at most.

    Raises
    ------
    InputError
        If another archive stands in `folder`.
    """
    folder = Path(folder)
    notes = folder / "archive.json"
    described = _describe(spec)
    if notes.exists():
        if json.loads(notes.read_text()) == described:
            return folder
        raise InputError(f"{folder} holds another archive: choose an empty folder, or remove this one")

    world = _world(spec.seed)
    weather = [Weather(spec, k) for k in range(spec.dates)]
    observations = observations_of(spec)
    found: dict[Dialect, list[dict[str, Any]]] = {d: [] for d in spec.dialects}
    own_dialects = tuple(d for d in spec.dialects if d not in FAMILIES)
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for tile in tiles_of(spec) if own_dialects else ():
            own = [one for one in observations if one.tile == tile]
            for dialect, items in _build_tile(
                replace(spec, dialects=own_dialects), folder, land_of(world, tile), own, weather, pool.map
            ).items():
                found[dialect] += items
        for dialect in found.keys() - set(own_dialects):
            found[dialect] = build_products(spec, folder, dialect, world, weather, pool.map)
    for dialect, items in found.items():
        (folder / f"items_{dialect}.json").write_text(json.dumps(items))
    notes.write_text(json.dumps(described, indent=1))
    return folder


def _describe(spec: ArchiveSpec) -> dict[str, Any]:
    """What ``archive.json`` says: the spec, and where the tiles lie."""
    tiles = tiles_of(spec)
    home, across = tiles[: spec.tiles], spec.across or spec.tiles
    described = {
        "format": FORMAT,
        "spec": asdict(spec),
        "bbox": inner_box(home, across),
        "tiles": spec.tiles,
        "across": across,
        "size": spec.size,
        "tile_list": [{"name": t.name, "epsg": t.epsg, "ul": (t.x, t.y), "bbox": t.bbox} for t in tiles],
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def items(folder: Path, dialect: Dialect, base: str | None = None) -> list[dict[str, Any]]:
    """The items of an archive, hrefs below `base`; default: ``file://`` addresses of its files."""
    text = (Path(folder) / f"items_{dialect}.json").read_text()
    found: list[dict[str, Any]] = json.loads(
        text.replace("{base}", base or (Path(folder).resolve() / "data").as_uri())
    )
    return found


def day_factor(spec: ArchiveSpec, date: int) -> np.float32:
    """By how much the light of a date differs; it multiplies every reflectance of that date."""
    return np.float32(np.random.default_rng([spec.seed, 2, date]).uniform(0.98, 1.02))


def truth(spec: ArchiveSpec, band: str, tile: str, date: int | None = None) -> NDArray[np.int16]:
    """What `band` shows without clouds and without offset: reflectance * 10000, native pixels.

    With `date` (index of the pass) as seen on that day, light included; pixels that no cloud and
    no shadow touches hold exactly this. It can be slightly negative over water.

    Raises
    ------
    InputError
        If the archive has no such tile or band.
    """
    found = next((t for t in tiles_of(spec) if t.name == tile), None)
    if found is None or band not in BAND:
        raise InputError(
            f"no tile {tile!r} or no band {band!r}: tiles are {[t.name for t in tiles_of(spec)]}"
        )
    ground = land_of(_world(spec.seed), found).reflectance(BAND[band])
    return _numbers(ground * (np.float32(1) if date is None else day_factor(spec, date)))


@lru_cache(maxsize=2)
def _world(seed: int) -> World:
    return World(seed)


def _numbers(reflectance: Floats) -> NDArray[np.int16]:
    scaled: Floats = np.rint(np.clip(reflectance, -0.09, 2.0) * np.float32(10000))
    return scaled.astype(np.int16)


def _build_tile(
    spec: ArchiveSpec,
    folder: Path,
    land: Land,
    observations: list[Observation],
    weather: list[Weather],
    jobs: Jobs,
) -> dict[Dialect, list[dict[str, Any]]]:
    """Write all files of one tile, band by band; return its items."""
    ground_classes = SCL_OF[land.material[::2, ::2]]
    skies = {one.date: weather[one.date].over(one.tile) for one in observations}
    classes = [_classify(spec, one, ground_classes, skies[one.date]) for one in observations]
    seen = [(one, c) for one, c in zip(observations, classes, strict=True) if c.any()]
    sizes: dict[tuple[int, Dialect], dict[str, int]] = {
        (k, d): {} for k in range(len(seen)) for d in spec.dialects
    }

    def write_mask(k: int) -> None:
        one, mask = seen[k]
        for dialect in spec.dialects:
            sizes[k, dialect]["SCL"] = _write(spec, folder, dialect, one, "SCL", MASK_METRES, mask)

    for _ in jobs(write_mask, range(len(seen))):
        pass
    for name in spec.bands:
        band = BAND[name]
        ground = land.reflectance(band)

        def write_band(k: int, band: Band = band, ground: Floats = ground) -> None:
            one, _ = seen[k]
            values, inside = observe(spec, one, band, ground, skies[one.date])
            for dialect in spec.dialects:
                stored = np.where(inside, _stored(values, dialect, one), np.uint16(0))
                sizes[k, dialect][band.key] = _write(
                    spec, folder, dialect, one, band.key, band.metres, stored
                )

        for _ in jobs(write_band, range(len(seen))):
            pass
    return {
        d: [make_item(spec, Names(d, one), mask, sizes[k, d]) for k, (one, mask) in enumerate(seen)]
        for d in spec.dialects
    }


def _classify(spec: ArchiveSpec, one: Observation, ground: Classes, sky: Sky) -> Classes:
    """The scene classification of one product."""
    out = np.where(sky.classes > 0, sky.classes, ground)
    out[beyond(spec, one, *plane_of(one.tile, MASK_METRES)) >= 0] = 0
    return out


def observe(
    spec: ArchiveSpec, one: Observation, band: Band, ground: Floats, sky: Sky
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """``(values, inside)``: reflectance * 10000 as the sensor sees it, and where the product holds data."""
    factor = day_factor(spec, one.date) * np.float32(one.gain)
    values = np.empty(ground.shape, np.int16)
    inside = np.empty(ground.shape, np.bool_)
    shift = 6.0 * (int(band.key[1:].replace("8A", "8")) - 6)  # each band looks a little further ahead
    for first in range(0, len(ground), _STRIP):
        rows = slice(first, min(first + _STRIP, len(ground)))
        values[rows] = _numbers(sky.cover(ground[rows] * factor, band, rows))
        inside[rows] = beyond(spec, one, *plane_of(one.tile, band.metres, rows), shift) < 0
    return values, inside


def _stored(values: NDArray[np.int16], dialect: Dialect, one: Observation) -> NDArray[np.uint16]:
    """The numbers in the file: with ESA's offset, without it, or with the offset taken away again."""
    lifted = values + np.int16(1000 * has_offset(dialect, one.baseline))  # 21000 at most
    harmonised = dialect == "earth-search" and float(one.baseline) >= 4
    clipped: NDArray[np.int16] = np.clip(lifted, 0 if harmonised else 1, 32767)
    return clipped.astype(np.uint16)


def _write(
    spec: ArchiveSpec,
    folder: Path,
    dialect: Dialect,
    one: Observation,
    key: str,
    metres: int,
    image: NDArray[np.unsignedinteger[Any]],
) -> int:
    where = GeoReference(one.tile.epsg, one.tile.x, one.tile.y, float(metres))
    path = folder / "data" / Names(dialect, one).path(key, metres)
    return write_cog(path, image, where, layout_of(spec, dialect, baseline_of(dialect, one), key, metres))


def layout_of(spec: ArchiveSpec, dialect: Dialect, baseline: str, key: str, metres: int) -> CogLayout:
    """How that archive stores such a file."""
    pc, old = dialect == "pc", float(baseline) < 4
    side, overview = (512, 512) if pc else (1024, 512) if metres == 10 else (512, 256)
    bits = 8 if key == "SCL" else spec.nbits or (15 if pc and not old else 16)
    return CogLayout(
        block=spec.block or side,
        overview_block=spec.block or overview,
        bits=bits,
        predictor=1 if bits == 15 or (pc and key == "SCL") else 2,
        nodata=not (pc and old) if spec.nodata is None else spec.nodata,
        ghost=pc,
        fixed_levels=None if pc else 4,
        subifds=spec.overviews == "subifd",
        nearest=key == "SCL",
        level=spec.level,
    )


__all__ = ["ArchiveSpec", "Tile", "build", "day_factor", "items", "truth"]
