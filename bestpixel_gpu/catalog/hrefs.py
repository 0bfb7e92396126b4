"""Addresses of assets: made absolute, checked, and refused where nobody could read them."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from bestpixel_gpu.errors import CatalogError, InputError, without_query

_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_PAID_BUCKETS = {
    "usgs-landsat": "landsat", "naip-analytic": "", "naip-source": "", "sentinel-s2-l2a": "earth-search-c1",
    "sentinel-s2-l1c": "",
}  # fmt: skip
"""Buckets whose readers pay -> endpoint that has the same for nothing."""
_LOGIN_HOSTS = {
    "landsatlook.usgs.gov": "landsat",
    "data.lpdaac.earthdatacloud.nasa.gov": "hls",
    "e4ftl01.cr.usgs.gov": "mcd43a4",
}
"""Hosts that send readers to a login -> endpoint that has the same without."""
_BUCKET_HOST = re.compile(r"(?P<bucket>.+)\.s3[.-][a-z0-9.-]*amazonaws\.com")


class SkipItem(CatalogError):  # noqa: N818  (a verdict on one item, not a failure of the run)
    """An item that cannot be a candidate; the message is the reason."""


def absolute_href(href: str, item: Mapping[str, Any], base: str | os.PathLike[str] | None = None) -> str:
    """`href` made absolute by the item's own address, else by `base`.

    Parameters
    ----------
    href
        As the asset says.
    item
        Raw item; its link ``self`` is used if that is absolute.
    base
        Address of the item's document (ending in ``.json`` or ``.geojson``) or of its folder.

    Raises
    ------
    InputError
        If `href` is relative and nothing says to what.
    """
    if is_absolute(href):
        return href
    links = item.get("links") or ()
    own = next((str(k.get("href", "")) for k in links if k.get("rel") == "self"), "")
    if is_absolute(own):
        return _join(own, href)
    if base is not None:
        text = os.fspath(base)
        document = text.lower().endswith((".json", ".geojson"))
        return _join(text if document or text.endswith("/") else f"{text}/", href)
    raise InputError(
        f"item {item.get('id')}: {without_query(href)} is relative and the item has no absolute self link: "
        "give items with absolute hrefs (pystac: item.make_asset_hrefs_absolute())"
    )


def is_absolute(href: str) -> bool:
    """Whether an address needs no base: a URL, or a path from a root."""
    return "://" in href or href.startswith("/") or bool(_WINDOWS_PATH.match(href))


def _join(base: str, href: str) -> str:
    scheme, mark, rest = base.partition("://")
    if mark:  # urljoin knows relative references of http only
        return scheme + urljoin(f"http://{rest}", href).removeprefix("http")
    return os.path.normpath(os.path.join(os.path.dirname(base), href))


def check_href(href: str, catalog_root: str) -> None:
    """Refuse an address that leads into this machine, unless the catalogue itself is there.

    A catalogue on the web must not make this process read local files or talk to local services.

    Raises
    ------
    SkipItem
        If `href` is a path, a ``file://`` URL or a loopback address and `catalog_root` is none.
    """
    if is_local(href) and not is_local(catalog_root):
        raise SkipItem(
            f"{without_query(href)} leads into this machine, but {without_query(catalog_root)} does not: "
            "give such items by items="
        )


def is_local(address: str) -> bool:
    """Whether an address is a path, a ``file://`` URL, or a loopback or link-local host."""
    parts = urlsplit(address)
    if "://" not in address or parts.scheme.lower() == "file":
        return True
    return _is_local_host(host_in(parts.netloc))


@lru_cache(maxsize=256)
def host_in(netloc: str) -> str:
    """Host's name, in lower case, in what stands between an address's scheme and its path; or empty."""
    return SplitResult("", netloc, "", "", "").hostname or ""


@lru_cache(maxsize=256)
def _is_local_host(name: str) -> bool:
    host = unquote(name).rstrip(".")
    if host in ("", "localhost") or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            ip = ipaddress.ip_address(socket.inet_aton(host))  # 127.1 and 0x7f000001, as resolvers read them
        except OSError:
            return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified


def check_readable(key: str, asset: Mapping[str, Any], href: str) -> None:
    """Refuse what no range reader of TIFFs can read for nothing.

    Raises
    ------
    SkipItem
        If the asset is JPEG 2000, its readers pay or need a login, or its address is none.
    """
    try:
        parts = urlsplit(href)
    except ValueError:
        raise SkipItem(f"asset {key} has a malformed href") from None
    kind = str(asset.get("type") or "").lower()
    if "jp2" in kind or "jpeg2000" in kind or parts.path.lower().endswith((".jp2", ".j2k")):
        raise SkipItem(f"asset {key} is JPEG 2000, not a TIFF")
    host = host_in(parts.netloc)
    match = _BUCKET_HOST.fullmatch(host)
    bucket = parts.netloc if parts.scheme == "s3" else match["bucket"] if match else ""
    if bucket in _PAID_BUCKETS or asset.get("storage:requester_pays") is True:
        raise SkipItem(
            f"asset {key} lies in a bucket whose readers pay{_instead(_PAID_BUCKETS.get(bucket, ''))}"
        )
    if host in _LOGIN_HOSTS:
        raise SkipItem(f"asset {key} needs a login{_instead(_LOGIN_HOSTS[host])}")


def _instead(endpoint: str) -> str:
    return f": endpoint={endpoint!r} has the same without" if endpoint else ""
