"""Integer bilinear within one digital number of float64, however steep the picture."""

from __future__ import annotations

import numpy as np
import pytest

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.contract import CompressedTile, SampleRule, TapGeometry, TapSource, TileGrid
from bestpixel_gpu.geo.pixel_map import AxisMap, LatticeMap

ONE = 2**32
SIZE = 256


def bilinear(data, x, y):
    """float64 bilinear between pixel centres, clamped at the edge; x, y in pixels from the corner."""
    u, v = np.clip(x - 0.5, 0, SIZE - 1), np.clip(y - 0.5, 0, SIZE - 1)
    i, j = np.minimum(v.astype(int), SIZE - 2), np.minimum(u.astype(int), SIZE - 2)
    fy, fx = v - i, u - j
    top = data[i, j] * (1 - fx) + data[i, j + 1] * fx
    return top * (1 - fy) + (data[i + 1, j] * (1 - fx) + data[i + 1, j + 1] * fx) * fy


def paint(data, positions, rows, cols, add=0):
    engine = create("cpu")
    layout = TileLayout(codec="none", width=64, height=64, bits=16, kind=data.dtype.kind)
    grid = TileGrid(width=SIZE, height=SIZE, tile_width=64, tile_height=64)
    pool = engine.pool(layout.decoded_bytes, 16)
    tiles = [
        CompressedTile(n, data[n // 4 * 64 :, n % 4 * 64 :][:64, :64].tobytes(), layout) for n in range(16)
    ]
    assert not engine.load(pool, range(16), tiles).wait().any()
    source = TapSource(
        geometry=TapGeometry(grid=grid, positions=positions),
        pool=pool,
        slots=np.arange(16, dtype=np.int32),
        dtype=data.dtype,
        rule=SampleRule(lo=-32768, hi=65535, add=add),
    )
    out = engine.empty((rows, cols), np.uint16)
    engine.paint(out, (0, rows, 0, cols), np.zeros((rows, cols), np.int16), {0: source})
    return out


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("scale", [0.37, 1.0, 1.9])
def test_same_crs(dtype, scale):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 32768, (SIZE, SIZE)).astype(dtype) - (16000 if dtype is np.int16 else 0)
    data = data.astype(dtype)
    n = int(SIZE / scale) - 1
    x = (np.arange(n) + 0.5) * scale + 0.123
    fixed = np.rint(x * ONE).astype(np.int64)
    got = paint(data, AxisMap(fixed, fixed), n, n, add=20000)
    want = bilinear(data.astype(np.float64), *np.meshgrid(x, x)) + 20000
    assert np.abs(got - want).max() <= 1.5  # one from the weights, half from rounding
    assert np.abs(got - np.floor(want + 0.5)).max() <= 1


def test_another_crs():
    rng = np.random.default_rng(1)
    data = rng.integers(0, 32768, (SIZE, SIZE)).astype(np.uint16)
    nodes = np.arange(0, 145, 16) + 0.5
    c, r = np.meshgrid(nodes, nodes)
    node_x, node_y = 1.5 * c + 0.11 * r + 3.3, 1.4 * r - 0.1 * c + 20.7
    lattice = LatticeMap(
        np.rint(node_x * ONE).astype(np.int64), np.rint(node_y * ONE).astype(np.int64), 4, 0, 0
    )
    got = paint(data, lattice, 128, 128)
    c, r = np.meshgrid(np.arange(128) + 0.5, np.arange(128) + 0.5)
    want = bilinear(data.astype(np.float64), 1.5 * c + 0.11 * r + 3.3, 1.4 * r - 0.1 * c + 20.7)
    assert np.abs(got - np.floor(want + 0.5)).max() <= 1
