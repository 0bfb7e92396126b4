from __future__ import annotations

import numpy as np
import pytest
from sample_composite import make_composite, make_grid

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.result import picture
from bestpixel_gpu.result.picture import limits, quicklook, shrink


def test_small_grids_are_shown_pixel_for_pixel_transparent_where_empty():
    composite = make_composite()
    image = quicklook(composite, stretch=(0.0, 0.5), gamma=1.0)
    assert image.size == (90, 70)
    assert image.mode == "RGBA"
    rgba = np.asarray(image)
    empty = composite.quality == 65535
    np.testing.assert_array_equal(rgba[..., 3], np.where(empty, 0, 255))
    for k, name in enumerate(("red", "green", "blue")):
        expected = np.rint(255.0 * composite.bands[name] / 5000.0)
        np.testing.assert_array_equal(rgba[..., k][~empty], expected[~empty])


def test_gamma_lifts_and_the_stretch_cuts():
    composite = make_composite()
    plain, lifted = (np.asarray(quicklook(composite, gamma=g))[40, 40, 0] for g in (1.0, 2.0))
    assert lifted == np.rint(255 * ((3000 + 280 + 440) / 3000) ** 0.5).clip(0, 255)
    assert plain == 255
    assert (np.asarray(quicklook(composite, stretch=(0.6, 0.7)))[..., :3] == 0).all()


@pytest.mark.parametrize(("factor", "block"), [(1, 1), (3, 3), (4, 4)])
def test_shrinking_takes_the_mean_of_what_is_valid(factor, block):
    rng = np.random.default_rng(factor)
    band = rng.integers(0, 10_000, (23, 34)).astype(np.uint16)
    band[rng.random(band.shape) < 0.3] = 65535
    band[:block, :block] = 65535
    small = shrink(band, factor)
    assert small.shape == (-(-23 // block), -(-34 // block))
    assert np.isnan(small[0, 0])
    for r in range(small.shape[0]):
        for c in range(small.shape[1]):
            part = band[r * block : (r + 1) * block, c * block : (c + 1) * block]
            part = part[part != 65535]
            if part.size:
                assert small[r, c] == pytest.approx(part.mean() / 10_000)


@pytest.mark.parametrize("factor", [5, 9, 17, 40])
def test_wide_blocks_keep_the_place_and_the_size(factor):
    ramp = np.broadcast_to(np.arange(400, dtype=np.uint16) * 10, (300, 400))
    small = shrink(ramp, factor)
    assert max(small.shape) <= -(-400 // factor)
    across = 400 / small.shape[1]
    middle = (np.arange(small.shape[1] - 1) + 0.5) * across * 10 / 10_000
    np.testing.assert_allclose(small[0, :-1], middle, atol=factor * 10 / 10_000)


def test_size_is_the_longest_side_at_most():
    image = quicklook(make_composite(make_grid(300, 470)), size=100)
    assert max(image.size) <= 100
    assert max(image.size) > 75


def test_percentiles_are_of_the_valid_pixels_only():
    composite = make_composite()
    rgb = np.asarray(quicklook(composite, ["red"], stretch="percentile", gamma=1.0))
    valid = composite.quality != 65535
    low, high = np.percentile(composite.bands["red"][valid], (2, 98))
    expected = np.rint(255 * np.clip((composite.bands["red"][valid] - low) / (high - low), 0, 1))
    np.testing.assert_allclose(rgb[..., 0][valid], expected, atol=1)
    assert (rgb[..., 0] == rgb[..., 2]).all()


def test_nothing_at_all_is_a_transparent_picture():
    composite = make_composite()
    for band in composite.bands.values():
        band[:] = 65535
    assert not np.asarray(quicklook(composite, stretch="percentile"))[..., 3].any()
    assert limits(np.array([0.1]), "percentile")[1] > 0.1


def test_without_red_green_blue_the_first_band_is_grey():
    rgba = np.asarray(make_composite(bands=("nir", "swir16")).quicklook())
    np.testing.assert_array_equal(rgba[..., 0], rgba[..., 1])


@pytest.mark.parametrize("bands", [["nir"], ["red", "green"], [], ["red", "green", "nir"]])
def test_wrong_bands_are_named(bands):
    with pytest.raises(InputError, match="one or three of blue, green, red"):
        quicklook(make_composite(), bands)


@pytest.mark.parametrize("stretch", ["pct", (0.3, 0.3), (0.1,), None])
def test_wrong_stretch_is_named(stretch):
    with pytest.raises(InputError, match="stretch must be"):
        quicklook(make_composite(), stretch=stretch)


@pytest.mark.parametrize("wrong", [{"bands": 5}, {"size": "big"}, {"size": 0}, {"size": 10.5}])
def test_what_is_no_list_and_no_size_is_refused(wrong):
    with pytest.raises(InputError, match=f"^{next(iter(wrong))} must be"):
        quicklook(make_composite(), **wrong)


def test_without_pillow_the_error_says_what_to_install_and_html_has_no_picture(monkeypatch):
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'bestpixel-gpu\[plot\]'"):
        quicklook(make_composite())
    assert "<img" not in make_composite()._repr_html_()


def test_the_picture_can_be_saved(tmp_path):
    from PIL import Image

    composite = make_composite()
    composite.quicklook().save(tmp_path / "look.png")
    with Image.open(tmp_path / "look.png") as image:
        assert image.size == (90, 70)
