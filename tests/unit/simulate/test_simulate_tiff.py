"""The COG writer, read back by rasterio and rio-cogeo."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import rasterio
import tifffile
from rio_cogeo import cog_validate

from bestpixel_gpu.simulate.tiff import CogLayout, GeoReference, encode_cog, pack_bits, write_cog

SINUSOIDAL = GeoReference(0, 1600 * 463.3127165279167, 5050108.61, 463.3127165279167)
WHERE = GeoReference(32731, 300000.0, 7400020.0, 20.0)
LAYOUTS = {
    "pc": CogLayout(block=128, overview_block=128, bits=15),
    "pc_old": CogLayout(block=128, overview_block=128, bits=16, predictor=2, nodata=False),
    "es": CogLayout(block=256, overview_block=128, bits=16, predictor=2, ghost=False, fixed_levels=4),
    "12bit": CogLayout(block=64, overview_block=64, bits=12),
}


def picture(bits: int = 15, shape: tuple[int, int] = (301, 421)) -> np.ndarray:
    rng = np.random.default_rng(3)
    a = rng.integers(1, 1 << bits, shape).astype(np.uint16)
    a[:40, :60] = 0
    return a


@pytest.mark.parametrize("name", LAYOUTS)
def test_rasterio_reads_the_same_pixels_and_structure(name, tmp_path):
    layout = LAYOUTS[name]
    a = picture(min(layout.bits, 15))
    path = tmp_path / "a.tif"
    assert write_cog(path, a, WHERE, layout) == path.stat().st_size
    with rasterio.open(path) as r:
        assert np.array_equal(r.read(1), a)
        assert r.crs.to_epsg() == 32731
        assert r.transform[:6] == (20.0, 0.0, 300000.0, 0.0, -20.0, 7400020.0)
        assert r.block_shapes == [(layout.block, layout.block)]
        assert r.nodata == (0 if layout.nodata else None)
        assert r.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "16") == str(layout.bits)
        assert (r.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG") == layout.ghost
    valid, errors, _ = cog_validate(str(path))
    assert valid, errors


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_level_is_what_tifffile_finds(name):
    layout = LAYOUTS[name]
    data = encode_cog(picture(12), WHERE, layout)
    with tifffile.TiffFile(io.BytesIO(data)) as t:
        shapes = [p.shape for p in t.pages]
        assert [p.tilewidth for p in t.pages] == [layout.block] + [layout.overview_block] * (len(shapes) - 1)
        assert {p.predictor for p in t.pages} == {layout.predictor}
        starts = [min(p.dataoffsets) for p in t.pages]
        assert starts == sorted(starts, reverse=True)  # the smallest overview comes first
    if layout.fixed_levels:
        assert shapes == [(301, 421), (151, 211), (76, 106), (38, 53), (19, 27)]
    elif layout.block == 128:
        assert shapes == [(301, 421), (150, 210), (75, 105)]


def test_overviews_are_means_that_leave_nodata_out():
    a = np.full((256, 256), 100, np.uint16)
    a[:, 1::2] = 301
    a[0, :2] = 0, 7
    with rasterio.MemoryFile(encode_cog(a, WHERE, LAYOUTS["pc"])) as m, m.open(overview_level=0) as r:
        half = r.read(1)
    assert half.shape == (128, 128)
    assert half[0, 0] == round((7 + 100 + 301) / 3)
    assert (half.ravel()[1:] == 201).all()
    without = encode_cog(a, WHERE, LAYOUTS["pc_old"])
    with rasterio.MemoryFile(without) as m, m.open(overview_level=0) as r:
        assert r.read(1)[0, 0] == (0 + 7 + 100 + 301) / 4  # no tag: the fill is averaged in


def test_class_overviews_hold_only_classes_of_the_picture():
    a = np.random.default_rng(1).choice(np.array([0, 3, 8, 11], np.uint8), (200, 200))
    layout = CogLayout(block=64, overview_block=64, bits=8, nearest=True)
    with rasterio.MemoryFile(encode_cog(a, WHERE, layout)) as m:
        with m.open() as r:
            factors = r.overviews(1)
            assert r.dtypes == ("uint8",)
        for k in range(len(factors)):
            with m.open(overview_level=k) as r:
                assert set(np.unique(r.read(1))) <= {0, 3, 8, 11}
    assert len(factors) == 2


def test_an_odd_overview_covers_the_same_ground():
    ramp = np.broadcast_to(np.arange(1, 1002, dtype=np.uint16) * 10, (1001, 1001)).copy()
    with rasterio.MemoryFile(encode_cog(ramp, WHERE, LAYOUTS["pc"])) as m, m.open(overview_level=0) as r:
        half = r.read(1)[0].astype(float)
    assert half.shape == (500,)
    centres = (np.arange(500) + 0.5) * 1001 / 500 * 10 + 5  # what a linear ramp has there
    assert np.abs(half - centres).max() <= 10


def test_ghost_header_tells_the_truth_about_leaders_and_trailers():
    data = encode_cog(picture(), WHERE, LAYOUTS["pc"])
    assert data[8:].startswith(b"GDAL_STRUCTURAL_METADATA_SIZE=000140 bytes\nLAYOUT=IFDS_BEFORE_DATA\n")
    assert struct.unpack_from("<I", data, 4)[0] == 192
    with tifffile.TiffFile(io.BytesIO(data)) as t:
        for page in t.pages:
            for at, n in zip(page.dataoffsets, page.databytecounts, strict=True):
                assert struct.unpack_from("<I", data, at - 4)[0] == n
                assert data[at + n : at + n + 4] == data[at + n - 4 : at + n]


def test_overviews_can_hide_in_subifds():
    layout = CogLayout(block=128, overview_block=128, bits=16, predictor=2, subifds=True)
    a = picture()
    with tifffile.TiffFile(io.BytesIO(encode_cog(a, WHERE, layout))) as t:
        assert len(t.pages) == 1
        assert [p.shape for p in t.pages[0].pages] == [(150, 210), (75, 105)]
        assert np.array_equal(t.pages[0].asarray(), a)


@pytest.mark.parametrize("bits", [1, 7, 12, 15, 16])
def test_packed_bits_are_most_significant_first(bits):
    a = np.random.default_rng(bits).integers(0, 1 << bits, (3, 11)).astype(np.uint16)
    packed = pack_bits(a, bits)
    assert packed.shape == (3, -(-11 * bits // 8))
    for row, numbers in zip(packed, a, strict=True):
        text = "".join(f"{v:0{bits}b}" for v in numbers)
        assert "".join(f"{b:08b}" for b in row) == text.ljust(8 * len(row), "0")


@pytest.mark.parametrize(
    ("dtype", "fill"), [("int16", -9999), ("int16", 32767), ("uint8", 255), ("uint16", 1)]
)
@pytest.mark.parametrize("predictor", [1, 2])
def test_other_types_and_fills_and_the_grid_of_modis(dtype, fill, predictor, tmp_path):
    """Signed samples, any fill, user-defined keys; averages leave the fill out."""
    info = np.iinfo(dtype)
    a = np.random.default_rng(4).integers(info.min, info.max, (90, 70), endpoint=True).astype(dtype)
    a[:30, :20] = fill
    layout = CogLayout(
        block=64, overview_block=32, bits=info.bits, predictor=predictor, fixed_levels=2, fill=fill
    )
    path = tmp_path / "a.tif"
    write_cog(path, a, SINUSOIDAL, layout)
    with rasterio.open(path) as r:
        np.testing.assert_array_equal(r.read(1), a)
        assert (r.nodata, r.dtypes[0], r.overviews(1)) == (fill, dtype, [2, 4])
        found = r.crs.to_dict()
        assert (found["proj"], found["R"]) == ("sinu", 6371007.181)
        assert r.transform[:6] == (SINUSOIDAL.metres, 0, SINUSOIDAL.x, 0, -SINUSOIDAL.metres, SINUSOIDAL.y)
    with rasterio.open(path, overview_level=0) as r:
        half = r.read(1).astype(float)
    assert (half[:15, :10] == fill).all()
    four = np.ma.masked_equal(a.reshape(45, 2, 35, 2).astype(float), fill).mean(axis=(1, 3))
    assert np.abs(half - four.filled(fill)).max() <= 0.5
