// Inflate with one block of threads per stream: the threads decode different parts of one Huffman block at once.
//
// A batch of input is cut into a sub-chunk of bits per thread.
//   find    Every thread starts a little before its sub-chunk, at a guess, and decodes without output: Huffman codes
//           fall back into step, so it almost always enters its sub-chunk at the start of a true token.
//   count   It decodes its sub-chunk and counts the bytes. Where a thread's end is not its successor's start, the
//           successor repeats from there. Thread 0 is right, so each round makes one more right at least.
//   place   The counts, summed, are output positions. By windows of the output, literals go to their place in shared
//           memory; a match leaves its distance and length in the first 3 of the bytes it will fill.
//   copy    Matches are copied in any order in which their sources are final, and the window is written out.
//
// Registers on sm_90: inflate_streams_parallel 72; no spills, no stack, 36 908 B of shared memory a block: 6 blocks an
// SM (792 streams on 132), by shared memory; on sm_80 4 blocks.
// Counted on the emulator (tests/emulation/test_inflate_steps.py): steps of a warp for 32 tokens, 1.0 where all lanes
// have the same number of tokens.
//                                 find  count  place  copy   rounds of copying  rounds of counting
//   reflectance (zlib 6)          1.8   1.9    1.2    0.9     4.2                1.7
//   reflectance (libdeflate 6)    1.4   1.5    1.1    1.0     5.2                1.8
//   rounded, ratio 4              1.6   1.5    1.4    4.1     8.6                1.4
//   scene classes, ratio 8        1.5   2.1    1.9   18      30                  2.5
// Predicted for reflectance: 3.9 clocks a token of a full SM, 17 of a stream alone; not timed yet.
// Long chains of matches make masks slow: where a tile inflates sixfold and more, inflate.cu is the better kernel.
#include "inflate_common.cuh"

#ifndef PAR_WARPS
#define PAR_WARPS 4                        // warps per stream
#endif
#ifndef SUB_WORDS
#define SUB_WORDS 13                       // words of a sub-chunk; odd: the lanes start in different banks
#endif
#ifndef LOOK
#define LOOK 512                           // bits decoded before the sub-chunk; 99 % are in step within 500
#endif
#ifndef STAGE
#define STAGE 15360                        // bytes of output in shared memory
#endif

static const u32 THREADS = 32 * PAR_WARPS, SUB_BITS = 32 * SUB_WORDS;
static const u32 WINDOW = STAGE - 264;     // 3 bytes to align, 257 of a match that crosses the end
static const u32 LONG = 16;                // longer matches are copied by a whole warp
static const u32 BATCH_WORDS = THREADS * SUB_WORDS + 4;

struct Shared : Decoder<BlockTeam<PAR_WARPS>, 11, 8, BATCH_WORDS> {
  u32 stage[STAGE / 4];                    // the window's bytes, aligned as in the output
  u32 open[STAGE / 32];                    // by byte of `stage`, a bit: not final yet
  u32 head[STAGE / 32];                    // by byte: a match starts here
  u32 exits[THREADS + 1], sums[PAR_WARPS]; // where thread t - 1 stopped; output bytes of a warp
  u32 outcome;                             // of the thread at which the batch ends: NOTHING, BLOCK_END or a failure
  u32 first_stop, window_end;
  static __device__ i32 symbols(Shared &sh, Stream &s);
};

// ---- bitmaps

__device__ __forceinline__ u32 ones(u32 n) { return n >= 32 ? 0xFFFFFFFFu : (1u << n) - 1u; }

__device__ __forceinline__ void set_bits(u32 *map, u32 at, u32 n) {
  const u32 skip = at & 31u;
  atomicOr(&map[at >> 5], ones(n) << skip);
  for (u32 done = 32 - skip; done < n; done += 32) atomicOr(&map[(at + done) >> 5], ones(n - done));
}

__device__ __forceinline__ void clear_bits(u32 *map, u32 at, u32 n) {
  const u32 skip = at & 31u;
  atomicAnd(&map[at >> 5], ~(ones(n) << skip));
  for (u32 done = 32 - skip; done < n; done += 32) atomicAnd(&map[(at + done) >> 5], ~ones(n - done));
}

__device__ __forceinline__ bool any_bit(const volatile u32 *map, u32 at, u32 n) {
  const u32 skip = at & 31u;
  u32 found = map[at >> 5] & ones(n) << skip;
  for (u32 done = 32 - skip; done < n; done += 32) found |= map[(at + done) >> 5] & ones(n - done);
  return found != 0;
}

// ---- find, count

