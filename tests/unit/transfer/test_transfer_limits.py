"""Admission: order, caps, halving, growth, Retry-After, cancellation."""

from __future__ import annotations

import asyncio

import pytest

from bestpixel_gpu.transfer import limits
from bestpixel_gpu.transfer.limits import BytesGate, HostLimit


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def queue(gate, amounts, admitted):
    async def one(name, amount):
        await gate.acquire(amount)
        admitted.append(name)

    return [asyncio.create_task(one(n, a)) for n, a in enumerate(amounts)]


def test_bytes_pass_in_order_of_arrival_even_where_a_later_one_would_fit():
    async def run():
        gate, admitted = BytesGate(100), []
        tasks = queue(gate, [60, 50, 10], admitted)
        await settle()
        assert admitted == [0]
        gate.release(60)
        await asyncio.gather(*tasks)
        assert admitted == [0, 1, 2]
        assert gate.used == 60

    asyncio.run(run())


def test_a_request_above_the_cap_passes_alone():
    async def run():
        gate, admitted = BytesGate(100), []
        tasks = queue(gate, [30, 500, 30], admitted)
        await settle()
        assert admitted == [0]
        gate.release(30)
        await settle()
        assert admitted == [0, 1]
        gate.release(500)
        await asyncio.gather(*tasks)
        assert gate.used == 30

    asyncio.run(run())


def test_cancelling_the_first_in_line_lets_the_next_in():
    async def run():
        gate, admitted = BytesGate(100), []
        tasks = queue(gate, [60, 80, 40], admitted)
        await settle()
        tasks[1].cancel()
        await settle()
        assert admitted == [0, 2]
        assert gate.used == 100

    asyncio.run(run())


def test_cancelled_in_the_moment_of_admission_gives_its_place_back():
    async def run():
        gate, admitted = BytesGate(10), []
        tasks = queue(gate, [10, 10, 10], admitted)
        await settle()
        gate.release(10)  # admits the second, which has not run yet
        tasks[1].cancel()
        await settle()
        assert admitted == [0, 2]
        gate.release(10)
        assert gate.used == 0

    asyncio.run(run())


def test_a_widened_gate_lets_the_next_in():
    async def run():
        gate, admitted = BytesGate(100), []
        tasks = queue(gate, [60, 50, 50], admitted)
        await settle()
        gate.widen(15, 120)
        await settle()
        assert (gate.cap, admitted) == (115, [0, 1])
        gate.widen(15, 120)
        gate.widen(15, 50)
        await settle()
        assert (gate.cap, admitted) == (120, [0, 1])
        gate.release(60)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_hold_releases_on_error():
    async def run():
        gate = BytesGate(10)

        async def fail():
            async with gate.hold(7):
                assert gate.used == 7
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        assert gate.used == 0

    asyncio.run(run())


def test_limit_starts_low_and_is_never_above_the_cap():
    assert HostLimit().limit == 32
    assert HostLimit(cap=5).limit == 5


def test_limit_grows_only_while_requests_wait():
    async def run():
        limit = HostLimit(cap=8, start=2)
        for _ in range(10):
            limit.succeeded()
        assert limit.limit == 2
        tasks = queue(limit, [1] * 30, [])
        await settle()
        for _ in range(20):
            limit.succeeded()
            limit.release()
            await settle()
        assert limit.limit == 8
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_each_that_had_to_wait_lets_the_limit_grow_by_one():
    """Not only while others wait: so the next ones of that number all find a place."""

    async def run():
        limit = HostLimit(start=32)
        tasks = queue(limit, [1] * 48, [])
        await settle()
        for _ in range(48):
            limit.succeeded()
            limit.release()
            await settle()
        assert limit.limit == 48
        assert limit.tried
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_after_a_refusal_the_limit_grows_by_one_with_each_window(monkeypatch):
    async def run():
        limit = HostLimit(cap=50, start=8)
        tasks = queue(limit, [1] * 60, [])
        await settle()
        limit.throttled()
        assert limit.limit == 4
        for _ in range(4 + 5):
            limit.succeeded()
        assert limit.limit == 6
        limit.throttled()  # the same event: within a second of the first
        assert limit.limit == 6
        monkeypatch.setattr(limits, "HALVE_EVERY_S", 0.0)
        for _ in range(5):
            limit.throttled()
        assert limit.limit == 1
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_fix_11_retry_after_holds_everybody_back_then_lets_them_go(monkeypatch):
    async def run():
        limit, admitted = HostLimit(start=4), []
        loop = asyncio.get_running_loop()
        begun = loop.time()
        limit.throttled(0.1)
        limit.throttled(0.02)  # a shorter one does not shorten the pause
        tasks = queue(limit, [1, 1], admitted)
        await asyncio.sleep(0.05)
        assert admitted == []
        await asyncio.gather(*tasks)
        assert 0.09 <= loop.time() - begun < 0.5
        limit.release(2)
        monkeypatch.setattr(limits, "LONGEST_PAUSE_S", 0.05)
        begun = loop.time()
        limit.throttled(86400.0)
        await limit.acquire()
        assert loop.time() - begun < 1.0

    asyncio.run(run())
