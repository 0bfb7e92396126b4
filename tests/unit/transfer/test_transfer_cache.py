"""Headers in memory: bounds, threads, names."""

from __future__ import annotations

import threading

import pytest

from bestpixel_gpu.transfer.addresses import locate
from bestpixel_gpu.transfer.cache import Header, HeaderCache, cache_key, holds_token


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


@pytest.mark.parametrize(
    ("href", "key"),
    [
        ("https://a.test/b/c.tif", "https://a.test/b/c.tif"),
        ("https://a.test/c.tif?st=1&se=2&sp=rl&sv=2024&sr=c&sig=x%2B", "https://a.test/c.tif"),
        (
            "https://a.test/c.tif?X-Amz-Signature=1&versionId=7&X-Amz-Date=2#f",
            "https://a.test/c.tif?versionId=7",
        ),
        ("https://me:pw@a.test/get?file=a.tif&access_token=s", "https://a.test/get?file=a.tif"),
        ("https://a.test/get?file=b.tif", "https://a.test/get?file=b.tif"),
        ("/data/odd?name=#1.tif", "/data/odd?name=#1.tif"),
        ("s3://sentinel-cogs/a/b.tif", "https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/b.tif"),
    ],
)
def test_files_are_named_without_what_lets_in_but_with_what_tells_which(href, key):
    assert cache_key(locate(href)) == key


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("https://x.blob.core.windows.net/c/a.tif?st=2024&se=2025&sp=rl&sig=abc", True),
        ("https://s3.test/a.tif?X-Amz-Security-Token=abc", True),
        ("https://s3.test/a.tif?AWSAccessKeyId=1&Signature=abc&Expires=2", True),
        ("https://a.test/a.tif?x=1&amp;access_token=abc", True),
        ("https://me:secret@a.test/a.tif", True),
        ("https://a.test/tiles?collection=sentinel-2-l2a&item=S2A&assets=visual&format=png", False),
        ("https://a.test/a@b.tif design=1 token=next", False),
    ],
)
def test_tokens_are_seen_in_texts(text, holds):
    assert holds_token(f'{{"href": "{text}"}}') is holds
