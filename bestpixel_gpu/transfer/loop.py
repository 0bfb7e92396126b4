"""Run coroutines from synchronous code, on one background event loop per process.

The loop starts with the first call, on a daemon thread named ``bestpixel-io``; importing starts
nothing. A forked child forgets its parent's loop, whose thread it does not have, and starts its
own when it needs one.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from bestpixel_gpu.errors import StalledError

T = TypeVar("T")

_POLL_S = 0.1
"""Some platforms handle signals only between two waits."""
_CLOSE_S = 0.8
"""How long a cancelled coroutine may take to close its sockets: Ctrl-C is obeyed within a second."""

_lock = threading.Lock()
_loops: list[asyncio.AbstractEventLoop] = []
"""The process's loop, once it has one."""
_inherited: list[asyncio.AbstractEventLoop] = []
"""Loops of parent processes, kept so that a child never finalises them: closing one here would
take sockets out of the epoll set that the parent still waits on."""


def _after_fork_in_child() -> None:
    _inherited.extend(_loops)
    _loops.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child
    )


def _background_loop() -> asyncio.AbstractEventLoop:
    with _lock:
        if not _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=_run, args=(loop,), name="bestpixel-io", daemon=True).start()
            _loops.append(loop)
        return _loops[0]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run `loop` until it is stopped."""
    while True:
        try:
            return loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # A caller's callable wants to end the program: its call raises that as well, and asyncio
            # leaves the loop as it is. Without it every later call would wait for ever.
            continue


def is_own(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a loop is this process's own, which outlives every call."""
    return loop in _loops


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def limited(coro: Coroutine[Any, Any, T], seconds: float | None) -> T:
    """Result of `coro`; :class:`StalledError` if it takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await coro
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise StalledError(
            f"not finished within timeout={seconds} s: raise timeout=, or ask for a smaller area or period"
        ) from exc


def run_sync(coro: Coroutine[Any, Any, T], *, timeout: float | None = None) -> T:
    """Run `coro` to its end on the background loop and return its result.

    Works in scripts, in notebooks (where a loop already runs in the calling thread), in threads
    and in forked children. The coroutine sees the caller's context variables. Ctrl-C cancels it,
    waits until its sockets are closed and raises ``KeyboardInterrupt``. A call costs about 0.2 ms:
    meant once per request, not once per tile.

    Parameters
    ----------
    coro : coroutine
        Not awaited before.
    timeout : float, optional
        Wall-clock limit in seconds; ``None`` waits for ever.

    Raises
    ------
    StalledError
        The limit passed; the coroutine has been cancelled.
    RuntimeError
        Called from the background loop itself, which would wait for ever.
    """
    loop = _background_loop()
    if _running_loop() is loop:
        coro.close()
        raise RuntimeError("run_sync() was called from bestpixel's own event loop: use await there")
    # A lock, not an Event: Ctrl-C within an Event's own Python code leaves as another error.
    done = threading.Lock()
    done.acquire()

    async def supervise() -> T:
        try:
            return await limited(coro, timeout)
        finally:
            # Transports closed by the coroutine let go of their sockets in callbacks already
            # queued; this one comes after them.
            loop.call_soon(done.release)

    future = asyncio.run_coroutine_threadsafe(supervise(), loop)
    try:
        while not done.acquire(timeout=_POLL_S):
            pass
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            done.acquire(timeout=_CLOSE_S)
        raise
