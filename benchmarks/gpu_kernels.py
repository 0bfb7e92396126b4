"""Each kernel of the CUDA engine against the copy bandwidth of the same device.

An operation is asked of the engine once, on a device that notes what it launches; then only those
launches are timed. The bytes are those that the operation must read and write whatever its kernel
does: what a kernel moves besides (marks, tables, what is read twice) makes its share smaller.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import stack
from gpu_bench import Bench
from gpu_inflate import Streams
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileGrid, TileLayout
from bestpixel_gpu.engines.contract import (
    NO_KEY,
    NODATA,
    CompressedTile,
    Footprint,
    RankState,
    SampleRule,
    Sums,
    Surround,
    TapGeometry,
    TapSource,
    ValueState,
    Window,
)
from bestpixel_gpu.engines.cuda.engine import CudaEngine
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import ONE, AxisMap, LatticeMap, PixelMap

SCENES = 4
GOALS = (
    "unpack, predictor 2",
    "rank, first scene",
    "rank, second scene",
    "paint, nearest",
    "paint, bilinear",
    "paint, bilinear, twice as fine",
    "paint, bilinear, other CRS",
)
"""Operations that row G2 asks for."""


class Launch(NamedTuple):
    """A kernel with its arguments, which it keeps alive."""

    kernel: tuple[str, str]
    grid: Any
    block: Any
    args: Sequence[Any]


class Tape:
    """A device that notes launches."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.launches: list[Launch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def launch(self, kernel: tuple[str, str], grid: Any, block: Any, args: Any, stream: Any = None) -> None:
        """Launch and note it."""
        self.launches.append(Launch(kernel, grid, block, args))
        self._device.launch(kernel, grid, block, args, stream)

    def replay(self, launches: Sequence[Launch]) -> None:
        """The same again, on the main stream."""
        for launch in launches:
            self._device.launch(*launch)


@dataclass(frozen=True)
class Operation:
    """Something asked of the engine, and the least bytes that it takes.

    Attributes
    ----------
    name : str
    file : str
        Of ``cuda/``; launches from others are left out.
    least : float
        Bytes read and written.
    ask : callable
    before : callable, optional
        Restores what `ask` found, on the main stream.
    """

    name: str
    file: str
    least: float
    ask: Callable[[], object]
    before: Callable[[], object] | None = None


def measure(
    bench: Bench, operations: Iterable[Operation], tape: Tape, copy_gb_s: float | None
) -> Iterable[dict[str, Any]]:
    """Time of each operation's launches, and their share of the copy bandwidth."""
    for op in operations:
        if op.before is not None:
            op.before()
        tape.launches.clear()
        op.ask()
        launches = [n for n in tape.launches if n.kernel[0] == op.file]
        assert launches, f"{op.name} launches nothing of {op.file}.cu"
        timing = bench.time(lambda launches=launches: tape.replay(launches), op.before)
        gb_s = timing.rate(op.least)
        share = gb_s / copy_gb_s if gb_s is not None and copy_gb_s else None
        kernels = sorted({n.kernel[1] for n in launches})
        yield {
            "operation": op.name, "kernels": kernels, "least_bytes": op.least, "seconds": timing.seconds,
            "repeats": timing.repeats, "gb_s": gb_s, "share_of_copy": share,
        }  # fmt: skip


def operations(engine: CudaEngine, side: int, tile: int) -> Iterable[Operation]:
    """All, on an output of `side` x `side` pixels."""
    yield from unpacking(engine, side, tile)
    yield from checksums(engine, side, tile)
    scene = Scene(engine, side, tile)
    yield from scene.masks()
    yield from scene.keys()
    yield from scene.repair()
    yield from scene.values()
    yield from scene.painting()
    yield from corrections(engine, side)


