"""ISO 8601 durations on the calendar: a month is a month, whatever its length."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta

from bestpixel_gpu.errors import InputError

_DURATION = re.compile(
    r"P(?=[\dT])(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time: calendar months, and what has a fixed length."""

    months: int
    rest: timedelta

    def after(self, start: datetime, times: int = 1) -> datetime:
        """The moment `times` durations after a start (before it, if negative).

        Counted from the start itself, so that steps do not drift: one month after 31 January is the
        last day of February, two months after it are 31 March.

        Raises
        ------
        OverflowError, ValueError
            Out of the calendar (years 1 to 9999).
        """
        years, month = divmod(start.month - 1 + self.months * times, 12)
        year = start.year + years
        day = min(start.day, monthrange(year, month + 1)[1])
        return start.replace(year=year, month=month + 1, day=day) + self.rest * times


def is_duration(text: str) -> bool:
    """Tell whether a text means to be a duration, well written or not."""
    return text[:1] in ("P", "p")


def parse_duration(text: str) -> Duration:
    """The duration of a text like ``P10D``, ``P1M``, ``P3M``, ``P1Y`` or ``P2W``.

    Raises
    ------
    InputError
        If it is none, or no time at all.
    """
    form = "write whole numbers, for example 'P10D', 'P2W', 'P1M', 'P3M' or 'P1Y'"
    found = _DURATION.fullmatch(text.upper())
    if found is None:
        raise InputError(f"{text!r} is no ISO 8601 duration: {form}")
    n = {unit: int(count or 0) for unit, count in found.groupdict().items()}
    months = 12 * n.pop("years") + n.pop("months")
    try:
        duration = Duration(months, timedelta(**n))
    except OverflowError:
        raise InputError(f"{text!r} is longer than the calendar: {form}") from None
    if not duration.months and not duration.rest:
        raise InputError(f"{text!r} is no time at all: {form}")
    return duration
