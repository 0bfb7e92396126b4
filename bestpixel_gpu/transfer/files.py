"""Byte ranges of local files, read in a few threads so that a slow disk does not hold up the loop."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from bestpixel_gpu.errors import AuthError, MissingError, SourceError
from bestpixel_gpu.transfer.buffers import BUFFERS, Take
from bestpixel_gpu.transfer.transport import Counters, RangeAnswer, Renew

_THREADS = 4


class FileTransport:
    """Reads ranges of local files; fulfils the same protocol as the one for HTTP."""

    def __init__(self, counters: Counters | None = None) -> None:
        self._counters = counters if counters is not None else Counters()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="bestpixel-file")

    async def read_range(
        self,
        url: str,
        offset: int,
        length: int,
        take: Take = BUFFERS.take,
        *,
        kind: str = "tile",
        renew: Renew | None = None,
    ) -> RangeAnswer:
        """Read bytes ``offset .. offset + length - 1`` of the path `url`, fewer where the file ends.

        Raises
        ------
        MissingError
            If there is no such file.
        AuthError
            If this process may not read it.
        SourceError
            If it starts past the file's end, or the disk fails.
        """
        self._counters.began(kind)
        job = self._pool.submit(_read, url, offset, length, take)
        waiting = asyncio.wrap_future(job)
        try:
            answer = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.wait([waiting])  # nobody reads on once this has returned
            raise
        finally:
            self._counters.ended()
        self._counters.received(kind, len(answer.data))
        return answer

    async def close(self) -> None:
        """Give back the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _read(path: str, offset: int, length: int, take: Take) -> RangeAnswer:
    try:
        with open(path, "rb", buffering=0) as file:
            total = os.fstat(file.fileno()).st_size
            if offset >= total:
                raise SourceError(f"{path}: byte {offset} lies past the file's end ({total} bytes)", url=path)
            file.seek(offset)
            wanted = min(length, total - offset)
            buffer = take(wanted)
            filled = 0
            while filled < wanted and (count := file.readinto(buffer[filled:])):
                filled += count
            if filled < wanted:
                raise SourceError(f"{path}: became shorter while it was read", url=path)
    except SourceError:
        raise
    except FileNotFoundError as exc:
        raise MissingError(f"{path}: no such file", url=path) from exc
    except PermissionError as exc:
        raise AuthError(f"{path}: no permission to read it", url=path) from exc
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror or exc}", url=path) from exc
    return RangeAnswer(buffer.toreadonly(), total)
