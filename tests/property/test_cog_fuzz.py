"""Any bytes: a raster, or an error of ours, in bounded time and room."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from tiff_builder import ASCII, DOUBLE, IFD, LONG, SHORT, build_tiff, page
from tiff_reader import open_raster

from bestpixel_gpu.cog.codecs import to_raw
from bestpixel_gpu.cog.geokeys import crs_of, is_pixel_point
from bestpixel_gpu.cog.ifd import HeaderBytes, NeedBytes, read_raster
from bestpixel_gpu.cog.layout import Level, Raster
from bestpixel_gpu.errors import BestPixelError, FormatError

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

SECONDS, ROOM = 1.0, 8 << 20
"""Bounds for one header of a few kB: generous against a parse of half a millisecond and 100 kB."""

settings = hypothesis.settings(max_examples=250)


@lru_cache
def headers() -> tuple[bytes, ...]:
    """Small files with everything a header can hold, in all four flavours."""
    keys = [1, 1, 0, 6, 1024, 0, 1, 1, 1025, 0, 1, 2, 2048, 0, 1, 4326, 3072, 0, 1, 32767, 3075, 0, 1, 10]
    keys += [3088, 34736, 1, 0]
    text = b'<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.1</Item></GDALMetadata>'
    extra = {
        33550: (DOUBLE, [10.0, 10.0, 0.0]),
        33922: (DOUBLE, [0.0, 0.0, 0.0, 5e5, 5e6, 0.0]),
        34735: (SHORT, keys),
        34736: (DOUBLE, [9.0, 50.0]),
        42112: (ASCII, [text[i : i + 1] for i in range(len(text))]),
        42113: (ASCII, [b"0", b"\0"]),
    }
    tile = bytes(range(256))
    mask = page(64, 48, [bytes(32)] * 12, tile=(16, 16), bits=1, extra={254: (LONG, [4]), 262: (SHORT, [4])})
    half = page(32, 24, [tile] * 4, tile=(16, 16), extra={254: (LONG, [1])})
    quarter = page(16, 12, [tile], tile=(16, 16), extra={254: (LONG, [1])})
    base = page(64, 48, [tile] * 12, tile=(16, 16), extra=extra, sub=[quarter], sub_type=IFD)
    strips = page(64, 48, [bytes(320)] * 9 + [bytes(192)], rows_per_strip=5)
    return tuple(
        build_tiff(pages, big=big, order=order)
        for pages in ([base, half, mask], [strips])
        for big in (False, True)
        for order in ("<", ">")
    )


@lru_cache
def corpus(folder: Path) -> tuple[bytes, ...]:
    return tuple(p.read_bytes()[:6000] for p in sorted(folder.glob("*.tif*")))


def test_the_seeds_are_whole() -> None:
    for data in headers():
        raster, _ = open_raster(data)
        assert raster.levels[0].width == 64
    assert len(open_raster(headers()[0])[0].levels) == 3
    assert len(open_raster(headers()[0])[0].masks) == 1
    assert open_raster(headers()[0])[0].crs.startswith("+proj=laea")


@contextlib.contextmanager
def bounded() -> None:
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
    finally:
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < SECONDS
    assert peak < ROOM


def check(data: bytes, *, size_known: bool = True) -> None:
    """Raster or FormatError; what a raster promises holds."""
    with bounded(), contextlib.suppress(FormatError):
        raster, requests = open_raster(data, size_known=size_known)
        assert requests <= 150
        check_raster(raster)
        for level in (*raster.levels, *raster.masks):
            read_first_tile(data, level)


def check_raster(raster: Raster) -> None:
    assert raster.transform is None or np.isfinite(raster.transform).all()
    areas = [v.width * v.height for v in raster.levels]
    assert areas == sorted(areas, reverse=True)
    for level in (*raster.levels, *raster.masks):
        tiles = level.tiles_across * level.tiles_down * level.planes
        assert len(level.offsets) == len(level.byte_counts) == tiles
        assert 0 < level.layout.decoded_bytes <= 512 << 20
        assert level.layout_of(level.tiles_across * level.tiles_down - 1).height > 0


def read_first_tile(data: bytes, level: Level) -> None:
    span = level.span(0)
    if span and level.layout.inflated_bytes < 1 << 20:
        with contextlib.suppress(BestPixelError):
            to_raw(data[span[0] : span[0] + span[1]], level, 0)


mutations = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, 1 << 14), st.integers(0, 255)),
        st.tuples(
            st.just("word"), st.integers(0, 1 << 14), st.sampled_from([0, 1, 0x7FFF, 0x80000000, 0xFFFFFFFF])
        ),
        st.tuples(st.just("cut"), st.integers(0, 1 << 14), st.just(0)),
        st.tuples(st.just("move"), st.integers(0, 1 << 14), st.integers(0, 1 << 14)),
    ),
    min_size=1,
    max_size=6,
)


def mutate(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    bent = bytearray(data)
    for what, place, value in changes:
        at = place % max(1, len(bent))
        if what == "byte":
            bent[at : at + 1] = bytes([value])
        elif what == "word":
            bent[at : at + 4] = value.to_bytes(4, "little")
        elif what == "cut":
            del bent[max(at, 4) :]
        else:
            source = value % max(1, len(bent))
            bent[at : at + 40] = bent[source : source + 40]
    return bytes(bent)


@settings
@hypothesis.given(st.integers(0, 7), mutations, st.booleans())
def test_mutated_headers(seed: int, changes: list[tuple[str, int, int]], size_known: bool) -> None:
    check(mutate(headers()[seed], changes), size_known=size_known)


@settings
@hypothesis.given(st.integers(0, 7), st.integers(0, 1 << 14), st.integers(0, 7), st.integers(0, 1 << 14))
def test_splices(first: int, cut: int, second: int, start: int) -> None:
    a, b = headers()[first], headers()[second]
    check(a[: cut % len(a)] + b[start % len(b) :])


def test_every_byte_of_the_directories_bent() -> None:
    """Not by chance: each byte behind the tiles in turn, to its extremes."""
    for data in (headers()[0], headers()[3]):
        start = int.from_bytes(data[4:8], "little")
        for at in range(min(start, len(data) - 400), len(data)):
            for value in (0, 255):
                bent = data[:at] + bytes([value]) + data[at + 1 :]
                with contextlib.suppress(FormatError):
                    check_raster(open_raster(bent)[0])


@settings
@hypothesis.given(
    st.binary(max_size=400),
    st.sampled_from([b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0", b""]),
)
def test_any_bytes(data: bytes, magic: bytes) -> None:
    check(magic + data)
    with contextlib.suppress(FormatError, NeedBytes):
        read_raster(HeaderBytes(magic + data))


@settings
@hypothesis.given(
    st.lists(st.integers(0, 65535), max_size=60), st.lists(st.floats(), max_size=8), st.text(max_size=30)
)
def test_any_geokeys(directory: list[int], doubles: list[float], text: str) -> None:
    got = crs_of(directory, doubles, text)
    assert got is None or got.startswith(("EPSG:", "+proj="))
    is_pixel_point(directory)


@settings
@hypothesis.given(st.integers(0, 400), mutations)
def test_mutated_files_of_the_corpus(shared: Path, number: int, changes: list[tuple[str, int, int]]) -> None:
    files = corpus(shared / "data" / "tiff_corpus")
    if not files:
        pytest.skip("needs the TIFF corpus (shared/data/tiff_corpus)")
    check(mutate(files[number % len(files)], changes))
