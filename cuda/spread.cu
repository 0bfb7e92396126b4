// Sums of painted values over scenes: exact, so their order does not matter.
#include "sample.cuh"

// Scene by scene, a thread per pixel: where the sample is valid and the scene is marked (if it has marks), the sums
// take it. All sources' samples are of one type. Per pixel 20 B read and 20 B written, and of each scene its sample
// and 1 B of marks. Registers on sm_90: spread_u2 96; no spills, 5 blocks = 20 warps an SM.
template <class T>
__device__ __forceinline__ void add_samples(
    const Source *sources, i32 n, const i32 *slots, i64 row0, i64 col0, i64 rows, i64 cols, u32 *counts, u64 *totals,
    u64 *squares, i64 pitch) {
  const Patch patch = patch_of(rows, cols, 1);
  if (patch.row >= patch.end) return;
  u32 count = 0;
  u64 total = 0, square = 0;
  for (i32 k = 0; k < n; ++k) {
    const Source &s = sources[k];
    if (s.marks && !s.marks[patch.row * s.marks_pitch + patch.col]) continue;
    const u64 value = value_at<T>(s, slots + s.tiles, position_at(s.map, row0 + patch.row, col0 + patch.col));
    if (value == NODATA) continue;
    ++count;
    total += value;
    square += value * value;
  }
  if (!count) return;
  const i64 at = patch.row * pitch + patch.col;
  counts[at] += count;
  totals[at] += total;
  squares[at] += square;
}

#define SPREAD(name, type)                                                                                          \
  extern "C" __global__ void __launch_bounds__(128, 4) spread_##name(                                                  \
      const Source *__restrict__ sources, i32 n, const i32 *__restrict__ slots, i64 row0, i64 col0, i64 rows,       \
      i64 cols, u32 *__restrict__ counts, u64 *__restrict__ totals, u64 *__restrict__ squares, i64 pitch) {         \
    add_samples<type>(sources, n, slots, row0, col0, rows, cols, counts, totals, squares, pitch);                   \
  }                                                                                                                 \
  EMU_EXPORT(spread_##name)
SPREAD(u1, u8)
SPREAD(i1, i8)
SPREAD(u2, u16)
SPREAD(i2, i16)
SPREAD(u4, u32)
SPREAD(i4, i32)
