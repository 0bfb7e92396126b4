// What the inflate kernels share: statuses, Huffman tables, block headers, the walk from block to block,
// Adler-32. A kernel adds one thing, `symbols`: how the threads of its team turn a block's codes into bytes.
//
// Accepted are exactly the streams zlib accepts (RFC 1950, 1951; bytes after the end are ignored). No byte
// outside a stream is read, none outside its slot is written, whatever the stream holds.
#pragma once
#include "common.cuh"

enum Flag { ZLIB_WRAPPER = 1, VERIFY_ADLER = 2 };  // a header of 2 bytes, else raw; check the 4 bytes after it
enum Status {
  OK = 0,
  TRUNCATED = 1,      // the input ends before the stream does
  BAD_WRAPPER = 2,    // not a zlib header, or one that asks for a dictionary
  BAD_BLOCK = 3,      // block type 3
  BAD_STORED = 4,     // the two lengths of a stored block disagree
  BAD_LENGTHS = 5,    // code lengths that are no prefix code zlib allows
  BAD_SYMBOL = 6,     // a code that no symbol has
  BAD_DISTANCE = 7,   // a match that starts before the output
  SLOT_FULL = 8,      // more bytes than the slot holds
  BAD_ADLER = 9
};

static const u32 ALL_LANES = 0xFFFFFFFFu;
static const u32 ADLER_PRIME = 65521u;
static const u32 MAX_TOKEN_BITS = 48u;  // a length code and a distance code of 15 bits, 5 and 13 extra bits

// ---- teams: the threads that decode one stream together

struct WarpTeam {
  static const u32 SIZE = 32;
  static __device__ __forceinline__ u32 rank() { return threadIdx.x & 31u; }
  static __device__ __forceinline__ void sync() { __syncwarp(); }
};

template <u32 WARPS> struct BlockTeam {
  static const u32 SIZE = 32 * WARPS;
  static __device__ __forceinline__ u32 rank() { return threadIdx.x; }
  static __device__ __forceinline__ void sync() { __syncthreads(); }
};

// Sum of `v` over the lanes up to and with the caller's.
__device__ __forceinline__ u32 sum_up_to_lane(u32 v) {
  const u32 lane = threadIdx.x & 31u;
  for (u32 d = 1; d < 32; d <<= 1) {
    const u32 other = __shfl_up_sync(ALL_LANES, v, d);
    if (lane >= d) v += other;
  }
  return v;
}

// ---- Adler-32

// Adler-32 of n bytes: a = 1 + sum v[k], b = n + sum (n - k) v[k], modulo 65521; the same in every thread.
// `partial`: shared memory, 2 words per warp of the team.
template <class Team> __device__ u32 adler32(const u8 *bytes, u32 n, u32 *partial) {
  const u32 rank = Team::rank();
  const u32 head = min((u32)(0 - (u64)bytes) & 3u, n), words = (n - head) >> 2, tail = head + 4 * words;
  u64 a = 0, b = 0;
  const u32 edge = rank < head ? rank : tail + rank - head;  // at most 3 + 3 bytes beside the aligned words
  if (edge < n && rank < head + 3) {
    a = bytes[edge];
    b = a * (n - edge);
  }
  const u32 *aligned = (const u32 *)(bytes + head);
  const u32 turn = Team::SIZE << 16;  // 2^16 terms below 2^42: b needs no more than 59 bits
  for (u32 from = 0; from < words; from += turn) {
    const u32 to = min(from + turn, words);
#pragma unroll 4
    for (u32 w = from + rank; w < to; w += Team::SIZE) {
      const u32 v = aligned[w], sum = __dp4a(v, 0x01010101u, 0u);
      a += sum;
      b += (u64)sum * (n - head - 4 * w) - __dp4a(v, 0x03020100u, 0u);
    }
    b %= ADLER_PRIME;
  }
  u32 a32 = (u32)(a % ADLER_PRIME), b32 = (u32)(b % ADLER_PRIME);
  for (u32 d = 16; d; d >>= 1) {
    a32 += __shfl_down_sync(ALL_LANES, a32, d);
    b32 += __shfl_down_sync(ALL_LANES, b32, d);
  }
  if ((rank & 31u) == 0) {
    partial[rank >> 5 << 1] = a32;
    partial[(rank >> 5 << 1) + 1] = b32;
  }
  Team::sync();
  a32 = 1;
  b32 = n % ADLER_PRIME;
  for (u32 w = 0; w < Team::SIZE / 32; w++) {
    a32 += partial[2 * w];
    b32 += partial[2 * w + 1];
  }
  return b32 % ADLER_PRIME << 16 | a32 % ADLER_PRIME;
}

