"""CPU time of receiving byte ranges over HTTP on loopback, by each client in turn; printed as JSON.

Run by hand: ``python benchmarks/transport.py``. CPU seconds of the whole client process, median of
several rounds, connections and imports excluded; the server runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import platform
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from bestpixel_gpu.transfer import http
from bestpixel_gpu.transfer.http import HttpTransport

FILE_BYTES = 64 << 20
CONNECTIONS = 16
ROUNDS = 5
SIZES = {"header_16KiB": (16_384, 2000), "tile_300KB": (300_000, 700), "group_2MB": (2_000_000, 100)}
"""Bytes of a range and requests of a round."""
_RANGE = re.compile(rb"Range: bytes=(\d+)-(\d+)")


def answer(line: socket.socket, data: memoryview) -> None:
    """Answer ranges on one connection until the client hangs up."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pending = b""
    while piece := line.recv(65536):
        pending += piece
        while b"\r\n\r\n" in pending:
            request, _, pending = pending.partition(b"\r\n\r\n")
            match = _RANGE.search(request)
            assert match
            first, last = int(match[1]), int(match[2])
            head = (
                "HTTP/1.1 206 Partial Content\r\nServer: bench\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                f'Content-Type: image/tiff\r\nContent-Length: {last + 1 - first}\r\nETag: "v1"\r\n'
                f"Accept-Ranges: bytes\r\nContent-Range: bytes {first}-{last}/{len(data)}\r\n\r\n"
            )
            line.sendmsg([head.encode()])
            line.sendall(data[first : last + 1])


def serve(told: Connection) -> None:
    """Serve one file of noughts and tell the port."""
    data = memoryview(bytes(FILE_BYTES))
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        told.send(listener.getsockname()[1])
        while True:
            line, _ = listener.accept()
            threading.Thread(target=answer, args=(line, data), daemon=True).start()


async def round_of(transport: HttpTransport, url: str, size: int, requests: int) -> float:
    """CPU seconds of one round."""
    turns = iter(range(requests))

    async def work() -> None:
        for turn in turns:
            offset = turn * 7919 * 512 % (FILE_BYTES - size)
            got = await transport.read_range(url, offset, size)
            assert len(got.data) == size

    before = time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(work())
    return time.process_time() - before


async def measure(url: str, clients: dict[str, Callable[[str], bool]]) -> dict[str, Any]:
    """Figures of every client and size, the clients taking turns."""
    taken: dict[tuple[str, str], list[float]] = {}
    transports = {name: HttpTransport() for name in clients}
    for turn in range(ROUNDS + 1):
        for name, speaks in clients.items():
            http.speaks = speaks  # type: ignore[assignment]
            for label, (size, requests) in SIZES.items():
                spent = await round_of(transports[name], url, size, requests)
                if turn:  # the first round opens connections
                    taken.setdefault((name, label), []).append(spent)
    for transport in transports.values():
        await transport.close()
    figures: dict[str, Any] = {}
    for (name, label), spent in taken.items():
        size, requests = SIZES[label]
        middle = statistics.median(spent)
        figures.setdefault(name, {})[label] = {
            "cpu_us_per_request": round(middle / requests * 1e6, 1),
            "cpu_s_per_GB": round(middle / (size * requests / 1e9), 3),
        }
    return figures


def main() -> None:
    """Measure and print."""
    told, tells = multiprocessing.get_context("spawn").Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(tells,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{told.recv()}/file.tif"
    own = getattr(http, "speaks", lambda url: True)
    clients = {"aiohttp": lambda url: False, "wire": own}
    figures = asyncio.run(measure(url, clients))
    server.kill()
    print(json.dumps({"python": platform.python_version(), "connections": CONNECTIONS, **figures}, indent=2))


if __name__ == "__main__":
    main()
