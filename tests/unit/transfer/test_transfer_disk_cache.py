"""The folder of headers and searches: age, damage, bounds, tokens, folders that do not serve."""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
import zlib

import pytest

from bestpixel_gpu.errors import BestPixelWarning
from bestpixel_gpu.transfer import disk_cache
from bestpixel_gpu.transfer.cache import Header
from bestpixel_gpu.transfer.disk_cache import HEADER_LIFETIME_S, DiskCache

ITEMS = [{"id": "é", "properties": {"eo:cloud_cover": 1.5}}, {"id": "b"}]
HEADER = Header(bytes(range(256)) + b"\n\n", 9999, '"v1"')


def entries(root):
    return sorted(p for p in root.rglob("*") if p.is_file())


def aged(root, seconds):
    for path in entries(root):
        os.utime(path, (0, time.time() - seconds))


def test_it_returns_what_was_put(tmp_path):
    cache = DiskCache(tmp_path / "new" / "folder")
    assert cache.get_search("k") is None
    assert cache.get_header("k") is None
    cache.put_search("k", ITEMS)
    cache.put_header("k", HEADER)
    cache.put_header("other", Header(b"", None))
    again = DiskCache(cache.root)
    items, age = again.get_search("k")
    assert items == ITEMS
    assert age < 60
    assert again.get_header("k") == HEADER
    assert again.get_header("other") == Header(b"", None)
    assert again.get_search("other") is None
    for _ in range(2):
        cache.drop_header("k")
    assert again.get_header("k") is None


def test_a_header_is_added_only_where_there_is_none(tmp_path):
    cache = DiskCache(tmp_path)
    cache.add_header("k", HEADER)
    cache.add_header("k", Header(b"other", 5))
    assert cache.get_header("k") == HEADER


def test_headers_end_with_their_lifetime_and_searches_tell_their_age(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put_header("k", HEADER)
    cache.put_search("k", ITEMS)
    aged(tmp_path, HEADER_LIFETIME_S - 100)
    assert cache.get_header("k") == HEADER
    for seconds in (HEADER_LIFETIME_S + 100, -HEADER_LIFETIME_S - 100):  # a clock may have been wrong
        aged(tmp_path, seconds)
        assert cache.get_header("k") is None
        items, age = cache.get_search("k")
        assert items == ITEMS
        assert age == pytest.approx(abs(seconds), abs=30)


def test_what_found_nothing_is_not_kept(tmp_path):
    DiskCache(tmp_path).put_search("k", [])
    assert not entries(tmp_path)


@pytest.mark.parametrize("href", ["https://a.test/a.tif?sp=r&sig=SECRET", "https://me:SECRET@a.test/a.tif"])
def test_no_token_is_written(tmp_path, href):
    cache = DiskCache(tmp_path)
    cache.put_search(f"https://a.test/?token=SECRET {href}", ITEMS)
    cache.put_header(href, HEADER)
    cache.put_search("signed", [{"id": "a", "assets": {"B04": {"href": href}}}])
    found = entries(tmp_path)
    assert len(found) == 2
    for path in found:
        raw = path.read_bytes()
        body = raw.partition(b"\n")[2]
        text = zlib.decompress(body) if path.parent.name == "search" else body
        assert b"SECRET" not in raw + text + os.fsencode(path)


DAMAGE = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[:-3],
    "grown": lambda raw: raw + b"x",
    "flipped": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "not ours": lambda raw: b'{"schema": 1, "data": []}',
    "older": lambda raw: raw.replace(b"cache %d" % disk_cache.SCHEMA, b"cache 1", 1),
    "noise": lambda raw: b"\xff\xfe\n" * 9,
}


@pytest.mark.parametrize("body", [b"{", b'"abc"', b"[1, 2]", b'{"a": 1}', b"[" * 10**5, b'["x", 1]', b"\xff"])
def test_whole_entries_that_hold_something_else_are_misses(tmp_path, body):
    """Whoever can write into the folder can seal them, too."""
    cache = DiskCache(tmp_path)
    cache._store(cache._path("header", "k"), body + b"\ndata")
    cache._store(cache._path("search", "k"), zlib.compress(body))
    assert cache.get_header("k") is None
    assert cache.get_search("k") is None


def test_an_answer_longer_than_any_search_is_a_miss(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path)
    cache.put_search("k", ITEMS)
    monkeypatch.setattr(disk_cache, "SEARCH_BYTES", 20)
    assert cache.get_search("k") is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_and_those_of_other_versions_are_misses_and_overwritten(tmp_path, damage):
    cache = DiskCache(tmp_path)
    cache.put_header("k", HEADER)
    cache.put_search("k", ITEMS)
    for path in entries(tmp_path):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert cache.get_search("k") is None
    assert cache.get_header("k") is None
    cache.put_header("k", HEADER)
    cache.put_search("k", ITEMS)
    assert cache.get_header("k") == HEADER
    assert cache.get_search("k")[0] == ITEMS


