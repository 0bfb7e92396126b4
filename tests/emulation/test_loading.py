"""Loading on the emulated device: whatever the order, the batches and the faults, right tiles or an error."""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import pytest
from emulated_device import EmulatedDevice, EmulatedStream
from forced_share import Forced
from loads import LAYOUTS, SMALL, FakeNvcomp, Work

from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.compositing.session import finished
from bestpixel_gpu.engines.contract import TILE_CORRUPT, TILE_OK, CompressedTile
from bestpixel_gpu.engines.cuda import loading
from bestpixel_gpu.engines.cuda.batches import Batch, Entry, Lane
from bestpixel_gpu.engines.cuda.loading import Loader
from bestpixel_gpu.engines.cuda.pool import CudaPool
from bestpixel_gpu.engines.cuda.receive import Receiver
from bestpixel_gpu.errors import DeviceError, FormatError


@pytest.fixture
def loader_of():
    """Makes loaders that rest for nobody; ends them."""
    made = []

    def make(device, *args, **options):
        made.append(Loader(device, *args, **{"gather": 0, **options}))
        return made[-1]

    yield make
    for loader in made:
        loader.close()
    left = ("bestpixel-load", "bestpixel-copy", "bestpixel-host")
    assert not [t for t in threading.enumerate() if t.name.startswith(left)]


def kernels(device):
    return [name for name, _ in device.launched]


@pytest.mark.parametrize("seed", range(8))
def test_many_callers_pools_and_layouts(loader_of, seed):
    device = EmulatedDevice(seed)
    loader = loader_of(device, stored_bytes=6000)
    works = [Work(device, LAYOUTS * 4, 10 * seed + n) for n in range(3)]
    for work in works:
        work.damage(0)
        work.damage(5)
    parts = [(work, slice(i, i + 4)) for i in range(0, 20, 4) for work in works]
    with ThreadPoolExecutor(4) as threads:
        tickets = list(threads.map(lambda job: job[0].load(loader, job[1]), parts))
    for (_, part), ticket in zip(parts, tickets, strict=True):
        want = [TILE_CORRUPT if i in (0, 5) else TILE_OK for i in range(20)[part]]
        assert ticket.wait().tolist() == want
    for work in works:
        assert all(work.good(i) for i in range(20) if i not in (0, 5))


@pytest.mark.parametrize("seed", range(6))
def test_slots_are_used_again_and_again(loader_of, seed):
    device = EmulatedDevice(seed)
    loader = loader_of(device)
    for turn in range(4):
        work = Work(device, [SMALL] * 5, turn)  # in memory that the one before has dropped
        work.check(work.load(loader))


def test_requests_pile_up_while_a_batch_is_under_way(loader_of):
    device = EmulatedDevice()
    loader = loader_of(device)
    work = Work(device, [SMALL] * 24)
    with device.entered():  # nothing gets on
        tickets = [work.load(loader, slice(i, i + 1)) for i in range(24)]
    assert not any(ticket.wait()[0] for ticket in tickets)
    assert kernels(device).count("undo") <= 3
    assert all(work.good(i) for i in range(24))


def test_the_first_batch_after_a_rest_waits_for_more(loader_of):
    device = EmulatedDevice()
    loader = loader_of(device, gather=0.2)
    work = Work(device, [SMALL] * 6)
    tickets = [work.load(loader, slice(i, i + 1)) for i in range(6)]
    assert not any(ticket.wait()[0] for ticket in tickets)
    assert kernels(device).count("undo") == 1


def test_two_batches_are_on_the_device_each_on_its_stream(loader_of):
    device = EmulatedDevice()
    work = Work(device, [SMALL] * 8)
    loader = loader_of(device, inflated_bytes=2 * SMALL.inflated_bytes)
    work.check(work.load(loader))
    streams = [stream for name, stream in device.launched if name == "undo"]
    assert len(streams) == 4
    assert len(set(streams)) == 2
    assert device.main.number not in streams


def test_the_next_batch_starts_before_the_last_is_waited_for(loader_of, monkeypatch):
    seen = []
    start, finish = Batch.start, Batch.finish
    monkeypatch.setattr(Batch, "start", lambda *a: seen.append("start") or start(*a))
    monkeypatch.setattr(Batch, "finish", lambda *a: seen.append("finish") or finish(*a))
    device = EmulatedDevice()
    loader = loader_of(device, inflated_bytes=SMALL.inflated_bytes)
    work = Work(device, [SMALL] * 3)
    work.check(work.load(loader))
    assert seen == ["start", "start", "finish", "start", "finish", "finish"]


