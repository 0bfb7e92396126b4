"""The periods of a series, and the days that may not serve: pure calendar, checked before any request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from bestpixel_gpu.catalog.durations import parse_duration
from bestpixel_gpu.catalog.scene import Scene
from bestpixel_gpu.catalog.search import parse_interval
from bestpixel_gpu.errors import InputError
from bestpixel_gpu.request import flag, number, whole
from bestpixel_gpu.result.period import Period

MOST_PERIODS = 10_000
"""More in one series are taken for a slip of the pen (hours for days, say)."""
SEARCHED_TOGETHER = timedelta(days=31)
"""Longest span that one search covers for several periods."""
ABOVE_AOD = "AOD above aod_max"
"""How the reasons begin for which the gate leaves a scene out."""
UNKNOWN_AOD = "AOD of its day unknown"

Gate = Callable[[Scene], str | None]


def months_of(years: Any, months: Any) -> list[Period]:
    """Every month of every year, in the order of time, each once."""
    pairs = [(y, m) for y in _wholes("years", years, 1900, 9998) for m in _wholes("months", months, 1, 12)]
    starts = [datetime(y, m, 1, tzinfo=UTC) for y, m in pairs]
    return [Period(s, (s + timedelta(days=31)).replace(day=1)) for s in starts]


def _wholes(name: str, values: Any, low: int, high: int) -> list[int]:
    values = [values] if isinstance(values, int) else values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be a list of whole numbers, got {values!r}")
    found = sorted({whole(name, v, low, high) for v in values})
    if not found:
        raise InputError(f"{name} is empty: name at least one in {low}..{high}")
    return found


def periods_of(dates: Any, period: Any) -> list[Period]:
    """The slices of a span of dates, or the periods of a list, in the order given.

    Raises
    ------
    InputError
        If there is none, too many, or one without an end.
    """
    if period is not None:
        if not isinstance(dates, str):
            raise InputError(
                f"period={period!r} slices a span of dates like '2024-01-01/2024-12-31': "
                f"leave period= out for a list of periods, got datetime={dates!r}"
            )
        return slices(_period(dates), period)
    if isinstance(dates, str):
        return [_period(dates)]
    if isinstance(dates, Mapping) or not isinstance(dates, Iterable):
        raise InputError(f"datetime must be text like 'A/B', or a list of such or of pairs, got {dates!r}")
    found = [_period(d) for d in dates]
    if not found:
        raise InputError("datetime is an empty list: give at least one period")
    return _few(found)


def slices(span: Period, text: Any) -> list[Period]:
    """A span cut into durations, each counted from its start; the last ends with the span.

    Raises
    ------
    InputError
        If the text is no ISO 8601 duration, or cuts too small.
    """
    if not isinstance(text, str):
        raise InputError(f"period must be an ISO 8601 duration like 'P10D' or 'P1M', got {text!r}")
    duration = parse_duration(text)
    edges = [span.start]
    while edges[-1] < span.end:
        try:
            edges.append(min(duration.after(span.start, len(edges)), span.end))
        except (ValueError, OverflowError):  # beyond the calendar, so beyond the span
            edges.append(span.end)
        if len(edges) > MOST_PERIODS + 1:
            break
    return _few([Period(a, b) for a, b in pairwise(edges)])


def _few(found: list[Period]) -> list[Period]:
    if len(found) > MOST_PERIODS:
        raise InputError(f"more than {MOST_PERIODS} periods in a series: take longer ones, or a shorter span")
    return found


def _period(text: Any) -> Period:
    """One period of ``A/B``, a day, or a pair of texts, dates or times."""
    if isinstance(text, Period):
        return text
    if not isinstance(text, str):
        pair = list(text) if isinstance(text, Sequence) else []
        if len(pair) != 2 or not all(isinstance(p, str | date) for p in pair):
            raise InputError(f"a period must be text like 'A/B' or a pair (start, end), got {text!r}")
        text = "/".join(p if isinstance(p, str) else p.isoformat() for p in pair)
    start, end = parse_interval(text)
    if start is None or end is None:
        raise InputError(f"period {text!r} is open: a period of a series needs both ends")
    return Period(start, end)


def overlap(periods: Sequence[Period]) -> bool:
    """Tell whether any two periods share a moment."""
    row = sorted(periods)
    return any(b.start < a.end for a, b in pairwise(row))


def search_spans(periods: Sequence[Period]) -> list[Period]:
    """What to search for each period: neighbours together, up to a month.

    So ten days or one day do not each cost a request, and the pages of longer ones come side by side.
    """
    groups: list[list[Period]] = []
    for period in periods:
        together = [*groups[-1], period] if groups else [period]
        span = _hull(together)
        adjoin = groups and groups[-1][0].start <= period.start <= _hull(groups[-1]).end
        if adjoin and span.end - span.start <= SEARCHED_TOGETHER:
            groups[-1] = together
        else:
            groups.append([period])
    return [_hull(group) for group in groups for _ in group]


def _hull(periods: Sequence[Period]) -> Period:
    return Period(min(p.start for p in periods), max(p.end for p in periods))


def day_gate(aod_by_day: Any, aod_max: Any, reject_unknown: Any) -> Gate | None:
    """What leaves out scenes of hazy days; ``None`` unless both table and limit are given.

    A scene stays if the AOD of its day (UTC) is at most the limit. A day that is not in the table,
    or whose value is ``None`` or NaN, is unknown: its scenes stay unless `reject_unknown`.

    Raises
    ------
    InputError
        If the table is none, or holds what is no day or no number.
    """
    strict = flag("reject_unknown", reject_unknown)
    limit = None if aod_max is None else number("aod_max", aod_max, 0, 1e6)
    table = None if aod_by_day is None else _table(aod_by_day)
    if table is None or limit is None:
        return None

    def gate(scene: Scene) -> str | None:
        day = scene.when.date()
        aod = table.get(day)
        if aod is None:
            return f"{UNKNOWN_AOD}: {day}" if strict else None
        return f"{ABOVE_AOD}: {aod:g} on {day}" if aod > limit else None

    return gate


def _table(aod_by_day: Any) -> dict[date, float]:
    if not isinstance(aod_by_day, Mapping):
        raise InputError(f"aod_by_day must map days 'YYYY-MM-DD' to numbers, got {aod_by_day!r}")
    values = {_day(day): math.nan if aod is None else _aod(day, aod) for day, aod in aod_by_day.items()}
    return {day: aod for day, aod in values.items() if not math.isnan(aod)}


def _day(day: Any) -> date:
    try:
        if isinstance(day, date):
            return day.date() if isinstance(day, datetime) else day
        if len(day) == 10:
            return date.fromisoformat(day)
    except (TypeError, ValueError):
        pass
    raise InputError(f"aod_by_day: {day!r} is no day: write 'YYYY-MM-DD'")


def _aod(day: Any, aod: Any) -> float:
    try:
        return float(aod)
    except (TypeError, ValueError):
        raise InputError(f"aod_by_day[{day!r}] must be a number, got {aod!r}") from None
