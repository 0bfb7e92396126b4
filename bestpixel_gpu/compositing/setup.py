"""From a checked request to a session: endpoint, bands, dates, grid, memory, all before any request."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bestpixel_gpu import engines
from bestpixel_gpu.catalog.providers import Endpoint, resolve_endpoint
from bestpixel_gpu.catalog.search import parse_interval
from bestpixel_gpu.catalog.signing import SasSigner
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.compositing.workers import Workers
from bestpixel_gpu.engines.contract import Engine
from bestpixel_gpu.errors import InputError
from bestpixel_gpu.geo.crs import crs_text
from bestpixel_gpu.geo.grid import ChunkGrid, Grid, chunk_edges, grid_in, grid_of_geobox, native_grid
from bestpixel_gpu.plan.memory import BAND_BYTES, Budget, check_output, output_bytes
from bestpixel_gpu.request import MAX_PIXELS, Request
from bestpixel_gpu.result.report import Report
from bestpixel_gpu.transfer.disk_cache import DiskCache
from bestpixel_gpu.transfer.reader import Reader


@asynccontextmanager
async def open_session(request: Request) -> AsyncIterator[Session]:
    """Everything a run needs; closed again however the run ends.

    Raises
    ------
    InputError, MemoryLimitError, DeviceError
        Before any request is made.
    """
    endpoint = resolve_endpoint(request.endpoint)
    bands = band_names(request.bands, endpoint)
    check_rule(request, endpoint)
    interval = parse_interval(request.datetime)
    grid = output_grid(request, endpoint)
    threads = request.threads or usable_cpus()
    engine = engines.create(request.device, threads, request.inflate)
    workers = Workers(engine.workers)
    try:
        limit = request.memory_limit or engine.budget()
        uncertain = len(bands) if request.emit_uncertainty else 0
        check_output(grid.width * grid.height, len(bands), limit, grid.res_x, uncertain)
        report = Report.begin(request_dict(request), engine.name, threads, engine.note)
        reader = make_reader(request, endpoint, report, engine)
        try:
            yield Session(
                request=request,
                endpoint=endpoint,
                bands=bands,
                interval=interval,
                grid=grid,
                chunks=chunk_grid(grid, request),
                engine=engine,
                workers=workers,
                threads=threads,
                reader=reader,
                counters=reader.counters,
                report=report,
                memory_limit=limit,
                budget=budget_of(limit, grid, len(bands), threads, engine),
            )
        except BaseException:
            await reader.close()
            raise
        await reader.close(keep=True)
    finally:
        workers.close()
        engine.close()


def budget_of(limit: int, grid: Grid, n_bands: int, threads: int, engine: Engine) -> Budget:
    """What each purpose of a run may take of `limit` bytes."""
    pixels = grid.width * grid.height
    bands = pixels * n_bands * BAND_BYTES
    return Budget.of(limit, output_bytes(pixels, n_bands), threads, bands, engine.lookahead)


def usable_cpus() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def band_names(bands: tuple[str, ...] | None, endpoint: Endpoint) -> tuple[str, ...]:
    """The asked bands, or those that all scenes of the endpoint have; InputError names the unknown ones."""
    known = endpoint.bands
    unknown = [b for b in bands or () if b not in known]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise InputError(f"unknown band {names} for {endpoint.name}: choose from {', '.join(known)}")
    return bands or endpoint.default_bands


def check_rule(request: Request, endpoint: Endpoint) -> None:
    """InputError where the endpoint's masks or bands cannot tell what the request goes by."""
    missing = [b for b in request.index_bands if b not in endpoint.bands]
    if missing:
        names = " and ".join(missing)
        raise InputError(f"rule={request.rule!r} needs {names}, which {endpoint.name} does not have")
    if request.cloud_buffer and not any(p.class_rules.cloudy.any() for p in endpoint.collections):
        raise InputError(
            f"cloud_buffer={request.cloud_buffer:g}: no clouds in the masks of {endpoint.name}, leave it out"
        )


def output_grid(request: Request, endpoint: Endpoint) -> Grid:
    """The grid of the request: a geobox's, a CRS's, the archive's own or the UTM one."""
    resolution = endpoint.pixel if request.resolution == "native" else request.resolution
    if request.geobox is not None:
        grid = grid_of_geobox(request.geobox)
    elif request.crs is not None:
        assert request.bbox is not None
        grid = grid_in(request.bbox, resolution, crs_text(request.crs))
    else:
        assert request.bbox is not None
        projection = endpoint.projection if request.output_crs == "native" else "utm"
        grid = native_grid(request.bbox, resolution, projection, endpoint.anchor)
    if not 0 < grid.width * grid.height <= MAX_PIXELS:
        raise InputError(
            f"the grid would be {grid.width} x {grid.height} pixels of {grid.res_x:g}: "
            "check resolution (metres, or units of crs=) and bbox"
        )
    return grid


def chunk_grid(grid: Grid, request: Request) -> ChunkGrid:
    """Selection chunks, anchored at the CRS origin; at the box for the ancestor's order."""
    row0, col0 = (0, 0) if request.order == "ancestor" else (grid.row0, grid.col0)
    return ChunkGrid(chunk_edges(row0, grid.height), chunk_edges(col0, grid.width))


def make_reader(request: Request, endpoint: Endpoint, report: Report, engine: Engine) -> Reader:
    """Reader of ranges into the engine's memory; its signer is asked only for files that need a token."""
    disk = None if request.disk_cache is None else DiskCache(request.disk_cache, warn=report.warn)
    reader = Reader(concurrency=request.concurrency, disk_cache=disk, take=engine.receive_buffer)
    reader.signer = SasSigner(request.stac_url or endpoint.root, reader.get_json)
    return reader


def request_dict(request: Request) -> dict[str, Any]:
    """The request as JSON-able values, for the report."""
    plain = (str, int, float, bool, type(None), list, tuple)
    names = [n for n in request.__dataclass_fields__ if n not in ("items", "progress", "geobox")]
    values = {n: getattr(request, n) for n in names}
    return {n: v if isinstance(v, plain) else repr(v) for n, v in values.items()}
