"""Random work for engines: tiles, masks, maps and sources, made from a seed."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import (
    LOST_SLOT,
    SPARSE_SLOT,
    CompressedTile,
    MaskTable,
    SampleRule,
    TapGeometry,
    TapSource,
    TileGrid,
)
from bestpixel_gpu.geo.pixel_map import OUTSIDE, AxisMap, LatticeMap

ONE = 2**32


def encode(pixels, layout):
    """(height, width, samples) -> the bytes a file would store, before compression."""
    height, width, samples = pixels.shape
    if layout.predictor == 3:
        size = layout.bits // 8
        raw = (
            np.ascontiguousarray(pixels.astype(f">f{size}"))
            .view(np.uint8)
            .reshape(height, width * samples, size)
        )
        planes = raw.transpose(0, 2, 1).reshape(height, -1, samples)
        return np.diff(planes, axis=1, prepend=np.zeros((height, 1, samples), np.uint8)).tobytes()
    if layout.bits in (8, 16, 32, 64):
        words = np.ascontiguousarray(pixels).view(f"u{layout.bits // 8}")
        if layout.predictor == 2:
            words = np.diff(words, axis=1, prepend=np.zeros((height, 1, samples), words.dtype))
        return words.astype(words.dtype.newbyteorder(layout.byteorder)).tobytes()
    values = pixels.reshape(height, -1).astype(np.int64) % 2**layout.bits
    bits = values[:, :, None] >> np.arange(layout.bits - 1, -1, -1) & 1
    return np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1).tobytes()


def random_pixels(rng, layout):
    shape = layout.height, layout.width, layout.samples
    if layout.kind == "f":
        bits = rng.integers(0, 256, (*shape, layout.bits // 8), dtype=np.uint8)
        return bits.view(f"f{layout.bits // 8}")[..., 0]
    lo = -(2 ** (layout.bits - 1)) if layout.kind == "i" else 0
    return rng.integers(lo, lo + 2**layout.bits - 1, shape, endpoint=True, dtype=layout.dtype)


def compressed(pixels, layout, index=0):
    raw = encode(pixels, layout)
    return CompressedTile(index, zlib.compress(raw, 6) if layout.codec == "deflate" else raw, layout)


def score_table(rng, classes=16):
    """Random table: some classes nodata, some unusable, the others scores that rise with the code."""
    n = int(rng.integers(2, 9))
    scores = np.full(256, 65535, np.uint16)
    scores[:n] = np.sort(rng.choice(32767, n, replace=False))
    codes = np.full(65536, 254, np.uint8)
    codes[:classes] = rng.choice([*range(n), 254, 255], classes)
    return MaskTable(codes, scores, np.arange(256) < n // 2 + 1)


def axis(rng, count, size, scale=None, offset=None):
    """Positions of `count` pixels over a source of `size`."""
    if scale is None:
        scale = float(rng.choice([0.25, 1 / 3, 0.5, 1, 1, 4 / 3, 1.5, 2, 3, rng.uniform(0.3, 3.2)]))
    if offset is None:
        room = size - count * scale
        offset = float(rng.choice([0, 0.5, -0.5, 0.25, 1, -1.5, room / 2, rng.uniform(-3, 3), room - 0.5]))
        offset += int(rng.integers(0, 3))
    return np.rint(ONE * ((np.arange(count) + 0.5) * scale + offset)).astype(np.int64)


def axis_map(rng, rows, cols, grid):
    return AxisMap(axis(rng, cols, grid.width), axis(rng, rows, grid.height))


def lattice_map(rng, rows, cols, grid):
    """A turned and bent lattice over a source; now and then nodes that have no place."""
    k = int(rng.integers(0, 5))
    step = 1 << k
    row0, col0 = int(rng.integers(0, step)), int(rng.integers(0, step))
    r = np.arange((row0 + rows - 1) // step + 2) * step - row0 + 0.5
    c = np.arange((col0 + cols - 1) // step + 2) * step - col0 + 0.5
    cc, rr = np.meshgrid(c, r)
    sx, sy = rng.uniform(0.4, 2.2, 2)
    turn = rng.uniform(-0.2, 0.2)
    x = sx * cc + turn * rr + rng.uniform(-4, 4) + 1e-3 * cc * rr
    y = sy * rr - turn * cc + rng.uniform(-4, 4)
    x, y = np.rint(x * ONE).astype(np.int64), np.rint(y * ONE).astype(np.int64)
    if rng.random() < 0.3:
        lost = rng.random(x.shape) < 0.1
        x[lost] = OUTSIDE
        y[lost] = OUTSIDE
    return LatticeMap(x, y, k, row0, col0)


def some_map(rng, kind, rows, cols, grid):
    return (axis_map if kind == "axis" else lattice_map)(rng, rows, cols, grid)


def some_grid(rng):
    return TileGrid(
        width=int(rng.integers(1, 60)),
        height=int(rng.integers(1, 60)),
        tile_width=int(rng.choice([1, 7, 16, 32])),
        tile_height=int(rng.choice([1, 5, 16, 32])),
    )


def some_rule(rng, dtype):
    """A rule of one of the collections, or a random one."""
    info = np.iinfo(dtype)
    rules = [
        {"lo": 1, "hi": 32767, "nodata": 0, "mul": 1, "add": -1000, "div": 1},
        {"lo": 1, "hi": 65535, "nodata": 0, "mul": 11, "add": -80000, "div": 40},
        {"lo": -9998, "hi": 32767, "nodata": -9999},
        {"lo": 0, "hi": int(info.max)},
        {"lo": int(info.min), "hi": int(info.max), "nodata": 5},
        {"lo": 40, "hi": 30},
    ]
    rule = rules[int(rng.choice(len(rules), p=[0.3, 0.2, 0.2, 0.1, 0.15, 0.05]))]
    return SampleRule(erode=bool(rng.random() < 0.3), bilinear=bool(rng.random() < 0.75), **rule)


def levels(rng, grid, dtype, rule):
    """Whole raster of samples, mostly valid."""
    shape = grid.tiles_down * grid.tile_height, grid.tiles_across * grid.tile_width
    info = np.iinfo(dtype)
    lo, hi = max(info.min, -12000), min(info.max, 70000)
    data = rng.integers(lo, hi, shape, endpoint=True).astype(dtype)
    if rng.random() < 0.7:
        data = np.maximum(data, max(1, rule.lo)).astype(dtype)
        data[rng.random(shape) < rng.choice([0, 0.003, 0.05, 0.4])] = 0
    return data


def source_for(engine, data, grid, positions, rule, slots):
    """Load a raster's tiles into an engine's pool, where the padding is noise."""
    dtype = data.dtype
    layout = TileLayout(
        codec="none", width=grid.tile_width, height=grid.tile_height, bits=8 * dtype.itemsize, kind=dtype.kind
    )
    pool = engine.pool(layout.decoded_bytes, len(slots))
    noise = np.random.default_rng(grid.width).bytes(layout.decoded_bytes)
    engine.load(pool, range(len(slots)), [CompressedTile(0, noise, layout)] * len(slots)).wait()
    tiles, where = [], []
    for index, slot in enumerate(slots):
        if slot >= 0:
            i, j = divmod(index, grid.tiles_across)
            part = data[i * grid.tile_height :][: grid.tile_height, j * grid.tile_width :][
                :, : grid.tile_width
            ]
            inside = (
                min(grid.tile_height, grid.height - i * grid.tile_height),
                min(grid.tile_width, grid.width - j * grid.tile_width),
            )
            tiles.append(CompressedTile(index, part.tobytes(), layout, inside))
            where.append(int(slot))
    assert not engine.load(pool, where, tiles).wait().any()
    geometry = TapGeometry(
        grid=grid, positions=positions, bilinear=rule.bilinear, margin=2 if rule.erode else 0
    )
    return TapSource(geometry=geometry, pool=pool, slots=slots, dtype=dtype, rule=rule)


def some_slots(rng, grid):
    """Slots in any order; some tiles sparse, some lost."""
    n = grid.tiles_across * grid.tiles_down
    slots = rng.permutation(n).astype(np.int32)
    share = rng.choice([0, 0.1, 0.4])
    slots[rng.random(n) < share] = SPARSE_SLOT
    slots[rng.random(n) < share] = LOST_SLOT
    return slots


def winners_of(rng, rows, cols, ranks):
    """Blocks of ranks, with single pixels strewn in."""
    side = int(rng.choice([1, 3, 9, 40]))
    names = [*ranks, -1]
    blocks = rng.choice(names, (rows // side + 1, cols // side + 1))
    out = np.kron(blocks, np.ones((side, side), int))[:rows, :cols]
    noise = rng.random((rows, cols)) < 0.02
    out[noise] = rng.choice(names, int(noise.sum()))
    return out.astype(rng.choice([np.int16, np.int32]))


def mask_tiles(rng, grid, bits, kind, classes=16, **how):
    """All tiles of a class mask; some sparse, broken or left out."""
    size = {"width": grid.tile_width, "height": grid.tile_height}
    layout = TileLayout(codec="deflate", bits=bits, kind=kind, **size, **how)
    tiles = []
    for index in range(grid.tiles_across * grid.tiles_down):
        what = rng.random()
        shape = layout.height, layout.width, layout.samples
        pixels = rng.integers(0, classes, shape).astype(layout.dtype)
        tile = compressed(pixels, layout, index)
        if what < 0.1:
            tile = replace(tile, data=None)
        elif what < 0.15:
            tile = replace(tile, data=tile.data[:-2])
        if what < 0.9:
            tiles.append(tile)
    return tiles


def some_window(rng, height, width):
    r = sorted(rng.choice(height + 1, 2, replace=False))
    c = sorted(rng.choice(width + 1, 2, replace=False))
    return int(r[0]), int(r[1]), int(c[0]), int(c[1])


def steps(count, num, den, offset=0):
    """Exact positions of pixel centres ``(c + 1/2) num / den + offset``."""
    return np.array([((2 * c + 1) * num * ONE + den) // (2 * den) + int(offset * ONE) for c in range(count)])
