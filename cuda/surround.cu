// Codes near marked ones, exactly: first the gap to the nearest marked code of a row, then a look up and down a column.
//
// Registers on sm_90: gaps_across 32, near_down 20; no spills. 16 blocks of 128 threads an SM.
#include "common.cuh"

static const u32 FAR = 65535u;             // no marked code within reach
static const i64 ROWS = 4;                 // of a thread; engines/cuda/masks.py knows it

// Columns to the nearest marked code of the row, FAR beyond `widest`. 1 B read, 2 B written per mask pixel; its
// neighbours, up to `widest` on each side where nothing is marked, come from the cache.
extern "C" __global__ void __launch_bounds__(128) gaps_across(
    const u8 *codes, i64 pitch, i64 rows, i64 cols, const u8 *__restrict__ marked, i64 widest, u16 *gaps) {
  const Patch patch = patch_of(rows, cols, ROWS);
  for (i64 r = patch.row; r < patch.end; ++r) {
    const u8 *line = codes + r * pitch;
    u32 gap = FAR;
    for (i64 d = 0; d <= widest && gap == FAR; ++d) {
      const i64 left = patch.col - d, right = patch.col + d;
      if ((left >= 0 && marked[line[left]]) || (right < cols && marked[line[right]])) gap = (u32)d;
    }
    gaps[r * cols + patch.col] = (u16)gap;
  }
}
EMU_EXPORT(gaps_across)

// Codes become others where a row i away, i < n, has a marked code at most reach[i] columns away. Per mask pixel 2 B
// read, 1 B read and written where something is near; 2 n - 1 gaps of the column from the cache.
extern "C" __global__ void __launch_bounds__(128) near_down(
    const u16 *gaps, u8 *codes, i64 pitch, i64 rows, i64 cols, const i32 *__restrict__ reach, i64 n,
    const u8 *__restrict__ becomes) {
  const Patch patch = patch_of(rows, cols, ROWS);
  for (i64 r = patch.row; r < patch.end; ++r) {
    const u16 *here = gaps + r * cols + patch.col;
    bool near = false;
    for (i64 i = 0; i < n && !near; ++i)
      near = (r >= i && here[-i * cols] <= reach[i]) || (r + i < rows && here[i * cols] <= reach[i]);
    if (near) codes[r * pitch + patch.col] = becomes[codes[r * pitch + patch.col]];
  }
}
EMU_EXPORT(near_down)
