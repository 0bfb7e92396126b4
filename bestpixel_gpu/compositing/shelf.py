"""What several runs of a series want, made once: the first that asks makes it, all others get the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class _Entry:
    mark: Any
    work: asyncio.Task[Any]
    size: int = 0


class Shelf:
    """Keeps what was made for one run while another may ask for it. Belongs to one event loop.

    Parameters
    ----------
    cap : int
        Bytes kept at most, of those that were weighed; beyond, the first made goes first.
    """

    def __init__(self, cap: int = 0) -> None:
        self.cap = cap
        self.bytes = 0
        self._entries: dict[Hashable, _Entry] = {}

    async def get(self, key: Hashable, mark: Any, make: Callable[[], Awaitable[Any]]) -> Any:
        """What `make` gives. An exception goes to all who wait; who asks after them asks anew.

        `mark` is what :meth:`keep_only` knows it by.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(mark, asyncio.ensure_future(_awaited(make)))
        try:
            return await asyncio.shield(entry.work)  # others may wait for it too
        except Exception:
            if self._entries.get(key) is entry:
                self.drop(key)
            raise

    def weigh(self, key: Hashable, size: int) -> None:
        """Say how many bytes something has."""
        entry = self._entries.get(key)
        if entry is None:
            return
        self.bytes += size - entry.size
        entry.size = size
        for old in [k for k, e in self._entries.items() if e.size]:
            if self.bytes > self.cap:
                self.drop(old)

    def keep_only(self, wanted: Callable[[Any], bool]) -> None:
        """Let go of what is made and nobody will ask for."""
        for key in [k for k, e in self._entries.items() if e.work.done() and not wanted(e.mark)]:
            self.drop(key)

    def drop(self, key: Hashable) -> None:
        """Let go of something, known or not."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    async def clear(self) -> None:
        """Let go of everything; what is under way is cancelled."""
        work = [e.work for e in self._entries.values()]
        self._entries.clear()
        self.bytes = 0
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def _awaited(make: Callable[[], Awaitable[Any]]) -> Any:
    return await make()
