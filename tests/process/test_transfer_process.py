"""run_sync in scripts, running loops, threads, forked children, at Ctrl-C and at its time limit."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bestpixel_gpu.errors import StalledError
from bestpixel_gpu.transfer.loop import run_sync

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


async def answer(value=42):
    await asyncio.sleep(0)
    return value


def test_in_a_script_and_from_many_threads():
    assert run_sync(answer()) == 42
    got = []
    threads = [threading.Thread(target=lambda n=n: got.append(run_sync(answer(n)))) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(got) == list(range(8))
    assert [t.name for t in threading.enumerate()].count("bestpixel-io") == 1
    assert all(t.daemon for t in threading.enumerate() if t.name == "bestpixel-io")


def test_inside_a_running_loop():
    async def cell():
        return run_sync(answer(7))

    assert asyncio.run(cell()) == 7


def test_from_its_own_loop_it_refuses():
    async def inner():
        with pytest.raises(RuntimeError, match="use await"):
            run_sync(answer())
        return "refused"

    assert run_sync(inner()) == "refused"


def test_the_callers_context_is_carried_over():
    variable = contextvars.ContextVar("variable", default="unset")

    async def look():
        return variable.get()

    variable.set("mine")
    assert run_sync(look()) == "mine"


def test_errors_pass_through():
    async def fail(kind):
        raise kind("own")

    for kind in (ValueError, TimeoutError):
        with pytest.raises(kind, match="own") as caught:
            run_sync(fail(kind), timeout=5)
        assert not isinstance(caught.value, StalledError)


def test_the_time_limit_cancels_and_says_what_to_do():
    ended = []

    async def stuck():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    begun = time.monotonic()
    with pytest.raises(StalledError, match=r"timeout=0.1 s: raise timeout="):
        run_sync(stuck(), timeout=0.1)
    assert time.monotonic() - begun < 2.0
    assert ended == [True]
    assert run_sync(answer()) == 42


def child(queue):
    queue.put((run_sync(answer(1)), [t.name for t in threading.enumerate()].count("bestpixel-io")))


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_a_forked_child_and_still_in_its_parent():
    assert run_sync(answer()) == 42
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=child, args=(queue,)) for _ in range(3)]
    for w in workers:
        w.start()
    assert [queue.get(timeout=20) for _ in workers] == [(1, 1)] * 3
    for w in workers:
        w.join(20)
        assert w.exitcode == 0
    assert run_sync(answer()) == 42


SERVER = """
import asyncio, sys
from aiohttp import web
DATA = bytes(range(256)) * 100
async def good(request):
    first, last = map(int, request.headers["Range"][6:].split("-"))
    last = min(last, len(DATA) - 1)
    return web.Response(status=206, body=DATA[first:last + 1],
                        headers={"Content-Range": f"bytes {first}-{last}/{len(DATA)}"})
async def silent(request):
    await asyncio.sleep(600)
async def main():
    app = web.Application()
    app.router.add_get("/good", good)
    app.router.add_get("/silent", silent)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url():
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


def start(source, *args):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", source, *args],  # says more of what is left behind
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def complaints(err):
    """What a process said, but for warnings about forks and, on a busy machine, of asyncio's debug mode."""
    expected = "multi-threaded", "os.fork()", "Executing <"
    return [line for line in err.splitlines() if not any(part in line for part in expected)]


AIOHTTP = """
import bestpixel_gpu.transfer.http
bestpixel_gpu.transfer.http.speaks = lambda url: False
"""
CLIENTS = {"wire": "", "aiohttp": AIOHTTP}


FORKED = """
import multiprocessing, sys
from bestpixel_gpu.transfer.cache import HeaderCache
from bestpixel_gpu.transfer.loop import run_sync
from bestpixel_gpu.transfer.reader import Reader
reader, url = Reader(header_cache=HeaderCache()), sys.argv[1]
def look(n):
    return bytes(run_sync(reader.read(url, n, 4)))
def work(n):
    got = [look(n + i) for i in range(3)]
    run_sync(reader.close())
    return got
before = look(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    for n, got in enumerate(pool.map(work, range(6))):
        assert got == [bytes(range(n + i, n + i + 4)) for i in range(3)], got
assert look(0) == before == bytes(range(4))
print("well")
"""


@needs_fork
@pytest.mark.parametrize("client", CLIENTS)
def test_a_reader_goes_on_in_forked_children_and_in_their_parent(url, client):
    process = start(
        CLIENTS[client] + FORKED, f"{url}/good"
    )  # leaves its reader open: nothing may complain at exit
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out.strip(), complaints(err)) == (0, "well", [])


LEFT_OPEN = """
import concurrent.futures.thread, logging, os, random, sys, threading
if sys.argv[2] == "no fork" and hasattr(os, "register_at_fork"):
    del os.register_at_fork
from bestpixel_gpu.transfer.cache import HeaderCache
from bestpixel_gpu.transfer.loop import run_sync
from bestpixel_gpu.transfer.reader import Reader
reader = Reader(header_cache=HeaderCache())
print(len(run_sync(reader.read(sys.argv[1], 0, 4))))
if sys.argv[3] == "wire":
    assert "aiohttp" not in sys.modules  # it takes longer to import than a small composite to read
"""


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("system", ["this one", "no fork"])
def test_a_reader_left_open_makes_no_noise_at_exit(url, system, client):
    source = LEFT_OPEN.replace("reader =", f"{CLIENTS[client]}reader =", 1)
    process = start(source, f"{url}/good", system, client)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out.strip(), complaints(err)) == (0, "4", [])


