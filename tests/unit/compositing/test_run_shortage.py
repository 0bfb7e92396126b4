"""Whole runs with less memory than they were told: whatever is refused, the bytes are the same."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from whole_run import HOME, assert_same, item_of, path_of, run, winners

from bestpixel_gpu.compositing import rounds, setup, shortage
from bestpixel_gpu.compositing.session import Session
from bestpixel_gpu.engines.contract import Window
from bestpixel_gpu.engines.cpu.engine import CpuEngine
from bestpixel_gpu.errors import MemoryLimitError, PartialResultWarning
from bestpixel_gpu.geo.grid import chunk_edges

Refuse = Callable[[str, tuple[Any, ...]], bool]

TAKES_MEMORY = [
    *("empty", "from_host", "pool", "load", "classify", "surround", "resample", "statistics", "rank"),
    *("settle", "extra_wins", "failed", "keys_of", "reopen", "only", "rivals", "rank_values", "exhausted"),
    *("owners", "paint", "spread"),
]
CASES: list[dict[str, Any]] = [
    {},
    {"endpoint": "earth-search", "fill": False, "order": "newest"},
    {"coverage_target": 0.9, "windowed_fetch": True},
    {"rule": "latest", "cloud_buffer": 75},
    {"rule": "ndvi", "bands": ["nir", "swir16"]},
    {"emit_uncertainty": True, "top_k": 2},
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and blocks of which a small grid has some."""
    monkeypatch.setattr(setup, "chunk_edges", lambda origin, size: chunk_edges(origin, size, 48))
    monkeypatch.setattr(rounds, "SMALL_GRID", 0)
    monkeypatch.setattr(shortage, "LEAST_SIDE", 12)


@contextmanager
def refusing(refuse: Refuse) -> Iterator[list[str]]:
    """The engine refuses calls before they do anything, the layers of the result apart; gives their names."""
    lock, refused, empty = threading.Lock(), list[str](), CpuEngine.empty

    def wrapped(name: str, call: Any) -> Any:
        def short(self: CpuEngine, *args: Any, **options: Any) -> Any:
            with lock:
                no = refuse(name, args)
                refused.extend([name] * no)
            if no:
                raise MemoryError(f"no room to {name}")
            return call(self, *args, **options)

        return short

    with pytest.MonkeyPatch.context() as patch:
        for name in TAKES_MEMORY:
            patch.setattr(CpuEngine, name, wrapped(name, getattr(CpuEngine, name)))
        patch.setattr(Session, "layer", lambda session, *args: empty(session.engine, *args))
        yield refused


def one_after(first: int, times: int = 1) -> Refuse:
    """Refuse so many calls after the first ones."""
    count = iter(range(1 << 30))
    return lambda *_: first <= next(count) < first + times


def larger_than(pixels: int) -> Refuse:
    """Refuse what works on a larger window, or makes a larger array; pools of many tiles, too."""

    def refuse(name: str, args: tuple[Any, ...]) -> bool:
        if name == "pool":
            return bool(args[1] > 40)
        if name == "empty":
            return bool(np.prod(args[0]) > pixels)
        place = {"classify": 2, "owners": 0, "paint": 1, "spread": 1, "statistics": 2}.get(name)
        if place is None:
            return False
        r0, r1, c0, c1 = args[place]
        return bool((r1 - r0) * (c1 - c0) > pixels * (4 if name == "classify" else 1))

    return refuse


def assert_same_run(got: Any, want: Any) -> None:
    """Bytes, and what the report counts once."""
    assert_same(got, want)
    for band, unc in (want.boa_unc or {}).items():
        assert got.boa_unc[band].tobytes() == unc.tobytes()
    lost, told = (sorted((f.item, f.asset, f.tile) for f in c.report.failures) for c in (got, want))
    assert lost == told
    for name in ("lost_tiles", "repair_rounds", "empty_pixels"):
        assert getattr(got.report, name) == getattr(want.report, name), name
    ours, theirs = ([s.pixels_won for s in c.report.scenes] for c in (got, want))
    assert ours == theirs


@pytest.mark.parametrize("options", CASES, ids=str)
def test_any_call_may_find_no_room(server: Any, options: dict[str, Any]) -> None:
    options = {"tile": "all", "resolution": 30, "threads": 3} | options
    want = run(server, **options)
    counted: list[str] = []
    with refusing(lambda name, _: counted.append(name) or False):
        run(server, **options)
    rng = np.random.default_rng(len(counted))
    for first in sorted(rng.choice(len(counted), 5, replace=False)):
        with refusing(one_after(int(first), times=1 + int(first) % 2)) as refused:
            got = run(server, **options)
        assert refused
        assert_same_run(got, want)
        if options.get("rule") != "ndvi":
            assert got.report.wanted_tiles == want.report.wanted_tiles


