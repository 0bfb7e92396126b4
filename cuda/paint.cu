// The winners' samples, written into a band: what one look decides by one kernel, the rest by another.
#include "sample.cuh"
#include "winners.cuh"

static const i32 ROWS = 4;                 // of a thread, all in one column: their loads are under way together
static const i32 WARPS = 4;                // of a block; engines/cuda/paint.py knows both, and
static const i32 WORDS = 8;                // of marks, that a warp looks through for what is left

// A window whose first pixel is (row0, col0), and the part of it that a thread takes.
struct Canvas {
  const Source *sources;
  const i32 *slots;                        // of the tiles of all sources
  Winners winners;
  i64 row0, col0, rows, cols;
  u16 *target;
  i64 pitch;
};

#define CANVAS_PARAMETERS                                                                                           \
  const Source *__restrict__ sources, const i32 *__restrict__ slots, WINNERS_PARAMETERS, i64 row0, i64 col0,        \
      i64 rows, i64 cols, u16 *target, i64 pitch
#define CANVAS {sources, slots, WINNERS, row0, col0, rows, cols, target, pitch}

// Positions of a thread's `rows` pixels; what follows repeats the last.
template <bool AXIS>
__device__ __forceinline__ void positions_of(const PixelMap &map, i64 row, i32 rows, i64 col, Position *places) {
  if (AXIS) {
    const i64 x = map.x[col], *y = map.y + row;
    UNROLL
    for (i32 k = 0; k < ROWS; ++k) places[k] = {x, y[smaller(k, rows - 1)]};
    return;
  }
  const i64 mask = (1ll << map.log2_step) - 1;
  Cell cell;
  UNROLL
  for (i32 k = 0; k < ROWS; ++k) {
    const i64 r = row + smaller(k, rows - 1), n = (r + map.row0) & mask;
    if (k == 0 || n == 0) cell = cell_at(map, r, col);  // later rows of a cell share its nodes
    places[k] = cell.inside ? cell.at(n) : Position{OUTSIDE, OUTSIDE};
  }
}

// Paints those of a thread's pixels that `todo` marks, all of one source, and adds to `left` those that are still to
// do; returns how many became nodata. Each step is taken for all pixels before the next, so that no load waits for
// another pixel's.
template <class T, bool AXIS>
__device__ __forceinline__ u32 paint_alike(
    const Canvas &canvas, const Source &s, const Patch &patch, u32 todo, u32 &left) {
  Position places[ROWS];
  Spot spots[ROWS];
  i32 slots[ROWS];
  Taps taps[ROWS];
  positions_of<AXIS>(s.map, canvas.row0 + patch.row, (i32)(patch.end - patch.row), canvas.col0 + patch.col, places);
  UNROLL
  for (i32 k = 0; k < ROWS; ++k) {
    spots[k] = spot_of(s, places[k]);
    slots[k] = canvas.slots[s.tiles + spots[k].tile];
  }
  UNROLL
  for (i32 k = 0; k < ROWS; ++k) taps[k] = taps_at<T>(s, spots[k], slots[k]);
  u32 values[ROWS], failed = 0;
  UNROLL
  for (i32 k = 0; k < ROWS; ++k) values[k] = quick_value(s, spots[k], slots[k], taps[k]);
  u16 *out = canvas.target + patch.row * canvas.pitch + patch.col;
  UNROLL
  for (i32 k = 0; k < ROWS; ++k, out += canvas.pitch) {
    if (!(todo >> k & 1u)) continue;
    if (values[k] == UNDECIDED) left |= 1u << k;
    else *out = (u16)values[k];
    failed += values[k] == NODATA;
  }
  return failed;
}

// Source by source; mostly there is but one.
template <class T> __device__ __forceinline__ u32 paint_quickly(const Canvas &canvas, const Patch &patch, u32 &left) {
  const i32 rows = (i32)(patch.end - patch.row);
  i64 place = canvas.winners.place(patch.row, patch.col);
  i32 index[ROWS];
  UNROLL
  for (i32 k = 0; k < ROWS; ++k, place += canvas.winners.pitch) index[k] = k < rows ? canvas.winners.rank(place) : -1;
  u32 todo = 0, failed = 0;
  UNROLL
  for (i32 k = 0; k < ROWS; ++k) {
    index[k] = canvas.winners.source_of(index[k]);
    if (index[k] >= 0) todo |= 1u << k;
  }
  while (todo) {
    i32 source = 0;
    u32 alike = 0;
    UNROLL
    for (i32 k = ROWS - 1; k >= 0; --k)
      if (todo >> k & 1u) source = index[k];
    UNROLL
    for (i32 k = 0; k < ROWS; ++k)
      if (index[k] == source) alike |= 1u << k;
    const Source &s = canvas.sources[source];
    if (!s.quick) left |= alike;
    else failed += s.map.log2_step < 0 ? paint_alike<T, true>(canvas, s, patch, alike, left)
                                       : paint_alike<T, false>(canvas, s, patch, alike, left);
    todo &= ~alike;
  }
  return failed;
}