__device__ __forceinline__ u32 big_endian(const u8 *p) {
  return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

// ---- Huffman codes

// An entry says what a code means; 0: a code longer than the table's bits, or none.
//   bits 0-4 length of the code and its extra bits, 5-8 length of the code, 9-24 literal, length or distance
//   before the extra bits, 30 end of the block, 31 a match
static const u32 IS_END = 0x40000000u, IS_MATCH = 0x80000000u;
enum Alphabet { LENGTHS, LITERALS, DISTANCES };

__device__ __forceinline__ u32 entry_length(u32 e) { return e & 31u; }

// The value an entry stands for, where `v` holds the bits from the code on.
__device__ __forceinline__ u32 entry_value(u32 e, u32 v) {
  return (e >> 9 & 0xFFFFu) + ((v & ((1u << (e & 31u)) - 1u)) >> (e >> 5 & 15u));
}

__device__ __forceinline__ u32 length_base(u32 s, u32 &extra) {  // RFC 1951, 3.2.5; s = symbol - 257
  if (s < 8) return 3 + s;
  if (s == 28) return 258;
  extra = (s >> 2) - 1;
  return 3 + ((4 + (s & 3u)) << extra);
}

__device__ __forceinline__ u32 distance_base(u32 s, u32 &extra) {
  if (s < 4) return 1 + s;
  extra = (s >> 1) - 1;
  return 1 + ((2 + (s & 1u)) << extra);
}

// Entry of a symbol whose code has `length` bits; 0 for the symbols deflate reserves.
template <int ALPHABET> __device__ __forceinline__ u32 make_entry(u32 symbol, u32 length) {
  u32 extra = 0, base = symbol, kind = 0;
  if (ALPHABET == LITERALS && symbol > 285) return 0;
  if (ALPHABET == DISTANCES && symbol > 29) return 0;
  if (ALPHABET == LITERALS && symbol == 256) {
    base = 0;
    kind = IS_END;
  }
  if (ALPHABET == LITERALS && symbol > 256) {
    base = length_base(symbol - 257, extra);
    kind = IS_MATCH;
  }
  if (ALPHABET == DISTANCES) base = distance_base(symbol, extra);
  return kind | base << 9 | length << 5 | (length + extra);
}

template <u32 TABLE_BITS, u32 SYMBOLS> struct Code {
  static const u32 BITS = TABLE_BITS;
  u32 table[1 << TABLE_BITS];              // entry by the next bits of the input
  u16 sorted[SYMBOLS];                     // symbols in the order of their codes
  u16 count[16], first[16], rank[16];      // by length: codes, the first of them, its place in `sorted`
  u16 next[16];                            // by length: place of the symbol to come, while building
};

__device__ __forceinline__ u32 reversed(u32 code, u32 length) { return __brev(code) >> (32u - length); }

// One warp: the canonical code of n lengths (0: unused). False where zlib refuses them: over-subscribed, or
// incomplete but for a single code of one bit or, among distances, no code at all.
template <int ALPHABET, class C> __device__ bool build(C &code, const u8 *lengths, u32 n) {
  const u32 bits = ALPHABET == LENGTHS ? 7 : C::BITS;
  const u32 lane = threadIdx.x & 31u, below = (1u << lane) - 1u;
  if (lane < 16) code.count[lane] = 0;
  for (u32 i = lane; i < (1u << bits); i += 32) code.table[i] = 0;
  __syncwarp();
  for (u32 from = 0; from < n; from += 32) {
    const u32 length = from + lane < n ? lengths[from + lane] : 0;
    const u32 peers = __match_any_sync(ALL_LANES, length);
    if (length && !(peers & below)) code.count[length] = (u16)(code.count[length] + __popc(peers));
    __syncwarp();
  }
  i32 left = 1;                            // codes not given away; every lane counts, lane 0 stores
  u32 first = 0, rank = 0, longest = 0;
  for (u32 length = 1; length <= 15 && left >= 0; length++) {
    const u32 count = code.count[length];
    left = 2 * left - (i32)count;
    if (lane == 0) {
      code.first[length] = (u16)first;
      code.rank[length] = code.next[length] = (u16)rank;
    }
    if (count) longest = length;
    first = (first + count) << 1;
    rank += count;
  }
  __syncwarp();
  if (left < 0) return false;
  if (left > 0 && !(longest == 0 ? ALPHABET == DISTANCES : ALPHABET != LENGTHS && longest == 1)) return false;
  for (u32 from = 0; from < n; from += 32) {
    const u32 symbol = from + lane, length = symbol < n ? lengths[symbol] : 0;
    const u32 peers = __match_any_sync(ALL_LANES, length);
    const u32 at = length ? code.next[length] + (u32)__popc(peers & below) : 0;
    __syncwarp();
    if (length) {
      if (!(peers & below)) code.next[length] = (u16)(code.next[length] + __popc(peers));
      code.sorted[at] = (u16)symbol;
      const u32 e = make_entry<ALPHABET>(symbol, length);
      const u32 word = reversed(code.first[length] + at - code.rank[length], length);
      if (length <= bits)
        for (u32 i = word; i < (1u << bits); i += 1u << length) code.table[i] = e;
    }
    __syncwarp();
  }
  return true;
}

// Entry of a code longer than the table's bits, by its place among the codes of its length; 0: none.
template <int ALPHABET, class C> __device__ __noinline__ u32 search(const C &code, u32 v) {
  const u32 all = __brev(v) >> 17;         // the next 15 bits, the first on top
  for (u32 length = C::BITS + 1; length <= 15; length++) {
    const u32 k = (all >> (15 - length)) - code.first[length];
    if (k < code.count[length]) return make_entry<ALPHABET>(code.sorted[code.rank[length] + k], length);
  }
  return 0;
}

template <int ALPHABET, class C> __device__ __forceinline__ u32 look_up(const C &code, u32 v) {
  const u32 e = code.table[v & ((1u << C::BITS) - 1u)];
  return e ? e : search<ALPHABET>(code, v);
}

// ---- a stream and what its team keeps in shared memory

struct Stream {
  const u8 *in;
  u32 in_len;
  u8 *out;
  u32 cap;
  u64 bit;  // read so far
  u32 pos;  // written so far
};

// A block header from bit 31 on: 3 + 14 + 19 * 3 bits, 7 for each of 316 lengths (a repeat has 14 at most, for 3 or
// more of them, the last perhaps for too many), and the word after that.
static const u32 HEADER_WORDS = (31 + 3 + 14 + 19 * 3 + 315 * 7 + 14) / 32 + 2;

template <class TeamType, u32 LITERAL_BITS, u32 DISTANCE_BITS, u32 WORDS> struct Decoder {
  typedef TeamType Team;
  static const u32 IN_WORDS = WORDS;
  static_assert(WORDS >= HEADER_WORDS && DISTANCE_BITS >= 7, "room for a block header, for the code of lengths");
  Code<LITERAL_BITS, 288> literals;
  Code<DISTANCE_BITS, 32> distances;       // and, before it, the code of the code lengths
  u32 in[WORDS];                           // a window of the input
  u32 partial[TeamType::SIZE / 16];
  u32 last, type, stored, n_literals, n_distances, used;  // of a block header; `used`: its bits
  i32 status;
  u8 lengths[320];
};

// The word at o of n bytes, zeros outside them; bytes + o is a multiple of 4.
__device__ __forceinline__ u32 word_at(const u8 *bytes, i64 n, i64 o) {
  if (o >= 0 && o + 4 <= n) return *(const u32 *)(bytes + o);
  u32 v = 0;
  for (i32 k = 0; k < 4; k++)
    if (o + k >= 0 && o + k < n) v |= (u32)bytes[o + k] << (8 * k);
  return v;
}

// All threads: fill the window from the stream's next bit on. Returns where in the window that bit is, in 0..31;
// `limit`: where the input ends there.
template <class D> __device__ u32 load(D &sh, const Stream &s, u32 words, u32 &limit) {
  const u32 lead = (u32)((u64)(s.in + (s.bit >> 3)) & 3u);
  const i64 start = (i64)(s.bit >> 3) - lead;
  limit = (u32)least(8 * ((i64)s.in_len - start), 0x3FFFFFFF);
  for (u32 w = D::Team::rank(); w < words; w += D::Team::SIZE) sh.in[w] = word_at(s.in, s.in_len, start + 4ll * w);
  D::Team::sync();
  return 8u * lead + (u32)(s.bit & 7u);
}

__device__ __forceinline__ u32 peek(const u32 *in, u32 p) {
  return __funnelshift_r(in[p >> 5], in[(p >> 5) + 1], p & 31u);
}

// The token at bit p of the window: entry of its literal or length, 0 if there is none.
template <class D>
__device__ __forceinline__ u32 decode(const D &sh, u32 p, u32 &bits, u32 &value, u32 &distance) {
  u32 v = peek(sh.in, p), e = look_up<LITERALS>(sh.literals, v);
  bits = entry_length(e);
  value = entry_value(e, v);
  if (e & IS_MATCH) {
    v = peek(sh.in, p + bits);
    const u32 d = look_up<DISTANCES>(sh.distances, v);
    distance = entry_value(d, v);
    bits += entry_length(d);
    if (!d) e = 0;
  }
  return e;
}

// ---- block headers

__constant__ u8 LENGTH_ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

// One thread: a block's header, from bit `base` of the window on.
template <class D> __device__ void read_header(D &sh, u32 base, u32 limit, u32 room) {
  u32 p = base, v = peek(sh.in, p);
  i32 status = OK;
  sh.last = v & 1u;
  sh.type = v >> 1 & 3u;
  p += 3;
  if (p > limit) status = TRUNCATED;
  else if (sh.type == 3) status = BAD_BLOCK;
  else if (sh.type == 0) {
    p = (p + 7u) & ~7u;
    v = peek(sh.in, p);
    p += 32;
    sh.stored = v & 0xFFFFu;
    if (p > limit) status = TRUNCATED;
    else if ((sh.stored ^ v >> 16) != 0xFFFFu) status = BAD_STORED;
    else if ((limit - p) >> 3 < sh.stored) status = TRUNCATED;
    else if (room < sh.stored) status = SLOT_FULL;
  } else if (sh.type == 2) {
    v >>= 3;
    p += 14;
    sh.n_literals = 257 + (v & 31u);
    sh.n_distances = 1 + (v >> 5 & 31u);
    const u32 n = 4 + (v >> 10 & 15u);
    for (u32 i = 0; i < 19; i++) sh.lengths[i] = 0;
    for (u32 i = 0; i < n; i++, p += 3) sh.lengths[LENGTH_ORDER[i]] = (u8)(peek(sh.in, p) & 7u);
    if (p > limit) status = TRUNCATED;
    else if (sh.n_literals > 286 || sh.n_distances > 30) status = BAD_LENGTHS;
  }
  sh.used = p - base;
  sh.status = status;
}

// One thread: the code lengths of a dynamic block, from bit p of the window on.
template <class D> __device__ i32 read_lengths(D &sh, u32 &p, u32 limit) {
  const u32 n = sh.n_literals + sh.n_distances;
  u32 i = 0, length = 0;                   // `length`: the one that code 16 repeats
  while (i < n) {
    u32 v = peek(sh.in, p), repeat = 1;
    const u32 e = sh.distances.table[v & 127u], symbol = e >> 9;
    v >>= e & 31u;
    p += e & 31u;
    if (symbol == 16 && i == 0) return p > limit ? TRUNCATED : BAD_LENGTHS;
    if (symbol == 16) { repeat = 3 + (v & 3u); p += 2; }
    if (symbol == 17) { repeat = 3 + (v & 7u); p += 3; }
    if (symbol == 18) { repeat = 11 + (v & 127u); p += 7; }
    if (symbol != 16) length = symbol < 16 ? symbol : 0;
    if (p > limit) return TRUNCATED;
    if (i + repeat > n) return BAD_LENGTHS;
    while (repeat--) sh.lengths[i++] = (u8)length;
  }
  return sh.lengths[256] ? OK : BAD_LENGTHS;  // without a code for its end a block cannot end
}

// All threads: the tables of a block whose header has been read into the window.
template <class D> __device__ void build_tables(D &sh, u32 base, u32 limit) {
  const u32 rank = D::Team::rank();
  if (sh.type == 1)                        // RFC 1951, 3.2.6
    for (u32 i = rank; i < 320; i += D::Team::SIZE)
      sh.lengths[i] = (u8)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : i < 288 ? 8 : 5);
  const u32 n_literals = sh.type == 1 ? 288 : sh.n_literals, n_distances = sh.type == 1 ? 32 : sh.n_distances;
  D::Team::sync();
  if (rank < 32) {
    i32 status = OK;
    if (sh.type == 2) {
      if (!build<LENGTHS>(sh.distances, sh.lengths, 19)) status = BAD_LENGTHS;
      else if (rank == 0) {
        u32 p = base + sh.used;
        status = read_lengths(sh, p, limit);
        sh.used = p - base;
      }
      status = __shfl_sync(ALL_LANES, status, 0);
      __syncwarp();
    }
    if (!status && !(build<LITERALS>(sh.literals, sh.lengths, n_literals) &&
                     build<DISTANCES>(sh.distances, sh.lengths + n_literals, n_distances)))
      status = BAD_LENGTHS;
    if (rank == 0) sh.status = status;
  }
  D::Team::sync();
}

