"""The composites that are compared with the ancestor's, and the simulated archives they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bestpixel_gpu.simulate import ArchiveSpec

PLAIN: dict[str, Any] = {
    "tiles": 1, "seam": False, "south": False, "dates": 8, "cut_dates": (), "duplicate_date": None,
    "split_date": None, "block": 256, "bands": ("red", "nir08", "swir22", "nir09"),
}  # fmt: skip
"""One tile, no quirks; bands of 10, 20, 20 and 60 m."""
BOTH = {"dialects": ("pc", "earth-search"), "size": 1080}
ARCHIVES = {
    "tile": ArchiveSpec(**PLAIN | BOTH),
    "subifd": ArchiveSpec(**PLAIN | BOTH | {"overviews": "subifd"}),
    "cut": ArchiveSpec(**PLAIN | BOTH | {"cut_dates": (2, 4, 7)}),
    "twice": ArchiveSpec(**PLAIN | {"duplicate_date": 1, "size": 480, "dialects": ("pc",)}),
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
    only_once: bool = False
    """Of products listed twice the ancestor gets the later one."""


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
    *(Case(name=f"pc, top_k={k}", archive="cut", call={"top_k": k}) for k in (1, 2)),
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
        cure=("FIX-18", {"only_once": True}),
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
        Case(name=f"hls, {r} m", archive="hls", endpoint="hls", resolution=r, only_once=True)
        for r in (20, 30, 60)
    ),
    Case(
        name="hls, 30 m, one granule listed twice, top_k=8", archive="hls", endpoint="hls", resolution=30,
        cure=("FIX-18", {"only_once": True}), call={"top_k": 8},
    ),
    *(
        Case(
            name=f"hls, south of the equator, {r} m, output_crs={c!r}", archive="hls", endpoint="hls",
            resolution=r, tile=-1, only_once=True, call={"output_crs": c},
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
)  # fmt: skip