@pytest.mark.parametrize("options", CASES, ids=str)
def test_nothing_large_finds_room(server: Any, options: dict[str, Any]) -> None:
    options = {"tile": "all", "resolution": 30} | options
    want = run(server, **options)
    with refusing(larger_than(48 * 48)) as refused:
        got = run(server, **options)
    assert {"empty", "classify"} <= set(refused)
    assert_same_run(got, want)


@pytest.mark.parametrize("fill", [0.03, 0.3])
def test_who_was_barred_is_not_when_a_strip_begins_anew(server: Any, fill: float) -> None:
    options: dict[str, Any] = {"tile": "all", "resolution": 30, "top_k": 1, "fill": fill, "threads": 1}
    want, counted = run(server, **options), list[str]()
    with refusing(lambda name, _: counted.append(name) or False):
        run(server, **options)
    first = counted.index("extra_wins")
    assert "rank" in counted[first : counted.index("settle")], "somebody was barred"
    for after in (first + 1, counted.index("settle") - 1):
        with refusing(one_after(after)):
            assert_same_run(run(server, **options), want)


def test_a_part_begins_when_the_last_attempt_has_given_back_its_memory() -> None:
    """Though the error is held by what a frame holds, as tickets of loads do."""

    class Ticket:
        error: MemoryError

        def wait(self) -> None:
            self.error = MemoryError("no room")
            raise self.error

    made: list[weakref.ref[Any]] = []

    def work(window: Window) -> Window:
        assert all(array() is None for array in made)
        array = np.zeros(4)
        made.append(weakref.ref(array))
        if window[1] - window[0] > 100:
            Ticket().wait()
        return window

    gc.disable()
    try:
        found = shortage._part_by_part(work, (0, 300, 0, 10), shortage.halves)
    finally:
        gc.enable()
    assert found == [((a, b, 0, 10),) * 2 for a, b in pairwise((0, 75, 150, 225, 300))]


@pytest.mark.parametrize("rule", ["clearest", "ndvi"])
def test_what_is_lost_is_told_once(server: Any, rule: str) -> None:
    """Lost tiles, and so rounds of repair: a second attempt neither counts nor repairs them again."""
    options: dict[str, Any] = {"rule": rule, "top_k": None, "max_failed": 1.0, "tile": HOME, "resolution": 20}
    names = winners(run(server, **options)).ravel().tolist()
    first, second, *_ = sorted(set(names), key=names.count, reverse=True)
    items = server.items("pc")
    faults = {path_of(item_of(items, i), b): "404" for i, b in ((first, "B11"), (second, "B04"))}

    def broken() -> Any:
        server.reset(faults=faults)  # their headers are known
        with pytest.warns(PartialResultWarning):
            return run(server, **options, threads=1)

    want, counted = broken(), list[str]()
    assert want.report.repair_rounds
    assert {f.asset for f in want.report.failures} == {"B04", "B11"}
    with refusing(lambda name, _: counted.append(name) or False):
        broken()
    repair = counted.index("failed")
    settled = [n for n, name in enumerate(counted) if name == "settle" and n > repair]
    compared = [n for n, name in enumerate(counted) if name == "rank_values"]
    for at in [repair - 1, repair, repair + 2, *settled[:3], *compared[9:40:15], len(counted) - 3]:
        with refusing(one_after(at)) as refused:
            got = broken()
        assert refused
        assert_same_run(got, want)


@pytest.mark.parametrize("options", [{}, {"emit_uncertainty": True}, {"rule": "ndvi"}], ids=str)
def test_a_result_without_room_says_what_would_have(
    server: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    def none(self: CpuEngine, shape: tuple[int, ...], dtype: Any, fill: Any = None) -> Any:
        if np.prod(shape) >= size:
            raise MemoryError("as numpy says it")
        return empty(self, shape, dtype, fill)

    empty, options = CpuEngine.empty, {"resolution": 60} | options
    rows, cols = run(server, **options).grid.shape
    size = rows * cols
    monkeypatch.setattr(CpuEngine, "empty", none)
    with pytest.raises(MemoryLimitError, match=r"for the result alone.* fewer bands"):
        run(server, **options)
