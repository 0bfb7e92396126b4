"""HTTP/1.1 as text: what is sent, and what answers say of themselves. Pure.

Knows what archives of files need and no more: GET, and bodies with ``Content-Length``, in chunks or
until the connection ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from bestpixel_gpu.transfer.transport import ASKED, BrokenOffError

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?", re.DOTALL)
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(r"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_SENT_AS_IT_IS = re.compile(r"https?://[!-~]+", re.IGNORECASE)


def speaks(url: str) -> bool:
    """Tell whether `url` can be asked for here: ASCII, no spaces, no user name."""
    return _SENT_AS_IT_IS.fullmatch(url) is not None and "@" not in urlsplit(url).netloc


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before an answer's body.

    Attributes
    ----------
    headers : dict
        By names in lower case; of repeated ones the first.
    length : int or None
        Bytes of the body; ``None`` if it comes in chunks or lasts until the connection ends.
    keep : bool
        The server lets the connection stand.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    chunked: bool
    keep: bool


def parse_head(raw: bytes) -> Head:
    """Return the head whose lines, without the empty one at the end, are `raw`.

    The rules for a body's length are those of RFC 9112, 6.3.

    Raises
    ------
    BrokenOffError
        If it is not one of HTTP/1, or tells the body's length in a way that cannot be trusted.
    """
    first, *lines = raw.decode("latin-1").split("\r\n")
    match = _STATUS.fullmatch(first)
    if match is None:
        raise BrokenOffError("not an HTTP answer")
    status, headers = int(match[2]), dict[str, str]()
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or not name or name != name.strip():
            raise BrokenOffError("damaged HTTP headers")
        if name == "content-length" and headers.get(name, value) != value:
            raise BrokenOffError("two lengths of one body")
        headers.setdefault(name, value)
    chunked, length = _framing(status, headers)
    said = headers.get("connection", "").lower()
    keep = "close" not in said and (match[1] == "1" or "keep-alive" in said)
    return Head(status, headers, length, chunked, keep and (chunked or length is not None))


def _framing(status: int, headers: Mapping[str, str]) -> tuple[bool, int | None]:
    """``(chunked, length)`` of the body."""
    if status < 200 or status in (204, 304):
        return False, 0
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise BrokenOffError("an unknown transfer encoding")
        return True, None
    length = headers.get("content-length")
    if length is None:
        return False, None
    if _LENGTH.fullmatch(length) is None:
        raise BrokenOffError("a length that is no number")
    return False, int(length)


def chunk_size(line: bytes) -> int:
    """Return the size that the first line of a chunk tells (RFC 9112, 7.1)."""
    match = _CHUNK.fullmatch(line.decode("latin-1"))
    if match is None:
        raise BrokenOffError("a damaged chunk of the body")
    return int(match[1], 16)


def request_head(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    """Return what asks for an address that :func:`speaks`, as it is."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in (ASKED | dict(headers)).items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