def test_streams_go_to_the_kernel_that_suits_them(loader_of):
    device = EmulatedDevice()
    native = TileLayout(codec="deflate", width=64, height=64, bits=8)
    classes, noise = Work(device, [native], classes=2), Work(device, [native])
    classes.pixels[0][:] = 0
    classes.tiles[0] = cases.compressed(classes.pixels[0], native)
    loader = loader_of(device)
    for work, kernel in ((classes, "inflate_streams"), (noise, "inflate_streams_parallel")):
        device.launched.clear()
        work.check(work.load(loader))
        assert kernels(device) == [kernel], "native samples are inflated into their slot and left there"


@pytest.mark.parametrize("nvcomp", [False, True])
def test_all_ways_in_one_batch(loader_of, nvcomp):
    native = TileLayout(codec="deflate", width=32, height=32, bits=8)
    raw = TileLayout(codec="none", width=32, height=32, bits=8)
    device = EmulatedDevice()
    work = Work(device, [native] * 14 + [raw] * 3)
    for i in range(9):
        work.pixels[i][:] = i
        work.tiles[i] = cases.compressed(work.pixels[i], native, i)
    work.check(
        work.load(loader_of(device, FakeNvcomp(lambda n: "bytes" if n % 2 else None) if nvcomp else None))
    )
    assert {"inflate_streams", "inflate_streams_parallel", "undo"} <= set(kernels(device))


def entries_of(work):
    made = []
    for place, (tile, slot) in enumerate(zip(work.tiles, work.slots, strict=True)):
        stored = np.frombuffer(tile.data, np.uint8)
        made.append(Entry(stored, tile.layout, tile.inside, work.pool, slot, None, place))
    return made


def test_the_longest_stream_goes_first():
    device = EmulatedDevice()
    layouts = [TileLayout(codec="deflate", width=8 * n, height=8, bits=16) for n in (3, 9, 1, 5)]
    batch = Batch(device, Lane(device, Receiver(device, 0)), entries_of(Work(device, layouts)), None)
    assert [e.layout.width for e in batch.entries] == [72, 40, 24, 8]


def test_many_threads_fill_a_large_slab(loader_of, monkeypatch):
    monkeypatch.setattr("bestpixel_gpu.engines.cuda.batches._ONE_COPIER", 1)
    device = EmulatedDevice(3)
    work = Work(device, LAYOUTS * 5)
    work.check(work.load(loader_of(device)))


def test_only_what_lies_inside_is_written(loader_of):
    device = EmulatedDevice()
    work = Work(device, [LAYOUTS[2]])
    tile = work.tiles[0]
    work.tiles[0] = CompressedTile(0, tile.data, tile.layout, (3, 5))
    assert not work.load(loader_of(device)).wait().any()
    got = device.download(work.pool.data)[: tile.layout.decoded_bytes].view(np.uint16).reshape(9, 37)
    np.testing.assert_array_equal(got[:3, :5], work.pixels[0][:3, :5, 0])
    assert (got[3:] != work.pixels[0][3:, :, 0]).all()


def test_what_cannot_be_asked_for(loader_of):
    device = EmulatedDevice()
    work, loader = Work(device, [SMALL]), loader_of(device)
    with pytest.raises(ValueError, match="does not fit slot 1"):
        loader.load(work.pool, [1], work.tiles)
    with pytest.raises(ValueError, match="does not fit slot 0"):
        loader.load(CudaPool(device, 8, 1), [0], work.tiles)
    with pytest.raises(FormatError, match="predictor 4"):
        loader.load(
            work.pool,
            [0],
            [CompressedTile(0, b"", TileLayout(codec="none", width=1, height=1, bits=8, predictor=4))],
        )
    with pytest.raises(ValueError, match="99 x 1 pixels"):
        loader.load(work.pool, [0], [CompressedTile(0, work.tiles[0].data, SMALL, (99, 1))])
    assert loader.load(work.pool, [], []).wait().size == 0
    work.check(work.load(loader))


# ---------------------------------------------------------------- order between streams


def read_late(seed, waits):
    """Whether the main stream, asked to read before the load was waited for, reads the tiles."""
    device = EmulatedDevice(seed)
    work, loader = Work(device, [SMALL] * 3), Loader(device, gather=0)
    started, go = threading.Event(), threading.Event()
    finish = Batch.finish
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Batch, "finish", lambda self: (started.set(), go.wait(), finish(self))[2])
            ticket = work.load(loader)
            assert started.wait(10)
            if waits:
                work.pool.before_reading(np.array([-1, 0, 1, 2, -2], np.int32))
            seen = all(work.good(i) for i in range(3))
            go.set()
            ticket.wait()
        work.pool.before_reading(np.arange(3, dtype=np.int32))
        assert not device.main.queue, "loads that have ended are waited for no more"
    finally:
        go.set()
        loader.close()
    return seen


