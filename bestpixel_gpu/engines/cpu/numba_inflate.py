"""zlib streams inflated by compiled Python, where libdeflate cannot be had.

The position in a stream is one number, the bit `at`. While both ends are far, symbols are decoded
without a look at them, out of a word of bits that is filled up again and again; the last ones are
decoded with every end checked. Formats: RFC 1950 (zlib, Adler-32) and RFC 1951 (DEFLATE); what is
refused is what zlib refuses. Words are read as little-endian.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cpu.jit import inlined, int64, kernel, uint64
from bestpixel_gpu.engines.cpu.native import copy_memory, load_word, start_of, store_word, swap_bytes
from bestpixel_gpu.engines.cpu.prefix_code import (
    BAD,
    BITS,
    DISTANCE_ROOT,
    DISTANCES,
    END,
    LENGTH_ROOT,
    LENGTHS,
    LITERAL,
    LITERAL_ROOT,
    LITERALS,
    SPECIAL,
    Workspace,
    build_table,
    entry_of,
    value_of,
    workspace,
)

OK, CORRUPT = 0, 1

_SHORTEST = 8
"""Bytes of an empty stream: header, ten bits of a block, sum."""

_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int64)
"""Symbols of the code lengths in the order in which their own lengths are stored."""

_FAST_INPUT = 8 + 7
"""Bytes that one turn may look at: a word, and another that begins 7 bytes later at most."""
_FAST_OUTPUT = 2 + 258 + 7
"""Bytes that one turn may write: two literals and a match rounded up to words."""
_COPIED = 2
"""Words of a match that are copied whatever its length: most need no more, and no branch is guessed."""

_ADLER = 65521
_WEIGHTS = np.arange(1024, 0, -1).astype(np.int16)
"""What the bytes of a block count in the second sum, which fits 31 bits; 16-bit factors are the fastest."""


@inlined
def _window(source: int, n_in: int, at: int) -> Any:
    """The bits from `at` on, at least 57 of them, zeros beyond the end; `n_in` is 8 or more."""
    beyond = (at >> 3) - (n_in - 8)
    if beyond <= 0:
        word = load_word(source + (at >> 3))
    elif beyond < 8:
        word = load_word(source + n_in - 8) >> uint64(8 * beyond)
    else:
        word = uint64(0)
    return word >> uint64(at & 7)


@inlined
def _fixed_code(work: Workspace) -> None:
    """Tables of the code that the format itself names."""
    lengths = work.lengths
    lengths[:144] = 8
    lengths[144:256] = 9
    lengths[256:280] = 7
    lengths[280:288] = 8
    lengths[288:] = 5
    build_table(lengths[:288], LITERALS, LITERAL_ROOT, work.literals, work)
    build_table(lengths[288:], DISTANCES, DISTANCE_ROOT, work.distances, work)


@inlined
def _dynamic_code(source: int, n_in: int, at: int, work: Workspace) -> int:
    """Tables of the code that is stored at `at`; the bit after it, -1 where it is none."""
    word = int64(_window(source, n_in, at))
    n_literals, n_distances, n_lengths = 257 + (word & 31), 1 + (word >> 5 & 31), 4 + (word >> 10 & 15)
    n = n_literals + n_distances
    if n_literals > 286 or n_distances > 30:
        return -1
    lengths = work.lengths
    lengths[:19] = 0
    word = int64(_window(source, n_in, at + 14))
    for i in range(n_lengths):
        lengths[_ORDER[i]] = word >> (3 * i) & 7
    at += 14 + 3 * n_lengths
    if not build_table(lengths[:19], LENGTHS, LENGTH_ROOT, work.literals, work):
        return -1
    done = 0
    while done < n:
        word = int64(_window(source, n_in, at))
        entry = int64(work.literals[word & 127])
        at += entry & BITS
        word >>= entry & BITS
        symbol = entry >> 16
        if symbol < 16:
            lengths[done] = symbol
            done += 1
            continue
        value, run, extra = 0, 3 + (word & 7), 3
        if symbol == 16:
            if not done:
                return -1
            value, run, extra = int64(lengths[done - 1]), 3 + (word & 3), 2
        elif symbol == 18:
            run, extra = 11 + (word & 127), 7
        at += extra
        if done + run > n:
            return -1
        lengths[done : done + run] = value
        done += run
    if not (
        build_table(lengths[:n_literals], LITERALS, LITERAL_ROOT, work.literals, work)
        and build_table(lengths[n_literals:n], DISTANCES, DISTANCE_ROOT, work.distances, work)
    ):
        return -1
    return at


@inlined
def _last_symbols(source: int, n_in: int, at: int, target: Any, done: int, work: Workspace) -> Any:
    """Decode symbols of which each may be the last: (bit after them, bytes done), bit -1 if broken."""
    literals, distances = start_of(work.literals), start_of(work.distances)
    while at <= 8 * n_in:
        word = _window(source, n_in, at)
        entry = entry_of(literals, LITERAL_ROOT, word)
        if entry & uint64(BAD):
            break
        at += int64(entry & uint64(BITS))
        if entry & uint64(END):
            return at, done
        if entry & uint64(LITERAL):
            if done >= target.size:
                break
            target[done] = entry >> uint64(16)
            done += 1
            continue
        length = value_of(entry, word)
        word >>= entry & uint64(BITS)
        entry = entry_of(distances, DISTANCE_ROOT, word)
        distance = value_of(entry, word)
        if entry & uint64(BAD) or distance > done or length > target.size - done:
            break
        at += int64(entry & uint64(BITS))
        for i in range(done, done + length):
            target[i] = target[i - distance]
        done += length
    return -1, done


@inlined
def _repeat(start: int, done: int, distance: int, length: int) -> None:
    """Append bytes that stand `distance` before the end; what a match of 258 may write, this may."""
    out = start + done
    end = out + length
    if distance >= 8:
        for _ in range(_COPIED):
            store_word(out, load_word(out - distance))
            out += 8
        while out < end:
            store_word(out, load_word(out - distance))
            out += 8
    elif distance == 1:
        word = (load_word(out - 1) & uint64(255)) * uint64(0x0101010101010101)
        while out < end:
            store_word(out, word)
            out += 8
    else:
        while out < end:  # the words overlap: `distance` bytes of each are right
            store_word(out, load_word(out - distance))
            out += distance


@inlined
def _filled(source: int, byte: int, word: Any, held: Any) -> Any:
    """Fill up the bits ahead: (byte to go on with, word, how many of its bits count, 56 or more).

    Where to load does not hang on the symbol before, as the bit `at` would. Bits beyond those that
    count are right as well and come in again.
    """
    more = int64((uint64(63) - held) >> uint64(3))
    return byte + more, word | load_word(source + byte) << held, held | uint64(56)


@inlined
def _symbols(source: int, n_in: int, at: int, target: Any, done: int, work: Workspace) -> Any:
    """Decode one block's symbols: (bit after them, bytes done), bit -1 where they are broken."""
    literals, distances, out = start_of(work.literals), start_of(work.distances), start_of(target)
    start = target.ctypes.data
    last_byte, last_done = n_in - _FAST_INPUT, target.size - _FAST_OUTPUT
    root = uint64((1 << LITERAL_ROOT) - 1)
    byte, word, held = (at >> 3) + 7, _window(source, n_in, at), uint64(56 - (at & 7))
    while byte <= last_byte and done <= last_done:
        byte, word, held = _filled(source, byte, word, held)
        for _ in range(3):
            entry = uint64(literals[word & root])
            if not entry & uint64(LITERAL):
                break
            word >>= entry & uint64(BITS)
            held -= entry & uint64(BITS)
            out[done] = entry >> uint64(16)
            done += 1
        else:
            continue
        byte, word, held = _filled(source, byte, word, held)
        if entry & uint64(SPECIAL):
            entry = entry_of(literals, LITERAL_ROOT, word)
            if entry & uint64(BAD):
                return -1, done
            if entry & uint64(END):
                return 8 * byte - int64(held - (entry & uint64(BITS))), done
            if entry & uint64(LITERAL):
                word >>= entry & uint64(BITS)
                held -= entry & uint64(BITS)
                out[done] = entry >> uint64(16)
                done += 1
                continue
        length = value_of(entry, word)
        word >>= entry & uint64(BITS)
        held -= entry & uint64(BITS)
        entry = entry_of(distances, DISTANCE_ROOT, word)
        distance = value_of(entry, word)
        if entry & uint64(BAD) or distance > done:
            return -1, done
        word >>= entry & uint64(BITS)
        held -= entry & uint64(BITS)
        _repeat(start, done, distance, length)
        done += length
    return _last_symbols(source, n_in, 8 * byte - int64(held), target, done, work)


