"""The own HTTP client: heads in pieces, bodies of every framing, connections used again, TLS."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bestpixel_gpu.errors import SourceError
from bestpixel_gpu.transfer import wire as wire_module
from bestpixel_gpu.transfer.buffers import BUFFERS
from bestpixel_gpu.transfer.http import HttpTransport, Retry
from bestpixel_gpu.transfer.http1 import chunk_size, parse_head, speaks
from bestpixel_gpu.transfer.transport import BrokenOffError
from bestpixel_gpu.transfer.wire import HEAD_BYTES, Connection, Wire

BODY = bytes(range(256)) * 1200
BODY_BYTES = len(BODY)
LIMITS = {"connect": 2.0, "read": 2.0, "total": 5.0}


class Server:
    """Answers each request on each connection as `script(number of the request)` says."""

    def __init__(self, script):
        self.script, self.requests, self.connections, self.hung_up = script, [], 0, asyncio.Event()

    async def talk(self, reader, writer):
        self.connections += 1
        number = self.connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append((number, head))
                for part in self.script(len(self.requests)):
                    if part is None:
                        return
                    if isinstance(part, float):
                        await asyncio.sleep(part)
                        continue
                    writer.write(part)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.hung_up.set()
            writer.close()


@asynccontextmanager
async def talking(script, context=None):
    """A server, a client and the address between them."""
    server = Server(script)
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0, ssl=context)
    wire = Wire()
    scheme = "http" if context is None else "https"
    try:
        yield server, wire, f"{scheme}://localhost:{listener.sockets[0].getsockname()[1]}/a/b.tif?sig=x%2By"
    finally:
        await wire.close()
        listener.close()
        assert not wire._standing


@pytest.fixture(scope="module", autouse=True, params=[True, False], ids=["early", "late"])
def _when_the_body_has_its_place(request):
    """Before the request goes out, or when the answer's head has been looked at."""
    fetch.early = request.param


async def fetch(wire, url, most=BODY_BYTES, into=None, **limits):
    take = BUFFERS.take if into is None else lambda size: into[:size]
    place = {"most": most, "take": take} if fetch.early else {}
    answer = await wire.get(url, {"Range": "bytes=0-9"}, **(LIMITS | limits | place))
    try:
        body = await answer.body(most, take)
        return answer, None if body is None else bytes(body)
    finally:
        answer.release()


def plain(body=BODY, *more):
    head = f'HTTP/1.1 206 Partial Content\r\ncontent-LENGTH: {len(body)}\r\nETag: "é"\r\n'
    return (head + "".join(f"{line}\r\n" for line in more) + "\r\n").encode("latin-1") + body


def test_requests_go_out_as_they_are_over_one_connection():
    async def run():
        async with talking(lambda n: [plain()]) as (server, wire, url):
            for _ in range(3):
                answer, body = await fetch(wire, url)
                assert (answer.status, answer.headers["etag"], body) == (206, '"é"', BODY)
                assert answer.received == answer.content_length == len(BODY)
            assert server.connections == 1
            lines = server.requests[0][1].decode().split("\r\n")
            assert lines[0] == "GET /a/b.tif?sig=x%2By HTTP/1.1"
            assert f"Host: {url.split('/')[2]}" in lines
            assert {"Accept-Encoding: identity", "Range: bytes=0-9"} <= set(lines)

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, 1, 5, HEAD_BYTES - 200, HEAD_BYTES, len(BODY)])
@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_bodies_of_every_size_however_late(size, pause):
    async def run():
        whole = plain(BODY[:size])
        cut = whole.index(b"\r\n\r\n") + 4 + size // 2
        async with talking(lambda n: [whole[:cut], pause, whole[cut:]]) as (server, wire, url):
            for _ in range(2):
                assert (await fetch(wire, url))[1] == BODY[:size]
            assert server.connections == 1

    asyncio.run(run())


def test_a_body_nobody_asks_for_yet_waits():
    async def run():
        async with talking(lambda n: [plain()]) as (server, wire, url):
            for _ in range(2):
                answer = await wire.get(url, {}, **LIMITS)
                await asyncio.sleep(0.05)  # the scratch buffer is full by now
                assert await answer.body(len(BODY)) == BODY
                answer.release()
            assert server.connections == 1

    asyncio.run(run())