static const u32 NOTHING = 0, BLOCK_END = 1, FAILURE = 16;  // FAILURE + status

struct Part {                              // what a thread knows of its sub-chunk
  u32 start, count, outcome;               // first bit of the window, output bytes, how decoding stopped
};

// Where decoding falls into step: the first token at or after bit `begin` when one starts at bit `guess`.
__device__ __forceinline__ u32 fall_into_step(const Shared &sh, u32 guess, u32 begin, u32 limit) {
  u32 bits, value, distance = 0;
  while (guess < begin && guess < limit) {
    guess += decode(sh, guess, bits, value, distance) ? bits : 1u;
    EMU_STEP(find);
  }
  return guess;
}

// Count the output of the tokens that start before bit `end`; returns the bit after them.
__device__ __forceinline__ u32 count_bytes(const Shared &sh, Part &part, u32 end, u32 limit) {
  u32 p = part.start, bits, value, distance = 0;
  part.count = 0;
  part.outcome = NOTHING;
  while (p < end) {
    const u32 e = decode(sh, p, bits, value, distance);
    EMU_STEP(count);
    if (!e || p + bits > limit) {
      part.outcome = FAILURE + (p + (e ? bits : MAX_TOKEN_BITS) > limit ? TRUNCATED : BAD_SYMBOL);
      break;
    }
    p += bits;
    if (e & IS_END) {
      part.outcome = BLOCK_END;
      break;
    }
    part.count += e & IS_MATCH ? value : 1u;
  }
  return p;
}

// All threads: split the batch at `base` into parts that join. Returns the first thread whose part stops early, or
// the last thread; parts after it mean nothing.
__device__ __forceinline__ u32 find_parts(Shared &sh, Part &part, u32 base, u32 limit) {
  const u32 t = threadIdx.x, begin = base + t * SUB_BITS;
  part.start = fall_into_step(sh, t * SUB_BITS > LOOK ? begin - LOOK : base, begin, limit);
  for (bool again = true;;) {
    if (t == 0) sh.first_stop = THREADS - 1;
    EMU_STEP(counting);
    __syncthreads();
    if (again) sh.exits[t + 1] = count_bytes(sh, part, begin + SUB_BITS, limit);
    if (part.outcome) atomicMin(&sh.first_stop, t);
    __syncthreads();
    again = t && t <= sh.first_stop && part.start != sh.exits[t];
    const u32 last = sh.first_stop;
    if (again) part.start = sh.exits[t];
    if (!__syncthreads_or(again)) return last;
  }
}

// All threads: bytes before the caller's part, of the parts up to `last`; `total`: of all of them.
__device__ __forceinline__ u32 place_parts(Shared &sh, Part &part, u32 last, u32 &total) {
  const u32 t = threadIdx.x, warp = t >> 5;
  if (t > last) part.count = 0;
  if (t == last) sh.outcome = part.outcome;
  const u32 sum = sum_up_to_lane(part.count);
  if ((t & 31u) == 31) sh.sums[warp] = sum;
  __syncthreads();
  u32 before = sum - part.count;
  total = 0;
  for (u32 w = 0; w < PAR_WARPS; w++) {
    if (w < warp) before += sh.sums[w];
    total += sh.sums[w];
  }
  return before;
}

// ---- place, copy

struct Window {
  u8 *out;                                 // its first byte
  u8 *stage;                               // the same byte in shared memory, `skew` bytes after the stage's start
  u32 skew;                                // the bitmaps count from the stage's start
};

struct Match {
  u32 at, length, distance;                // `at`: byte of the stage
};

// A match's length (3..258) and distance (1..32768) lie in the first three of its bytes.
__device__ __forceinline__ void leave_match(u8 *to, u32 length, u32 distance) {
  const u32 v = (distance - 1u) | (length - 3u) << 15;
  to[0] = (u8)v;
  to[1] = (u8)(v >> 8);
  to[2] = (u8)(v >> 16);
}

__device__ __forceinline__ Match find_match(const u8 *stage, u32 at) {
  const u32 v = stage[at] | (u32)stage[at + 1] << 8 | (u32)stage[at + 2] << 16;
  const Match found = {at, (v >> 15) + 3u, (v & 0x7FFFu) + 1u};
  return found;
}

// Where a match's source starts, counted from the window's first byte: below 0 it lies in the output before.
__device__ __forceinline__ i32 source_of(const Match &m, u32 skew) { return (i32)(m.at - skew) - (i32)m.distance; }

__device__ __forceinline__ u8 byte_at(const Window &w, i32 from) { return from < 0 ? w.out[from] : w.stage[from]; }