FORKED_PLAINLY = """
import os, sys, time
from bestpixel_gpu.transfer.cache import HeaderCache
from bestpixel_gpu.transfer.loop import run_sync
from bestpixel_gpu.transfer.reader import Reader
reader, url = Reader(header_cache=HeaderCache()), sys.argv[1]
assert len(run_sync(reader.read(url, 0, 4))) == 4
begun, pid = time.monotonic(), os.fork()
if not pid:
    if sys.argv[2] == "reads":
        assert len(run_sync(reader.read(url, 1, 4))) == 4
    sys.exit(0)  # takes everything down in order, unlike the end of a pool's worker
assert os.waitpid(pid, 0)[1] == 0
assert time.monotonic() - begun < 0.9
assert len(run_sync(reader.read(url, 2, 4))) == 4
print("well", reader.counters.retries)
"""


@needs_fork
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("child", ["reads", "only ends"])
def test_a_forked_child_may_end_like_a_script_without_harm_to_its_parent(url, child, client):
    process = start(CLIENTS[client] + FORKED_PLAINLY, f"{url}/good", child)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out.strip(), complaints(err)) == (0, "well 0", [])


CACHES = """
import os, signal, threading
from bestpixel_gpu.transfer.cache import HEADERS, Header
stop = threading.Event()
def hammer():
    while not stop.is_set():
        for n in range(100):
            HEADERS.put(str(n), Header(b"x" * n, n))
threads = [threading.Thread(target=hammer) for _ in range(2)]
for t in threads: t.start()
for _ in range(30):
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        HEADERS.put("mine", Header(b"y", 1))
        os._exit(0 if HEADERS.get("mine").data == b"y" and 0 < HEADERS.bytes else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
print("well")
"""


@needs_fork
def test_the_header_cache_survives_a_fork_in_the_middle_of_a_change():
    process = start(CACHES)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out.strip()) == (0, "well"), err


INTERRUPTED = """
import asyncio, os, sys, threading
from bestpixel_gpu.transfer.cache import HeaderCache
from bestpixel_gpu.transfer.loop import run_sync
from bestpixel_gpu.transfer.reader import Reader
async def work():
    reader = Reader(header_cache=HeaderCache())
    spans = [(n * 10**6, 10) for n in range(20)]
    task = asyncio.create_task(reader.read_many(sys.argv[1], spans))
    while reader.counters.active < 20:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    print("waiting", flush=True)
    try:
        await task
    finally:
        if sys.argv[2] == "closes":
            await reader.close()
def sockets():
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return sum(link.startswith("socket:") for link in links)
run_sync(asyncio.sleep(0))
before = sockets() if sys.platform == "linux" else 0
try:
    run_sync(work())
except KeyboardInterrupt:
    left = sockets() - before if sys.platform == "linux" else 0
    print("interrupted", left, flush=True)
    raise
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent another way there")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("closes", ["closes", "leaves open"])
def test_ctrl_c_stops_everything_within_a_second(url, closes, client):
    process = start(CLIENTS[client] + INTERRUPTED, f"{url}/silent", closes)
    assert process.stdout.readline().strip() == "waiting"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 1.5
    assert out.split() == ["interrupted", "0"]
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1
    for noise in ("Exception in", "Task was destroyed", "never retrieved", "Unclosed", "Warning"):
        assert noise not in err


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")
def test_ctrl_c_returns_only_after_the_callbacks_that_close_sockets():
    ended = []

    def close():
        time.sleep(0.1)
        ended.append(True)

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            asyncio.get_running_loop().call_soon(close)  # as a transport does

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            run_sync(work())
        assert ended == [True]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


INTERRUPTED_ANYWHERE = """
import asyncio, random, signal
from bestpixel_gpu.transfer import loop

def interrupt(number, frame):
    raise KeyboardInterrupt

loop._POLL_S = 1e-4  # so that it hits every part of the wait
signal.signal(signal.SIGALRM, interrupt)
draw = random.Random(1)
for _ in range(60):
    signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.001, 0.005))
    try:
        loop.run_sync(asyncio.sleep(60))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")
def test_ctrl_c_is_ctrl_c_wherever_it_hits_the_wait():
    command = [sys.executable, "-c", INTERRUPTED_ANYWHERE]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("interrupted") == 60


def test_a_stuck_coroutine_does_not_keep_ctrl_c_waiting():
    source = """
import asyncio, time
from bestpixel_gpu.transfer.loop import run_sync
async def stubborn():
    print("waiting", flush=True)
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(600)
run_sync(stubborn())
"""
    process = start(source)
    assert process.stdout.readline().strip() == "waiting"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert time.monotonic() - begun < 2.0


def test_importing_starts_nothing_and_fetches_nothing_heavy():
    source = """
import sys, threading
import bestpixel_gpu.transfer.loop, bestpixel_gpu.transfer.limits, bestpixel_gpu.transfer.ranges
assert threading.active_count() == 1
assert not {"aiohttp", "numba", "pyproj"} & set(sys.modules)
"""
    process = start(source)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def test_a_host_that_does_not_accept_is_given_up_within_the_limit():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # accepted by the kernel, never by anybody else
        from bestpixel_gpu.transfer.cache import HeaderCache
        from bestpixel_gpu.transfer.reader import Reader

        async def use():
            async with Reader(header_cache=HeaderCache()) as reader:
                await reader.header(f"http://127.0.0.1:{listener.getsockname()[1]}/x.tif")

        begun = time.monotonic()
        with pytest.raises(StalledError, match="raise timeout="):
            run_sync(use(), timeout=0.3)
        assert time.monotonic() - begun < 2.0
