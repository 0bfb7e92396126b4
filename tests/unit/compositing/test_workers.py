"""Work on threads: what comes back to the loop, what is cancelled, and how many threads there are."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from bestpixel_gpu.compositing import workers as workers_module
from bestpixel_gpu.compositing.workers import Workers


def test_results_come_back_to_those_who_asked() -> None:
    async def run() -> list[int]:
        workers = Workers(3)
        try:
            return await asyncio.gather(*(workers.run(pow, n, 2) for n in range(500)))
        finally:
            workers.close()

    assert asyncio.run(run()) == [n * n for n in range(500)]


def test_an_error_is_raised_where_it_was_asked_for_and_nowhere_else() -> None:
    async def run() -> list[object]:
        workers = Workers(1)
        try:
            return await asyncio.gather(*(workers.run(int, t) for t in "1x3"), return_exceptions=True)
        finally:
            workers.close()

    one, error, three = asyncio.run(run())
    assert (one, three) == (1, 3)
    assert isinstance(error, ValueError)


def test_a_thread_that_gave_itself_back_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "LINGER_S", 0.001)

    async def run() -> None:
        workers = Workers(2)
        for n in range(300):
            assert await asyncio.wait_for(workers.run(abs, -n), 5) == n
            await asyncio.sleep(n % 10 / 3000)
        await asyncio.sleep(0.05)
        assert workers._at_work == 0
        workers.close()

    asyncio.run(run())


def test_there_are_as_many_threads_as_allowed_and_no_more() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    async def run() -> None:
        workers = Workers(3)
        await asyncio.gather(*(workers.run(work) for _ in range(12)))
        workers.close()

    asyncio.run(run())
    assert most == 3


def test_a_result_does_not_wait_for_the_next_piece() -> None:
    go = threading.Event()

    async def run() -> None:
        workers = Workers(1)
        first, second = (asyncio.ensure_future(workers.run(w)) for w in (int, go.wait))
        assert await asyncio.wait_for(first, 5) == 0
        assert not second.done()
        go.set()
        assert await asyncio.wait_for(second, 5)
        workers.close()

    asyncio.run(run())


def test_what_is_cancelled_before_its_turn_is_never_done() -> None:
    done: list[int] = []
    go = threading.Event()

    async def run() -> None:
        workers = Workers(1)
        held = asyncio.ensure_future(workers.run(go.wait))
        waiting = [asyncio.ensure_future(workers.run(done.append, n)) for n in range(3)]
        await asyncio.sleep(0.01)
        waiting[1].cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(held, waiting[0], waiting[2])
        workers.close()

    asyncio.run(run())
    assert done == [0, 2]


def test_who_is_cancelled_waits_for_what_has_begun() -> None:
    go, begun, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait()
        done.set()

    async def run() -> None:
        workers = Workers(1)
        piece = asyncio.ensure_future(workers.run(slow))
        await asyncio.to_thread(begun.wait)
        piece.cancel()
        await asyncio.sleep(0.01)
        assert not piece.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await piece
        assert done.is_set()
        assert await workers.run(abs, -1) == 1
        workers.close()

    asyncio.run(run())


def test_closing_waits_for_what_has_begun_and_cancels_the_rest() -> None:
    done: list[int] = []

    def slow(n: int) -> None:
        time.sleep(0.05)
        done.append(n)

    async def run() -> None:
        workers = Workers(1)
        tasks = [asyncio.ensure_future(workers.run(slow, n)) for n in range(3)]
        await asyncio.sleep(0.01)
        workers.close()
        assert done == [0]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert ends[0] is None
        assert all(isinstance(e, asyncio.CancelledError) for e in ends[1:])
        with pytest.raises(RuntimeError):
            await workers.run(slow, 4)

    asyncio.run(run())
    assert done == [0]


def test_closing_does_not_wait_for_threads_without_work() -> None:
    async def run() -> None:
        workers = Workers(4)
        await asyncio.gather(*(workers.run(int) for _ in range(4)))
        begin = time.monotonic()
        workers.close()
        assert time.monotonic() - begin < workers_module.LINGER_S / 2

    asyncio.run(run())


def test_nothing_is_held_when_all_is_done() -> None:
    async def run() -> None:
        workers = Workers(2)
        given = np.zeros(10)
        seen = weakref.ref(given)
        made = await workers.run(np.copy, given)
        kept = weakref.ref(made)
        del given, made
        await asyncio.sleep(0.05)
        assert seen() is None
        assert kept() is None
        workers.close()

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_what_ends_while_all_is_closed_is_let_go_without_a_word() -> None:
    said: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        workers = Workers(2)
        begun = threading.Event()
        pieces = [
            asyncio.ensure_future(workers.run(lambda: (begun.set(), time.sleep(0.05)))) for _ in range(6)
        ]
        await asyncio.to_thread(begun.wait)
        workers.close()
        await asyncio.gather(*pieces, return_exceptions=True)
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="closed"):
            await workers.run(int)

    asyncio.run(main())
    assert said == []
