// Inflated bytes -> native samples of a batch of tiles: bits, byte order, predictor, one sample of several.
#include "predictor.cuh"
#include "tiles.cuh"

static const i64 ROWS_AT_ONCE = 4;         // warps of a block; engines/cuda/tiles.py knows it

__device__ __forceinline__ bool aligned(const void *a, const void *b) { return !(((u64)a | (u64)b) & 15u); }

// 8, 16, 32 or 64 bits: byte order, then predictor 2.
template <class T> __device__ __forceinline__ void whole_row(const Tile &tile, i64 row) {
  const T *from = (const T *)(tile.source + row * tile.row_bytes) + tile.sample;
  T *to = (T *)tile.target + row * tile.width;
  const bool swap = tile.swap, sum = tile.predictor == 2;
  if (from == to && !swap && !sum) return;
  if (tile.samples == 1 && aligned(from, to)) copy_packed_row(from, to, (i32)tile.cols, swap, sum);
  else copy_row(from, tile.samples, to, 1, tile.cols, swap, sum);
}

// Predictor 3: sums of the bytes of a row, then the bytes of all values, the highest first; whatever the file's
// byte order, the order of these bytes is the same.
template <class T> __device__ __forceinline__ void float_row(const Tile &tile, i64 row) {
  u8 *line = tile.source + row * tile.row_bytes;
  const i64 lane = threadIdx.x & 31u, plane = tile.width * tile.samples;
  const i64 n = (i64)(sizeof(T) - 1) * tile.width + tile.cols;
  u8 *bytes = line + tile.sample;
  if (tile.samples == 1 && aligned(bytes, bytes)) copy_packed_row(bytes, bytes, (i32)n, false, true);
  else copy_row(bytes, tile.samples, bytes, tile.samples, n, false, true);
  __syncwarp();                            // lanes read what other lanes have written
  T *to = (T *)tile.target + row * tile.width;
  for (i64 i = lane; i < tile.cols; i += 32) {
    T value = 0;
    for (i64 k = 0; k < (i64)sizeof(T); ++k) value = (T)(value << 8 | bytes[k * plane + i * tile.samples]);
    to[i] = value;
  }
}

// 1..16 bits a sample, the highest first: two words that hold its bits, of which the second is read only where it
// is needed, so that nothing after the source's last word is.
template <class T> __device__ __forceinline__ void packed_row(const Tile &tile, i64 row) {
  const u8 *line = tile.source + row * tile.row_bytes;
  const i64 lead = (i64)((u64)line & 3u);
  const u32 *words = (const u32 *)(line - lead);
  const u32 bits = (u32)tile.bits, sign = tile.is_signed ? 1u << (bits - 1) : 0;
  const i64 first = 8 * lead + tile.sample * bits, step = tile.samples * bits;
  T *to = (T *)tile.target + row * tile.width;
  for (i64 i = threadIdx.x & 31u; i < tile.cols; i += 32) {
    const i64 at = first + i * step;
    const u32 skip = (u32)at & 31u;
    const u32 high = swapped(words[at >> 5]);
    const u32 low = skip + bits > 32 ? swapped(words[(at >> 5) + 1]) : 0;
    to[i] = (T)((__funnelshift_l(low, high, skip) >> (32 - bits) ^ sign) - sign);
  }
}

// A warp per row, 4 rows a block, `blocks` blocks a tile. Reads the stored bytes, writes the samples, once each: 4 B
// per pixel of uint16 (3.9 B of 15 bits); predictor 3 of float32 4 + 4 + 4 + 4 B. Registers on sm_90: undo 56; no
// spills, no shared memory: 9 blocks = 36 warps an SM.
extern "C" __global__ void __launch_bounds__(32 * ROWS_AT_ONCE) undo(const Tile *tiles, i64 blocks) {
  const Tile &tile = tiles[blockIdx.x / blocks];
  const i64 first = blockIdx.x % blocks * ROWS_AT_ONCE + (threadIdx.x >> 5);
  for (i64 row = first; row < tile.rows; row += blocks * ROWS_AT_ONCE) {
    if (tile.predictor == 3) {
      if (tile.bits == 16) float_row<u16>(tile, row);
      else if (tile.bits == 32) float_row<u32>(tile, row);
      else float_row<u64>(tile, row);
    } else if (tile.bits == 8) whole_row<u8>(tile, row);
    else if (tile.bits == 16) whole_row<u16>(tile, row);
    else if (tile.bits == 32) whole_row<u32>(tile, row);
    else if (tile.bits == 64) whole_row<u64>(tile, row);
    else if (tile.bits > 8) packed_row<u16>(tile, row);
    else packed_row<u8>(tile, row);
  }
}
EMU_EXPORT(undo)
