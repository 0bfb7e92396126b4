"""Headers from a cache of files that meanwhile are others, or only look like it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bestpixel_gpu.errors import SourceError
from bestpixel_gpu.transfer.cache import HeaderCache
from bestpixel_gpu.transfer.disk_cache import DiskCache
from bestpixel_gpu.transfer.http import Retry
from bestpixel_gpu.transfer.reader import ChangedError, Reader

OLD = bytes((i * 7 + i // 251) % 256 for i in range(100_000))
NEW = bytes(reversed(OLD))
"""Of the same size."""
TILES = [(20_000 + 9000 * n, 500) for n in range(8)]


class FileServer(ThreadingHTTPServer):
    """Serves ranges of one file, whatever the path, and logs them; `tags` makes the headers of answers."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.log = OLD, list[tuple[int, int]]()
        self.tags: Callable[[], dict[str, str]] = lambda: {"ETag": '"one"'}
        self.url = f"http://127.0.0.1:{self.server_address[1]}/a.tif"

    @property
    def headers_asked(self) -> int:
        return sum(first == 0 for first, _ in self.log)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        data = self.server.data
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.server.log.append((first, last))
        status, body = (206, data[first : last + 1]) if first < len(data) else (416, b"")
        self.send_response(status)
        if body:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
            for name, value in self.server.tags().items():
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def read(work: Callable[[Reader], Awaitable[Any]], folder: Path, memory: HeaderCache | None = None) -> Any:
    """Result of `work` with the reader of a new process; the folder is all that it knows."""

    async def run() -> Any:
        memory_ = HeaderCache() if memory is None else memory
        async with Reader(header_cache=memory_, disk_cache=folder, retry=Retry(attempts=1)) as reader:
            return await work(reader)

    return asyncio.run(run())


def cached(files: FileServer, folder: Path) -> None:
    """Let the folder know the header of the file as it is now."""
    read(lambda r: r.header(files.url), folder)
    files.log.clear()


async def header_and_tiles(reader: Reader, url: str) -> list[Any]:
    first, _ = await reader.header(url)
    return [bytes(first), *await reader.read_many(url, TILES)]


def tiles_of(data: bytes) -> list[bytes]:
    return [data[o : o + n] for o, n in TILES]


@pytest.mark.parametrize(
    "tags", [{"ETag": '"one"'}, {"Last-Modified": "Mon, 01 Jul 2024 10:00:00 GMT"}, {}], ids=str
)
def test_a_file_that_did_not_change_is_asked_for_tiles_only(
    files: FileServer, tmp_path: Path, tags: dict[str, str]
) -> None:
    files.tags = lambda: tags
    cached(files, tmp_path)
    first, *tiles = read(lambda r: header_and_tiles(r, files.url), tmp_path)
    assert first == OLD[:16384]
    assert [bytes(t) for t in tiles] == tiles_of(OLD)
    assert files.headers_asked == 0
    assert len(files.log) == len(TILES)


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_a_file_of_the_same_size_with_another_tag(files: FileServer, tmp_path: Path, name: str) -> None:
    files.tags = lambda: {name: "one"}
    cached(files, tmp_path)
    files.data, files.tags = NEW, lambda: {name: "two"}

    async def work(reader: Reader) -> None:
        _, *tiles = await header_and_tiles(reader, files.url)
        assert {type(t) for t in tiles} == {ChangedError}
        assert files.headers_asked == 1, "one look at the header settles it for all tiles"
        first, *tiles = await header_and_tiles(reader, files.url)
        assert first == NEW[:16384]
        assert [bytes(t) for t in tiles] == tiles_of(NEW)

    read(work, tmp_path)
    files.log.clear()
    assert read(lambda r: header_and_tiles(r, files.url), tmp_path)[0] == NEW[:16384]
    assert files.headers_asked == 0


@pytest.mark.parametrize("cut", [3000, 60_000, 80_500])
def test_a_shorter_file_even_where_tiles_lie_past_its_end(
    files: FileServer, tmp_path: Path, cut: int
) -> None:
    cached(files, tmp_path)
    files.data, files.tags = OLD[:-cut], dict

    async def work(reader: Reader) -> None:
        await reader.header(files.url)
        with pytest.raises(ChangedError, match=r"a\.tif: the file changed since its header was read"):
            await reader.read(files.url, 99_000, 500)
        assert (await reader.header(files.url))[1] == len(OLD) - cut

    read(work, tmp_path)


def test_a_server_whose_machines_do_not_agree_on_tags(files: FileServer, tmp_path: Path) -> None:
    count = itertools.count()
    files.tags = lambda: {"ETag": f'"machine {next(count)}"'}
    cached(files, tmp_path)
    _, *tiles = read(lambda r: header_and_tiles(r, files.url), tmp_path)
    assert [bytes(t) for t in tiles] == tiles_of(OLD)
    assert files.headers_asked == 1


