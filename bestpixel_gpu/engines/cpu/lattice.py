"""Positions inside the cells of a lattice, piece by piece."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.cpu.jit import inlined, table
from bestpixel_gpu.engines.cpu.native import start_of
from bestpixel_gpu.geo.pixel_map import OUTSIDE, LatticeMap

_OUTSIDE = OUTSIDE


class Lattice(NamedTuple):
    """A :class:`LatticeMap` whose pixel (0, 0) is that of a window."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    log2_step: int
    row0: int
    col0: int


def lattice_of(positions: LatticeMap, row: int, col: int) -> Lattice:
    """The lattice seen from pixel (row, col) of the grid."""
    return Lattice(
        table(positions.x, np.int64),
        table(positions.y, np.int64),
        positions.log2_step,
        positions.row0 + row,
        positions.col0 + col,
    )


class Nodes(NamedTuple):
    """A :class:`Lattice` inside a kernel: its nodes by pointer, `across` of them in a row."""

    x: Any
    y: Any
    across: int
    log2_step: int
    row0: int
    col0: int


class Line(NamedTuple):
    """Positions along a row inside one cell: pixel n lies at ``(x + n dx) >> shift``, y likewise."""

    inside: bool
    x: int
    dx: int
    y: int
    dy: int
    shift: int


@inlined
def nodes_of(lattice: Lattice) -> Nodes:
    """The lattice as the functions below take it."""
    across = lattice.x.shape[1]
    x, y = start_of(lattice.x), start_of(lattice.y)
    return Nodes(x, y, across, lattice.log2_step, lattice.row0, lattice.col0)


@inlined
def piece_end(nodes: Nodes, col: int, end: int) -> int:
    """End of the pixels from `col` on that lie in one cell, cut at `end`."""
    k = nodes.log2_step
    return min(end, ((((col + nodes.col0) >> k) + 1) << k) - nodes.col0)


@inlined
def line_at(nodes: Nodes, row: int, col: int) -> Line:
    """Positions from a pixel on to the end of its cell.

    Exactly :func:`~bestpixel_gpu.engines.fixed_point.lattice_position`, reordered so that a step
    to the right is one addition.
    """
    k = nodes.log2_step
    r, c = row + nodes.row0, col + nodes.col0
    at = (r >> k) * nodes.across + (c >> k)
    if k == 0:
        inside = nodes.x[at] != _OUTSIDE and nodes.y[at] != _OUTSIDE
        return Line(inside, nodes.x[at], 0, nodes.y[at], 0, 0)
    below = at + nodes.across
    step = 1 << k
    fy, fx = r & (step - 1), c & (step - 1)
    x_in, x, dx = _along(nodes.x, at, below, step, fx, fy)
    y_in, y, dy = _along(nodes.y, at, below, step, fx, fy)
    half = (1 << (2 * k)) >> 1
    return Line(x_in and y_in, x + half, dx, y + half, dy, 2 * k)


@inlined
def _along(nodes: Any, at: int, below: int, step: int, fx: int, fy: int) -> Any:
    """(all four nodes have a place, position times step squared, its rise to the right)."""
    n00, n01, n10, n11 = nodes[at], nodes[at + 1], nodes[below], nodes[below + 1]
    if n00 == _OUTSIDE or n01 == _OUTSIDE or n10 == _OUTSIDE or n11 == _OUTSIDE:
        return False, 0, 0
    left = n00 * (step - fy) + n10 * fy
    rise = n01 * (step - fy) + n11 * fy - left
    return True, left * step + rise * fx, rise
