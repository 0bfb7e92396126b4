"""Whole runs against the embedded archive, and what there is to compare about them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bestpixel_gpu.simulate import LocalArchive

DATES = "2024-07-01/2024-08-31"
BANDS = ("red", "swir16")
HOME, RIGHT, ZONE32, SOUTH = "31TGJ", "31THJ", "32TKP", "33KVP"
"""The tiles of the default archive: three in a row, the last in the next UTM zone, and one far away."""
LAYERS = ("quality", "observation_count", "selected_observation", "date")


def run(server: LocalArchive, endpoint: str = "pc", **options: Any) -> Any:
    """``build_composite`` of the archive, by default of its first tile at 10 m."""
    from bestpixel_gpu import build_composite

    return build_composite(**arguments(server, endpoint, **options))


def arguments(server: LocalArchive, endpoint: str = "pc", **options: Any) -> dict[str, Any]:
    """What :func:`run` calls with."""
    tile = options.pop("tile", HOME)
    own: dict[str, Any] = {
        "bbox": server.bbox if tile == "all" else server.bbox_of(tile),
        "datetime": DATES, "resolution": 10, "endpoint": endpoint, "stac_url": server.stac_url(endpoint),
        "bands": list(BANDS), "threads": 2, "device": "cpu",
    }  # fmt: skip
    return own | options


def layers(composite: Any) -> dict[str, NDArray[Any]]:
    """Every array of a composite."""
    return {n: np.asarray(composite[n]) for n in LAYERS} | {
        n: np.asarray(a) for n, a in composite.bands.items()
    }


def assert_same(got: Any, want: Any) -> None:
    """Identical bytes in every layer, and the same scenes in the same order."""
    assert got.source_ids == want.source_ids
    assert got.grid == want.grid
    ours, theirs = layers(got), layers(want)
    assert list(ours) == list(theirs)
    for name, a in theirs.items():
        assert ours[name].dtype == a.dtype, name
        differ = int((ours[name] != a).sum())
        assert not differ, f"{name}: {differ} of {a.size} pixels differ"


def winners(composite: Any) -> NDArray[Any]:
    """Item id of every pixel's winner, empty where there is none."""
    names = np.array([*composite.source_ids, ""], dtype=object)
    found: NDArray[Any] = names[np.asarray(composite.selected_observation)]
    return found


def assert_same_pixels(got: Any, want: Any, where: NDArray[np.bool_] | None = None) -> None:
    """Same winner, score, date and bands; ranks and counts may differ."""
    assert got.grid == want.grid
    where = np.ones(got.grid.shape, bool) if where is None else where
    pairs = {n: (np.asarray(got[n]), np.asarray(want[n])) for n in ("quality", "date")}
    pairs |= {n: (np.asarray(a), np.asarray(want.bands[n])) for n, a in got.bands.items()}
    pairs["winner"] = winners(got), winners(want)
    for name, (a, b) in pairs.items():
        differ = int(((a != b) & where).sum())
        assert not differ, f"{name}: {differ} of {where.sum()} pixels differ"


def path_of(item: dict[str, Any], asset: str) -> str:
    """Path of an asset's file on the server, which faults and counters go by."""
    return urlsplit(item["assets"][asset]["href"]).path


def item_of(items: Sequence[dict[str, Any]], ident: str) -> dict[str, Any]:
    """The item with this id."""
    return next(i for i in items if i["id"] == ident)


def of_tile(items: Iterable[dict[str, Any]], tile: str) -> list[dict[str, Any]]:
    """Items of one MGRS tile."""
    return [i for i in items if tile in i["id"]]


def with_href(items: Sequence[dict[str, Any]], ident: str, asset: str, href: str) -> list[dict[str, Any]]:
    """The items, one asset of one of them elsewhere."""
    changed = copy.deepcopy(list(items))
    item_of(changed, ident)["assets"][asset]["href"] = href
    return changed


def file_of(server: LocalArchive, item: dict[str, Any], asset: str) -> Path:
    """An asset's file in the archive's folder."""
    found = server.folder / "data" / path_of(item, asset).lstrip("/")
    assert found.is_file()
    return found


def forget_headers() -> None:
    """Empty the header cache of the process."""
    from bestpixel_gpu.transfer.cache import HEADERS

    for key in list(HEADERS._entries):
        HEADERS.drop(key)


@contextmanager
def counted(server: LocalArchive, **options: Any) -> Iterator[dict[str, Any]]:
    """The server's counters of what happens inside; filled at the end."""
    server.reset(log=True, **options)
    found: dict[str, Any] = {}
    yield found
    found.update(server.stats())