def unpacking(engine: CudaEngine, side: int, tile: int) -> Iterable[Operation]:
    """Decoded tiles of a raster: inflated bytes read, samples written."""
    for name, given in (
        ("predictor 2", stack.reflectance_tiles(tile, n=4)),
        ("15 bits packed", packed_tiles(tile, 4)),
    ):
        n, layout = (side // tile) ** 2, given[0].layout
        pool = engine.pool(layout.decoded_bytes, n)
        chosen = [given[i % len(given)] for i in range(n)]
        least = n * (layout.inflated_bytes + layout.decoded_bytes)
        yield Operation(f"unpack, {name}", "unpack", least, lambda p=pool, c=chosen: _loaded(engine, p, c))


def checksums(engine: CudaEngine, side: int, tile: int) -> Iterable[Operation]:
    """Adler-32 of the decoded tiles of a raster: each byte read."""
    given = stack.reflectance_tiles(tile, n=4)
    n, room = (side // tile) ** 2, given[0].layout.inflated_bytes
    streams = Streams(engine._device, [given[i % len(given)].data or b"" for i in range(n)], [room] * n)
    streams.launch("parallel")
    yield Operation("adler32", "adler32", n * room, streams.verify)
    assert not engine.to_host(streams.status).any()


def corrections(engine: CudaEngine, side: int) -> Iterable[Operation]:
    """Top-of-atmosphere reflectance of four bands in, surface reflectance out."""
    toa = engine.empty((4, side // 2, side // 2), np.float32, 1)
    coefficients = np.full((3, 4), 0.1, np.float32)
    yield Operation("correct toa", "toa", 8 * side**2, lambda: engine.correct_toa(toa, coefficients))


def packed_tiles(size: int, n: int) -> list[CompressedTile]:
    """Compressed tiles of 15-bit samples, highest bit first."""
    rng, layout = np.random.default_rng(3), TileLayout(codec="deflate", width=size, height=size, bits=15)
    out = []
    for _ in range(n):
        bits = (stack.reflectance(rng, size)[:, :, None] >> np.arange(14, -1, -1) & 1).astype(np.uint8)
        data = zlib.compress(np.packbits(bits.reshape(size, -1), axis=1).tobytes(), 6)
        out.append(CompressedTile(0, data, layout))
    return out


def _loaded(engine: CudaEngine, pool: Any, tiles: Sequence[CompressedTile]) -> None:
    assert not engine.load(pool, range(len(tiles)), tiles).wait().any()


def lattice(scale: float, side: int) -> LatticeMap:
    """A map to another CRS, turned a little, a node every 16 pixels."""
    at = np.arange(0, side + 32, 16) + 0.5
    c, r = np.meshgrid(at, at)
    x, y = scale * c + 0.005 * r, scale * r - 0.005 * c + 0.005 * side
    return LatticeMap(np.rint(ONE * x).astype(np.int64), np.rint(ONE * y).astype(np.int64), 4, 0, 0)


class Scene:
    """One raster, its mask at half the resolution, and the layers of an output above it."""

    def __init__(self, engine: CudaEngine, side: int, tile: int) -> None:
        self.engine, self.side, self.tile = engine, side, tile
        self.window: Window = (0, side, 0, side)
        self.table, self.on_mask = stack.score_table(), stack.positions(side, 0.5)
        half = side // 2
        self.mask_grid = TileGrid(width=half, height=half, tile_width=tile, tile_height=tile)
        kinds = stack.mask_tiles(tile, n=4)
        n = self.mask_grid.tiles_across * self.mask_grid.tiles_down
        self.mask_tiles = [replace(kinds[i % 4], index=i) for i in range(n)]
        self.mask = self.classify()
        edges = np.unique(np.append(np.arange(0, side, 512), side))
        self.chunks = ChunkGrid(edges, edges)
        self.best, self.counts = (
            engine.empty((side, side), np.uint32),
            engine.empty((side, side), np.uint16, 0),
        )
        self.quality = engine.empty((side, side), np.uint16)
        self.winners = engine.from_host(self._patches())
        self.target = engine.empty((side, side), np.uint16, NODATA)

    def _patches(self) -> NDArray[np.int16]:
        """Winners as clouds leave them: patches of many sizes."""
        field = stack.smooth(np.random.default_rng(4), min(self.side, 2048))
        one = np.digitize(field, [-0.6, 0, 0.6]).astype(np.int16)
        n = -(-self.side // len(one))
        return np.ascontiguousarray(np.tile(one, (n, n))[: self.side, : self.side])

    def classify(self, grow: int = 0) -> Any:
        """Codes of the whole mask."""
        box = (0, self.mask_grid.height, 0, self.mask_grid.width)
        return self.engine.classify(
            self.mask_tiles, self.mask_grid, box, self.table, nodata=0, grow=grow
        )[0]  # fmt: skip

    def masks(self) -> Iterable[Operation]:
        """Classes in, codes out; grown: codes in, marks out and in; the mask under the output, codes out."""
        pixels, mask = self.side**2, (self.side // 2) ** 2
        args = (self.mask, self.on_mask, self.window)
        yield Operation("classify", "masks", 2 * mask, self.classify)
        yield Operation("classify, grow 5", "masks", 5 * mask, lambda: self.classify(5))
        yield Operation("resample", "masks", mask + pixels, lambda: self.engine.resample(*args))
        worst = Footprint(ONE, ONE)  # of 2 x 2 mask pixels: an output four times as coarse
        coarse, n = stack.positions(self.side // 4, 2.0), self.side // 4
        yield Operation(
            "resample, worst of 4",
            "masks",
            mask + n * n,
            lambda: self.engine.resample(self.mask, coarse, (0, n, 0, n), footprint=worst),
        )
        yield Operation(
            "statistics",
            "masks",
            mask,
            lambda: self.engine.statistics(*args, self.chunks, self.table, cells=True),
        )

        yield self._surround(2 * mask)

    def _surround(self, least: int) -> Operation:
        """Dark codes and what lies within five pixels of them; codes in and out."""
        marked, becomes = np.arange(256) == 2, np.arange(256, dtype=np.uint8)
        becomes[:3] = 1
        reach = np.sqrt(5.5**2 - np.arange(6) ** 2).astype(np.int64)
        rule, raster, device = Surround(marked, becomes, reach), self.classify(), self.engine._device
        kept = device.pinned(raster.data.nbytes)
        kept[:] = self.engine.to_host(raster.data).ravel()

        def restore() -> None:
            device.copy_in(raster.data, kept.reshape(raster.data.shape), device.main)

        return Operation("surround 5", "surround", least, lambda: self.engine.surround(raster, rule), restore)

    def rank(self, key_low: int, keys: Any = None) -> None:
        """The mask competes."""
        state = RankState(self.window, self.best if keys is None else keys, self.counts)
        self.engine.rank(state, self.mask, self.on_mask, self.table, key_low)

    def keys(self) -> Iterable[Operation]:
        """The mask; where it has a score count and key in, count out, and the key out if it wins."""
        pixels, engine = self.side**2, self.engine
        scored = 4 * int((engine.to_host(self.mask.data) < 254).sum())
        mask = pixels // 4

        def clear() -> None:
            engine.fill(self.best, NO_KEY)

        yield Operation("rank, first scene", "rank", mask + 12 * scored, lambda: self.rank(0), clear)
        yield Operation("rank, second scene", "rank", mask + 8 * scored, lambda: self.rank(1))
        # keys in, quality and winners out; winners apart from those that are painted
        layers = self.best, self.quality, engine.empty((self.side, self.side), np.int16), SCENES
        yield Operation("settle", "keys", 8 * pixels, lambda: engine.settle(*layers))
        counted = self.best, self.window, self.chunks, SCENES
        yield Operation("extra wins", "keys", 4 * pixels, lambda: engine.extra_wins(*counted))

    def repair(self) -> Iterable[Operation]:
        """Of one band: winners and samples in, marks out; where a quarter is marked, what is asked of it."""
        pixels, engine, winners = self.side**2, self.engine, self.winners
        chosen = self._patches() == 2
        where, marked = engine.from_host(chosen.astype(np.uint8)), int(chosen.sum())
        bands, selected = [engine.empty((self.side, self.side), np.uint16, 1)], np.ones(SCENES, np.bool_)
        engine.fill(self.quality, 0)
        for name, least, ask in (
            ("failed", 5 * pixels, lambda: engine.failed(bands, winners)),
            (
                "keys of layers",
                5 * pixels + 4 * marked,
                lambda: engine.keys_of(self.quality, winners, selected, where),
            ),
            ("reopen", pixels + 4 * marked, lambda: engine.reopen(bands, winners, where, SCENES)),
            ("only", 3 * pixels + 2 * marked, lambda: engine.only(winners, where)),
        ):
            yield Operation(name, "keys", least, ask)

    def values(self) -> Iterable[Operation]:
        """Keys of a scene and of the best, and, where it has a key, both their values; none is better."""
        pixels, engine = self.side**2, self.engine
        shape = self.side, self.side
        own = engine.empty(shape, np.uint32, NO_KEY)
        self.rank(0, own)
        low, high = (engine.empty(shape, np.uint16, value) for value in (1000, 3000))
        held = ValueState(own, low, high)
        yield Operation("rivals", "values", 9 * pixels, lambda: engine.rivals(self.best, own, 17))
        least = 4 * pixels + 12 * int((engine.to_host(own) != NO_KEY).sum())
        yield Operation("rank values", "values", least, lambda: engine.rank_values(held, own, 0, low, high))
        yield Operation("exhausted", "values", 12 * pixels, lambda: engine.exhausted(self.best, own))

    def geometry(self, positions: PixelMap, size: int, bilinear: bool, erode: bool) -> TapGeometry:
        """A level of `size` x `size` pixels."""
        grid = TileGrid(width=size, height=size, tile_width=self.tile, tile_height=self.tile)
        return TapGeometry(grid=grid, positions=positions, bilinear=bilinear, margin=2 if erode else 0)

    def painting(self) -> Iterable[Operation]:
        """Winners in; painted: the samples under them in, those of the output out."""
        side, pixels = self.side, self.side**2
        same, finer, turned = stack.positions(side, 1.0), stack.positions(side, 0.5), lattice(0.99, side)
        geometry = self.geometry(same, side, True, False)
        every = dict.fromkeys(range(SCENES), geometry)
        yield Operation(
            "owners", "owners", 2 * pixels, lambda: self.engine.owners(self.window, self.winners, every)
        )
        shifted = AxisMap(same.x + ONE // 4, same.y + ONE // 4)
        for name, positions, size, bilinear, erode in (
            ("nearest", shifted, side, False, False),
            ("bilinear, same pixels", same, side, True, False),
            ("bilinear", shifted, side, True, False),
            ("bilinear, eroded", shifted, side, True, True),
            ("bilinear, twice as fine", finer, side // 2, True, False),
            ("nearest, other CRS", turned, side, False, False),
            ("bilinear, other CRS", turned, side, True, False),
        ):
            geometry = self.geometry(positions, size, bilinear, erode)
            sources = self._sources(
                geometry, SampleRule(lo=1, hi=32767, bilinear=bilinear, erode=erode, add=-1000)
            )
            under = 2 * pixels * (size / side) ** 2 * (0.98 if positions is turned else 1)
            yield Operation(f"paint, {name}", "paint", 4 * pixels + under, lambda s=sources: self._paint(s))
        yield self._spread(sources[0])

    def _spread(self, source: TapSource) -> Operation:
        """Sums in and out, a mark and a sample in."""
        shape, engine = (self.side, self.side), self.engine
        sums = Sums(*(engine.empty(shape, dtype, 0) for dtype in (np.uint32, np.uint64, np.uint64)))
        given = sums, self.window, {0: source}, {0: engine.empty(shape, np.uint8, 1)}
        return Operation("spread, other CRS", "spread", 43 * self.side**2, lambda: engine.spread(*given))

    def _paint(self, sources: dict[int, TapSource]) -> None:
        self.engine.paint(self.target, self.window, self.winners, sources)

    def _sources(self, geometry: TapGeometry, rule: SampleRule) -> dict[int, TapSource]:
        """All scenes share one pool: a pixel still reads where no other pixel does."""
        grid = geometry.grid
        n = grid.tiles_across * grid.tiles_down
        kinds = stack.reflectance_tiles(self.tile, n=4)
        pool = self.engine.pool(kinds[0].layout.decoded_bytes, n)
        _loaded(self.engine, pool, [kinds[i % 4] for i in range(n)])
        slots = np.arange(n, dtype=np.int32)
        source = TapSource(geometry=geometry, pool=pool, slots=slots, dtype=np.dtype("u2"), rule=rule)
        return dict.fromkeys(range(SCENES), source)
