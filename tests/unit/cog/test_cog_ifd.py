"""The header parser: hand-made files, and files written by GDAL and tifffile."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from tiff_builder import ASCII, BYTE, DOUBLE, IFD, IFD8, LONG, LONG8, SHORT, build_tiff, page
from tiff_reader import decode_with_numpy, fill_of, open_raster, read_image, read_level

from bestpixel_gpu.cog.ifd import HeaderBytes, NeedBytes, read_raster
from bestpixel_gpu.cog.layout import Raster
from bestpixel_gpu.errors import CorruptTileError, FormatError

rasterio = pytest.importorskip("rasterio")
copy = pytest.importorskip("rasterio.shutil").copy
tifffile = pytest.importorskip("tifffile")

PIXELS = np.arange(12 * 10, dtype=np.uint8).reshape(10, 12)


def tiles_of(pixels: np.ndarray, width: int, height: int) -> list[bytes]:
    """Uncompressed tiles, padded with 99."""
    rows, cols = pixels.shape
    full = np.full((-(-rows // height) * height, -(-cols // width) * width), 99, pixels.dtype)
    full[:rows, :cols] = pixels
    return [
        full[r : r + height, c : c + width].tobytes()
        for r in range(0, rows, height)
        for c in range(0, cols, width)
    ]


def strips_of(pixels: np.ndarray, rows: int) -> list[bytes]:
    return [pixels[r : r + rows].tobytes() for r in range(0, len(pixels), rows)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_flavours_tiled_and_striped(order: str, big: bool, shuffled: bool) -> None:
    tiled = page(12, 10, tiles_of(PIXELS, 8, 8), tile=(8, 8))
    striped = page(12, 10, strips_of(PIXELS, 4), rows_per_strip=4)
    for p in (tiled, striped):
        data = build_tiff([p], big=big, order=order, shuffled=shuffled)
        np.testing.assert_array_equal(read_image(data)[0], PIXELS)
    level = open_raster(build_tiff([tiled], big=big, order=order))[0].levels[0]
    assert [level.inside(i) for i in range(4)] == [(8, 8), (8, 4), (2, 8), (2, 4)]
    level = open_raster(build_tiff([striped], big=big, order=order))[0].levels[0]
    assert (level.tiles_across, level.tiles_down) == (1, 3)
    assert level.layout_of(2).height == 2
    assert level.inside(2) == (2, 12)


@pytest.mark.parametrize("kind", [BYTE, SHORT, LONG, LONG8])
def test_tile_arrays_of_every_integer_type(kind: int) -> None:
    data = build_tiff([page(4, 3, strips_of(PIXELS[:3, :4], 1), rows_per_strip=1, array_type=kind)], big=True)
    np.testing.assert_array_equal(read_image(data)[0], PIXELS[:3, :4])


def test_only_what_is_missing_is_asked_for() -> None:
    big = np.arange(200 * 300, dtype=np.uint32).astype(np.uint8).reshape(200, 300)
    data = build_tiff([page(300, 200, tiles_of(big, 16, 16), tile=(16, 16))])
    assert len(data) > 60000  # the directory lies behind the tiles
    raster, requests = open_raster(data, first=16)
    assert requests == 1
    assert len(raster.levels[0].offsets) == 19 * 13
    assert open_raster(data, first=len(data))[1] == 0
    assert open_raster(data, first=16, size_known=False)[1] <= 2


def test_images_whose_directories_are_the_same_may_differ_elsewhere_in_the_file() -> None:
    def header(bits: list[int], data: bytes) -> bytes:
        samples = {258: (SHORT, bits), 277: (SHORT, [len(bits)])}
        return build_tiff([page(4, 4, [data[:48], data[48:]], tile=(4, 2), extra=samples)])

    even, wide, uneven = (header(bits, bytes(96)) for bits in ([8, 8, 8], [16, 16, 16], [8, 8, 16]))
    assert sum(a != b for a, b in zip(even, wide, strict=True)) == 3  # only where the bits stand
    for _ in range(2):
        assert open_raster(even)[0].levels[0].layout.bits == 8
        assert open_raster(wide)[0].levels[0].layout.bits == 16
        with pytest.raises(FormatError, match="differs between samples"):
            open_raster(uneven)


def test_images_of_one_kind_have_tiles_of_their_own() -> None:
    one, other = (
        open_raster(build_tiff([page(4, 4, [bytes(first), bytes(16)], tile=(4, 2))]))[0].levels[0]
        for first in (8, 12)
    )
    assert one.layout == other.layout
    assert (one.byte_counts.tolist(), other.byte_counts.tolist()) == ([8, 16], [12, 16])
    assert (one.span(1), other.span(1)) == ((16, 16), (20, 16))


def test_a_short_answer_shows_the_end_of_the_file() -> None:
    data = build_tiff([page(12, 10, strips_of(PIXELS, 4), rows_per_strip=4)])[:-30]
    header = HeaderBytes(data[:16])
    with pytest.raises(NeedBytes) as caught:
        read_raster(header)
    header.add(caught.value.offset, data[caught.value.offset :])
    with pytest.raises(FormatError, match="past the end"):
        read_raster(header)


def test_header_bytes_are_bounded() -> None:
    header = HeaderBytes(b"II*\0", 1 << 40)
    with pytest.raises(NeedBytes):
        header.read(1 << 30, 32 << 20)
    with pytest.raises(FormatError, match="64 MiB"):
        header.read(1 << 30, 64 << 20)
    header.add(1 << 30, bytes(40 << 20))
    assert len(header.read((1 << 30) + 5, 7)) == 7
    with pytest.raises(FormatError, match="64 MiB"):
        header.read(1 << 31, 32 << 20)


@pytest.mark.parametrize("kind", [LONG, IFD, IFD8])
def test_overviews_in_subifds(kind: int) -> None:
    half = page(6, 5, [PIXELS[:5, :6].tobytes()], extra={254: (LONG, [1])})
    quarter = page(3, 3, [PIXELS[:3, :3].tobytes()], extra={254: (LONG, [1])})
    base = page(12, 10, [PIXELS.tobytes()], sub=[quarter, half], sub_type=kind)
    data = build_tiff([base], big=kind == IFD8)
    raster, _ = open_raster(data)
    assert [(v.width, v.height) for v in raster.levels] == [(12, 10), (6, 5), (3, 3)]
    np.testing.assert_array_equal(read_level(data, raster.levels[1], 0)[0], PIXELS[:5, :6])


def reduced(width: int, height: int, subfile: int = 1, **tags) -> object:
    extra = {254: (LONG, [subfile])} | tags.pop("extra", {})
    return page(width, height, [bytes(width * height * tags.get("bits", 8) // 8)], extra=extra, **tags)


def test_only_true_overviews_of_the_first_image_count() -> None:
    base = page(400, 300, [PIXELS.tobytes() * 1000])
    cases = [
        reduced(200, 150),  # the overview
        reduced(160, 160),  # a thumbnail of another shape
        reduced(100, 75, bits=16),  # other samples
        reduced(100, 75, extra={277: (SHORT, [3]), 258: (SHORT, [8, 8, 8])}),
        reduced(50, 37, extra={259: (SHORT, [34925])}),  # a codec that is not supported
        reduced(100, 75, subfile=0),  # the next image: what follows belongs to it
        reduced(25, 19),
    ]
    raster, _ = open_raster(build_tiff([base, *cases]))
    assert [(v.width, v.height) for v in raster.levels] == [(400, 300), (200, 150)]


def test_what_is_coarser_than_of_use_is_left_out() -> None:
    data = build_tiff([page(300, 200, [bytes(60000)]), reduced(150, 100), reduced(75, 50)])
    asked: list[list[int]] = []

    def widths(decimation: float) -> list[int]:
        def coarsest(raster: Raster) -> float:
            asked.append([v.width for v in raster.levels])
            return decimation

        return [v.width for v in read_raster(HeaderBytes(data, len(data)), coarsest).levels]

    assert [widths(d) for d in (1.0, 1.99, 2.0, 4.0)] == [[300], [300], [300, 150], [300, 150, 75]]
    assert asked == [[300]] * 4
    assert [v.width for v in open_raster(data)[0].levels] == [300, 150, 75]


def test_chain_that_closes_on_itself_or_breaks() -> None:
    pages = [page(12, 10, [PIXELS.tobytes()]), reduced(6, 5)]
    plain = build_tiff(pages)
    first = int.from_bytes(plain[4:8], "little")
    for bad in (first, len(plain) - 2, 1 << 31, 3):
        data = build_tiff(pages, last_next=bad)
        raster, _ = open_raster(data)
        assert len(raster.levels) == 2
        np.testing.assert_array_equal(read_image(data)[0], PIXELS)


def test_masks_are_matched_by_size() -> None:
    bits = {262: (SHORT, [4])}
    pages = [
        page(16, 8, [bytes(128)]),
        page(16, 8, [bytes(range(16))], bits=1, extra={254: (LONG, [4])} | bits),
        reduced(8, 4),
        page(8, 4, [bytes(4)], bits=1, extra={254: (LONG, [5])} | bits),
        page(5, 5, [bytes(5)], bits=1, extra={254: (LONG, [5])} | bits),
    ]
    data = build_tiff(pages)
    raster, _ = open_raster(data)
    assert [(m.width, m.height) for m in raster.masks] == [(16, 8), (8, 4)]
    assert raster.mask_of(raster.levels[1]) is raster.masks[1]
    got = read_level(data, raster.masks[0], 0)[0]
    np.testing.assert_array_equal(got, np.unpackbits(np.arange(16, dtype=np.uint8)).reshape(8, 16))


GEO = {33550: (DOUBLE, [10.0, 20.0, 0.0]), 33922: (DOUBLE, [3.0, 2.0, 0.0, 1000.0, 5000.0, 0.0])}


@pytest.mark.parametrize("kind", [1, 2])
def test_tiepoint_away_from_the_corner_and_pixel_is_point(kind: int) -> None:
    keys = {34735: (SHORT, [1, 1, 0, 1, 1025, 0, 1, kind])}
    raster, _ = open_raster(build_tiff([page(12, 10, [PIXELS.tobytes()], extra=GEO | keys)]))
    half = (kind - 1) / 2
    assert raster.transform == (10.0, 0.0, 970.0 - half * 10, 0.0, -20.0, 5040.0 + half * 20)
    assert raster.check_north_up() == (970.0 - half * 10, 5040.0 + half * 20, 10.0, 20.0)
    assert raster.crs is None


def test_rotated_matrix_is_read_and_refused_by_name() -> None:
    matrix = [8.0, 6.0, 0.0, 100.0, 6.0, -8.0, 0.0, 200.0, *[0.0] * 8]
    raster, _ = open_raster(build_tiff([page(12, 10, [PIXELS.tobytes()], extra={34264: (DOUBLE, matrix)})]))
    assert raster.transform == (8.0, 6.0, 100.0, 6.0, -8.0, 200.0)
    with pytest.raises(FormatError, match="rotated"):
        raster.check_north_up()


@pytest.mark.parametrize(
    ("text", "bits", "sample_format", "expected"),
    [
        (b"0\0", 8, 1, 0),
        (b"-9999", 16, 2, -9999),  # not terminated
        (b"-9999\0", 16, 1, None),  # no sample can hold it
        (b"255.0 \0", 8, 1, 255),
        (b"1.5\0", 8, 1, None),
        (b"nonsense\0", 8, 1, None),
        (b"nan\0", 8, 1, None),
        (b"1e400\0", 16, 1, None),
        (b"18446744073709551615\0", 64, 1, 2**64 - 1),
        (b"-1.5e-3\0", 32, 3, -0.0015),
        (b"\xff\xfe\0", 8, 1, None),
    ],
)
def test_nodata_text(text: bytes, bits: int, sample_format: int, expected: float | None) -> None:
    extra = {42113: (ASCII, [bytes([b]) for b in text]), 339: (SHORT, [sample_format])}
    data = build_tiff([page(2, 2, [bytes(4 * bits // 8)], bits=bits, extra=extra)])
    nodata = open_raster(data)[0].nodata
    assert nodata == expected
    assert type(nodata) is type(expected)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({259: (SHORT, [6])}, "old-style JPEG"),
        ({259: (SHORT, [4])}, "CCITT"),
        ({259: (SHORT, [7]), 262: (SHORT, [6])}, "JPEG-in-TIFF with YCbCr"),
        ({262: (SHORT, [5])}, "CMYK"),
        ({339: (SHORT, [5])}, "complex samples"),
        ({339: (SHORT, [7])}, "sample format 7"),
        ({258: (SHORT, [24])}, "24 bits"),
        ({258: (SHORT, [12]), 339: (SHORT, [2])}, "signed samples of 12 bits"),
        ({258: (SHORT, [8, 16]), 277: (SHORT, [2])}, "bits per sample differs"),
        ({266: (SHORT, [2])}, "fill order"),
        ({284: (SHORT, [3])}, "planar"),
        ({277: (SHORT, [0])}, "0 samples"),
        ({259: (SHORT, [8]), 317: (SHORT, [9])}, "predictor 9"),
        ({317: (SHORT, [2])}, "predictor 2 with codec none"),
        ({259: (SHORT, [8]), 317: (SHORT, [3])}, "predictor 3 with integer"),
        ({259: (SHORT, [8]), 258: (SHORT, [12]), 317: (SHORT, [2])}, "predictor 2 with samples of 12"),
        ({256: (LONG, [0])}, "0 x 10"),
        ({322: (SHORT, [0]), 323: (SHORT, [16])}, "tiles of 0 x 16"),
        ({322: (LONG, [1 << 30]), 323: (SHORT, [16])}, "more than"),
        ({322: (SHORT, [2]), 323: (SHORT, [2])}, "needs 30"),
        ({273: (ASCII, [b"x"])}, "lacks tile offsets"),
        ({279: (LONG, [1 << 30])}, "tiles of up to"),
    ],
)
def test_fix_21_what_is_not_supported_is_named(extra: dict, message: str) -> None:
    data = build_tiff([page(12, 10, [PIXELS.tobytes()], extra=extra)])
    with pytest.raises(FormatError, match=message):
        open_raster(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"II", b"\x89PNG\r\n\x1a\n" * 9, b"II*\0\x01\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x04\0\0\0" * 3],
)
def test_what_is_no_tiff(data: bytes) -> None:
    with pytest.raises(FormatError):
        open_raster(data)


def test_declared_sizes_allocate_nothing() -> None:
    import tracemalloc

    huge = {
        256: (LONG, [(1 << 31) - 1]),
        257: (LONG, [(1 << 31) - 1]),
        322: (SHORT, [16]),
        323: (SHORT, [16]),
    }
    data = build_tiff([page(1, 1, [b"x"], extra=huge)])
    tracemalloc.start()
    with pytest.raises(FormatError, match="lists 1 tiles"):
        open_raster(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# ---- files written by others


def write(path: Path, array: np.ndarray, **profile) -> Path:
    bands = array if array.ndim == 3 else array[None]
    defaults = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    place = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(399960, 5000040, 10, 10)}
    with rasterio.open(path, "w", **(defaults | {"dtype": bands.dtype.name} | place | profile)) as dst:
        dst.write(bands)
    return path


def noise(shape: tuple[int, ...], dtype: str, high: int = 4000) -> np.ndarray:
    values = np.random.default_rng(7).integers(0, high, shape)
    return np.cumsum(values % 7, axis=-1).astype(dtype)


CASES = {
    "deflate_predictor_2": (
        "uint16",
        {"compress": "deflate", "predictor": 2, "tiled": True, "blockxsize": 64, "blockysize": 32},
    ),
    "lzw_strips_predictor_2": ("int16", {"compress": "lzw", "predictor": 2, "blockysize": 17}),
    "float_predictor_3": (
        "float32",
        {"compress": "zstd", "predictor": 3, "tiled": True, "blockxsize": 64, "blockysize": 64},
    ),
    "double_predictor_3": ("float64", {"compress": "deflate", "predictor": 3}),
    "fifteen_bits": (
        "uint16",
        {"compress": "deflate", "nbits": 15, "tiled": True, "blockxsize": 48, "blockysize": 48},
    ),
    "one_bit": ("uint8", {"nbits": 1, "tiled": True, "blockxsize": 16, "blockysize": 16}),
    "bigtiff": ("int32", {"BIGTIFF": "YES", "compress": "deflate", "predictor": 2}),
    "big_endian": ("uint16", {"ENDIANNESS": "BIG", "compress": "deflate", "predictor": 2}),
    "big_endian_float": ("float32", {"ENDIANNESS": "BIG", "compress": "lzw", "predictor": 3}),
    "packbits": ("uint8", {"compress": "packbits"}),
    "lerc": ("float32", {"compress": "lerc", "tiled": True, "blockxsize": 64, "blockysize": 64}),
    "lerc_zstd": ("uint16", {"compress": "lerc_zstd"}),
    "lerc_deflate": ("int16", {"compress": "lerc_deflate"}),
}


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("name", CASES)
def test_fix_21_pixels_as_gdal_wrote_them(tmp_path: Path, name: str, interleave: str) -> None:
    dtype, profile = CASES[name]
    if "lerc" in name:
        pytest.importorskip("imagecodecs")
    array = noise((2, 75, 130), dtype)
    if name == "one_bit":
        array %= 2
    path = write(tmp_path / "a.tif", array, interleave=interleave, **profile)
    np.testing.assert_array_equal(read_image(path.read_bytes()), array)
    raster, _ = open_raster(path.read_bytes())
    assert raster.crs == "EPSG:32632"
    assert raster.check_north_up() == (399960.0, 5000040.0, 10.0, 10.0)
    assert raster.samples == 2


def test_overviews_mask_metadata_as_gdal_wrote_them(tmp_path: Path) -> None:
    array = noise((1, 333, 250), "uint16")
    path = write(
        tmp_path / "a.tif", array, compress="deflate", tiled=True, blockxsize=128, blockysize=128, nodata=7
    )
    valid = np.where(noise((333, 250), "uint8") % 5 > 1, 255, 0).astype(np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dst:
        dst.write_mask(valid)
        dst.scales, dst.offsets = (0.0001,), (-0.1,)
        dst.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    data = path.read_bytes()
    raster, _ = open_raster(data)
    assert [(v.width, v.height) for v in raster.levels] == [(250, 333), (125, 167), (63, 84)]
    assert (raster.scale, raster.offset, raster.nodata) == (0.0001, -0.1, 7)
    np.testing.assert_array_equal(read_level(data, raster.masks[0], 0)[0] * 255, valid)
    for level, number in zip(raster.levels[1:], range(2), strict=True):
        with rasterio.open(path, overview_level=number) as src:
            np.testing.assert_array_equal(read_level(data, level, 7)[0], src.read(1))
            mask = raster.mask_of(level)
            assert mask is not None
            np.testing.assert_array_equal(read_level(data, mask, 0)[0] * 255, src.read_masks(1))


def test_fix_21_sparse_tiles_make_no_request(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 200, "height": 200, "count": 1, "dtype": "int16", "nodata": -9999}
    block = np.full((64, 64), 5, np.int16)
    with rasterio.open(path, "w", **profile, tiled=True, blockxsize=64, blockysize=64, sparse_ok=True) as dst:
        dst.write(block, 1, window=rasterio.windows.Window(64, 64, 64, 64))
    data = path.read_bytes()
    raster, _ = open_raster(data)
    assert [i for i in range(16) if raster.levels[0].span(i)] == [5]
    assert fill_of(raster) == -9999
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(read_image(data), src.read())


def test_cog_as_gdal_wrote_it_opens_with_one_request(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", noise((1, 1500, 1600), "uint16"), nodata=0)
    copy(source, tmp_path / "b.tif", driver="COG", compress="deflate", blocksize=128)
    raster, requests = open_raster((tmp_path / "b.tif").read_bytes())
    assert requests == 0
    assert [v.width for v in raster.levels] == [1600, 800, 400, 200, 100]
    assert {v.layout.codec for v in raster.levels} == {"deflate"}


@pytest.mark.parametrize("dtype", ["uint16", "float16", "float32", "int64"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tifffile_pages_with_subifds(dtype: str, byteorder: str) -> None:
    array, half = noise((3, 90, 80), dtype), noise((3, 45, 40), dtype)
    out = io.BytesIO()
    options = {"tile": (32, 48), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(out, byteorder=byteorder) as tif:
        tif.write(array, subifds=1, planarconfig="separate", **options)
        tif.write(half, subfiletype=1, planarconfig="separate", **options)
        tif.write(noise((50, 50), "uint8"))
    data = out.getvalue()
    raster, _ = open_raster(data)
    assert len(raster.levels) == 2
    assert raster.levels[0].planes == 3
    np.testing.assert_array_equal(read_image(data), array)
    np.testing.assert_array_equal(read_level(data, raster.levels[1], 0, decode_with_numpy), half)


def test_damaged_tile_is_an_error_not_pixels(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.tif", noise((1, 64, 64), "uint16"), compress="deflate").read_bytes())
    offset, length = open_raster(bytes(data))[0].levels[0].span(0)
    data[offset + length // 2] ^= 0x10
    with pytest.raises(CorruptTileError):
        read_image(bytes(data))
