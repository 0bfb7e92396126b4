"""Batches of stored tiles -> samples in memory, on the caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import TILE_CORRUPT, TILE_OK, CompressedTile
from bestpixel_gpu.engines.cpu.inflate import (
    Bytes,
    InflateFunction,
    Libdeflate,
    ThreadState,
    libdeflate,
    python_inflate,
)
from bestpixel_gpu.engines.cpu.unpack import SPARE, decode_tiles, packing_of


class Decoder:
    """Decodes tiles; scratch memory and inflate state are kept for each thread.

    Parameters
    ----------
    native : Libdeflate, optional
        C functions that the kernel calls.
    python : InflateFunction, optional
        What inflates where there are none; by default the best of this machine.
    """

    def __init__(self, native: Libdeflate | None = None, python: InflateFunction | None = None) -> None:
        self._native = native
        self._python = python
        self._inflate = ThreadState()
        self._scratch = _Scratch()

    @classmethod
    def best(cls) -> Decoder:
        """With libdeflate's C functions where they can be had."""
        return cls(libdeflate())

    def decode(
        self, tiles: Sequence[CompressedTile], pool: NDArray[np.uint8], starts: Sequence[int]
    ) -> NDArray[np.int8]:
        """Decode each tile to the bytes of `pool` from its start on; a status for each tile.

        Raises
        ------
        FormatError
            If a layout is not one this engine unpacks.
        """
        status = np.full(len(tiles), TILE_CORRUPT, np.int8)
        by_layout: dict[TileLayout, list[int]] = {}
        for i, tile in enumerate(tiles):
            by_layout.setdefault(tile.layout, []).append(i)
        for layout, members in by_layout.items():
            status[members] = self._decode_alike(
                layout, [tiles[i].data for i in members], pool, [starts[i] for i in members]
            )
        return status

    def _decode_alike(
        self,
        layout: TileLayout,
        stored: Sequence[Bytes | None],
        pool: NDArray[np.uint8],
        starts: Sequence[int],
    ) -> NDArray[np.int8]:
        how = packing_of(layout)
        expected = layout.inflated_bytes
        native = self._native if layout.codec == "deflate" else None
        inflate = self._python or python_inflate()
        status = np.full(len(stored), TILE_CORRUPT, np.int8)
        views: list[NDArray[np.uint8]] = []
        kept: list[int] = []
        for i, data in enumerate(stored):
            ready = data if native or layout.codec == "none" or data is None else inflate(data, expected)
            if ready is None:
                continue
            view = np.frombuffer(ready, np.uint8)
            if native or view.size == expected:
                views.append(view)
                kept.append(i)
        if not kept:
            return status
        results = np.full(len(kept), TILE_OK, np.int8)
        decode_tiles(
            native.decompress if native else 0,
            self._inflate.decompressor(native) if native else 0,
            np.array([view.__array_interface__["data"][0] for view in views], np.int64),
            np.array([view.size for view in views], np.int64),
            pool,
            np.array([starts[i] for i in kept], np.int64),
            self._scratch.of(0 if how.in_place else expected + SPARE),
            how,
            layout.decoded_bytes,
            results,
        )
        status[kept] = results
        return status


class _Scratch(threading.local):
    """Bytes of one thread, kept from call to call and grown when needed."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes; their content is whatever was there."""
        if self._bytes.size < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes
