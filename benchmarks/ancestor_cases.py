"""The composites that are compared with the ancestor's, and the simulated archives they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio

from bestpixel_gpu.simulate import ArchiveSpec
from bestpixel_gpu.simulate.spec import BANDS

Items = list[dict[str, Any]]

PLAIN: dict[str, Any] = {
    "tiles": 1, "seam": False, "south": False, "dates": 8, "cut_dates": (), "duplicate_date": None,
    "split_date": None, "block": 256, "bands": ("red", "nir08", "swir22", "nir09"),
}  # fmt: skip
"""One tile, no quirks; bands of 10, 20, 20 and 60 m."""
BOTH = {"dialects": ("pc", "earth-search"), "size": 1080}
SMALL = PLAIN | {"size": 480, "dialects": ("pc",)}
ARCHIVES = {
    "tile": ArchiveSpec(**PLAIN | BOTH),
    "subifd": ArchiveSpec(**PLAIN | BOTH | {"overviews": "subifd"}),
    "cut": ArchiveSpec(**PLAIN | BOTH | {"cut_dates": (2, 4, 7)}),
    "small": ArchiveSpec(**SMALL),
    "all-bands": ArchiveSpec(**SMALL | {"dates": 3, "bands": tuple(b.name for b in BANDS)}),
    "months": ArchiveSpec(**SMALL | {"dates": 12}),
    "twice": ArchiveSpec(**SMALL | {"duplicate_date": 1}),
    "unclear": ArchiveSpec(**SMALL | {"dates": 3}),
    "sliver": ArchiveSpec(**SMALL | {"dates": 2, "cover": (0.1, 0.1)}),
    "halves": ArchiveSpec(**SMALL | {"dates": 2, "cover": (0.1, 0.3)}),
    "LZW": ArchiveSpec(**SMALL),
    "row": ArchiveSpec(**PLAIN | {"tiles": 3, "size": 600, "dialects": ("pc",), "cut_dates": (2,)}),
    "zones": ArchiveSpec(**PLAIN | {"tiles": 2, "size": 480, "dialects": ("pc",), "seam": True}),
    "hls": ArchiveSpec(
        **PLAIN | {"south": True, "size": 720, "dialects": ("hls",), "cut_dates": (2,)}
        | {"bands": ("blue", "red", "nir", "swir22")}
    ),
    "modis": ArchiveSpec(
        **PLAIN | {"size": 10980, "dialects": ("mcd43a4",), "bands": ("blue", "red", "nir", "swir16")}
    ),
}  # fmt: skip
"""Archives by name."""
SUMMER: dict[str, Any] = {"years": [2024], "months": [7, 8]}
SPREAD = {"emit_uncertainty": True}
AOD = {"2024-07-02": 0.1, "2024-07-07": 0.5, "2024-07-12": 0.2, "2024-07-22": 0.3, "2024-08-06": 0.1}


# ---- files that are changed after an archive is made ----
def rewrite(
    folder: Path, date: str, key: str, change: Callable[[Any], Any], stored: Mapping[str, Any] | None = None
) -> None:
    """Write the file of one date and asset anew, its pixels changed or stored in another way."""
    (path,) = (folder / "data").rglob(f"*_{date}T*_{key}_*.tif")
    with rasterio.open(path) as src:
        options, data = src.profile | (stored or {}), change(src.read())
    with rasterio.open(path, "w", **options) as dst:
        dst.write(data)


def sliver(classes: Any) -> Any:
    """Seen in the western tenth only, and clear there."""
    return np.where(np.indices(classes.shape)[2] < classes.shape[2] // 10, 4, 0).astype(classes.dtype)


def west(classes: Any) -> Any:
    """Seen west of the middle."""
    return np.where(np.indices(classes.shape)[2] < classes.shape[2] // 2, classes, 0)


def east(classes: Any) -> Any:
    """Seen east of it."""
    return np.where(np.indices(classes.shape)[2] < classes.shape[2] // 2, 0, classes)


def unclear(classes: Any) -> Any:
    """Nothing is clear, everything is unclassified."""
    return np.where(classes, 7, 0).astype(classes.dtype)


EDITS: dict[str, list[tuple[Any, ...]]] = {
    "unclear": [("20240707", "SCL", unclear)],
    "sliver": [("20240702", "SCL", sliver)],
    "halves": [("20240702", "SCL", west), ("20240707", "SCL", east)],
    "LZW": [("20240712", "B04", np.array, {"compress": "lzw"})],
}
"""What is rewritten of archives after they are made: arguments of :func:`rewrite`."""


# ---- items that are changed before they are given to both ----
def once(found: Items) -> Items:
    """Of products listed twice the later one."""
    days = {(i["collection"], i["properties"]["datetime"][:10], i["bbox"][0]): i for i in found}
    return list(days.values())


def from_the_second(found: Items) -> Items:
    """All but the first."""
    return found[1:]


def without_datetime(found: Items) -> Items:
    """Two of July and one of August tell when they began and ended, nothing else."""
    found = deepcopy(found)
    for own in (found[n]["properties"] for n in (1, 3, 8)):
        own |= {"start_datetime": own["datetime"], "end_datetime": own["datetime"], "datetime": None}
    return found


def in_local_time(found: Items) -> Items:
    """10:36 on the first of August is still July some hours to the west."""
    found = deepcopy(found)
    found[6]["properties"]["datetime"] = "2024-07-31T23:36:29-11:00"
    return found


def of_another_zone(found: Items) -> Items:
    """The tile's code names the next zone, the files do not."""
    found = deepcopy(found)
    for item in found:
        item["properties"]["s2:mgrs_tile"] = "32TCJ"
    return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One composite, made by both."""

    name: str
    archive: str
    endpoint: str = "pc"
    resolution: float = 10
    overviews: Literal["bands", "none"] = "none"
    """Which files of the archive keep their overviews: those of bands, or none."""
    level: bool = False
    """The coarsest level that is not coarser than the output is read: the ancestor finds it in SubIFDs."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments, of both."""
    tile: int | None = None
    """The tile whose box it is; ``None``: the whole archive's."""
    cure: tuple[str, Mapping[str, Any]] | None = None
    """A defect, and what to change in the case so that the ancestor does not show it."""
    items: Callable[[Items], Items] = list
    """What is done to the items."""
    ours: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of this package instead of those of both."""
    warm: bool = False
    """The ancestor's second run with the same cache is compared."""
    wider: float = 0.0
    """Degrees that the box reaches beyond the tile."""


