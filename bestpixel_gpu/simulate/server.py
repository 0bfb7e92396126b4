"""Serve an embedded archive on loopback, from a thread of this process or from a child process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bestpixel_gpu.errors import InputError, SourceError
from bestpixel_gpu.simulate.archive import items as items_of
from bestpixel_gpu.simulate.faults import Faults
from bestpixel_gpu.simulate.options import ROOTS, ServerOptions
from bestpixel_gpu.simulate.spec import DIALECTS, Dialect

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class LocalArchive:
    """A served archive."""

    folder: Path
    url: str
    """``http://127.0.0.1:<port>``"""
    options: ServerOptions
    """As the server was started; :meth:`reset` without arguments returns to them."""

    @property
    def bbox(self) -> Box:
        """``(west, south, east, north)`` in degrees, inside the home country."""
        west, south, east, north = self._notes()["bbox"]
        return west, south, east, north

    def bbox_of(self, tile: str) -> Box:
        """A box inside one tile, by its MGRS code.

        Raises
        ------
        InputError
            If the archive has no such tile.
        """
        boxes = {t["name"]: t["bbox"] for t in self._notes()["tile_list"]}
        if tile not in boxes:
            raise InputError(f"the archive has no tile {tile!r}: choose of {sorted(boxes)}")
        west, south, east, north = boxes[tile]
        return west, south, east, north

    @property
    def tiles(self) -> list[str]:
        """MGRS codes."""
        return [t["name"] for t in self._notes()["tile_list"]]

    def _notes(self) -> dict[str, Any]:
        notes: dict[str, Any] = json.loads((self.folder / "archive.json").read_text())
        return notes

    def stac_url(self, endpoint: Dialect) -> str:
        """Root of the STAC API that stands for `endpoint`."""
        if endpoint not in DIALECTS:
            raise InputError(f"unknown endpoint {endpoint!r}: choose of {DIALECTS}")
        return self.url + ROOTS[endpoint]

    def items(self, endpoint: Dialect) -> list[dict[str, Any]]:
        """All items of an endpoint, with hrefs at this server."""
        return items_of(self.folder, endpoint, self.url)

    def stats(self) -> dict[str, Any]:
        """Counters since the last reset: requests, bytes, status, wall_s, open_peak, paths, log."""
        found: dict[str, Any] = self._ask("/__stats")
        return found

    def reset(self, **options: Any) -> None:
        """Zero the counters and take these options; all others go back to those of the start.

        Parameters
        ----------
        options
            Fields of :class:`~bestpixel_gpu.simulate.ServerOptions`.
        """
        self._ask("/__reset", asdict(self.options) | options)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url + path, data), timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serve(folder: Path, *, port: int = 0, process: bool = False, **options: Any) -> Iterator[LocalArchive]:
    """The archive in `folder`, served on 127.0.0.1 as long as the context lasts.

    Parameters
    ----------
    folder
        As :func:`~bestpixel_gpu.simulate.build` left it.
    port
        0: any free one.
    process
        Serve from a child process, so that the CPU time of a client can be measured alone.
    options
        Fields of :class:`~bestpixel_gpu.simulate.ServerOptions`.

    Raises
    ------
    InputError
        If there is no archive, or an option is unknown.
    SourceError
        If the server does not start.
    """
    chosen = checked_options(folder, options)
    run = _in_process if process else _in_thread
    with run(Path(folder), port, chosen) as url:
        local = LocalArchive(Path(folder), url, chosen)
        if process:
            local.reset()
        yield local


def checked_options(folder: Path, options: dict[str, Any]) -> ServerOptions:
    """The options, after a look at them and at the folder; errors as :func:`serve`."""
    if not (Path(folder) / "archive.json").is_file():
        raise InputError(f"{folder} holds no complete archive: build one there first")
    try:
        chosen = ServerOptions(**options)
    except TypeError as exc:
        names = [f.name for f in fields(ServerOptions)]
        raise InputError(f"unknown server option among {sorted(options)}: choose of {names}") from exc
    Faults.parse(chosen.faults)
    return chosen


async def run_server(
    folder: Path, port: int, options: ServerOptions, ready: Any, stop: asyncio.Event
) -> None:
    """Serve until `stop`; ``ready(url)`` is called once requests are accepted."""
    from aiohttp import web

    from bestpixel_gpu.simulate.app import Archive

    runner = web.AppRunner(
        Archive(folder, options).application(),
        access_log=None,
        shutdown_timeout=0.2,
        handler_cancellation=True,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        ready(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await stop.wait()
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def _in_thread(folder: Path, port: int, options: ServerOptions) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    started = threading.Event()
    urls: list[str] = []
    failed: list[BaseException] = []

    def ready(url: str) -> None:
        urls.append(url)
        started.set()

    def work() -> None:
        try:
            loop.run_until_complete(run_server(folder, port, options, ready, stop))
        except OSError as exc:
            failed.append(exc)
        finally:
            loop.close()
            started.set()

    thread = threading.Thread(target=work, name="embedded-archive", daemon=True)
    thread.start()
    started.wait(30)
    if not urls:
        raise SourceError(f"the embedded archive could not be served: {failed[0] if failed else 'no answer'}")
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


@contextlib.contextmanager
def _in_process(folder: Path, port: int, options: ServerOptions) -> Iterator[str]:
    command = [sys.executable, "-m", "bestpixel_gpu.simulate", "serve", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            url = child.stdout.readline().strip()
            if not url.startswith("http://"):
                raise SourceError("the embedded archive could not be served from a child process")
            yield url
        finally:
            child.terminate()