def test_a_file_that_is_simply_too_short_is_no_changed_one(files: FileServer, tmp_path: Path) -> None:
    cached(files, tmp_path)

    async def work(reader: Reader) -> None:
        await reader.header(files.url)
        for _ in range(3):
            with pytest.raises(SourceError, match="416") as caught:
                await reader.read(files.url, 200_000, 10)
            assert not isinstance(caught.value, ChangedError)
        assert files.headers_asked == 1

    read(work, tmp_path)


def test_a_header_that_another_reader_renewed_is_not_taken_for_ones_own(
    files: FileServer, tmp_path: Path
) -> None:
    """Two runs share the caches; tiles of one are planned by the old header, whatever the caches hold."""
    memory = HeaderCache()
    cached(files, tmp_path)

    async def work(reader: Reader) -> None:
        await reader.header(files.url)
        files.data, files.tags = NEW, lambda: {"ETag": '"two"'}
        async with Reader(header_cache=memory, disk_cache=tmp_path) as other:
            await other.forget(files.url)
            assert (await other.header(files.url))[0] == NEW[:16384]
        with pytest.raises(ChangedError):
            await reader.read(files.url, *TILES[0])

    read(work, tmp_path, memory)


def test_tiles_planned_by_an_older_header_are_never_read_by_a_newer_one(
    files: FileServer, tmp_path: Path
) -> None:
    """Two runs share a reader: one has opened the file anew while the other still goes by the old header."""
    cached(files, tmp_path)

    async def work(reader: Reader) -> None:
        await reader.header(files.url)
        old = reader.stamp(files.url)
        files.data, files.tags = NEW, lambda: {"ETag": '"two"'}
        await reader.forget(files.url)
        await reader.header(files.url)
        new = reader.stamp(files.url)
        assert old is not new
        got = await reader.read_many(files.url, TILES, stamp=new)
        assert [bytes(t) for t in got] == tiles_of(NEW)
        for known in (False, True):
            files.log.clear()
            got = await reader.read_many(files.url, TILES, stamp=old)
            assert {type(t) for t in got} == {ChangedError}
            assert (not files.log) == known, "once it is known, nothing is asked for"
        got = await reader.read_many(files.url, TILES, stamp=new)
        assert [bytes(t) for t in got] == tiles_of(NEW)

    read(work, tmp_path)


def test_the_header_that_showed_a_change_is_kept(files: FileServer, tmp_path: Path) -> None:
    cached(files, tmp_path)
    files.data, files.tags = NEW, lambda: {"ETag": '"two"'}
    read(lambda r: header_and_tiles(r, files.url), tmp_path)
    assert files.headers_asked == 1
    assert read(lambda r: r.header(files.url), tmp_path)[0] == NEW[:16384]
    assert files.headers_asked == 1


def test_headers_known_to_the_process_reach_a_folder_given_later(files: FileServer, tmp_path: Path) -> None:
    memory = HeaderCache()

    async def without() -> None:
        async with Reader(header_cache=memory) as reader:
            await reader.header(files.url)

    asyncio.run(without())
    read(lambda r: r.header(files.url), tmp_path, memory)
    read(lambda r: r.header(files.url), tmp_path)
    assert files.headers_asked == 1


def test_files_that_only_their_query_tells_apart(files: FileServer, tmp_path: Path) -> None:
    async def work(reader: Reader) -> None:
        await reader.header(f"{files.url}?file=a&sig=SECRET1")
        await reader.header(f"{files.url}?file=a&sig=SECRET2")
        assert files.headers_asked == 1
        files.data, files.tags = NEW, lambda: {"ETag": '"two"'}
        assert (await reader.header(f"{files.url}?file=b"))[0] == NEW[:16384]
        assert (await reader.header(f"{files.url}?file=a"))[0] == OLD[:16384]

    read(work, tmp_path)
    for path in tmp_path.rglob("*.entry"):
        assert b"SECRET" not in path.read_bytes()


def test_a_file_that_went_away_while_its_header_is_looked_at(files: FileServer, tmp_path: Path) -> None:
    cached(files, tmp_path)

    async def work(reader: Reader) -> None:
        await reader.header(files.url)
        files.data, files.tags = b"", dict
        with pytest.raises(SourceError, match="416"):
            await reader.read(files.url, *TILES[0])

    read(work, tmp_path)


def test_the_folder_is_held_within_its_cap(files: FileServer, tmp_path: Path) -> None:
    async def work() -> None:
        disk = DiskCache(tmp_path, cap=150_000)
        async with Reader(header_cache=HeaderCache(), disk_cache=disk) as reader:
            for n in range(12):
                await reader.header(f"{files.url}?file={n}")

    asyncio.run(work())
    assert files.headers_asked == 12
    assert len(list(tmp_path.rglob("*.entry"))) == 150_000 // 16_500
