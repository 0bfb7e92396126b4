// Which tiles the winners' samples need.
#include "sample.cuh"
#include "winners.cuh"

static const i32 ROWS = 16;                // of a thread; engines/cuda/owners.py knows it

// Tiles of one source: `right` and `down` more beside and below the first; none where `tile` is negative.
struct Need {
  i64 tile;                                // among those of all sources
  i32 right, down;

  __device__ __forceinline__ bool operator==(const Need &n) const {
    return tile == n.tile && right == n.right && down == n.down;
  }
};

__device__ __forceinline__ Need need_of(const Source &s, const Position &p) {
  const Side x = side_of(p.x, (i32)s.width, s.bilinear), y = side_of(p.y, (i32)s.height, s.bilinear);
  if (!(x.inside && y.inside)) return {-1, 0, 0};
  const i32 margin = (i32)s.margin;
  const i32 left = quotient(larger(x.first - margin, 0), s.by_width);
  const i32 right = quotient(smaller(x.last + margin, (i32)s.width - 1), s.by_width);
  const i32 top = quotient(larger(y.first - margin, 0), s.by_height);
  const i32 bottom = quotient(smaller(y.last + margin, (i32)s.height - 1), s.by_height);
  return {s.tiles + (i64)top * s.across + left, right - left, bottom - top};
}

// Sets the bits that are not set yet, as seen where the atomics work: a mark that is there costs no atomic.
__device__ __forceinline__ void mark(const Need &need, i64 across, u32 *bits) {
  for (i32 i = 0; i <= need.down; ++i)
    for (i32 j = 0; j <= need.right; ++j) {
      const i64 tile = need.tile + i * across + j;
      const u32 bit = 1u << (tile & 31);
      if (!(*(volatile u32 *)&bits[tile >> 5] & bit)) atomicOr(&bits[tile >> 5], bit);
    }
}

// Sets the bit of each tile, counted through all sources, that a pixel of the window needs whose winner has a source.
// A thread marks only what neither its last row nor the lane to the left needs, so that most look at no bit at all.
// Per pixel: 2 or 4 B read of the winners, nothing written. Registers on sm_90: owners 54; no spills, 9 blocks = 36
// warps an SM.
extern "C" __global__ void __launch_bounds__(128) owners(
    const Source *__restrict__ sources, WINNERS_PARAMETERS, i64 row0, i64 col0, i64 rows, i64 cols, u32 *bits) {
  const Winners who = WINNERS;
  const Patch patch = patch_of(rows, cols, ROWS);
  Need last = {-1, 0, 0};
  for (i32 k = 0; k < ROWS; ++k) {         // no lane leaves: all take part in the shuffles
    Need need = {-1, 0, 0};
    i64 across = 0;
    const i32 source = patch.row + k < patch.end ? who.source_of(who.rank(who.place(patch.row + k, patch.col))) : -1;
    if (source >= 0) {
      const Source &s = sources[source];
      across = s.across;
      need = need_of(s, position_at(s.map, row0 + patch.row + k, col0 + patch.col));
    }
    const Need left = {
        __shfl_up_sync(0xFFFFFFFFu, need.tile, 1), __shfl_up_sync(0xFFFFFFFFu, need.right, 1),
        __shfl_up_sync(0xFFFFFFFFu, need.down, 1)};
    const bool first = (threadIdx.x & 31u) == 0 || !(left == need);
    if (need.tile >= 0 && first && !(last == need)) mark(need, across, bits);
    last = need;
  }
}
EMU_EXPORT(owners)
