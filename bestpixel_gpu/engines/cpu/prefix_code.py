"""Prefix codes as decoding tables: what the next bits of a DEFLATE stream mean.

The tables and their two levels are the usual ones; the code itself is that of RFC 1951, 3.2.2, and
which sets of lengths make a code is decided as zlib decides it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cpu.jit import inlined, int64, uint64

# A table entry: bits 0..5 the bits it takes, extra bits included; 8..13 those of the code alone, or
# the index bits of a sub-table; 16..31 a literal, a base or where a sub-table starts; and flags.
BITS = 63
LINK, END, BAD, LITERAL = 1 << 6, 1 << 7, 1 << 14, 1 << 15
SPECIAL = LINK | END | BAD
_PER_BIT = 0x101
"""What one bit of code adds to an entry."""

# Bits that index the tables. A full sub-table of s index bits holds at least s + 1 codes. Codes have
# 15 bits at most, so beyond 11 bits a sub-table has at most 16/5 places for each of 288 symbols,
# beyond 8 bits at most 128/8 for each of 32: 4096 and 1024 entries hold root and sub-tables.
LITERAL_ROOT, DISTANCE_ROOT, LENGTH_ROOT = 11, 8, 7


def _entries(extra: NDArray[np.int64], first: int) -> NDArray[np.uint32]:
    """Entries of symbols whose values follow one another, each with its extra bits."""
    base = first + np.concatenate([[0], np.cumsum(1 << extra)[:-1]])
    return (base << 16 | extra).astype(np.uint32)


def _literal_entries() -> NDArray[np.uint32]:
    extra = np.maximum((np.arange(28) - 4) // 4, 0)
    out = np.full(288, BAD, np.uint32)
    out[:256] = np.arange(256) << 16 | LITERAL
    out[256] = END
    out[257:285] = _entries(extra, 3)
    out[285] = 258 << 16
    return out


def _distance_entries() -> NDArray[np.uint32]:
    out = np.full(32, BAD, np.uint32)
    out[:30] = _entries(np.maximum((np.arange(30) - 2) // 2, 0), 1)
    return out


LITERALS = _literal_entries()
DISTANCES = _distance_entries()
LENGTHS = np.arange(19, dtype=np.uint32) << 16
"""Entries of all symbols before the bits of their codes are added."""


class Workspace(NamedTuple):
    """Memory of one thread at work."""

    literals: NDArray[np.uint32]
    distances: NDArray[np.uint32]
    lengths: NDArray[np.uint8]
    """Code lengths, of the literals first."""
    counts: NDArray[np.int64]
    """Codes of each length, then where each length starts in `order`."""
    order: NDArray[np.int64]
    """Symbols by length of code."""


def workspace() -> Workspace:
    """Memory to build and hold the tables of one stream; its content is of no matter."""
    return Workspace(
        np.zeros(4096, np.uint32),
        np.zeros(1024, np.uint32),
        np.zeros(320, np.uint8),
        np.zeros(32, np.int64),
        np.zeros(288, np.int64),
    )


@inlined
def _sort(lengths: Any, work: Workspace) -> Any:
    """Count and sort the symbols by length; places that stay free (negative: too many codes)."""
    counts = work.counts
    counts[:] = 0
    for symbol in range(lengths.size):
        counts[lengths[symbol]] += 1
    counts[0] = 0
    free = 1
    for bits in range(1, 16):
        free = 2 * free - counts[bits]
        if free < 0:
            return -1
        counts[16 + bits] = counts[15 + bits] + counts[bits - 1]
    for symbol in range(lengths.size):
        bits = int64(lengths[symbol])
        if bits:
            work.order[counts[16 + bits]] = symbol
            counts[16 + bits] += 1
    return free


@inlined
def _next(reverse: int, bits: int) -> int:
    """The code after one of `bits` bits, both with their bits in the other order, as streams hold them."""
    bit = 1 << (bits - 1)
    while reverse & bit:
        reverse ^= bit
        bit >>= 1
    return reverse | bit


@inlined
def build_table(lengths: Any, symbols: Any, root: int, table: Any, work: Workspace) -> bool:
    """Decoding table of the canonical code with these lengths; whether there is one.

    As in zlib a code must use all places; but literals and distances may have a single code of one
    bit or none at all.
    """
    free = _sort(lengths, work)
    counts = work.counts
    longest = 15
    while longest and not counts[longest]:
        longest -= 1
    if free < 0 or (free > 0 and (longest > 1 or root == LENGTH_ROOT)):
        return False
    if free:
        table[: 1 << root] = BAD
    reverse, at, start, sub, prefix, end = 0, 0, 0, 0, -1, 1 << root
    for bits in range(1, longest + 1):
        for k in range(counts[bits]):
            entry = int64(symbols[work.order[at]]) + bits * _PER_BIT
            at += 1
            if bits <= root:
                for j in range(reverse, 1 << root, 1 << bits):
                    table[j] = entry
                reverse = _next(reverse, bits)
                continue
            if reverse & ((1 << root) - 1) != prefix:
                prefix = reverse & ((1 << root) - 1)
                sub = bits - root
                room = (1 << sub) - (counts[bits] - k)
                while room > 0:
                    sub += 1
                    room = 2 * room - counts[root + sub]
                start, end = end, end + (1 << sub)
                table[prefix] = start << 16 | sub << 8 | LINK
            for j in range(reverse >> root, 1 << sub, 1 << (bits - root)):
                table[start + j] = entry
            reverse = _next(reverse, bits)
    return True


@inlined
def entry_of(table: Any, root: int, word: Any) -> Any:
    """Entry of the code that `word` begins with."""
    entry = uint64(table[word & uint64((1 << root) - 1)])
    if entry & uint64(LINK):
        mask = (uint64(1) << (entry >> uint64(8) & uint64(BITS))) - uint64(1)
        entry = uint64(table[(entry >> uint64(16)) + (word >> uint64(root) & mask)])
    return entry


@inlined
def value_of(entry: Any, word: Any) -> Any:
    """Base of a length or distance and the extra bits behind its code."""
    mask = (uint64(1) << (entry & uint64(BITS))) - uint64(1)
    return int64((entry >> uint64(16)) + ((word & mask) >> (entry >> uint64(8) & uint64(BITS))))
