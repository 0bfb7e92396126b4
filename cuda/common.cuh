// Types and constants of all kernels. The same source is compiled by NVRTC, by nvcc and, for tests
// without a GPU, by g++ against an emulation of threads, warps and blocks: nothing else is included.
#pragma once
#if !defined(__CUDACC__)
#include "cuda_emulation.h"
#define UNROLL
#else
#define EMU_EXPORT(kernel)
#define EMU_STEP(name)
#define UNROLL _Pragma("unroll")
#endif

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;

// As in engines/contract.py.
static const u32 NO_KEY = 0xFFFFFFFFu;
static const int SCORE_SHIFT = 17;
static const u32 NO_SCORE = 65535u;
static const u32 NODATA_CODE = 255u;
static const u32 UNUSABLE_CODE = 254u;
static const u32 NODATA = 65535u;
static const i32 SPARSE_SLOT = -1;
static const i32 LOST_SLOT = -2;

__device__ __forceinline__ i64 least(i64 a, i64 b) { return a < b ? a : b; }
__device__ __forceinline__ i64 most(i64 a, i64 b) { return a > b ? a : b; }

// The thread's index in a one-dimensional launch.
__device__ __forceinline__ i64 thread_index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

// A thread's part of a window that blocks cover from left to right, then down: one column, some rows. Windows have
// less than 2^31 columns.
struct Patch {
  i64 col, row, end;                       // no rows where the column lies outside
};

__device__ __forceinline__ Patch patch_of(i64 rows, i64 cols, i64 height) {
  // divisions of 64 bits would be the longest part of some kernels
  const u32 across = ((u32)cols + blockDim.x - 1) / blockDim.x, down = blockIdx.x / across;
  Patch patch = {(i64)(blockIdx.x - down * across) * blockDim.x + threadIdx.x, down * height, 0};
  patch.end = patch.col < cols ? least(patch.row + height, rows) : patch.row;
  return patch;
}
