"""A stack of scenes as compressed tiles in memory, and its composite through any engine.

No network and no files: what is left is what an engine does. `compose` is the way of the package
itself (classes, keys, winners, tiles under winners, painting), so both engines must give the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileGrid, TileLayout
from bestpixel_gpu.engines.contract import (
    LOST_SLOT,
    NO_KEY,
    NODATA,
    CompressedTile,
    Engine,
    MaskTable,
    RankState,
    SampleRule,
    TapGeometry,
    TapSource,
)
from bestpixel_gpu.geo.pixel_map import AxisMap

ONE = 1 << 32
MASK_TILE = 512
CLASSES = 12
RULE = SampleRule(lo=1, hi=32767, nodata=0, mul=1, add=-1000, div=1)
DISTINCT = 24
"""Different tiles per kind; a stack repeats them, a decoder cannot tell."""


@dataclass(frozen=True)
class Stack:
    """Scenes of one raster: a class mask at half the resolution, and bands."""

    size: int
    mask_grid: TileGrid
    band_grid: TileGrid
    masks: list[list[CompressedTile]]
    bands: list[list[list[CompressedTile]]]
    """By band, then scene."""

    @property
    def decoded_bytes(self) -> int:
        """Of all tiles."""
        tiles = [t for scene in self.masks for t in scene] + [t for b in self.bands for s in b for t in s]
        return sum(t.layout.decoded_bytes for t in tiles)


def smooth(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Noise whose power falls with frequency, mean 0 and variance 1, (size, size)."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    f[0, 0] = 1
    waves = (rng.normal(size=f.shape) + 1j * rng.normal(size=f.shape)) / f**1.5
    field = np.fft.irfft2(waves, (size, size))
    return (field - field.mean()) / field.std()


def reflectance(rng: np.random.Generator, size: int) -> NDArray[np.uint16]:
    """A tile that deflates as Sentinel-2 does with predictor 2: 1.34 times, 10 bits a token of 1.7 bytes."""
    fields = rng.normal(size=(size // 32 + 1, size // 32 + 1)).repeat(32, 0).repeat(32, 1)[:size, :size]
    dn = 2500 + 300 * smooth(rng, size) + 400 * fields + rng.normal(scale=120, size=(size, size))
    return np.clip(np.rint(dn), 1, 32767).astype(np.uint16)


def classes(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Scene classes in patches: some fill, clouds, shadow and clear ground."""
    return np.array([4, 5, 6, 3, 8, 9], np.uint8)[np.digitize(smooth(rng, size), [-0.4, 0.3, 0.6, 0.8, 1.3])]


