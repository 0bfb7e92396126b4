// Class masks: samples -> score codes, nodata grown, codes at output pixels, and what a mask shows of each chunk.
//
// Registers on sm_90: look_up 40, grow_across 18, grow_down 22, resample 45, count_codes 56; no spills. Blocks of 128
// threads: 36 to 64 warps an SM.
// Per pixel, read + written: look_up 1 or 2 + 1 B and a look into a table of 64 KiB; each pass of grow 2n + 1 loads,
// mostly from L1, of 1 B + 1 B; resample the codes under the pixel + 1 B; count_codes the codes under it, nothing.
#include "codes.cuh"

// The part of a decoded mask tile that lies in the window; all fields are 8 bytes wide (engines/cuda/masks.py).
struct MaskTile {
  const u8 *samples;  // of the tile, native, `width` of them a row
  i64 width;
  i64 sample_bytes;   // 1 or 2
  i64 row, col;       // first pixel of the part, in the tile
  i64 top, left;      // and in the window
  i64 rows, cols;
  i64 code;           // of every pixel of a sparse tile; -1: look the samples up
};

// Codes of a batch of tiles, `blocks` blocks each, a warp per row. 1 or 2 B read, 1 B written per mask pixel.
extern "C" __global__ void __launch_bounds__(128) look_up(
    const MaskTile *tiles, i64 blocks, const u8 *codes, u8 *out, i64 pitch) {
  const MaskTile tile = tiles[blockIdx.x / blocks];
  for (i64 r = blockIdx.x % blocks * 4 + (threadIdx.x >> 5); r < tile.rows; r += blocks * 4) {
    u8 *to = out + (tile.top + r) * pitch + tile.left;
    const i64 first = (tile.row + r) * tile.width + tile.col;
    const u8 *narrow = tile.samples + first;
    const u16 *wide = (const u16 *)tile.samples + first;
    for (i64 c = threadIdx.x & 31u; c < tile.cols; c += 32)
      to[c] = tile.code >= 0 ? (u8)tile.code : codes[tile.sample_bytes == 1 ? narrow[c] : wide[c]];
  }
}
EMU_EXPORT(look_up)

// Nodata grown by `radius` pixels, cut at the window's edge: first along the rows, into marks, then down the
// columns, into the codes. 1 B read and written per mask pixel and step; the neighbours come from the cache.
extern "C" __global__ void __launch_bounds__(128) grow_across(
    const u8 *codes, i64 pitch, i64 rows, i64 cols, i64 radius, u8 *marks) {
  const Patch patch = patch_of(rows, cols, 4);
  const i64 first = most(patch.col - radius, 0), last = least(patch.col + radius, cols - 1);
  for (i64 r = patch.row; r < patch.end; ++r) {
    const u8 *line = codes + r * pitch;
    bool found = false;
    for (i64 c = first; c <= last && !found; ++c) found = line[c] == NODATA_CODE;
    marks[r * cols + patch.col] = found;
  }
}
EMU_EXPORT(grow_across)

extern "C" __global__ void __launch_bounds__(128) grow_down(
    const u8 *marks, u8 *codes, i64 pitch, i64 rows, i64 cols, i64 radius) {
  const Patch patch = patch_of(rows, cols, 4);
  for (i64 r = patch.row; r < patch.end; ++r) {
    const i64 first = most(r - radius, 0), last = least(r + radius, rows - 1);
    bool found = false;
    for (i64 i = first; i <= last && !found; ++i) found = marks[i * cols + patch.col];
    if (found) codes[r * pitch + patch.col] = NODATA_CODE;
  }
}
EMU_EXPORT(grow_down)

// Codes of the output pixels of a window whose first is (row0, col0). Reads the mask pixels under them, writes 1 B
// per output pixel.
extern "C" __global__ void __launch_bounds__(128) resample(
    SIGHT_PARAMETERS, i64 row0, i64 col0, i64 rows, i64 cols, u8 *out) {
  const Sight sight = SIGHT;
  const Patch patch = patch_of(rows, cols, 4);
  if (patch.row >= patch.end) return;
  const Column column = column_of(sight, col0 + patch.col);
  for (i64 r = patch.row; r < patch.end; ++r) out[r * cols + patch.col] = (u8)code_at(sight, column, row0 + r);
}
EMU_EXPORT(resample)

// Clear and valid output pixels of each chunk (`parts` = 1), or of its 32 x 32 cells (`parts` = 32). The chunks are
// those between n_rows + 1 row edges and n_cols + 1 column edges. `clear`, `valid`: (chunk row, chunk column, parts,
// parts), zero at first. A block counts the rows of one row of cells, each thread some columns, all their rows; so
// 32 blocks a chunk. Reads the mask pixels under the output, writes 8 B per cell.
extern "C" __global__ void __launch_bounds__(128) count_codes(
    SIGHT_PARAMETERS, const i64 *row_edges, const i64 *col_edges, i64 n_cols, const u8 *is_clear, i32 parts,
    u32 *clear, u32 *valid) {
  __shared__ u32 clear_here[32], valid_here[32];
  const Sight sight = SIGHT;
  const i64 chunk = blockIdx.x / 32, band = blockIdx.x % 32;
  const i64 i = chunk / n_cols, j = chunk % n_cols;
  const i64 top = row_edges[i], left = col_edges[j], height = row_edges[i + 1] - top, width = col_edges[j + 1] - left;
  const i64 first = top + band * height / 32, end = top + (band + 1) * height / 32;
  if (threadIdx.x < 32) clear_here[threadIdx.x] = valid_here[threadIdx.x] = 0;
  __syncthreads();
  for (i64 c = threadIdx.x; c < width && first < end; c += blockDim.x) {
    const Column column = column_of(sight, left + c);
    u32 n_clear = 0, n_valid = 0;
    for (i64 r = first; r < end; ++r) {
      const u32 code = code_at(sight, column, r);
      n_clear += is_clear[code] != 0;
      n_valid += code != NODATA_CODE;
    }
    // the m with m width // 32 <= c < (m + 1) width // 32
    const i64 cell = parts == 1 ? 0 : ((c + 1) * 32 - 1) / width;
    if (n_clear) atomicAdd(&clear_here[cell], n_clear);
    if (n_valid) atomicAdd(&valid_here[cell], n_valid);
  }
  __syncthreads();
  if ((i32)threadIdx.x >= parts) return;
  const i64 at = parts == 1 ? chunk : (chunk * 32 + band) * 32 + threadIdx.x;
  if (clear_here[threadIdx.x]) atomicAdd(&clear[at], clear_here[threadIdx.x]);
  if (valid_here[threadIdx.x]) atomicAdd(&valid[at], valid_here[threadIdx.x]);
}
EMU_EXPORT(count_codes)
