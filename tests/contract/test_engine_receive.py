"""Tiles that lie in an engine's receive buffers: the same pixels as from anywhere else."""

from __future__ import annotations

import cases
import numpy as np
import pytest

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import CompressedTile, MaskTable, TileGrid

SIZES = [1, 100, (1 << 16) - 1, 1 << 16, 300_000, 5_000_001]


def received(engine, tiles, gap):
    """The tiles again, from one buffer: the first at an odd place, `gap` other bytes between two."""
    buffer = engine.receive_buffer(3 + sum(len(tile.data) + gap for tile in tiles))
    buffer[:] = bytes(i * 37 % 251 for i in range(len(buffer)))
    at, moved = 3, []
    for tile in tiles:
        end = at + len(tile.data)
        buffer[at:end] = tile.data
        moved.append(CompressedTile(tile.index, buffer[at:end].toreadonly(), tile.layout, tile.inside))
        at = end + gap
    return moved


@pytest.mark.parametrize("size", SIZES)
def test_a_buffer_is_as_large_as_asked_for_and_nobody_elses(engine, size):
    buffers = [engine.receive_buffer(size) for _ in range(3)]
    for i, buffer in enumerate(buffers):
        assert (len(buffer), buffer.readonly, buffer.itemsize, buffer.contiguous) == (size, False, 1, True)
        buffer[:] = bytes([i]) * size
    assert [set(buffer) for buffer in buffers] == [{0}, {1}, {2}]


@pytest.mark.parametrize("gap", [0, 1, 8, 4096, 9000])
def test_tiles_beside_each_other(decoding_engine, gap):
    rng = np.random.default_rng(gap)
    layouts = [
        TileLayout(codec=codec, width=96, height=96, bits=bits, predictor=predictor, byteorder=order)
        for codec in ("deflate", "none")
        for bits, predictor in ((16, 2), (8, 1), (16, 1), (12, 1), (32, 2))
        for order in "<>"
    ]
    pixels = [cases.random_pixels(rng, layout) for layout in layouts]
    pixels[3][:] = 7  # grows a hundred times
    tiles = [cases.compressed(p, how, i) for i, (p, how) in enumerate(zip(pixels, layouts, strict=True))]
    order = rng.permutation(len(tiles))
    tiles, pixels = [tiles[i] for i in order], [pixels[i] for i in order]
    pool = decoding_engine.pool(96 * 96 * 4, len(tiles))
    moved = received(decoding_engine, tiles, gap)
    asked = rng.permutation(len(tiles))  # not in the order in which they lie
    assert not decoding_engine.load(pool, asked.tolist(), [moved[i] for i in asked]).wait().any()
    content = decoding_engine.to_host(pool.data)
    for slot, tile in enumerate(tiles):
        got = content[slot * pool.step :][: tile.layout.decoded_bytes]
        assert got.tobytes() == pixels[slot].tobytes(), tile.layout


def test_masks(engine):
    rng = np.random.default_rng(2)
    grid = TileGrid(width=380, height=250, tile_width=128, tile_height=128)
    layout = TileLayout(codec="deflate", width=128, height=128, bits=16)
    tiles = [cases.compressed(rng.integers(0, 65536, (128, 128, 1), np.uint16), layout, i) for i in range(6)]
    tiles[4] = CompressedTile(4, None, layout)
    table = MaskTable(
        rng.integers(0, 256, 65536).astype(np.uint8), np.full(256, 65535, np.uint16), np.zeros(256, bool)
    )
    moved = received(engine, [t for t in tiles if t.data], 0)
    moved.insert(4, tiles[4])
    box = (0, 250, 0, 380)
    want, got = (engine.classify(given, grid, box, table, nodata=0) for given in (tiles, moved))
    assert not got[1].any()
    np.testing.assert_array_equal(engine.to_host(got[0].data), engine.to_host(want[0].data))


def test_what_is_damaged_in_a_buffer_is_told(engine):
    rng = np.random.default_rng(3)
    layout = TileLayout(codec="deflate", width=128, height=128, bits=16, predictor=2)
    tiles = [cases.compressed(cases.random_pixels(rng, layout), layout, i) for i in range(4)]
    cut = bytearray(tiles[1].data)
    cut[len(cut) // 2] ^= 4
    tiles[1] = CompressedTile(1, bytes(cut), layout)
    tiles[2] = CompressedTile(2, tiles[2].data[:-9], layout)
    pool = engine.pool(layout.decoded_bytes, 4)
    assert engine.load(pool, range(4), received(engine, tiles, 2)).wait().tolist() == [0, 1, 1, 0]
