"""Neighbouring byte ranges merged into fewer requests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""``(offset, length)`` in bytes."""

GAP_BYTES = 4096
"""Reading that much for nothing costs less than another request."""
GROUP_BYTES = 4 << 20
"""Every request costs CPU time; a larger one would take longer on one connection than two side by side."""


@dataclass(frozen=True, slots=True)
class Group:
    """One request that serves several spans.

    Attributes
    ----------
    offset, length : int
        The bytes to ask for.
    members : tuple of int
        Indices of the spans served, rising in offset.
    """

    offset: int
    length: int
    members: tuple[int, ...]


def merge(spans: Sequence[Span], gap: int = GAP_BYTES, cap: int = GROUP_BYTES) -> list[Group]:
    """Return groups, rising in offset, that cover `spans`; each span is in exactly one.

    Spans may come in any order, overlap and repeat. A span joins the group before it when at most
    `gap` bytes lie between them and the group stays within `cap` bytes; a span longer than `cap`
    makes a group of its own, joined only by spans that lie wholly inside it.
    """
    groups: list[Group] = []
    members: list[int] = []
    start = end = 0
    for index in sorted(range(len(spans)), key=spans.__getitem__):
        offset, length = spans[index]
        reach = max(end, offset + length)
        if members and offset <= end + gap and (reach == end or reach - start <= cap):
            members.append(index)
            end = reach
            continue
        if members:
            groups.append(Group(start, end - start, tuple(members)))
        members, start, end = [index], offset, offset + length
    if members:
        groups.append(Group(start, end - start, tuple(members)))
    return groups
