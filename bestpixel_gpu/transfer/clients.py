"""The clients of each event loop, shared by all that runs there, so that it shares connections."""

from __future__ import annotations

import asyncio
import atexit
import os
from importlib import import_module
from typing import TYPE_CHECKING

from bestpixel_gpu.transfer.loop import is_own
from bestpixel_gpu.transfer.wire import Wire

if TYPE_CHECKING:
    from bestpixel_gpu.transfer.general import GeneralClient


class Clients:
    """The clients of one event loop.

    Attributes
    ----------
    wire : Wire
        For files.
    """

    def __init__(self) -> None:
        self.wire = Wire()
        self.users = 0
        self._general: GeneralClient | None = None

    async def general(self) -> GeneralClient:
        """Return the client for everything but files: made, and aiohttp imported, when first needed."""
        if self._general is None:
            # A tenth of a second, in which the loop need not stand still.
            module = await asyncio.to_thread(import_module, "bestpixel_gpu.transfer.general")
            self._general = self._general or module.GeneralClient()
        return self._general

    async def give_back(self, *, keep: bool = False) -> None:
        """Be one user less; the last one closes every connection.

        With `keep`, on the process's own loop, they stand for a few seconds more: whoever makes one
        composite after the other need not shake hands with every server again.
        """
        self.users -= 1
        if self.users:
            return
        loop = asyncio.get_running_loop()
        if not (keep and is_own(loop)):
            _by_loop.pop(loop, None)
            await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self.wire.close()
        if self._general is not None:
            await self._general.close()

    def forget(self) -> None:
        """In a forked child: never use the parent's sockets, and do not close them either."""
        _inherited.append(self.wire)
        if self._general is not None:
            _inherited.append(self._general.forget())


_by_loop: dict[asyncio.AbstractEventLoop, Clients] = {}
_inherited: list[object] = []


def clients() -> Clients:
    """Return the running loop's clients, for one more user, who gives them back."""
    shared = _by_loop.setdefault(asyncio.get_running_loop(), Clients())
    shared.users += 1
    return shared


def _forget_all() -> None:
    for shared in _by_loop.values():
        shared.forget()
    _by_loop.clear()


def _close_all() -> None:
    """At exit: close what callers left open, while its loop still runs."""
    for loop, shared in list(_by_loop.items()):
        if loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(shared.close(), loop)
            try:
                closing.result(timeout=1.0)
            except TimeoutError:
                continue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
