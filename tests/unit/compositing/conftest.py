"""A small country of several scenes, and what is known of it by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from by_hand import Stack, small_country, stack_of


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One tile, seven dates: a duplicate, a split strip, two edges of swaths, two baselines."""
    with small_country(tmp_path_factory.mktemp("country")) as local:
        yield local


@pytest.fixture(scope="module")
def stack(country: Any) -> Stack:
    return stack_of(country)