@inlined
def _stored(source: int, n_in: int, at: int, target: Any, done: int) -> Any:
    """Copy a block without a code: (bit after it, bytes done), bit -1 where it is broken."""
    byte = (at + 7) >> 3
    word = int64(_window(source, n_in, 8 * byte) & uint64(0xFFFFFFFF))
    size, byte = word & 0xFFFF, byte + 4
    if word >> 16 != size ^ 0xFFFF or size > n_in - byte or size > target.size - done:
        return -1, done
    copy_memory(source + byte, target.ctypes.data + done, size)
    return 8 * (byte + size), done + size


@inlined
def _adler(data: Any) -> Any:
    """Adler-32 of bytes."""
    low, high = uint64(1), uint64(0)
    for start in range(0, data.size, _WEIGHTS.size):
        block = data[start : start + _WEIGHTS.size]
        weights = _WEIGHTS[_WEIGHTS.size - block.size :]
        total, weighed = np.int32(0), np.int32(0)
        for i in range(block.size):
            value = np.int32(block[i])
            total = np.int32(total + value)
            weighed = np.int32(weighed + np.int32(np.int32(weights[i]) * value))
        high = (high + low * uint64(block.size) + uint64(weighed)) % uint64(_ADLER)
        low = (low + uint64(total)) % uint64(_ADLER)
    return high << uint64(16) | low


