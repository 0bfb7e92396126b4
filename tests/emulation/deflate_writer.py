"""Deflate streams written code by code, with prefix codes no compressor would choose, or that none may."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
LENGTHS_CODE = (4,) * 13 + (5,) * 6  # a complete code of all 19 symbols of code lengths
FIXED = ([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, [5] * 32)

Token = int | tuple[int, int]
"""A literal, or the length and distance of a match."""


class Bits:
    """Bits in the order of a deflate stream."""

    def __init__(self) -> None:
        self.value = self.n = 0

    def put(self, value: int, n: int) -> None:
        self.value |= value << self.n
        self.n += n

    def getvalue(self) -> bytes:
        return self.value.to_bytes((self.n + 7) // 8, "little")


def codes(lengths: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Bits of each symbol's code, as `Bits.put` takes them (RFC 1951, 3.2.2)."""
    code, out = 0, {}
    for length in range(1, 16):
        for symbol in (s for s, n in enumerate(lengths) if n == length):
            out[symbol] = int(f"{code & (1 << length) - 1:0{length}b}"[::-1], 2), length
            code += 1
        code <<= 1
    return out


def _bases(first: int, steps: int, n: int) -> list[tuple[int, int]]:
    """Smallest value and extra bits of n slots, twice as wide every `steps` (RFC 1951, 3.2.5)."""
    slots = []
    for i in range(n):
        extra = max(0, i // steps - 1)
        slots.append((first, extra))
        first += 1 << extra
    return slots


LENGTHS = [*_bases(3, 4, 28), (258, 0)]
DISTANCES = _bases(1, 2, 32)  # the last two are reserved


def _put(bits: Bits, value: int, slots: list[tuple[int, int]], symbols: dict[int, tuple[int, int]]) -> None:
    i = max(i for i, (base, _) in enumerate(slots) if base <= value)
    bits.put(*symbols[i])
    bits.put(value - slots[i][0], slots[i][1])


def put_tokens(
    bits: Bits, tokens: Sequence[Token], literals: Sequence[int], distances: Sequence[int]
) -> None:
    literal_codes, distance_codes = codes(literals), codes(distances)
    length_codes = {s - 257: code for s, code in literal_codes.items()}
    for token in tokens:
        if isinstance(token, int):
            bits.put(*literal_codes[token])
        else:
            _put(bits, token[0], LENGTHS, length_codes)
            _put(bits, token[1], DISTANCES, distance_codes)


def fixed(tokens: Sequence[Token], last: bool = True) -> bytes:
    """A raw stream of one fixed block; the end of the block is a token, 256."""
    bits = Bits()
    bits.put(last | 1 << 1, 3)
    put_tokens(bits, tokens, *FIXED)
    return bits.getvalue()


def dynamic(
    literals: Sequence[int],
    distances: Sequence[int],
    tokens: Sequence[Token] = (),
    run_symbols: Sequence[tuple[int, int]] | None = None,
    tail: tuple[int, int] = (0, 0),
    lengths_code: Sequence[int] = LENGTHS_CODE,
    before: Sequence[Token] = (),
) -> bytes:
    """A raw stream of one dynamic block, with the code lengths given.

    `run_symbols`: symbols of the code lengths with their extra value, instead of one by one;
    `tail`: bits after the tokens, and how many; `lengths_code`: code lengths of those symbols;
    `before`: tokens of a fixed block in front.
    """
    bits = Bits()
    if before:
        bits.put(1 << 1, 3)
        put_tokens(bits, [*before, 256], *FIXED)
    bits.put(1 | 2 << 1, 3)
    bits.put(len(literals) - 257, 5)
    bits.put(len(distances) - 1, 5)
    bits.put(15, 4)
    for symbol in ORDER:
        bits.put(lengths_code[symbol], 3)
    length_codes = codes(lengths_code)
    for symbol, extra in run_symbols or [(n, 0) for n in (*literals, *distances)]:
        bits.put(*length_codes[symbol])
        bits.put(extra, {16: 2, 17: 3, 18: 7}.get(symbol, 0))
    put_tokens(bits, tokens, literals, distances)
    bits.put(*tail)
    return bits.getvalue()


def runs(rng: np.random.Generator, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Symbols of code lengths, with repeats wherever one fits, or not."""
    out, i = [], 0
    while i < len(lengths):
        n = 1
        while i + n < len(lengths) and lengths[i + n] == lengths[i]:
            n += 1
        if lengths[i] == 0 and n >= 11 and rng.random() < 0.8:
            n = min(n, 138)
            out.append((18, n - 11))
        elif lengths[i] == 0 and n >= 3 and rng.random() < 0.8:
            n = min(n, 10)
            out.append((17, n - 3))
        elif i and lengths[i] == lengths[i - 1] and n >= 3 and rng.random() < 0.8:
            n = min(n, 6)
            out.append((16, n - 3))
        else:
            n = 1
            out.append((lengths[i], 0))
        i += n
    return out


def random_code(rng: np.random.Generator, symbols: Sequence[int], n: int) -> list[int]:
    """A complete code of `symbols` out of n, some of it as long as 15 bits."""
    leaves = [0]
    while len(leaves) < len(symbols):
        open_leaves = [i for i, length in enumerate(leaves) if length < 15]
        i = open_leaves[-1] if rng.random() < 0.5 else int(rng.choice(open_leaves))
        leaves[i] += 1
        leaves.append(leaves[i])
    lengths = [0] * n
    for symbol, length in zip(rng.permutation(np.asarray(symbols)), leaves, strict=True):
        lengths[int(symbol)] = max(1, length)  # a lone code has one bit
    return lengths


def random_dynamic(rng: np.random.Generator) -> bytes:
    """A dynamic block of random codes and tokens; in every third stream one code length is wrong."""
    used = sorted({*rng.integers(0, 256, int(rng.integers(1, 150))).tolist()})
    lengths = sorted({*rng.integers(0, 29, int(rng.integers(0, 12))).tolist()})
    n_distances = int(rng.integers(1, 31))
    slots = sorted({*rng.integers(0, n_distances, int(rng.integers(bool(lengths), 20))).tolist()})
    symbols = [*used, 256, *(257 + i for i in lengths)]
    literals = random_code(rng, symbols, int(rng.integers(symbols[-1] + 1, 287)))
    distances = random_code(rng, slots, n_distances) if slots else [0] * n_distances
    tokens: list[Token] = []
    size = 0
    for _ in range(int(rng.integers(0, 120))):
        tokens.append(used[int(rng.integers(0, len(used)))])
        if lengths and rng.random() < 0.5:
            distance = DISTANCES[int(rng.choice(slots))][0]
            if distance <= size + (rng.random() < 0.02):  # now and then one too far
                tokens[-1] = LENGTHS[int(rng.choice(lengths))][0], distance
        size += 1 if isinstance(tokens[-1], int) else tokens[-1][0]
    if (damage := int(rng.integers(0, 6))) >= 2:
        return dynamic(literals, distances, [*tokens, 256], runs(rng, literals + distances)) + rng.bytes(8)
    wrong = distances if damage else literals
    wrong[int(rng.integers(0, len(wrong)))] = int(rng.integers(0, 16))
    return dynamic(literals, distances, run_symbols=runs(rng, literals + distances)) + rng.bytes(200)
