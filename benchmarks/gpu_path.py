"""The whole way from compressed tiles in host memory to a composite: both engines, and what takes the time.

`Timeline` marks where each launch and copy of a run starts and ends on the device. What inflate
costs is the time in which any inflate was under way; all the rest of the run is "everything else".
`few` and `sweep` try what the loader can be told otherwise: who inflates, and how long it waits for more.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import stack
from gpu_bench import Bench
from stack import Stack

from bestpixel_gpu.engines.contract import Engine
from bestpixel_gpu.engines.cuda.share import Share, Way

INFLATE = ("inflate", "inflate_parallel", "adler32", "nvcomp")
CALLERS = 8
"""Threads that ask the CUDA engine."""
FEW = (1, 4, 16, 64, 256)
"""Streams at hand."""
GATHERS = (0.0, 0.0002, 0.001, 0.004)
"""Seconds that the first batch after a rest waits."""
_LEARNED = 8
"""Loads in which a share has seen both sides."""


class Fixed(Share):
    """Learns nothing: all streams are the host's, or none."""

    def __init__(self, all_of_them: bool, workers: int) -> None:
        super().__init__(workers)
        self._all = all_of_them

    def for_host(self, streams: Sequence[tuple[Way, int]]) -> list[int]:
        """All indices, or none."""
        return list(range(len(streams))) if self._all else []