def test_the_oldest_go_when_the_folder_is_full(tmp_path):
    cache = DiskCache(tmp_path, cap=1 << 30)
    for n in range(10):
        cache.put_header(str(n), Header(bytes([n]) * 1000, 9999))
        os.utime(cache._path("header", str(n)), (0, time.time() - 1000 + n))
    cache.put_search("k", ITEMS)
    DiskCache(tmp_path, cap=1).trim()  # wrote nothing, so removes nothing
    assert len(entries(tmp_path)) == 11
    small = DiskCache(tmp_path, cap=5500)
    small.put_header("new", Header(b"x" * 400, 9999))
    small.trim()
    assert [n for n in range(10) if small.get_header(str(n))] == [6, 7, 8, 9]
    assert small.get_header("new") is not None
    assert small.get_search("k") is not None
    assert sum(p.stat().st_size for p in entries(tmp_path)) <= 5500


def test_one_long_run_stays_within_a_tenth_of_the_cap(tmp_path):
    cache = DiskCache(tmp_path, cap=20_000)
    for n in range(100):
        cache.put_header(str(n), Header(b"x" * 1000, 9999))
        assert sum(p.stat().st_size for p in entries(tmp_path)) <= 23_500


def test_only_own_files_are_removed(tmp_path):
    DiskCache(tmp_path).put_header("k", HEADER)
    (own,) = entries(tmp_path)
    foreign = [tmp_path / "header" / "notes.txt", tmp_path / "thesis.entry", tmp_path / "header" / ("a" * 40)]
    left = own.with_name(f".{own.name}.123.{'0' * 32}")
    fresh = own.with_name(f".{own.name}.124.{'1' * 32}")
    for path in (*foreign, left):
        path.write_text("x" * 1000)
        os.utime(path, (0, 1))
    fresh.write_text("x" * 1000)  # another process is writing it
    cache = DiskCache(tmp_path, cap=10)
    cache.put_header("k", HEADER)
    cache.trim()
    assert entries(tmp_path) == sorted([*foreign, fresh])


def use_everything(cache):
    cache.put_search("k", ITEMS)
    cache.put_header("k", HEADER)
    cache.add_header("l", HEADER)
    got = cache.get_search("k"), cache.get_header("k")
    cache.drop_header("k")
    cache.trim()
    return got


def test_a_folder_that_is_a_file_warns_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(BestPixelWarning, match="cannot be used") as caught:
        assert use_everything(DiskCache(tmp_path / "file")) == (None, None)
    assert len(caught) == 1


def refuse(*args, **kwargs):
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_read_only_folder_still_serves(tmp_path, monkeypatch):
    DiskCache(tmp_path).put_header("known", HEADER)
    for name in ("mkdir", "write_bytes", "unlink", "replace"):
        monkeypatch.setattr(f"pathlib.Path.{name}", refuse)
    told = []
    cache = DiskCache(tmp_path, warn=told.append)
    assert use_everything(cache) == (None, None)
    assert cache.get_header("known") == HEADER
    assert len(told) == 1
    assert "Read-only file system" in told[0]
    assert str(tmp_path) in told[0]


def test_a_full_disk_leaves_no_half_file_and_is_not_tried_again(tmp_path, monkeypatch):
    told, tried = [], []
    cache = DiskCache(tmp_path, warn=told.append)
    cache.put_search("k", ITEMS)

    def full(self, body):
        tried.append(self)
        with self.open("wb") as f:
            f.write(body[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    for _ in range(3):
        cache.put_search("k", [{"id": "new"}])
        cache.put_header("k", HEADER)
    assert cache.get_search("k")[0] == ITEMS
    assert len(entries(tmp_path)) == len(tried) == len(told) == 1
    assert "No space left" in told[0]


def test_entries_that_another_process_removes_meanwhile(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path)
    cache.put_search("k", ITEMS)
    (path,), scandir = entries(tmp_path), os.scandir

    def raced(folder):
        found = scandir(folder)
        path.unlink(missing_ok=True)
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(os, "scandir", raced)
        cache.trim()
    monkeypatch.undo()
    assert not entries(tmp_path)


def test_large_answers_take_little_room(tmp_path):
    items = [
        {
            "id": f"S2B_31TGJ_{n}",
            "assets": {f"B{b:02d}": {"href": f"https://a.test/{n}/{b}.tif"} for b in range(12)},
        }
        for n in range(200)
    ]
    DiskCache(tmp_path).put_search("k", items)
    (path,) = entries(tmp_path)
    assert path.stat().st_size < len(json.dumps(items)) / 5
