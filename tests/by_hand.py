"""A small country whose scenes lie pixel on pixel with the output, and the rules of a run in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from picks import by_hand
from whole_run import file_of, run, winners

from bestpixel_gpu.geo.grid import chunk_edges

SCORE = np.full(256, 65535)
SCORE[[4, 5, 6, 11]], SCORE[7], SCORE[[2, 3]] = 0, 1, 2
CHUNK = 40
PLAIN: dict[str, Any] = {"tile": "31TCJ", "resolution": 20, "bands": ["swir16"], "max_cloud_cover": 100}


@contextmanager
def small_country(folder: Path) -> Iterator[Any]:
    """One tile, seven dates: a duplicate, a split strip, two edges of swaths, two baselines."""
    from bestpixel_gpu.simulate import ArchiveSpec, build, serve

    spec = ArchiveSpec(
        tiles=1, seam=False, south=False, dates=7, bands=("red", "swir16"), cut_dates=(2, 5),
        cover=(0.50, 0.45, 0.40, 0.55, 0.35, 0.60, 0.65), dialects=("pc",),
    )  # fmt: skip
    with serve(build(spec, folder)) as local:
        yield local


class Stack:
    """All scenes of the country over one grid, by the files."""

    def __init__(self, server: Any, grid: Any, items: list[dict[str, Any]]) -> None:
        self.items = items
        self.ids = [i["id"] for i in items]
        self.when = [datetime.fromisoformat(i["properties"]["datetime"]) for i in items]
        self.cloud = [i["properties"]["eo:cloud_cover"] for i in items]
        self.grid = grid
        x0, y0 = (items[0]["assets"]["SCL"]["proj:transform"][k] for k in (2, 5))
        self.at = round((y0 - grid.top) / 20), round((grid.left - x0) / 20)
        self.scl = np.array([self.window(server, i, "SCL") for i in items])
        raw = np.array([self.window(server, i, "B11") for i in items]).astype(np.int64)
        offset = [1000 * (float(i["properties"]["s2:processing_baseline"]) >= 4) for i in items]
        self.ok = (raw >= 1) & (raw <= 32767)
        self.value = np.clip(raw - np.array(offset)[:, None, None], 0, 65534)
        self.score = SCORE[self.scl]

    def window(self, server: Any, item: dict[str, Any], asset: str) -> NDArray[Any]:
        return self.cut(tifffile.imread(file_of(server, item, asset), key=0))

    def cut(self, data: NDArray[Any]) -> NDArray[Any]:
        r, c = self.at
        h, w = self.grid.shape
        out = np.zeros((h, w), data.dtype)
        rows, cols = slice(max(r, 0), min(r + h, len(data))), slice(max(c, 0), min(c + w, data.shape[1]))
        out[rows.start - r : rows.stop - r, cols.start - c : cols.stop - c] = data[rows, cols]
        return out

    def chunks(self) -> list[tuple[slice, slice]]:
        corners = (self.grid.row0, self.grid.height), (self.grid.col0, self.grid.width)
        rows, cols = ([slice(a, b) for a, b in pairwise(chunk_edges(*c, CHUNK))] for c in corners)
        return [(r, c) for r in rows for c in cols]

    def rank(self, order: str) -> list[int]:
        clear = (self.score == 0).sum(axis=(1, 2))
        age = [w.timestamp() for w in self.when]
        keys = {
            "clearest": lambda i: (-clear[i], -age[i], self.ids[i]),
            "cloud_cover": lambda i: (np.floor(self.cloud[i] + 0.5), -age[i], self.ids[i]),
            "newest": lambda i: (-age[i], self.ids[i]),
            "oldest": lambda i: (age[i], self.ids[i]),
            "nearest:2024-07-14": lambda i: (
                abs(age[i] - datetime.fromisoformat("2024-07-14T00:00:00+00:00").timestamp()),
                age[i],
                self.ids[i],
            ),
        }
        return sorted(range(len(self.ids)), key=keys[order])

    def by_time(self, order: str, near: NDArray[np.bool_] | None = None) -> dict[str, NDArray[Any]]:
        """The same for rules by time: usable first, then `order`; `near` cloud nothing is."""
        score = self.score if near is None else np.where(near & (self.score < 2), 1, self.score)
        late = (self.score == 2) | (False if near is None else near)
        ranks = self.rank(order)
        key = np.full((len(ranks), *self.grid.shape), 1 << 40)
        for place, i in enumerate(ranks):
            usable = (self.score[i] < 65535) & self.ok[i]
            key[place][usable] = (np.where(late[i], score[i], 0) * 1000)[usable] + place
        best, none = key.argmin(axis=0), key.min(axis=0) == 1 << 40
        pick = np.array(ranks)[best]
        rows, cols = np.indices(self.grid.shape)
        day = np.array([(w.date() - date(1970, 1, 1)).days for w in self.when])
        names = np.array([self.ids[i] for i in ranks], dtype=object)
        return {
            "winner": np.where(none, "", names[best]),
            "quality": np.where(none, 65535, score[pick, rows, cols]),
            "date": np.where(none, -2147483648, day[pick]),
            "swir16": np.where(none, 65535, self.value[pick, rows, cols]),
            "observation_count": (self.score[ranks] < 65535).sum(axis=0),
            "ids": names,
        }

    def near_cloud(self, server: Any, metres: float) -> NDArray[np.bool_]:
        """Where a scene has cloud, cirrus or shadow nearer than `metres`, also outside of the box."""
        found = []
        reach = int(metres // 20) + 1
        for item in self.items:
            cloudy = np.isin(tifffile.imread(file_of(server, item, "SCL"), key=0), (3, 8, 9, 10))
            near = np.zeros_like(cloudy)
            for r, c in np.argwhere(cloudy):
                i, j = np.ogrid[-reach : reach + 1, -reach : reach + 1]
                top, left = max(reach - r, 0), max(reach - c, 0)
                part = near[max(r - reach, 0) : r + reach + 1, max(c - reach, 0) : c + reach + 1]
                disc = (20 * i) ** 2 + (20 * j) ** 2 < metres**2
                part |= disc[top : top + part.shape[0], left : left + part.shape[1]]
            found.append(self.cut(near))
        return np.array(found)

    def selected(self, order: list[int], top_k: int | None) -> set[int]:
        return by_hand(self.score == 0, self.scl != 0, order, self.chunks(), top_k)

    def composite(
        self,
        order: str,
        top_k: int | None,
        fill: float | None,
        picked: set[int] | None = None,
        outside: NDArray[np.bool_] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Everything a run should give; `fill` None: selected scenes only.

        Where the selection is another one it is `picked`, and `outside` tells for each chunk of
        :meth:`chunks` which scenes may not win there.
        """
        ranks = self.rank(order)
        picked = self.selected(ranks, top_k) if picked is None else picked
        ranks = [i for i in ranks if fill is not None or i in picked]
        key = np.full((len(ranks), *self.grid.shape), 1 << 40)
        for place, i in enumerate(ranks):
            usable = self.score[i] < 65535
            key[place][usable] = (self.score[i] * 2 + (i not in picked))[usable] * 1000 + place
        for place, i in enumerate(ranks):
            for (r, c), shut in zip(self.chunks(), () if outside is None else outside[i], strict=False):
                if shut:
                    key[place][r, c] = 1 << 40
        if fill:
            for r, c in self.chunks():
                best = key[:, r, c].argmin(axis=0)
                best[key[:, r, c].min(axis=0) == 1 << 40] = -1
                for place, i in enumerate(ranks):
                    if i not in picked and 0 < (best == place).sum() < fill * best.size:
                        key[place][r, c] = 1 << 40
        key[~self.ok[ranks]] = 1 << 40
        best, none = key.argmin(axis=0), key.min(axis=0) == 1 << 40
        day = [(w.date() - date(1970, 1, 1)).days for w in self.when]
        names = np.array([self.ids[i] for i in ranks], dtype=object)
        pick = np.array(ranks)[best]
        rows, cols = np.indices(self.grid.shape)
        return {
            "winner": np.where(none, "", names[best]),
            "quality": np.where(none, 65535, self.score[pick, rows, cols]),
            "date": np.where(none, -2147483648, np.array(day)[pick]),
            "swir16": np.where(none, 65535, self.value[pick, rows, cols]),
            "observation_count": (self.score[ranks] < 65535).sum(axis=0),
            "ids": np.array(names),
        }


def stack_of(server: Any) -> Stack:
    """The scenes of the country, without the one of an older baseline."""
    composite = run(server, **PLAIN)
    older = [s.id for s in composite.report.scenes if s.status == "dropped"]
    assert len(older) == 1, "the duplicate of an older baseline"
    return Stack(server, composite.grid, [i for i in server.items("pc") if i["id"] not in older])


def assert_as_by_hand(got: Any, want: dict[str, NDArray[Any]]) -> None:
    assert got.source_ids == want["ids"].tolist()
    pairs = {
        "observation_count": got.observation_count,
        "quality": got.quality,
        "winner": winners(got),
        "date": got.date,
        "swir16": got.bands["swir16"],
    }
    for name, layer in pairs.items():
        differ = int((np.asarray(layer) != want[name]).sum())
        assert not differ, f"{name}: {differ} of {layer.size} pixels differ"
