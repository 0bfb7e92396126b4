"""Both inflate kernels and the Adler-32 kernel against zlib, on good and on damaged streams."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import deflate
import numpy as np
import pytest
from deflate_writer import dynamic, fixed, random_code, random_dynamic
from emulator import CUDA, Kernel, build, sanitizer_environment

ZLIB_WRAPPER, VERIFY_ADLER = 1, 2
OK, TRUNCATED, BAD_WRAPPER, BAD_BLOCK, BAD_STORED = range(5)
BAD_LENGTHS, BAD_SYMBOL, BAD_DISTANCE, SLOT_FULL, BAD_ADLER = range(5, 10)
GUARD = 64

# The parallel kernel's sizes: warps of a stream, words of a sub-chunk, bits of look-back, bytes of a
# window. The product's, and small ones that meet every edge: many windows, wrong guesses, matches
# across a window's end.
SHAPES = {
    "warp": None,
    "block": (4, 13, 512, 15360),
    "block 1x5": (1, 5, 64, 1024),
    "block 2x3": (2, 3, 0, 544),
    "block 1x13": (1, 13, 512, 4096),
}


@dataclass(frozen=True)
class Case:
    stream: bytes
    capacity: int
    raw: bool = False

    def by_zlib(self) -> bytes | None:
        """What zlib makes of the stream; None where it refuses it or the slot is too small."""
        decoder = zlib.decompressobj(-15 if self.raw else 15)
        try:
            out = decoder.decompress(self.stream, self.capacity + 1)
            if len(out) <= self.capacity and not decoder.eof:
                out += decoder.flush()
        except zlib.error:
            return None
        return out if decoder.eof and len(out) <= self.capacity else None


class Inflater:
    """One of the kernels, in one shape."""

    def __init__(self, name: str, sanitize: bool = False) -> None:
        self.shape = SHAPES[name]
        if self.shape is None:
            self.kernel = build(CUDA / "inflate.cu", sanitize=sanitize).kernel("inflate_streams")
        else:
            names = ("PAR_WARPS", "SUB_WORDS", "LOOK", "STAGE")
            options = [f"-D{n}={value}" for n, value in zip(names, self.shape, strict=True)]
            module = build(CUDA / "inflate_parallel.cu", sanitize=sanitize, options=options)
            self.kernel = module.kernel("inflate_streams_parallel")

    def __call__(
        self, cases: Sequence[Case], seed: int = 0, flags: int | None = None
    ) -> list[tuple[int, bytes]]:
        """Status and bytes of each case; no byte outside the slots is written."""
        results: list[tuple[int, bytes]] = [(-1, b"")] * len(cases)
        for raw in (False, True):
            chosen = [i for i, c in enumerate(cases) if c.raw == raw]
            wanted = flags if flags is not None else 0 if raw else ZLIB_WRAPPER | VERIFY_ADLER
            for i, result in zip(chosen, self._launch([cases[i] for i in chosen], wanted, seed), strict=True):
                results[i] = result
        return results

    def _launch(self, cases: Sequence[Case], flags: int, seed: int) -> list[tuple[int, bytes]]:
        if not cases:
            return []
        n = len(cases)
        pool, in_off = _spread([c.stream for c in cases])
        in_len = np.array([len(c.stream) for c in cases], np.uint32)
        caps = np.array([c.capacity for c in cases], np.uint32)
        out_off = GUARD + np.cumsum([0, *(c.capacity + GUARD + i % 3 for i, c in enumerate(cases))]).astype(
            np.uint64
        )
        before = np.frombuffer(os.urandom(int(out_off[-1])), np.uint8)
        out, out_len, status = before.copy(), np.zeros(n, np.uint32), np.full(n, -1, np.int32)
        args = [pool, in_off, in_len, out, out_off, caps, out_len, status, np.uint32(n), np.uint32(flags)]
        grid, block = ((n + 3) // 4, 128) if self.shape is None else (n, 32 * self.shape[0])
        self.kernel((grid,), (block,), args, seed=seed, max_switches=10**9)
        outside = np.ones(out.size, bool)
        for at, cap in zip(out_off, caps, strict=False):
            outside[int(at) : int(at) + int(cap)] = False
        assert (out[outside] == before[outside]).all(), "a byte outside the slots was written"
        assert (out_len <= caps).all()
        assert ((status >= OK) & (status <= BAD_ADLER)).all()
        return [
            (int(s), out[int(at) : int(at) + int(size)].tobytes())
            for s, at, size in zip(status, out_off, out_len, strict=False)
        ]

    def check(self, cases: Sequence[Case], seed: int = 0) -> list[int]:
        """Statuses, 0 exactly where zlib accepts, with zlib's bytes."""
        results = self(cases, seed)
        for i, (case, (status, data)) in enumerate(zip(cases, results, strict=True)):
            want = case.by_zlib()
            assert (status == OK) == (want is not None), (i, status, case.capacity, case.stream[:60].hex())
            assert want is None or data == want, (i, len(data), len(want))
        return [status for status, _ in results]


