"""The engine contract in slow Python integers: one pixel at a time, one rule after the other."""

from __future__ import annotations

import zlib

import numpy as np

from bestpixel_gpu.engines.contract import (
    LOST_SLOT,
    NO_SCORE,
    NODATA,
    NODATA_CODE,
    SPARSE_SLOT,
    TILE_CORRUPT,
    TILE_OK,
    MaskStatistics,
    ScoreRaster,
)
from bestpixel_gpu.geo.pixel_map import OUTSIDE, AxisMap

ONE = 2**32


# ---------------------------------------------------------------- tiles


def inflate(data, size):
    """Exactly `size` bytes of a zlib stream, or None."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(bytes(data))
    except zlib.error:
        return None
    return out if stream.eof and len(out) == size else None


def decode(data, layout):
    """Stored bytes -> (height, width) samples, or None."""
    raw = inflate(data, layout.inflated_bytes) if layout.codec == "deflate" else bytes(data)
    if raw is None or len(raw) != layout.inflated_bytes:
        return None
    rows = np.frombuffer(raw, np.uint8).reshape(layout.height, layout.row_bytes)
    values = layout.width * layout.samples
    if layout.predictor == 3:
        size = layout.bits // 8
        summed = rows.reshape(layout.height, -1, layout.samples).cumsum(1, dtype=np.uint8)
        planes = summed.reshape(layout.height, size, values)
        raw = planes.transpose(0, 2, 1).tobytes()
        out = np.frombuffer(raw, f">{layout.kind}{size}").reshape(layout.height, values)
    elif layout.bits in (8, 16, 32, 64):
        size = layout.bits // 8
        out = rows.copy().view(f"{layout.byteorder}u{size}").astype(f"u{size}")
        if layout.predictor == 2:
            pixels = out.reshape(layout.height, -1, layout.samples)
            out = pixels.cumsum(1, dtype=out.dtype).reshape(layout.height, values)
        out = out.view(layout.dtype)
    else:
        bits = np.unpackbits(rows, axis=1)[:, : values * layout.bits]
        weights = 2 ** np.arange(layout.bits - 1, -1, -1)
        out = bits.reshape(layout.height, values, layout.bits).astype(np.int64) @ weights
        if layout.kind == "i":
            out = np.where(out >= 2 ** (layout.bits - 1), out - 2**layout.bits, out)
    return out.reshape(layout.height, layout.width, layout.samples)[:, :, layout.sample].astype(layout.dtype)


# ---------------------------------------------------------------- positions


def position(positions, row, col):
    """(x, y) of a grid pixel, None if it has no place in the source."""
    if isinstance(positions, AxisMap):
        return int(positions.x[col]), int(positions.y[row])
    step = 2**positions.log2_step
    r, c = row + positions.row0, col + positions.col0
    i, fy = divmod(r, step)
    j, fx = divmod(c, step)
    if step == 1:
        x, y = int(positions.x[i, j]), int(positions.y[i, j])
        return None if OUTSIDE in (x, y) else (x, y)
    out = []
    for nodes in (positions.x, positions.y):
        corners = [[int(nodes[i + a, j + b]) for b in (0, 1)] for a in (0, 1)]
        if OUTSIDE in corners[0] + corners[1]:
            return None
        total = sum(
            corners[a][b] * (fy if a else step - fy) * (fx if b else step - fx)
            for a in (0, 1)
            for b in (0, 1)
        )
        out.append((2 * total + step * step) // (2 * step * step))
    return tuple(out)


def taps(p, bilinear):
    """{pixel: weight > 0} on one axis."""
    if not bilinear:
        return {p // ONE: 1}
    left, rest = divmod(p - ONE // 2, ONE)
    weight = (2 * rest * 32768 + ONE) // (2 * ONE)
    return {i: w for i, w in ((left, 32768 - weight), (left + 1, weight)) if w}


# ---------------------------------------------------------------- masks


def code_of(mask, positions, footprint, row, col):
    """Score code of one output pixel."""
    row0, row1, col0, col1 = mask.window
    place = position(positions, row, col)
    if place is None:
        return NODATA_CODE
    near = place[1] // ONE, place[0] // ONE
    if not (0 <= near[0] < mask.height and 0 <= near[1] < mask.width):
        return NODATA_CODE

    def inside(p, half, size):
        centres = range(max((p - half) // ONE - 2, 0), min((p + half) // ONE + 3, size))
        return [i for i in centres if p - half <= i * ONE + ONE // 2 < p + half]

    pixels = [near]
    if footprint is not None:
        rows = inside(place[1], footprint.half_y, mask.height)
        cols = inside(place[0], footprint.half_x, mask.width)
        pixels = [(i, j) for i in rows for j in cols] or [near]
    return max(
        int(mask.data[i - row0, j - col0]) if row0 <= i < row1 and col0 <= j < col1 else NODATA_CODE
        for i, j in pixels
    )


# ---------------------------------------------------------------- samples


class Sampler:
    """One scene's level, and which of its tiles were asked for."""

    def __init__(self, geometry, rule, pixel=None):
        self.geometry, self.rule, self.pixel = geometry, rule, pixel
        self.touched = set()

    def needed(self, place, margin):
        """Pixels a sample asks for: taps, the nearest pixel, and what lies within the margin."""
        grid = self.geometry.grid
        bilinear = self.rule.bilinear if self.rule else self.geometry.bilinear
        near = place[1] // ONE, place[0] // ONE
        if not (0 <= near[0] < grid.height and 0 <= near[1] < grid.width):
            return set()
        rows = {i for i in taps(place[1], bilinear) if 0 <= i < grid.height} | {near[0]}
        cols = {j for j in taps(place[0], bilinear) if 0 <= j < grid.width} | {near[1]}
        return {
            (a, b)
            for i in rows
            for j in cols
            for a in range(max(i - margin, 0), min(i + margin + 1, grid.height))
            for b in range(max(j - margin, 0), min(j + margin + 1, grid.width))
        }

    def tile(self, i, j):
        grid = self.geometry.grid
        return i // grid.tile_height * grid.tiles_across + j // grid.tile_width

    def valid(self, i, j):
        """The pixel's own value is valid."""
        value = self.pixel(i, j)
        rule = self.rule
        return value is not None and rule.lo <= value <= rule.hi and value != rule.nodata

    def usable(self, i, j):
        """Valid, and nothing invalid around it where the rule erodes."""
        grid = self.geometry.grid
        reach = 2 if self.rule.erode else 0
        return all(
            self.valid(a, b)
            for a in range(max(i - reach, 0), min(i + reach + 1, grid.height))
            for b in range(max(j - reach, 0), min(j + reach + 1, grid.width))
        )

    def sample(self, place, slots):
        """Painted value at a position."""
        rule, grid = self.rule, self.geometry.grid
        needed = self.needed(place, 2 if rule.erode else 0)
        tiles = {self.tile(i, j) for i, j in needed}
        self.touched |= tiles
        if not needed or any(slots[t] == LOST_SLOT for t in tiles):
            return NODATA
        if not self.usable(place[1] // ONE, place[0] // ONE):
            return NODATA
        total = weight = 0
        for i, wy in taps(place[1], rule.bilinear).items():
            for j, wx in taps(place[0], rule.bilinear).items():
                if 0 <= i < grid.height and 0 <= j < grid.width and self.usable(i, j):
                    total += wx * wy * self.pixel(i, j)
                    weight += wx * wy
        value = (total + weight // 2) // weight
        out = (2 * (rule.mul * value + rule.add) + rule.div) // (2 * rule.div)
        return min(max(out, 0), 65534)


class ReferencePool:
    def __init__(self, slot_bytes, n_slots):
        self.slot_bytes, self.n_slots = slot_bytes, n_slots
        self.tiles = {}


class _Done:
    def __init__(self, status):
        self._status = status

    def wait(self):
        return self._status


class ReferenceEngine:
    """Fulfils the contract, slowly."""

    name = "reference"

    def empty(self, shape, dtype, fill=None):
        return np.full(shape, 0 if fill is None else fill, dtype)

    def from_host(self, array):
        return array

    def pool(self, slot_bytes, n_slots):
        return ReferencePool(slot_bytes, n_slots)

    def load(self, pool, slots, tiles):
        status = []
        for slot, tile in zip(slots, tiles, strict=True):
            samples = decode(tile.data, tile.layout)
            pool.tiles[slot] = samples
            status.append(TILE_CORRUPT if samples is None else TILE_OK)
        return _Done(np.array(status, np.int8))

    def classify(self, tiles, grid, window, table, *, nodata, grow=0):
        row0, row1, col0, col1 = window
        data = np.full((row1 - row0, col1 - col0), NODATA_CODE, np.uint8)
        status = []
        for tile in tiles:
            size = tile.layout.dtype.itemsize
            if tile.data is None:
                samples = np.full((tile.layout.height, tile.layout.width), nodata % 256**size)
            else:
                samples = decode(tile.data, tile.layout)
            status.append(TILE_CORRUPT if samples is None else TILE_OK)
            if samples is None:
                continue
            top = tile.index // grid.tiles_across * grid.tile_height
            left = tile.index % grid.tiles_across * grid.tile_width
            for i in range(max(top, row0), min(top + tile.layout.height, row1, grid.height)):
                for j in range(max(left, col0), min(left + tile.layout.width, col1, grid.width)):
                    data[i - row0, j - col0] = table.codes[int(samples[i - top, j - left]) % 256**size]
        if grow:
            hit = np.argwhere(data == NODATA_CODE)
            for i, j in hit:
                data[max(i - grow, 0) : i + grow + 1, max(j - grow, 0) : j + grow + 1] = NODATA_CODE
        return ScoreRaster(window, grid.width, grid.height, data), np.array(status, np.int8)

    def surround(self, mask, rule):
        before = mask.data.copy()
        rows = len(before)
        for i, j in np.argwhere(rule.marked[before]):
            for r in range(max(i - len(rule.reach) + 1, 0), min(i + len(rule.reach), rows)):
                wide = rule.reach[abs(r - i)]
                line = slice(max(j - wide, 0), j + wide + 1)
                mask.data[r, line] = rule.becomes[before[r, line]]

    def resample(self, mask, positions, window, *, footprint=None):
        row0, row1, col0, col1 = window
        codes = [
            [code_of(mask, positions, footprint, r, c) for c in range(col0, col1)] for r in range(row0, row1)
        ]
        return ScoreRaster(window, col1, row1, np.array(codes, np.uint8).reshape(row1 - row0, col1 - col0))

    def statistics(self, mask, positions, window, chunks, table, *, footprint=None, cells=False):
        row0, row1, col0, col1 = window
        rows = [e for e in chunks.row_edges if row0 <= e <= row1]
        cols = [e for e in chunks.col_edges if col0 <= e <= col1]
        shape = len(rows) - 1, len(cols) - 1
        clear, valid = np.zeros((*shape, 32, 32), np.uint32), np.zeros((*shape, 32, 32), np.uint32)

        def cell(offset, size):
            return next(m for m in range(32) if m * size // 32 <= offset < (m + 1) * size // 32)

        for a in range(shape[0]):
            for b in range(shape[1]):
                for r in range(rows[a], rows[a + 1]):
                    for c in range(cols[b], cols[b + 1]):
                        code = code_of(mask, positions, footprint, r, c)
                        at = (
                            a,
                            b,
                            cell(r - rows[a], rows[a + 1] - rows[a]),
                            cell(c - cols[b], cols[b + 1] - cols[b]),
                        )
                        clear[at] += bool(table.clear[code])
                        valid[at] += code != NODATA_CODE
        totals = [x.sum((2, 3), dtype=np.int64) for x in (clear, valid)]
        return MaskStatistics(*totals, *((clear, valid) if cells else ()))

    def rank(self, state, mask, positions, table, key_low, *, footprint=None, chunks=None, barred=None):
        row0, row1, col0, col1 = state.window
        for r in range(row0, row1):
            for c in range(col0, col1):
                score = int(table.scores[code_of(mask, positions, footprint, r, c)])
                if score == NO_SCORE:
                    continue
                at = r - row0, c - col0
                if state.counts is not None:
                    state.counts[at] += 1
                if barred is not None:
                    a = max(i for i, e in enumerate(chunks.row_edges[:-1]) if e <= r)
                    b = max(i for i, e in enumerate(chunks.col_edges[:-1]) if e <= c)
                    if barred[a, b]:
                        continue
                key = score * 2**17 + key_low
                if state.floor is None or key > state.floor[at]:
                    state.keys[at] = min(int(state.keys[at]), key)

    def owners(self, window, winners, geometries):
        row0, _, col0, _ = window
        out = {}
        for rank, geometry in geometries.items():
            sampler, tiles = Sampler(geometry, None), set()
            for r, c in np.argwhere(winners == rank):
                place = position(geometry.positions, r + row0, c + col0)
                if place is not None:
                    tiles |= {sampler.tile(i, j) for i, j in sampler.needed(place, geometry.margin)}
            out[rank] = np.array(sorted(tiles), np.int64)
        return out

    def paint(self, target, window, winners, sources, touched=None):
        row0, _, col0, _ = window
        failed = 0
        for rank, source in sources.items():
            grid = source.geometry.grid

            def pixel(i, j, source=source, grid=grid):
                slot = source.slots[i // grid.tile_height * grid.tiles_across + j // grid.tile_width]
                if slot == SPARSE_SLOT:
                    return None
                return int(source.pool.tiles[slot][i % grid.tile_height, j % grid.tile_width])

            sampler = Sampler(source.geometry, source.rule, pixel)
            for r, c in np.argwhere(winners == rank):
                place = position(source.geometry.positions, r + row0, c + col0)
                value = NODATA if place is None else sampler.sample(place, source.slots)
                target[r, c] = value
                failed += value == NODATA
            if touched is not None:
                touched[rank] = np.array(sorted(sampler.touched), np.int64)
        return failed
