"""Inflated bytes -> native samples of a tile: bits, predictor, byte order, one sample of several."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.engines.cpu.jit import inlined, kernel, uint64
from bestpixel_gpu.engines.cpu.native import (
    SUMMED,
    call_inflate,
    copy_memory,
    load_big_endian,
    start_of,
    sum_blocks,
    swap_bytes,
)

SPARE = 8
"""Bytes that must be readable beyond the end of packed samples."""

OK, CORRUPT = 0, 1


class Packing(NamedTuple):
    """A :class:`TileLayout`, and the part of it that is wanted, as the kernels take them."""

    width: int
    height: int
    rows: int
    cols: int
    bits: int
    signed: int
    samples: int
    sample: int
    predictor: int
    swap: int
    row_bytes: int
    in_place: int
    """The inflated bytes are inflated straight into the slot."""


def packing_of(layout: TileLayout, inside: tuple[int, int] | None = None) -> Packing:
    """Check that a layout can be unpacked, and put it in numbers; `inside` are its rows and columns wanted.

    Raises
    ------
    FormatError
        If the codec is not inflated here, or bits and predictor do not go together.
    """
    layout.check_unpackable()
    rows, cols = inside or (layout.height, layout.width)
    if not (0 < rows <= layout.height and 0 < cols <= layout.width):
        raise ValueError(f"{rows} x {cols} pixels of a tile of {layout.height} x {layout.width}")
    all_wanted = (rows, cols) == (layout.height, layout.width)
    return Packing(
        layout.width,
        layout.height,
        rows,
        cols,
        layout.bits,
        int(layout.kind == "i"),
        layout.samples,
        layout.sample,
        layout.predictor,
        int(layout.byteorder == ">"),
        layout.row_bytes,
        int(all_wanted and layout.in_place),
    )


@inlined
def running_sums(source: Any, target: Any, count: int, size: int) -> None:
    """Sums of `count` unsigned integers of `size` bytes up to each of them; both pointers may be one."""
    blocks = count * size // SUMMED
    total = sum_blocks(source, target, blocks)
    for i in range(blocks * SUMMED // size, count):
        total += uint64(source[i])
        target[i] = total


@inlined
def _unpack_whole(source: Any, target: Any, how: Packing) -> None:
    """8, 16, 32 or 64 bits: byte order, then predictor 2; `source` may be `target`."""
    step = how.samples
    per_row = how.width * step
    for row in range(how.rows):
        values = source[row * per_row + how.sample : (row + 1) * per_row]
        out = target[row * how.width : row * how.width + how.cols]
        if how.predictor == 2:
            total = source.dtype.type(0)
            if how.swap:
                for i in range(how.cols):
                    total += swap_bytes(values[i * step])
                    out[i] = total
            elif step == 1:
                running_sums(start_of(values), start_of(out), how.cols, source.itemsize)
            else:
                for i in range(how.cols):
                    total += values[i * step]
                    out[i] = total
        elif how.swap:
            for i in range(how.cols):
                out[i] = swap_bytes(values[i * step])
        else:
            for i in range(how.cols):
                out[i] = values[i * step]


@inlined
def _unpack_float(source: Any, target: Any, how: Packing) -> None:
    """Predictor 3: byte differences along the row, then the bytes of all values, highest first."""
    size = how.bits // 8
    values = how.width * how.samples
    for row in range(how.rows):
        line = source[row * how.row_bytes : (row + 1) * how.row_bytes]
        for i in range(how.samples, how.row_bytes):
            line[i] += line[i - how.samples]
        out = target[row * how.width : row * how.width + how.cols]
        for i in range(how.cols):
            at = i * how.samples + how.sample
            value = uint64(0)
            for plane in range(size):
                value = (value << uint64(8)) | uint64(line[plane * values + at])
            out[i] = target.dtype.type(value)


@inlined
def _unpack_bits(source: Any, target: Any, how: Packing) -> None:
    """1..16 bits a sample, highest bit first, rows from a byte's edge."""
    sign = uint64(how.signed) << uint64(how.bits - 1)
    drop = uint64(64 - how.bits)
    start = how.sample * how.bits
    step = how.samples * how.bits
    for row in range(how.rows):
        address = source.ctypes.data + row * how.row_bytes
        out = target[row * how.width : row * how.width + how.cols]
        for i in range(how.cols):
            bit = start + i * step
            word = load_big_endian(address + (bit >> 3)) << uint64(bit & 7)
            out[i] = target.dtype.type(((word >> drop) ^ sign) - sign)


