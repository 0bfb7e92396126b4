"""Tiles of a batch as ``cuda/tiles.cuh`` describes them, and the launch that unpacks them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.cuda.device import Device, Stream, blocks
from bestpixel_gpu.errors import FormatError

ALIGNMENT = 16
"""Sources and targets start at multiples of it, and the memory of a source goes on up to one."""
ROWS_AT_ONCE = 4
"""Rows that a block takes at once, as ``cuda/unpack.cu`` knows it."""
_ROWS_EACH = 4  # turns of a block: a tile's description is read once for so many rows of each warp


class Tile(NamedTuple):
    """``struct Tile``: a batch of n is an int64 array, (n, fields)."""

    source: int
    target: int
    width: int
    rows: int
    cols: int
    row_bytes: int
    bits: int
    is_signed: int
    samples: int
    sample: int
    predictor: int
    swap: int


def describe(layout: TileLayout, source: int, target: int, inside: tuple[int, int] | None = None) -> Tile:
    """What is to be done to one tile.

    Parameters
    ----------
    layout : TileLayout
    source, target : int
        Addresses of the inflated bytes and of the slot; the same only where :func:`in_place` says so.
    inside : (int, int), optional
        Rows and columns wanted, from the tile's corner; all of them.

    Raises
    ------
    FormatError
        If bits and predictor do not go together.
    """
    layout.check_unpackable()
    if (source | target) % ALIGNMENT:
        raise ValueError(f"a tile at {source:#x} or a slot at {target:#x}: not a multiple of {ALIGNMENT}")
    rows, cols = inside or (layout.height, layout.width)
    if not (0 < rows <= layout.height and 0 < cols <= layout.width):
        raise ValueError(f"{rows} x {cols} pixels of a tile of {layout.height} x {layout.width}")
    return Tile(
        source,
        target,
        layout.width,
        rows,
        cols,
        layout.row_bytes,
        layout.bits,
        int(layout.kind == "i"),
        layout.samples,
        layout.sample,
        layout.predictor,
        int(layout.bits in (16, 32, 64) and layout.byteorder == ">"),
    )


def is_native(layout: TileLayout) -> bool:
    """The inflated bytes are the samples: nothing is left to be done in place."""
    swap = layout.bits > 8 and layout.byteorder == ">"
    return layout.in_place and layout.predictor == 1 and not swap


def undo(device: Device, tiles: Any, n: int, rows: int, stream: Stream | None = None) -> None:
    """Unpack a batch: bits, byte order and predictor of every tile, from its source into its slot.

    Parameters
    ----------
    tiles : int64 device array, (n, fields)
        A :class:`Tile` each, in any order and of any layouts.
    n : int
        Tiles; nothing is done for none.
    rows : int
        The most rows that are wanted of a tile.
    stream : Stream, optional
        By default the device's main stream.
    """
    if n:
        each = blocks(rows, ROWS_AT_ONCE * _ROWS_EACH)
        device.launch(("unpack", "undo"), n * each, 32 * ROWS_AT_ONCE, [tiles, np.int64(each)], stream)