// ---- a whole stream

__device__ __forceinline__ i32 skip_zlib_header(Stream &s) {
  if (s.in_len < 2) return TRUNCATED;
  const u32 method = s.in[0], check = s.in[1];
  s.bit = 16;
  const bool good = (method & 15u) == 8 && method >> 4 <= 7 && (method << 8 | check) % 31u == 0 && !(check & 32u);
  return good ? OK : BAD_WRAPPER;
}

template <class D> __device__ i32 verify(D &sh, const Stream &s) {
  const u64 at = (s.bit + 7) >> 3;
  if (at + 4 > s.in_len) return TRUNCATED;
  return adler32<typename D::Team>(s.out, s.pos, sh.partial) == big_endian(s.in + at) ? OK : BAD_ADLER;
}

// All threads of a team: decode a stream; returns its status, the same in every thread. D is the kernel's
// Decoder with `static i32 symbols(D &sh, Stream &s)`: all of a block after its header.
template <class D> __device__ i32 inflate(D &sh, Stream &s, u32 flags) {
  typedef typename D::Team Team;
  i32 status = flags & ZLIB_WRAPPER ? skip_zlib_header(s) : (i32)OK;
  for (u32 last = 0; !last && !status;) {
    u32 limit;
    Team::sync();
    const u32 base = load(sh, s, HEADER_WORDS, limit);
    if (Team::rank() == 0) read_header(sh, base, limit, s.cap - s.pos);
    Team::sync();
    status = sh.status;
    last = sh.last;
    const u32 type = sh.type;
    if (!status && type) {
      build_tables(sh, base, limit);
      status = sh.status;
    }
    s.bit += sh.used;
    Team::sync();                          // all have read what the next steps overwrite
    if (status) break;
    if (type) status = D::symbols(sh, s);
    else {
      const u8 *from = s.in + (s.bit >> 3);
      for (u32 k = Team::rank(); k < sh.stored; k += Team::SIZE) s.out[s.pos + k] = from[k];
      s.bit += 8ull * sh.stored;
      s.pos += sh.stored;
    }
  }
  Team::sync();
  return !status && flags & ZLIB_WRAPPER && flags & VERIFY_ADLER ? verify(sh, s) : status;
}