def test_reading_waits_for_the_loads_of_its_slots():
    assert {read_late(seed, waits=True) for seed in range(12)} == {True}
    assert {read_late(seed, waits=False) for seed in range(12)} == {True, False}


def overwritten(seed, tells):
    """Whether a reader of the pool, on the main stream, still sees the tiles that were there before."""
    device = EmulatedDevice(seed)
    before, after = Work(device, [SMALL] * 2, 1), Work(device, [SMALL] * 2, 2)
    loader = Loader(device, gather=0)
    before.check(before.load(loader))
    back = device.pinned(before.pool.data.nbytes)
    device.copy_out(back, before.pool.data, device.main)
    if tells:
        before.pool.after_reading()
    loader.load(before.pool, before.slots, after.tiles).wait()
    loader.close()
    device.synchronize()
    size = SMALL.decoded_bytes
    return back[before.slots[0] * before.pool.step :][:size].tobytes() == before.pixels[0].tobytes()


def test_a_load_waits_for_the_last_reader_of_its_pool():
    assert {overwritten(seed, tells=True) for seed in range(12)} == {True}
    assert {overwritten(seed, tells=False) for seed in range(12)} == {True, False}


def fresh_pool(seed, monkeypatch, waits):
    """Load into a pool that was made of memory the main stream still has work for."""
    device = EmulatedDevice(seed)
    if not waits:
        monkeypatch.setattr(EmulatedStream, "wait_for", lambda *_: None)
    loader = Loader(device, gather=0)
    room = device.empty(3 * 768, np.uint8)
    device.fill(room, 1)
    del room
    work = Work(device, [SMALL] * 3)
    assert not work.load(loader).wait().any()
    loader.close()
    monkeypatch.undo()
    return all(work.good(i) for i in range(3))


def test_a_load_waits_for_what_used_the_pools_memory_before(monkeypatch):
    assert {fresh_pool(seed, monkeypatch, waits=True) for seed in range(12)} == {True}
    assert {fresh_pool(seed, monkeypatch, waits=False) for seed in range(12)} == {True, False}


# ---------------------------------------------------------------- memory


def test_batches_shrink_until_they_fit(loader_of):
    layout = TileLayout(codec="deflate", width=64, height=64, bits=15)
    device = EmulatedDevice(total=40 * layout.decoded_bytes)
    work = Work(device, [layout] * 24)
    loader = loader_of(device)
    work.check(work.load(loader))
    first = kernels(device).count("undo")
    assert first > 1
    device.launched.clear()
    work.check(work.load(loader))
    assert kernels(device).count("undo") <= first, "the size that fitted is remembered"


def test_a_tile_that_never_fits_is_an_error_and_others_go_on(loader_of):
    device = EmulatedDevice(total=40_000)
    large = TileLayout(codec="deflate", width=100, height=100, bits=12)
    work, small = Work(device, [large]), Work(device, [SMALL])
    loader = loader_of(device)
    ticket = work.load(loader)
    with pytest.raises(MemoryError):
        ticket.wait()
    assert ticket.done()
    small.check(small.load(loader))


# ---------------------------------------------------------------- faults, ends


@pytest.mark.parametrize("lost_at", range(5))
def test_a_lost_device_fails_every_ticket(loader_of, lost_at):
    device = EmulatedDevice(lost_at=lost_at)
    work = Work(device, LAYOUTS * 2)
    loader = loader_of(device, stored_bytes=500)
    called = []
    with device.entered():  # it is lost when all have asked, not before
        tickets = [work.load(loader, slice(i, i + 2)) for i in range(0, 10, 2)]
    for ticket in tickets:
        ticket.add_done_callback(lambda: called.append(1))
    results = []
    for ticket in tickets:
        try:
            results.append(ticket.wait().any())
        except DeviceError as error:
            results.append(str(error))
    assert results[-1] == "device lost"
    assert set(results) <= {False, "device lost"}
    loader.close()
    assert len(called) == 5
    with pytest.raises(DeviceError):
        work.load(loader)


