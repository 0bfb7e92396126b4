// Keys and layers: who won, written down and counted, and taken back where it failed.
//
// Registers on sm_90: settle 40, extra_wins 32, mark_failed 40, rekey 28, reopen 32, only 28; no spills. 8 KiB of
// shared memory where ranks are counted. Blocks of 256 threads: 48 to 64 warps an SM.
// Per pixel, read + written: settle 4 + 4 B (6 where ranks are wide), extra wins 4 + 0, failures 2 a band and the rank
// + 1, rekey 5 + 4, reopen 1 and the rank + 2 a band, only 1 and the rank + the rank.
#include "tally.cuh"

static const u32 RANK_BITS = 0xFFFFu, EXTRA = 0x10000u;  // EXTRA: the scene is not among the selected
static const i64 ROWS = 16;                // of a thread; engines/cuda/keys.py knows it

// Ranks are stored in 16 bits, or in 32 where there are more scenes.
struct Ranks {
  void *data;
  i64 pitch;
  i32 bytes;

  __device__ __forceinline__ i32 get(i64 row, i64 col) const {
    const i64 at = row * pitch + col;
    return bytes == 2 ? ((const i16 *)data)[at] : ((const i32 *)data)[at];
  }
  __device__ __forceinline__ void set(i64 row, i64 col, i32 rank) const {
    const i64 at = row * pitch + col;
    if (bytes == 2) ((i16 *)data)[at] = (i16)rank;
    else ((i32 *)data)[at] = rank;
  }
};

// Quality and winner of each key, where `marks` (if there are any) are not 0. `wins`: (n_scenes + 1), zero at first,
// grows by the pixels that each rank won, the last by those without a winner. Per pixel: 4 B read (5 with marks), 4 B
// written (6 with ranks of 32 bits).
extern "C" __global__ void __launch_bounds__(256) settle(
    const u32 *keys, i64 keys_pitch, u16 *quality, i64 quality_pitch, void *winners, i64 winners_pitch,
    i32 rank_bytes, const u8 *marks, i64 marks_pitch, i64 rows, i64 cols, u64 *wins, u32 n_scenes) {
  __shared__ u32 room[SHARED_COUNTS];
  Tally tally = start_tally(room, wins, 1, n_scenes + 1);
  const Ranks ranks = {winners, winners_pitch, rank_bytes};
  const Patch patch = patch_of(rows, cols, ROWS);
  for (i64 r = patch.row; r < patch.end; ++r) {
    if (marks && !marks[r * marks_pitch + patch.col]) continue;
    const u32 key = keys[r * keys_pitch + patch.col];
    quality[r * quality_pitch + patch.col] = (u16)(key == NO_KEY ? NO_SCORE : key >> SCORE_SHIFT);
    ranks.set(r, patch.col, key == NO_KEY ? -1 : (i32)(key & RANK_BITS));
    tally.add(key == NO_KEY ? n_scenes : key & RANK_BITS);
  }
  tally.finish();
}
EMU_EXPORT(settle)

// Pixels that each unselected scene wins in each chunk. Edges count from the first pixel of `keys`; `bands` blocks a
// chunk, each takes its rows in turn. `wins`: (n_scenes, chunks), zero at first. 4 B read per pixel.
extern "C" __global__ void __launch_bounds__(256) extra_wins(
    const u32 *keys, i64 pitch, const i64 *row_edges, const i64 *col_edges, i64 row0, i64 col0, i64 n_rows, i64 n_cols,
    i64 bands, u64 *wins, u32 n_scenes) {
  __shared__ u32 room[SHARED_COUNTS];
  const i64 chunk = blockIdx.x / bands, i = chunk / n_cols, j = chunk % n_cols;
  Tally tally = start_tally(room, wins + chunk, n_rows * n_cols, n_scenes);
  const i64 top = row_edges[i] - row0, bottom = row_edges[i + 1] - row0;
  const i64 left = col_edges[j] - col0, right = col_edges[j + 1] - col0;
  for (i64 first = top + blockIdx.x % bands * ROWS; first < bottom; first += bands * ROWS)
    for (i64 c = left + threadIdx.x; c < right; c += blockDim.x)
      for (i64 r = first; r < least(first + ROWS, bottom); ++r) {
        const u32 key = keys[r * pitch + c];
        if (key & EXTRA && key != NO_KEY) tally.add(key & RANK_BITS);
      }
  tally.finish();
}
EMU_EXPORT(extra_wins)

// A band of the output and where its rows lie, 8 bytes each.
struct Band {
  u16 *data;
  i64 pitch;
};

