"""Which periods a series has, which days may serve, and what is refused before any request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestpixel_gpu.catalog.search import parse_interval
from bestpixel_gpu.compositing.periods import day_gate, months_of, overlap, periods_of, search_spans
from bestpixel_gpu.errors import InputError, NoScenesError
from bestpixel_gpu.result.period import FailedPeriod, Period
from bestpixel_gpu.result.report import Report


def names(periods: list[Period]) -> list[str]:
    return [p.name for p in periods]


# ---- which ----


def test_every_month_of_every_year_once_and_sorted() -> None:
    found = months_of([2024, 2023, 2024], [2, 12, 2])
    assert names(found) == ["2023-02", "2023-12", "2024-02", "2024-12"]
    assert [(p.year, p.month) for p in found] == [(2023, 2), (2023, 12), (2024, 2), (2024, 12)]
    assert [p.dates for p in found][::2] == ["2023-02-01/2023-02-28", "2024-02-01/2024-02-29"]
    assert months_of(2024, range(1, 13))[0].start == datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("years", "months", "message"),
    [
        ([], [1], "years is empty"),
        ([2024], [], "months is empty"),
        ([2024], [0], "months must be a whole number in 1..12, got 0"),
        ([2024], [13], "months must be"),
        ([2024], [1.5], "months must be"),
        ([2024], ["7"], "months must be"),
        ([24], [1], "years must be"),
        ("2024", [1], "years must be a list"),
        (None, [1], "years must be a list"),
        ([True], [1], "years must be"),
    ],
)
def test_months_that_are_none(years: Any, months: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        months_of(years, months)


@pytest.mark.parametrize(
    ("dates", "period", "want"),
    [
        ("2024-06-01/2024-06-25", "P10D",
         ["2024-06-01_2024-06-10", "2024-06-11_2024-06-20", "2024-06-21_2024-06-25"]),
        ("2024-01/2024-03", "P1M", ["2024-01", "2024-02", "2024-03"]),
        ("2023-12-01/2024-05-31", "P3M", ["2023-12-01_2024-02-29", "2024-03-01_2024-05-31"]),
        ("2023/2024", "P1Y", ["2023", "2024"]),
        ("2024-01-31/2024-05-01", "P1M",
         ["2024-01-31_2024-02-28", "2024-02-29_2024-03-30", "2024-03-31_2024-04-29",
          "2024-04-30_2024-05-01"]),
        ("2024-06-01/2024-06-10", "P1Y", ["2024-06-01_2024-06-10"]),
        ("2024-06", None, ["2024-06"]),
        (["2024-06-10/2024-06-20", "2024-06-01/2024-06-15"], None,
         ["2024-06-10_2024-06-20", "2024-06-01_2024-06-15"]),
        ([(date(2024, 6, 1), "2024-06-30"), ["2024-07-01", date(2024, 7, 2)]], None,
         ["2024-06", "2024-07-01_2024-07-02"]),
        ([("P30D", "2024-07-15")], None, ["2024-06-16_2024-07-15"]),
    ],
)  # fmt: skip
def test_slices_and_lists(dates: Any, period: Any, want: list[str]) -> None:
    assert names(periods_of(dates, period)) == want


def test_parts_of_days_have_names_and_dates_that_read_back() -> None:
    (first, *_, last) = periods_of("2024-06-01T06:00:00Z/2024-06-02T05:59:59.999999Z", "PT5H")
    assert first.name == "2024-06-01T060000Z_2024-06-01T105959.999999Z"
    for period in (first, last):
        assert parse_interval(period.dates) == (period.start, period.end)


@given(
    st.dates(date(1990, 1, 1), date(2040, 1, 1)),
    st.integers(0, 1500),
    st.sampled_from(["P1D", "P10D", "P2W", "P1M", "P3M", "P1Y", "P1M3D"]),
)
def test_slices_cover_the_span_once(first: date, days: int, period: str) -> None:
    span = Period(*map(_moment, (first, first + timedelta(days=days + 1))))
    found = periods_of(span.dates, period)
    assert (found[0].start, found[-1].end) == (span.start, span.end)
    assert all(a.end == b.start for a, b in pairwise(found))
    assert all(parse_interval(p.dates) == (p.start, p.end) for p in found)
    assert not overlap(found)


def _moment(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("dates", "period", "message"),
    [
        ("2024-01-01/..", "P1M", "needs both ends"),
        ("2024-01-01/2024-02-01", "1 month", "no ISO 8601 duration"),
        ("2024-01-01/2024-02-01", 10, "must be an ISO 8601 duration"),
        ("2020-01-01/2024-02-01", "PT1M", "more than 10000 periods"),
        (["2024-01"], "P1M", "slices a span"),
        ([], None, "empty list"),
        (None, None, "datetime must be"),
        ([7], None, "a period must be"),
        ([("2024-01-01", "2024-02-01", "2024-03-01")], None, "a period must be"),
        ([("2024-02-01", "2024-01-01")], None, "ends before it starts"),
        (["../2024-01-01"], None, "needs both ends"),
        ({"2024": 1}, None, "datetime must be"),
    ],
)
def test_periods_that_are_none(dates: Any, period: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        periods_of(dates, period)


def test_short_neighbours_are_searched_together_and_months_alone() -> None:
    tens = periods_of("2024-01-01/2024-03-30", "P10D")
    assert len(set(search_spans(tens))) == 3
    assert all(s.start <= p.start and p.end <= s.end for p, s in zip(tens, search_spans(tens), strict=True))
    months = months_of([2023, 2024], range(1, 13))
    assert search_spans(months) == months
    apart = periods_of(["2024-01-01/2024-01-05", "2024-01-08/2024-01-10"], None)
    assert search_spans(apart) == apart
    back = periods_of(["2024-01-08/2024-01-10", "2024-01-01/2024-01-09"], None)
    assert search_spans(back) == back


# ---- the gate ----


@dataclass
class Seen:
    when: datetime


def kept(gate: Any, *days: str) -> list[str]:
    return [d for d in days if gate(Seen(datetime.fromisoformat(d).replace(hour=10, tzinfo=UTC))) is None]


TABLE = {
    "2024-07-02": 0.1,
    "2024-07-07": 0.3,
    "2024-07-12": 0.300001,
    "2024-07-17": None,
    date(2024, 7, 22): 2,
}
DAYS = ("2024-07-02", "2024-07-07", "2024-07-12", "2024-07-17", "2024-07-22", "2024-07-27")


def test_the_limit_itself_is_kept_and_unknown_days_are() -> None:
    assert kept(day_gate(TABLE, 0.3, False), *DAYS) == [DAYS[0], DAYS[1], DAYS[3], DAYS[5]]


def test_unknown_days_are_refused_on_request() -> None:
    table = TABLE | {"2024-07-27": float("nan")}
    assert kept(day_gate(table, 0.3, True), *DAYS) == [DAYS[0], DAYS[1]]
    assert kept(day_gate({}, 0.3, True), *DAYS) == []


def test_the_day_is_that_of_utc() -> None:
    gate = day_gate({"2024-07-02": 9.0}, 0.3, False)
    assert gate is not None
    late = datetime(2024, 7, 2, 23, 59, 59, 900_000, tzinfo=UTC)
    assert gate(Seen(late)) == "AOD above aod_max: 9 on 2024-07-02"  # type: ignore[arg-type]
    assert gate(Seen(late + timedelta(seconds=1))) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [(None, None, False), (TABLE, None, True), (None, 0.3, True)])
def test_no_gate_without_both(asked: tuple[Any, Any, bool]) -> None:
    assert day_gate(*asked) is None


@pytest.mark.parametrize(
    ("table", "limit", "message"),
    [
        ({"2024-7-2": 0.1}, 0.3, "'2024-7-2' is no day"),
        ({"2024-02-30": 0.1}, 0.3, "is no day"),
        ({20240702: 0.1}, 0.3, "is no day"),
        ({"2024-07-02": "thick"}, 0.3, "must be a number, got 'thick'"),
        ([("2024-07-02", 0.1)], 0.3, "must map days"),
        ({"2024-07-02": 0.1}, "low", "aod_max must be a number"),
        ({}, float("nan"), "aod_max must be a number"),
    ],
)
def test_tables_that_are_none(table: Any, limit: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        day_gate(table, limit, False)


def test_whether_unknown_days_go_is_yes_or_no() -> None:
    with pytest.raises(InputError, match="reject_unknown must be True or False, got 'no'"):
        day_gate({"2024-07-02": 0.1}, 0.3, "no")


# ---- what stands for a failure ----


def test_a_failed_period_tells_its_error_wherever_it_is_asked() -> None:
    (period,) = months_of(2024, 2)
    error = NoScenesError("nothing found")
    failed = FailedPeriod(period, error, Report())
    assert (failed["year"], failed["month"], failed["error"], failed["period"]) == (2024, 2, error, period)
    assert "bands" not in failed
    with pytest.raises(KeyError, match="no 'bands': 2024-02 failed: nothing found") as raised:
        failed["bands"]
    assert raised.value.__cause__ is error
    assert repr(failed) == "<FailedPeriod 2024-02: NoScenesError: nothing found>"
    assert dict(failed)["report"] is failed.report