def test_heads_and_chunks_byte_by_byte():
    async def run():
        chunks = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks += b"3;a=b\r\nabc\r\n00A \r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
        parts = [part for byte in chunks for part in (bytes([byte]), 0.0)]
        async with talking(lambda n: parts) as (server, wire, url):
            for _ in range(2):
                answer, body = await fetch(wire, url, most=13)
                assert (answer.content_length, body) == (None, b"abc0123456789")
            assert (await fetch(wire, url, most=12))[1] is None
            assert server.connections == 1

    asyncio.run(run())


def test_large_chunks_arrive_whole():
    async def run():
        pieces = [BODY[n : n + 100_000] for n in range(0, len(BODY), 100_000)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
        head = b"HTTP/1.1 206 x\r\nTransfer-Encoding: Chunked\r\n\r\n"
        async with talking(lambda n: [head + body]) as (server, wire, url):
            for _ in range(2):
                assert (await fetch(wire, url))[1] == BODY
            assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize("extra", [b"", b"x"])
def test_bodies_until_the_end(extra):
    async def run():
        async with talking(lambda n: [b"HTTP/1.0 206 x\r\n\r\n" + BODY + extra, None]) as (server, wire, url):
            for _ in range(2):
                _, body = await fetch(wire, url)
                assert body == (None if extra else BODY)
            assert server.connections == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "last", ["Connection: close", "Connection: Keep-Alive, Close"], ids=["close", "among others"]
)
def test_a_server_that_wants_to_hang_up_may(last):
    async def run():
        async with talking(lambda n: [plain(BODY, last)]) as (server, wire, url):
            for _ in range(2):
                assert (await fetch(wire, url))[1] == BODY
            assert server.connections == 2

    asyncio.run(run())


def test_into_a_buffer_and_not_a_byte_further():
    async def run():
        async with talking(lambda n: [plain()]) as (_, wire, url):
            buffer = bytearray(len(BODY) + 10)
            _, body = await fetch(wire, url, into=memoryview(buffer))
            assert body == BODY == buffer[:-10]
            assert buffer[-10:] == bytes(10)

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 x\r\n\r\n",
        b"HTTP/1.1 200 x\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 x\r\nA: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 x\r\nContent-Length : 1\r\n\r\n1",
        b"HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 x\r\nContent-Length: ²\r\n\r\n".encode("latin-1"),
        b"HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        b"HTTP/1.1 200 x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 x\r\nX: " + b"y" * HEAD_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 200 x\r\nX: y",
        plain()[:1000],
        b"",
    ],
)
def test_what_is_damaged_is_an_error_and_hung_up_on(answer):
    async def run():
        async with talking(lambda n: [answer, None]) as (_, wire, url):
            with pytest.raises(BrokenOffError) as caught:
                await fetch(wire, url)
            assert "sig" not in str(caught.value)
            assert not wire._idle

    asyncio.run(run())


def test_what_a_fresh_connection_never_answers_is_sent_once():
    async def run():
        async with talking(lambda n: [None]) as (server, wire, url):
            with pytest.raises(BrokenOffError):
                await fetch(wire, url)
            assert len(server.requests) == 1

    asyncio.run(run())


def test_a_closed_connection_is_replaced_in_silence():
    async def run():
        # The second request meets a connection that ends before any answer.
        async with talking(lambda n: [None] if n == 2 else [plain()]) as (server, wire, url):
            for _ in range(2):
                assert (await fetch(wire, url))[1] == BODY
            assert [number for number, _ in server.requests] == [1, 1, 2]

    asyncio.run(run())


def test_a_connection_closed_while_idle_is_not_used():
    async def run():
        async with talking(lambda n: [plain(), None]) as (server, wire, url):
            for _ in range(3):
                assert (await fetch(wire, url))[1] == BODY
                await asyncio.sleep(0.05)
                assert not wire._standing
            assert [number for number, _ in server.requests] == [1, 2, 3]

    asyncio.run(run())


