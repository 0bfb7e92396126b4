// Rules that look at band values: who still competes, whose index is greatest, what is left.
//
// Registers on sm_90: rivals 27, rank_values 40, exhausted 26; no spills. 12 to 16 blocks of 128 threads an SM; memory
// decides.
#include "common.cuh"

static const u32 RANK_BITS = 0xFFFFu;
static const i64 ROWS = 4;                 // of a thread; engines/cuda/values.py knows it

// Marks where both keys agree above `shift` and `own` is one. 8 B read, 1 B written per pixel.
extern "C" __global__ void __launch_bounds__(128) rivals(
    const u32 *keys, i64 keys_pitch, const u32 *own, i64 own_pitch, u32 shift, i64 rows, i64 cols, u8 *marks) {
  const Patch patch = patch_of(rows, cols, ROWS);
  for (i64 r = patch.row; r < patch.end; ++r) {
    const u32 key = keys[r * keys_pitch + patch.col], ours = own[r * own_pitch + patch.col];
    marks[r * cols + patch.col] = ours != NO_KEY && ours >> shift == key >> shift;
  }
}
EMU_EXPORT(rivals)

// An observation: its key, and the two values of its index (high - low) / (high + low), 0 where both are.
struct Observation {
  u32 key, low, high;
};

// By class (score and selection), then by the greater index, then by rank. Products are below 2^34.
__device__ __forceinline__ bool is_before(const Observation &a, const Observation &b) {
  if (a.key >> 16 != b.key >> 16) return a.key < b.key;
  const i64 ours = ((i64)a.high - a.low) * most((i64)b.high + b.low, 1);
  const i64 theirs = ((i64)b.high - b.low) * most((i64)a.high + a.low, 1);
  return ours > theirs || (ours == theirs && a.key < b.key);
}

// The scene's observation replaces the best one where it has both values, comes before it and, where there is a floor,
// after that. Per pixel 8 B read; 8 B more where the scene has values, 8 B of a floor, 8 B written where it is better.
extern "C" __global__ void __launch_bounds__(128) rank_values(
    u32 *best, i64 best_pitch, u16 *best_low, i64 best_low_pitch, u16 *best_high, i64 best_high_pitch,
    const u32 *keys, i64 keys_pitch, const u16 *low, i64 low_pitch, const u16 *high, i64 high_pitch,
    const u32 *floor_keys, i64 floor_pitch, const u16 *floor_low, i64 floor_low_pitch, const u16 *floor_high,
    i64 floor_high_pitch, u32 rank, i64 rows, i64 cols) {
  const Patch patch = patch_of(rows, cols, ROWS);
  const i64 c = patch.col;
  for (i64 r = patch.row; r < patch.end; ++r) {
    Observation ours = {keys[r * keys_pitch + c], low[r * low_pitch + c], high[r * high_pitch + c]};
    if (ours.key == NO_KEY || ours.low == NODATA || ours.high == NODATA) continue;
    ours.key = (ours.key & ~RANK_BITS) | rank;
    if (floor_keys) {
      const Observation floor = {
          floor_keys[r * floor_pitch + c], floor_low[r * floor_low_pitch + c], floor_high[r * floor_high_pitch + c]};
      if (!is_before(floor, ours)) continue;
    }
    const Observation held = {
        best[r * best_pitch + c], best_low[r * best_low_pitch + c], best_high[r * best_high_pitch + c]};
    if (held.key != NO_KEY && !is_before(ours, held)) continue;
    best[r * best_pitch + c] = ours.key;
    best_low[r * best_low_pitch + c] = (u16)ours.low;
    best_high[r * best_high_pitch + c] = (u16)ours.high;
  }
}
EMU_EXPORT(rank_values)

// The last key of the class where somebody competed and nobody had values, else NO_KEY; `found` becomes 1 if
// there is such a pixel. 8 B read, 4 B written per pixel.
extern "C" __global__ void __launch_bounds__(128) exhausted(
    const u32 *keys, i64 keys_pitch, const u32 *best, i64 best_pitch, i64 rows, i64 cols, u32 *out, u32 *found) {
  const Patch patch = patch_of(rows, cols, ROWS);
  u32 mine = 0;
  for (i64 r = patch.row; r < patch.end; ++r) {
    const u32 key = keys[r * keys_pitch + patch.col];
    const bool left = key != NO_KEY && best[r * best_pitch + patch.col] == NO_KEY;
    out[r * cols + patch.col] = left ? key | RANK_BITS : NO_KEY;
    mine |= left;
  }
  if (mine) *found = 1;                    // whoever comes first: all write the same
}
EMU_EXPORT(exhausted)
