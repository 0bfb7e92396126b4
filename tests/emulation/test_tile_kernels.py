"""Unpacking on the emulated device: every layout, in batches of many, against the slow reference."""

from __future__ import annotations

from dataclasses import replace

import cases
import numpy as np
import pytest
import reference
from guarded_device import GuardedDevice

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.cuda import tiles
from bestpixel_gpu.errors import FormatError


def layouts():
    for bits in (*range(1, 8), *range(9, 16)):
        for kind in "ui":
            yield {"bits": bits, "kind": kind}
    for bits in (8, 16, 32, 64):
        for predictor in (1, 2):
            yield {"bits": bits, "kind": "ui"[predictor - 1], "predictor": predictor}
    for bits in (16, 32, 64):
        for predictor in (1, 2, 3):
            yield {"bits": bits, "kind": "f", "predictor": predictor}


LAYOUTS = list(layouts())
SIZES = [(1, 1), (37, 5), (16, 8), (64, 3), (65, 2), (200, 4), (1, 9), (160, 17), (528, 2)]


class Batch:
    """Tiles in one block of inflated bytes and their slots in another, bytes between them."""

    def __init__(self, rng, layouts):
        self.rng, self.layouts = rng, layouts
        self.pixels = [cases.random_pixels(rng, layout) for layout in layouts]
        raw = [cases.encode(p, layout) for p, layout in zip(self.pixels, layouts, strict=True)]
        self.sources, room = [], 0
        for data in raw:
            room += 16 * int(rng.integers(0, 3))
            self.sources.append(room)
            room += -(-len(data) // 16) * 16
        self.inflated = rng.integers(0, 256, room, dtype=np.uint8)
        for start, data in zip(self.sources, raw, strict=True):
            self.inflated[start : start + len(data)] = np.frombuffer(data, np.uint8)
        sizes = [-(-layout.decoded_bytes // 16) * 16 + 16 for layout in layouts]
        self.slots = np.cumsum([16, *sizes[:-1]])
        self.pool = rng.integers(0, 256, sum(sizes) + 16, dtype=np.uint8)

    def inside(self, layout):
        if self.rng.random() < 0.5:
            return None
        return int(self.rng.integers(1, layout.height + 1)), int(self.rng.integers(1, layout.width + 1))

    def run(self, device, in_place):
        """Unpack; each tile's slot as (samples wanted, samples got), and the pool beside the slots."""
        source, pool = device.upload(self.inflated), device.upload(self.pool)
        described, wanted = [], []
        for n, layout in enumerate(self.layouts):
            there = device.address(source) + self.sources[n]
            slot = there if in_place else device.address(pool) + int(self.slots[n])
            wanted.append(self.inside(layout))
            described.append(tiles.describe(layout, there, slot, wanted[n]))
        order = self.rng.permutation(len(described))
        rows = max(tile.rows for tile in described)
        there = device.upload(np.array(described, np.int64)[order])
        tiles.undo(device, there, len(described), rows)
        after = device.download(source if in_place else pool)
        starts = self.sources if in_place else self.slots
        beside = np.ones(after.size, bool)
        for n, (layout, part) in enumerate(zip(self.layouts, wanted, strict=True)):
            beside[starts[n] : starts[n] + layout.decoded_bytes] = False
            got = after[starts[n] :][: layout.decoded_bytes].view(layout.dtype)
            rows, cols = part or (layout.height, layout.width)
            got = got.reshape(layout.height, layout.width)[:rows, :cols]
            want = self.pixels[n][:rows, :cols, layout.sample]
            assert got.tobytes() == np.ascontiguousarray(want).tobytes(), (layout, part)
        before = self.inflated if in_place else self.pool
        np.testing.assert_array_equal(after[beside], before[beside])
        device.check()


def some_layouts(rng, n, choice, samples):
    made = []
    for _ in range(n):
        width, height = SIZES[rng.integers(len(SIZES))]
        count, order = int(rng.choice(samples)), str(rng.choice(["<", ">"]))
        whole = TileLayout(codec="none", width=width, height=height, bits=8, byteorder=order, samples=count)
        made.append(replace(whole, sample=int(rng.integers(count)), **choice[rng.integers(len(choice))]))
    return made


@pytest.mark.parametrize("seed", range(12))
def test_batches_of_any_layouts(seed):
    rng = np.random.default_rng(seed)
    Batch(rng, some_layouts(rng, 16, LAYOUTS, (1, 1, 2, 3))).run(GuardedDevice(seed), in_place=False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda d: f"{d['kind']}{d['bits']}p{d.get('predictor', 1)}")
def test_every_layout(layout):
    rng = np.random.default_rng(layout["bits"])
    whole = [
        TileLayout(
            codec="none",
            width=width,
            height=2,
            byteorder=order,
            samples=samples,
            sample=samples - 1,
            **layout,
        )
        for width in (33, 144)
        for order in "<>"
        for samples in (1, 3)
    ]
    Batch(rng, whole).run(GuardedDevice(), in_place=False)


@pytest.mark.parametrize("seed", range(6))
def test_in_place(seed):
    rng = np.random.default_rng(100 + seed)
    able = [d for d in LAYOUTS if d["bits"] in (8, 16, 32, 64) and d.get("predictor", 1) < 3]
    made = some_layouts(rng, 16, able, (1,))
    assert all(layout.in_place for layout in made)
    Batch(rng, made).run(GuardedDevice(seed), in_place=True)


def test_what_needs_no_work_and_what_needs_room():
    plain = TileLayout(codec="none", width=4, height=4, bits=16)
    assert tiles.is_native(plain)
    assert tiles.is_native(replace(plain, bits=8, byteorder=">"))
    for other in ({"byteorder": ">"}, {"predictor": 2}):
        assert not tiles.is_native(replace(plain, **other))
        assert replace(plain, **other).in_place
    for other in ({"bits": 15}, {"samples": 2}, {"kind": "f", "predictor": 3}):
        assert not replace(plain, **other).in_place


def test_the_reference_reads_what_the_cases_wrote():
    rng = np.random.default_rng(1)
    for layout in some_layouts(rng, 20, LAYOUTS, (1, 3)):
        pixels = cases.random_pixels(rng, layout)
        want = reference.decode(cases.encode(pixels, layout), layout)
        assert want.tobytes() == np.ascontiguousarray(pixels[:, :, layout.sample]).tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codec": "lzw"}, "codec 'lzw'"),
        ({"bits": 24}, "24 bits"),
        ({"predictor": 4}, "predictor 4"),
        ({"bits": 12, "predictor": 2}, "12-bit"),
        ({"predictor": 3}, "floating point"),
    ],
)
def test_layouts_that_are_refused(change, words):
    layout = replace(TileLayout(codec="none", width=4, height=4, bits=16), **change)
    with pytest.raises(FormatError, match=words):
        tiles.describe(layout, 0, 0)


def test_places_that_are_refused():
    layout = TileLayout(codec="none", width=4, height=4, bits=16)
    with pytest.raises(ValueError, match="multiple of 16"):
        tiles.describe(layout, 16, 24)
    with pytest.raises(ValueError, match="5 x 4 pixels"):
        tiles.describe(layout, 16, 32, (5, 4))


def test_no_tiles():
    device = GuardedDevice()
    tiles.undo(device, device.upload(np.empty((0, 12), np.int64)), 0, 0)
    device.check()
