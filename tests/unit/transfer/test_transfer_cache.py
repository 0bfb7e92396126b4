"""Caches: bounds, age, damage, unusable folders."""

from __future__ import annotations

import os
import threading
import warnings

import pytest

from bestpixel_gpu.errors import BestPixelWarning
from bestpixel_gpu.transfer.cache import DiskCache, Header, HeaderCache


def test_memory_keeps_the_most_recently_used_within_its_bytes():
    cache = HeaderCache(cap=5000)
    for name in "abc":
        cache.put(name, Header(b"x" * 1000, 9999))
    assert cache.get("a") is not None
    cache.put("d", Header(b"x" * 1000, 9999))
    assert cache.get("b") is None
    assert {n for n in "acd" if cache.get(n)} == {"a", "c", "d"}
    assert cache.bytes <= 5000
    cache.put("huge", Header(b"x" * 6000, None))
    assert cache.get("huge") is None
    assert cache.bytes == 0


def test_memory_replaces_and_drops():
    cache = HeaderCache()
    cache.put("a", Header(b"1", 1))
    cache.put("a", Header(b"22", 2))
    once = cache.bytes
    assert cache.get("a") == Header(b"22", 2)
    cache.drop("a")
    cache.drop("a")
    assert cache.bytes == 0 < once


def test_memory_under_threads():
    cache = HeaderCache(cap=20_000)

    def work(seed):
        for n in range(2000):
            cache.put(str((n * seed) % 50), Header(b"x" * (n % 900), n))
            cache.get(str(n % 50))
            cache.drop(str((n + seed) % 50))

    threads = [threading.Thread(target=work, args=(s,)) for s in (3, 7, 11)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for n in range(50):
        cache.drop(str(n))
    assert cache.bytes == 0


@pytest.mark.parametrize(
    ("size", "total", "wanted", "serves"),
    [(100, 500, 100, True), (100, 500, 101, False), (100, 100, 9999, True), (100, None, 101, False)],
)
def test_whether_a_header_serves(size, total, wanted, serves):
    assert Header(b"x" * size, total).serves(wanted) is serves


def test_disk_returns_what_was_put(tmp_path):
    cache = DiskCache(tmp_path / "new" / "folder")
    assert cache.get("search", "k") is None
    cache.put("search", "k", [{"id": "é"}, 1.5])
    cache.put("search", "other", [])
    assert cache.get("search", "k") == [{"id": "é"}, 1.5]
    assert cache.get("search", "other") == []
    assert cache.get("scout", "k", max_age_s=60) is None
    header = Header(bytes(range(256)) + b"\n\n", None)
    cache.put_header("k", header)
    assert DiskCache(cache.root).get_header("k") == header
    cache.drop_header("k")
    cache.drop_header("k")
    assert cache.get_header("k") is None


def test_disk_names_hide_the_key_and_nothing_half_written_stays(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put("search", "https://a.test/secret", 1)
    cache.put_header("https://a.test/secret", Header(b"II*\0", 4))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(p.suffix for p in files) == [".bin", ".json"]
    assert all(len(p.stem) == 40 and b"secret" not in p.read_bytes() for p in files)


def test_disk_forgets_with_age(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put("search", "k", 1)
    cache.put_header("k", Header(b"x", 1))
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (0, path.stat().st_mtime - 2 * 86400))
    assert cache.get("search", "k") is None
    assert cache.get("search", "k", max_age_s=3 * 86400) == 1
    assert cache.get_header("k") is not None
    assert cache.get_header("k", max_age_s=3600) is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"schema": 0, "data": 1}', b"\xff\xfe", b"[1,2,3]\nxx", b"5\n"]
)
def test_damaged_files_are_a_miss(tmp_path, body):
    cache = DiskCache(tmp_path)
    cache.put("search", "k", 1)
    cache.put_header("k", Header(b"x", 1))
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(body)
    assert cache.get("search", "k") is None
    assert cache.get_header("k") is None


def test_a_flipped_bit_in_a_header_is_a_miss(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put_header("k", Header(b"abcdef", 6))
    (path,) = tmp_path.rglob("*.bin")
    path.write_bytes(path.read_bytes()[:-1] + b"g")
    assert cache.get_header("k") is None


def test_an_unusable_folder_warns_once_and_never_fails(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = DiskCache(blocked)
    with pytest.warns(BestPixelWarning, match="cannot be used"):
        cache.put("search", "a", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for key in "abc":
            cache.put("search", key, 1)
            cache.put_header(key, Header(b"x", 1))
            assert cache.get("search", key) is None
            assert cache.get_header(key) is None


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path)
    cache.put("search", "k", "old")

    def full(self, body):
        with self.open("wb") as f:
            f.write(body[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.warns(BestPixelWarning, match="No space left"):
        cache.put("search", "k", "new")
    assert cache.get("search", "k") == "old"
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


def test_writers_of_one_key_do_not_disturb_each_other(tmp_path):
    def work(n):
        mine = DiskCache(tmp_path)
        for _ in range(50):
            mine.put("search", "k", [n] * 500)
            got = mine.get("search", "k")
            assert got is not None
            assert len(set(got)) == 1

    failures = []

    def guarded(n):
        try:
            work(n)
        except BaseException as exc:
            failures.append(exc)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=guarded, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not failures
