"""Work for a loader: random tiles with what must come of them, and a stand-in for nvCOMP."""

from __future__ import annotations

import ctypes
import zlib

import cases
import numpy as np

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.contract import CompressedTile
from bestpixel_gpu.engines.cuda.pool import CudaPool

SMALL = TileLayout(codec="deflate", width=24, height=16, bits=16, predictor=2)
LAYOUTS = [
    SMALL,
    TileLayout(codec="deflate", width=16, height=16, bits=8),
    TileLayout(codec="deflate", width=37, height=9, bits=15),
    TileLayout(codec="none", width=24, height=5, bits=16, predictor=2, byteorder=">"),
    TileLayout(codec="deflate", width=7, height=5, bits=32, kind="f", predictor=3, samples=2, sample=1),
]


class Work:
    """Random tiles, a pool for them, and what must be in it."""

    def __init__(self, device, layouts, seed=0, classes=None):
        rng = np.random.default_rng(seed)
        self.device, self.layouts = device, layouts
        self.pixels = [cases.random_pixels(rng, layout) for layout in layouts]
        if classes:
            self.pixels = [p % classes for p in self.pixels]
        self.tiles = [
            cases.compressed(p, how, i) for i, (p, how) in enumerate(zip(self.pixels, layouts, strict=True))
        ]
        self.slots = [int(s) for s in rng.permutation(len(layouts))]
        self.pool = CudaPool(device, max(layout.decoded_bytes for layout in layouts), len(layouts))

    def damage(self, i):
        data = bytearray(self.tiles[i].data)
        data[len(data) // 2] ^= 0x10
        self.tiles[i] = CompressedTile(i, bytes(data), self.layouts[i])

    def good(self, i):
        """Whether a tile's slot holds its pixels."""
        start, layout = self.slots[i] * self.pool.step, self.layouts[i]
        got = self.device.download(self.pool.data[start : start + layout.decoded_bytes])
        return got.tobytes() == np.ascontiguousarray(self.pixels[i][:, :, layout.sample]).tobytes()

    def load(self, loader, part=slice(None)):
        return loader.load(self.pool, self.slots[part], self.tiles[part])

    def check(self, ticket):
        assert not ticket.wait().any()
        assert all(self.good(i) for i in range(len(self.tiles)))


class FakeNvcomp:
    """Inflates by zlib what lies in device memory; `lies` says how to answer for its n-th payload."""

    def __init__(self, lies=lambda n: None):
        self.lies, self.seen = lies, 0

    def temp_bytes(self, n, max_chunk, max_total, stream=0):
        return 100

    def decompress_async(self, payloads, sizes, rooms, written, n, temp, temp_bytes, outputs, status, stream):
        def array(address, kind):
            return np.ctypeslib.as_array((kind * n).from_address(address))

        assert temp % 16 == 0
        assert temp_bytes == 100
        for i in range(n):
            source, target = (int(array(a, ctypes.c_uint64)[i]) for a in (payloads, outputs))
            assert source % 16 == 0
            room = int(array(rooms, ctypes.c_uint64)[i])
            data = ctypes.string_at(source, int(array(sizes, ctypes.c_uint64)[i]))
            lie, self.seen = self.lies(self.seen), self.seen + 1
            try:
                raw = zlib.decompressobj(-15).decompress(data)[:room]
            except zlib.error:
                raw, lie = b"", lie or "status"
            if lie == "bytes":
                raw = bytes([raw[0] ^ 1]) + raw[1:]
            ctypes.memmove(target, raw, len(raw))
            array(written, ctypes.c_uint64)[i] = len(raw) - (lie == "length")
            array(status, ctypes.c_int32)[i] = 12 if lie == "status" else 0
