// Who won a pixel, and which of the sources at hand is the winner's.
#pragma once
#include "common.cuh"

struct Winners {
  const void *data;                        // ranks of 16 or 32 bits, `pitch` from row to row
  i64 pitch;
  i32 bytes;
  const i32 *index_of;                     // source of each rank below `ranks`, -1 where there is none
  i32 ranks;

  __device__ __forceinline__ i64 place(i64 row, i64 col) const { return row * pitch + col; }
  __device__ __forceinline__ i32 rank(i64 place) const {
    return bytes == 2 ? ((const i16 *)data)[place] : ((const i32 *)data)[place];
  }
  __device__ __forceinline__ i32 source_of(i32 rank) const { return (u32)rank < (u32)ranks ? index_of[rank] : -1; }
};

#define WINNERS_PARAMETERS                                                                                          \
  const void *__restrict__ winners, i64 winners_pitch, i32 winner_bytes, const i32 *__restrict__ index_of, i32 ranks
#define WINNERS {winners, winners_pitch, winner_bytes, index_of, ranks}
