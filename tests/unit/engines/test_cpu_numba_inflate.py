"""The inflate in Numba against zlib: the same bytes, or both refuse; nothing beyond either end touched."""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiff_reader import open_raster

from bestpixel_gpu.engines.cpu import numba_inflate
from bestpixel_gpu.engines.cpu.prefix_code import workspace
from bestpixel_gpu.errors import FormatError

if sys.byteorder == "big":
    pytest.skip("the inflate in Numba is for little-endian machines", allow_module_level=True)

GUARD = 64
CAP = 1 << 20
RNG = np.random.default_rng(0)
STRATEGIES = [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def inflated(stream, size):
    """The `size` bytes of a stream, None if it is refused; what lies around them must not change."""
    source = np.frombuffer(bytes(stream), np.uint8)
    room = np.full(size + 2 * GUARD, 0xA5, np.uint8)
    target = room[GUARD : GUARD + size]
    address = source.__array_interface__["data"][0]
    status = numba_inflate.inflate(address, source.size, target, workspace())
    assert (room[:GUARD] == 0xA5).all()
    assert (room[GUARD + size :] == 0xA5).all()
    return target.tobytes() if status == numba_inflate.OK else None


def judged(body):
    """A body without header and sum -> (the stream that a right sum makes of it, bytes, is it whole)."""
    raw = zlib.decompressobj(-15)
    out = b""
    try:
        for i in range(len(body)):  # byte by byte, to have what was written before the fault
            out += raw.decompress(body[i : i + 1])
            if raw.eof or len(out) > CAP:
                break
    except zlib.error:
        pass
    used = body[: i + 1] if body and raw.eof else body
    return b"\x78\x9c" + used + struct.pack(">I", zlib.adler32(out)), out, raw.eof


def assert_as_zlib(body):
    stream, out, whole = judged(body)
    assert inflated(stream, len(out)) == (out if whole else None)
    assert (zlib.decompress(stream) == out) if whole else True
    return whole


def pieces():
    """Bytes of a kind: noise, runs, repeats near and far, few values, differences of a picture."""
    size = st.integers(0, 3000)

    def made(kind, n, seed):
        rng = np.random.default_rng(seed)
        if kind == "noise":
            return rng.bytes(n)
        if kind == "run":
            return bytes([seed % 256]) * n
        if kind == "repeat":
            part = rng.bytes(1 + seed % 40)
            return (part * (n // len(part) + 1))[:n]
        if kind == "few":
            return rng.choice([0, 0, 0, 0, 1, 2, 200], n).astype(np.uint8).tobytes()
        return rng.normal(0, 20, n).astype(np.int16).tobytes()

    kinds = st.sampled_from(["noise", "run", "repeat", "few", "differences"])
    return st.builds(made, kinds, size, st.integers(0, 2**32 - 1))


@settings(max_examples=400)
@given(
    parts=st.lists(pieces(), max_size=8),
    level=st.integers(0, 9),
    wbits=st.integers(9, 15),
    memory=st.integers(1, 9),
    strategy=st.sampled_from(STRATEGIES),
    flush=st.sampled_from([zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]),
    tail=st.binary(max_size=9),
)
def test_whatever_zlib_writes_is_read(parts, level, wbits, memory, strategy, flush, tail):
    packer = zlib.compressobj(level, zlib.DEFLATED, wbits, memory, strategy)
    stream = b"".join(packer.compress(p) + packer.flush(flush) for p in parts) + packer.flush()
    raw = b"".join(parts)
    assert inflated(stream + tail, len(raw)) == raw
    assert inflated(stream, len(raw) + 1) is None
    assert inflated(stream[:-1], len(raw)) is None
    if raw:
        assert inflated(stream, len(raw) - 1) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x",
        bytes(258),
        bytes(259),
        bytes(1_000_000),
        RNG.bytes(200_000),
        (FAR := RNG.bytes(32000)) + FAR,
        b"".join(bytes([i]) * n for n in (1, 2, 3, 9, 257, 258, 259, 260, 1000) for i in range(9)),
        b"".join(RNG.bytes(n) * (700 // n) for n in range(1, 40)),
    ],
    ids=["empty", "byte", "258", "259", "zeros", "noise", "distant", "runs", "repeats"],
)
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_edges_of_the_format(raw, level):
    assert inflated(zlib.compress(raw, level), len(raw)) == raw


def test_headers():
    body = zlib.compress(b"bestpixel")[2:]
    for first in range(256):
        for second in range(256):
            stream = bytes([first, second]) + body
            try:
                want = zlib.decompress(stream)
            except zlib.error:
                want = None
            assert inflated(stream, 9) == want, (first, second)


def test_every_cut_is_refused():
    raw = RNG.normal(0, 3, 500).astype(np.int16).tobytes()
    for level in (0, 1, 9):
        stream = zlib.compress(raw, level)
        assert [inflated(stream[:n], len(raw)) for n in range(len(stream))] == [None] * len(stream)


def test_the_sum_is_compared():
    raw = b"\xff" * 70_001  # the largest sums
    stream = bytearray(zlib.compress(raw))
    assert inflated(stream, len(raw)) == raw
    for i in range(1, 5):
        broken = bytearray(stream)
        broken[-i] ^= 1 << i
        assert inflated(broken, len(raw)) is None


class Bits:
    """Bits put one after the other as DEFLATE does."""

    def __init__(self):
        self.value, self.count = 0, 0

    def add(self, value, count):
        self.value |= value << self.count
        self.count += count
        return self

    def code(self, value, count):
        """A code, its highest bit first."""
        return self.add(int(f"{value:0{count}b}"[::-1], 2), count)

    def bytes(self):
        return self.value.to_bytes((self.count + 7) // 8, "little")


def dynamic(bits, symbols, n_literals, n_distances, of_lengths):
    """Header of a dynamic block: (symbol, extra value, extra bits) under a code of code lengths."""
    codes, code = {}, 0
    for length in range(1, 8):
        for symbol in (s for s in range(19) if of_lengths.get(s) == length):
            codes[symbol] = code, length
            code += 1
        code <<= 1
    bits.add(1, 1).add(2, 2).add(n_literals - 257, 5).add(n_distances - 1, 5).add(15, 4)
    for symbol in ORDER:
        bits.add(of_lengths.get(symbol, 0), 3)
    for symbol, value, extra in symbols:
        bits.code(*codes[symbol]).add(value, extra)
    return bits


ALL = dict.fromkeys(range(13), 4) | dict.fromkeys(range(13, 19), 5)
"""A complete code for all code lengths."""


def plain(lengths):
    return [(n, 0, 0) for n in lengths]


def literals(**lengths):
    """Code lengths of 257 or more literals, by `s<symbol>`."""
    out = [0] * max(257, *(int(s[1:]) + 1 for s in lengths))
    for symbol, length in lengths.items():
        out[int(symbol[1:])] = length
    return out


def block(lit, dist, payload=(), of_lengths=ALL):
    bits = dynamic(Bits(), plain([*lit, *dist]), len(lit), len(dist), of_lengths)
    for value, count in payload:
        bits.code(value, count)
    return bits.bytes()


AB = literals(s97=2, s98=2, s256=1)  # end 0, a 10, b 11
RUN = literals(s97=2, s256=2, s257=1)  # three bytes 0, a 10, end 11
END, AAAA = [(0, 1)], [(2, 2), (0, 1), (0, 1), (3, 2)]  # in AB; in RUN
CODES = {
    "two literals": (block(AB, [0], [(2, 2), (3, 2), *END]), b"ab", True),
    "one distance of one bit": (block(RUN, [1], AAAA), b"aaaa", True),
    "the place beside it": (block(RUN, [1], [*AAAA[:2], (1, 1), (3, 2)]), b"aaaa", False),
    "no distance at all": (block(RUN, [0], [(2, 2), (3, 2)]), b"a", True),
    "no distance, but used": (block(RUN, [0], AAAA), b"aaaa", False),
    "one distance of two bits": (block(RUN, [2], [(2, 2), (3, 2)]), b"a", False),
    "three distances of one bit": (block(RUN, [1, 1, 1], [(2, 2), (3, 2)]), b"a", False),
    "only an end": (block(literals(s256=1), [0], END), b"", True),
    "only an end, the place beside it": (block(literals(s256=1), [0], [(1, 1)]), b"", False),
    "no end": (block(literals(s97=1, s98=1), [0], [(0, 1)]), b"a", False),
    "literals that leave a place": (block(literals(s97=2, s256=1), [0], END), b"", False),
    "too many literals": (block(literals(s97=1, s98=1, s256=1), [0], END), b"", False),
    "286 literals": (block(literals(s256=1, s285=1), [1], END), b"", True),
    "287 literals": (block(literals(s256=1, s286=1), [1], END), b"", False),
    "30 distances": (block(AB, [0] * 29 + [1], END), b"", True),
    "31 distances": (block(AB, [0] * 30 + [1], END), b"", False),
    "code lengths that leave a place": (block(AB, [0], END, {0: 2, 1: 2, 2: 2}), b"", False),
    "too many code lengths": (block(AB, [0], END, {0: 1, 1: 1, 2: 1}), b"", False),
    "repeat of nothing": (
        dynamic(Bits(), [(16, 3, 2), *plain([0] * 250 + [1]), (0, 0, 0)], 257, 1, ALL).code(0, 1).bytes(),
        b"",
        False,
    ),
    "run over the end": (
        dynamic(Bits(), [*plain([1] + 255 * [0] + [1]), (18, 0, 7)], 257, 10, ALL).code(1, 1).bytes(),
        b"",
        False,
    ),
    "run from literals into distances": (
        dynamic(Bits(), [*plain([0] * 256 + [1, 0]), (18, 18, 7)], 286, 1, ALL).code(0, 1).bytes(),
        b"",
        True,
    ),
    "fixed, symbol 286": (Bits().add(1, 1).add(1, 2).code(0b11000110, 8).code(0, 7).bytes(), b"", False),
    "fixed, distance 30": (
        Bits().add(1, 1).add(1, 2).code(0x30, 8).code(1, 7).code(30, 5).code(0, 7).bytes(),
        b"\0\0\0\0",
        False,
    ),
    "third kind of block": (Bits().add(1, 1).add(3, 2).code(0, 7).bytes(), b"", False),
    "stored, wrong complement": (b"\x01\x02\x00\xfd\xfeab", b"ab", False),
    "stored": (b"\x01\x02\x00\xfd\xffab", b"ab", True),
    "stored nothing": (b"\x00\x00\x00\xff\xff\x01\x00\x00\xff\xff", b"", True),
}
"""Body, what it holds by the most lenient reading, whether it is valid."""


@pytest.mark.parametrize("name", CODES)
def test_rules_of_the_codes(name):
    body, out, whole = CODES[name]
    stream = b"\x78\x9c" + body + struct.pack(">I", zlib.adler32(out))
    if whole:
        assert zlib.decompress(stream) == out
    else:
        with pytest.raises(zlib.error):
            zlib.decompress(stream)
    assert inflated(stream, len(out)) == (out if whole else None)


@pytest.mark.parametrize(
    ("distance", "symbol", "value", "extra"),
    [(1, 0, 0, 0), (2, 1, 0, 0), (385, 17, 0, 7), (32768, 29, 8191, 13)],
)
@pytest.mark.parametrize("after", [0, 600])
@pytest.mark.parametrize("missing", [0, 1])
def test_the_farthest_distance(distance, symbol, value, extra, after, missing):
    """A match from the first byte is read, one from before it refused. zlib writes 32506 at most."""
    before = distance - missing
    raw = RNG.bytes(before)
    bits = Bits().add(1, 1).add(1, 2).code(0b11000101, 8).code(symbol, 5).add(value, extra)
    for _ in range(after):
        bits.code(0x30 + 97, 8)
    size = before.to_bytes(2, "little")
    body = b"\0" + size + bytes(255 - b for b in size) + raw + bits.code(0, 7).bytes()
    out = bytes([0xA5] * missing) + raw
    while len(out) < distance + 258:
        out += out[-distance:]
    out = out[missing : before + missing + 258] + b"a" * after  # as if the guard were part of it
    stream = b"\x78\x9c" + body + struct.pack(">I", zlib.adler32(out))
    assert inflated(stream, len(out)) == (None if missing else out)
    assert assert_as_zlib(body) != missing


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=12),
    st.lists(st.integers(0, 6), max_size=5),
    st.binary(max_size=30),
)
def test_random_codes(few, distances, payload):
    lit = [0] * 257
    lit[256] = few[0]
    lit[97 : 97 + len(few) - 1] = few[1:]
    bits = dynamic(Bits(), plain([*lit, *(distances or [0])]), 257, max(1, len(distances)), ALL)
    assert_as_zlib(bits.add(int.from_bytes(payload, "little"), 8 * len(payload)).bytes())


@settings(max_examples=150)
@given(st.data())
def test_random_complete_codes(data):
    """Codes with all places used, up to 15 bits: sub-tables of every depth, payload at random."""
    rng = random.Random(data.draw(st.integers(0, 2**32)))

    def complete(n):
        lengths = [0]
        while len(lengths) < n:
            i = rng.randrange(len(lengths)) if rng.random() < 0.5 else len(lengths) - 1
            if lengths[i] < 15:
                lengths[i] += 1
                lengths.append(lengths[i])
            elif min(lengths) == 15:
                break
        return lengths

    lit, dist = [0] * 286, [0] * 30
    used = complete(rng.randrange(2, 120))
    places = [256, *rng.sample([*range(256), *range(257, 286)], len(used) - 1)]
    rng.shuffle(used)
    for place, length in zip(places, used, strict=True):
        lit[place] = length
    used = complete(rng.randrange(2, 30))
    for place, length in zip(rng.sample(range(30), len(used)), used, strict=True):
        dist[place] = length
    bits = dynamic(Bits(), plain([*lit, *dist]), 286, 30, ALL)
    payload = rng.randbytes(rng.randrange(200))
    assert_as_zlib(bits.add(int.from_bytes(payload, "little"), 8 * len(payload)).bytes())


def mutated(rng, body):
    """A body with some bits, bytes or pieces changed."""
    out = bytearray(body)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                del out[at : at + rng.randrange(1, 4)]
            case 3:
                out[at:at] = rng.randbytes(rng.randrange(1, 4))
            case 4:
                out[at:] = rng.randbytes(rng.randrange(1, 60))
        if not out:
            break
    return bytes(out)


def test_mutated_streams():
    rng = random.Random(1)
    sources = [
        RNG.normal(0, 20, 400).astype(np.int16).tobytes(),
        b"".join(RNG.bytes(n) * (60 // n) for n in range(1, 20)),
        bytes(900) + RNG.bytes(50),
        RNG.choice([0, 0, 0, 4, 5], 1500).astype(np.uint8).tobytes(),
    ]
    bodies = [
        zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
        for level in (0, 1, 9)
        for strategy in (0, zlib.Z_FIXED, zlib.Z_RLE)
    ]
    whole = 0
    streams = [
        packer.compress(raw) + packer.flush() for raw in sources for packer in (b.copy() for b in bodies)
    ]
    for i in range(6000):
        whole += assert_as_zlib(mutated(rng, streams[i % len(streams)]))
    assert 300 < whole < 5700


def test_noise_is_no_stream():
    rng = random.Random(2)
    for n in range(3000):
        size = rng.randrange(400)
        noise = b"\x78\x9c" * (n % 2) + rng.randbytes(rng.randrange(120))
        assert inflated(noise, size) is None


def fenced(pages):
    """Pages of memory before one that may not be touched: a step over the end is fatal."""
    if not sys.platform.startswith("linux"):
        pytest.skip("fences memory by Linux's mprotect")
    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    memory = np.frombuffer(mmap.mmap(-1, (pages + 1) * page), np.uint8)
    assert libc.mprotect(memory.ctypes.data + pages * page, page, 0) == 0
    return memory[: pages * page]


def test_no_byte_beyond_either_end_is_read_or_written():
    before, after = fenced(3), fenced(3)
    rng, work, outcomes = random.Random(3), workspace(), []
    for i in range(1500):
        values, count = rng.choice([1, 9, 256]), rng.randrange(1, 9000)
        raw = np.random.default_rng(i).integers(0, values, count, dtype=np.uint8)
        packer = zlib.compressobj(i % 10, strategy=STRATEGIES[i // 10 % 5])
        stream = packer.compress(raw.tobytes()) + packer.flush()
        if i % 3:
            stream = (b"\x78\x9c" + mutated(rng, stream[2:]))[: before.size]
        source, target = before[before.size - len(stream) :], after[after.size - raw.size :]
        source[:] = np.frombuffer(stream, np.uint8)
        outcomes.append(numba_inflate.inflate(source.ctypes.data, len(stream), target, work))
        assert i % 3 or (outcomes[-1] == numba_inflate.OK and (target == raw).all())
    assert set(outcomes) == {numba_inflate.OK, numba_inflate.CORRUPT}


def test_the_longest_symbols_are_read_up_to_every_end():
    """Matches of 48 bits, the most there are, drain the bits ahead; the stream is cut behind each byte."""
    memory, work, count = fenced(9), workspace(), 40
    lit = literals(s256=15, s284=15, **{f"s{n}": n + 1 for n in range(14)})
    dist = [*range(1, 15), *[0] * 14, 15, 15]
    bits = dynamic(Bits(), plain([*lit, *dist]), len(lit), len(dist), ALL)
    for _ in range(count):
        bits.code(0x7FFF, 15).add(30, 5).code(0x7FFF, 15).add(8191, 13)
    raw = RNG.bytes(32768)
    out = raw + raw[: 257 * count]
    body = b"\0\x00\x80\xff\x7f" + raw + bits.code(0x7FFE, 15).bytes()
    stream = b"\x78\x9c" + body + struct.pack(">I", zlib.adler32(out))
    assert inflated(stream, len(out)) == zlib.decompress(stream) == out
    target = np.empty(len(out), np.uint8)
    for cut in range(len(stream) - 6 * count, len(stream)):
        source = memory[memory.size - cut :]
        source[:] = np.frombuffer(stream[:cut], np.uint8)
        assert numba_inflate.inflate(source.ctypes.data, cut, target, work) == numba_inflate.CORRUPT


def deflate_tiles(data):
    """(stored bytes, inflated size) of all tiles of a file."""
    for level in open_raster(data)[0].levels:
        if level.layout.codec != "deflate":
            continue
        for index in range(min(level.offsets.size, 2000)):
            offset, count = int(level.offsets[index]), int(level.byte_counts[index])
            if offset and count:
                yield data[offset : offset + count], level.layout.inflated_bytes


def test_real_tiles(shared):
    seen = 0
    files = [*(shared / "data/s2_real").rglob("*.tif"), *(shared / "data/tiff_corpus").glob("*.tif*")]
    for path in files:
        try:
            tiles = list(deflate_tiles(path.read_bytes()))
        except FormatError:
            continue
        for stored, size in tiles:
            stream = zlib.decompressobj()
            try:
                raw = stream.decompress(stored, 1 << 26)
            except zlib.error:
                raw = b""
            whole = stream.eof
            assert inflated(stored, len(raw)) == (raw if whole else None), path.name
            assert (inflated(stored, size) is not None) == (whole and len(raw) == size), path.name
            seen += 1
    assert seen > 500
