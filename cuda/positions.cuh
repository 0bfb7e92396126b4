// Output pixel -> source position: int64, 32 fractional bits, pixel edges (geo/pixel_map.py).
#pragma once
#include "common.cuh"

static const i64 OUTSIDE = -(1ll << 62);

// One pixel map in device memory, all fields 8 bytes wide (engines/cuda/positions.py writes it).
struct PixelMap {
  const i64 *x, *y;  // axis map: tables by output column and row; lattice: nodes
  i64 log2_step;     // -1: axis map
  i64 row0, col0;    // lattice index of the output's pixel (0, 0)
  i64 node_cols;     // nodes in a row of the lattice
};

struct Position {
  i64 x, y;
};

// The nodes around a pixel of a lattice, seen along its column: the cell's row n lies at (x + n dx) >> shift.
struct Cell {
  i64 x, dx, y, dy;
  int shift;
  bool inside;       // all nodes have a place in the source

  __device__ __forceinline__ Position at(i64 n) const { return {(x + n * dx) >> shift, (y + n * dy) >> shift}; }
};

// Four nodes, `right` and `below` apart; with a step of 1 they are all the pixel's own.
struct Nodes {
  i64 upper_left, upper_right, lower_left, lower_right;

  __device__ __forceinline__ Nodes(const i64 *nodes, i64 right, i64 below)
      : upper_left(nodes[0]), upper_right(nodes[right]), lower_left(nodes[below]), lower_right(nodes[below + right]) {}
  __device__ __forceinline__ bool inside() const {
    return upper_left != OUTSIDE && upper_right != OUTSIDE && lower_left != OUTSIDE && lower_right != OUTSIDE;
  }
  // On the line between the upper nodes, times step squared, and the rise from row to row.
  __device__ __forceinline__ void along(i64 step, i64 fx, i64 &start, i64 &rise) const {
    const i64 top = upper_left * (step - fx) + upper_right * fx;
    rise = lower_left * (step - fx) + lower_right * fx - top;
    start = top * step + (step * step >> 1);
  }
};

// The cell of the output's pixel (row, col) on a lattice.
__device__ __forceinline__ Cell cell_at(const PixelMap &map, i64 row, i64 col) {
  const int k = (int)map.log2_step;
  const i64 r = row + map.row0, c = col + map.col0, step = 1ll << k;
  const i64 at = (r >> k) * map.node_cols + (c >> k), right = k ? 1 : 0, below = k ? map.node_cols : 0;
  const Nodes x(map.x + at, right, below), y(map.y + at, right, below);
  Cell cell = {0, 0, 0, 0, 2 * k, x.inside() && y.inside()};
  if (!cell.inside) return cell;
  x.along(step, c & (step - 1), cell.x, cell.dx);
  y.along(step, c & (step - 1), cell.y, cell.dy);
  return cell;
}

// Position of the output's pixel (row, col); false where it has no place in the source.
__device__ __forceinline__ bool locate(const PixelMap &map, i64 row, i64 col, Position &out) {
  if (map.log2_step < 0) {
    out.x = map.x[col];
    out.y = map.y[row];
    return out.x != OUTSIDE && out.y != OUTSIDE;
  }
  const Cell cell = cell_at(map, row, col);
  if (!cell.inside) return false;
  out = cell.at((row + map.row0) & ((1ll << map.log2_step) - 1));
  return true;
}
