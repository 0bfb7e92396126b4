"""Durations on the calendar, and dates told by their distance from another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestpixel_gpu.catalog.durations import parse_duration
from bestpixel_gpu.catalog.search import parse_interval, within
from bestpixel_gpu.errors import InputError


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("P10D", "2024-02-25", "2024-03-06"),
        ("P2W", "2023-12-25", "2024-01-08"),
        ("P1M", "2024-01-31", "2024-02-29"),
        ("P1M", "2023-01-31", "2023-02-28"),
        ("P3M", "2023-11-30", "2024-02-29"),
        ("P1Y", "2024-02-29", "2025-02-28"),
        ("P1Y2M3D", "2023-12-31", "2025-03-03"),
        ("PT36H", "2024-01-01", "2024-01-02T12:00"),
        ("P1DT1H1M1S", "2024-01-01", "2024-01-02T01:01:01"),
        ("p1m", "2024-06-15", "2024-07-15"),
    ],
)
def test_a_duration_after_a_day(text: str, start: str, end: str) -> None:
    assert parse_duration(text).after(day(start)) == day(end)


@given(st.dates(datetime(1990, 1, 1).date(), datetime(2040, 1, 1).date()), st.integers(-30, 30))
def test_months_are_counted_from_the_start_and_never_drift(first: object, n: int) -> None:
    start = day(str(first))
    got = parse_duration("P1M").after(start, n)
    assert (got.year * 12 + got.month) - (start.year * 12 + start.month) == n
    last = ((got.replace(day=1) + timedelta(days=31)).replace(day=1) - timedelta(days=1)).day
    assert got.day == min(start.day, last)


@pytest.mark.parametrize(
    "text", ["P", "PT", "P1", "1M", "P1.5D", "P-1D", "P1S", "PT1D", "P0D", "P0Y0M", "P1DT", ""]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("P30D/2024-07-15", "2024-06-16", "2024-07-16"),
        ("2024-07-15/P1M", "2024-07-15", "2024-08-15"),
        ("P3W/2024-03", "2024-03-11", "2024-04-01"),
        ("2024-07-15T12:00:00Z/PT6H", "2024-07-15T12:00", "2024-07-15T18:00"),
    ],
)
def test_dates_relative_to_a_day(text: str, first: str, last: str) -> None:
    assert parse_interval(text) == (day(first), day(last))


@pytest.mark.parametrize(
    "text", ["P1M", "P1M/P1M", "../P1M", "P1M/..", "P9999Y/2024-01-01", "P1X/2024-01-01"]
)
def test_a_duration_needs_a_date_beside_it(text: str) -> None:
    with pytest.raises(InputError, match="datetime"):
        parse_interval(text)


@pytest.mark.parametrize(
    ("properties", "found"),
    [
        ({"datetime": "2024-07-01T00:00:00Z"}, True),
        ({"datetime": "2024-07-31T23:59:59.999Z"}, True),
        ({"datetime": "2024-08-01T00:00:00Z"}, False),
        ({"datetime": "2024-06-30T23:59:59Z"}, False),
        (
            {
                "datetime": None,
                "start_datetime": "2024-06-25T00:00:00Z",
                "end_datetime": "2024-07-02T00:00:00Z",
            },
            True,
        ),
        (
            {
                "datetime": None,
                "start_datetime": "2024-06-01T00:00:00Z",
                "end_datetime": "2024-06-09T00:00:00Z",
            },
            False,
        ),
        ({"datetime": "soon"}, True),
        ({}, True),
    ],
)
def test_items_a_catalogue_would_send(properties: dict[str, object], found: bool) -> None:
    assert within({"properties": properties}, day("2024-07-01"), day("2024-08-01")) is found
