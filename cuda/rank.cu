// A scene competes for the pixels of a window.
#include "codes.cuh"

static const i32 ROWS = 4;                 // of a thread; engines/cuda/keys.py knows it

// keys = min(keys, score of the code << 17 | key_low), where that lies above the floor and no bar forbids it; counts
// grow where there is a score. `counts`, `floor_keys` and `barred` may be null. `barred`: by chunk, (chunk row, chunk
// column) of the whole grid, with the chunks of the grid's rows and columns. The window's first pixel is (row0, col0).
// Per output pixel: the mask under it, 4 B read and 4 B written for the key, 2 + 2 B for the count, 4 B for a floor.
// Registers on sm_90: compete 48; no spills, no shared memory: 10 blocks = 40 warps an SM.
extern "C" __global__ void __launch_bounds__(128) compete(
    SIGHT_PARAMETERS, i64 row0, i64 col0, i64 rows, i64 cols, const u16 *__restrict__ scores, u32 key_low,
    u32 *__restrict__ keys, i64 keys_pitch, u16 *__restrict__ counts, i64 counts_pitch,
    const u32 *__restrict__ floor_keys, i64 floor_pitch, const u8 *__restrict__ barred,
    const i32 *__restrict__ chunk_of_row, const i32 *__restrict__ chunk_of_col, i64 chunk_cols) {
  const Sight sight = SIGHT;
  const Patch patch = patch_of(rows, cols, ROWS);
  if (patch.row >= patch.end) return;
  const Column column = column_of(sight, col0 + patch.col);
  u32 candidates[ROWS], best[ROWS];        // all rows at once, so that their loads do not wait for one another
  UNROLL
  for (i32 n = 0; n < ROWS; ++n) {
    const bool inside = patch.row + n < patch.end;
    const u32 score = inside ? scores[code_at(sight, column, row0 + patch.row + n)] : NO_SCORE;
    candidates[n] = score == NO_SCORE ? NO_KEY : score << SCORE_SHIFT | key_low;
  }
  if (counts)
    for (i32 n = 0; n < ROWS; ++n)
      if (candidates[n] != NO_KEY) ++counts[(patch.row + n) * counts_pitch + patch.col];
  if (barred)
    for (i32 n = 0; n < ROWS; ++n)
      if (candidates[n] != NO_KEY &&
          barred[chunk_of_row[row0 + patch.row + n] * chunk_cols + chunk_of_col[col0 + patch.col]])
        candidates[n] = NO_KEY;
  if (floor_keys)
    for (i32 n = 0; n < ROWS; ++n)
      if (candidates[n] != NO_KEY && candidates[n] <= floor_keys[(patch.row + n) * floor_pitch + patch.col])
        candidates[n] = NO_KEY;
  for (i32 n = 0; n < ROWS; ++n)
    best[n] = candidates[n] == NO_KEY ? 0 : keys[(patch.row + n) * keys_pitch + patch.col];
  for (i32 n = 0; n < ROWS; ++n)
    if (candidates[n] < best[n]) keys[(patch.row + n) * keys_pitch + patch.col] = candidates[n];
}
EMU_EXPORT(compete)