@pytest.mark.parametrize("late", [0.0, 0.05])
def test_bytes_nobody_asked_for_end_the_connection(late):
    async def run():
        async with talking(lambda n: [plain(), late, b"HTTP/1.1 200 x\r\n\r\n"]) as (server, wire, url):
            for _ in range(2):
                assert (await fetch(wire, url))[1] == BODY
                await asyncio.sleep(0.1)
            assert server.connections == 2

    asyncio.run(run())


def test_idle_connections_are_closed_in_time(monkeypatch):
    monkeypatch.setattr(wire_module, "KEEP_S", 0.05)

    async def run():
        async with talking(lambda n: [plain()]) as (server, wire, url):
            await fetch(wire, url)
            assert len(wire._standing) == 1
            await asyncio.wait_for(server.hung_up.wait(), 2)
            assert not wire._standing
            assert not wire._idle
            assert (await fetch(wire, url))[1] == BODY

    asyncio.run(run())


@pytest.mark.parametrize("where", ["head", "body"])
@pytest.mark.parametrize("limit", ["read", "total"])
def test_limits(where, limit):
    async def run():
        parts = [b"HTTP/1.1 206 x\r\nContent-Length: 1000\r\n" + (b"\r\n" if where == "body" else b"X: ")]
        drip = [b"a", 0.02] * 40 if limit == "total" else [1.0]
        async with talking(lambda n: parts + drip) as (server, wire, url):
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                await fetch(wire, url, **{limit: 0.2})
            assert 0.15 < time.monotonic() - begun < 1.5
            await asyncio.wait_for(server.hung_up.wait(), 4)

    asyncio.run(run())


def test_a_slow_answer_within_its_limits_is_waited_for():
    async def run():
        whole = plain(b"0123456789")
        parts = [part for byte in whole for part in (bytes([byte]), 0.005)]
        async with talking(lambda n: parts) as (_, wire, url):
            begun = time.monotonic()
            assert (await fetch(wire, url, read=0.2))[1] == b"0123456789"
            assert time.monotonic() - begun > 0.25

    asyncio.run(run())


@pytest.mark.parametrize(("first", "second"), [(5.0, 0.2), (0.2, 0.2)])
def test_each_request_of_a_connection_has_its_own_limit(first, second):
    async def run():
        async with talking(lambda n: [0.9, plain()] if n == 3 else [plain()]) as (server, wire, url):
            await fetch(wire, url, read=first)
            await asyncio.sleep(0.3)
            assert (await fetch(wire, url, read=first))[1] == BODY, "it is timed from its own beginning"
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                await fetch(wire, url, read=second)
            assert 0.15 < time.monotonic() - begin < 0.7
            assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize("where", ["head", "body"])
def test_cancelling_hangs_up_and_leaves_the_buffer_alone(where):
    async def run():
        whole = plain()
        parts = [5.0] if where == "head" else [whole[:200_000], 0.2, whole[200_000:]]
        async with talking(lambda n: parts) as (_, wire, url):
            buffer = bytearray(len(BODY))
            task = asyncio.create_task(fetch(wire, url, into=memoryview(buffer)))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            seen = bytes(buffer)
            await asyncio.sleep(0.3)
            assert bytes(buffer) == seen
            assert seen.startswith(BODY[:100_000]) is (where == "body")
            assert not wire._standing

    asyncio.run(run())


class FakeTransport(asyncio.Transport):
    """Takes everything, and hangs up when told."""

    def __init__(self):
        super().__init__()
        self.closed, self.paused, self.protocol = False, False, None

    def write(self, data):
        pass

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def is_closing(self):
        return self.closed

    def abort(self):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


def feed(connection, data, step):
    """Hand `data` over as a transport does: at most `step` bytes at once, into the buffer it is given."""
    while data and not connection._transport.closed:
        if connection._transport.paused:
            yield
            continue
        buffer = connection.get_buffer(-1)
        count = min(step, len(buffer), len(data))
        assert count
        buffer[:count] = data[:count]
        connection.buffer_updated(count)
        data = data[count:]
        yield


