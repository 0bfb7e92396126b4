"""What need not be asked again: first bytes of files in memory and on disk, search results on disk.

Neither holds a token: names are addresses without their query.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
import warnings
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bestpixel_gpu.errors import BestPixelWarning

SCHEMA: Final = 1
LIFETIME_S: Final = {"header": 30 * 86400.0, "search": 86400.0}
"""How long each kind is believed, in seconds; files replaced meanwhile show by their size."""
MEMORY_BYTES: Final = 64 << 20
_ENTRY_OVERHEAD: Final = 500

_lock = threading.Lock()
"""One for all memory caches, held across a fork so that a child never finds one half changed."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@dataclass(frozen=True, slots=True)
class Header:
    """First bytes of a file and the size of the whole, ``None`` if the server does not tell."""

    data: bytes
    total: int | None

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


class DiskCache:
    """Values kept in files ``<root>/<kind>/<sha1 of the key>``, shared by processes.

    A file is complete or not there. What cannot be read is a miss; what cannot be written is not
    kept; the first such failure gives one warning, never an error. Keys are stored as their hash;
    whoever puts a value sees to it that it holds no token.

    Parameters
    ----------
    root : path
        Made when something is first kept.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._warned = False

    def get(self, kind: str, key: str, max_age_s: float | None = None) -> Any | None:
        """Return the JSON value kept under `key`, ``None`` if it is absent, too old or damaged.

        Parameters
        ----------
        kind : str
            Family of values, such as ``"search"``.
        max_age_s : float, optional
            Seconds since it was kept; by default the lifetime of its kind.
        """
        raw = self._load(self._path(kind, key, "json"), kind, max_age_s)
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            return None
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            return None
        return body.get("data")

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        body = json.dumps({"schema": SCHEMA, "data": value}, separators=(",", ":"))
        self._store(self._path(kind, key, "json"), body.encode())

    def get_header(self, key: str, max_age_s: float | None = None) -> Header | None:
        """Return the header kept under `key`, ``None`` if it is absent, too old or damaged."""
        raw = self._load(self._path("header", key, "bin"), "header", max_age_s)
        line, _, data = raw.partition(b"\n")
        try:
            schema, total, checksum = json.loads(line)
        except (ValueError, TypeError):
            return None
        if schema != SCHEMA or checksum != zlib.crc32(data):
            return None
        return Header(data, total)

    def put_header(self, key: str, header: Header) -> None:
        """Keep a header, behind a line that tells schema, size of the file and checksum."""
        line = json.dumps([SCHEMA, header.total, zlib.crc32(header.data)])
        self._store(self._path("header", key, "bin"), line.encode() + b"\n" + header.data)

    def drop_header(self, key: str) -> None:
        """Forget a header, known or not."""
        try:
            self._path("header", key, "bin").unlink(missing_ok=True)
        except OSError as exc:
            self._warn(exc)

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        name = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
        return self.root / kind / f"{name}.{suffix}"

    def _load(self, path: Path, kind: str, max_age_s: float | None) -> bytes:
        limit = LIFETIME_S[kind] if max_age_s is None else max_age_s
        try:
            if time.time() - path.stat().st_mtime > limit:
                return b""
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as exc:
            self._warn(exc)
            return b""

    def _store(self, path: Path, body: bytes) -> None:
        # Unique among threads and processes: two writers of one key never share a temporary file.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(body)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as exc:
            self._warn(exc)

    def _warn(self, exc: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the cache {self.root} cannot be used ({exc.strerror or exc}): going on without it",
                BestPixelWarning,
                stacklevel=3,
            )