def _spread(streams: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Streams at every alignment with noise between them; the last one ends the array."""
    gaps = np.array([0, *(i % 5 for i in range(len(streams) - 1))])
    ends = np.cumsum(gaps + [len(s) for s in streams])
    pool = np.frombuffer(os.urandom(max(1, int(ends[-1]))), np.uint8).copy()
    starts = [int(end) - len(s) for end, s in zip(ends, streams, strict=True)]
    for at, s in zip(starts, streams, strict=True):
        pool[at : at + len(s)] = np.frombuffer(s, np.uint8)
    return pool, np.array(starts, np.uint64)


@pytest.fixture(scope="module", params=SHAPES)
def inflater(request: pytest.FixtureRequest) -> Inflater:
    return Inflater(request.param)


# ---- streams


def pack(data: bytes, level: int = 6, raw: bool = False, **options: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15 if raw else 15, **options)
    return packer.compress(data) + packer.flush()


def some_bytes(rng: np.random.Generator) -> bytes:
    """Bytes of one of many kinds, up to 100 kB."""
    sizes = [0, 1, 2, 31, 257, 1000, 4096, 20_000, 66_000, 100_000]
    n = int(
        rng.choice(sizes, p=[0.05, 0.05, 0.05, 0.15, 0.2, 0.2, 0.15, 0.1, 0.03, 0.02]) * rng.uniform(0.9, 1)
    )
    words = [rng.bytes(int(rng.integers(1, 9))) for _ in range(50)]
    kinds: list[Callable[[], bytes]] = [
        lambda: rng.bytes(n),
        lambda: b" ".join(words[i] for i in rng.integers(0, 50, n // 3 + 1)),
        lambda: np.diff(np.cumsum(rng.normal(0, 40, n // 2 + 1)).astype(np.int16)).tobytes(),
        lambda: rng.bytes(min(n, 32768)) * 4,  # matches as far back as they go
        lambda: rng.bytes(int(rng.integers(1, 40))) * n,  # matches that overlap themselves
        lambda: rng.geometric(0.02, n).clip(0, 255).astype(np.uint8).tobytes(),
        lambda: np.minimum(rng.geometric(0.5, n), 24).astype(np.uint8).tobytes(),  # codes longer than a table
        lambda: (7 * (rng.random(n) < 0.02)).astype(np.uint8).tobytes(),
    ]
    return kinds[int(rng.integers(0, len(kinds)))]()[:n]


def random_pack(rng: np.random.Generator, data: bytes, raw: bool) -> bytes:
    """Any level, strategy and window; here and there a flush, which makes an empty stored block."""
    strategy = int(rng.choice([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]))
    window = int(rng.integers(9, 16))
    packer = zlib.compressobj(
        int(rng.integers(0, 10)),
        zlib.DEFLATED,
        -window if raw else window,
        int(rng.integers(1, 10)),
        strategy,
    )
    parts, at = [], 0
    while at < len(data) and rng.random() < 0.3:
        step = int(rng.integers(1, len(data) - at + 1))
        how = int(rng.choice([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_BLOCK]))
        parts += [packer.compress(data[at : at + step]), packer.flush(how)]
        at += step
    return b"".join([*parts, packer.compress(data[at:]), packer.flush()])


@cache
def good_cases(seed: int, n: int) -> tuple[Case, ...]:
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(n):
        data, raw = some_bytes(rng), bool(rng.integers(0, 2))
        room = int(rng.choice([0, 0, 1, 100]))
        cases.append(Case(random_pack(rng, data, raw) + rng.bytes(room), len(data) + room, raw))
    return tuple(cases)


@cache
def damaged_cases(seed: int, n: int) -> tuple[Case, ...]:
    rng = np.random.default_rng(seed)
    return tuple(_damaged(rng, bool(rng.integers(0, 2))) for _ in range(n))


def _damaged(rng: np.random.Generator, raw: bool) -> Case:
    data = some_bytes(rng)[:4000]
    stream, capacity, how = bytearray(random_pack(rng, data, raw)), len(data), int(rng.integers(0, 7))
    if how == 0:
        del stream[int(rng.integers(0, len(stream))) :]
    elif how <= 2:  # flipped bits, anywhere or near the head
        for _ in range(int(rng.integers(1, 4))):
            bit = int(rng.integers(0, 8 * (min(len(stream), 60) if how == 2 else len(stream))))
            stream[bit // 8] ^= 1 << bit % 8
    elif how == 3:
        stream = bytearray(rng.bytes(int(rng.integers(0, 300))))
    elif how == 4:
        capacity = int(rng.integers(0, len(data) + 1))
    elif how == 5:  # bytes replaced by others, or by none
        at = int(rng.integers(0, len(stream)))
        stream[at : at + int(rng.integers(1, 20))] = rng.bytes(int(rng.integers(0, 20)))
    else:  # the head of one stream, the tail of another
        other = random_pack(rng, some_bytes(rng)[:4000], raw)
        stream[int(rng.integers(0, len(stream))) :] = other[int(rng.integers(0, len(other))) :]
    return Case(bytes(stream), capacity, raw)


@cache
def tile_arrays(seed: int, size: int = 96) -> dict[str, bytes]:
    """Decoded tiles as archives hold them."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = 1

    def field(power: float) -> np.ndarray:
        noise = np.fft.irfft2(
            (rng.normal(size=f.shape) + 1j * rng.normal(size=f.shape)) / f**power, s=(size, size)
        )
        return noise / noise.std()

    ground = (
        1200 + 260 * field(1.9) + 220 * np.floor(3 * field(2.6)) + 3500 * np.clip(field(3) - 0.6, 0, None)
    )
    tiles = {"classes": np.digitize(field(2.9), [-1, -0.5, 0.1, 0.7]), "one class": np.full((size, size), 4)}
    tiles["blocks"] = np.kron(rng.integers(0, 12, (size // 16, size // 16)), np.ones((16, 16)))
    decoded = {name: tile.astype(np.uint8).tobytes() for name, tile in tiles.items()}
    for noise in (0, 10, 40):
        image = np.clip(ground + rng.normal(size=ground.shape) * noise, 1, 20000).astype(np.uint16)
        decoded[f"predictor 2, noise {noise}"] = np.diff(image, axis=1, prepend=np.uint16(0)).tobytes()
        bits = np.unpackbits(image.astype(">u2").view(np.uint8).reshape(size, -1, 2), axis=2)[:, :, 1:]
        decoded[f"15 bits, noise {noise}"] = np.packbits(bits.reshape(size, -1), axis=1).tobytes()
    return decoded


# ---- tests


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_good_streams(inflater: Inflater, seed: int) -> None:
    statuses = inflater.check(good_cases(seed, 80), seed)
    assert set(statuses) == {OK}


@pytest.mark.parametrize("seed", [0, 3])
def test_damaged_streams_are_refused_as_zlib_refuses_them(inflater: Inflater, seed: int) -> None:
    statuses = inflater.check(damaged_cases(seed, 500), seed)
    assert set(statuses) >= set(range(BAD_DISTANCE)) - {BAD_WRAPPER}
    assert 50 < statuses.count(OK) < 200


@pytest.mark.parametrize("seed", [0, 1])
def test_any_prefix_code(inflater: Inflater, seed: int) -> None:
    rng = np.random.default_rng(seed)
    streams = [random_dynamic(rng) for _ in range(200)]
    statuses = inflater.check([Case(s, 40_000, raw=True) for s in streams], seed)
    assert 100 < statuses.count(OK) < 180
    assert BAD_LENGTHS in statuses


@pytest.mark.parametrize(
    "encoder", ["zlib 1", "zlib 6", "zlib 9", "libdeflate 1", "libdeflate 6", "libdeflate 12"]
)
def test_tiles(inflater: Inflater, encoder: str) -> None:
    name, level = encoder.split()
    packed = zlib.compress if name == "zlib" else deflate.zlib_compress
    cases = [Case(bytes(packed(tile, int(level))), len(tile)) for tile in tile_arrays(1).values()]
    assert set(inflater.check(cases, int(level) % 4)) == {OK}


def test_tiles_of_real_files(inflater: Inflater, shared: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    cases = []
    names = (
        "exe-hls-s30-30m/*/Fmask.tif",
        "exe-hls-s30-30m/*/B04.tif",
        "exe-s2-l2a-20m/*/B02.tif",
        "exe-s2-l2a-20m/*/SCL.tif",
    )
    for name in names:
        path = min((shared / "data/s2_real").glob(name))
        with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
            page = tiff.pages[0]
            for at, size in list(zip(page.dataoffsets, page.databytecounts, strict=True))[:2]:
                file.seek(at)
                stream = file.read(size)
                cases.append(Case(stream, len(zlib.decompress(stream))))
    assert set(inflater.check(cases, seed=1)) == {OK}


def test_every_prefix_is_truncated(inflater: Inflater) -> None:
    data = (b"best pixel " * 20 + bytes(range(256))) * 2
    for raw in (False, True):
        for options in ({"level": 0}, {"level": 1}, {"level": 9}, {"strategy": zlib.Z_FIXED}):
            stream = pack(data, raw=raw, **options)
            cuts = range(0, len(stream), 1 if len(stream) < 600 else 7)
            results = inflater([Case(stream[:n], len(data), raw) for n in cuts])
            assert {status for status, _ in results} == {TRUNCATED}
            assert inflater([Case(stream, len(data), raw)]) == [(OK, data)]


def test_every_capacity_below_the_size_is_full(inflater: Inflater) -> None:
    data = b"abcabcabd" * 30 + bytes(60) + os.urandom(40)
    for level in (0, 9):
        stream = pack(data, level)
        results = inflater([Case(stream, n) for n in range(len(data))])
        assert {status for status, _ in results} == {SLOT_FULL}
        assert all(data.startswith(out) for _, out in results)


@pytest.mark.parametrize("distance", [1, 2, 3, 31, 32, 33, 255, 2048, 32768])
def test_a_distance_may_reach_the_first_byte_and_no_further(inflater: Inflater, distance: int) -> None:
    literals = [i * 7 % 251 for i in range(distance)]
    lengths = [3, 4, 16, 17, 31, 32, 33, 34, 257, 258] if distance < 1000 else [3, 258]
    good = [Case(fixed([*literals, (n, distance), 256]), distance + n, raw=True) for n in lengths]
    bad = [Case(fixed([*literals[1:], (n, distance), 256]), distance + n, raw=True) for n in lengths]
    assert set(inflater.check(good)) == {OK}
    assert set(inflater.check(bad)) == {BAD_DISTANCE}


def faulty(stream: bytes) -> Case:
    """A raw stream that does not end with its fault."""
    return Case(stream + bytes(16), 10, raw=True)


def _broken() -> dict[str, tuple[int, Case]]:
    """One fault each, and the status it has to give."""
    zeros = [0] * 257
    pair = [*zeros[:65], 1, *zeros[66:256], 1]  # "A" and the end of the block, one bit each
    hello = pack(b"hello hello hello")
    dictionary = zlib.compressobj(zdict=b"hello")
    return {
        "no bytes": (TRUNCATED, Case(b"", 10)),
        "no header": (TRUNCATED, Case(b"\x78", 10)),
        "wrong header check": (BAD_WRAPPER, Case(b"\x78\x9d" + hello[2:], 20)),
        "method 7": (BAD_WRAPPER, Case(b"\x77\x85" + hello[2:], 20)),
        "window of 64 KiB": (BAD_WRAPPER, Case(b"\x88\x1c" + hello[2:], 20)),
        "dictionary": (BAD_WRAPPER, Case(dictionary.compress(b"hello") + dictionary.flush(), 20)),
        "block type 3": (BAD_BLOCK, faulty(b"\x07")),
        "stored lengths": (BAD_STORED, faulty(b"\x01\x01\x00\xff\xff")),
        "stored, cut": (TRUNCATED, Case(b"\x01\x05\x00\xfa\xff1234", 10, raw=True)),
        "stored, no room": (SLOT_FULL, Case(b"\x01\x05\x00\xfa\xff12345", 4, raw=True)),
        "no end of block": (BAD_LENGTHS, faulty(dynamic([*zeros[:255], 1, 0], [1]))),
        "too many codes": (BAD_LENGTHS, faulty(dynamic([1, 1, *zeros[2:256], 1], [1]))),
        "too few codes": (BAD_LENGTHS, faulty(dynamic([2, 2, *zeros[2:256], 2], [1]))),
        "one code of two bits": (BAD_LENGTHS, faulty(dynamic([*zeros[:256], 2], [1]))),
        "too many distances": (BAD_LENGTHS, faulty(dynamic(pair, [1, 1, 1]))),
        "one distance of two bits": (BAD_LENGTHS, faulty(dynamic(pair, [2]))),
        "287 literals": (BAD_LENGTHS, faulty(dynamic(pair + [0] * 30, [1]))),
        "31 distances": (BAD_LENGTHS, faulty(dynamic(pair, [1] + [0] * 30))),
        "repeat of nothing": (BAD_LENGTHS, faulty(dynamic(pair, [1], run_symbols=[(16, 0)]))),
        "repeat too far": (BAD_LENGTHS, faulty(dynamic(pair, [1], run_symbols=[(18, 127)] * 2))),
        "repeat one too far": (
            BAD_LENGTHS,
            faulty(dynamic(pair, [1, 0, 0], run_symbols=[*((n, 0) for n in pair), (1, 0), (17, 0)])),
        ),
        "symbol 286": (BAD_SYMBOL, faulty(fixed([65, 286]))),
        "distance symbol 30": (
            BAD_SYMBOL,
            Case(fixed([65, *[(258, 1)] * 130, (3, 32769), 256]) + bytes(16), 40_000, raw=True),
        ),
        "unused code": (BAD_SYMBOL, faulty(dynamic([*zeros[:256], 1], [1], tail=(255, 8)))),
        "distance 0 back": (BAD_DISTANCE, faulty(fixed([(3, 1), 256]))),
        "no room": (SLOT_FULL, Case(hello, 16)),
        "wrong Adler-32": (BAD_ADLER, Case(hello[:-1] + bytes([hello[-1] ^ 1]), 20)),
        "cut Adler-32": (TRUNCATED, Case(hello[:-1], 20)),
    }


@pytest.mark.parametrize("name", _broken())
def test_each_fault_has_its_status(inflater: Inflater, name: str) -> None:
    status, case = _broken()[name]
    assert inflater.check([case]) == [status]


def test_codes_zlib_allows_though_they_are_incomplete(inflater: Inflater) -> None:
    zeros = [0] * 256
    cases = [
        Case(dynamic([*zeros, 1], [0], [256]), 10, raw=True),  # the end of the block alone, no distance
        Case(dynamic([*zeros, 1], [0, 1], [256]), 10, raw=True),
        Case(dynamic([*zeros[:65], 1, *zeros[66:], 2, 2], [1], [65, (3, 1), 65, 256]), 10, raw=True),
    ]
    assert [out for _, out in inflater(cases)] == [b"", b"", b"AAAAA"]
    assert inflater.check(cases) == [OK] * 3


def test_codes_longer_than_the_tables(inflater: Inflater) -> None:
    rng = np.random.default_rng(0)
    literals = random_code(rng, list(range(286)), 286)
    distances = [*range(1, 16), 15]
    assert max(literals) == 15
    tokens = [*range(256), *((n, d) for n in (3, 10, 11, 100, 257, 258) for d in (1, 4, 5, 97, 255)), 256]
    data = zlib.decompress(stream := dynamic(literals, distances, tokens), -15)
    assert inflater.check([Case(stream, len(data), raw=True)]) == [OK]


def test_the_longest_header_at_every_bit(inflater: Inflater) -> None:
    literals, distances = [8] * 226 + [9] * 60, [4] * 2 + [5] * 28
    lengths_code = [1, 2, 3, 4, 7, 7, 5, 0, 7, 7, *[0] * 9]  # 7 bits for each length there is
    tokens = [65, 66, 67, (258, 3), 256]
    befores = [
        [200] * n + [65] * (60 - n) for n in range(64) if n % 16 < 8
    ]  # a literal of 9 bits moves it by one
    streams = [dynamic(literals, distances, tokens, lengths_code=lengths_code, before=b) for b in befores]
    assert set(inflater.check([Case(s, 400, raw=True) for s in streams])) == {OK}


def test_the_adler32_is_verified_on_demand_only(inflater: Inflater) -> None:
    data = b"some bytes" * 50
    stream = pack(data)
    wrong = [stream[:-k] + bytes([stream[-k] ^ 16]) + stream[len(stream) - k + 1 :] for k in (1, 2, 3, 4)]
    cases = [Case(s, len(data)) for s in (stream, *wrong, stream[:-4])]
    assert [s for s, _ in inflater(cases)] == [OK, *[BAD_ADLER] * 4, TRUNCATED]
    assert inflater(cases, flags=ZLIB_WRAPPER) == [(OK, data)] * 6


# ---- Adler-32 alone


def adler32_check(
    decoded: Sequence[bytes], streams: Sequence[bytes], status: Sequence[int], seed: int = 0
) -> list[int]:
    kernel: Kernel = build(CUDA / "adler32.cu").kernel("adler32_check")
    (pool, in_off), (out, out_off) = _spread(streams), _spread(decoded)
    in_len, out_len = (np.array([len(s) for s in x], np.uint32) for x in (streams, decoded))
    result = np.array(status, np.int32)
    n = len(streams)
    kernel((n,), (128,), [pool, in_off, in_len, out, out_off, out_len, result, np.uint32(n)], seed=seed)
    return result.tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_adler32_of_any_size_and_alignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    decoded = [rng.bytes(n) for n in (*range(40), 511, 512, 513, 5551, 5552, 5553, 65521, 100_000)]
    streams = [rng.bytes(n % 9) + zlib.adler32(d).to_bytes(4, "big") for n, d in enumerate(decoded)]
    n = len(streams)
    assert adler32_check(decoded, streams, [OK] * n, seed) == [OK] * n
    wrong = [bytes([*s[:-1], s[-1] ^ 1]) for s in streams]
    assert adler32_check(decoded, wrong, [OK] * n, seed) == [BAD_ADLER] * n
    assert adler32_check(decoded, wrong, [SLOT_FULL] * n, seed) == [SLOT_FULL] * n
    assert adler32_check(decoded[:4], [s[-3:] for s in streams[:4]], [OK] * 4, seed) == [TRUNCATED] * 4


def test_adler32_is_exact_for_the_largest_sums() -> None:
    decoded = b"\xff" * (34 << 20)  # more than one turn of its loop
    assert adler32_check([decoded], [zlib.adler32(decoded).to_bytes(4, "big")], [OK]) == [OK]


# ---- longer, and sanitized


def sanitized_run() -> None:
    """What the subprocess does: streams that end their allocation, one by one, and mixed ones."""
    data = b"best pixel " * 8 + bytes(range(100))
    for name in ("warp", "block", "block 2x3"):
        inflater = Inflater(name, sanitize=True)
        for level in (0, 9):
            stream = pack(data, level)
            for n in range(0, len(stream) + 1, 3):
                inflater.check([Case(stream[:n], len(data))])
        inflater.check([c for c in good_cases(7, 40) if c.capacity < 30_000], seed=1)
        inflater.check(damaged_cases(7, 150), seed=2)
    for seed in (0, 1):
        test_adler32_of_any_size_and_alignment(seed)


def test_sanitizers_find_nothing() -> None:
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); import {Path(__file__).stem} as t; t.sanitized_run()"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    environment = sanitizer_environment()
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_streams(inflater: Inflater, seed: int) -> None:
    inflater.check(good_cases(seed, 150), seed)
    inflater.check(damaged_cases(seed, 600), seed)
    rng = np.random.default_rng(seed)
    inflater.check([Case(random_dynamic(rng), 40_000, raw=True) for _ in range(300)], seed)