def test_a_loop_that_goes_on_after_it_was_paused_loses_nothing():
    async def run():
        transport, wire = FakeTransport(), Wire()
        connection = transport.protocol = Connection(wire._standing)
        connection.connection_made(transport)
        wire._connect = lambda origin: asyncio.sleep(0, connection)
        for _ in range(2):
            task = asyncio.create_task(fetch(wire, "http://x.test/"))
            await asyncio.sleep(0.001)
            for _ in feed(connection, plain(), 1 << 20):
                transport.paused = False  # the data had been read before, all at once
            assert (await task)[1] == BODY
        await wire.close()

    asyncio.run(run())


pieces = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    b"\r\n",
                    b"\r\n\r\n",
                    b": ",
                    b"HTTP/1.1 206 x\r\n",
                    b"Content-Length: 3\r\n",
                    b"\0",
                    b"0\r\n",
                ),
                b"Transfer-Encoding: chunked\r\n\r\n",
                b"3\r\nabc\r\n",
                b"x" * 70_000,
                b"Connection: close\r\n",
            ]
        ),
        st.binary(max_size=20),
    ),
    max_size=12,
).map(b"".join)


@settings(max_examples=200)
@given(pieces, st.sampled_from([1, 7, 1000, 1 << 20]), st.sampled_from([b"", b"HTTP/1.1 206 x\r\n"]))
def test_any_bytes_end_in_an_answer_or_an_error(data, step, first):
    async def run():
        transport, wire, buffer = FakeTransport(), Wire(), bytearray(1000)
        connection = transport.protocol = Connection(wire._standing)
        connection.connection_made(transport)
        wire._connect = lambda origin: asyncio.sleep(0, connection)
        task = asyncio.create_task(fetch(wire, "http://x.test/", most=1000, into=memoryview(buffer)))
        await asyncio.sleep(0.001)
        for _ in feed(connection, first + data, max(step, len(data) // 500)):
            await asyncio.sleep(0)
            if task.done():
                break
        transport.abort()
        try:
            answer, body = await asyncio.wait_for(task, 2)
        except BrokenOffError:
            return
        assert 100 <= answer.status < 600
        assert body is None or body in first + data or answer.headers["transfer-encoding"]
        assert len(connection._raw) == HEAD_BYTES

    asyncio.run(run())


@given(st.binary(max_size=60))
def test_the_pure_parts_fail_in_one_way(data):
    for parse in (parse_head, chunk_size):
        with suppress(BrokenOffError):
            parse(data)
    assert chunk_size(b"%x ;%b" % (len(data), data)) == len(data)


def test_what_is_left_to_the_general_client():
    assert speaks("https://example.test/a%20b?c=d")
    for url in (
        "http://u:p@x.test/",
        "http://é.test/",
        "http://x.test/a b",
        "http://x.test/\n",
        "ftp://x.test/",
    ):
        assert not speaks(url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem -subj /CN=localhost"
    )
    made = subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("this openssl makes no certificate with a name in it")
    return folder


def test_tls(certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    names = []
    context.sni_callback = lambda line, name, context: names.append(name)
    quick = Retry(base=0.001)

    async def run():
        def script(n):  # in turn whole, and cut off in the middle
            body = plain(BODY, f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}")
            return [body] if n % 3 else [body[:100_000], None]

        noise = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: noise.append(what))
        async with talking(script, context) as (server, _, url):
            http = HttpTransport(retry=quick)
            with pytest.raises(SourceError, match="certificate is not trusted") as caught:
                await http.read_range(url, 0, len(BODY))
            assert caught.value.attempts == 1
            await http.close()
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
            http = HttpTransport(retry=quick)
            for _ in range(4):
                assert (await http.read_range(url, 0, len(BODY))).data == BODY
            assert len(server.requests) == 5
            assert len({number for number, _ in server.requests}) == 2
            with pytest.raises(SourceError, match="certificate is not trusted"):
                await http.read_range(url.replace("localhost", "127.0.0.1"), 0, 10)
            await http.close()
        assert "localhost" in names
        assert not [what for what in noise if "CERTIFICATE" not in repr(what).upper()]

    asyncio.run(run())
