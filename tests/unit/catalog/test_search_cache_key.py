"""What a search is called in caches, and how long its answer is believed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bestpixel_gpu.catalog.search import GROWING_LIFETIME_S, LIFETIME_S, SearchQuery

NOW = datetime(2024, 7, 1, tzinfo=UTC)
QUERY = SearchQuery(
    root="https://a.test/stac/v1",
    collections=("sentinel-2-l2a",),
    boxes=((4.0, 44.0, 5.0, 45.0),),
    start=NOW,
    end=NOW + timedelta(days=1),
    max_cloud_cover=60.0,
)


@pytest.mark.parametrize(
    "change",
    [
        {"root": "https://b.test/stac/v1"},
        {"collections": ("sentinel-2-c1-l2a",)},
        {"collections": ("sentinel-2-l2a", "landsat-c2-l2")},
        {"boxes": ((4.0, 44.0, 5.0, 45.0001),)},
        {"boxes": ((4.0, 44.0, 5.0, 45.0), (5.0, 44.0, 6.0, 45.0))},
        {"start": None},
        {"end": NOW + timedelta(seconds=1)},
        {"max_cloud_cover": 59.9},
        {"max_cloud_cover": None},
    ],
)
def test_all_that_is_sent_tells_searches_apart(change: dict[str, Any]) -> None:
    assert replace(QUERY, **change).key != QUERY.key


@pytest.mark.parametrize(
    "change",
    [{"limit": 7}, {"root": "https://a.test/stac/v1/"}, {"root": "https://me:pw@a.test/stac/v1?key=s"}],
)
def test_the_size_of_pages_and_credentials_do_not(change: dict[str, Any]) -> None:
    assert replace(QUERY, **change).key == QUERY.key


def test_a_filter_that_is_not_sent_does_not_count() -> None:
    assert replace(QUERY, max_cloud_cover=100.0).key == replace(QUERY, max_cloud_cover=None).key


@pytest.mark.parametrize(
    ("end", "seconds"),
    [
        (NOW - timedelta(days=31), LIFETIME_S),
        (NOW - timedelta(days=29), GROWING_LIFETIME_S),
        (NOW + timedelta(days=9), GROWING_LIFETIME_S),
        (None, GROWING_LIFETIME_S),
    ],
)
def test_an_answer_lives_shorter_while_the_archive_grows(end: datetime | None, seconds: float) -> None:
    assert replace(QUERY, start=None, end=end).lifetime(NOW) == seconds < 2 * 86400
