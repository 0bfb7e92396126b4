"""Score codes of output pixels, looked up in a mask: nearest, or the worst of a footprint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NODATA_CODE, Footprint, ScoreRaster, Window
from bestpixel_gpu.engines.cpu.jit import box_edge, inlined, kernel, nearest, table
from bestpixel_gpu.engines.cpu.lattice import Lattice, lattice_of, line_at, nodes_of, piece_end
from bestpixel_gpu.engines.cpu.native import start_of
from bestpixel_gpu.geo.pixel_map import AxisMap, PixelMap

_NODATA = np.uint8(NODATA_CODE)
_STRIP_PIXELS = 1 << 17
"""Output pixels looked up at once: their codes stay in cache until they are used."""


class MaskFrame(NamedTuple):
    """A score raster's place and the footprint; half extents are 0 where the nearest is taken."""

    row0: int
    row1: int
    col0: int
    col1: int
    width: int
    height: int
    half_x: int
    half_y: int
    worst: int


def strips(
    mask: ScoreRaster,
    positions: PixelMap,
    window: Window,
    footprint: Footprint | None,
    cuts: NDArray[np.int64],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Codes of a window, in strips of whole rows: (first row of the grid, uint8 (rows, cols)).

    No strip crosses one of the rows `cuts`. A strip's memory is used again for the next one.
    """
    row0, row1, col0, col1 = window
    half = (footprint.half_x, footprint.half_y) if footprint else (0, 0)
    frame = MaskFrame(*mask.window, mask.width, mask.height, *half, int(footprint is not None))
    most = max(1, _STRIP_PIXELS // max(col1 - col0, 1))
    room = np.empty((most, col1 - col0), np.uint8)
    ends = [int(cut) for cut in cuts if row0 < cut < row1] + [row1]
    first = row0
    for end in ends:
        while first < end:
            last = min(first + most, end)
            out = room[: last - first]
            if isinstance(positions, AxisMap):
                x, y = table(positions.x[col0:col1], np.int64), table(positions.y[first:last], np.int64)
                axis_codes(mask.data, frame, x, y, out)
            else:
                lattice_codes(mask.data, frame, lattice_of(positions, first, col0), out)
            yield first, out
            first = last


def resample(
    mask: ScoreRaster, positions: PixelMap, window: Window, footprint: Footprint | None
) -> NDArray[np.uint8]:
    """Codes of a window of the output, (rows, cols)."""
    out = np.empty((window[1] - window[0], window[3] - window[2]), np.uint8)
    for first, codes in strips(mask, positions, window, footprint, np.empty(0, np.int64)):
        out[first - window[0] : first - window[0] + len(codes)] = codes
    return out


@kernel
def axis_codes(data: Any, frame: MaskFrame, x: Any, y: Any, out: Any) -> None:
    """Codes where columns and rows have positions of their own.

    Parameters
    ----------
    data : uint8, (rows, cols)
        The mask's part.
    x, y : int64, (cols,), (rows,)
        Positions of the strip.
    out : uint8, (rows, cols)
    """
    cols = x.size
    boxes = np.empty((3, cols), np.int32)
    near, lo, hi = boxes[0], boxes[1], boxes[2]
    for c in range(cols):
        near[c], lo[c], hi[c] = _column_box(x[c], frame)
    worst_row = np.empty(frame.col1 - frame.col0, np.uint8)
    before = (-3, -3, -3)
    for r in range(y.size):
        now = _row_box(y[r], frame)
        codes = out[r]
        if r > 0 and now[0] == before[0] and now[1] == before[1] and now[2] == before[2]:
            codes[:] = out[r - 1]
            continue
        before = now
        row, top, bottom = now
        if top < bottom or top < 0:
            _worst_of_rows(data, top, bottom, worst_row)
            for c in range(cols):
                if lo[c] < hi[c]:
                    code = worst_row[lo[c]]
                    for i in range(lo[c] + 1, hi[c]):
                        code = max(code, worst_row[i])
                    codes[c] = code
                else:
                    empty = lo[c] == 0 and row >= 0 and near[c] >= 0
                    codes[c] = data[row, near[c]] if empty else _NODATA
        elif row < 0:
            codes[:] = _NODATA
        else:
            mask_row = data[row]
            for c in range(cols):
                codes[c] = mask_row[near[c]] if near[c] >= 0 else _NODATA


@inlined
def _worst_of_rows(data: Any, top: int, bottom: int, out: Any) -> None:
    """Largest code of each column over rows top..bottom - 1; nodata where they leave the part."""
    if top < 0:
        out[:] = _NODATA
        return
    out[:] = data[top]
    for i in range(top + 1, bottom):
        mask_row = data[i]
        for c in range(out.size):
            out[c] = max(out[c], mask_row[c])


@inlined
def _column_box(position: int, frame: MaskFrame) -> Any:
    return _box(position, frame.half_x, frame.width, frame.col0, frame.col1, frame.worst)


@inlined
def _row_box(position: int, frame: MaskFrame) -> Any:
    return _box(position, frame.half_y, frame.height, frame.row0, frame.row1, frame.worst)


@inlined
def _box(position: int, half: int, size: int, start: int, end: int, worst: int) -> Any:
    """(nearest, first, end) of an output pixel on one axis, counted from `start` of the mask's part.

    nearest is negative where it lies outside the part. first == end == 0 where the box holds no
    pixel, so that the nearest is taken; both are -1 where the code is nodata whatever the other
    axis says: the centre is outside the raster, or the box leaves the part.
    """
    pixel = nearest(position)
    if pixel < 0 or pixel >= size:
        return -1, -1, -1
    near = pixel - start if start <= pixel < end else -1
    if not worst:
        return near, 0, 0
    lo, hi = max(box_edge(position - half), 0), min(box_edge(position + half), size)
    if lo >= hi:
        return near, 0, 0
    if lo < start or hi > end:
        return near, -1, -1
    return near, lo - start, hi - start


@kernel
def lattice_codes(data: Any, frame: MaskFrame, lattice: Lattice, out: Any) -> None:
    """Codes where every pixel has a position of its own; `out` as in :func:`axis_codes`."""
    nodes, mask, across = nodes_of(lattice), start_of(data), data.shape[1]
    rows, cols = out.shape
    codes = start_of(out)
    for r in range(rows):
        col = 0
        while col < cols:
            end = piece_end(nodes, col, cols)
            line = line_at(nodes, r, col)
            x, y = line.x, line.y
            for c in range(r * cols + col, r * cols + end):
                codes[c] = _NODATA
                if line.inside:
                    codes[c] = _code_at(mask, across, frame, x >> line.shift, y >> line.shift)
                x += line.dx
                y += line.dy
            col = end


@inlined
def _code_at(mask: Any, across: int, frame: MaskFrame, x: int, y: int) -> Any:
    """Code of the output pixel whose centre lies at (x, y) of the mask, `across` pixels wide."""
    near_col, left, right = _column_box(x, frame)
    near_row, top, bottom = _row_box(y, frame)
    if left < right and top < bottom:
        code = np.uint8(0)
        for i in range(top, bottom):
            for j in range(left, right):
                code = max(code, mask[i * across + j])
        return code
    boxed = left != 0 or right != 0
    boxed = boxed and (top != 0 or bottom != 0)
    if boxed or near_row < 0 or near_col < 0:
        return _NODATA
    return mask[near_row * across + near_col]
