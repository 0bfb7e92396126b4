from __future__ import annotations

import copy
import json
import pickle
from contextlib import nullcontext
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pytest
from sample_composite import make_composite, make_grid

ANCESTOR_KEYS = {
    "bands",
    "quality",
    "observation_count",
    "selected_observation",
    "source_ids",
    "band_names",
    "grid",
    "endpoint",
    "collection",
    "partition_tiles",
    "multi_tile_chunks",
    "timings",
}


def test_mapping_has_the_ancestors_keys_and_date_and_report():
    composite = make_composite()
    assert set(composite) == ANCESTOR_KEYS | {"date", "report"}
    assert len(composite) == len(list(composite)) == len(dict(composite))
    assert composite["bands"] is composite.bands
    assert composite["band_names"] == ["blue", "green", "red"]
    for key in ("boa_unc", "shape", "to_xarray", "_date"):
        assert key not in composite
        with pytest.raises(KeyError):
            composite[key]


def test_boa_unc_is_a_key_only_if_it_is_there():
    unc = {"blue": np.ones((70, 90), np.float32)}
    composite = make_composite(boa_unc=unc)
    assert composite["boa_unc"] is unc
    assert set(composite) == ANCESTOR_KEYS | {"date", "report", "boa_unc"}
    assert len(composite) == len(list(composite))


def test_grid_is_an_object_as_attribute_and_a_dict_as_key():
    composite = make_composite()
    assert composite.grid == make_grid()
    assert composite["grid"]["epsg"] == 32631
    assert composite["grid"]["bounds"] == [300060.0, 4895820.0, 305460.0, 4900020.0]
    json.dumps(composite["grid"])


def test_date_is_the_winners_utc_day():
    composite = make_composite()
    days = np.array([(date(2024, 7, d) - date(1970, 1, 1)).days for d in (2, 7, 12)])
    won = composite.selected_observation >= 0
    assert composite.date.dtype == np.int32
    assert composite.date.shape == composite.grid.shape
    assert (composite.date[~won] == -2147483648).all()
    np.testing.assert_array_equal(composite.date[won], days[composite.selected_observation[won]])
    assert composite.date is composite.date  # made once


def test_date_of_tall_grids_other_zones_and_old_days():
    grid = make_grid(1100, 3)
    winners = (np.arange(3300).reshape(1100, 3) % 4 - 1).astype(np.int32)
    dates = [
        datetime(1969, 12, 31, 23, 59),  # no zone: UTC
        datetime(1970, 1, 2, 1, tzinfo=timezone(timedelta(hours=2))),  # still the 1st in UTC
        datetime(1970, 1, 2, 1, tzinfo=timezone(timedelta(0))),
    ]
    composite = make_composite(grid, selected_observation=winners, source_dates=dates)
    expected = np.array([-2147483648, -1, 0, 1])[winners + 1]
    np.testing.assert_array_equal(composite.date, expected)


def test_equality_is_identity_and_it_can_be_hashed_copied_pickled():
    one, two = make_composite(), make_composite()
    assert one == one
    assert one != two
    assert len({one, two}) == 2
    assert copy.copy(one).bands is one.bands
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.bands["red"], one.bands["red"])
    assert again.report.counts == one.report.counts


def test_repr_says_size_place_and_losses_in_one_line():
    text = repr(make_composite())
    assert "90 x 70 px of 60 in EPSG:32631" in text
    assert "3 scenes, 150 empty pixels" in text
    assert "\n" not in text


def test_html_holds_facts_escaped_and_a_picture():
    composite = make_composite(collection="<b>")
    html = composite._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "data:image/png;base64," in html
    assert "1 tiles, 1 scenes" in html


class OnDevice:
    """An array that numpy cannot read unasked, as CuPy's: methods, slices, ``like=``, `device` and `get`."""

    device = nullcontext()

    def __init__(self, array):
        self.array = array
        self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion to a host array is not allowed")

    def __array_function__(self, function, types, args, kwargs):
        return OnDevice(function(*(getattr(a, "array", a) for a in args), **kwargs))

    def __getitem__(self, key):
        return OnDevice(self.array[getattr(key, "array", key)])

    def __setitem__(self, key, value):
        self.array[key] = value.array

    def get(self):
        return self.array


def test_arrays_of_a_device_stay_there_until_they_are_written(tmp_path):
    host = make_composite()
    layers = ("quality", "observation_count", "selected_observation")
    device = make_composite(
        bands={name: OnDevice(band) for name, band in host.bands.items()},
        **{name: OnDevice(host[name]) for name in layers},
    )
    assert isinstance(device.date, OnDevice)
    there = device.to_numpy()
    for name in ("quality", "observation_count", "selected_observation", "date"):
        np.testing.assert_array_equal(there[name], host[name])
    np.testing.assert_array_equal(there.bands["red"], host.bands["red"])
    assert host.to_numpy() is host
    np.testing.assert_array_equal(device.date.get(), host.date)
    assert device.to_xarray().red.shape == (70, 90)
    pytest.importorskip("PIL")
    np.testing.assert_array_equal(np.asarray(device.quicklook()), np.asarray(host.quicklook()))
    rasterio = pytest.importorskip("rasterio")
    device.to_cog(tmp_path)
    for name in ("red", "date", "quality"):
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            np.testing.assert_array_equal(file.read(1), host.bands.get(name, getattr(host, name, None)))