def test_closing_settles_what_waits(loader_of):
    device = EmulatedDevice()
    work, loader = Work(device, [SMALL] * 6), loader_of(device, inflated_bytes=1)
    with device.entered():
        tickets = [work.load(loader, slice(i, i + 1)) for i in range(6)]
        closing = threading.Thread(target=loader.close)
        closing.start()
    closing.join()
    assert all(ticket.done() for ticket in tickets)
    with pytest.raises(DeviceError, match="closed"):
        tickets[-1].wait()
    with pytest.raises(DeviceError, match="closed"):
        work.load(loader)


def test_waiting_for_all_loads(loader_of):
    device = EmulatedDevice()
    work, loader = Work(device, [SMALL] * 6), loader_of(device)
    ticket = work.load(loader)
    loader.wait()
    assert ticket.done()


def test_callbacks(loader_of):
    device = EmulatedDevice()
    work, loader = Work(device, [SMALL] * 2), loader_of(device)
    called = []

    def broken():
        raise RuntimeError("the event loop is closed")

    with device.entered():
        ticket = work.load(loader)
        ticket.add_done_callback(broken)
        ticket.add_done_callback(lambda: called.append("then"))
    ticket.wait()
    loader.wait()
    ticket.add_done_callback(lambda: called.append("now"))
    assert "now" in called
    work.check(work.load(loader))
    assert called.count("then") == 1


def test_a_coroutine_awaits_a_ticket(loader_of):
    device = EmulatedDevice()
    work, loader = Work(device, [SMALL] * 2), loader_of(device)

    async def run():
        with device.entered():
            ticket = work.load(loader)
            waiting = asyncio.create_task(finished(ticket))
            await asyncio.sleep(0.02)
            assert not waiting.done()
        await waiting
        work.check(ticket)

    asyncio.run(run())


# ---------------------------------------------------------------- other ways to inflate


def test_the_host_inflates_what_it_is_given(loader_of):
    device, share = EmulatedDevice(), Forced(1)
    work = Work(device, LAYOUTS)
    work.damage(1)
    status = work.load(loader_of(device, share=share)).wait()
    assert status.tolist() == [0, 1, 0, 0, 0]
    assert set(kernels(device)) == {"undo"}
    assert all(work.good(i) for i in (0, 2, 3, 4))
    assert share.counts["host_streams"] == 4
    assert share.counts["device_streams"] == 0
    assert {t.name for t in threading.enumerate() if "-host_" in t.name}, "not on the loader's own thread"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("nvcomp", [False, True])
def test_any_split_gives_the_same_tiles(loader_of, seed, nvcomp):
    device, share = EmulatedDevice(seed), Forced((0, 0.3, 0.7)[seed % 3], seed)
    loader = loader_of(device, FakeNvcomp() if nvcomp else None, stored_bytes=4000, share=share)
    work = Work(device, LAYOUTS * 6, seed)
    work.damage(0)
    work.damage(7)
    tickets = [work.load(loader, slice(i, i + 5)) for i in range(0, 30, 5)]
    status = np.concatenate([ticket.wait() for ticket in tickets])
    assert np.flatnonzero(status).tolist() == [0, 7]
    assert all(work.good(i) for i in range(30) if i not in (0, 7))
    assert bool(share.counts["host_streams"]) == bool(seed % 3)


