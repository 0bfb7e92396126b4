"""QA_PIXEL of Landsat: every value, decoded bit by bit and by the words of USGS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bestpixel_gpu.catalog.classes import class_rules

VALUES = np.arange(65536, dtype="<u2")
NONE, LOW, MEDIUM, HIGH = range(4)
FIELDS = {
    "fill": (0, 1), "dilated": (1, 1), "cirrus": (2, 1), "cloud": (3, 1), "shadow": (4, 1), "snow": (5, 1),
    "clear": (6, 1), "water": (7, 1), "cloud_confidence": (8, 2), "shadow_confidence": (10, 2),
    "snow_confidence": (12, 2), "cirrus_confidence": (14, 2),
}  # fmt: skip
"""First bit and bits of each field: USGS LSDS-1619, table 6-2."""
CLEAR, SNOW, RIM, DIM, CLOUD, FILL = (0, True), (1, True), (1, False), (2, False), (65535, False), None
"""(score, clear in statistics); nothing observed."""

# LSDS-1619, table 6-3
LANDSAT_8_9 = {
    1: ("fill", FILL),
    21824: ("clear with lows set", CLEAR),
    21826: ("dilated cloud over land", RIM),
    21888: ("water with lows set", CLEAR),
    21890: ("dilated cloud over water", RIM),
    21952: ("water with lows set, bit 6 right", CLEAR),
    22080: ("mid conf cloud", RIM),
    22144: ("mid conf cloud over water", RIM),
    22280: ("high conf cloud", CLOUD),
    23888: ("high conf cloud shadow", DIM),
    23952: ("water with cloud shadow", DIM),
    24088: ("mid conf cloud with shadow", CLOUD),
    24216: ("mid conf cloud with shadow over water", CLOUD),
    24344: ("high conf cloud with shadow", CLOUD),
    24472: ("high conf cloud with shadow over water", CLOUD),
    30048: ("high conf snow/ice", SNOW),
    54596: ("high conf cirrus", DIM),
    54852: ("cirrus, mid cloud", DIM),
    55052: ("cirrus, high cloud", CLOUD),
}
# LSDS-1618, table 5-6
LANDSAT_4_7 = {
    5440: ("clear with lows set", CLEAR),
    5442: ("dilated cloud over land", RIM),
    5504: ("water with lows set", CLEAR),
    5506: ("dilated cloud over water", RIM),
    5696: ("mid conf cloud", RIM),
    5760: ("mid conf cloud over water", RIM),
    5896: ("high conf cloud", CLOUD),
    7440: ("high conf cloud shadow", DIM),
    7568: ("water with cloud shadow", DIM),
    7696: ("mid conf cloud with shadow", DIM),
    7824: ("mid conf cloud with shadow over water", DIM),
    7960: ("high conf cloud with shadow", CLOUD),
    8088: ("high conf cloud with shadow over water", CLOUD),
    13664: ("high conf snow/ice", SNOW),
}


def fields() -> dict[str, np.ndarray]:
    """Each field of each value, from single bits."""
    bits = np.unpackbits(VALUES.view(np.uint8).reshape(-1, 2), axis=1, bitorder="little").astype(int)
    return {name: sum(bits[:, at + i] << i for i in range(n)) for name, (at, n) in FIELDS.items()}


def test_every_value_is_worth_what_its_bits_say() -> None:
    f, rules = fields(), class_rules("qa_pixel")
    says = {n: (f[n] == 1) | (f[f"{n}_confidence"] == HIGH) for n in ("cloud", "shadow", "snow", "cirrus")}
    rim = (f["dilated"] == 1) | (f["cloud_confidence"] == MEDIUM)
    dim = says["shadow"] | says["cirrus"]
    want = np.select([f["fill"] == 1, says["cloud"], dim, rim | says["snow"]], [65535, 65535, 2, 1], 0)
    np.testing.assert_array_equal(rules.scores, want)
    np.testing.assert_array_equal(rules.nodata, f["fill"] == 1)
    np.testing.assert_array_equal(rules.clear, (want == 0) | ((want == 1) & ~rim))
    np.testing.assert_array_equal(rules.cloudy, (f["fill"] == 0) & (says["cloud"] | dim))


@pytest.mark.parametrize("field", ["clear", "water"])
def test_water_and_the_clear_bit_change_nothing(field: str) -> None:
    rules, bit = class_rules("qa_pixel"), 1 << FIELDS[field][0]
    for table in (rules.scores, rules.clear, rules.nodata, rules.cloudy):
        np.testing.assert_array_equal(table[VALUES | bit], table[VALUES & ~np.uint16(bit)])


@pytest.mark.parametrize("value", [*LANDSAT_8_9, *LANDSAT_4_7])
def test_values_that_usgs_explains(value: int) -> None:
    rules, (words, want) = class_rules("qa_pixel"), (LANDSAT_8_9 | LANDSAT_4_7)[value]
    assert rules.nodata[value] == (want is FILL), words
    if want is not FILL:
        assert (rules.scores[value], rules.clear[value]) == want, words


def test_recorded_items_say_the_same_of_the_bits(shared: Path) -> None:
    """Where a field lies, and which of its values mean something, by the archives' own words."""
    seen = 0
    for path in sorted((shared / "data" / "stac").glob("*landsat*.json")):
        told = json.loads(path.read_text())["assets"].get("qa_pixel", {}).get("classification:bitfields", [])
        own = dict(FIELDS.values())
        assert {t["offset"]: t["length"] for t in told} == (own if told else {}), path.name
        for field in told:
            known = {c["value"] for c in field["classes"] if "reserved" not in c["name"].lower()}
            if field["length"] == 2:
                all_four = field["name"] == "cloud_confidence"
                assert known == ({NONE, LOW, MEDIUM, HIGH} if all_four else {NONE, LOW, HIGH}), field
        seen += bool(told)
    assert seen >= 4
