// The code that an output pixel sees of a mask: the nearest pixel's, or the worst of a footprint.
#pragma once
#include "positions.cuh"

static const i64 HALF_PIXEL = 1ll << 31;

// A score raster, the map that leads to it and the footprint (engines/cuda/masks.py passes it as parameters).
struct Sight {
  const u8 *data;                          // codes of the mask's part, `pitch` from row to row
  i64 pitch;
  i32 row0, row1, col0, col1;              // the part, in mask pixels
  i32 width, height;                       // of the whole mask
  i32 worst;                               // the footprint's worst counts, not the nearest
  i64 half_x, half_y;
  PixelMap map;
};

#define SIGHT_PARAMETERS                                                                                            \
  const u8 *mask, i64 mask_pitch, i32 mask_row0, i32 mask_row1, i32 mask_col0, i32 mask_col1, i32 mask_width,       \
      i32 mask_height, i32 worst, i64 half_x, i64 half_y, const i64 *map_x, const i64 *map_y, i64 log2_step,        \
      i64 map_row0, i64 map_col0, i64 node_cols
#define SIGHT                                                                                                       \
  {mask, mask_pitch, mask_row0, mask_row1, mask_col0, mask_col1, mask_width, mask_height, worst, half_x, half_y,    \
   {map_x, map_y, log2_step, map_row0, map_col0, node_cols}}

// What an output pixel sees on one axis, counted from the start of the mask's part. `near` is negative where it lies
// outside the part. lo == hi == 0: the box holds no pixel, so that the nearest counts; both -1: the centre is outside
// the raster or the box leaves the part.
struct Box {
  i32 near, lo, hi;
};

// First pixel whose centre does not lie before `edge`, cut at 0..size.
__device__ __forceinline__ i32 box_edge(i64 edge, i32 size) {
  const i64 pixel = (edge + (HALF_PIXEL - 1)) >> 32;
  return (i32)least(most(pixel, 0), size);
}

__device__ __forceinline__ Box box_of(i64 position, i64 half, i32 size, i32 start, i32 end, bool worst) {
  const i64 pixel = position >> 32;
  if (pixel < 0 || pixel >= size) return {-1, -1, -1};
  Box box = {(i32)pixel - start, 0, 0};
  if (pixel < start || pixel >= end) box.near = -1;
  if (!worst) return box;
  const i32 lo = box_edge(position - half, size), hi = box_edge(position + half, size);
  if (lo >= hi) return box;
  const bool leaves = lo < start || hi > end;
  box.lo = leaves ? -1 : lo - start;
  box.hi = leaves ? -1 : hi - start;
  return box;
}

__device__ __forceinline__ Box column_box(const Sight &s, i64 x) {
  return box_of(x, s.half_x, s.width, s.col0, s.col1, s.worst);
}

__device__ __forceinline__ Box row_box(const Sight &s, i64 y) {
  return box_of(y, s.half_y, s.height, s.row0, s.row1, s.worst);
}

__device__ __forceinline__ u32 code_in(const Sight &s, const Box &across, const Box &down) {
  if (across.lo < across.hi && down.lo < down.hi) {
    u32 worst = 0;
    for (i32 i = down.lo; i < down.hi; ++i) {
      const u8 *line = s.data + i * s.pitch;
      for (i32 j = across.lo; j < across.hi; ++j) worst = line[j] > worst ? line[j] : worst;
    }
    return worst;
  }
  const bool boxed = across.hi != 0 && down.hi != 0;  // neither box is empty, but one of them sees nothing
  if (boxed || across.near < 0 || down.near < 0) return NODATA_CODE;
  return s.data[down.near * s.pitch + across.near];
}

// One column of the output; on an axis map its box serves all rows.
struct Column {
  i64 col;
  Box box;
};

__device__ __forceinline__ Column column_of(const Sight &s, i64 col) {
  Column column = {col, {-1, -1, -1}};
  if (s.map.log2_step < 0) column.box = column_box(s, s.map.x[col]);
  return column;
}

__device__ __forceinline__ u32 code_at(const Sight &s, const Column &column, i64 row) {
  if (s.map.log2_step < 0) return code_in(s, column.box, row_box(s, s.map.y[row]));
  Position p;
  if (!locate(s.map, row, column.col, p)) return NODATA_CODE;
  return code_in(s, column_box(s, p.x), row_box(s, p.y));
}