def test_the_device_goes_on_while_the_host_inflates(loader_of, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(
        loading, "python_inflate", lambda: lambda data, n: go.wait(10) and zlib.decompress(data)
    )
    device = EmulatedDevice()
    share = Forced(1)
    loader, work = loader_of(device, share=share), Work(device, [SMALL] * 6)
    slow = work.load(loader, slice(0, 2))
    while not share.asked:
        time.sleep(0.001)
    share.part = 0
    assert not work.load(loader, slice(2, 6)).wait().any()
    assert not slow.done()
    go.set()
    work.check(slow)


class RefusingDevice(EmulatedDevice):
    """Has no room for what its n-th launch needs."""

    def __init__(self, seed, n):
        super().__init__(seed)
        self.left = n

    def launch(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.waiting = [stream.number for stream in self._streams if not stream.blocked()]
            raise MemoryError("no room for a launch")
        super().launch(*args, **kwargs)


@pytest.mark.parametrize("n", range(1, 7))
def test_a_launch_without_room_is_tried_again(loader_of, n):
    device = RefusingDevice(n, n)
    loader = loader_of(device, inflated_bytes=4 * SMALL.inflated_bytes)
    work = Work(device, LAYOUTS * 4)
    work.check(work.load(loader))
    assert device.left <= 0
    again = Work(device, LAYOUTS)
    again.check(again.load(loader))


def test_work_has_ended_before_a_launch_without_room_is_told(loader_of):
    device = RefusingDevice(0, 2)
    work = Work(device, [SMALL])
    ticket = work.load(loader_of(device))
    with pytest.raises(MemoryError, match="no room for a launch"):
        ticket.wait()
    assert device.waiting, "the copy and the first kernel were under way"
    assert not any(stream.queue for stream in device._streams)


def test_what_breaks_on_the_host_is_the_callers_to_know(loader_of, monkeypatch):
    def broken(data, n):
        raise MemoryError("no room for it")

    monkeypatch.setattr(loading, "python_inflate", lambda: broken)
    device, share = EmulatedDevice(), Forced(1)
    loader, work = loader_of(device, share=share), Work(device, [SMALL] * 2)
    with pytest.raises(MemoryError, match="no room for it"):
        work.load(loader).wait()
    loader.wait()
    share.part = 0
    work.check(work.load(loader))


def test_closing_settles_what_the_host_has(loader_of, monkeypatch):
    started, go = threading.Event(), threading.Event()
    inflate = lambda data, n: (started.set(), go.wait(10), zlib.decompress(data))[2]  # noqa: E731
    monkeypatch.setattr(loading, "python_inflate", lambda: inflate)
    device = EmulatedDevice()
    loader, work = loader_of(device, share=Forced(1)), Work(device, [SMALL] * 4)
    ticket = work.load(loader)
    assert started.wait(10)
    closing = threading.Thread(target=loader.close)
    closing.start()
    go.set()
    closing.join()
    with pytest.raises(DeviceError, match="closed"):
        ticket.wait()


def test_a_share_learns_from_the_devices_clock_and_the_hosts(loader_of):
    """A device that takes a second for a stream: the host gets them all, once each side has been seen."""
    device = EmulatedDevice(seconds={"inflate_streams_parallel": 1.0, "inflate_streams": 7.0})
    loader, turns = loader_of(device), 0
    while not loader.share.counts["host_streams"]:
        work = Work(device, [SMALL] * 4, turns)
        work.check(work.load(loader))
        turns += 1
    assert turns > 2, "the first turn tells nothing, the second and a look at the host do"
    assert loader.share.counts == {
        "device_streams": 4 * (turns - 1), "device_bytes": 4 * (turns - 1) * SMALL.inflated_bytes,
        "host_streams": 4, "host_bytes": 4 * SMALL.inflated_bytes,
    }  # fmt: skip
    assert loader.share.rates()["block"]["stream"] == pytest.approx(SMALL.inflated_bytes / 1e9)


def test_turns_tell_each_way_by_itself():
    native = TileLayout(codec="deflate", width=32, height=32, bits=8)
    device = EmulatedDevice(5, seconds={"inflate_streams_parallel": 0.5, "inflate_streams": 0.25})
    work = Work(device, [native] * 5 + [SMALL] * 3)
    for i in range(2):
        work.pixels[i][:] = i
        work.tiles[i] = cases.compressed(work.pixels[i], native, i)
    batch = Batch(device, Lane(device, Receiver(device, 0)), entries_of(work), None)
    with ThreadPoolExecutor(1) as copiers:
        batch.start(copiers)
    batch.finish()
    assert batch.turns() == [("block", 6, 1024, 3 * 1024 + 3 * 768, 0.5), ("warp", 2, 1024, 2048, 0.25)]


def test_nvcomp_inflates_and_kernels_verify(loader_of):
    device, nvcomp = EmulatedDevice(2), FakeNvcomp()
    work = Work(device, LAYOUTS)
    work.check(work.load(loader_of(device, nvcomp)))
    assert nvcomp.seen == 4
    assert sorted(kernels(device)) == ["adler32_check", "undo"]


@pytest.mark.parametrize("lie", ["status", "bytes", "length"])
def test_what_nvcomp_gets_wrong_is_inflated_again(loader_of, lie):
    device, nvcomp = EmulatedDevice(2), FakeNvcomp(lambda n: lie if n % 2 else None)
    work = Work(device, [SMALL] * 6)
    work.check(work.load(loader_of(device, nvcomp)))
    assert nvcomp.seen == 6
    assert "inflate_streams_parallel" in kernels(device)


def test_what_the_kernels_refuse_too_is_corrupt(loader_of):
    device, nvcomp = EmulatedDevice(2), FakeNvcomp()
    work = Work(device, [SMALL] * 4)
    work.damage(1)
    work.tiles[2] = CompressedTile(2, b"no zlib stream, no payload", SMALL)
    assert work.load(loader_of(device, nvcomp)).wait().tolist() == [0, 1, 1, 0]
    assert nvcomp.seen == 3
    assert work.good(0)
    assert work.good(3)