// All threads of the block; `mine` is below 2 ** `bits`.
__device__ __forceinline__ void add_up(u32 mine, i32 bits, u64 *total) {
  u64 all = 0;
  for (i32 bit = 0; bit < bits; ++bit) all += (u64)__syncthreads_count((i32)(mine >> bit & 1u)) << bit;
  if (threadIdx.x == 0 && all) atomicAdd(total, all);
}

// A patch per thread. Marks have a bit per pixel, a word per 32 columns of a row, and as many words a row as the blocks
// cover.
template <class T> __device__ __forceinline__ void paint_first(const Canvas &canvas, u32 *marks, u64 *failures) {
  const Patch patch = patch_of(canvas.rows, canvas.cols, ROWS);
  const i64 words = (canvas.cols + 32 * WARPS - 1) / (32 * WARPS) * WARPS;
  u32 left = 0;
  const u32 failed = paint_quickly<T>(canvas, patch, left);
  u32 *mark = marks + patch.row * words + (patch.col >> 5);
  UNROLL
  for (i32 k = 0; k < ROWS; ++k, mark += words) {
    const u32 word = __ballot_sync(0xFFFFFFFFu, (i32)(left >> k & 1u));
    if ((threadIdx.x & 31u) == 0 && patch.row + k < canvas.rows) *mark = word;
  }
  add_up(failed, 3, failures);
}

// A warp per 8 words of marks, a lane per pixel of each that is not 0.
template <class T> __device__ __forceinline__ void paint_rest(const Canvas &canvas, const u32 *marks, u64 *failures) {
  const i64 words = (canvas.cols + 32 * WARPS - 1) / (32 * WARPS) * WARPS, n = canvas.rows * words;
  const i64 first = (thread_index() >> 5) * WORDS;
  const u32 lane = threadIdx.x & 31u;
  u32 failed = 0;
  for (i64 at = first; at < first + WORDS && at < n; ++at) {
    if (!(marks[at] >> lane & 1u)) continue;
    const i64 row = at / words, col = (at - row * words) * 32 + lane;
    const Source &s = canvas.sources[canvas.winners.source_of(canvas.winners.rank(canvas.winners.place(row, col)))];
    const Position place = position_at(s.map, canvas.row0 + row, canvas.col0 + col);
    const u32 value = sample<T>(s, canvas.slots + s.tiles, place);
    canvas.target[row * canvas.pitch + col] = (u16)value;
    failed += value == NODATA;
  }
  add_up(failed, 4, failures);
}

// Pixels whose winner has a source; all sources' samples are of one type. `failures` grows by the pixels that became
// nodata. Per pixel of a band of 16 bits: 2 B of winners read (4 where ranks are wide), its samples once (2 B at the
// band's own resolution), 2 B and a bit of marks written, and the bit read again.
// Registers on sm_90: paint_u2 106, paint_rest_u2 96; no spills; 4 and 5 blocks an SM, so 2048 pixels under way there.
// By the size of the code 190 instructions a pixel on an axis map, 390 on a lattice, against 6 B: a prediction of 1
// TB/s on an H200, limited by issue. The second kernel is for rims, tile edges, eroding sources and samples of 32 bits.
#define PAINT(name, type)                                                                                           \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, 4) paint_##name(                                            \
      CANVAS_PARAMETERS, u32 *__restrict__ marks, u64 *failures) {                                                  \
    const Canvas canvas = CANVAS;                                                                                   \
    paint_first<type>(canvas, marks, failures);                                                                     \
  }                                                                                                                 \
  EMU_EXPORT(paint_##name)                                                                                          \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, 4) paint_rest_##name(                                       \
      CANVAS_PARAMETERS, const u32 *__restrict__ marks, u64 *failures) {                                            \
    const Canvas canvas = CANVAS;                                                                                   \
    paint_rest<type>(canvas, marks, failures);                                                                      \
  }                                                                                                                 \
  EMU_EXPORT(paint_rest_##name)
PAINT(u1, u8)
PAINT(i1, i8)
PAINT(u2, u16)
PAINT(i2, i16)
PAINT(u4, u32)
PAINT(i4, i32)
