"""First bytes of files that need not be asked for again, in memory, and what files are called there."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from bestpixel_gpu.transfer.addresses import Location

MEMORY_BYTES: Final = 64 << 20
_ENTRY_OVERHEAD: Final = 500

_SIGNING = re.compile(
    r"s[eiprstv]|sip|sig|spr|srt|sdd|sk(oid|tid|[estv])|s[au]oid|scid"  # Azure
    r"|x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|.*token|api_?key|subscription-key",
    re.IGNORECASE,
)
"""Parameters of a query that let a reader in and do not tell which file is meant."""
_TOKEN = re.compile(
    r"[?&;](?:sig|signature|x-amz-signature|x-amz-security-token|x-goog-signature"
    r"|token|\w+_token|api_?key|subscription-key)="
    r"|://[^/\s\"@]*@",
    re.IGNORECASE,
)

_lock = threading.Lock()
"""One for all memory caches, held across a fork so that a child never finds one half changed."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def cache_key(place: Location) -> str:
    """What caches call the file at `place`: its address without the parameters that only let a reader in.

    Those that tell which file is meant stay, so that ``/get?file=a`` and ``/get?file=b`` are two.
    """
    query = "" if place.local else place.target.partition("#")[0].partition("?")[2]
    telling = [p for p in query.split("&") if p and not _SIGNING.fullmatch(p.partition("=")[0])]
    return f"{place.key}?{'&'.join(telling)}" if telling else place.key


def without_token(href: str) -> str:
    """An address without the parameters that only let a reader in."""
    head, _, query = href.partition("?")
    telling = [p for p in query.split("&") if p and not _SIGNING.fullmatch(p.partition("=")[0])]
    return f"{head}?{'&'.join(telling)}" if telling else head


def holds_token(text: str) -> bool:
    """Tell whether there is an address in `text` that carries a token or a password."""
    return _TOKEN.search(text) is not None


@dataclass(frozen=True, slots=True)
class Header:
    """First bytes of a file, the size of the whole and the server's tag of this version of it.

    The size is ``None`` and the tag empty if the server does not tell.
    """

    data: bytes
    total: int | None
    version: str = ""

    def serves(self, size: int) -> bool:
        """Tell whether these are the first `size` bytes, or the whole of a shorter file."""
        return len(self.data) >= (size if self.total is None else min(size, self.total))


class HeaderCache:
    """First bytes of files in memory: the most recently used, `cap` bytes in all. Thread-safe."""

    def __init__(self, cap: int = MEMORY_BYTES) -> None:
        self.cap = cap
        self.bytes = 0
        self._entries: OrderedDict[str, Header] = OrderedDict()

    def get(self, key: str) -> Header | None:
        """Return the header kept under `key`, ``None`` if there is none."""
        with _lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, header: Header) -> None:
        """Keep `header` under `key` and let go of what was not used for longest."""
        with _lock:
            self._remove(key)
            self._entries[key] = header
            self.bytes += _weight(key, header)
            while self.bytes > self.cap:
                self._remove(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        """Forget `key`, known or not."""
        with _lock:
            self._remove(key)

    def _remove(self, key: str) -> None:
        header = self._entries.pop(key, None)
        if header is not None:
            self.bytes -= _weight(key, header)


def _weight(key: str, header: Header) -> int:
    return len(header.data) + len(key) + _ENTRY_OVERHEAD


HEADERS: Final = HeaderCache()
"""The process's own."""