// Marks of the pixels that have a winner and nodata in some band. `box`, large at first, becomes the least row, -row,
// column and -column of them. Per pixel: the winner, 2 B per band where there is one, 1 B written.
extern "C" __global__ void __launch_bounds__(256) mark_failed(
    const Band *bands, i32 n_bands, void *winners, i64 winners_pitch, i32 rank_bytes, i64 rows, i64 cols, u8 *marks,
    i32 *box) {
  __shared__ i32 here[4];
  if (threadIdx.x < 4) here[threadIdx.x] = box[threadIdx.x];
  __syncthreads();
  const Ranks ranks = {winners, winners_pitch, rank_bytes};
  const Patch patch = patch_of(rows, cols, ROWS);
  i64 first = -1, last = -1;
  for (i64 r = patch.row; r < patch.end; ++r) {
    bool failed = false;
    if (ranks.get(r, patch.col) >= 0)
      for (i32 b = 0; b < n_bands; ++b) failed |= bands[b].data[r * bands[b].pitch + patch.col] == NODATA;
    marks[r * cols + patch.col] = failed;
    if (failed && first < 0) first = r;
    if (failed) last = r;
  }
  if (last >= 0) {
    atomicMin(&here[0], (i32)first);
    atomicMin(&here[1], (i32)-last);
    atomicMin(&here[2], (i32)patch.col);
    atomicMin(&here[3], (i32)-patch.col);
  }
  __syncthreads();
  if (threadIdx.x < 4 && here[threadIdx.x] < box[threadIdx.x]) atomicMin(&box[threadIdx.x], here[threadIdx.x]);
}
EMU_EXPORT(mark_failed)

// The keys again: NO_KEY where there is no winner or no mark. `selected`: by rank, of `n_scenes`. 4 to 7 B read, 4 B
// written per pixel.
extern "C" __global__ void __launch_bounds__(256) rekey(
    const u16 *quality, i64 quality_pitch, void *winners, i64 winners_pitch, i32 rank_bytes, const u8 *selected,
    u32 n_scenes, const u8 *marks, i64 marks_pitch, i64 rows, i64 cols, u32 *keys) {
  const Ranks ranks = {winners, winners_pitch, rank_bytes};
  const Patch patch = patch_of(rows, cols, ROWS);
  for (i64 r = patch.row; r < patch.end; ++r) {
    const i32 winner = ranks.get(r, patch.col);
    u32 key = NO_KEY;
    if (winner >= 0 && marks[r * marks_pitch + patch.col]) {
      const u32 rank = (u32)winner & RANK_BITS;
      const bool extra = rank < n_scenes && !selected[rank];
      key = (u32)quality[r * quality_pitch + patch.col] << SCORE_SHIFT | (extra ? EXTRA : 0) | rank;
    }
    keys[r * cols + patch.col] = key;
  }
}
EMU_EXPORT(rekey)

// Nodata into the marked pixels of all bands; `wins` as in settle. 1 B read per pixel, the rest where it is marked.
extern "C" __global__ void __launch_bounds__(256) reopen(
    const Band *bands, i32 n_bands, void *winners, i64 winners_pitch, i32 rank_bytes, const u8 *marks,
    i64 marks_pitch, i64 rows, i64 cols, u64 *wins, u32 n_scenes) {
  __shared__ u32 room[SHARED_COUNTS];
  Tally tally = start_tally(room, wins, 1, n_scenes + 1);
  const Ranks ranks = {winners, winners_pitch, rank_bytes};
  const Patch patch = patch_of(rows, cols, ROWS);
  for (i64 r = patch.row; r < patch.end; ++r) {
    if (!marks[r * marks_pitch + patch.col]) continue;
    for (i32 b = 0; b < n_bands; ++b) bands[b].data[r * bands[b].pitch + patch.col] = (u16)NODATA;
    const i32 winner = ranks.get(r, patch.col);
    tally.add(winner < 0 ? n_scenes : (u32)winner);
  }
  tally.finish();
}
EMU_EXPORT(reopen)

// A copy of the winners, -1 where there is no mark. 3 B read, 2 B written per pixel (5 and 4).
extern "C" __global__ void __launch_bounds__(256) only(
    void *winners, i64 winners_pitch, i32 rank_bytes, const u8 *marks, i64 marks_pitch, i64 rows, i64 cols,
    void *out) {
  const Ranks from = {winners, winners_pitch, rank_bytes}, to = {out, cols, rank_bytes};
  const Patch patch = patch_of(rows, cols, ROWS);
  for (i64 r = patch.row; r < patch.end; ++r)
    to.set(r, patch.col, marks[r * marks_pitch + patch.col] ? from.get(r, patch.col) : -1);
}
EMU_EXPORT(only)
