"""Calling the package, and comparing what it gives with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oracle_reference import RefComposite, RefGrid

MOST_DOUBTFUL = 0.01
"""Largest share of pixels a comparison may leave out."""
LAYERS = ("quality", "observation_count", "selected_observation")


def build(items: Sequence[Any], grid: RefGrid, bands: Sequence[str], **options: Any) -> Any:
    """``build_composite`` of ready items on the reference's grid."""
    from bestpixel_gpu import build_composite

    defaults: dict[str, Any] = {
        "bands": list(bands), "endpoint": "pc", "items": list(items), "geobox": grid.geobox(),
        "device": "cpu", "threads": 2, "max_cloud_cover": 100.0,
    }  # fmt: skip
    return build_composite(None, "2000-01-01/2030-01-01", **(defaults | options))


def assert_matches(got: Any, ref: RefComposite, *, off_by: int = 0, most_off: float = 0.03) -> None:
    """Every layer equal outside the reference's doubtful pixels; bands within `off_by` DN.

    With ``off_by`` > 0 (positions of another CRS, right to 2e-5 px) at most the share `most_off` of
    the pixels may differ at all.
    """
    assert list(got["source_ids"]) == ref.source_ids
    sure = ~ref.doubtful
    assert ref.doubtful.mean() <= MOST_DOUBTFUL
    for name in LAYERS:
        wrong = (np.asarray(got[name]).astype(np.int64) != getattr(ref, name).astype(np.int64)) & sure
        assert not wrong.any(), _say(name, wrong, got[name], getattr(ref, name))
    assert got["quality"].dtype == got["observation_count"].dtype == np.uint16
    assert got["selected_observation"].dtype == np.int16
    assert list(got["bands"]) == list(ref.bands)
    for name, want in ref.bands.items():
        have = np.asarray(got["bands"][name])
        assert have.dtype == np.uint16
        gap = np.abs(have.astype(np.int64) - want)
        assert not ((gap > off_by) & sure).any(), _say(name, (gap > off_by) & sure, have, want)
        assert ((gap > 0) & sure).mean() <= most_off, f"{name}: {(gap > 0).sum()} pixels differ"


def _say(name: str, wrong: NDArray[np.bool_], got: Any, want: Any) -> str:
    r, c = (int(v[0]) for v in np.nonzero(wrong))
    return (
        f"{name}: {int(wrong.sum())} of {wrong.size} differ, first ({r}, {c}): {got[r, c]} for {want[r, c]}"
    )