// Copy a match whose source lies before the window: by aligned words, because a byte costs as much to load.
__device__ __forceinline__ void copy_from_output(const u8 *from, u8 *to, u32 n) {
  const u32 lead = (u32)((u64)from & 3u);
  const u32 *words = (const u32 *)(from - lead);
  u32 low = *words;
  for (u32 k = 0; k < n; k += 4) {
    const u32 high = lead + n > k + 4 ? *++words : 0, v = __funnelshift_r(low, high, 8 * lead), left = n - k;
    low = high;
    to[k] = (u8)v;
    if (left > 1) to[k + 1] = (u8)(v >> 8);
    if (left > 2) to[k + 2] = (u8)(v >> 16);
    if (left > 3) to[k + 3] = (u8)(v >> 24);
  }
}

// One thread: copy a match, from the first byte to the last: it may read what it has written.
__device__ __forceinline__ void copy_short(const Window &w, u8 *to, const Match &m) {
  const i32 from = source_of(m, w.skew);
  if (from + (i32)m.length <= 0) copy_from_output(w.out + from, to, m.length);
  else
    for (i32 k = 0; k < (i32)m.length; k++) to[k] = byte_at(w, from + k);
}

// One warp: copy a match. Its source ends where it starts: no lane reads what another writes.
__device__ __forceinline__ void copy_long(const Window &w, u8 *to, const Match &m) {
  const i32 from = source_of(m, w.skew);
  const u32 lane = threadIdx.x & 31u, step = m.distance < 32 ? 32u % m.distance : 32u;
  u32 j = m.distance < 32 ? lane % m.distance : lane;
  for (u32 k = lane; k < m.length; k += 32) {
    to[k] = byte_at(w, from + (i32)j);
    j += step;
    if (j >= m.distance) j -= m.distance;
  }
}

// Whether all bytes a match copies are final.
__device__ __forceinline__ bool ready(const Shared &sh, const Match &m, u32 skew) {
  const i32 from = source_of(m, skew), to = from + (i32)min(m.length, m.distance);
  if (to <= 0) return true;
  const i32 first = max(from, 0);
  if (any_bit(sh.open, (u32)first + skew, (u32)(to - first))) return false;
  __threadfence_block();                   // the bits were cleared after the bytes were written
  return true;
}

// One thread: copy what is ready among the matches that start in a word of `head`. True where some are left;
// `warp_job` is then a long one that is ready, or its length is 0.
__device__ __forceinline__ bool copy_ready(Shared &sh, const Window &w, u32 word, Match &warp_job) {
  u8 *stage = (u8 *)sh.stage;
  const u32 all = sh.head[word];
  u32 left = all;
  for (u32 m = all; m; m &= m - 1u) {
    const u32 at = (word << 5) + (u32)__ffs((i32)m) - 1u;
    const Match match = find_match(stage, at);
    EMU_STEP(copy);
    if (!ready(sh, match, w.skew)) continue;
    if (match.length > LONG) {
      warp_job = match;
      break;
    }
    copy_short(w, stage + at, match);
    __threadfence_block();
    clear_bits(sh.open, at, match.length);
    left &= ~(1u << (at & 31u));
  }
  if (left != all) sh.head[word] = left;   // no other thread touches this word now
  return left != 0;
}

// All threads: copy the matches of a window of n bytes, its skew counted. Thread t owns the words t, t + THREADS, ..
// of `head`. A thread hands bytes to another without a barrier, by a fence and the bits of `open`: racecheck will
// name that.
__device__ void copy_matches(Shared &sh, const Window &w, u32 n) {
  bool pending;
  do {
    pending = false;
    Match job = {0, 0, 0};
    EMU_STEP(copying);
    for (u32 word = threadIdx.x; word < (n + 31u) >> 5 && !job.length; word += THREADS)
      pending |= copy_ready(sh, w, word, job);
    u32 jobs = __ballot_sync(ALL_LANES, job.length != 0);
    __syncwarp();                          // what one lane saw as final is final for its warp
    for (; jobs; jobs &= jobs - 1u) {
      const i32 who = __ffs((i32)jobs) - 1;
      const Match m = {__shfl_sync(ALL_LANES, job.at, who), __shfl_sync(ALL_LANES, job.length, who),
                       __shfl_sync(ALL_LANES, job.distance, who)};
      copy_long(w, (u8 *)sh.stage + m.at, m);
      __threadfence_block();
      __syncwarp();
      if ((i32)(threadIdx.x & 31u) == who) {
        clear_bits(sh.open, m.at, m.length);
        sh.head[m.at >> 5] &= ~(1u << (m.at & 31u));
      }
    }
  } while (__syncthreads_or(pending));
}

