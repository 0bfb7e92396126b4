"""Tiles that other programs wrote, decoded by the CPU engine."""

from __future__ import annotations

import io

import numpy as np
import pytest

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.contract import CompressedTile

tifffile = pytest.importorskip("tifffile")
SIZE, TILE = 96, 32


def picture(dtype, samples=1):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(5)
    shape = (SIZE, SIZE, samples) if samples > 1 else (SIZE, SIZE)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True, dtype=dtype)


def check(stored, layout, expected):
    """All tiles of a file against the picture it was written from."""
    engine = create("cpu")
    page = tifffile.TiffFile(io.BytesIO(stored)).pages[0]
    tiles = [
        CompressedTile(n, stored[start : start + count], layout)
        for n, (start, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True))
    ]
    pool = engine.pool(layout.decoded_bytes, len(tiles))
    assert not engine.load(pool, range(len(tiles)), tiles).wait().any()
    for n in range(len(tiles)):
        got = pool.data[n * pool.step :][: layout.decoded_bytes].view(layout.dtype).reshape(TILE, TILE)
        i, j = divmod(n, SIZE // TILE)
        np.testing.assert_array_equal(got, expected[i * TILE :, j * TILE :][:TILE, :TILE])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "predictor"),
    [(d, p) for d in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8") for p in (1, 2)]
    + [(d, p) for d in ("f2", "f4", "f8") for p in (1, 3)],
)
def test_tifffile(dtype, predictor, samples, order):
    pytest.importorskip("imagecodecs")
    data = picture(dtype, samples)
    out = io.BytesIO()
    tifffile.imwrite(
        out, data, tile=(TILE, TILE), compression="zlib", predictor=predictor, byteorder=order,
        photometric="minisblack", planarconfig="contig" if samples > 1 else None,
    )  # fmt: skip
    kind, bits = np.dtype(dtype).kind, 8 * np.dtype(dtype).itemsize
    for sample in range(samples):
        layout = TileLayout(
            codec="deflate", width=TILE, height=TILE, bits=bits, kind=kind, predictor=predictor,
            samples=samples, sample=sample, byteorder=order,
        )  # fmt: skip
        check(out.getvalue(), layout, data[..., sample] if samples > 1 else data)


@pytest.mark.parametrize("bits", [*range(1, 8), *range(9, 16)])
def test_gdal_packed_bits(bits, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    dtype = "uint8" if bits < 8 else "uint16"
    data = np.random.default_rng(bits).integers(0, 2**bits, (SIZE, SIZE)).astype(dtype)
    path = tmp_path / "packed.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=SIZE, height=SIZE, count=1, dtype=dtype, nbits=bits,
        tiled=True, blockxsize=TILE, blockysize=TILE, compress="deflate",
    ) as file:  # fmt: skip
        file.write(data, 1)
    layout = TileLayout(codec="deflate", width=TILE, height=TILE, bits=bits)
    check(path.read_bytes(), layout, data)


@pytest.mark.parametrize(
    ("dtype", "predictor"), [("uint16", 2), ("int16", 2), ("float32", 3), ("float64", 2)]
)
def test_gdal_predictors(dtype, predictor, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    data = picture(dtype)
    path = tmp_path / "predicted.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=SIZE, height=SIZE, count=1, dtype=dtype, predictor=predictor,
        tiled=True, blockxsize=TILE, blockysize=TILE, compress="deflate",
    ) as file:  # fmt: skip
        file.write(data, 1)
    kind, bits = np.dtype(dtype).kind, 8 * np.dtype(dtype).itemsize
    layout = TileLayout(codec="deflate", width=TILE, height=TILE, bits=bits, kind=kind, predictor=predictor)
    check(path.read_bytes(), layout, data)
