// What is to be done to one tile of a batch, in device memory (engines/cuda/tiles.py writes it).
#pragma once
#include "common.cuh"

// All fields are 8 bytes wide. `source` and `target` are multiples of 16, and a source can be read up to the next
// multiple of 16 after its end. They may be one and the same where a sample is 8, 16, 32 or 64 bits wide, the tile
// holds one sample a pixel and the predictor is not 3; else they do not overlap.
struct Tile {
  u8 *source;      // inflated bytes; predictor 3 leaves its sums there
  u8 *target;      // the slot: native samples, row-major, `width` of them a row
  i64 width;       // samples of a row of the target, pixels of a row of the source
  i64 rows, cols;  // the part, from the tile's corner, that is wanted; the rest of the slot may hold anything
  i64 row_bytes;   // from row to row of the source
  i64 bits;        // of a stored sample: 1..16 packed, highest bit first; or 8, 16, 32, 64
  i64 is_signed;
  i64 samples, sample;  // interleaved samples of a pixel, and which of them is taken
  i64 predictor;   // 1 none, 2 horizontal differences, 3 floating point
  i64 swap;        // the file's byte order is not the device's
};
