"""The table of archives."""

from __future__ import annotations

import pickle

import pytest

from bestpixel_gpu.catalog.providers import BAND_KEYS, ENDPOINTS, PROFILES, resolve_endpoint, scl_scores
from bestpixel_gpu.errors import InputError
from bestpixel_gpu.plan.scores import mask_table


@pytest.mark.parametrize(
    ("name", "endpoint", "collection"),
    [
        ("pc", "pc", "sentinel-2-l2a"),
        ("planetary-computer", "pc", "sentinel-2-l2a"),
        ("planetary_computer", "pc", "sentinel-2-l2a"),
        ("earth-search", "earth-search", "sentinel-2-l2a"),
        ("es", "earth-search", "sentinel-2-l2a"),
        ("element84", "earth-search", "sentinel-2-l2a"),
        ("earth-search-c1", "earth-search-c1", "sentinel-2-c1-l2a"),
    ],
)
def test_names_and_aliases(name: str, endpoint: str, collection: str) -> None:
    found = resolve_endpoint(name)
    assert found.name == endpoint
    assert [p.collection for p in found.collections] == [collection]
    assert found.signed == (endpoint == "pc")
    assert all(p.collection == collection for p in found.collections)


@pytest.mark.parametrize(
    ("region", "name"), [("us-west-2", "earth-search"), ("eu-central-1", "pc"), ("", "pc"), (None, "pc")]
)
def test_auto_looks_at_the_region(monkeypatch: pytest.MonkeyPatch, region: str | None, name: str) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    if region is not None:
        monkeypatch.setenv("AWS_REGION", region)
    assert resolve_endpoint("auto").name == name


@pytest.mark.parametrize(
    ("name", "why"), [("hls", "not in this version"), ("PC", "not known"), ("", "not known")]
)
def test_others_are_refused_with_the_names(name: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        resolve_endpoint(name)
    for endpoint in ENDPOINTS:
        assert all(repr(n) in str(caught.value) for n in (endpoint.name, *endpoint.aliases))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.collection}-{p.masks[0]}")
def test_class_rules_are_the_published_table(profile: object) -> None:
    rules = profile.class_rules  # type: ignore[attr-defined]
    expected = {4: 0, 5: 0, 6: 0, 11: 0, 7: 1, 2: 2, 3: 2}
    assert {v: int(s) for v, s in enumerate(rules.scores) if s != 65535} == expected
    assert [v for v, c in enumerate(rules.clear) if c] == [4, 5, 6, 11]
    assert rules.nodata == profile.mask_nodata == 0  # type: ignore[attr-defined]
    assert list(profile.bands) == list(BAND_KEYS)  # type: ignore[attr-defined]
    assert rules is profile.class_rules  # type: ignore[attr-defined]  # made once
    table = mask_table(rules.scores, rules.clear, rules.nodata)
    assert table.codes[[0, 1, 4, 7, 3, 9, 12]].tolist() == [255, 254, 0, 1, 2, 254, 254]


def test_scl_scores_name_all_twelve_classes() -> None:
    table = scl_scores()
    assert sorted(table) == list(range(12))
    assert [c for c, (_, _, nodata) in table.items() if nodata] == [0]


def test_profiles_can_be_keys_and_travel() -> None:
    assert len(set(PROFILES)) == len(PROFILES)
    again = pickle.loads(pickle.dumps(PROFILES[1]))
    assert (again.collection, dict(again.bands)) == (PROFILES[1].collection, dict(PROFILES[1].bands))
