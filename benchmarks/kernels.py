"""Rates of the CPU kernels, beside a memory copy measured on the same machine; printed as JSON.

Run by hand: ``python benchmarks/kernels.py``. CPU seconds of the calling thread, best of five,
compilation excluded. Pixels are output pixels unless a name says otherwise.
"""

from __future__ import annotations

import json
import platform
import time
import zlib
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.contract import (
    NO_KEY,
    NODATA,
    CompressedTile,
    Footprint,
    MaskTable,
    RankState,
    SampleRule,
    TapGeometry,
    TapSource,
    TileGrid,
)
from bestpixel_gpu.engines.cpu import inflate
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import ONE, AxisMap, LatticeMap, PixelMap

ENGINE = create("cpu")
RNG = np.random.default_rng(0)
SIDE = 2048
WINDOW = (0, SIDE, 0, SIDE)


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """CPU seconds of one call, best of several after a first one that compiles."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def rate(amount: float, work: Callable[[], Any]) -> float:
    """Millions of something a second."""
    return round(amount / seconds(work) / 1e6, 1)


def memcpy() -> dict[str, float]:
    """GB/s copied: far beyond the caches, and half a MiB inside them."""
    far, near = np.ones(64 << 20, np.uint8), np.ones(512 << 10, np.uint8)
    to_far, to_near = np.empty_like(far), np.empty_like(near)

    def again() -> None:
        for _ in range(64):
            np.copyto(to_near, near)

    return {
        "memcpy 64 MiB GB/s": round(far.size / seconds(lambda: np.copyto(to_far, far)) / 1e9, 2),
        "memcpy 512 KiB GB/s": round(64 * near.size / seconds(again) / 1e9, 2),
    }


def tiles() -> dict[str, float]:
    """MB/s of decoded tiles, by layout."""
    field = RNG.standard_normal((512, 512)).cumsum(0).cumsum(1) * 0.5 + 3000
    picture = (field + 10 * RNG.standard_normal(field.shape)).clip(1, 30000).astype(np.uint16)
    steps = np.diff(picture, axis=1, prepend=np.zeros((512, 1), np.uint16))
    bits = (picture[:, :, None] >> np.arange(14, -1, -1) & 1).astype(np.uint8).reshape(512, -1)
    classes = np.kron(RNG.integers(2, 11, (32, 32)), np.ones((16, 16), int)).astype(np.uint8)
    stored = {
        "uint16 predictor 2": (
            steps.tobytes(),
            TileLayout(codec="deflate", width=512, height=512, bits=16, predictor=2),
        ),
        "15 bits packed": (
            np.packbits(bits, 1).tobytes(),
            TileLayout(codec="deflate", width=512, height=512, bits=15),
        ),
        "uint8 classes": (classes.tobytes(), TileLayout(codec="deflate", width=512, height=512, bits=8)),
    }
    out = {}
    for name, (raw, layout) in stored.items():
        for codec in ("deflate", "none"):
            how = TileLayout(codec=codec, width=512, height=512, bits=layout.bits, predictor=layout.predictor)
            data = zlib.compress(raw, 6) if codec == "deflate" else raw
            batch = [CompressedTile(n, data, how) for n in range(16)]
            pool = ENGINE.pool(how.decoded_bytes, 16)
            what = "load" if codec == "deflate" else "unpack only"
            out[f"{what}, {name}, MB/s decoded"] = rate(
                16 * how.decoded_bytes, lambda pool=pool, batch=batch: ENGINE.load(pool, range(16), batch)
            )
    return out


def inflating() -> dict[str, float]:
    """MB/s of inflated bytes, by each link of the chain: on their own, not unpacked."""
    field = RNG.standard_normal((512, 512)).cumsum(0).cumsum(1) * 0.5 + 3000
    picture = (field + 10 * RNG.standard_normal(field.shape)).clip(1, 30000).astype(np.int16)
    classes = np.kron(RNG.integers(2, 11, (64, 64)), np.ones((8, 8), int)).astype(np.uint8)
    classes[RNG.random(classes.shape) < 0.01] = 8
    raws = {"reflectance": np.diff(picture, axis=1, prepend=np.int16(0)), "classes": classes}
    links = {"deflate": inflate.with_deflate, "numba": inflate.with_numba, "zlib": inflate.with_zlib}
    out = {}
    for name, raw in raws.items():
        stream, size = zlib.compress(raw.tobytes(), 6), raw.nbytes
        for link, work in links.items():
            got = work(stream, size)
            assert got is not None
            assert bytes(got) == raw.tobytes()
            out[f"inflate, {name}, {link}, MB/s"] = rate(
                8 * size, lambda work=work, args=(stream, size): [work(*args) for _ in range(8)]
            )
    return out


def axis(scale: float, shift: float = 0.0, count: int = SIDE) -> AxisMap:
    """Square map of one CRS."""
    x = np.rint(ONE * ((np.arange(count) + 0.5) * scale + shift)).astype(np.int64)
    return AxisMap(x, x.copy())


def lattice(scale: float, count: int = SIDE) -> LatticeMap:
    """Map to another CRS, turned a little, a node every 16 pixels."""
    c, r = np.meshgrid(np.arange(0, count + 32, 16) + 0.5, np.arange(0, count + 32, 16) + 0.5)
    x, y = scale * c + 0.01 * r + 5, scale * r - 0.01 * c + 25
    return LatticeMap(np.rint(ONE * x).astype(np.int64), np.rint(ONE * y).astype(np.int64), 4, 0, 0)


def masks() -> dict[str, float]:
    """Mpx/s of classifying, ranking and counting."""
    side = 5490
    grid = TileGrid(width=side, height=side, tile_width=512, tile_height=512)
    layout = TileLayout(codec="deflate", width=512, height=512, bits=8)
    data = zlib.compress(
        np.kron(RNG.integers(0, 12, (32, 32)), np.ones((16, 16), int)).astype(np.uint8).tobytes()
    )
    batch = [CompressedTile(n, data, layout) for n in range(grid.tiles_across * grid.tiles_down)]
    codes = np.full(65536, 254, np.uint8)
    codes[:12] = [255, 254, 3, 5, 0, 0, 1, 4, 254, 254, 20, 2]
    scores = np.full(256, 65535, np.uint16)
    scores[:30] = np.arange(30) * 100
    table = MaskTable(codes, scores, np.arange(256) < 4)
    whole = (0, side, 0, side)
    mask, _ = ENGINE.classify(batch, grid, whole, table, nodata=0)
    out = {
        "classify Mpx/s": rate(side**2, lambda: ENGINE.classify(batch, grid, whole, table, nodata=0)),
        "classify, grow 5, Mpx/s": rate(
            side**2, lambda: ENGINE.classify(batch, grid, whole, table, nodata=0, grow=5)
        ),
    }
    cases: dict[str, tuple[PixelMap, Footprint | None, int]] = {
        "same CRS, 10 m from 20 m": (axis(0.5, count=2 * side), None, 2 * side),
        "same CRS, 20 m from 20 m": (axis(1, count=side), None, side),
        "same CRS, worst of 60 m from 20 m": (
            axis(3, count=side // 3),
            Footprint(3 * ONE // 2, 3 * ONE // 2),
            side // 3,
        ),
        "other CRS, nearest": (lattice(1.99, side // 2), None, side // 2),
        "other CRS, worst of": (lattice(1.99, side // 2), Footprint(ONE, ONE), side // 2),
    }
    for name, (positions, footprint, n) in cases.items():
        state = RankState(
            (0, n, 0, n), ENGINE.empty((n, n), np.uint32, NO_KEY), ENGINE.empty((n, n), np.uint16, 0)
        )
        edges = np.append(np.arange(0, n, 512), n)
        out[f"rank, {name}, Mpx/s"] = rate(
            n * n,
            lambda state=state, positions=positions, footprint=footprint: ENGINE.rank(
                state, mask, positions, table, 1, footprint=footprint
            ),
        )
        out[f"statistics, {name}, Mpx/s"] = rate(
            n * n,
            lambda n=n, positions=positions, footprint=footprint, edges=edges: ENGINE.statistics(
                mask, positions, (0, n, 0, n), ChunkGrid(edges, edges), table, footprint=footprint, cells=True
            ),
        )
    return out


def source(side: int, positions: PixelMap, **rule: Any) -> TapSource:
    """A level of random samples under a map."""
    grid = TileGrid(width=side, height=side, tile_width=512, tile_height=512)
    slots = np.arange(grid.tiles_across * grid.tiles_down, dtype=np.int32)
    pool = ENGINE.pool(512 * 512 * 2, len(slots))
    samples = pool.data.view(np.uint16)
    samples[:] = RNG.integers(1, 10000, samples.size)
    how = SampleRule(lo=1, hi=32767, **rule)
    geometry = TapGeometry(
        grid=grid, positions=positions, bilinear=how.bilinear, margin=2 if how.erode else 0
    )
    return TapSource(geometry=geometry, pool=pool, slots=slots, dtype=np.dtype("u2"), rule=how)


def painting() -> dict[str, float]:
    """Mpx/s of painting and of finding the tiles, by map and by how the winners lie."""
    scenes = {
        "copy": source(SIDE, axis(1), add=-1000),
        "copy, 11 v - 80000 over 40": source(SIDE, axis(1), mul=11, add=-80000, div=40),
        "nearest, twice as fine": source(SIDE // 2, axis(0.5), bilinear=False),
        "bilinear, twice as fine": source(SIDE // 2, axis(0.5)),
        "bilinear, 1.5 times as coarse": source(SIDE * 3 // 2, axis(1.5)),
        "bilinear, 1.5 times as coarse, eroded": source(SIDE * 3 // 2, axis(1.5), erode=True),
        "bilinear, 40 m from 30 m": source(SIDE * 4 // 3 + 1, axis(4 / 3)),
        "bilinear, other CRS": source(SIDE + 100, lattice(0.99)),
        "nearest, other CRS": source(SIDE + 100, lattice(0.99), bilinear=False),
    }
    winners = {
        "one scene": np.zeros((SIDE, SIDE), np.int16),
        "blocks of 32": np.kron(RNG.integers(0, 2, (64, 64)), np.ones((32, 32), int)).astype(np.int16),
        "noise": RNG.integers(0, 2, (SIDE, SIDE)).astype(np.int16),
    }
    target = ENGINE.empty((SIDE, SIDE), np.uint16, NODATA)
    out = {}
    for name, scene in scenes.items():
        for how, won in winners.items():
            both = {0: scene, 1: scene}
            out[f"paint, {name}, {how}, Mpx/s"] = rate(
                SIDE**2, lambda won=won, both=both: ENGINE.paint(target, WINDOW, won, both)
            )
    for name in ("copy", "bilinear, other CRS"):
        for how, won in winners.items():
            both = dict.fromkeys((0, 1), scenes[name].geometry)
            out[f"owners, {name}, {how}, Mpx/s"] = rate(
                SIDE**2, lambda won=won, both=both: ENGINE.owners(WINDOW, won, both)
            )
    return out


def main() -> None:
    """Measure all, print JSON."""
    machine = {"machine": platform.machine(), "python": platform.python_version(), "numba": numba.__version__}
    print(json.dumps(machine | memcpy() | inflating() | tiles() | masks() | painting(), indent=1))


if __name__ == "__main__":
    main()
