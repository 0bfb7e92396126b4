"""Many processes on one cache folder: every entry is whole, nobody waits, one that dies disturbs none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bestpixel_gpu.transfer.cache import Header
from bestpixel_gpu.transfer.disk_cache import DiskCache

ROOT = Path(__file__).parents[2]

WORKER = """
import json, sys, time
from bestpixel_gpu.transfer.cache import Header
from bestpixel_gpu.transfer.disk_cache import DiskCache
root, me, cap, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
warned, done, hits = [], 0, 0
cache = DiskCache(root, cap=cap, warn=warned.append)
end = time.monotonic() + seconds
while time.monotonic() < end:
    key = str(done % 7)
    cache.put_header(key, Header(bytes([me]) * (500 + me), me, str(me)))
    cache.put_search(key, [{"id": me}] * (100 + me))
    header, found = cache.get_header(key), cache.get_search(key)
    if header is not None:
        hits += 1
        assert header.data == bytes([header.total]) * (500 + header.total), "mixed"
        assert header.version == str(header.total)
    if found is not None:
        who = found[0][0]["id"]
        assert found[0] == [{"id": who}] * (100 + who), "mixed"
    if done % 50 == 0:
        cache.drop_header(key)
        cache.trim()
    done += 1
print(json.dumps([done, hits, warned]))
"""


def start(root: Path, me: int, cap: int, seconds: float) -> subprocess.Popen[str]:
    arguments = [str(root), str(me), str(cap), str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def results(workers: list[subprocess.Popen[str]]) -> list[tuple[int, int, list[str]]]:
    found = []
    for worker in workers:
        out, err = worker.communicate(timeout=30)
        assert worker.returncode == 0, err
        found.append(tuple(json.loads(out)))
    return found


def test_writers_and_readers_of_the_same_entries(tmp_path: Path) -> None:
    for done, hits, warned in results([start(tmp_path, n, 1 << 30, 1.5) for n in range(4)]):
        assert done > 50
        assert hits > done // 2
        assert warned == []
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) <= 14
    assert all(p.suffix == ".entry" and p.name[0] != "." for p in tmp_path.rglob("*") if p.is_file())


def test_processes_that_trim_what_others_write(tmp_path: Path) -> None:
    for done, _, warned in results([start(tmp_path, n, 3000, 1.5) for n in range(3)]):
        assert done > 30
        assert warned == []
    cache = DiskCache(tmp_path, cap=3000)
    cache.put_header("last", Header(b"x", 1))
    cache.trim()
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.entry")) <= 3000


def test_one_that_is_killed_holds_up_nobody(tmp_path: Path) -> None:
    victims = [start(tmp_path, n, 1 << 30, 30) for n in range(2)]
    while not list(tmp_path.rglob("*.entry")):
        time.sleep(0.01)
    time.sleep(0.2)
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=30)
    ((done, _, warned),) = results([start(tmp_path, 5, 1 << 30, 0.5)])
    assert done > 10
    assert warned == []
    for path in tmp_path.rglob(".*"):  # what they left unfinished goes when it is old
        os.utime(path, (0, time.time() - 7200))
    cache = DiskCache(tmp_path)
    cache.put_header("k", Header(b"x", 1))
    cache.trim()
    assert not list(tmp_path.rglob(".*"))
