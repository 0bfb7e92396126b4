"""The emulator against NumPy, and kernels that are wrong on purpose."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from emulator import EmulationError, Module, build, sanitizer_environment

KERNELS = Path(__file__).with_name("emulator_kernels.cu")


@pytest.fixture(scope="module")
def kernels() -> Module:
    return build(KERNELS)


@pytest.mark.parametrize("seed", range(6))
def test_collectives(kernels, seed):
    blocks, threads = 3, 96
    out = np.zeros((blocks * threads, 16), np.uint32)
    kernels.kernel("collectives")((blocks,), (threads,), [out], seed=seed)
    t = np.arange(blocks * threads, dtype=np.uint64)
    v = (t * 2654435761 & 0xFFFFFFFF).astype(np.uint32)
    lane = (t % 32).astype(int)
    warps = v.reshape(-1, 32)

    def source(lanes):
        return v[(t // 32 * 32).astype(int) + lanes]

    def per_warp(values):
        return np.repeat(np.asarray(values).astype(np.uint64) & 0xFFFFFFFF, 32).astype(np.uint32)

    low, high = warps.view(np.int32).min(1).view(np.uint32), warps.max(1)
    bits = np.uint64(1) << np.arange(32, dtype=np.uint64)
    want = [
        source(7),
        source(lane // 8 * 8 + 3),
        source(np.where(lane < 5, lane, lane - 5)),
        source(np.where(lane % 16 + 9 >= 16, lane, lane + 9)),
        source(lane ^ 17),
        per_warp(((warps >> 31).astype(np.uint64) * bits).sum(1)),
        np.array([sum(1 << j for j in range(32) if j % 5 == i % 5) for i in lane], np.uint32),
        np.full(t.size, 2, np.uint32),
        source(np.where(lane < 16, 3, 19)),
        per_warp(warps.sum(1, dtype=np.uint64)),
        per_warp(high ^ low),
        per_warp(np.bitwise_xor.reduce(warps, 1)),
        np.repeat((v & 1).reshape(blocks, threads).sum(1), threads),
        np.repeat([1, 2, 2], threads),
        np.array([_bytes(int(x), int(i)) for i, x in enumerate(v)], np.uint32),
        np.array([_bits(int(x)) for x in v], np.uint32),
    ]
    for k, column in enumerate(want):
        np.testing.assert_array_equal(out[:, k], column, err_msg=f"word {k}")


def _bytes(v: int, t: int) -> int:
    both = v.to_bytes(4, "little") + (~v & 0xFFFFFFFF).to_bytes(4, "little")
    dot = sum(a * b for a, b in zip(both[:4], both[4:], strict=True)) + t
    return int.from_bytes(bytes(both[i] for i in (5, 1, 7, 3)), "little") ^ dot


def _bits(v: int) -> int:
    reverse, inverse = int(f"{v:032b}"[::-1], 2), ~v & 0xFFFFFFFF
    counts = v.bit_count() ^ (32 - v.bit_length()) ^ (v & -v).bit_length()
    return reverse ^ counts ^ ((inverse << 32 | v) >> 11 & 0xFFFFFFFF) ^ (v * 0x12345679 >> 32)


@pytest.mark.parametrize("seed", range(4))
def test_lanes_that_leave_are_not_waited_for(kernels, seed):
    out = np.zeros(32, np.uint32)
    kernels.kernel("leave")((1,), (32,), [out], seed=seed)
    np.testing.assert_array_equal(out, [sum(range(32 - i, 33)) for i in range(32)])


@pytest.mark.parametrize("seed", range(4))
def test_shared_memory_barriers_and_atomics(kernels, seed):
    data = np.random.default_rng(seed).integers(1, 1 << 18, 5000, dtype=np.int32)
    total, low = np.zeros(1, np.int64), np.full(1, 0xFFFFFFFF, np.uint32)
    args = [data, total, low, np.int32(data.size)]
    kernels.kernel("block_sum")((5,), (128,), args, shared_mem=128 * 4, seed=seed)
    assert total[0] == data.sum(dtype=np.int64)
    assert low[0] == data.min()


@pytest.mark.parametrize("seed", [0, 1])
def test_indices_of_three_dimensions(kernels, seed):
    out = np.zeros((24, 30), np.uint32)
    kernels.kernel("indices")((2, 3, 4), (5, 3, 2), [out], seed=seed)
    np.testing.assert_array_equal(out, np.arange(24)[:, None] << 16 | np.arange(30))


def test_one_seed_is_one_run(kernels):
    def outcome(seed):
        out = np.zeros(32, np.int32)
        kernels.kernel("race")((1,), (32,), [out], seed=seed)
        return out.tobytes()

    assert outcome(5) == outcome(5)
    assert len({outcome(seed) for seed in range(8)}) > 1, "no schedule shows the race"


def test_a_lost_update_is_seen(kernels):
    out = np.zeros(1, np.int32)
    kernels.kernel("lost_update")((1,), (32,), [out])
    assert out[0] == 1


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("deadlock", [np.zeros(1, np.int32)], r"deadlock in block \(0,0,0\): 32 of 32 threads"),
        ("mask_without_caller", [np.zeros(32, np.int32)], "leaves the caller out"),
        ("live_lock", [np.zeros(1, np.int32)], "switch limit"),
    ],
)
def test_a_launch_that_cannot_finish_says_so(kernels, name, args, message):
    for seed in range(3):
        with pytest.raises(EmulationError, match=message):
            kernels.kernel(name)((1,), (32,), args, seed=seed, max_switches=10_000)
        test_shared_memory_barriers_and_atomics(kernels, seed)  # and the next launch is whole


def test_a_launch_too_large_is_refused(kernels):
    with pytest.raises(EmulationError, match="bad launch"):
        kernels.kernel("race")((1,), (1025,), [np.zeros(32, np.int32)])


def test_arguments_have_exact_types(kernels):
    with pytest.raises(TypeError, match="numpy scalar"):
        kernels.kernel("beyond_shared")((1,), (1,), [np.zeros(1, np.int32), 0])


def test_launches_from_many_threads_wait_for_each_other(kernels):
    wrong = []

    def work(seed):
        for _ in range(5):
            try:
                test_shared_memory_barriers_and_atomics(kernels, seed)
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ('"beyond_shared")((1,), (32,), [out, np.int32(32)], shared_mem=128)', "heap-buffer-overflow"),
        ('"collectives")((1,), (33,), [out])', "heap-buffer-overflow"),
        ('"misaligned")((1,), (1,), [out, out])', "misaligned address"),
        ('"block_sum")((2,), (64,), [out, out, out, np.int32(32)], shared_mem=256, seed=3)', ""),
    ],
)
def test_sanitizers_see_wrong_addresses(launch, message):
    code = f"""
import sys
sys.path.insert(0, {str(KERNELS.parent)!r})
import numpy as np
from pathlib import Path
from emulator import build
out = np.zeros((32, 16), np.uint32)
build(Path({str(KERNELS)!r}), sanitize=True).kernel({launch}
"""
    command, environment = [sys.executable, "-c", code], sanitizer_environment()
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert message in run.stderr
    assert (run.returncode == 0) == (not message), run.stderr[-2000:]
