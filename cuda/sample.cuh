// One sample of a scene's level, exactly as engines/fixed_point.py and engines/contract.py define it: the taps on each
// axis, a quick way where one tile holds them all, and the way that always works.
#pragma once
#include "positions.cuh"

static const i32 FULL_WEIGHT = 1 << 15;
static const i64 LARGEST_VALUE = 65534;

// A scene's level, in device memory; all fields are 8 bytes wide (engines/cuda/sources.py writes it). Sizes, also those
// of a slot in bytes, are below 2^31. `lo`, `hi` and `nodata` lie in the type of the samples, but for a `nodata` that
// nothing equals.
struct Source {
  PixelMap map;
  const u8 *pool;          // slot 0
  i64 step;                // bytes from slot to slot
  i64 tiles;               // where its tiles begin among those of all sources
  i64 width, height;
  i64 tile_width, tile_height, across;
  u64 by_width, by_height; // what divides by the tile's sizes, see `quotient`
  i64 bilinear;
  i64 margin;              // pixels around a tap that are needed, too; one of them invalid, the tap is invalid
  i64 lo, hi, nodata;
  i64 mul, add, div;
  i64 quick;               // samples of 8 or 16 bits, no margin, `nodata` not in lo..hi, and 2 (mul v + add) + div fits
                           // 32 bits for all v of the type: `quick_value` may be asked
  const u8 *marks;         // of the pixels whose sums take its values: null or one per pixel of the window
  i64 marks_pitch;
};

// n / d for 0 <= n < 2^31 by a product: `by` holds floor(2^(31 + l) / d) + 1 and, above bit 32, l = ceil(log2 d).
__device__ __forceinline__ i32 quotient(i32 n, u64 by) {
  return (i32)(__umulhi((u32)n << 1, (u32)by) >> (u32)(by >> 32));
}

__device__ __forceinline__ i32 smaller(i32 a, i32 b) { return a < b ? a : b; }
__device__ __forceinline__ i32 larger(i32 a, i32 b) { return a > b ? a : b; }

// A pixel that has no place in the source lies outside every raster, as OUTSIDE does in the tables of an axis map.
__device__ __forceinline__ Position position_at(const PixelMap &map, i64 row, i64 col) {
  if (map.log2_step < 0) return {map.x[col], map.y[row]};
  Position p;
  return locate(map, row, col, p) ? p : Position{OUTSIDE, OUTSIDE};
}

// Taps on one axis: `first` and `last` of weight > 0 inside the raster, which are the same or neighbours.
struct Side {
  i32 near, first, last;
  i32 weight;              // of `last` if they differ; in 1/32768
  bool inside;             // the nearest pixel is; else nothing is needed
};

__device__ __forceinline__ Side side_of(i64 position, i32 size, bool bilinear) {
  Side s;
  s.near = s.first = s.last = (i32)(position >> 32);
  s.inside = (u32)s.near < (u32)size;
  const u32 fraction = (u32)position;      // position - 1/2 in 32 bits: its fraction is this one turned round
  s.weight = (i32)((((fraction ^ 0x80000000u) >> 16) + 1) >> 1);
  if (bilinear) {
    const i32 tap = s.near - 1 + (i32)(fraction >> 31);
    s.first = larger(tap + (s.weight >> 15), 0);
    s.last = smaller(tap + ((s.weight + FULL_WEIGHT - 1) >> 15), size - 1);
  }
  return s;
}

// The painted value of an interpolated sample: (mul v + add) / div rounded half up, cut to 0..65534.
__device__ __forceinline__ u32 finish(i64 v, const Source &s) {
  i64 value = v * s.mul + s.add;
  if (s.div != 1) value = (2 * value + s.div) / (2 * s.div);  // below 0 it rounds up, which is cut off
  return (u32)least(most(value, 0), LARGEST_VALUE);
}

// ---- the quick way: all taps in one tile, their box given by its upper left corner

enum { NOWHERE, ONE_TILE, SEVERAL_TILES };

