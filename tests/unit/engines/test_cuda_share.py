"""Who inflates what, decided from simulated seconds: no device and no clock has a part in this."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bestpixel_gpu.engines.cuda.share import FRESH, Rate, Share, Turn, Way

TILE = 512 * 512 * 2
MASK = 512 * 512
Streams = list[tuple[Way, int]]


class Machine:
    """A device and a host of given rates, bytes a second, and the share that learns from them.

    `seconds` counts what batches took that went one after the other, the host beside the device.
    """

    def __init__(self, stream: float, device: float, host: float, workers: int = 4) -> None:
        self.stream, self.device, self.host = stream, device, host
        self.share = Share(workers)
        self.seconds = 0.0

    def device_seconds(self, sizes: Sequence[int]) -> float:
        return max(max(sizes) / self.stream, sum(sizes) / self.device)

    def batch(self, streams: Streams) -> list[int]:
        """Divide one, let both sides work, tell how long it took them."""
        chosen = self.share.for_host(streams)
        on_device = 0.0
        for way in dict.fromkeys(way for way, _ in streams):
            sizes = [n for i, (w, n) in enumerate(streams) if w == way and i not in chosen]
            if sizes:
                seconds = self.device_seconds(sizes)
                on_device += seconds
                self.share.device_ended(Turn(way, len(sizes), max(sizes), sum(sizes), seconds), alone=True)
                if self.share.due(way):
                    self.share.host_saw(way, sizes[0], sizes[0] / self.host)
        on_host = sum(streams[i][1] for i in chosen) / self.host / self.share.workers
        for i in chosen:
            way, size = streams[i]
            self.share.host_saw(way, size, size / self.host)
            self.share.host_ended(way, size)
        self.seconds += max(on_device, on_host)
        return chosen

    def after(self, *batches: Streams, times: int = 8) -> Machine:
        """The machine when these have run some times."""
        for _ in range(times):
            for streams in batches:
                self.batch(streams)
        return self


def tiles(n: int, size: int = TILE, way: Way = "block") -> Streams:
    return [(way, size)] * n


FEW, MANY = tiles(3), tiles(500)


def large() -> Machine:
    """As an H200 is expected to be: slower than a processor at one stream, ninety times faster at many."""
    return Machine(stream=0.17e9, device=45e9, host=0.5e9).after(FEW, MANY)


def test_few_long_streams_go_to_the_host_and_many_to_the_device() -> None:
    machine = large()
    assert sorted(machine.batch(FEW)) == [0, 1, 2]
    assert machine.batch(MANY) == []


def test_the_device_is_seen_first_whatever_the_priors_say() -> None:
    share = Share(4)
    assert share.for_host(FEW) == []
    share.host_saw("block", TILE, 0.001)
    assert share.for_host(FEW) == []
    share.device_ended(Turn("block", 3, TILE, 3 * TILE, 9.0), alone=True)
    assert share.for_host(FEW) == [], "the first turn compiled the kernel"
    share.device_ended(Turn("block", 3, TILE, 3 * TILE, 0.003), alone=True)
    assert len(share.for_host(FEW)) == 3
    assert share.for_host(tiles(3, way="warp")) == [], "each way for itself"


def test_the_host_is_seen_before_it_is_trusted() -> None:
    share = Share(4)
    for _ in range(3):
        share.device_ended(Turn("block", 3, TILE, 3 * TILE, 0.003), alone=True)
    assert share.for_host(FEW) == []


def test_the_first_turn_is_no_measurement() -> None:
    share = Share(4)
    share.device_ended(Turn("block", 1, TILE, TILE, 5.0), alone=True)
    assert share.rates() == {}
    share.device_ended(Turn("block", 1, TILE, TILE, TILE / 0.17e9), alone=True)
    assert share.rates() == {"block": {"stream": pytest.approx(0.17)}}


@pytest.mark.parametrize(("stream", "device"), [(2e9, 45e9), (0.7e9, 5e9)])
def test_a_device_that_is_fast_at_one_stream_keeps_all(stream: float, device: float) -> None:
    machine = Machine(stream, device, host=0.5e9).after(FEW, MANY, times=20)
    assert machine.batch(tiles(1)) == []
    assert machine.batch(FEW) == []


def test_the_slower_the_device_the_more_for_the_host() -> None:
    taken = []
    for rate in (45e9, 4e9, 1e9, 0.3e9):
        machine = Machine(rate / 50, rate, host=0.5e9).after(FEW, MANY, times=12)
        taken.append(len(machine.batch(MANY)))
    assert taken == sorted(taken)
    assert taken[0] == 0
    assert taken[2] == pytest.approx(500 * 2 / 3, rel=0.1), "2 GB/s beside 1 GB/s"
    assert taken[3] > taken[2]


def test_the_longest_go_to_the_host() -> None:
    """One stream that holds up thirty short ones."""
    machine = large()
    mixed: Streams = [("block", TILE // 8)] * 10 + [("block", 2 * TILE)] + [("block", TILE // 8)] * 20
    assert machine.batch(mixed) == [10]


def test_equal_streams_are_worth_taking_only_all_of_them() -> None:
    """The device needs as long for one as for all of a few: 3 ms, in which four threads inflate 12."""
    machine = large()
    taken = [len(machine.batch(tiles(n))) for n in range(1, 20)]
    assert taken == [n if n <= 9 else 0 for n in range(1, 20)]


def test_ways_are_weighed_together() -> None:
    """One slow mask beside many tiles; the tiles stay."""
    machine = large().after(tiles(3, MASK, "warp"))
    assert machine.batch([*tiles(200), ("warp", MASK)]) == [200]


def test_the_slowest_way_first() -> None:
    """One thread has time for one of two."""
    machine = Machine(0.17e9, 45e9, host=0.3e9, workers=1)
    both: Streams = [("block", TILE), ("warp", 2 * TILE)]
    assert machine.after(both[:1], both[1:]).batch(both) == [1]


@pytest.mark.parametrize(("host", "workers"), [(0.05e9, 4), (0.12e9, 1)])
def test_a_slow_host_gets_nothing(host: float, workers: int) -> None:
    machine = Machine(0.17e9, 45e9, host, workers).after(FEW, MANY)
    assert machine.batch(FEW) == []
    assert machine.batch(tiles(1)) == []


def test_a_host_that_has_enough_to_do_gets_no_more() -> None:
    share = large().share
    first = share.for_host(tiles(8))
    assert len(first) == 8
    assert share.for_host(tiles(8)) == [], "12 ms of work wait there"
    assert not share.due("warp"), "nor is it looked at"
    for _ in first:
        share.host_ended("block", TILE)
    assert share.due("warp")
    assert len(share.for_host(tiles(8))) == 8


def test_the_host_is_looked_at_again() -> None:
    machine = Machine(0.17e9, 45e9, host=0.1e9).after(FEW)
    assert machine.batch(FEW) == []
    machine.host = 0.5e9  # nothing else runs there any more
    machine.after(FEW, times=4 * FRESH)
    assert len(machine.batch(FEW)) == 3


def test_the_device_is_looked_at_again() -> None:
    machine = large()
    machine.stream = 5e9  # another process has ended
    taken = [len(machine.batch(FEW)) for _ in range(8 * FRESH)]
    assert taken[0] == 3
    assert taken[-1] == 0
    assert taken[:FRESH].count(0) <= 1, "looking costs one batch in 32 at most"


@pytest.mark.parametrize("seconds", [1e-7, 30.0])
def test_one_outlier_changes_little(seconds: float) -> None:
    machine = large()
    machine.share.device_ended(Turn("block", 500, TILE, 500 * TILE, seconds), alone=False)
    machine.share.host_saw("block", TILE, seconds)
    machine.after(FEW, MANY, times=4)
    assert len(machine.batch(FEW)) == 3
    assert machine.batch(MANY) == []
    rates = machine.share.rates()["block"]
    assert rates["device"] == pytest.approx(45, rel=0.15)
    assert rates["host"] == pytest.approx(0.5, rel=0.15)


def test_a_batch_that_was_not_alone_tells_nothing_of_a_stream() -> None:
    machine = large()
    before = machine.share.rates()
    for _ in range(10):
        machine.share.device_ended(Turn("block", 2, TILE, 2 * TILE, 1.0), alone=False)
    assert machine.share.rates() == before


@pytest.mark.parametrize(
    ("stream", "device", "host"),
    [(0.17e9, 45e9, 0.5e9), (0.02e9, 6e9, 0.25e9), (1e9, 8e9, 0.5e9), (0.05e9, 0.5e9, 0.5e9)],
)
def test_never_much_slower_than_the_device_alone_and_often_faster(
    stream: float, device: float, host: float
) -> None:
    kinds = [FEW, MANY, tiles(40), [*tiles(5), *tiles(2, MASK, "warp")], tiles(1, 4 * TILE)]
    machine = Machine(stream, device, host).after(*kinds, times=40)
    alone = 40 * sum(
        machine.device_seconds([n for w, n in streams if w == way])
        for streams in kinds
        for way in {way for way, _ in streams}
    )
    assert machine.seconds < 1.02 * alone
    if stream < host / 2:
        assert machine.seconds < 0.9 * alone


def test_a_rate_follows_at_most_half_way_and_by_a_factor_of_two() -> None:
    rate = Rate(99.0)
    assert rate.seconds(5) == 0
    rate.saw(8.0)
    assert rate.value == 8
    rate.saw(2.0)
    assert rate.value == pytest.approx(4.0)
    rate.saw(1e-9)
    assert rate.value == pytest.approx(2.0)
    for _ in range(20):
        rate.saw(3.0)
    assert rate.value == pytest.approx(3.0)


def test_what_has_ended_is_counted_by_who_did_it() -> None:
    share = Share(2)
    share.device_ended(Turn("warp", 7, 10, 60, 0.1), alone=False)
    share.host_saw("block", 100, 0.1)
    share.host_ended("block", 100)
    assert share.counts == {"device_streams": 7, "device_bytes": 60, "host_streams": 1, "host_bytes": 100}