@kernel
def inflate(source: int, n_in: int, target: Any, work: Workspace) -> int:
    """:data:`OK` if a zlib stream yields exactly the bytes of `target`, else :data:`CORRUPT`.

    Nothing outside the stream is read and nothing outside `target` written, whatever the bytes are.

    Parameters
    ----------
    source, n_in : int
        Address and length of the stream; what follows its end is ignored.
    target : uint8, (bytes,), out
        Of no meaning where the stream is corrupt.
    work : Workspace
        Used by one thread at a time.
    """
    if n_in < _SHORTEST:
        return CORRUPT
    head = int64(_window(source, n_in, 0) & uint64(0xFFFF))
    method, flags = head & 255, head >> 8
    if method & 15 != 8 or method >> 4 > 7 or (method << 8 | flags) % 31 or flags & 32:
        return CORRUPT
    at, done, final, fixed = 16, 0, False, False
    while not final:
        word = int64(_window(source, n_in, at) & uint64(7))
        final, kind = bool(word & 1), word >> 1
        at += 3
        if kind == 0:
            at, done = _stored(source, n_in, at, target, done)
        elif kind == 3:
            at = -1
        else:
            if kind == 2:
                at = _dynamic_code(source, n_in, at, work)
            elif not fixed:
                _fixed_code(work)
            fixed = kind == 1
            if at >= 0:
                at, done = _symbols(source, n_in, at, target, done, work)
        if at < 0:
            return CORRUPT
    byte = (at + 7) >> 3
    if done != target.size or byte > n_in - 4:
        return CORRUPT
    stored = swap_bytes(np.uint32(_window(source, n_in, 8 * byte)))
    return OK if uint64(stored) == _adler(target) else CORRUPT


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.work = workspace()


_of_thread = _OfThread()


def inflate_bytes(data: Any, size: int) -> NDArray[np.uint8] | None:
    """The `size` bytes of a stream, ``None`` where it does not yield exactly them."""
    stream = np.frombuffer(data, np.uint8)
    out = np.empty(size, np.uint8)
    address = stream.__array_interface__["data"][0]
    return out if inflate(address, stream.size, out, _of_thread.work) == OK else None