@inlined
def _unpack_15(source: Any, target: Any, how: Packing) -> None:
    """15 bits, one unsigned sample: eight pixels from 15 bytes by two loads."""
    mask = uint64(0x7FFF)
    for row in range(how.rows):
        address = source.ctypes.data + row * how.row_bytes
        out = target[row * how.width : row * how.width + how.cols]
        for group in range(how.cols >> 3):
            left = load_big_endian(address + group * 15)
            right = load_big_endian(address + group * 15 + 7)
            part = out[group * 8 : group * 8 + 8]
            for i in range(4):
                part[i] = np.uint16((left >> uint64(49 - 15 * i)) & mask)
                part[i + 4] = np.uint16((right >> uint64(45 - 15 * i)) & mask)
        for i in range(how.cols & ~7, how.cols):
            word = load_big_endian(address + (i * 15 >> 3)) << uint64(i * 15 & 7)
            out[i] = np.uint16(word >> uint64(49))


@inlined
def _unpack(source: Any, target: Any, how: Packing) -> None:
    """One tile, both sides as bytes."""
    if how.predictor == 3:
        if how.bits == 16:
            _unpack_float(source, target.view(np.uint16), how)
        elif how.bits == 32:
            _unpack_float(source, target.view(np.uint32), how)
        else:
            _unpack_float(source, target.view(np.uint64), how)
    elif how.bits == 8:
        if how.predictor == 2 or not how.in_place:
            _unpack_whole(source, target, how)
    elif how.bits == 16:
        if how.predictor == 2 or how.swap or not how.in_place:
            _unpack_whole(source.view(np.uint16), target.view(np.uint16), how)
    elif how.bits == 32:
        if how.predictor == 2 or how.swap or not how.in_place:
            _unpack_whole(source.view(np.uint32), target.view(np.uint32), how)
    elif how.bits == 64:
        if how.predictor == 2 or how.swap or not how.in_place:
            _unpack_whole(source.view(np.uint64), target.view(np.uint64), how)
    elif how.bits == 15 and how.samples == 1 and not how.signed:
        _unpack_15(source, target.view(np.uint16), how)
    elif how.bits > 8:
        _unpack_bits(source, target.view(np.uint16), how)
    else:
        _unpack_bits(source, target, how)


@kernel
def decode_tiles(
    inflate: int,
    state: int,
    addresses: Any,
    sizes: Any,
    pool: Any,
    starts: Any,
    scratch: Any,
    how: Packing,
    decoded_bytes: int,
    status: Any,
) -> None:
    """Inflate and unpack a batch of tiles of one layout.

    Parameters
    ----------
    inflate, state : int
        Address of ``libdeflate_zlib_decompress`` and of this thread's decompressor; 0 where the
        sources are inflated already and have the right size.
    addresses, sizes : int64, (tiles,)
        Where the stored bytes lie.
    pool : uint8, (bytes,)
    starts : int64, (tiles,)
        First byte of each tile's slot.
    scratch : uint8
        At least the inflated bytes and :data:`SPARE`.
    status : int8, (tiles,), out
    """
    inflated_bytes = how.row_bytes * how.height
    for i in range(addresses.size):
        target = pool[starts[i] : starts[i] + decoded_bytes]
        source = target if how.in_place else scratch[:inflated_bytes]
        if inflate:
            result = call_inflate(inflate, state, addresses[i], sizes[i], source.ctypes.data, inflated_bytes)
            if result != 0:
                status[i] = CORRUPT
                continue
        else:
            copy_memory(addresses[i], source.ctypes.data, inflated_bytes)
        _unpack(source, target, how)
        status[i] = OK
