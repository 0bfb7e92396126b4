"""Batches of stored tiles -> samples in memory, on the caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

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
from bestpixel_gpu.transfer.buffers import BUFFERS


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
        """Decode what lies inside of each tile to the bytes of `pool` from its start on; their statuses.

        Raises
        ------
        FormatError
            If a layout is not one this engine unpacks.
        """
        status = np.full(len(tiles), TILE_CORRUPT, np.int8)
        alike: dict[tuple[TileLayout, tuple[int, int] | None], list[int]] = {}
        for i, tile in enumerate(tiles):
            alike.setdefault((tile.layout, tile.inside), []).append(i)
        for (layout, inside), members in alike.items():
            how = packing_of(layout, inside)
            batch = self.batch(layout, [tiles[i].data for i in members])
            results = np.full(len(batch.tried), TILE_OK, np.int8)
            tried = [members[n] for n in batch.tried]
            decode_tiles(
                batch.inflate,
                batch.state,
                batch.addresses,
                batch.sizes,
                pool,
                np.array([starts[i] for i in tried], np.int64),
                self.scratch(0 if how.in_place else layout.inflated_bytes + SPARE),
                how,
                layout.decoded_bytes,
                results,
            )
            status[tried] = results
        return status

    def batch(self, layout: TileLayout, stored: Sequence[Bytes | None]) -> Batch:
        """Stored tiles of one layout as a kernel takes them, inflated already where it cannot do that."""
        native = self._native if layout.codec == "deflate" else None
        inflate = self._python or python_inflate()
        views: list[NDArray[np.uint8]] = []
        tried: list[int] = []
        for i, data in enumerate(stored):
            ready: Bytes | NDArray[np.uint8] | None = data
            if layout.codec == "deflate" and native is None and data is not None:
                ready = inflate(data, layout.inflated_bytes)
            if ready is None:
                continue
            view = np.frombuffer(ready, np.uint8)
            if native or view.size == layout.inflated_bytes:
                views.append(view)
                tried.append(i)
        return Batch(
            native.decompress if native else 0,
            self._inflate.decompressor(native) if native else 0,
            np.array([view.__array_interface__["data"][0] for view in views], np.int64),
            np.array([view.size for view in views], np.int64),
            tried,
            views,
        )

    def scratch(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes of this thread; their content is whatever was there."""
        return self._scratch.of(size)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Stored tiles of one layout.

    Attributes
    ----------
    inflate, state : int
        Address of ``libdeflate_zlib_decompress`` and of this thread's decompressor; 0 where the
        bytes are inflated already, and as many as the layout says.
    addresses, sizes : int64, (tiles,)
        Where the bytes lie.
    tried : list of int
        Which of the given tiles these are; the others are corrupt.
    held : list of array
        What keeps the bytes in memory.
    """

    inflate: int
    state: int
    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]
    tried: list[int]
    held: list[NDArray[np.uint8]]


class _Scratch(threading.local):
    """Bytes of one thread, kept from call to call and grown when needed; threads to come use them again."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes; their content is whatever was there."""
        if self._bytes.size < size:
            self._bytes = np.frombuffer(BUFFERS.take(size), np.uint8)
        return self._bytes
