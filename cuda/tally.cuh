// Counting by rank: runs in registers, then the block's counters, then those of all blocks.
#pragma once
#include "common.cuh"

static const u32 SHARED_COUNTS = 2048;     // with more ranks than these the runs go to all blocks' counters at once

struct Tally {
  u32 *here;                               // of the block; null where there are too many ranks
  u64 *total;                              // of all blocks, `step` apart
  i64 step;
  u32 n;
  u32 rank, run;                           // of the thread: the last rank, and how often it came in a row

  __device__ __forceinline__ void pour() {
    if (!run || rank >= n) return;
    if (here) atomicAdd(&here[rank], run);
    else atomicAdd(&total[rank * step], (u64)run);
  }
  __device__ __forceinline__ void add(u32 next) {
    if (next != rank) {
      pour();
      rank = next;
      run = 0;
    }
    ++run;
  }
  __device__ __forceinline__ void finish() {  // all threads of the block
    pour();
    if (!here) return;
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += blockDim.x)
      if (here[i]) atomicAdd(&total[i * step], (u64)here[i]);
  }
};

// All threads of the block. `room`: SHARED_COUNTS words of shared memory; `n`: ranks.
__device__ __forceinline__ Tally start_tally(u32 *room, u64 *total, i64 step, u32 n) {
  const bool fits = n <= SHARED_COUNTS;
  if (fits) {
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) room[i] = 0;
    __syncthreads();
  }
  return {fits ? room : (u32 *)0, total, step, n, 0, 0};
}
