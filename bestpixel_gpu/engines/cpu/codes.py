"""Score codes of output pixels, looked up in a mask: nearest, or the worst of a footprint."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.engines.contract import NODATA_CODE, Footprint, ScoreRaster, Window
from bestpixel_gpu.engines.cpu.jit import box_edge, inlined, int64, kernel, nearest, table
from bestpixel_gpu.engines.cpu.lattice import Lattice, lattice_of, line_at, nodes_of, piece_end
from bestpixel_gpu.engines.cpu.native import moved, start_of
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


class Plain(NamedTuple):
    """Columns ``first .. end - 1`` of a table of boxes need no look at special cases.

    Where the nearest decides, all of them lie in the mask's part. Where the worst does, all boxes
    are `reach` to ``2 reach`` mask pixels wide, `reach` a power of two: two maxima over `reach`
    pixels, from the left end and up to the right one, cover such a box.
    """

    first: int
    end: int
    reach: int


def strips(
    mask: ScoreRaster,
    positions: PixelMap,
    window: Window,
    footprint: Footprint | None,
    cuts: NDArray[np.int64],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Codes of a window, in strips of whole rows: (first row of the grid, uint8 (rows, cols)).

    No strip crosses one of the rows `cuts`. Where output and mask pixels are the same, strips are
    views of the mask; else a strip's memory is used again for the next one.
    """
    row0, row1, col0, col1 = window
    look = _Look(mask, positions, window, footprint)
    ends = [int(cut) for cut in cuts if row0 < cut < row1] + [row1]
    if look.same is not None:
        for first, end in pairwise([row0, *ends]):
            yield first, look.same[first - row0 : end - row0]
        return
    most = max(1, _STRIP_PIXELS // max(col1 - col0, 1))
    room = np.empty((most, col1 - col0), np.uint8)
    first = row0
    for end in ends:
        while first < end:
            last = min(first + most, end)
            out = room[: last - first]
            look.write(first, out)
            yield first, out
            first = last


def resample(
    mask: ScoreRaster, positions: PixelMap, window: Window, footprint: Footprint | None
) -> NDArray[np.uint8]:
    """Codes of a window of the output, (rows, cols)."""
    look = _Look(mask, positions, window, footprint)
    if look.same is not None:
        return look.same.copy()
    out = np.empty((window[1] - window[0], window[3] - window[2]), np.uint8)
    look.write(window[0], out)
    return out


class _Look:
    """A window's view of a mask, in the kernels' terms.

    Attributes
    ----------
    same : uint8 (rows, cols) or None
        The codes themselves, where output and mask pixels are the same.
    """

    def __init__(
        self, mask: ScoreRaster, positions: PixelMap, window: Window, footprint: Footprint | None
    ) -> None:
        row0, row1, col0, col1 = window
        half = (footprint.half_x, footprint.half_y) if footprint else (0, 0)
        self._frame = MaskFrame(*mask.window, mask.width, mask.height, *half, int(footprint is not None))
        self._data, self._positions, self._col0 = mask.data, positions, col0
        self.same: NDArray[np.uint8] | None = None
        if isinstance(positions, AxisMap):
            x = table(positions.x[col0:col1], np.int64)
            self._boxes = np.empty((3, col1 - col0), np.int32)
            self._plain = Plain(*column_boxes(x, self._frame, self._boxes))
            if footprint is None:
                self.same = self._same(positions.y[row0:row1])

    def _same(self, y: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        rows, cols = nearest(y) - self._frame.row0, self._boxes[0]
        inside = _consecutive(rows, len(self._data)) and _consecutive(cols, self._data.shape[1])
        if not inside:
            return None
        part: NDArray[np.uint8] = self._data[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        return part

    def write(self, first: int, out: NDArray[np.uint8]) -> None:
        """Write the codes of as many rows of the grid as `out` has, from `first` on."""
        if isinstance(self._positions, AxisMap):
            y = table(self._positions.y[first : first + len(out)], np.int64)
            axis_codes(self._data, self._frame, self._boxes, self._plain, y, out)
        else:
            lattice_codes(self._data, self._frame, lattice_of(self._positions, first, self._col0), out)


def _consecutive(pixels: NDArray[Any], size: int) -> bool:
    """Each pixel of an axis follows the one before, and all lie in 0..size - 1."""
    n = len(pixels)
    return n > 0 and pixels[0] >= 0 and pixels[-1] < size and bool((np.diff(pixels) == 1).all())


@kernel
def column_boxes(x: Any, frame: MaskFrame, boxes: Any) -> Any:
    """Box of each column, and the fields of :class:`Plain`.

    Parameters
    ----------
    x : int64, (cols,)
        Positions, which never fall.
    boxes : int32, (3, cols)
        Becomes nearest pixel, first and end of each box, see :func:`_box`.
    """
    cols = x.size
    widest = int64(1)
    for c in range(cols):
        boxes[0, c], boxes[1, c], boxes[2, c] = _column_box(x[c], frame)
        widest = max(widest, int64(boxes[2, c]) - int64(boxes[1, c]))
    reach = int64(1)
    while 2 * reach < widest:
        reach *= 2
    first = int64(0)
    while first < cols and not _is_plain(boxes, first, frame, reach):
        first += 1
    end = first
    while end < cols and _is_plain(boxes, end, frame, reach):
        end += 1
    return first, end, reach


@inlined
def _is_plain(boxes: Any, c: int, frame: MaskFrame, reach: int) -> Any:
    return boxes[2, c] - boxes[1, c] >= reach if frame.worst else boxes[0, c] >= 0


@kernel
def axis_codes(data: Any, frame: MaskFrame, boxes: Any, plain: Plain, y: Any, out: Any) -> None:
    """Codes where columns and rows have positions of their own.

    Parameters
    ----------
    data : uint8, (rows, cols)
        The mask's part.
    boxes, plain
        Of the strip's columns, see :func:`column_boxes`.
    y : int64, (rows,)
        Positions of the strip's rows.
    out : uint8, (rows, cols)
    """
    near, lo, hi = start_of(boxes[0]), start_of(boxes[1]), start_of(boxes[2])
    rooms = np.empty((3, data.shape[1]), np.uint8)
    worst_row = rooms[0]
    before = (-3, -3, -3)
    for r in range(y.size):
        now = _row_box(y[r], frame)
        codes = out[r]
        if r > 0 and now[0] == before[0] and now[1] == before[1] and now[2] == before[2]:
            above = out[r - 1]
            for c in range(codes.size):  # faster than an assignment of slices
                codes[c] = above[c]
            continue
        before = now
        row, top, bottom = now
        if top < bottom or top < 0:
            _worst_of_rows(data, top, bottom, worst_row)
            left = start_of(_worst_ahead(rooms, plain.reach))
            right = moved(left, -plain.reach)
            for c in range(plain.first, plain.end):
                codes[c] = max(left[lo[c]], right[hi[c]])
            for c in range(codes.size - (plain.end - plain.first)):
                i = c if c < plain.first else c - plain.first + plain.end
                if lo[i] < hi[i]:
                    codes[i] = worst_row[lo[i]]
                    for j in range(lo[i] + 1, hi[i]):
                        codes[i] = max(codes[i], worst_row[j])
                else:
                    empty = lo[i] == 0 and row >= 0 and near[i] >= 0
                    codes[i] = data[row, near[i]] if empty else _NODATA
        elif row < 0:
            codes[:] = _NODATA
        else:
            _nearest_of_row(data[row], near, plain, frame, codes)


@inlined
def _nearest_of_row(mask_row: Any, near: Any, plain: Plain, frame: MaskFrame, codes: Any) -> None:
    """Code of the nearest pixel of one mask row; nodata outside of it."""
    source = start_of(mask_row)
    first, end = (0, 0) if frame.worst else (plain.first, plain.end)
    for c in range(first, end):
        codes[c] = source[near[c]]
    for c in range(codes.size - (end - first)):
        i = c if c < first else c - first + end
        codes[i] = source[near[i]] if near[i] >= 0 else _NODATA


@inlined
def _worst_of_rows(data: Any, top: int, bottom: int, out: Any) -> None:
    """Largest code of each column over rows top..bottom - 1; nodata where they leave the part."""
    if top < 0:
        out[:] = _NODATA
        return
    first, second = data[top], data[min(top + 1, bottom - 1)]
    for c in range(out.size):
        out[c] = max(first[c], second[c])
    for i in range(top + 2, bottom):
        mask_row = data[i]
        for c in range(out.size):
            out[c] = max(out[c], mask_row[c])


@inlined
def _worst_ahead(rooms: Any, reach: int) -> Any:
    """Largest of the `reach` codes of ``rooms[0]`` from each one on; the last ones lack some.

    `reach` is a power of two: each step looks twice as far, from one of the other rooms into the
    next, because a loop that reads what it writes is not turned into vectors.
    """
    far, step = rooms[0], 1
    while step < reach:
        near, far = far, rooms[1] if step & 0x55555555 else rooms[2]
        ahead = near[step:]
        for c in range(ahead.size):
            far[c] = max(near[c], ahead[c])
        step *= 2
    return far


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