def reflectance_tiles(size: int, seed: int = 1, n: int = DISTINCT, step: int = 1) -> list[CompressedTile]:
    """Compressed tiles, uint16 with predictor 2; values are multiples of `step`."""
    layout = TileLayout(codec="deflate", width=size, height=size, bits=16, predictor=2)
    rng = np.random.default_rng(seed)

    def one(pixels: NDArray[np.uint16]) -> CompressedTile:
        steps = np.diff(pixels, axis=1, prepend=np.zeros((size, 1), np.uint16)).astype("<u2")
        return CompressedTile(0, zlib.compress(steps.tobytes(), 6), layout)

    return _parallel(one, [reflectance(rng, size) // step * step for _ in range(n)])


def mask_tiles(size: int, seed: int = 2, n: int = DISTINCT) -> list[CompressedTile]:
    """Compressed class masks, uint8."""
    layout = TileLayout(codec="deflate", width=size, height=size, bits=8)
    rng = np.random.default_rng(seed)
    return _parallel(
        lambda p: CompressedTile(0, zlib.compress(p.tobytes(), 6), layout),
        [classes(rng, size) for _ in range(n)],
    )


def _parallel(work: Callable[[Any], CompressedTile], items: Iterable[Any]) -> list[CompressedTile]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(work, items))


def make_stack(
    size: int, scenes: int, bands: int, tile: int = 512, seed: int = 1, mask_tile: int = MASK_TILE
) -> Stack:
    """A stack of `size` x `size` pixels."""
    rng = np.random.default_rng(seed)
    band_grid = TileGrid(width=size, height=size, tile_width=tile, tile_height=tile)
    mask_grid = TileGrid(width=size // 2, height=size // 2, tile_width=mask_tile, tile_height=mask_tile)
    kinds = {"band": reflectance_tiles(tile, seed), "mask": mask_tiles(mask_tile, seed)}

    def raster(kind: str, grid: TileGrid) -> list[CompressedTile]:
        picks = rng.integers(0, DISTINCT, grid.tiles_across * grid.tiles_down)
        return [CompressedTile(i, kinds[kind][n].data, kinds[kind][n].layout) for i, n in enumerate(picks)]

    return Stack(
        size,
        mask_grid,
        band_grid,
        [raster("mask", mask_grid) for _ in range(scenes)],
        [[raster("band", band_grid) for _ in range(scenes)] for _ in range(bands)],
    )


@cache
def score_table() -> MaskTable:
    """Scores of Sentinel-2's scene classes: 4, 5, 6 clear, 3 dark, 0 fill, the rest unusable."""
    codes = np.full(65536, 254, np.uint8)
    codes[[4, 5, 6]], codes[7], codes[[2, 3]], codes[0] = 0, 1, 2, 255
    scores = np.full(256, 65535, np.uint16)
    scores[:3] = range(3)
    return MaskTable(codes, scores, np.arange(256) == 0)


def positions(n: int, scale: float) -> AxisMap:
    """Output pixels on a raster whose pixels are 1 / scale of theirs."""
    table = ((2 * np.arange(n, dtype=np.int64) + 1) * int(scale * ONE)) >> 1
    return AxisMap(table, table.copy())


def compose(
    engine: Engine, stack: Stack, executor: Executor, strips: int = 1, bands_at_once: int = 1
) -> dict[str, Any]:
    """Layers of the composite, in the engine's memory, once everything asked for is done.

    Every raster is worked on in `strips` parts at once, by the executor's threads; threads of their
    own take `bands_at_once` bands at once.
    """
    n, scenes = stack.size, len(stack.masks)
    edges = np.linspace(0, n, strips + 1).astype(int).tolist()
    windows = [(a, b, 0, n) for a, b in pairwise(edges)]
    table, on_mask, on_band = score_table(), positions(n, 0.5), positions(n, 1.0)
    layers = {name: engine.empty((n, n), np.uint16, 0) for name in ("quality", "counts")}
    winners = engine.empty((n, n), np.int16)

    def classify(tiles: list[CompressedTile]) -> Any:
        box = (0, stack.mask_grid.height, 0, stack.mask_grid.width)
        return engine.classify(tiles, stack.mask_grid, box, table, nodata=0)[0]

    masks = list(executor.map(classify, stack.masks))

    def decide(window: tuple[int, int, int, int]) -> Any:
        part = slice(window[0], window[1])
        keys = engine.empty((window[1] - window[0], n), np.uint32, NO_KEY)
        for rank, mask in enumerate(masks):
            engine.rank(RankState(window, keys, layers["counts"][part]), mask, on_mask, table, rank)
        engine.settle(keys, layers["quality"][part], winners[part], scenes)
        geometry = TapGeometry(grid=stack.band_grid, positions=on_band)
        return engine.owners(window, winners[part], dict.fromkeys(range(scenes), geometry))

    needs = list(executor.map(decide, windows))
    wanted = [sorted({int(i) for need in needs for i in need[rank]}) for rank in range(scenes)]

    def paint_band(band: int) -> None:
        layers[f"band{band}"] = target = engine.empty((n, n), np.uint16, NODATA)
        layout = stack.bands[band][0][0].layout
        pool = engine.pool(layout.decoded_bytes, max(1, sum(map(len, wanted))))
        slots = np.full((scenes, len(stack.bands[band][0])), LOST_SLOT, np.int32)
        tickets, first = [], 0
        for rank, indices in enumerate(wanted):
            own = list(range(first, first + len(indices)))
            slots[rank, indices], first = own, first + len(own)
            tiles = [stack.bands[band][rank][i] for i in indices]
            cuts = np.array_split(np.arange(len(tiles)), strips)
            tickets += executor.map(
                lambda c, own=own, tiles=tiles: engine.load(pool, [own[i] for i in c], [tiles[i] for i in c]),
                cuts,
            )
        assert not any(t.wait().any() for t in tickets)
        geometry = TapGeometry(grid=stack.band_grid, positions=on_band)
        sources = {
            rank: TapSource(geometry=geometry, pool=pool, slots=slots[rank], dtype=layout.dtype, rule=RULE)
            for rank in range(scenes)
        }
        list(
            executor.map(
                lambda w: engine.paint(target[w[0] : w[1]], w, winners[w[0] : w[1]], sources), windows
            )
        )

    with ThreadPoolExecutor(bands_at_once) as own:
        list(own.map(paint_band, range(len(stack.bands))))
    engine.synchronize()
    return layers | {"winners": winners}


def checksums(engine: Engine, layers: dict[str, Any]) -> dict[str, int]:
    """CRC of each layer's bytes."""
    return {k: zlib.crc32(np.ascontiguousarray(engine.to_host(a))) for k, a in layers.items()}
