"""Host codecs: right bytes, bounded room, and damage by name."""

from __future__ import annotations

import sys
import tracemalloc
import zlib

import numpy as np
import pytest

from bestpixel_gpu.cog.codecs import to_raw
from bestpixel_gpu.cog.layout import Level, TileLayout
from bestpixel_gpu.errors import CorruptTileError, FormatError

imagecodecs = pytest.importorskip("imagecodecs")

ROWS, COLS = 24, 40
GRAY = (np.add.outer(np.arange(ROWS), np.arange(COLS)) * 3 % 251).astype(np.uint8)
RGB = np.stack([GRAY, GRAY // 2, 255 - GRAY], axis=2)


def level_of(
    codec: str, *, samples: int = 1, kind: str = "u", bits: int = 8, rows: int = ROWS, **extra
) -> Level:
    layout = TileLayout(codec=codec, width=COLS, height=rows, bits=bits, kind=kind, samples=samples, **extra)
    one = np.ones(1, np.uint64)
    return Level(
        width=COLS,
        height=rows,
        tile_width=COLS,
        tile_height=rows,
        offsets=one,
        byte_counts=one,
        layout=layout,
    )


def encoded(codec: str) -> tuple[bytes, Level, np.ndarray]:
    """Stored bytes, their level and the samples they hold."""
    floats = (GRAY / 7).astype(np.float32)
    lerc = imagecodecs.lerc_encode
    return {
        "lzw": lambda: (imagecodecs.lzw_encode(GRAY.tobytes()), level_of("lzw"), GRAY),
        "zstd": lambda: (imagecodecs.zstd_encode(GRAY.tobytes()), level_of("zstd"), GRAY),
        "packbits": lambda: (imagecodecs.packbits_encode(GRAY.tobytes()), level_of("packbits"), GRAY),
        "webp": lambda: (imagecodecs.webp_encode(RGB, lossless=True), level_of("webp", samples=3), RGB),
        "lerc": lambda: (lerc(floats, level=0), level_of("lerc", kind="f", bits=32), floats),
        "lerc_deflate": lambda: (zlib.compress(lerc(GRAY, level=0)), level_of("lerc_deflate"), GRAY),
        "lerc_zstd": lambda: (imagecodecs.zstd_encode(lerc(GRAY, level=0)), level_of("lerc_zstd"), GRAY),
        "jpeg": lambda: _jpeg(RGB, 3),
    }[codec]()


def _jpeg(pixels: np.ndarray, samples: int) -> tuple[bytes, Level, np.ndarray]:
    space = "RGB" if samples == 3 else "GRAYSCALE"
    data = imagecodecs.jpeg8_encode(pixels, level=95, colorspace=space, outcolorspace=space)
    expected = imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space)
    return data, level_of("jpeg", samples=samples), expected


ALL = ["lzw", "zstd", "packbits", "webp", "lerc", "lerc_deflate", "lerc_zstd", "jpeg"]


@pytest.mark.parametrize("codec", ALL)
def test_plain_bytes_and_layout(codec: str) -> None:
    data, level, expected = encoded(codec)
    for stored in (data, bytearray(data), memoryview(data)):
        raw, layout = to_raw(stored, level, 0)
        assert layout.codec == "none"
        assert bytes(raw) == expected.tobytes()


def test_jpeg_of_rgb_is_not_taken_for_ycbcr() -> None:
    data, level, _ = _jpeg(RGB, 3)
    raw, _ = to_raw(data, level, 0)
    got = np.frombuffer(raw, np.uint8).reshape(RGB.shape).astype(int)
    assert np.abs(got - RGB).max() < 40
    assert np.abs(got - RGB).mean() < 4


def test_predictor_and_byte_order_are_left_to_the_engine() -> None:
    level = level_of("zstd", bits=16, predictor=2, byteorder=">")
    raw, layout = to_raw(imagecodecs.zstd_encode(bytes(ROWS * COLS * 2)), level, 0)
    assert (layout.predictor, layout.byteorder, layout.codec) == (2, ">", "none")
    assert len(raw) == layout.inflated_bytes


def test_lerc_in_a_big_endian_file_keeps_the_layouts_order() -> None:
    values = (GRAY.astype(np.int16) - 100) * 3
    raw, layout = to_raw(
        imagecodecs.lerc_encode(values, level=0), level_of("lerc", kind="i", bits=16, byteorder=">"), 0
    )
    assert layout.byteorder == ">"
    np.testing.assert_array_equal(np.frombuffer(raw, ">i2").reshape(values.shape), values)


def test_lerc_pixels_outside_its_mask_are_nan() -> None:
    values = (GRAY / 7).astype(np.float32)
    valid = GRAY % 3 > 0
    data = imagecodecs.lerc_encode(values, level=0, masks=valid)
    raw, _ = to_raw(data, level_of("lerc", kind="f", bits=32), 0)
    np.testing.assert_array_equal(
        np.frombuffer(raw, "<f4").reshape(values.shape), np.where(valid, values, np.nan)
    )


@pytest.mark.parametrize("codec", ["none", "deflate"])
def test_engine_codecs_pass_untouched(codec: str) -> None:
    data, level = b"not looked at", level_of(codec)
    raw, layout = to_raw(data, level, 0)
    assert raw is data
    assert layout is level.layout


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_other_sizes_than_the_header_says_are_errors(codec: str, rows: int) -> None:
    data, level, _ = encoded(codec)
    layout = level.layout
    other = level_of(codec, samples=layout.samples, kind=layout.kind, bits=layout.bits, rows=rows)
    with pytest.raises(CorruptTileError, match="tile 0 of plane 2"):
        to_raw(data, other, 0, plane=2)


@pytest.mark.parametrize("codec", ALL)
def test_damage_is_an_error_or_the_right_size(codec: str) -> None:
    data, level, _ = encoded(codec)
    for cut in (0, 1, 3, len(data) // 2):
        with pytest.raises(CorruptTileError):
            to_raw(data[:cut], level, 0)
    for at in range(0, len(data), max(1, len(data) // 60)):
        bent = bytearray(data)
        bent[at] ^= 0x5A
        try:
            raw, layout = to_raw(bytes(bent), level, 0)
        except CorruptTileError:
            continue
        assert len(raw) == layout.inflated_bytes


def test_bombs_do_not_get_their_room() -> None:
    zeros = bytes(80 << 20)
    wide = np.zeros((3000, 4000), np.uint8)
    bombs = {
        "lzw": imagecodecs.lzw_encode(zeros[: 16 << 20]),
        "zstd": imagecodecs.zstd_encode(zeros),
        "packbits": b"\x81\0" * (1 << 17),
        "lerc_deflate": zlib.compress(zeros),
        "lerc_zstd": imagecodecs.zstd_encode(zeros),
        "lerc": imagecodecs.lerc_encode(wide, level=0),
        "jpeg": imagecodecs.jpeg8_encode(wide),
        "webp": imagecodecs.webp_encode(np.zeros((3000, 4000, 3), np.uint8), lossless=True),
    }
    for codec, data in bombs.items():
        level = level_of(codec, samples=3 if codec == "webp" else 1)
        tracemalloc.start()
        with pytest.raises(CorruptTileError):
            to_raw(data, level, 0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 << 20, (codec, peak)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data, level, _ = encoded("lzw")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(FormatError, match=r"pip install 'bestpixel-gpu\[codecs\]'"):
        to_raw(data, level, 0)
    assert to_raw(data, level_of("deflate"), 0)[0] is data
