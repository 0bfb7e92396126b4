// Sums along a row, and the byte order before them: a warp takes a row.
#pragma once
#include "common.cuh"

static const u32 WHOLE_WARP = 0xFFFFFFFFu;

__device__ __forceinline__ u8 swapped(u8 v) { return v; }
__device__ __forceinline__ u16 swapped(u16 v) { return (u16)(v << 8 | v >> 8); }
__device__ __forceinline__ u32 swapped(u32 v) { return __byte_perm(v, 0, 0x0123); }
__device__ __forceinline__ u64 swapped(u64 v) { return (u64)swapped((u32)v) << 32 | swapped((u32)(v >> 32)); }

// Sums are taken modulo 2^32 or 2^64, of which those of narrower samples are the low bits.
template <class T> struct SumOf { typedef u32 Type; };
template <> struct SumOf<u64> { typedef u64 Type; };

// Sum of `v` over the lanes up to and with the caller's.
template <class S> __device__ __forceinline__ S lanes_sum(S v) {
  const u32 lane = threadIdx.x & 31u;
  for (u32 d = 1; d < 32; d <<= 1) {
    const S other = __shfl_up_sync(WHOLE_WARP, v, d);
    if (lane >= d) v += other;
  }
  return v;
}

// One warp: n samples, `step` and `out_step` apart, one for each lane at a time. `from` may be `to`.
template <class T> __device__ void copy_row(const T *from, i64 step, T *to, i64 out_step, i64 n, bool swap, bool sum) {
  typedef typename SumOf<T>::Type S;
  S before = 0;
  for (i64 i = threadIdx.x & 31u; i - (i64)(threadIdx.x & 31u) < n; i += 32) {
    T v = i < n ? from[i * step] : (T)0;
    if (swap) v = swapped(v);
    if (sum) {
      const S total = before + lanes_sum((S)v);
      before = __shfl_sync(WHOLE_WARP, total, 31);
      v = (T)total;
    }
    if (i < n) to[i * out_step] = v;
  }
}

template <class T> union Pack {
  uint4 bytes;
  T v[16 / sizeof(T)];
};

// The same for neighbouring samples on both sides, both at multiples of 16 bytes: 16 bytes for each lane at a time.
// The next ones are on their way while those at hand are summed.
template <class T> __device__ void copy_packed_row(const T *from, T *to, i32 n, bool swap, bool sum) {
  typedef typename SumOf<T>::Type S;
  const i32 each = 16 / sizeof(T), lane = threadIdx.x & 31u, packs = n / each;
  const uint4 *source = (const uint4 *)from;
  uint4 *target = (uint4 *)to;
  S before = 0;
  Pack<T> now, next;
  next.bytes = lane < packs ? source[lane] : make_uint4(0, 0, 0, 0);
  for (i32 i = lane; i - lane < packs; i += 32) {
    now = next;
    if (i + 32 < packs) next.bytes = source[i + 32];
    S total = 0;
    for (i32 k = 0; k < each; ++k) {
      if (swap) now.v[k] = swapped(now.v[k]);
      total += now.v[k];
      if (sum) now.v[k] = (T)total;
    }
    if (sum) {
      total = i < packs ? total : 0;
      const S up_to = before + lanes_sum(total);
      before = __shfl_sync(WHOLE_WARP, up_to, 31);
      for (i32 k = 0; k < each; ++k) now.v[k] = (T)(now.v[k] + (T)(up_to - total));
    }
    if (i < packs) target[i] = now.bytes;
  }
  const i32 i = packs * each + lane;        // fewer than a lane's 16 bytes are left
  T v = i < n ? from[i] : (T)0;
  if (swap) v = swapped(v);
  if (sum) v = (T)(before + lanes_sum((S)v));
  if (i < n) to[i] = v;
}
