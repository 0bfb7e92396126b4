"""Where an href leads: a web address, a local path, or a bucket with a web address. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import url2pathname

from bestpixel_gpu.errors import AuthError, InputError, without_query

_REGIONS: Final = {
    "sentinel-cogs": "us-west-2",
    "e84-earth-search-sentinel-data": "us-west-2",
    "dea-public-data": "ap-southeast-2",
    "deafrica-sentinel-2": "af-south-1",
    "deafrica-landsat": "af-south-1",
}
"""Public buckets: a request to another region is answered by a redirect without the data."""

_REQUESTER_PAYS: Final = {
    "usgs-landsat": "the Planetary Computer's landsat-c2-l2 (endpoint 'landsat')",
    "naip-analytic": "the Planetary Computer's naip collection",
    "sentinel-s2-l2a": "sentinel-2-c1-l2a (endpoint 'earth-search-c1') or the Planetary Computer ('pc')",
}
"""Buckets whose readers pay, and who offers the same files for nothing."""

_S3_HOST = re.compile(r"(?P<bucket>.+)\.s3[.-][a-z0-9.-]*amazonaws\.com")


@dataclass(frozen=True, slots=True)
class Location:
    """A file's place.

    Attributes
    ----------
    target : str
        Web address as it came, query and all, or a local path.
    local : bool
        A path of this machine.
    key : str
        The target without its query: names the file in caches and messages.
    """

    target: str
    local: bool
    key: str


@lru_cache(maxsize=4096)
def locate(href: str) -> Location:
    """Return the place of `href`: web address, ``file://`` URL, path or ``s3://`` of a public bucket.

    Raises
    ------
    AuthError
        If the bucket is known to let its readers pay; the message names a free source.
    InputError
        If the scheme or the bucket is not known.
    """
    scheme, colon, rest = href.partition("://")
    if not colon:
        return Location(href, True, href)
    scheme = scheme.lower()
    if scheme == "file":
        return _local(href)
    if scheme == "s3":
        return _bucket(href, *rest.partition("/")[::2])
    if scheme not in ("http", "https"):
        raise InputError(f"{without_query(href)}: cannot read {scheme}://, give https://, file:// or a path")
    host = _host(href)
    if match := _S3_HOST.fullmatch(host):
        _refuse_paid(match["bucket"], href)
    return Location(href, False, without_query(href))


def _host(href: str) -> str:
    try:
        if host := _name_in(urlsplit(href).netloc):
            return host
    except ValueError:  # brackets that do not close, a port that is no number
        pass
    shown = href.partition("?")[0].rpartition("@")[2]
    raise InputError(f"{shown}: not a web address, it names no host or an impossible port")


@lru_cache(maxsize=256)
def _name_in(netloc: str) -> str | None:
    """Host name, if there is one and its port is possible."""
    parts = SplitResult("", netloc, "", "", "")
    return parts.hostname if parts.port is None or parts.port > 0 else None


def _local(href: str) -> Location:
    parts = urlsplit(href)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{without_query(href)}: a file:// URL of another machine, give file:///path")
    path = url2pathname(parts.path)
    return Location(path, True, path)


def _bucket(href: str, bucket: str, key: str) -> Location:
    _refuse_paid(bucket, href)
    region = _REGIONS.get(bucket)
    if region is None:
        raise InputError(f"s3://{bucket}: not a bucket known to be public, give the https address instead")
    url = f"https://{bucket}.s3.{region}.amazonaws.com/{quote(key)}"
    return Location(url, False, url)


def _refuse_paid(bucket: str, href: str) -> None:
    if bucket in _REQUESTER_PAYS:
        raise AuthError(
            f"{without_query(href)}: readers of the bucket {bucket} pay for their requests;"
            f" read {_REQUESTER_PAYS[bucket]} instead",
            url=href,
            attempts=0,
        )
