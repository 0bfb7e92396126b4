"""Memory for bodies: pieces never overlap, come back, and are given back to the system."""

import gc
import threading

import numpy as np
import pytest

from bestpixel_gpu.transfer.buffers import KEPT_BYTES, PIECE, SLAB_BYTES, Buffers, Slab

BODY = 300_000


def address(view) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data


def test_a_piece_comes_back_when_its_last_view_is_gone():
    pool = Buffers()
    view = pool.take(BODY)
    assert (len(view), view.readonly) == (BODY, False)
    assert 0 <= pool.in_use - BODY < PIECE
    part = view.toreadonly()[5:10]
    place = address(view)
    del view
    gc.collect()
    assert pool.in_use >= BODY, "a part of it is in use"
    del part
    gc.collect()
    assert (pool.in_use, pool.held) == (0, SLAB_BYTES)
    assert address(pool.take(2 * BODY)) == place


def test_what_lies_ready_is_bounded():
    pool = Buffers()
    views = [pool.take(SLAB_BYTES // 2 + 1) for _ in range(5)]
    assert pool.held == 5 * SLAB_BYTES, "no two go into one slab"
    views.append(pool.take(KEPT_BYTES + 1))
    assert pool.held > 7 * SLAB_BYTES
    del views
    gc.collect()
    assert pool.held == KEPT_BYTES
    pool.clear()
    assert pool.held == 0


def test_small_bodies_are_the_allocators():
    pool = Buffers()
    view = pool.take(100)
    assert (len(view), len(pool.take(0)), pool.held) == (100, 0, 0)


def test_what_is_in_use_outlives_its_buffers():
    pool = Buffers()
    view = pool.take(BODY)
    view[:] = bytes(BODY - 1) + b"x"
    pool.clear()
    del pool
    gc.collect()
    assert view[-1] == ord("x")


def test_nobody_waits_for_the_lock():
    """As in a child forked while another thread held it, or in a garbage collection amid of a call."""
    pool = Buffers()
    held = pool.take(BODY)
    with pool._lock:
        assert len(pool.take(BODY)) == BODY
        del held
        gc.collect()
        assert pool.in_use >= BODY
    again = pool.take(BODY)
    assert 0 <= pool.in_use - BODY < PIECE, "what came back meanwhile was looked at"
    del again


def test_threads_get_memory_of_their_own():
    pool = Buffers()
    wrong: list[int] = []

    def work(mark: int) -> None:
        rng = np.random.default_rng(mark)
        mine: list[tuple[int, memoryview]] = []
        for n in range(300):
            array = np.frombuffer(pool.take(int(rng.integers(1 << 16, 1 << 20))), np.uint8)
            array[[0, -1]] = value = (mark * 50 + n) % 251
            mine.append((value, array.data))
            if len(mine) > 4:
                value, view = mine.pop(int(rng.integers(len(mine))))
                wrong.extend(b for b in (view[0], view[-1]) if b != value)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not wrong
    pool.take(BODY).release()  # looks at what came back while the lock was taken
    gc.collect()
    assert pool.in_use == 0


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_a_slab_against_a_map_of_its_bytes(seed, lowest):
    rng = np.random.default_rng(seed)
    slab, used, out = Slab(np.zeros(1000, np.uint8)), np.zeros(1000, np.bool_), []
    last, refused = 0, 0
    for _ in range(2000):
        size = int(rng.integers(1, 200))
        if out and rng.random() < 0.5:
            piece = out.pop(int(rng.integers(len(out))))
            used[piece] = False
            slab.take_back(piece)
        else:
            edges = np.flatnonzero(np.diff(np.concatenate([[True], used, [True]])))
            free = sorted(zip(edges[::2], edges[1::2], strict=True), key=lambda room: room[1] <= last)
            start = next((start for start, end in free if end - start >= size), None)
            piece = slab.take(size, lowest=lowest)
            if start is None:
                assert piece is None
                refused += 1
                continue
            assert piece == slice(start, start + size), (
                "behind the last one or, else or if asked, from the start on"
            )
            used[piece], last = True, 0 if lowest else piece.stop
            out.append(piece)
        assert slab.unused == (not out)
        assert slab.in_use == used.sum()
    assert refused > 20
    for piece in out:
        slab.take_back(piece)
    assert slab.unused
    assert slab.take(1000) == slice(0, 1000)
