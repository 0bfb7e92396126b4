"""Every rule in a series: each period has the bytes of its own call, in all layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from whole_run import arguments, assert_same

from bestpixel_gpu import build_composite, build_monthly_composites, iter_composites

if TYPE_CHECKING:
    from bestpixel_gpu.simulate import LocalArchive

SLIDING = ["2024-07-01/2024-07-31", "2024-07-10/2024-08-20", "2024-08-01/2024-08-28"]
"""They share scenes, and so the masks of those."""
RULES: list[dict[str, Any]] = [
    {"rule": "latest"},
    {"rule": "first"},
    {"rule": "first", "cloud_buffer": 80},
    {"rule": "ndvi", "top_k": None},
    {"rule": "ndvi", "bands": ["red"], "top_k": 2, "cloud_buffer": 60, "resolution": 25},
    {"cloud_buffer": 60},
    {"coverage_target": 0.9, "min_k": 1, "max_k": 3},
    {"coverage_target": 0.8, "windowed_fetch": True},
    {"emit_uncertainty": True},
    {"emit_uncertainty": True, "rule": "latest", "resolution": 30},
    {"emit_uncertainty": True, "rule": "ndvi", "coverage_target": 0.9, "windowed_fetch": True},
    {"emit_uncertainty": True, "cloud_buffer": 60, "fill": False, "top_k": 2},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalArchive]:
    """Eight dates of one tile, from 2 July to 6 August 2024, with what an index takes."""
    from bestpixel_gpu.simulate import ArchiveSpec, build, serve

    bands = ("red", "nir", "swir16")
    spec = ArchiveSpec(dates=8, dialects=("pc",), tiles=1, south=False, seam=False, size=160, bands=bands)
    with serve(build(spec, tmp_path_factory.mktemp("rules"))) as local:
        yield local


def assert_as_alone(one: Any, call: dict[str, Any]) -> None:
    """Same bands, layers, scenes and uncertainty as the period's own composite."""
    assert one.error is None
    want = build_composite(**call, datetime=one.period.dates)
    assert_same(one, want)
    assert (one.boa_unc is None) == (want.boa_unc is None) == ("emit_uncertainty" not in call)
    for band, unc in (want.boa_unc or {}).items():
        assert np.asarray(one.boa_unc[band]).tobytes() == np.asarray(unc).tobytes(), band
    assert one.report.counts == want.report.counts


@pytest.mark.parametrize("options", RULES, ids=str)
def test_every_period_has_the_bytes_of_its_own_call(server: LocalArchive, options: dict[str, Any]) -> None:
    call = arguments(server, tile=server.tiles[0], **options)
    del call["datetime"]
    months = build_monthly_composites(**call, years=[2024], months=[7, 8])
    sliding = list(iter_composites(**call, datetime=SLIDING))
    assert (len(months), len(sliding)) == (2, 3)
    for one in [*months, *sliding]:
        assert_as_alone(one, call)


def test_the_rules_tell_the_periods_apart(server: LocalArchive) -> None:
    """Else the test above would compare one picture with itself."""
    call = arguments(server, tile=server.tiles[0])
    del call["datetime"]
    pictures = {
        np.asarray(one.bands["red"]).tobytes()
        for options in ({}, *RULES[:4], {"cloud_buffer": 60})
        for one in iter_composites(**call | options | {"bands": ["red"]}, datetime=SLIDING)
    }
    assert len(pictures) >= 12
