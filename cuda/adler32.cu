// Adler-32 of streams that something else has decoded.
//
// Registers on sm_90: adler32_check 32; no spills, 32 B of shared memory; 16 blocks an SM. Reads each decoded byte
// once, in words: the memory's speed is its limit.
#include "inflate_common.cuh"

static const u32 WARPS = 4;

// One block of 128 threads per stream: where the status is 0, set it to 9 if the Adler-32 of the decoded bytes
// is not what the last four bytes of the zlib stream say, to 1 if there are no four bytes.
extern "C" __global__ void __launch_bounds__(32 * WARPS) adler32_check(
    const u8 *in, const u64 *in_off, const u32 *in_len, const u8 *out, const u64 *out_off, const u32 *out_len,
    i32 *status, u32 n_streams) {
  __shared__ u32 partial[2 * WARPS];
  const u32 s = blockIdx.x;
  if (s >= n_streams || status[s]) return;
  const u32 adler = adler32<BlockTeam<WARPS> >(out + out_off[s], out_len[s], partial);
  if (threadIdx.x) return;
  if (in_len[s] < 4) status[s] = TRUNCATED;
  else if (big_endian(in + in_off[s] + in_len[s] - 4) != adler) status[s] = BAD_ADLER;
}
EMU_EXPORT(adler32_check)