CASES = (
    *(
        Case(name=f"{e}, {r} m", archive="tile", endpoint=e, resolution=r)
        for e in ("pc", "earth-search") for r in (10, 20, 30, 60)
    ),
    *(
        Case(
            name=f"pc, {r} m, files with overviews", archive="tile", resolution=r, overviews="bands",
            level=True, cure=("FIX-1", {"archive": "subifd"}),
        )
        for r in (20, 60)
    ),
    *(Case(name=f"pc, {r} m", archive="tile", resolution=r) for r in (17, 33.3)),
    Case(name="pc, a box wider than the tile, 20 m", archive="cut", resolution=20, wider=0.02),
    *(Case(name=f"pc, top_k={k}", archive="cut", call={"top_k": k}) for k in (1, 2, 8)),
    Case(
        name="pc, scout_factor=2, concurrency=1, its second run with one cache", archive="small", warm=True,
        resolution=20, call={"scout_factor": 2, "concurrency": 1},
    ),
    Case(name="pc, bands=None, max_cloud_cover=100", archive="all-bands", resolution=20,
         call={"bands": None, "max_cloud_cover": 100}),
    Case(name="pc, some dates cut by the swath", archive="cut"),
    Case(name="earth-search, some dates cut by the swath", archive="cut", endpoint="earth-search"),
    Case(name="pc, bands=['nir08', 'red']", archive="tile", call={"bands": ["nir08", "red"]}),
    Case(
        name="pc, max_cloud_cover=20, coverage_target=0.99", archive="tile",
        call={"max_cloud_cover": 20, "coverage_target": 0.99},
    ),
    Case(name="pc, output_crs='utm'", archive="tile", call={"output_crs": "utm"}, resolution=20),
    Case(name="pc, coverage_target=0.95", archive="cut", call={"coverage_target": 0.95}),
    Case(
        name="pc, coverage_target=0.8, min_k=1, max_k=2", archive="cut",
        call={"coverage_target": 0.8, "min_k": 1, "max_k": 2},
    ),
    Case(
        name="pc, coverage_target=0.9, windowed_fetch=True", archive="cut",
        call={"coverage_target": 0.9, "min_k": 1, "windowed_fetch": True},
        cure=("FIX-15", {"call": {"coverage_target": 0.9, "min_k": 1}}),
    ),
    Case(
        name="pc, one acquisition listed twice, top_k=8", archive="twice", call={"top_k": 8},
        cure=("FIX-18", {"items": once}),
    ),
    *(Case(name=f"pc, three tiles side by side, {r} m", archive="row", resolution=r) for r in (10, 20)),
    Case(
        name="pc, three tiles, coverage_target=0.95", archive="row", call={"coverage_target": 0.95},
    ),
    *(Case(name=f"pc, two UTM zones, {r} m", archive="zones", resolution=r) for r in (10, 20)),
    Case(
        name="pc, two UTM zones, 20 m, coverage_target=0.95", archive="zones", resolution=20,
        call={"coverage_target": 0.95},
    ),
    *(
        Case(name=f"hls, {r} m", archive="hls", endpoint="hls", resolution=r, items=once)
        for r in (20, 30, 60)
    ),
    Case(
        name="hls, 30 m, one granule listed twice, top_k=8", archive="hls", endpoint="hls", resolution=30,
        cure=("FIX-18", {"items": once}), call={"top_k": 8},
    ),
    *(
        Case(
            name=f"hls, south of the equator, {r} m, output_crs={c!r}", archive="hls", endpoint="hls",
            resolution=r, tile=-1, items=once, call={"output_crs": c},
        )
        for r, c in ((30, "native"), (20, "utm"))
    ),
    *(
        Case(
            name=f"mcd43a4, 500 m, output_crs={c!r}", archive="modis", endpoint="mcd43a4", resolution=500,
            call={"output_crs": c},
        )
        for c in ("native", "utm")
    ),
    Case(
        name="mcd43a4, 500 m, coverage_target=0.95, bands=['red', 'nir']", archive="modis",
        endpoint="mcd43a4", resolution=500, call={"coverage_target": 0.95, "bands": ["red", "nir"]},
    ),
    *(
        Case(name=f"{e}, emit_uncertainty=True, {r} m", archive=a, endpoint=e, resolution=r, call=SPREAD)
        for e, a, r in (("pc", "tile", 20), ("pc", "cut", 10), ("earth-search", "cut", 20))
    ),
    Case(name="pc, emit_uncertainty=True, two UTM zones, 20 m", archive="zones", resolution=20, call=SPREAD),
    Case(name="pc, months 7 and 8", archive="months", call=SUMMER),
    Case(
        name="pc, months 8 and 7 by adaptive selection, emit_uncertainty=True, 20 m", archive="months",
        resolution=20, call=SPREAD | {"years": [2024], "months": [8, 7], "coverage_target": 0.95, "min_k": 1},
    ),
    *(
        Case(
            name=f"pc, months 7 and 8, aod_by_day, aod_max=0.3, reject_unknown={r}, 20 m", archive="months",
            resolution=20, call=SUMMER | {"aod_by_day": AOD, "aod_max": 0.3, "reject_unknown": r},
        )
        for r in (False, True)
    ),
    Case(name="hls, month 7, 30 m", archive="hls", endpoint="hls", resolution=30, items=once,
         call={"years": [2024], "months": [7]}),
    Case(
        name="pc, months 7 and 8, three items without datetime, 20 m", archive="months", resolution=20,
        items=without_datetime, call=SUMMER | {"top_k": 8}, cure=("FIX-19", {"items": list}),
    ),
    Case(
        name="pc, months 7 and 8, the time of an item written far to the west, 20 m", archive="months",
        resolution=20, items=in_local_time, call=SUMMER | {"top_k": 8}, cure=("FIX-36", {"items": list}),
    ),
    Case(
        name="pc, a scene without a clear pixel, the ancestor's second run with one cache", archive="unclear",
        warm=True, cure=("FIX-12", {"warm": False}),
    ),
    Case(
        name="pc, a clear sliver and a whole scene, top_k=1, here order='clearest'", archive="sliver",
        call={"top_k": 1}, ours={"order": "clearest"}, cure=("FIX-13", {"items": from_the_second}),
    ),
    Case(
        name="pc, a scene of each half, top_k=1, here order='clearest'", archive="halves",
        call={"top_k": 1}, ours={"order": "clearest"}, cure=("FIX-14", {"call": {"top_k": 2}}),
    ),
    Case(
        name="pc, all scenes in its fixed order, here order='oldest'", archive="tile", resolution=20,
        call={"top_k": 8}, ours={"order": "oldest", "top_k": None},
        cure=("FIX-17", {"call": {"coverage_target": 0.999, "min_k": 8}}),
    ),
    Case(
        name="pc, one file in LZW", archive="LZW", call={"top_k": 8}, cure=("FIX-21", {"archive": "small"}),
    ),
    Case(
        name="pc, the tile's code names another zone", archive="small", items=of_another_zone,
        cure=("FIX-28", {"items": list}),
    ),
)  # fmt: skip
