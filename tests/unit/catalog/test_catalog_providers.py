"""The table of archives."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest

from bestpixel_gpu.catalog.classes import class_rules
from bestpixel_gpu.catalog.providers import (
    BAND_KEYS,
    ENDPOINTS,
    PROFILES,
    CollectionProfile,
    resolve_endpoint,
)
from bestpixel_gpu.compositing.setup import band_names
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
        ("hls", "hls", "hls2-l30+hls2-s30"),
        ("hls2", "hls", "hls2-l30+hls2-s30"),
        ("hls-l30-s30", "hls", "hls2-l30+hls2-s30"),
        ("mcd43a4", "mcd43a4", "modis-43A4-061"),
        ("modis-43a4", "mcd43a4", "modis-43A4-061"),
        ("modis-43A4-061", "mcd43a4", "modis-43A4-061"),
        ("modis43a4", "mcd43a4", "modis-43A4-061"),
        ("landsat", "landsat", "landsat-c2-l2"),
    ],
)
def test_names_and_aliases(name: str, endpoint: str, collection: str) -> None:
    found = resolve_endpoint(name)
    assert found.name == endpoint
    assert "+".join(p.collection for p in found.collections) == collection
    assert found.signed == (not endpoint.startswith("earth-search"))
    assert found.cloud_filter == (endpoint != "mcd43a4")


@pytest.mark.parametrize(
    ("region", "name"), [("us-west-2", "earth-search"), ("eu-central-1", "pc"), ("", "pc"), (None, "pc")]
)
def test_auto_looks_at_the_region(monkeypatch: pytest.MonkeyPatch, region: str | None, name: str) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    if region is not None:
        monkeypatch.setenv("AWS_REGION", region)
    assert resolve_endpoint("auto").name == name


@pytest.mark.parametrize("name", ["PC", "", "sentinel", "hls3"])
def test_others_are_refused_with_the_names(name: str) -> None:
    with pytest.raises(InputError, match="not known") as caught:
        resolve_endpoint(name)
    for endpoint in ENDPOINTS:
        assert all(repr(n) in str(caught.value) for n in (endpoint.name, *endpoint.aliases))


# name, collections, asset of each band as the ancestor has them (bestpixel 0.3.0)
ANCESTOR = {
    "hls": {
        "hls2-l30": "B01 B02 B03 B04 B05 B06 B07",
        "hls2-s30": "B01 B02 B03 B04 B8A B11 B12",
    },
    "mcd43a4": {"modis-43A4-061": "Band3 Band4 Band1 Band2 Band6 Band7"},
}


@pytest.mark.parametrize("name", ANCESTOR)
def test_default_bands_and_assets_are_those_of_the_ancestor(name: str) -> None:
    endpoint = resolve_endpoint(name)
    bands = ["coastal", "blue", "green", "red", "nir", "swir16", "swir22"]
    bands = bands if name == "hls" else bands[1:]
    assert list(endpoint.default_bands) == bands
    found = {p.collection: [p.bands[b] for b in bands] for p in endpoint.collections}
    prefix = "Nadir_Reflectance_" if name == "mcd43a4" else ""
    assert found == {c: [prefix + k for k in keys.split()] for c, keys in ANCESTOR[name].items()}


def test_bands_beyond_the_default_are_read_when_named() -> None:
    assert resolve_endpoint("pc").default_bands == resolve_endpoint("pc").bands == tuple(BAND_KEYS)
    hls, landsat = resolve_endpoint("hls"), resolve_endpoint("landsat")
    assert set(hls.bands) - set(hls.default_bands) == {"rededge1", "rededge2", "rededge3", "nir08"}
    assert set(landsat.bands) - set(landsat.default_bands) == {"coastal", "nir08"}
    with pytest.raises(InputError, match="unknown band 'nir09' for landsat"):
        band_names(("nir09",), landsat)
    assert band_names(None, landsat) == ("blue", "green", "red", "nir", "swir16", "swir22")


def test_bands_of_one_file_are_read_once_by_default() -> None:
    for endpoint in ENDPOINTS:
        for profile in endpoint.collections:
            keys = [profile.bands[b] for b in endpoint.default_bands]
            assert len(set(keys)) == len(keys)


# ---- class values ----


def test_scl_is_the_published_table() -> None:
    rules = class_rules("scl")
    expected = {4: 0, 5: 0, 6: 0, 11: 0, 7: 1, 2: 2, 3: 2}
    assert {v: int(s) for v, s in enumerate(rules.scores) if s != 65535} == expected
    assert np.flatnonzero(rules.clear).tolist() == [4, 5, 6, 11]
    assert np.flatnonzero(rules.nodata).tolist() == [0]
    assert rules is class_rules("scl")  # made once
    table = mask_table(rules.scores, rules.clear, rules.nodata)
    assert table.codes[[0, 1, 4, 7, 3, 9, 12]].tolist() == [255, 254, 0, 1, 2, 254, 254]


@pytest.mark.parametrize("value", range(256))
def test_fmask_is_the_ancestors_table(value: int) -> None:
    """Cloud, then cirrus or shadow, then adjacent or aerosol, then snow; 255 before all bits."""
    rules = class_rules("fmask")
    cirrus, cloud, adjacent, shadow, snow = (value >> bit & 1 for bit in range(5))
    aerosol = value >> 6
    if value == 255 or cloud:
        score = 65535
    elif cirrus or shadow:
        score = 2
    elif adjacent or aerosol >= 2 or snow:
        score = 1
    else:
        score = 0
    assert rules.scores[value] == score
    assert rules.clear[value] == (
        not (cirrus or cloud or adjacent or shadow) and aerosol <= 1 and value != 255
    )
    assert rules.nodata[value] == (value == 255)


def test_values_beyond_a_masks_byte_are_unusable() -> None:
    for kind in ("scl", "fmask", "mcd43"):
        rules = class_rules(kind)
        assert (rules.scores[256:] == 65535).all()
        assert not rules.clear[256:].any()


# values of USGS LSDS-1619 (value interpretations of QA_PIXEL)
@pytest.mark.parametrize(
    ("value", "score", "clear"),
    [
        (1, 65535, False),  # fill
        (21824, 0, True),  # clear land, all confidences low
        (21952, 0, True),  # clear water
        (21826, 1, False),  # dilated cloud over land
        (22080, 1, False),  # medium confidence in cloud
        (22280, 65535, False),  # cloud, high confidence
        (23888, 2, False),  # cloud shadow
        (23952, 2, False),  # shadow over water
        (30048, 1, True),  # snow or ice
        (54596, 2, False),  # cirrus
        (54852, 2, False),  # cirrus, medium confidence in cloud
        (55052, 65535, False),  # cirrus and cloud
        (5440, 0, True),  # clear land of Landsat 4 to 7
        (5896, 65535, False),  # their cloud
    ],
)
def test_landsat_pixel_quality(value: int, score: int, clear: bool) -> None:
    rules = class_rules("qa_pixel")
    assert (rules.scores[value], rules.clear[value]) == (score, clear)
    assert rules.nodata[value] == bool(value & 1)


def test_modis_quality_is_the_ancestors_table() -> None:
    rules = class_rules("mcd43")
    assert {v: int(s) for v, s in enumerate(rules.scores) if s != 65535} == {0: 0, 1: 1}
    assert np.flatnonzero(rules.clear).tolist() == [0]
    assert np.flatnonzero(rules.nodata).tolist() == [255]


def test_landsat_is_on_the_scale_of_sentinel_2() -> None:
    """Reflectance 2.75e-5 DN - 0.2, times 10000, exactly."""
    (profile,) = resolve_endpoint("landsat").collections
    for dn in (1, 7273, 7274, 20000, 43636, 65535):
        assert (
            Fraction(profile.mul * dn + profile.add, profile.div)
            == (Fraction("0.0000275") * dn - Fraction("0.2")) * 10000
        )


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.collection}-{p.masks[0]}")
def test_every_profile_agrees_with_its_class_table(profile: CollectionProfile) -> None:
    assert profile.class_rules.nodata[profile.mask_nodata]
    assert [b for b in BAND_KEYS if b in profile.bands] == list(profile.bands)
    assert profile.on_request <= profile.bands.keys()
    assert profile.band_masks.keys() <= profile.bands.keys()


def test_profiles_can_be_keys_and_travel() -> None:
    assert len(set(PROFILES)) == len(PROFILES)
    again = pickle.loads(pickle.dumps(PROFILES[1]))
    assert (again.collection, dict(again.bands)) == (PROFILES[1].collection, dict(PROFILES[1].bands))
