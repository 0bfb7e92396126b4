"""Which offset, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bestpixel_gpu.catalog.providers import ES_C1, ES_S2, ES_V0, PC_S2, UNKNOWN_PROFILES, CollectionProfile
from bestpixel_gpu.catalog.radiometry import decide_offset
from bestpixel_gpu.errors import InputError


def item(ident: str = "x", assets: Any = None, **properties: Any) -> dict[str, Any]:
    named = {k.replace("__", ":"): v for k, v in properties.items()}
    return {"id": ident, "properties": named, "assets": assets or {}}


def raster(offset: float, key: str = "B02", **more: float) -> dict[str, Any]:
    return {"visual": {"raster:bands": [{"offset": -7}]}, key: {"raster:bands": [{"offset": offset, **more}]}}


@pytest.mark.parametrize(
    ("given", "dn", "reason"),
    [
        (item(s2__processing_baseline="04.00"), 1000, "baseline 04.00 >= 04.00"),
        (item(s2__processing_baseline="03.01"), 0, "baseline 03.01 < 04.00"),
        (item(s2__processing_baseline="05.11"), 1000, "baseline 05.11 >= 04.00"),
        (item(s2__processing_baseline=5.0), 1000, "baseline 05.00 >= 04.00"),
        (item(s2__processing_baseline=2.12), 0, "baseline 02.12 < 04.00"),
        (item(s2__processing_baseline="0300"), 0, "baseline 03.00 < 04.00"),
        (item(s2__processing_baseline="00.01"), 0, "baseline 00.01 < 04.00"),
        (item(s2__processing_baseline="99.99"), 1000, "baseline 99.99 >= 04.00"),
        # the property comes before every name
        (item("S2A_N0509_X", s2__processing_baseline="03.00"), 0, "baseline 03.00 < 04.00"),
        (
            item(s2__processing_baseline="?", s2__product_uri="S2A_MSIL2A_20200101T0_N0500_R1.SAFE"),
            1000, "baseline 05.00 (product name) >= 04.00",
        ),
        (
            item("S2A_N0214", s2__product_uri="S2A_N0500.SAFE", s2__datatake_id="GS2A_1_N04.00"),
            1000, "baseline 05.00 (product name) >= 04.00",
        ),
        (item("S2A_MSIL2A_2020_N0214_R1"), 0, "baseline 02.14 (item id) < 04.00"),
        (item(s2__datatake_id="GS2B_20250731_043_N05.11"), 1000, "baseline 05.11 (datatake id) >= 04.00"),
        (item(assets=raster(-0.1)), 1000, "raster:bands.offset -0.1"),
        (item(assets=raster(0)), 0, "raster:bands.offset 0"),
        (item(assets=raster(-0.2, scale=0.0002)), 1000, "raster:bands.offset -0.2"),
        (item(assets={"B02": {"bands": [{"raster:offset": -0.1}]}}), 1000, "raster:bands.offset -0.1"),
        (item(assets={"b02": {"raster:offset": -0.1, "raster:scale": 0}}), 1000, "raster:bands.offset -0.1"),
        # the baseline comes before the raster's word
        (item(s2__processing_baseline="02.12", assets=raster(-0.1)), 0, "baseline 02.12 < 04.00"),
    ],
)  # fmt: skip
def test_baseline_rule_in_its_order(given: Any, dn: int, reason: str) -> None:
    decision = decide_offset(given, PC_S2)
    assert (decision.dn, decision.reason, decision.certain) == (dn, reason, True)


def test_nothing_known_is_zero_with_a_doubt() -> None:
    decision = decide_offset(item(datetime="2024-01-01T00:00:00Z"), PC_S2)
    assert (decision.dn, decision.certain) == (0, False)
    assert decision.reason == "no baseline found: 0 assumed"


@pytest.mark.parametrize("profile", [ES_S2, ES_V0])
@pytest.mark.parametrize("baseline", ["02.14", "05.11", None])
def test_harmonised_collections_ignore_all_metadata(profile: CollectionProfile, baseline: str | None) -> None:
    given = item(s2__processing_baseline=baseline, assets=raster(-0.1) | raster(-0.1, "blue"))
    assert decide_offset(given, profile).dn == 0


@pytest.mark.parametrize(
    ("baseline", "flag", "certain"),
    [("05.11", False, False), ("05.11", True, True), ("05.11", None, True), ("02.14", False, True)],
)
def test_fix_30_a_flag_that_denies_it_deserves_a_warning(
    baseline: str, flag: bool | None, certain: bool
) -> None:
    given = item(s2__processing_baseline=baseline, earthsearch__boa_offset_applied=flag)
    decision = decide_offset(given, ES_S2)
    assert (decision.dn, decision.certain) == (0, certain)


def test_collection_1_always_has_it() -> None:
    assert decide_offset(item(s2__processing_baseline="03.00"), ES_C1).dn == 1000


def test_unknown_collections_are_judged_by_the_item() -> None:
    by_keys = UNKNOWN_PROFILES[1]
    assert decide_offset(item(s2__processing_baseline="02.12"), by_keys).dn == 0
    assert decide_offset(item(assets=raster(-0.1, "blue")), by_keys).dn == 1000


@pytest.mark.parametrize(
    "override", [250, {"x": 250}, lambda i: 250 if i["id"] == "x" else None, np.int16(250)]
)
def test_fix_30_the_caller_comes_first(override: Any) -> None:
    for profile in (PC_S2, ES_S2, ES_C1):
        decision = decide_offset(item(s2__processing_baseline="05.11"), profile, override)
        assert (decision.dn, decision.certain) == (250, True)
        assert "caller" in decision.reason


@pytest.mark.parametrize("override", [{"y": 250}, lambda _: None, {}])
def test_a_caller_without_a_word_for_this_item_leaves_it_to_the_metadata(override: Any) -> None:
    assert decide_offset(item(s2__processing_baseline="05.11"), PC_S2, override).dn == 1000


@pytest.mark.parametrize("override", [{"x": 0.5}, lambda _: "1000", {"x": True}, {"x": 40000}])
def test_no_offset_is_an_input_error_that_names_the_item(override: Any) -> None:
    with pytest.raises(InputError, match="item x"):
        decide_offset(item(), PC_S2, override)