// All threads: the window's n bytes to the output, by aligned words.
__device__ __forceinline__ void write_out(const Shared &sh, const Window &w, u32 n) {
  const u32 end = w.skew + n;
  u32 *words = (u32 *)(w.out - w.skew);
  for (u32 i = threadIdx.x; i < (end + 3u) >> 2; i += THREADS) {
    if (4 * i >= w.skew && 4 * i + 4 <= end) words[i] = sh.stage[i];
    else
      for (u32 k = max(4 * i, w.skew); k < min(4 * i + 4, end); k++) w.out[k - w.skew] = w.stage[k - w.skew];
  }
}

// One thread: place its tokens, from bit p and output position `pos` on, up to `end` or the window's end at `stop`;
// `start`: output position of the window.
__device__ __forceinline__ void place_tokens(
    Shared &sh, const Window &w, u32 start, u32 stop, u32 &p, u32 &pos, u32 end) {
  u32 bits, value, distance = 0;
  while (pos < end && pos < stop) {
    const u32 e = decode(sh, p, bits, value, distance), at = pos - start;
    EMU_STEP(place);
    p += bits;
    if (!(e & IS_MATCH)) {
      w.stage[at] = (u8)value;
      pos++;
      continue;
    }
    if (distance > pos) {
      sh.status = BAD_DISTANCE;
      return;
    }
    leave_match(w.stage + at, value, distance);
    atomicOr(&sh.head[(at + w.skew) >> 5], 1u << ((at + w.skew) & 31u));
    set_bits(sh.open, at + w.skew, value);
    pos += value;
  }
  if (pos > stop) sh.window_end = pos;     // one match at most crosses the end of a window
}

// All threads: the bytes of a batch, window by window, to s.pos + total. The caller's tokens start at bit p and make
// the bytes pos..end.
__device__ __forceinline__ i32 write_batch(Shared &sh, Stream &s, u32 p, u32 pos, u32 end, u32 total) {
  const u32 batch_end = s.pos + total;
  while (s.pos < batch_end) {
    const u32 stop = min(batch_end, s.pos + WINDOW), skew = (u32)((u64)(s.out + s.pos) & 3u);
    const Window w = {s.out + s.pos, (u8 *)sh.stage + skew, skew};
    EMU_STEP(window);
    for (u32 i = threadIdx.x; i < STAGE / 32; i += THREADS) sh.open[i] = sh.head[i] = 0;
    if (threadIdx.x == 0) {
      sh.window_end = stop;
      sh.status = OK;
    }
    __syncthreads();
    if (pos < stop) place_tokens(sh, w, s.pos, stop, p, pos, end);
    __syncthreads();
    if (sh.status) return sh.status;
    const u32 n = sh.window_end - s.pos;
    copy_matches(sh, w, skew + n);
    write_out(sh, w, n);
    s.pos += n;
    __syncthreads();
  }
  return OK;
}

__device__ i32 Shared::symbols(Shared &sh, Stream &s) {
  for (;;) {
    u32 limit, total;
    EMU_STEP(batch);
    const u32 base = load(sh, s, BATCH_WORDS, limit);
    Part part;
    const u32 last = find_parts(sh, part, base, limit);
    const u32 before = place_parts(sh, part, last, total), outcome = sh.outcome;
    if (outcome >= FAILURE) return (i32)(outcome - FAILURE);
    if (total > s.cap - s.pos) return SLOT_FULL;
    s.bit += sh.exits[last + 1] - base;
    const u32 pos = s.pos + before;
    const i32 status = write_batch(sh, s, part.start, pos, pos + part.count, total);
    if (status || outcome == BLOCK_END) return status;
  }
}

// Arguments and statuses as inflate_streams; a refused stream's out_len counts whole windows only.
// Grid: a block of 32 * PAR_WARPS threads per stream.
extern "C" __global__ void __launch_bounds__(32 * PAR_WARPS) inflate_streams_parallel(
    const u8 *in, const u64 *in_off, const u32 *in_len, u8 *out, const u64 *out_off, const u32 *out_cap,
    u32 *out_len, i32 *status, u32 n_streams, u32 flags) {
  __shared__ Shared sh;
  const u32 i = blockIdx.x;
  if (i >= n_streams) return;
  Stream s = {in + in_off[i], in_len[i], out + out_off[i], out_cap[i], 0, 0};
  const i32 result = inflate(sh, s, flags);
  if (threadIdx.x == 0) {
    out_len[i] = s.pos;
    status[i] = result;
  }
}
EMU_EXPORT(inflate_streams_parallel)
