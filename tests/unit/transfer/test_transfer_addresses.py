"""Where hrefs lead."""

from __future__ import annotations

import pytest

from bestpixel_gpu.errors import AuthError, InputError
from bestpixel_gpu.transfer.addresses import locate


@pytest.mark.parametrize(
    ("href", "target", "key"),
    [
        (
            "https://a.test/b/c.tif?sig=x%3D%2B",
            "https://a.test/b/c.tif?sig=x%3D%2B",
            "https://a.test/b/c.tif",
        ),
        ("HTTP://127.0.0.1:80/x", "HTTP://127.0.0.1:80/x", "http://127.0.0.1:80/x"),
        (
            "s3://sentinel-cogs/a/B04.tif",
            "https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/B04.tif",
            "https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/B04.tif",
        ),
        (
            "s3://dea-public-data/a b#c.tif",
            "https://dea-public-data.s3.ap-southeast-2.amazonaws.com/a%20b%23c.tif",
            "https://dea-public-data.s3.ap-southeast-2.amazonaws.com/a%20b%23c.tif",
        ),
    ],
)
def test_web_addresses(href, target, key):
    place = locate(href)
    assert (place.target, place.local, place.key) == (target, False, key)


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("/data/x.tif", "/data/x.tif"),
        ("x?y.tif", "x?y.tif"),
        ("C:\\data\\x.tif", "C:\\data\\x.tif"),
        ("file:///data/a%20b.tif", "/data/a b.tif"),
        ("file://localhost/data/x.tif", "/data/x.tif"),
    ],
)
def test_paths(href, path):
    place = locate(href)
    assert (place.target, place.local) == (path, True)


@pytest.mark.parametrize(
    "href",
    [
        "ftp://a.test/x?secret",
        "gs://bucket/x?secret",
        "s3://nobody-knows/x?secret",
        "file://other/x?secret",
        "https:///x?secret",
        "https://[x/y?secret",
        "https://secret@a.test:99999/x",
        "http://a.test:port/x",
        "s3://",
    ],
)
def test_refused_before_any_request(href):
    with pytest.raises(InputError) as caught:
        locate(href)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "href",
    [
        "s3://usgs-landsat/collection02/x.TIF",
        "s3://naip-analytic/mt/x.tif",
        "s3://sentinel-s2-l2a/tiles/x.jp2",
        "https://usgs-landsat.s3.us-west-2.amazonaws.com/x.TIF?token=secret",
        "https://sentinel-s2-l2a.s3.amazonaws.com/x.jp2",
    ],
)
def test_requester_pays_names_an_alternative(href):
    with pytest.raises(AuthError, match="Planetary Computer") as caught:
        locate(href)
    assert "secret" not in str(caught.value)
    assert caught.value.attempts == 0
