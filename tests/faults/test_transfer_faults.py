"""Servers that misbehave: what is retried, what is refused, what is said."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections import Counter

import pytest
from aiohttp import web

from bestpixel_gpu.errors import AuthError, CatalogError, InputError, MissingError, SourceError, StalledError
from bestpixel_gpu.transfer import clients, wire
from bestpixel_gpu.transfer.buffers import Buffers
from bestpixel_gpu.transfer.cache import HeaderCache
from bestpixel_gpu.transfer.disk_cache import DiskCache
from bestpixel_gpu.transfer.http import HttpTransport, Retry, Timeouts
from bestpixel_gpu.transfer.loop import run_sync
from bestpixel_gpu.transfer.reader import ChangedError, Reader

DATA = bytes((i * 7 + i // 251) % 256 for i in range(300_000))
QUICK = Retry(base=0.005)
SHORT = Timeouts(connect=0.5, read=0.3, total=2.0)


class Server:
    """A file server in a thread; ``/<fault>/<times>/name`` goes wrong the first `times` times."""

    def __init__(self):
        self.hits, self.log, self.connections, self.files = Counter(), [], set(), {}
        self.loop = asyncio.new_event_loop()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)

    async def _start(self):
        app = web.Application()
        app.router.add_get("/{fault}/{times}/{name:.*}", self.handle)
        app.router.add_get("/json/{name}", self.document)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    def stop(self):
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def document(self, request):
        self.log.append(request.raw_path)
        if request.match_info["name"] == "busy" and len(self.log) == 1:
            return web.json_response(
                {"message": "Rate limit is exceeded. Try again in 1 seconds."}, status=429
            )
        if request.match_info["name"] == "html":
            return web.Response(text="<html>", content_type="text/html")
        return web.json_response({"token": "a=1", "accept": request.headers["Accept-Encoding"]})

    async def handle(self, request):
        info = request.match_info
        self.log.append(request.raw_path)
        self.connections.add(request.transport.get_extra_info("peername"))
        key = info["fault"], info["name"], request.headers.get("Range")
        self.hits[key] += 1
        data = self.files.get(info["name"], DATA)
        if self.hits[key] <= int(info["times"]):
            return await getattr(self, info["fault"].partition("-")[0])(request, data, info["fault"])
        return self.good(request, data)

    def good(self, request, data):
        first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
        first, last = int(first), min(int(last), len(data) - 1)
        if first > last:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(
            status=206,
            body=data[first : last + 1],
            headers={"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": '"v1"'},
        )

    async def status(self, request, data, fault):
        return web.Response(status=int(fault.split("-")[1]), text="no")

    async def wait(self, request, data, fault):
        _, status, seconds = fault.split("-")
        return web.Response(status=int(status), headers={"Retry-After": seconds})

    async def reset(self, request, data, fault):
        request.transport.abort()
        return web.Response()

    async def short(self, request, data, fault):
        response = self.good(request, data)
        cut = web.StreamResponse(status=206, headers=response.headers)
        cut.content_length = len(response.body)
        await cut.prepare(request)
        await cut.write(response.body[:100])
        request.transport.close()
        return cut

    async def honest_short(self, request, data, fault):
        response = self.good(request, data)
        return web.Response(status=206, body=response.body[:100], headers=response.headers)

    async def long(self, request, data, fault):
        response = self.good(request, data)
        return web.Response(status=206, body=response.body + b"more", headers=response.headers)

    async def whole(self, request, data, fault):
        return web.Response(body=data, headers={"ETag": '"v1"'})

    async def endless(self, request, data, fault):
        response = web.StreamResponse()
        response.content_length = 1 << 40
        await response.prepare(request)
        try:
            while True:
                await response.write(b"\0" * 65536)
        finally:
            self.stopped.set()

    async def shifted(self, request, data, fault):
        response = self.good(request, data)
        response.headers["Content-Range"] = f"bytes 1-{len(response.body)}/{len(data)}"
        return response

    async def early(self, request, data, fault):
        response = self.good(request, data)
        unit, _, rest = response.headers["Content-Range"].partition(" ")
        first, _, rest = rest.partition("-")
        response.headers["Content-Range"] = f"{unit} {int(first) - 1}-{rest}"
        return response

    async def unranged(self, request, data, fault):
        response = self.good(request, data)
        del response.headers["Content-Range"]
        return response

    async def gzipped(self, request, data, fault):
        response = self.good(request, data)
        response.headers["Content-Encoding"] = "gzip"
        return response

    async def silent(self, request, data, fault):
        try:
            await asyncio.sleep(60)
        finally:
            self.stopped.set()
        return web.Response()

    async def drip(self, request, data, fault):
        response = web.StreamResponse(status=206, headers=self.good(request, data).headers)
        response.content_length = 1000
        await response.prepare(request)
        for byte in data[:1000]:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.1)
        return response

    async def login(self, request, data, fault):
        raise web.HTTPFound("https://login.test/form?return=secret")

    async def region(self, request, data, fault):
        return web.Response(status=301, headers={"x-amz-bucket-region": "eu-north-1"})

    async def azure(self, request, data, fault):
        return (
            self.good(request, data)
            if request.query.get("sig") == "new"
            else web.Response(
                status=403, text="<Detail>Signature not valid in the specified time frame: x</Detail>"
            )
        )

    async def paid(self, request, data, fault):
        return web.Response(
            status=403, text="Anonymous users cannot invoke requests against Requester Pays buckets"
        )


@pytest.fixture(autouse=True, params=["wire", "aiohttp"])
def client(request, monkeypatch):
    """Every fault meets both clients that carry ranges."""
    if request.param == "aiohttp":
        monkeypatch.setattr("bestpixel_gpu.transfer.http.speaks", lambda url: False)
    return request.param


@pytest.fixture
def faulty():
    faulty = Server()
    yield faulty
    faulty.stop()


def with_reader(use, **options):
    async def run():
        options.setdefault("retry", QUICK)
        options.setdefault("timeouts", SHORT)
        options.setdefault("header_cache", HeaderCache())
        async with Reader(**options) as reader:
            result = await use(reader)
        assert reader.counters.active == 0
        return result

    noise = []

    async def quiet():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
        return await run()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = asyncio.run(quiet())
    assert not noise
    return result


def read(faulty, path, offset=1000, length=5000, **options):
    counters = []

    async def use(reader):
        counters.append(reader.counters)
        return bytes(await reader.read(f"{faulty.url}/{path}?sig=secret", offset, length))

    return with_reader(use, **options), counters[0]


def failure(faulty, path, kind=SourceError, **options):
    with pytest.raises(SourceError) as caught:
        read(faulty, path, **options)
    error = caught.value
    assert type(error) is kind
    assert "secret" not in repr(error) + error.url
    assert "\n" not in str(error)
    assert f"{faulty.url}/{path}" in str(error)
    assert error.__cause__ is error.__context__ is None  # their texts might show the token
    return error


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        *((f"status-{s}", 4) for s in (408, 425, 429, 500, 502, 503, 504)),
        ("short", 4),
        ("honest_short", 1),
        ("long", 1),
        ("shifted", 1),
        ("early", 1),
        ("unranged", 1),
        ("gzipped", 1),
        ("endless", 1),
    ],
)
def test_passing_faults_are_tried_again(faulty, fault, wanted):
    data, counters = read(faulty, f"{fault}/{wanted}/x.tif")
    assert data == DATA[1000:6000]
    assert counters.retries == wanted
    assert counters.requests == wanted + 1
    assert counters.by_kind["tile"].requests == wanted + 1
    assert counters.peak == 1


@pytest.mark.parametrize("fault", ["status-500", "status-429", "short"])
def test_lasting_faults_end_after_five_tries(faulty, fault):
    error = failure(faulty, f"{fault}/99/x.tif")
    assert error.attempts == len(faulty.log) == 5
    assert error.status == (int(fault.split("-")[1]) if "-" in fault else None)
    assert "5 times" in str(error)


def test_resets_are_tried_again_up_to_five_times(faulty):
    data, counters = read(faulty, "reset/4/x.tif")
    assert data == DATA[1000:6000]
    assert counters.retries >= 2
    faulty.log.clear()
    error = failure(faulty, "reset/99/y.tif")
    assert (error.attempts, error.status) == (5, None)
    assert 5 <= len(faulty.log) <= 10  # aiohttp sends each once more by itself


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("status-404", MissingError, "not there"),
        ("status-410", MissingError, "not there"),
        ("status-401", AuthError, "credentials"),
        ("status-403", AuthError, "credentials"),
        ("status-409", AuthError, "credentials"),
        ("status-418", SourceError, "418"),
        ("paid", AuthError, "lets its readers pay"),
        ("azure", AuthError, "out of date"),
        ("login", SourceError, "https://login.test/form"),
        ("region", SourceError, "eu-north-1"),
    ],
)
def test_final_answers_are_asked_for_once(faulty, fault, kind, words):
    error = failure(faulty, f"{fault}/99/x.tif", kind, timeouts=Timeouts())
    assert words in str(error)
    assert error.attempts == len(faulty.log) == 1


@pytest.mark.parametrize("fault", ["shifted", "early", "unranged", "gzipped", "long", "endless"])
def test_fix_10_wrong_answers_are_asked_for_twice(faulty, fault):
    error = failure(faulty, f"{fault}/99/x.tif", timeouts=Timeouts())  # a busy machine is not the fault meant
    assert error.attempts == len(faulty.log) == 2


def test_fix_10_a_whole_file_that_is_small_is_cut(faulty):
    data, counters = read(faulty, "whole/99/x.tif")
    assert data == DATA[1000:6000]
    assert counters.requests == 1
    assert counters.bytes == len(DATA)


def test_a_whole_file_that_is_large_is_hung_up_on(faulty):
    failure(faulty, "endless/99/x.tif", length=100)
    assert faulty.stopped.wait(5)


def test_a_header_longer_than_the_file_is_the_file(faulty):
    faulty.files["small.tif"] = DATA[:700]

    async def use(reader):
        first = await reader.header(f"{faulty.url}/ok/0/small.tif")
        again = await reader.header(f"{faulty.url}/ok/0/small.tif?sig=other")
        assert first == again == (DATA[:700], 700)
        assert reader.counters.requests == 1
        assert reader.counters.by_kind["header"].bytes == 700
        with pytest.raises(SourceError, match="ends at byte 700"):
            await reader.read(f"{faulty.url}/ok/0/small.tif", 600, 200)
        with pytest.raises(SourceError, match="416"):
            await reader.read(f"{faulty.url}/ok/0/small.tif", 700, 10)

    with_reader(use)


def test_retry_after_is_honoured_by_the_whole_host(faulty):
    async def use(reader):
        begun = time.monotonic()
        refused = asyncio.create_task(reader.read(f"{faulty.url}/wait-429-1/1/x.tif", 0, 10))
        async with asyncio.timeout(5):
            while not reader.counters.retries:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.01)
        await reader.read(f"{faulty.url}/ok/0/other.tif", 0, 10)
        assert 0.95 <= time.monotonic() - begun < 5.0
        assert bytes(await refused) == DATA[:10]

    with_reader(use)


def test_fix_09_a_silent_server_is_given_up(faulty):
    begun = time.monotonic()
    error = failure(
        faulty, "silent/99/x.tif", StalledError, timeouts=Timeouts(connect=1, read=0.1, total=0.5)
    )
    assert time.monotonic() - begun < 3.0
    assert error.attempts > 1
    assert isinstance(error, TimeoutError)


def test_a_dripping_server_is_given_up(faulty):
    begun = time.monotonic()
    failure(faulty, "drip/99/x.tif", StalledError, length=1000, timeouts=Timeouts(read=0.5, total=0.6))
    assert time.monotonic() - begun < 3.0


def test_nobody_listens():
    async def use(reader):
        with pytest.raises(SourceError, match="connection failed") as caught:
            await reader.read("http://127.0.0.1:9/x.tif?sig=secret", 0, 10)
        assert caught.value.attempts == 5
        assert "secret" not in str(caught.value)

    with_reader(use)


class FakeSigner:
    """Tokens that the server took once; a renewed one is good."""

    def __init__(self, fails=None):
        self.signed, self.renewed, self.fails = [], [], fails

    async def sign(self, href):
        if self.fails:
            raise self.fails
        self.signed.append(href)
        return href + "?sig=old%2B%2F%3A%3D"

    async def renew(self, href):
        self.renewed.append(href)
        return href + "?sig=new"


def test_a_refused_token_is_renewed_once(faulty):
    signer, href = FakeSigner(), f"{faulty.url}/azure/99/x.tif"

    async def use(reader):
        return bytes(await reader.read(href, 5, 10, signed=True))

    assert with_reader(use, signer=signer) == DATA[5:15]
    assert (signer.signed, signer.renewed) == ([href], [href])
    assert faulty.log[0].endswith("?sig=old%2B%2F%3A%3D")  # as signed, not encoded once more


def test_a_token_refused_twice_is_an_error(faulty):
    signer = FakeSigner()

    async def use(reader):
        with pytest.raises(AuthError) as caught:
            await reader.read(f"{faulty.url}/status-403/99/x.tif", 5, 10, signed=True)
        assert caught.value.attempts == 2
        assert "sig=" not in str(caught.value)

    with_reader(use, signer=signer)
    assert len(signer.renewed) == 1


def test_only_what_is_called_signed_gets_a_token(faulty):
    signer = FakeSigner()

    async def use(reader):
        await reader.read(f"{faulty.url}/ok/0/x.tif", 5, 10)
        reader.signer = None
        with pytest.raises(InputError, match="signer"):
            await reader.read(f"{faulty.url}/ok/0/x.tif", 5, 10, signed=True)

    with_reader(use, signer=signer)
    assert faulty.log == ["/ok/0/x.tif"]
    assert not signer.signed


def test_a_signer_without_tokens_is_an_auth_error(faulty):
    async def use(reader):
        (got,) = await reader.read_many(f"{faulty.url}/ok/0/x.tif", [(0, 5)], signed=True)
        assert isinstance(got, AuthError)
        assert "service is down" in str(got)

    with_reader(use, signer=FakeSigner(CatalogError("the signing service is down")))
    assert not faulty.log


def test_read_many_merges_neighbours_and_keeps_the_order(faulty):
    spans = [(200_000, 3000), (100, 50), (203_000, 3000), (0, 100), (100_000, 10), (204_000, 500)]

    async def use(reader):
        got = await reader.read_many(f"{faulty.url}/ok/0/x.tif", spans)
        assert [bytes(g) for g in got] == [DATA[o : o + n] for o, n in spans]
        assert reader.counters.requests == 3
        assert reader.counters.bytes == 150 + 10 + 6000

    with_reader(use)


def test_read_many_names_what_failed_and_gives_the_rest(faulty):
    faulty.files["x.tif"] = DATA[:100_000]

    async def use(reader):
        spans = [(0, 10), (99_990, 20), (99_980, 10), (200_000, 10)]
        one, cut, two, gone = await reader.read_many(f"{faulty.url}/ok/0/x.tif", spans)
        assert (bytes(one), bytes(two)) == (DATA[:10], DATA[99_980:99_990])
        assert isinstance(cut, SourceError)
        assert isinstance(gone, SourceError)
        assert gone.status == 416

    with_reader(use)


def test_a_replaced_file_is_noticed_until_its_header_is_read_again(faulty, tmp_path):
    href, memory, disk = f"{faulty.url}/ok/0/x.tif", HeaderCache(), DiskCache(tmp_path)
    options = {"header_cache": memory, "disk_cache": tmp_path}

    async def first(reader):
        await reader.header(href)

    async def then(reader):
        assert (await reader.header(href))[1] == len(DATA)
        assert reader.counters.requests == 0
        faulty.files["x.tif"] = DATA[:-1]
        for _ in range(2):
            with pytest.raises(ChangedError, match="changed"):
                await reader.read(href, 10, 10)
        assert memory.get(href) is None
        assert disk.get_header(href) is None
        assert (await reader.header(href))[1] == len(DATA) - 1
        assert bytes(await reader.read(href, 10, 10)) == DATA[10:20]

    with_reader(first, **options)
    memory.drop(href)  # as in a new process: only the disk knows it
    with_reader(then, **options)


def test_fix_22_bytes_in_flight_and_concurrency_stay_below_their_caps(faulty):
    async def use(reader):
        href = f"{faulty.url}/ok/0/"
        await asyncio.gather(*(reader.read(f"{href}{n}", n, 50_000) for n in range(40)))
        assert reader.counters.peak <= 2

    with_reader(use, in_flight_bytes=100_000)

    async def few(reader):
        href = f"{faulty.url}/ok/0/"
        await asyncio.gather(*(reader.read(f"{href}{n}", n, 50_000) for n in range(40)))
        assert reader.counters.peak == 3

    with_reader(few, concurrency=3)


def test_fix_34_cancelled_reads_hang_up(faulty):
    async def use(reader):
        spans = [(n * 20_000, 10) for n in range(10)]
        task = asyncio.create_task(reader.read_many(f"{faulty.url}/silent/99/x.tif", spans))
        async with asyncio.timeout(5):
            while len(faulty.log) < 10:  # noqa: ASYNC110 (another thread's list)
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reader.counters.active == 0
        assert len(asyncio.all_tasks()) == 1
        assert bytes(await reader.read(f"{faulty.url}/ok/0/x.tif", 0, 5)) == DATA[:5]

    with_reader(use, timeouts=Timeouts())
    assert faulty.stopped.wait(5)


def test_readers_of_one_loop_share_connections(faulty):
    async def use(reader):
        async with Reader(header_cache=HeaderCache()) as other:
            for n in range(4):
                await (reader, other)[n % 2].read(f"{faulty.url}/ok/0/x.tif", n, 10)
        await reader.read(f"{faulty.url}/ok/0/x.tif", 4, 10)

    with_reader(use)
    assert len(faulty.connections) == 1


async def one_run(faulty, *, keep):
    reader = Reader(header_cache=HeaderCache())
    try:
        assert bytes(await reader.read(f"{faulty.url}/ok/0/x.tif", 0, 5)) == DATA[:5]
    finally:
        await reader.close(keep=keep)


def standing():
    """Connections of the own client to files that are open."""
    return sum(len(shared.wire._standing) for shared in clients._by_loop.values())


def test_runs_one_after_the_other_share_connections(faulty, client):
    own = client == "wire"
    for _ in range(3):
        run_sync(one_run(faulty, keep=True))
    assert (len(faulty.connections), standing()) == (1, own)
    run_sync(one_run(faulty, keep=False))
    assert (len(faulty.connections), standing()) == (1, 0)
    run_sync(one_run(faulty, keep=True))
    assert (len(faulty.connections), standing()) == (2, own)
    run_sync(one_run(faulty, keep=False))
    assert not clients._by_loop


def test_kept_connections_end_in_time(faulty, client, monkeypatch):
    if client == "aiohttp":
        pytest.skip("aiohttp ends its own")
    monkeypatch.setattr(wire, "KEEP_S", 0.2)
    run_sync(one_run(faulty, keep=True))
    assert standing() == 1
    end = time.monotonic() + 5
    while standing() and time.monotonic() < end:
        time.sleep(0.05)
    assert standing() == 0
    run_sync(one_run(faulty, keep=False))
    assert len(faulty.connections) == 2


def test_a_loop_of_the_caller_keeps_none(faulty):
    """It may be closed before they are."""
    for n in (1, 2):
        asyncio.run(one_run(faulty, keep=True))
        assert (len(faulty.connections), standing()) == (n, 0)


def test_what_a_host_stood_is_where_the_next_run_begins(faulty):
    async def run(count):
        transport = HttpTransport()
        url = f"{faulty.url}/ok/0/x.tif"
        await asyncio.gather(*(transport.read_range(url, n, 10) for n in range(count)))
        (host,) = transport._hosts.values()
        await transport.close()
        return host.limit.limit

    assert [asyncio.run(run(n)) for n in (20, 48, 20, 60)] == [32, 48, 48, 60]


def test_what_a_host_refused_is_remembered_too(faulty):
    async def run(url):
        transport = HttpTransport(retry=QUICK)
        await asyncio.gather(*(transport.read_range(url, n, 10) for n in range(20)))
        (host,) = transport._hosts.values()
        await transport.close()
        return host.limit.limit

    assert 16 <= asyncio.run(run(f"{faulty.url}/status-429/1/x.tif")) < 20  # halved; perhaps risen by one
    assert asyncio.run(run(f"{faulty.url}/ok/0/y.tif")) == 20  # as the last few had to wait


def test_a_reader_stays_with_its_loop(faulty):
    reader = Reader(header_cache=HeaderCache())
    href = f"{faulty.url}/ok/0/x.tif"

    async def main():
        await reader.read(href, 0, 1)
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, reader.read(href, 0, 1))
        await reader.close()

    asyncio.run(main())
    asyncio.run(read_and_close(reader, href))


async def read_and_close(reader, href):
    assert bytes(await reader.read(href, 0, 1)) == DATA[:1]
    await reader.close()


def test_json(faulty):
    async def use(reader):
        assert (await reader.get_json(f"{faulty.url}/json/token"))["accept"] == "identity"
        with pytest.raises(SourceError, match="not JSON"):
            await reader.get_json(f"{faulty.url}/json/html?sig=secret")
        faulty.log.clear()
        begun = time.monotonic()
        assert (await reader.get_json(f"{faulty.url}/json/busy"))["token"] == "a=1"
        assert time.monotonic() - begun >= 1.0  # the number stands in the text alone

    with_reader(use)


def test_into_a_buffer(faulty):
    async def run():
        http, given = HttpTransport(retry=QUICK), []

        def take(size):
            given.append(bytearray(size))
            return memoryview(given[-1])

        answer = await http.read_range(f"{faulty.url}/short/1/x.tif", 299_800, 300, take)
        assert bytes(answer.data) == DATA[299_800:] == bytes(given[-1])
        assert answer.data.readonly
        assert len(given) == 2, "asked for when an answer's head is there, anew for each try"
        assert (answer.total, answer.version) == (len(DATA), '"v1"')
        await http.close()

    asyncio.run(run())


def test_tiles_are_received_into_the_callers_memory(faulty):
    given = []

    def take(size):
        given.append(bytearray(size))
        return memoryview(given[-1])

    async def use(reader):
        url = f"{faulty.url}/ok/0/x.tif"
        await reader.header(url)
        assert not given, "headers are small and kept"
        spans = [(1000, 300), (200_000, 5000), (1300, 40)]
        got = await reader.read_many(url, spans)
        assert [bytes(view) for view in got] == [DATA[at : at + size] for at, size in spans]
        assert got[0].obj is got[2].obj
        assert {id(view.obj) for view in got} == {id(block) for block in given}

    with_reader(use, take=take)


def test_a_resting_connection_keeps_no_body(faulty):
    buffers = Buffers()

    async def use(reader):
        view = await reader.read(f"{faulty.url}/ok/0/x.tif", 1000, 100_000)
        assert len(view) == 100_000 <= buffers.in_use
        del view
        gc.collect()
        assert buffers.in_use == 0

    with_reader(use, take=buffers.take)


def test_the_environment_names_a_proxy(faulty, monkeypatch):
    monkeypatch.setenv("http_proxy", faulty.url)
    monkeypatch.delenv("no_proxy", raising=False)

    async def use(reader):
        return bytes(await reader.read("http://nowhere.invalid/ok/0/x.tif", 3, 4))

    assert with_reader(use) == DATA[3:7]
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    with pytest.raises(SourceError, match="connection failed"):
        with_reader(use)