struct Spot {
  i32 where;
  i32 tile;                // of the source; 0, which may be looked up in vain, if not ONE_TILE
  i32 at;                  // samples from the tile's start to the upper left tap
  i32 right, below;        // 1: there is a second column, row
  i32 wx, wy;              // and what it weighs
};

__device__ __forceinline__ Spot spot_of(const Source &s, const Position &p) {
  const Side x = side_of(p.x, (i32)s.width, s.bilinear), y = side_of(p.y, (i32)s.height, s.bilinear);
  const i32 wide = (i32)s.tile_width, high = (i32)s.tile_height;
  const i32 left = larger(x.first, 0), top = larger(y.first, 0);  // they are outside the raster where it is NOWHERE
  const i32 j = quotient(left, s.by_width), i = quotient(top, s.by_height);
  const i32 row = top - i * high, col = left - j * wide;
  Spot spot = {SEVERAL_TILES, 0, row * wide + col, x.last - left, y.last - top, x.weight, y.weight};
  if (row + spot.below < high && col + spot.right < wide) {
    spot.where = ONE_TILE;
    spot.tile = i * (i32)s.across + j;
  }
  if (!(x.inside && y.inside)) spot.where = NOWHERE;
  return spot;
}

// The four taps; where there is no second column or row, the first again.
struct Taps {
  i32 a, b, c, d;
};

template <class T> __device__ __forceinline__ Taps taps_at(const Source &s, const Spot &spot, i32 slot) {
  if (spot.where != ONE_TILE || slot < 0) return {0, 0, 0, 0};
  const T *upper = (const T *)(s.pool + (u64)(u32)slot * (u32)s.step) + spot.at;
  const i32 a = (i32)upper[0];
  if (!(spot.right | spot.below)) return {a, a, a, a};
  const T *lower = upper + spot.below * (i32)s.tile_width;
  return {a, (i32)upper[spot.right], (i32)lower[0], (i32)lower[spot.right]};
}

static const u32 UNDECIDED = 0xFFFFFFFFu;

// The painted value of a quick source, NODATA, or UNDECIDED where only `sample` knows: where some of the taps are
// invalid. All of them invalid or lost, or the nearest pixel outside, it is nodata.
__device__ __forceinline__ u32 quick_value(const Source &s, const Spot &spot, i32 slot, const Taps &t) {
  const u32 lo = (u32)s.lo, a = (u32)t.a - lo, b = (u32)t.b - lo, c = (u32)t.c - lo, d = (u32)t.d - lo;
  const u32 range = (u32)s.hi - lo, low = min(min(a, b), min(c, d)), high = max(max(a, b), max(c, d));
  const i32 upper = t.a * FULL_WEIGHT + spot.wx * (t.b - t.a), lower = t.c * FULL_WEIGHT + spot.wx * (t.d - t.c);
  const i64 total = (i64)upper * FULL_WEIGHT + (i64)(lower - upper) * spot.wy;
  i32 value = (i32)((total + (1 << 29)) >> 30) * (i32)s.mul + (i32)s.add;
  if (s.div != 1) value = 2 * value + (i32)s.div < 0 ? 0 : (i32)((u32)(2 * value + (i32)s.div) / (2 * (u32)s.div));
  const u32 painted = (u32)smaller(larger(value, 0), (i32)LARGEST_VALUE);
  const bool one = spot.where == ONE_TILE, nothing = spot.where == NOWHERE || (one && (slot < 0 || low > range));
  return nothing ? NODATA : one && high <= range ? painted : UNDECIDED;
}

// ---- the way that always works

enum { VALID, INVALID, LOST };

__device__ __forceinline__ bool is_valid(i64 v, const Source &s) { return v >= s.lo && v <= s.hi && v != s.nodata; }

template <class T> __device__ __forceinline__ const T *row_of(const Source &s, i32 slot, i32 row) {
  return (const T *)(s.pool + (i64)slot * s.step) + (i64)row * s.tile_width;
}

