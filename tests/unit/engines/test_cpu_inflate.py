"""Four ways to inflate that agree on what is whole and what is broken."""

from __future__ import annotations

import sys
import zlib

import numpy as np
import pytest

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import CompressedTile
from bestpixel_gpu.engines.cpu import inflate
from bestpixel_gpu.engines.cpu.decode import Decoder
from bestpixel_gpu.errors import FormatError

LAYOUT = TileLayout(codec="deflate", width=32, height=16, bits=16, predictor=2)
RAW = np.random.default_rng(0).integers(0, 255, LAYOUT.inflated_bytes, dtype=np.uint8).tobytes()
GOOD = zlib.compress(RAW)
STREAMS = {
    "good": (GOOD, True),
    "stored": (zlib.compress(RAW, 0), True),
    "bytes after it": (GOOD + b"tail", True),
    "truncated": (GOOD[:-1], False),
    "wrong sum": (GOOD[:-1] + bytes([GOOD[-1] ^ 255]), False),
    "short": (zlib.compress(RAW[:-1]), False),
    "long": (zlib.compress(RAW + b"x"), False),
    "nothing": (b"", False),
}


def decoders():
    """(libdeflate's C functions, what inflates where there are none)."""
    return [
        pytest.param(inflate.libdeflate, None, id="libdeflate"),
        pytest.param(lambda: None, inflate.with_deflate, id="deflate"),
        pytest.param(lambda: None, inflate.with_numba, id="numba"),
        pytest.param(lambda: None, inflate.with_zlib, id="zlib"),
    ]


@pytest.mark.parametrize(("native", "python"), decoders())
def test_whole_and_broken_streams(native, python):
    if python is None and native() is None:
        pytest.skip("the deflate wheel of this system exports no C functions")
    tiles = [CompressedTile(i, data, LAYOUT) for i, (data, _) in enumerate(STREAMS.values())]
    pool = np.zeros(len(tiles) * LAYOUT.decoded_bytes, np.uint8)
    starts = [i * LAYOUT.decoded_bytes for i in range(len(tiles))]
    status = Decoder(native(), python).decode(tiles, pool, starts)
    assert [not s for s in status] == [whole for _, whole in STREAMS.values()]
    rows = np.frombuffer(RAW, np.uint16).reshape(16, 32).cumsum(1, dtype=np.uint16)
    for i, (_, whole) in enumerate(STREAMS.values()):
        if whole:
            got = pool[i * LAYOUT.decoded_bytes :][: LAYOUT.decoded_bytes].view(np.uint16)
            np.testing.assert_array_equal(got.reshape(16, 32), rows)


@pytest.mark.parametrize(
    ("wheel", "byteorder", "expected"),
    [
        (True, "little", inflate.with_deflate),
        (False, "little", inflate.with_numba),
        (False, "big", inflate.with_zlib),
    ],
)
def test_the_best_that_is_there_is_taken(wheel, byteorder, expected, monkeypatch):
    if not wheel:
        monkeypatch.setitem(sys.modules, "deflate", None)
    monkeypatch.setattr(sys, "byteorder", byteorder)
    assert inflate.python_inflate.__wrapped__() is expected


def test_a_bomb_stays_small():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert inflate.with_zlib(zlib.compress(bytes(400_000_000)), 1000) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"codec": "lzw"}, "lzw"),
        ({"bits": 12}, "predictor 2"),
        ({"bits": 24, "predictor": 1}, "24 bits"),
        ({"predictor": 3}, "floating"),
        ({"predictor": 4}, "predictor 4"),
    ],
)
def test_layouts_that_cannot_be_unpacked_are_named(change, word):
    from dataclasses import replace

    tile = CompressedTile(0, GOOD, replace(LAYOUT, **change))
    with pytest.raises(FormatError, match=word):
        Decoder.best().decode([tile], np.zeros(4096, np.uint8), [0])
