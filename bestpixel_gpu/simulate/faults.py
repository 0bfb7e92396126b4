"""What goes wrong on demand: which request, and how."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field

from bestpixel_gpu.errors import InputError

KINDS = ("reset", "short", "whole", "slow", "corrupt", "stall", "truncated", "replaced")
"""Beside HTTP statuses (``"404"``, ``"429"``, ``"503"``...):

- ``reset``: the connection is dropped before an answer
- ``short``: half of the promised body, then the connection is dropped
- ``whole``: status 200 with the full file, the range ignored
- ``slow``: the answer comes two seconds late
- ``corrupt``: bits of the body are flipped
- ``stall``: no answer ever
- ``truncated``: the file ends at half its length
- ``replaced``: the file beside it, of the same name and ``.new``, with a tag of its own
"""

Rules = str | list[str] | tuple[str, ...] | dict[str, str]
"""``"503:0.05"`` (share of the file ranges whose first try fails), several of them, or
``{"part of a path": "503"}``: every request whose path contains it; ``"503*2"`` only the first two
tries of each range."""


@dataclass(frozen=True, slots=True)
class _Share:
    kind: str
    share: float


@dataclass(frozen=True, slots=True)
class _Target:
    part: str
    kind: str
    tries: int


@dataclass(slots=True)
class Faults:
    """Chooses the fault of a request; repeats exactly for the same seed and requests."""

    seed: int = 1
    shares: list[_Share] = field(default_factory=list)
    targets: list[_Target] = field(default_factory=list)
    tried: Counter[str] = field(default_factory=Counter)

    @classmethod
    def parse(cls, rules: Rules | None, seed: int = 1) -> Faults:
        """Faults from what the user writes; see :data:`Rules`.

        Raises
        ------
        InputError
            If a rule does not read.
        """
        found = cls(seed)
        if isinstance(rules, dict):
            for part, text in rules.items():
                kind, _, tries = text.partition("*")
                found.targets.append(_Target(part, _check(kind), int(tries or 1 << 30)))
            return found
        for text in [rules] if isinstance(rules, str) else rules or []:
            kind, _, share = text.partition(":")
            found.shares.append(_Share(_check(kind), float(share or 0.05)))
        return found

    def choose(self, path: str, span: str = "", *, is_file: bool = True) -> str | None:
        """Kind of the fault of this request, or ``None``. Call it once per request."""
        key = f"{path} {span}"
        tries = self.tried[key]
        self.tried[key] += 1
        for target in self.targets:
            if target.part in path and tries < target.tries:
                return target.kind
        if tries or not is_file:
            return None
        u = int(hashlib.sha1(f"{self.seed} {key}".encode()).hexdigest()[:8], 16) / 2**32
        for one in self.shares:
            if u < one.share:
                return one.kind
            u -= one.share
        return None


def _check(kind: str) -> str:
    if kind in KINDS or re.fullmatch(r"[45]\d\d", kind):
        return kind
    raise InputError(
        f"unknown fault {kind!r}: choose an HTTP status from 400 on, or one of {', '.join(KINDS)}"
    )


def flip_bits(body: bytes) -> bytes:
    """`body` with one bit wrong in every 997 bytes and in its middle."""
    wrong = bytearray(body)
    for at in {*range(0, len(wrong), 997), len(wrong) // 2} if wrong else ():
        wrong[at] ^= 0x10
    return bytes(wrong)
