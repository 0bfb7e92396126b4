"""Several quality layers as one mask."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.compositing.quality import worst_tiles
from bestpixel_gpu.engines.contract import CompressedTile
from bestpixel_gpu.errors import CorruptTileError, FormatError

LAYOUT = TileLayout(codec="deflate", width=8, height=4, bits=8)
CLASSES = np.random.default_rng(3).choice(np.array([0, 1, 255], np.uint8), (2, 4, 8))


def tile(index: int, classes: NDArray[np.uint8], layout: TileLayout = LAYOUT) -> CompressedTile:
    stored = np.diff(classes, axis=1, prepend=np.uint8(0)) if layout.predictor == 2 else classes
    data = stored.tobytes()
    return CompressedTile(index, zlib.compress(data) if layout.codec == "deflate" else data, layout)


def plain(found: CompressedTile) -> NDArray[np.uint8]:
    assert found.data is not None
    return np.frombuffer(zlib.decompress(found.data), np.uint8).reshape(4, 8)


@pytest.mark.parametrize("other", [LAYOUT, replace(LAYOUT, predictor=2), replace(LAYOUT, codec="none")])
def test_the_worst_class_of_every_pixel(other: TileLayout) -> None:
    first = tile(7, CLASSES[0], replace(LAYOUT, predictor=2))
    again = tile(9, CLASSES[1])
    found = worst_tiles([first, again], [tile(9, CLASSES[0], other), tile(7, CLASSES[1], other)])
    assert [t.index for t in found] == [7, 9]
    for one in found:
        assert (one.layout.codec, one.layout.predictor) == ("deflate", 1)
        np.testing.assert_array_equal(plain(one), np.maximum(*CLASSES))


def test_a_tile_that_one_file_does_not_hold_is_fill() -> None:
    here, nowhere = tile(0, CLASSES[0]), CompressedTile(0, None, LAYOUT)
    for pair in ((here, nowhere), (nowhere, here)):
        (found,) = worst_tiles([pair[0]], [pair[1]])
        assert found.data is None


@pytest.mark.parametrize("data", [b"no zlib", zlib.compress(bytes(31)), zlib.compress(bytes(33)), b""])
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(CorruptTileError, match="tile 3"):
        worst_tiles([CompressedTile(3, data, LAYOUT)], [tile(3, CLASSES[0])])


def test_layers_of_wider_samples_are_refused() -> None:
    with pytest.raises(FormatError, match="16 bits"):
        worst_tiles([tile(0, CLASSES[0], replace(LAYOUT, bits=16))], [tile(0, CLASSES[0])])
