"""Bytes in pinned memory that go to the device together.

What lies between them may be anybody's: it is copied along, and nobody looks at it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cuda.receive import slab_of
from bestpixel_gpu.engines.cuda.tiles import ALIGNMENT

STRAIGHT_BYTES = 1 << 16
"""Fewer bytes are gathered sooner than another copy is asked for. A guess until it is measured."""
BETWEEN_BYTES = 1 << 19
"""So much between two is copied for nothing: it takes the 10 us in which another copy is asked for, at
50 GB/s. Both figures are guesses until they are measured."""


class Piece(NamedTuple):
    """Bytes ``start .. end - 1`` of pinned memory.

    Attributes
    ----------
    memory : uint8 array
        A slab of the receiver's, or a lane's own.
    aligned : int or None
        The byte that is to be aligned on the device, where that matters.
    """

    memory: NDArray[np.uint8]
    start: int
    end: int
    aligned: int | None

    @classmethod
    def of(cls, array: NDArray[np.uint8], before: int | None = 0) -> Piece:
        """An array, of which the byte after `before` is to be aligned."""
        slab = slab_of(array)
        start = 0 if slab is None else array.ctypes.data - slab.ctypes.data
        aligned = None if before is None else start + before
        return cls(array if slab is None else slab, start, start + array.size, aligned)


@dataclass(slots=True, eq=False)
class Run:
    """Bytes ``start .. end - 1`` of pinned memory, which one copy takes.

    Attributes
    ----------
    aligned : int or None
        A byte that is to be aligned on the device.
    pieces : list of int
        Numbers of the pieces in it.
    at : int
        Where `start` goes in the batch's device memory.
    """

    memory: NDArray[np.uint8]
    start: int
    end: int
    aligned: int | None
    pieces: list[int]
    at: int = 0

    def reaches(self, piece: Piece) -> bool:
        """Whether one that starts no sooner is to join it."""
        if piece.memory is not self.memory or piece.start > self.end + BETWEEN_BYTES:
            return False
        if piece.aligned is None or self.aligned is None:
            return True
        return (piece.aligned - self.aligned) % ALIGNMENT == 0


def joined(pieces: Mapping[int, Piece]) -> list[Run]:
    """Pieces that lie near each other, with what is between them; those of one run can all be aligned."""
    runs: list[Run] = []
    for i, piece in sorted(pieces.items(), key=lambda item: (id(item[1].memory), item[1].start)):
        last = runs[-1] if runs else None
        if last is not None and last.reaches(piece):
            last.end = max(last.end, piece.end)
            last.aligned = piece.aligned if last.aligned is None else last.aligned
            last.pieces.append(i)
        else:
            runs.append(Run(*piece, [i]))
    return runs


def worth_a_copy(pieces: Mapping[int, Piece]) -> dict[int, Piece]:
    """Those that are many bytes together with their neighbours."""
    found: dict[int, Piece] = {}
    for run in joined(pieces):
        inside = {i: pieces[i] for i in run.pieces}
        if sum(piece.end - piece.start for piece in inside.values()) >= STRAIGHT_BYTES:
            found |= inside
    return found
