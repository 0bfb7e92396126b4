"""A folder of what need not be asked again: first bytes of files, what searches found, what masks showed.

Many processes may share it, also over a network: there is no lock. An entry is written under a name
of its own and then renamed, so it is whole or not there, and of two writers the later one wins.
Nothing here ever fails a run: what cannot be read is asked for again, what cannot be written is not
kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bestpixel_gpu.errors import BestPixelWarning
from bestpixel_gpu.transfer.cache import Header, holds_token

SCHEMA: Final = 2
HEADER_LIFETIME_S: Final = 30 * 86400.0
"""A header is asked for again after this; a file replaced meanwhile shows itself when tiles are read."""
CAP_BYTES: Final = 1 << 30
"""Size of a folder: about 65 000 files. The oldest entries go first."""
_ABANDONED_S: Final = 3600.0
"""What a writer has not renamed for so long, it will not."""

SEARCH_BYTES: Final = 256 << 20
"""A longer answer is no search's."""
COUNTS_LIFETIME_S: Final = HEADER_LIFETIME_S
_KINDS: Final = ("header", "search", "counts")
_NAME = re.compile(r"\.?[0-9a-f]{40}\.entry(\.\d+\.[0-9a-f]{32})?")
"""Names that this module makes; others in the folder are not its own and stay."""

Item = dict[str, Any]


class DiskCache:
    """Headers, search results and counts in files ``<root>/<kind>/<sha1 of the key>.entry``.

    An entry of another version, a damaged and an outdated one are misses and overwritten. Entries
    hold no token: a search result in which an address carries one is not kept.

    Parameters
    ----------
    root : path
        Made when something is first kept.
    cap : int
        Bytes that all entries may take together; held at the end of a run, and within a tenth
        during one.
    warn : callable, optional
        Told the first time that the folder cannot be read or written; by default that is a
        :class:`BestPixelWarning`. Once something could not be written, nothing more is.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        cap: int = CAP_BYTES,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.root = Path(root)
        self.cap = cap
        self._warn = warn or _warn
        self._troubled = False
        self._writable = True
        self._written = 0

    def get_header(self, key: str) -> Header | None:
        """Return the header kept under `key`, ``None`` if it is absent, outdated or damaged."""
        body, age = self._load(self._path("header", key))
        if abs(age) > HEADER_LIFETIME_S:  # a time far in the future is no clock's
            return None
        line, _, data = body.partition(b"\n")
        match _parsed(line):
            case [int() | None as total, str(version)]:
                return Header(data, total, version)
        return None

    def put_header(self, key: str, header: Header) -> None:
        """Keep a header."""
        line = json.dumps([header.total, header.version]).encode()
        self._store(self._path("header", key), line + b"\n" + header.data)

    def add_header(self, key: str, header: Header) -> None:
        """Keep a header if there is none under `key`, outdated or not."""
        try:
            known = self._path("header", key).exists()
        except OSError as exc:
            self._tell(exc)
            return
        if not known:
            self.put_header(key, header)

    def drop_header(self, key: str) -> None:
        """Forget a header, known or not."""
        self._remove(self._path("header", key))

    def get_search(self, key: str) -> tuple[list[Item], float] | None:
        """Return the items kept under `key` and their age in seconds, ``None`` if there are none.

        They come however old they are: old ones serve where the search does not.
        """
        body, age = self._load(self._path("search", key))
        try:
            items = _parsed(zlib.decompressobj().decompress(body, SEARCH_BYTES))
        except zlib.error:
            return None
        if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
            return None
        return items, abs(age)

    def put_search(self, key: str, items: list[Item]) -> None:
        """Keep what a search found, unless it found nothing or an address in it carries a token."""
        text = json.dumps(items, separators=(",", ":"))
        if items and not holds_token(text):
            self._store(self._path("search", key), zlib.compress(text.encode(), 1))

    def get_counts(self, key: str) -> bytes | None:
        """Return what was counted under `key`, ``None`` if it is absent, outdated or damaged."""
        body, age = self._load(self._path("counts", key))
        return body if body and abs(age) <= COUNTS_LIFETIME_S else None

    def put_counts(self, key: str, body: bytes) -> None:
        """Keep what was counted."""
        self._store(self._path("counts", key), body)

    def trim(self) -> None:
        """Hold the folder within its cap, if this object has written since the last time."""
        if not self._written:
            return
        self._written = 0
        entries = sorted(self._entries())
        size = sum(n for _, n, _ in entries)
        for written, n, path in entries:
            unfinished = os.path.basename(path).startswith(".")
            if time.time() - written > _ABANDONED_S if unfinished else size > self.cap:
                size -= n
                self._remove(Path(path))

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        """Time, size and path of everything in the folder that this module wrote."""
        for kind in _KINDS:
            try:
                with os.scandir(self.root / kind) as found:
                    for file in found:
                        if _NAME.fullmatch(file.name):
                            known = _stat(file)
                            if known is not None:
                                yield known.st_mtime, known.st_size, file.path
            except FileNotFoundError:
                continue
            except OSError as exc:
                self._tell(exc)

    def _path(self, kind: str, key: str) -> Path:
        name = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
        return self.root / kind / f"{name}.entry"

    def _load(self, path: Path) -> tuple[bytes, float]:
        """Body of an entry and its age in seconds; an empty body if it cannot be used."""
        try:
            with path.open("rb") as file:
                age = time.time() - os.fstat(file.fileno()).st_mtime
                line, _, body = file.read().partition(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return b"", 0.0
        except OSError as exc:
            self._tell(exc)
            return b"", 0.0
        return (body if line == _seal(body) else b""), age

    def _store(self, path: Path, body: bytes) -> None:
        if not self._writable:
            return
        # Unique among threads and processes: two writers of one key never share a temporary file.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_seal(body) + b"\n" + body)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as exc:
            self._writable = False
            self._tell(exc)
            return
        self._written += len(body)
        if self._written > self.cap // 10:
            self.trim()

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            pass
        except OSError as exc:
            self._tell(exc)

    def _tell(self, exc: OSError) -> None:
        """Say once that something of the folder does not serve."""
        if not self._troubled:
            self._troubled = True
            self._warn(f"the cache {self.root} cannot be used ({exc.strerror or exc}): going on without it")


def _seal(body: bytes) -> bytes:
    """First line of an entry: no other version's, and no damaged body's."""
    return b"bestpixel-gpu cache %d %08x" % (SCHEMA, zlib.crc32(body))


def _parsed(text: bytes) -> Any:
    """What JSON says; ``None`` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _stat(file: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # another process has removed it meanwhile
        return None


def _warn(message: str) -> None:
    warnings.warn(message, BestPixelWarning, stacklevel=2)
