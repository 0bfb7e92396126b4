"""TIFF files made by hand, tag by tag, so that a test can bend any of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

BYTE, ASCII, SHORT, LONG, DOUBLE, IFD, LONG8, IFD8 = 1, 2, 3, 4, 12, 13, 16, 18
_CODES = {BYTE: "B", ASCII: "c", SHORT: "H", LONG: "I", DOUBLE: "d", IFD: "I", LONG8: "Q", IFD8: "Q"}

Tags = dict[int, tuple[int, list]]


@dataclass
class Page:
    """One directory: its tags (type, values), its tiles, and SubIFDs of its own."""

    tags: Tags
    tiles: list[bytes] = field(default_factory=list)
    strips: bool = False
    array_type: int = LONG
    sub: list[Page] = field(default_factory=list)
    sub_type: int = IFD


def page(
    width: int,
    height: int,
    tiles: list[bytes],
    *,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int | None = None,
    bits: int = 8,
    extra: Tags | None = None,
    **options,
) -> Page:
    """A one-sample page, uncompressed unless `extra` says otherwise."""
    tags: Tags = {256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [bits]), 259: (SHORT, [1])}
    if tile:
        tags |= {322: (SHORT, [tile[0]]), 323: (SHORT, [tile[1]])}
    elif rows_per_strip:
        tags |= {278: (LONG, [rows_per_strip])}
    return Page(tags | (extra or {}), tiles, strips=tile is None, **options)


def build_tiff(
    pages: list[Page], *, big: bool = False, order: str = "<", shuffled: bool = False, last_next: int = 0
) -> bytes:
    """The file: tiles and long values first, then the chain of directories."""
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else struct.pack(order + "HI", 42, 0)
    out = bytearray(mark + head)
    link = len(out) - (8 if big else 4)
    for p in pages:
        at, next_link = _write(out, p, big, order, shuffled)
        struct.pack_into(order + ("Q" if big else "I"), out, link, at)
        link = next_link
    struct.pack_into(order + ("Q" if big else "I"), out, link, last_next)
    return bytes(out)


def _write(out: bytearray, p: Page, big: bool, order: str, shuffled: bool) -> tuple[int, int]:
    tags = dict(p.tags)
    spans = []
    for data in p.tiles:
        spans.append((len(out) if data else 0, len(data)))
        out += data
    if spans:
        offsets, counts = (273, 279) if p.strips else (324, 325)
        tags.setdefault(offsets, (p.array_type, [s[0] for s in spans]))
        tags.setdefault(counts, (p.array_type, [s[1] for s in spans]))
    if p.sub:
        tags[330] = (p.sub_type, [_write(out, s, big, order, shuffled)[0] for s in p.sub])
    inline = 8 if big else 4
    entries = []
    for tag in sorted(tags, reverse=shuffled):
        kind, values = tags[tag]
        body = struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
        if len(body) > inline:
            out += b"\0" * (len(out) % 2)
            body, place = struct.pack(order + ("Q" if big else "I"), len(out)), body
            out += place
        entries.append(
            struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, len(values)) + body.ljust(inline, b"\0")
        )
    out += b"\0" * (len(out) % 2)
    at = len(out)
    out += struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries)
    link = len(out)
    out += b"\0" * inline
    return at, link
