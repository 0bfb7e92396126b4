// Kernels that test the emulator itself; the last ones are wrong on purpose.
#include "common.cuh"
#if defined(__CUDACC__)
#define EMU_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

static const u32 ALL = 0xFFFFFFFFu;

extern "C" __global__ void collectives(u32 *out) {  // 16 words per thread
  const u32 t = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31u, v = t * 2654435761u;
  u32 *o = out + 16 * t;
  o[0] = __shfl_sync(ALL, v, 7);
  o[1] = __shfl_sync(ALL, v, 3, 8);
  o[2] = __shfl_up_sync(ALL, v, 5);
  o[3] = __shfl_down_sync(ALL, v, 9, 16);
  o[4] = __shfl_xor_sync(ALL, v, 17);
  o[5] = __ballot_sync(ALL, (int)(v >> 31));
  o[6] = __match_any_sync(ALL, lane % 5u);
  o[7] = (u32)__any_sync(ALL, lane == 40u) | (u32)__all_sync(ALL, lane < 32u) << 1;
  const u32 half = lane < 16 ? 0xFFFFu : 0xFFFF0000u;  // two groups with masks of their own
  if (lane < 16) o[8] = __shfl_sync(half, v, 3);
  else o[8] = __shfl_sync(half, v, 19);
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  o[9] = __reduce_add_sync(ALL, v);
  o[10] = __reduce_max_sync(ALL, v) ^ (u32)__reduce_min_sync(ALL, (int)v);
  o[11] = __reduce_xor_sync(ALL, v);
#endif
  o[12] = (u32)__syncthreads_count((int)(v & 1u));
  o[13] = (u32)__syncthreads_and(t != 70) << 1 | (u32)__syncthreads_or(t == 70);
  o[14] = __byte_perm(v, ~v, 0x3715u) ^ __dp4a(v, ~v, t);
  o[15] = __brev(v) ^ (u32)__popc(v) ^ (u32)__clz((int)v) ^ (u32)__ffs((int)v) ^ __funnelshift_r(v, ~v, 11u) ^
          __umulhi(v, 0x12345679u);
}
EMU_EXPORT(collectives)

// Lanes leave one by one; those that stay go on without them.
extern "C" __global__ void leave(u32 *out) {
  const u32 lane = threadIdx.x;
  for (u32 round = 0; round < 32; round++) {
    if (lane < round) return;
    out[lane] += (u32)__popc(__ballot_sync(ALL, 1));
    __syncthreads();
  }
}
EMU_EXPORT(leave)

extern "C" __global__ void block_sum(const i32 *in, i64 *sum, u32 *least_value, i32 n) {
  EMU_DYNAMIC_SHARED(i32, part);
  __shared__ i32 size;
  const i32 t = (i32)threadIdx.x;
  i32 mine = 0;
  for (i32 i = (i32)thread_index(); i < n; i += (i32)(gridDim.x * blockDim.x)) {
    mine += in[i];
    atomicMin(least_value, (u32)in[i]);
  }
  part[t] = mine;
  if (t == 0) size = (i32)blockDim.x;
  __syncthreads();
  for (i32 d = size / 2; d; d >>= 1) {
    if (t < d) part[t] += part[t + d];
    __syncthreads();
  }
  if (t == 0) atomicAdd((u64 *)sum, (u64)(i64)part[0]);
}
EMU_EXPORT(block_sum)

extern "C" __global__ void indices(u32 *out) {  // 3-dimensional grid and block
  const u32 block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const u32 thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block << 16 | thread;
}
EMU_EXPORT(indices)

// ---- wrong on purpose

extern "C" __global__ void race(i32 *out) {  // no barrier between store and load
  __shared__ i32 box[32];
  box[threadIdx.x] = (i32)threadIdx.x;
  out[threadIdx.x] = box[(threadIdx.x + 1) & 31u];
}
EMU_EXPORT(race)

extern "C" __global__ void lost_update(i32 *out) {  // a sum without an atomic
  const i32 old = *out;
  __syncwarp();
  *out = old + 1;
}
EMU_EXPORT(lost_update)

extern "C" __global__ void deadlock(i32 *out) {  // half the block never comes to the barrier
  if (threadIdx.x < 16) __syncwarp(ALL);
  else __syncthreads();
  out[0] = 1;
}
EMU_EXPORT(deadlock)

extern "C" __global__ void mask_without_caller(i32 *out) {
  out[threadIdx.x] = (i32)__ballot_sync(0xFFFEu, 1);
}
EMU_EXPORT(mask_without_caller)

extern "C" __global__ void live_lock(const i32 *flag) {
  while (!*(const volatile i32 *)flag) __syncwarp();
}
EMU_EXPORT(live_lock)

extern "C" __global__ void beyond_shared(i32 *out, i32 at) {
  EMU_DYNAMIC_SHARED(i32, part);
  part[threadIdx.x] = 1;
  out[threadIdx.x] = part[at];
}
EMU_EXPORT(beyond_shared)

extern "C" __global__ void misaligned(const u8 *in, u32 *out) { *out = *(const u32 *)(in + 1); }
EMU_EXPORT(misaligned)
