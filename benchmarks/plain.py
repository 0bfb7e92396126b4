"""Plain reads of many files, without ranking: this package's pieces, and rasterio.

Three tasks on every band file of an archive, each with two threads: windows at native resolution
(N), whole rasters from an overview (O), windows in the neighbouring UTM zone (W). rasterio does
them as its users do: a windowed read, a read with `out_shape`, a WarpedVRT.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THREADS = 2
FILES_AT_ONCE = 6
START, SIDE = 3000, 2048
GDAL_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "1.1",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    "GDAL_NUM_THREADS": "1",
    "GDAL_INGESTED_BYTES_AT_OPEN": "65536",
    "GDAL_CACHEMAX": "1024",
    "VSI_CACHE": "FALSE",
}


@dataclass(frozen=True)
class Target:
    """The picture asked of every file."""

    crs: str
    left: float
    top: float
    res: float
    side: int
    start: int = 0
    """First row and column of the window in the source (task N)."""


def target(task: str, note: dict[str, Any]) -> Target:
    """What a task asks of an archive with this archive.json."""
    tile, size = note["tile_list"][0], note["size"]
    (left, top), epsg = tile["ul"], tile["epsg"]
    if task == "O":
        return Target(f"EPSG:{epsg}", left, top, 60, size * 10 // 60)
    start, side = (START, SIDE) if size >= START + SIDE else (0, size)
    if task == "N":
        return Target(f"EPSG:{epsg}", left + start * 10, top - start * 10, 10, side, start)
    from pyproj import Transformer

    middle = (start + side / 2) * 10
    x, y = Transformer.from_crs(epsg, epsg + 1, always_xy=True).transform(left + middle, top - middle)
    return Target(f"EPSG:{epsg + 1}", round(x / 10 - side / 2) * 10, round(y / 10 + side / 2) * 10, 10, side)


# ---- this package ----


def read_ours(hrefs: list[str], want: Target) -> list[NDArray[np.uint16]]:
    """One picture of each file, through reader, header parser and engine."""
    from bestpixel_gpu.transfer.loop import run_sync

    return run_sync(_read_all(hrefs, want))


async def _read_all(hrefs: list[str], want: Target) -> list[Any]:
    from bestpixel_gpu.transfer.reader import Reader

    async with Reader() as reader:
        with ThreadPoolExecutor(THREADS) as executor:
            work = _PlainRead(reader, executor, want)
            return await asyncio.gather(*(work.read(h) for h in hrefs))


class _PlainRead:
    """One task over many files: the map, the tiles it needs and the decoding pools are shared."""

    def __init__(self, reader: Any, executor: ThreadPoolExecutor, want: Target) -> None:
        from bestpixel_gpu.engines import create
        from bestpixel_gpu.geo.grid import Grid
        from bestpixel_gpu.geo.pixel_map import Projector

        grid = Grid(want.crs, want.left, want.top, 0, 0, want.res, want.res, want.side, want.side)
        self.reader, self.executor, self.engine = reader, executor, create("cpu", THREADS)
        self.projector, self.window = Projector(grid), (0, want.side, 0, want.side)
        self.winners = np.zeros((want.side, want.side), np.int16)
        self.needs: dict[int, tuple[Any, NDArray[np.int64]]] = {}
        self.local = threading.local()
        self.gate = asyncio.Semaphore(FILES_AT_ONCE)

    async def read(self, href: str) -> NDArray[np.uint16]:
        """The picture of one file."""
        from bestpixel_gpu.cog.ifd import HeaderBytes, read_raster

        async with self.gate:
            raster = read_raster(HeaderBytes(*await self.reader.header(href)))
            level, geometry, tiles = self.need(raster)
            answers = await self.reader.read_many(href, [level.span(int(i)) for i in tiles])
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self.executor, self.paint, raster, level, geometry, tiles, answers
            )

    def need(self, raster: Any) -> tuple[Any, Any, NDArray[np.int64]]:
        """Level, geometry and tiles; files that lie alike share the last two."""
        from bestpixel_gpu.compositing.files import level_for
        from bestpixel_gpu.engines.contract import TapGeometry, TileGrid
        from bestpixel_gpu.geo.pixel_map import RasterFrame

        full = raster.levels[0]
        frame = RasterFrame(raster.crs, *raster.check_north_up(), full.width, full.height)
        level = raster.levels[level_for(raster, min(self.projector.step(frame)))]
        positions = self.projector.map_to(frame, level.width, level.height)
        if id(positions) not in self.needs:
            grid = TileGrid(
                width=level.width,
                height=level.height,
                tile_width=level.tile_width,
                tile_height=level.tile_height,
            )
            geometry = TapGeometry(grid=grid, positions=positions)
            tiles = self.engine.owners(self.window, self.winners, {0: geometry})[0]
            self.needs[id(positions)] = geometry, tiles
        return level, *self.needs[id(positions)]

    def paint(
        self, raster: Any, level: Any, geometry: Any, tiles: Any, answers: list[Any]
    ) -> NDArray[np.uint16]:
        """Decode and paint, on a compute thread with a pool of its own."""
        from bestpixel_gpu.engines.contract import LOST_SLOT, CompressedTile, SampleRule, TapSource

        layout = level.layout
        if not hasattr(self.local, "pool"):
            self.local.pool = self.engine.pool(layout.decoded_bytes, len(tiles))
        stored = [CompressedTile(int(i), data, layout) for i, data in zip(tiles, answers, strict=True)]
        if self.engine.load(self.local.pool, range(len(tiles)), stored).wait().any():
            raise RuntimeError("a tile does not decode")
        slots = np.full(level.tiles_across * level.tiles_down, LOST_SLOT, np.int32)
        slots[tiles] = np.arange(len(tiles))
        rule = SampleRule(lo=0, hi=65534, nodata=int(raster.nodata))
        source = TapSource(
            geometry=geometry, pool=self.local.pool, slots=slots, dtype=layout.dtype, rule=rule
        )
        out = np.empty(self.winners.shape, np.uint16)
        self.engine.paint(out, self.window, self.winners, {0: source})
        return out


# ---- rasterio ----


def read_rasterio(hrefs: list[str], want: Target, task: str) -> list[NDArray[np.uint16]]:
    """The same pictures by GDAL; fill is 0."""
    os.environ.update(GDAL_SETTINGS)
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.transform import from_origin
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window

    def read(href: str) -> Any:
        with rasterio.open(href) as src:
            if task == "N":
                return src.read(1, window=Window(want.start, want.start, want.side, want.side))
            if task == "O":
                return src.read(1, out_shape=(want.side, want.side), resampling=Resampling.bilinear)
            where = from_origin(want.left, want.top, want.res, want.res)
            size = {"width": want.side, "height": want.side}
            with WarpedVRT(
                src, crs=want.crs, transform=where, resampling=Resampling.bilinear, **size
            ) as warped:
                return warped.read(1)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, hrefs))