// The worst state of a box of pixels (ends included) and of those within the margin, cut at the raster's edge.
template <class T>
__device__ i32 worst_state(const Source &s, const i32 *slots, i32 top, i32 bottom, i32 left, i32 right) {
  const i32 margin = (i32)s.margin, tile_height = (i32)s.tile_height, tile_width = (i32)s.tile_width;
  top = larger(top - margin, 0);
  left = larger(left - margin, 0);
  bottom = smaller(bottom + margin, (i32)s.height - 1);
  right = smaller(right + margin, (i32)s.width - 1);
  const i32 first_tile = quotient(left, s.by_width), last_tile = quotient(right, s.by_width);
  i32 worst = VALID;
  for (i32 i = quotient(top, s.by_height); i * tile_height <= bottom; ++i)
    for (i32 j = first_tile; j <= last_tile; ++j) {
      const i32 slot = slots[i * (i32)s.across + j];
      if (slot == LOST_SLOT) return LOST;
      if (slot < 0) worst = INVALID;
      const i32 end = smaller(bottom - i * tile_height, tile_height - 1);
      for (i32 r = larger(top - i * tile_height, 0); r <= end && worst == VALID; ++r) {
        const T *line = row_of<T>(s, slot, r);
        const i32 stop = smaller(right - j * tile_width, tile_width - 1);
        for (i32 c = larger(left - j * tile_width, 0); c <= stop; ++c)
          if (!is_valid(line[c], s)) worst = INVALID;
      }
    }
  return worst;
}

// A pixel in a tile that has a slot.
template <class T> __device__ __forceinline__ i64 pixel(const Source &s, const i32 *slots, i32 row, i32 col) {
  const i32 i = quotient(row, s.by_height), j = quotient(col, s.by_width);
  return row_of<T>(s, slots[i * (i32)s.across + j], row - i * (i32)s.tile_height)[col - j * (i32)s.tile_width];
}

// total / weight rounded half up; `weight` > 0.
__device__ __forceinline__ i64 weighted_mean(i64 total, i64 weight) {
  if (weight == 1 << 30) return (total + (1 << 29)) >> 30;
  const i64 n = total + (weight >> 1);
  return (n < 0 ? n - (weight - 1) : n) / weight;
}

// Painted value at a position, NODATA where it is invalid or lost. Lost comes first: a needed pixel in a lost tile
// makes the sample lost. `slots`: of this source's tiles.
template <class T> __device__ __forceinline__ u32 sample(const Source &s, const i32 *slots, const Position &p) {
  const Side x = side_of(p.x, (i32)s.width, s.bilinear), y = side_of(p.y, (i32)s.height, s.bilinear);
  if (!(x.inside && y.inside)) return NODATA;
  const i32 around = worst_state<T>(s, slots, y.first, y.last, x.first, x.last);
  if (around == LOST) return NODATA;
  if (around == INVALID && worst_state<T>(s, slots, y.near, y.near, x.near, x.near) != VALID) return NODATA;
  i64 total = 0, weight = 0;
  for (i32 i = y.first; i <= y.last; ++i)
    for (i32 j = x.first; j <= x.last; ++j) {
      if (around == INVALID && worst_state<T>(s, slots, i, i, j, j) != VALID) continue;
      const i64 wy = y.first == y.last ? FULL_WEIGHT : i == y.last ? y.weight : FULL_WEIGHT - y.weight;
      const i64 wx = x.first == x.last ? FULL_WEIGHT : j == x.last ? x.weight : FULL_WEIGHT - x.weight;
      total += wx * wy * pixel<T>(s, slots, i, j);
      weight += wx * wy;
    }
  return finish(weighted_mean(total, weight), s);
}

// The same, quickly where that is possible.
template <class T> __device__ __forceinline__ u32 value_at(const Source &s, const i32 *slots, const Position &p) {
  u32 value = UNDECIDED;
  if (s.quick) {
    const Spot spot = spot_of(s, p);
    value = quick_value(s, spot, slots[spot.tile], taps_at<T>(s, spot, slots[spot.tile]));
  }
  return value == UNDECIDED ? sample<T>(s, slots, p) : value;
}