def shares(cores: int) -> dict[str, Share]:
    """Ways to divide streams between device and host, new ones."""
    workers = max(1, cores // 2)
    return {"device": Fixed(False, workers), "host": Fixed(True, workers), "learned": Share(workers)}


class Span(NamedTuple):
    """Work on the device between two marks."""

    what: str
    start: Any
    end: Any
    nbytes: int = 0


class Timeline:
    """A device that marks the start and the end of what is asked of it."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._device = bench, bench.device
        self.restart()

    def restart(self) -> None:
        """Forget what was, and count from here."""
        self.spans: list[Span] = []
        self._origin = self._bench.mark()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def launch(self, kernel: tuple[str, str], grid: Any, block: Any, args: Any, stream: Any = None) -> None:
        """A kernel, by its file."""
        self._between(kernel[0], stream, lambda: self._device.launch(kernel, grid, block, args, stream))

    def copy_in(self, target: Any, pinned: Any, stream: Any) -> None:
        """Bytes to the device."""
        work = lambda: self._device.copy_in(target, pinned, stream)  # noqa: E731
        self._between("copy to the device", stream, work, pinned.nbytes)

    def call(self, work: Callable[[int], object], stream: Any) -> None:
        """A library: nvCOMP."""
        self._between("nvcomp", stream, lambda: self._device.call(work, stream))

    def seconds(self) -> dict[str, float]:
        """Seconds in which each kind of work was under way, others beside it or not."""
        by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
        between = self._bench.between
        for span in self.spans:
            when = between(self._origin, span.start), between(self._origin, span.end)
            by_kind[span.what].append(when)
            if span.what in INFLATE:
                by_kind["inflate, any"].append(when)
        return {what: covered(spans) for what, spans in by_kind.items()}

    def _between(self, what: str, stream: Any, work: Callable[[], object], nbytes: int = 0) -> None:
        start = self._bench.mark(stream)
        work()
        self.spans.append(Span(what, start, self._bench.mark(stream), nbytes))


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def composite(engine: Engine, given: Stack, threads: int, strips: int, bands_at_once: int) -> dict[str, Any]:
    """Layers of one composite, in the engine's memory."""
    with ThreadPoolExecutor(threads) as executor:
        return stack.compose(engine, given, executor, strips, bands_at_once)


def on_device(engine: Engine, given: Stack) -> dict[str, Any]:
    """By the CUDA engine: whole rasters, two bands at once so that one loads while the other is painted."""
    return composite(engine, given, CALLERS, 1, min(2, len(given.bands)))


def on_cpu(engine: Engine, given: Stack, cores: int) -> dict[str, Any]:
    """By the Numba engine on all cores."""
    return composite(engine, given, cores, cores, 1)


def differing(engine: Engine, layers: dict[str, Any], cpu: Engine, right: dict[str, Any]) -> dict[str, int]:
    """Layers that differ, and in how many pixels."""
    assert layers.keys() == right.keys()
    out = {}
    for name, expected in right.items():
        found = engine.to_host(layers[name])
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        out[name] = int((found != cpu.to_host(expected)).sum())
    return {name: n for name, n in out.items() if n}


def wall(work: Callable[[], object], repeats: int, most: float = 20.0) -> list[float]:
    """Seconds of each of some calls, one at least; what they return is dropped."""
    taken: list[float] = []
    while len(taken) < repeats and (not taken or sum(taken) < most):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def measure(bench: Bench, cpu: Engine, given: Stack, cores: int, repeats: int) -> dict[str, Any]:
    """Both engines on one stack: seconds, differences, memory, and the device's time by kind of work."""
    engine = bench.engine()
    memory = _memory(bench, engine, given)
    layers = on_device(engine, given)
    right = on_cpu(cpu, given, cores)
    wrong = differing(engine, layers, cpu, right)
    del layers, right
    ours = wall(lambda: on_device(engine, given), repeats)
    theirs = wall(lambda: on_cpu(cpu, given, cores), repeats)
    engine.close()
    timed = not bench.emulated
    seconds, by_cpu = statistics.median(ours), statistics.median(theirs)
    return {
        "pixels": given.size, "scenes": len(given.masks), "bands": len(given.bands),
        "decoded_bytes": given.decoded_bytes, "cores": cores, "repeats": [len(ours), len(theirs)],
        "seconds": seconds if timed else None, "cpu_seconds": by_cpu if timed else None,
        "cpu_over_ours": by_cpu / seconds if timed else None,
        "differing": wrong, "memory": memory, "timeline": timeline(bench, given),
    }  # fmt: skip


def timeline(bench: Bench, given: Stack) -> dict[str, Any]:
    """One run, marked: seconds by kind of work, and everything but inflate over inflate."""
    marked = Timeline(bench)
    engine = bench.engine(device=marked)
    on_device(engine, given)  # tables and pinned memory are there after it
    marked.restart()
    start = time.perf_counter()
    on_device(engine, given)
    seconds = time.perf_counter() - start
    under_way = marked.seconds()
    copied = sum(span.nbytes for span in marked.spans)
    engine.close()
    found: dict[str, Any] = {"launches and copies": len(marked.spans), "bytes_to_device": copied}
    if bench.emulated:
        return found | {"seconds": None, "under_way": None, "rest_over_inflate": None}
    inflate = under_way["inflate, any"]
    return found | {"seconds": seconds, "under_way": under_way, "rest_over_inflate": seconds / inflate - 1}


def few(bench: Bench, given: Stack, cores: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Few tiles from host memory to slots, by who inflates: where the device overtakes the host."""
    for n in FEW:
        tiles = given.bands[0][0][:n]
        if len(tiles) < n:
            return
        for who, share in shares(cores).items():
            engine = bench.engine(share=share)
            pool = engine.pool(tiles[0].layout.decoded_bytes, n)

            def load(engine: Any = engine, pool: Any = pool, tiles: Any = tiles) -> None:
                assert not engine.load(pool, range(len(tiles)), tiles).wait().any()

            wall(load, _LEARNED)
            taken = wall(load, 2 * repeats)
            yield {"streams": n, "inflates": who, **_outcome(bench, engine, taken)}
            engine.close()


def sweep(bench: Bench, given: Stack, cores: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Composites by who inflates, and by how long the loader waits for more."""
    settings: list[tuple[str, Any, dict[str, Any]]] = [
        ("inflates", who, {"share": share}) for who, share in shares(cores).items()
    ]
    settings += [("gather", seconds, {"gather": seconds}) for seconds in GATHERS]
    for knob, value, options in settings:
        engine = bench.engine(**options)
        on_device(engine, given)
        taken = wall(lambda engine=engine: on_device(engine, given), repeats)
        yield {knob: value, **_outcome(bench, engine, taken)}
        engine.close()


def _outcome(bench: Bench, engine: Engine, taken: list[float]) -> dict[str, Any]:
    """Median seconds, and what the engine counted and saw."""
    facts = {name: fact for name, fact in engine.describe().items() if not isinstance(fact, str)}
    return {"seconds": None if bench.emulated else statistics.median(taken), "repeats": len(taken), **facts}


def _memory(bench: Bench, engine: Any, given: Stack) -> dict[str, int]:
    """Bytes kept after a first and a second composite that were dropped, and in use before and after all."""
    gc.collect()
    found = {"used before": bench.memory()[0]}
    for turn in ("first", "second"):
        on_device(engine, given)
        gc.collect()
        found[f"kept after the {turn}"] = bench.memory()[1]
    engine.release_memory()
    used, kept = bench.memory()
    return found | {"used after": used, "kept at the end": kept}


def grew(memory: dict[str, int]) -> bool:
    """Whether something was not given back, or a second composite took much more than the first.

    How tiles fall into batches differs from run to run, and with it what is kept for later ones.
    """
    more = memory["kept after the second"] > 1.25 * memory["kept after the first"]
    return more or memory["used after"] > memory["used before"]
