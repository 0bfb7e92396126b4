// Inflate with one warp per stream: the kernel for class masks, whose long matches keep a whole warp busy.
//
// Lane 0 decodes up to 32 tokens; then the warp gives every token its place, writes the literals at once and copies the
// matches one after the other. For 32 tokens that is 32 serial steps, one copy step per match and one step of the warp.
//
// Registers on sm_90: inflate_streams 48; no spills, no stack, 19 888 B of shared memory a block: 10 blocks an SM
// (40 streams), by registers; on sm_80 8 blocks, by shared memory.
// Matches among 32 tokens: 10 in reflectance, 28 in scene classes, so some 40 and 60 steps of a warp. Predicted for
// scene classes: 42 clocks a token of a full SM, 600 of a stream alone (benchmarks/gpu_inflate.py); not timed yet.
// Tables: of real scene classifications 0.5 % of the literals and 0.4 % of the distances have codes longer than 9 and 8
// bits, of real Fmasks 5 % and 0.2 % (counted on the emulator); 10 bits for literals would cost 2 of 10 blocks.
#include "inflate_common.cuh"

static const u32 STREAMS = 4;              // per block of 128 threads
static const u32 TOKENS = 32;              // decoded by lane 0 before the warp writes them
static const u32 WINDOW_WORDS = 128;      // of input; a batch of 32 tokens needs 50 at most

struct Shared : Decoder<WarpTeam, 9, 8, WINDOW_WORDS> {
  u32 tokens[TOKENS];                      // a literal; or IS_MATCH | distance << 9 | length
  u32 n_tokens, at_end;
  static __device__ i32 symbols(Shared &sh, Stream &s);
};

// One thread: decode up to 32 tokens from bit p of the window on. Returns the bit after them.
__device__ __forceinline__ u32 read_tokens(Shared &sh, const Stream &s, u32 p, u32 limit) {
  u32 n = 0, pos = s.pos, at_end = 0;
  i32 status = OK;
  while (n < TOKENS && !at_end) {
    u32 bits, value, distance = 0;
    const u32 e = decode(sh, p, bits, value, distance), match = e & IS_MATCH;
    if (!e || p + bits > limit) {
      status = p + (e ? bits : MAX_TOKEN_BITS) > limit ? TRUNCATED : BAD_SYMBOL;
      break;
    }
    p += bits;
    EMU_STEP(place);
    at_end = e & IS_END;
    if (at_end) break;
    const u32 length = match ? value : 1u;
    if (match && distance > pos) status = BAD_DISTANCE;
    else if (s.cap - pos < length) status = SLOT_FULL;
    if (status) break;
    sh.tokens[n++] = match ? IS_MATCH | distance << 9 | length : value;
    pos += length;
  }
  sh.n_tokens = n;
  sh.at_end = at_end;
  sh.status = status;
  return p;
}

// All lanes: the bytes of the tokens. Literals go first, all at once; matches follow in order, because one may
// read what an earlier one wrote.
__device__ __forceinline__ void write_tokens(const Shared &sh, Stream &s) {
  const u32 lane = WarpTeam::rank(), token = lane < sh.n_tokens ? sh.tokens[lane] : 0;
  const bool match = token & IS_MATCH;
  const u32 length = lane < sh.n_tokens ? (match ? token & 511u : 1u) : 0;
  const u32 end = s.pos + sum_up_to_lane(length), start = end - length;
  if (length && !match) s.out[start] = (u8)token;
  s.pos = __shfl_sync(ALL_LANES, end, 31);
  u32 matches = __ballot_sync(ALL_LANES, match);
  __syncwarp();
  for (; matches; matches &= matches - 1u) {
    const i32 who = __ffs((i32)matches) - 1;
    EMU_STEP(copy);
    const u32 t = __shfl_sync(ALL_LANES, token, who), n = t & 511u, distance = t >> 9 & 0xFFFFu;
    u8 *to = s.out + __shfl_sync(ALL_LANES, start, who);
    const u8 *from = to - distance;        // byte k comes from byte k modulo distance: a match may overlap itself
    const u32 step = distance < 32 ? 32u % distance : 32u;
    u32 j = distance < 32 ? lane % distance : lane;
    for (u32 k = lane; k < n; k += 32) {
      to[k] = from[j];
      j += step;
      if (j >= distance) j -= distance;
    }
    __syncwarp();
  }
}

__device__ i32 Shared::symbols(Shared &sh, Stream &s) {
  for (;;) {
    u32 limit, p = load(sh, s, WINDOW_WORDS, limit);
    // while the window holds all that 32 tokens can need, and the two words of the last look
    while (p + TOKENS * MAX_TOKEN_BITS + 64 <= 32 * WINDOW_WORDS) {
      u32 next = WarpTeam::rank() == 0 ? read_tokens(sh, s, p, limit) : 0;
      __syncwarp();                        // lane 0's tokens: a shuffle alone orders no memory
      next = __shfl_sync(ALL_LANES, next, 0);
      s.bit += next - p;
      p = next;
      const u32 at_end = sh.at_end;
      const i32 status = sh.status;
      write_tokens(sh, s);
      if (status || at_end) return status;
    }
  }
}

// Streams in `in` and their slots in `out`, by offset and size in bytes; of each, the bytes written and the status.
// `flags`: ZLIB_WRAPPER, VERIFY_ADLER. Grid: a block of 128 threads per 4 streams.
extern "C" __global__ void __launch_bounds__(32 * STREAMS) inflate_streams(
    const u8 *in, const u64 *in_off, const u32 *in_len, u8 *out, const u64 *out_off, const u32 *out_cap,
    u32 *out_len, i32 *status, u32 n_streams, u32 flags) {
  __shared__ Shared shared[STREAMS];
  const u32 warp = threadIdx.x >> 5, i = blockIdx.x * STREAMS + warp;
  if (i >= n_streams) return;              // whole warps leave together
  Stream s = {in + in_off[i], in_len[i], out + out_off[i], out_cap[i], 0, 0};
  const i32 result = inflate(shared[warp], s, flags);
  if (WarpTeam::rank() == 0) {
    out_len[i] = s.pos;
    status[i] = result;
  }
}
EMU_EXPORT(inflate_streams)
