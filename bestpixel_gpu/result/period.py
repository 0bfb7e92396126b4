"""A stretch of time, and what stands in a series where no composite could be made of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from bestpixel_gpu.errors import BestPixelError
from bestpixel_gpu.result.report import Report

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """A stretch of time, ``start <= t < end``, UTC.

    Attributes
    ----------
    start : datetime
        Its first moment.
    end : datetime
        The first moment after it.
    """

    start: datetime
    end: datetime

    def __contains__(self, when: datetime) -> bool:
        return self.start <= when < self.end

    @property
    def year(self) -> int:
        """Year in which it begins."""
        return self.start.year

    @property
    def month(self) -> int:
        """Month in which it begins, 1..12."""
        return self.start.month

    @property
    def dates(self) -> str:
        """As the argument `datetime` of ``build_composite`` says it; both ends are inside."""
        last = self.end - (_DAY if self._whole_days else timedelta(microseconds=1))
        return f"{self._written(self.start)}/{self._written(last)}"

    @property
    def name(self) -> str:
        """Short, and good for a folder: ``2024-07``, ``2024``, ``2024-07-01_2024-07-10``."""
        if self._whole_days and self.start.day == 1:
            after = (self.start + 31 * _DAY).replace(day=1)
            if self.end == after:
                return f"{self.start:%Y-%m}"
            if self.start.month == 1 and self.end == self.start.replace(year=self.start.year + 1):
                return f"{self.start:%Y}"
        return self.dates.replace("/", "_").replace(":", "")

    @property
    def _whole_days(self) -> bool:
        return all(t == t.replace(hour=0, minute=0, second=0, microsecond=0) for t in (self.start, self.end))

    def _written(self, when: datetime) -> str:
        if self._whole_days:
            return f"{when:%Y-%m-%d}"
        return when.astimezone(UTC).isoformat().replace("+00:00", "Z")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FailedPeriod(Mapping[str, Any]):
    """Stands in a series for a period of which there is no composite, and says why.

    A mapping with ``period``, ``year``, ``month``, ``error`` and ``report``; asking it for a layer
    raises a KeyError that tells the error.

    Attributes
    ----------
    period : Period
    error : BestPixelError
        What ``build_composite`` would have raised for it.
    report : Report
        Scenes found, dropped and failed until then.
    """

    period: Period
    error: BestPixelError
    report: Report

    def __getitem__(self, key: str) -> Any:
        if key in ("year", "month"):
            return getattr(self.period, key)
        if key in ("period", "error", "report"):
            return getattr(self, key)
        return self._missing(key)

    def _missing(self, key: str) -> NoReturn:
        raise KeyError(f"no {key!r}: {self.period} failed: {self.error}") from self.error

    def __iter__(self) -> Iterator[str]:
        return iter(("period", "year", "month", "error", "report"))

    def __len__(self) -> int:
        return 5

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<FailedPeriod {self.period}: {type(self.error).__name__}: {self.error}>"
