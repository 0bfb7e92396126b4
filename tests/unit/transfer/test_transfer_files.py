"""Local files through the reader."""

from __future__ import annotations

import asyncio
import os

import pytest

from bestpixel_gpu.errors import AuthError, InputError, MissingError, SourceError
from bestpixel_gpu.transfer.files import FileTransport
from bestpixel_gpu.transfer.reader import ChangedError, Reader

DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a b.tif"
    path.write_bytes(DATA)
    return path


def with_reader(use):
    async def run():
        async with Reader() as reader:
            return await use(reader)

    return asyncio.run(run())


@pytest.mark.parametrize("form", [str, lambda p: p.as_uri()])
def test_header_and_ranges(path, form):
    async def use(reader):
        head, total = await reader.header(form(path))
        assert (head, total) == (DATA, len(DATA))
        assert (await reader.header(form(path), size=10))[0] == DATA[:10]
        assert bytes(await reader.read(form(path), 300, 500)) == DATA[300:800]
        spans = [(9000, 100), (0, 10), (5, 10), (0, 10), (10235, 5)]
        got = await reader.read_many(form(path), spans)
        assert [bytes(g) for g in got] == [DATA[o : o + n] for o, n in spans]
        assert reader.counters.by_kind["header"].requests == 2

    with_reader(use)


def test_tiles_are_read_into_the_callers_memory(path):
    given = []

    def take(size):
        given.append(bytearray(size))
        return memoryview(given[-1])

    async def run():
        async with Reader(take=take) as reader:
            await reader.header(str(path))
            assert not given, "headers are small and kept"
            got = await reader.read_many(str(path), [(0, 10), (9000, 100), (20, 10)])
            assert sorted(map(bytes, given), key=len) == [DATA[:30], DATA[9000:9100]]
            assert got[0].obj is got[2].obj
            assert {id(view.obj) for view in got} == {id(block) for block in given}
            assert all(view.readonly for view in got)

    asyncio.run(run())


def test_a_rewritten_file_is_read_anew(path):
    async def use(reader):
        await reader.header(str(path))
        path.write_bytes(b"new")
        with pytest.raises(ChangedError):
            await reader.read(str(path), 0, 3)
        assert await reader.header(str(path)) == (b"new", 3)
        assert bytes(await reader.read(str(path), 0, 3)) == b"new"

    with_reader(use)


def test_one_bad_span_does_not_cost_its_neighbours(path):
    async def use(reader):
        good, bad, gone = await reader.read_many(str(path), [(10000, 100), (10200, 100), (50000, 10)])
        assert bytes(good) == DATA[10000:10100]
        assert isinstance(bad, SourceError)
        assert "ends at byte 10240" in str(bad)
        assert isinstance(gone, SourceError)
        assert "past the file's end" in str(gone)

    with_reader(use)


def test_errors_name_the_kind(path):
    async def use(reader):
        with pytest.raises(MissingError):
            await reader.header(str(path) + ".nothing")
        with pytest.raises(SourceError):
            await reader.header(str(path.parent))
        with pytest.raises(InputError):
            await reader.read(str(path), 0, 0)
        with pytest.raises(InputError):
            await reader.read_many(str(path), [(0, 4), (-1, 4)])
        assert await reader.read_many(str(path), []) == []

    with_reader(use)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(path):
    path.chmod(0)
    with pytest.raises(AuthError):
        with_reader(lambda reader: reader.header(str(path)))


def test_into_a_buffer(path):
    async def run():
        files, buffer = FileTransport(), bytearray(100)
        answer = await files.read_range(str(path), 10200, 100, lambda n: memoryview(buffer)[:n])
        assert bytes(answer.data) == DATA[10200:] == buffer[:40]
        assert answer.data.readonly
        assert answer.total == len(DATA)
        await files.close()

    asyncio.run(run())


def test_a_cancelled_read_writes_nothing_after_it_returned(tmp_path):
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)

    async def run():
        files = FileTransport()
        task = asyncio.create_task(files.read_range(str(fifo), 0, 10))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()  # its thread sits in open(): it waits for it
        os.close(os.open(fifo, os.O_WRONLY))
        with pytest.raises(asyncio.CancelledError):
            await task
        await files.close()

    asyncio.run(run())
