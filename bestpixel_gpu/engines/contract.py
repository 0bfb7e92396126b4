"""The contract every engine fulfils: memory and arithmetic, and the values that describe the work.

An engine knows nothing of STAC, HTTP or TIFF tags. It decodes tiles, turns class masks into
scores, keeps the smallest key of every pixel and paints the winners' samples. All arithmetic is in
integers and stated once in :mod:`bestpixel_gpu.engines.fixed_point`, so two engines give the same
bytes. Every method may be called from any thread; calls that write different windows of one array
may run at once.

Windows are half-open and in pixels: ``(row0, row1, col0, col1)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.cog.layout import TileGrid as TileGrid
from bestpixel_gpu.cog.layout import TileLayout
from bestpixel_gpu.geo.grid import ChunkGrid
from bestpixel_gpu.geo.pixel_map import PixelMap

Window = tuple[int, int, int, int]

NO_KEY = 0xFFFFFFFF
"""Key of a pixel that no scene competes for."""
SCORE_SHIFT = 17
"""key = score << 17 | (not selected) << 16 | rank."""
NOT_SELECTED = 1 << 16
RANK_BITS = 0xFFFF
NO_SCORE = 65535
"""Quality of a pixel without a winner; other scores are below 32767."""
NODATA_CODE = 255
"""Score code of a mask pixel that observed nothing (outside, fill, sparse tile)."""
UNUSABLE_CODE = 254
"""Score code of a mask pixel that observed something unusable (cloud)."""
SPARSE_SLOT = -1
"""Slot of a tile that the file does not store: invalid everywhere."""
LOST_SLOT = -2
"""Slot of a tile that should be there but could not be read: its pixels go to repair."""
NODATA = 65535
"""Nodata of painted bands; valid values are 0..65534."""

TILE_OK, TILE_CORRUPT = 0, 1


@dataclass(frozen=True, slots=True)
class CompressedTile:
    """A tile as it was stored. ``data`` is ``None`` for a sparse tile."""

    index: int
    data: bytes | bytearray | memoryview | None
    layout: TileLayout
    inside: tuple[int, int] | None = None
    """Rows and columns, from the tile's corner, that lie inside the raster; all where ``None``."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskTable:
    """Class value -> score, by way of a one-byte code that sorts like the score.

    Attributes
    ----------
    codes : uint8, (65536,)
        Code of each class value (the sample's unsigned bits). Codes 0..253 rise with the score;
        254 unusable, 255 nodata.
    scores : uint16, (256,)
        Score of each code; 65535 for 254 and 255.
    clear : bool, (256,)
        Codes that count as clear in statistics.
    """

    codes: NDArray[np.uint8]
    scores: NDArray[np.uint16]
    clear: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Half extents, in mask pixels with 32 fractional bits, of an output pixel on the mask.

    An output pixel takes the worst (largest) code of the mask pixels i with
    ``lo <= i + 1/2 < hi``, lo and hi = centre -+ half extent on each axis, cut at the raster's
    edge; none of them: the nearest. A centre outside the raster is nodata.
    """

    half_x: int
    half_y: int


@dataclass(frozen=True, slots=True, eq=False)
class Surround:
    """What score codes become near certain others.

    Attributes
    ----------
    marked : bool, (256,)
        The codes whose surround it is.
    becomes : uint8, (256,)
        What a code becomes that is marked, or that lies near a marked one. None of them is marked,
        and what it becomes stays what it is: ``becomes[becomes[c]] == becomes[c]``.
    reach : int64, (n,), never rising, 0..65534
        Near is who lies at most `reach[i]` columns away and `i` rows, i < n: half a disc, say.
    """

    marked: NDArray[np.bool_]
    becomes: NDArray[np.uint8]
    reach: NDArray[np.int64]

    @property
    def margin(self) -> int:
        """Pixels around a window that may change what it holds."""
        return max(len(self.reach) - 1, int(self.reach[0]))


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRaster:
    """Part of one scene's mask as score codes; `data` belongs to the engine that made it.

    Attributes
    ----------
    window : Window
        The part, in mask pixels. Pixels of the raster outside it read as nodata.
    width, height : int
        Size of the whole mask raster.
    data : uint8 array of the engine, (rows, cols) of `window`
    """

    window: Window
    width: int
    height: int
    data: Any


@dataclass(slots=True, eq=False)
class RankState:
    """The running best of a window of the output grid.

    Attributes
    ----------
    window : Window
        Part of the output grid.
    keys : uint32, (rows, cols), engine's array
        Smallest key so far, :data:`NO_KEY` where none.
    counts : uint16, (rows, cols) or None
        Competing scenes with a usable score; not counted where ``None`` (repair).
    floor : uint32, (rows, cols) or None
        Only keys above it compete (repair).
    """

    window: Window
    keys: Any
    counts: Any = None
    floor: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class ValueState:
    """Observations with the two values that a rule looks at; arrays of the engine, one shape.

    Attributes
    ----------
    keys : uint32
        :data:`NO_KEY` where there is none.
    low, high : uint16
        Painted values; the index is (high - low) / (high + low), 0 where both are 0.
    """

    keys: Any
    low: Any
    high: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRule:
    """What makes a sample valid, how it is interpolated, and the exact rational that follows."""

    lo: int
    hi: int
    nodata: int | None = None
    erode: bool = False
    """A pixel is also invalid when its 5 x 5 neighbourhood (cut at the raster's edge) holds an
    invalid one: averaged rims in overviews of files without a nodata tag."""
    bilinear: bool = True
    mul: int = 1
    add: int = 0
    div: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TapGeometry:
    """Where a scene's level lies under the output grid; the tables of an axis map never fall."""

    grid: TileGrid
    positions: PixelMap
    bilinear: bool = True
    margin: int = 0
    """Pixels around each tap that are needed too (2 where the rule erodes)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TapSource:
    """A scene's level ready to be sampled."""

    geometry: TapGeometry
    pool: Pool
    slots: NDArray[np.int32]
    """Slot of each tile, or :data:`SPARSE_SLOT`, or :data:`LOST_SLOT`."""
    dtype: np.dtype[Any]
    rule: SampleRule


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Exact sums of painted values, engine's arrays of one shape and one pitch.

    Attributes
    ----------
    count : uint32
        Valid values v of a pixel.
    total, squares : uint64
        Sums of v and of v squared; exact for 2**32 values.
    """

    count: Any
    total: Any
    squares: Any


class Pool(Protocol):
    """Slots for decoded tiles, each `slot_bytes` long; a tile lies row-major at its slot's start."""

    slot_bytes: int
    n_slots: int


class Ticket(Protocol):
    """The promise of a batch: when it is done, a status for each tile."""

    def wait(self) -> NDArray[np.int8]:
        """:data:`TILE_OK` or :data:`TILE_CORRUPT` for each tile of the batch, in its order."""
        ...

    def done(self) -> bool:
        """Whether :meth:`wait` would return at once."""
        ...

    def add_done_callback(self, call: Callable[[], object]) -> None:
        """Call once when :meth:`wait` would not wait any more, at once if so now; on any thread."""
        ...


@dataclass(slots=True, eq=False)
class MaskStatistics:
    """What one mask shows of each chunk, in output pixels.

    Attributes
    ----------
    clear, valid : int64, (chunk rows, chunk cols) of the window's chunks
        Output pixels whose code is clear; whose code is not nodata.
    clear_cells, valid_cells : uint32, (chunk rows, chunk cols, 32, 32) or None
        The same per 32 x 32 cells of a chunk: cell m of a chunk h rows high covers its rows
        ``m h // 32 .. (m + 1) h // 32 - 1``.
    """

    clear: NDArray[np.int64]
    valid: NDArray[np.int64]
    clear_cells: NDArray[np.uint32] | None = field(default=None)
    valid_cells: NDArray[np.uint32] | None = field(default=None)


class Engine(Protocol):
    """Memory and arithmetic of one device."""

    name: str
    """``"cpu"`` or ``"cuda:0"``."""
    note: str
    """What the caller should know about the device, for instance why it is not another one."""
    workers: int
    """How many calls at once are worth while."""
    lookahead: int
    """Bytes of decoded tiles that are worth having beyond those needed next."""

    def describe(self) -> dict[str, Any]:
        """What the report says of the device beyond its name; whole numbers count from its opening on."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: Any, fill: int | None = None) -> Any:
        """Engine array, filled if asked."""
        ...

    def fill(self, array: Any, value: int) -> None:
        """Set every pixel of an array, or of a window of one."""
        ...

    def from_host(self, array: NDArray[Any]) -> Any:
        """Engine array with the same content."""
        ...

    def pool(self, slot_bytes: int, n_slots: int) -> Pool:
        """Room for decoded tiles; on the CPU its pages are taken when they are first used."""
        ...

    def receive_buffer(self, size: int) -> memoryview:
        """`size` writable bytes of any content for what :meth:`load` or :meth:`classify` will be given.

        Tiles may lie anywhere in them, or anywhere else: from here they only get there sooner.
        """
        ...

    def load(self, pool: Pool, slots: Sequence[int], tiles: Sequence[CompressedTile]) -> Ticket:
        """Inflate, unpack, undo the predictor and the byte order of each tile into its slot.

        A tile that does not decode to exactly its layout's bytes is corrupt; its slot's content is
        then undefined. Bytes after the end of a zlib stream are ignored. No tile here is sparse.
        The whole tile is verified, but only its samples `inside` the raster are written, each where
        it lies in the whole tile: what the slot holds of the padding is undefined.
        """
        ...

    def classify(
        self,
        tiles: Sequence[CompressedTile],
        grid: TileGrid,
        window: Window,
        table: MaskTable,
        *,
        nodata: int,
        grow: int = 0,
    ) -> tuple[ScoreRaster, NDArray[np.int8]]:
        """Decode mask tiles and map them to score codes over `window` of the mask raster.

        Sparse tiles hold class `nodata`; tiles of the window that are not given, or that are
        corrupt, read as nodata.
        With ``grow = n`` every pixel whose (2n+1) x (2n+1) neighbourhood, cut at the edge of the
        window, holds a nodata code becomes nodata; `window` must then hold n pixels of margin
        around what is sampled, or end at the raster's edge. Returns the raster and a status for
        each tile given.
        """
        ...

    def surround(self, mask: ScoreRaster, rule: Surround) -> None:
        """Change the raster's codes where they are marked, or near marked codes of its window.

        Right are the pixels that lie ``rule.margin`` inside the window, or where it ends with the
        raster.
        """
        ...

    def resample(
        self, mask: ScoreRaster, positions: PixelMap, window: Window, *, footprint: Footprint | None = None
    ) -> ScoreRaster:
        """Score codes at output pixels: a raster in grid pixels, to be used with :func:`identity_map`."""
        ...

    def statistics(
        self,
        mask: ScoreRaster,
        positions: PixelMap,
        window: Window,
        chunks: ChunkGrid,
        table: MaskTable,
        *,
        footprint: Footprint | None = None,
        cells: bool = False,
    ) -> MaskStatistics:
        """Count clear and valid output pixels per chunk; `window` starts and ends on chunk edges."""
        ...

    def rank(
        self,
        state: RankState,
        mask: ScoreRaster,
        positions: PixelMap,
        table: MaskTable,
        key_low: int,
        *,
        footprint: Footprint | None = None,
        chunks: ChunkGrid | None = None,
        barred: NDArray[np.bool_] | None = None,
    ) -> None:
        """One scene competes: ``keys = min(keys, scores[code] << 17 | key_low)``; counts grow.

        Only pixels of ``state.window`` are touched. In chunks that `barred` marks (chunk rows,
        chunk cols of the whole grid) the scene is counted but does not compete.
        """
        ...

    def settle(
        self, keys: Any, quality: Any, winners: Any, n_scenes: int, where: Any = None
    ) -> NDArray[np.int64]:
        """Write what keys say: quality and rank of the winner, 65535 and -1 where there is none.

        `where` (uint8) restricts it to the pixels it marks. Returns how many of the pixels written
        each rank won; the last entry, at `n_scenes`, those without a winner.
        """
        ...

    def extra_wins(self, keys: Any, window: Window, chunks: ChunkGrid, n_scenes: int) -> NDArray[np.int64]:
        """Pixels that each unselected scene wins, (scene, chunk row, chunk col) of the window's chunks.

        `window` starts and ends on chunk edges; its rows and columns are those of `keys`.
        """
        ...

    def failed(self, bands: Sequence[Any], winners: Any) -> tuple[Window, Any] | None:
        """Pixels that have a winner and nodata in some band; ``None`` if there is none.

        Returns the box around them, counted from the arrays' first pixel, and the marks of the
        box's pixels (uint8, 1 failed).
        """
        ...

    def keys_of(self, quality: Any, winners: Any, selected: NDArray[np.bool_], where: Any) -> Any:
        """The keys again from the layers, `selected` by rank; NO_KEY without a winner or a mark."""
        ...

    def reopen(self, bands: Sequence[Any], winners: Any, where: Any, n_scenes: int) -> NDArray[np.int64]:
        """Write nodata into the marked pixels of all bands; counts their winners as `settle` does."""
        ...

    def only(self, winners: Any, where: Any) -> Any:
        """A copy of `winners`, -1 where `where` marks nothing."""
        ...

    def rivals(self, keys: Any, own: Any, shift: int) -> Any:
        """Marks (uint8) of the pixels where a scene's `own` key is none of the lesser.

        That is where it has one, and it agrees with `keys` but for the lowest `shift` bits: 16 for
        the same score and selection, 17 for the same score, 0 for the very same key.
        """
        ...

    def rank_values(
        self, best: ValueState, keys: Any, rank: int, low: Any, high: Any, floor: ValueState | None = None
    ) -> None:
        """The values of one scene compete: `best` keeps the observation that comes first.

        An observation has the key of the pixel in `keys`, but for its own `rank`, and both values
        are no :data:`NODATA`. First comes the lower score and selection, then the greater index
        (compared exactly), then the lower rank; where there is a `floor`, only what comes after it
        competes.
        """
        ...

    def exhausted(self, keys: Any, best: Any) -> Any | None:
        """The last key of the same score and selection, where `keys` has one and `best` has none.

        NO_KEY elsewhere; ``None`` if there is no such pixel.
        """
        ...

    def owners(
        self, window: Window, winners: Any, geometries: Mapping[int, TapGeometry]
    ) -> dict[int, NDArray[np.int64]]:
        """Tiles with a tap of weight > 0 under a pixel that a scene won.

        ``winners`` (rows, cols) of `window` holds ranks, negative where none. Returns, for each
        rank of `geometries`, the rising tile indices; the pixels within `margin` of a tap count as
        taps. Outside the raster nothing is needed, nor is it by a pixel whose centre lies there.
        """
        ...

    def paint(self, target: Any, window: Window, winners: Any, sources: Mapping[int, TapSource]) -> int:
        """Write the winners' samples into `target` (uint16, (rows, cols) of `window`).

        Pixels whose winner is negative or not in `sources` are left alone. A pixel whose sample is
        invalid or whose tap is lost becomes :data:`NODATA`. Returns how many did. Lost are all
        taps in a lost tile, in the sense of `owners`, whatever the others hold. The rows of
        `target` and of `winners` must be contiguous in memory; they may be parts of longer ones.
        """
        ...

    def spread(
        self, sums: Sums, window: Window, sources: Mapping[int, TapSource], marks: Mapping[int, Any]
    ) -> None:
        """Add the values of some scenes, as they would be painted, to the sums of `window`.

        ``marks[rank]`` (uint8, (rows, cols)) is not 0 where a scene's value is added; an invalid or
        lost sample adds nothing.
        """
        ...

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array as NumPy (the array itself where it already is)."""
        ...

    def synchronize(self) -> None:
        """Wait until everything asked for is done."""
        ...

    def budget(self) -> int:
        """Bytes of memory the engine may use by default."""
        ...

    def close(self) -> None:
        """Give back threads and memory; the engine is not used afterwards."""
        ...
