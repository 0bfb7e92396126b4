"""Which streams the host inflates beside the device: those whose batch then ends sooner, by rates seen here.

A device decodes each stream slowly and thousands at once, a processor the other way round. A batch is
taken to last, for each way of decoding (`Way`) and one way after the other,

    max(longest stream / ``stream``, all streams / ``device``) seconds on the device

and on the W threads of the host, which have `waiting` to do already,

    max(longest stream / ``host``, (waiting + all streams / ``host``) / W) seconds,

sizes in decoded bytes, rates in bytes a second. What a batch costs besides (copy, launches, unpacking) is
left out: what the host has inflated goes through a batch as well.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Way = Literal["raw", "nvcomp", "block", "warp"]
"""How stored bytes become samples on the device; ``"raw"`` ones are samples already."""

PRIORS: dict[Way, tuple[float, float]] = {
    "nvcomp": (0.1e9, 20e9),
    "block": (0.17e9, 45e9),
    "warp": (0.06e9, 50e9),
}
"""``stream`` and ``device`` as counted instructions promise them of an H200. They only tell which of the
two the first time that is seen belongs to; whatever was not seen counts as no time on the device."""
WORTH = 0.8
"""The host takes streams where all then ends within this part of the device's time: estimates are rough,
and processors have other work."""
FRESH = 32
"""Turns after which a rate that has not been seen since is looked at again."""
_MOST = math.log(4)


class Rate:
    """A running estimate of bytes a second.

    The first measurement is the estimate. Each later one moves it half of the way, as ratios go, and
    counts as four times off at most: an outlier is a factor of two, and three good ones leave 10 % of it.

    Attributes
    ----------
    value : float
        `prior` until something was seen.
    seen : bool
    """

    __slots__ = ("seen", "value")

    def __init__(self, prior: float = math.inf) -> None:
        self.value, self.seen = prior, False

    def saw(self, measured: float) -> None:
        """Take a measurement in."""
        if self.seen:
            off = math.log(measured / self.value)
            measured = self.value * math.exp(min(max(off, -_MOST), _MOST) / 2)
        self.value, self.seen = measured, True

    def seconds(self, size: int) -> float:
        """What so many bytes take; nothing as far as was seen."""
        return size / self.value if self.seen else 0.0


class Turn(NamedTuple):
    """What the device did for the streams of one way in a batch.

    Attributes
    ----------
    streams : int
    longest, total : int
        Decoded bytes of one and of all.
    seconds : float
        By the device's clock.
    """

    way: Way
    streams: int
    longest: int
    total: int
    seconds: float


@dataclass(slots=True, eq=False)
class _Known:
    """What is known of one way."""

    stream: Rate
    device: Rate
    host: Rate
    turns: int = 0
    """Of the device."""
    host_age: int = FRESH
    """Turns of the device since the host was last seen, or asked to be."""

    def on_device(self, longest: int, total: int) -> float:
        """Seconds."""
        return max(self.stream.seconds(longest), self.device.seconds(total))


class Share:
    """Divides what comes by what has ended. Any thread may call.

    Parameters
    ----------
    workers : int
        Threads of the host that inflate.

    Attributes
    ----------
    counts : Counter
        Streams and decoded bytes that have ended, by who inflated them.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.counts = Counter(
            {f"{who}_{what}": 0 for who in ("device", "host") for what in ("streams", "bytes")}
        )
        self._ways = {way: _Known(Rate(s), Rate(d), Rate()) for way, (s, d) in PRIORS.items()}
        self._waiting: Counter[Way] = Counter()
        self._passed_over = 0
        self._lock = threading.Lock()

    def for_host(self, streams: Sequence[tuple[Way, int]]) -> list[int]:
        """Indices of the streams that the host is to inflate, longest first; mostly none.

        They are given by way and decoded bytes. What has not been timed on both sides goes to the
        device, and so does every 32nd batch that the device would not see at all.
        """
        with self._lock:
            chosen = self._best(streams)
            if chosen and len(chosen) == len(streams):
                self._passed_over = (self._passed_over + 1) % FRESH
                if not self._passed_over:
                    chosen = []
            for i in chosen:
                way, size = streams[i]
                self._waiting[way] += size
            return chosen

    def device_ended(self, turn: Turn, alone: bool) -> None:
        """Learn from a turn of the device; `alone`: no other batch was there at the time.

        The time shows the rate that was thought to decide, and that the other one is not lower. How
        long a stream takes is seen where no other batch was in its way.
        """
        with self._lock:
            self.counts["device_streams"] += turn.streams
            self.counts["device_bytes"] += turn.total
            known = self._ways[turn.way]
            known.turns += 1
            known.host_age += 1
            if known.turns == 1 or turn.seconds <= 0:  # the first one waits for its kernel to be compiled
                return
            by_stream = turn.longest / known.stream.value >= turn.total / known.device.value
            for rate, size, decides in (
                (known.stream, turn.longest, by_stream and alone),
                (known.device, turn.total, not by_stream),
            ):
                if decides or (rate.seen and size / turn.seconds > rate.value):
                    rate.saw(size / turn.seconds)

    def due(self, way: Way) -> bool:
        """Whether the host, which rests, should be seen at one such stream: yes once in 32 turns."""
        with self._lock:
            known = self._ways[way]
            asked = known.host_age >= FRESH and not any(self._waiting.values())
            if asked:
                known.host_age = 0
            return asked

    def host_saw(self, way: Way, size: int, seconds: float) -> None:
        """Learn from a stream that a thread of the host inflated."""
        with self._lock:
            known = self._ways[way]
            if seconds > 0:
                known.host.saw(size / seconds)
                known.host_age = 0

    def host_ended(self, way: Way, size: int) -> None:
        """One of the streams of :meth:`for_host` is done."""
        with self._lock:
            self.counts["host_streams"] += 1
            self.counts["host_bytes"] += size
            self._waiting[way] -= size

    def rates(self) -> dict[str, dict[str, float]]:
        """What was seen, GB/s by way: of a stream, of the device, of a thread of the host."""
        with self._lock:
            found = {
                way: {
                    name: float(f"{rate.value / 1e9:.4g}")
                    for name in ("stream", "device", "host")
                    if (rate := getattr(known, name)).seen
                }
                for way, known in self._ways.items()
            }
            return {str(way): rates for way, rates in found.items() if rates}

    def _best(self, streams: Sequence[tuple[Way, int]]) -> list[int]:
        """The longest of each way, as many as let all end soonest, the slowest way first."""
        ways = self._ways
        left: dict[Way, list[tuple[int, int]]] = {}
        for i, (way, size) in enumerate(streams):
            left.setdefault(way, []).append((size, i))
        alone = {w: ways[w].on_device(max(own)[0], sum(n for n, _ in own)) for w, own in left.items()}
        device = sum(alone.values())
        work = sum(ways[w].host.seconds(n) for w, n in self._waiting.items())
        taken: list[int] = []
        for way in sorted(alone, key=lambda w: -alone[w]):
            if ways[way].host.seen:
                own = sorted(left[way], reverse=True)
                n, device, work = self._best_of(way, [size for size, _ in own], device, alone[way], work)
                taken += [i for _, i in own[:n]]
        return taken

    def _best_of(
        self, way: Way, sizes: list[int], device: float, own: float, work: float
    ) -> tuple[int, float, float]:
        """How many of `sizes`, longest first, the host takes, and what both sides then have to do.

        Seconds: the device has `device` of work, `own` of it this way's, the host's threads `work`.
        """
        known, rest = self._ways[way], sum(sizes)
        best, end = (0, device, work), WORTH * max(device, work / self.workers)
        for n, size in enumerate(sizes, 1):
            rest -= size
            work += known.host.seconds(size)
            on_host = max(known.host.seconds(sizes[0]), work / self.workers)
            if on_host >= end:
                break
            on_device = device - own + (known.on_device(sizes[n], rest) if n < len(sizes) else 0.0)
            if max(on_host, on_device) < end:
                best, end = (n, on_device, work), max(on_host, on_device)
        return best
