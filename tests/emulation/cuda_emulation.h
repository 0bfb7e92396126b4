// SPDX-License-Identifier: MIT
// CUDA kernels on the CPU, for tests: the same .cu file, compiled by a C++17 compiler on Linux.
//
// A thread is a fiber with a stack of its own; the fibers of a block share one thread of the operating system and
// blocks run one after another. cuda/common.cuh includes this file unless __CUDACC__ is defined (nvcc and NVRTC do).
// EMU_EXPORT(kernel) makes `int emu_kernel(const emu_config *, void **params)`, arguments as cuLaunchKernel takes them;
// it returns 0, or else emu_error() says why the launch could not finish.
//
// What is modelled
// - Warp collectives (__shfl*_sync, __ballot_sync, __any_sync, __all_sync, __match_any_sync, __reduce_*_sync,
//   __syncwarp): a lane waits until every lane of the mask that has not left the kernel waits at the same operation
//   with the same mask; the last to come computes all results. What is shuffled from a lane that takes no part is
//   0xDEADBEEF. A mask without the caller is an error.
// - __syncthreads and its _count, _and, _or wait for all threads of the block that have not left.
// - Nobody can run: a deadlock, reported with block, thread, operation and mask. `max_switches` stops a launch that
//   only ever passes through collectives; a loop without any hangs.
// - Schedules. Seed 0 runs lanes in ascending order from one wait to the next. Any other seed draws which lane, warp
//   and block goes on, after collectives and around atomics. Same seed, same run.
// - Steps: EMU_STEP(name) counts one turn of a thread's loop. Up to each __syncthreads a warp has taken as many as the
//   lane that took most, if no collective lies within the loop. emu_steps tells these by warp and by thread.
// - Shared memory is filled with garbage before every block. The dynamic kind has its exact size.
// - AddressSanitizer and UBSan know the fibers; arrays of NumPy have red zones there, misaligned words are reported.
//
// What is not
// - The order of memory. Each thread sees every write of another at once, and a shuffle orders memory, which on a GPU
//   it does not: a missing __syncwarp next to a shuffle goes unnoticed. Keep a __syncwarp, __syncthreads or fence
//   between a store and another thread's load, and run compute-sanitizer (memcheck, racecheck, synccheck) on a GPU.
// - Races inside a stretch without a wait: whole stretches change places, never single instructions.
// - Time, registers, caches, bank conflicts; __activemask, cooperative groups, textures, PTX, printf, launches by
//   kernels; blocks at once (a block that spins on another hangs). Atomics on types the GPU lacks work here: nvcc must
//   compile the file too.
// - A library holds one state: one launch at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <type_traits>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifndef EMU_ASAN
#define EMU_ASAN 0
#endif
#if EMU_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT                       // switch stacks by ucontext: any processor, 16 times slower
#endif
#ifdef EMU_UCONTEXT
#include <ucontext.h>
#endif

// ---- the language

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))  // no header of the C++ library may follow
#define __launch_bounds__(...)
#define __restrict__ __restrict
// All of a file's shared memory lies in one section, which `run` fills with garbage; under AddressSanitizer it is
// left to ordinary red zones.
#if EMU_ASAN
#define __shared__ static
#else
#define __shared__ static __attribute__((section("emu_shared"), used))
#endif
#define EMU_DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(emu::state.dynamic_shared)

struct uint3 {
  unsigned x, y, z;
};

#define EMU_VECTOR2(type, name)                   \
  struct alignas(2 * sizeof(type)) name {         \
    type x, y;                                    \
  };                                              \
  static inline name make_##name(type x, type y) { return name{x, y}; }
#define EMU_VECTOR4(type, name)                   \
  struct alignas(4 * sizeof(type)) name {         \
    type x, y, z, w;                              \
  };                                              \
  static inline name make_##name(type x, type y, type z, type w) { return name{x, y, z, w}; }
EMU_VECTOR2(unsigned char, uchar2)
EMU_VECTOR4(unsigned char, uchar4)
EMU_VECTOR2(short, short2)
EMU_VECTOR4(short, short4)
EMU_VECTOR2(unsigned short, ushort2)
EMU_VECTOR4(unsigned short, ushort4)
EMU_VECTOR2(int, int2)
EMU_VECTOR4(int, int4)
EMU_VECTOR2(unsigned, uint2)
EMU_VECTOR4(unsigned, uint4)

extern "C" struct emu_config {
  uint32_t grid[3], block[3];
  uint32_t shared_bytes;
  uint32_t reserved;
  uint64_t seed;          // 0: lanes in ascending order
  uint64_t max_switches;  // 0: no limit
};

// ---- fibers

#ifndef EMU_UCONTEXT
// Save the callee's registers and stack pointer of one fiber, take up another's.
extern "C" void emu_switch_stack(void **save_sp, void *new_sp) __attribute__((visibility("hidden")));
asm(R"(
.text
.weak emu_switch_stack
.hidden emu_switch_stack
.type emu_switch_stack,@function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack,.-emu_switch_stack
)");
#endif

// The section's bounds, by the linker; null where a file has no shared memory.
extern "C" {
__attribute__((weak)) extern char __start_emu_shared[];
__attribute__((weak)) extern char __stop_emu_shared[];
}

namespace emu {

enum Operation : uint32_t {
  NONE, SYNCWARP, SHUFFLE, BALLOT, MATCH_ANY, ADD, MIN, MAX, AND, OR, XOR, SIGNED_MIN, SIGNED_MAX, SYNCTHREADS
};
enum BarrierKind : uint32_t { COUNT, ALL, ANY };
enum Step : uint32_t { find, count, place, copy, batch, counting, window, copying, N_STEPS };

constexpr uint32_t MAX_THREADS = 1024, LANES = 32;
constexpr size_t STACK_BYTES = (EMU_ASAN ? 512 : 128) * 1024, GUARD_BYTES = 4096;
constexpr uint64_t POISON = 0xDEADBEEFDEADBEEFull;

struct Fiber {
#ifdef EMU_UCONTEXT
  ucontext_t context;
#else
  void *sp = nullptr;
#endif
  char *stack = nullptr;
  size_t stack_size = 0;
  void *fake_stack = nullptr;  // AddressSanitizer's
  bool started = false;
  uint3 thread_idx;
  uint32_t lane, warp;
  Operation waits_at;
  uint32_t mask, source;  // of the collective; for a barrier `source` is its kind
  uint64_t value, result;
  uint32_t steps[N_STEPS];
};

struct Warp {
  uint32_t present, ready, waiting, left;  // by lane
};

struct State {
  Fiber fibers[MAX_THREADS], scheduler;
  Warp warps[MAX_THREADS / LANES];
  Fiber *current = nullptr, *previous = nullptr;
  uint32_t n_threads = 0, n_warps = 0, n_left = 0, n_at_barrier = 0;
  uint3 block_idx, block_dim, grid_dim;
  char *dynamic_shared = nullptr;
  uint64_t random = 0, switches = 0, max_switches = 0;
  void (*entry)(void **) = nullptr;
  void **params = nullptr;
  bool failed = false;
  char error[512] = {0};
  uint64_t steps[2][N_STEPS] = {{0}};  // by warp, by thread
};
static State state;

static inline uint32_t draw() {  // xorshift64
  uint64_t &r = state.random;
  r ^= r << 13;
  r ^= r >> 7;
  r ^= r << 17;
  return uint32_t(r >> 16);
}
static inline uint32_t lowest(uint32_t set) { return uint32_t(__builtin_ctz(set)); }
static inline uint32_t drawn(uint32_t set) {
  for (uint32_t n = draw() % uint32_t(__builtin_popcount(set)); n; n--) set &= set - 1;
  return lowest(set);
}
static inline Warp &warp_of(const Fiber &f) { return state.warps[f.warp]; }

static inline void landed(void *fake_stack) {  // AddressSanitizer learns which stack this is
#if EMU_ASAN
  const void *bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
  if (state.previous == &state.scheduler) {
    state.scheduler.stack = static_cast<char *>(const_cast<void *>(bottom));
    state.scheduler.stack_size = size;
  }
#endif
  (void)fake_stack;
}

static inline void jump(Fiber &from, Fiber &to) {
#if EMU_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_size);
#endif
  state.previous = &from;
  state.current = &to;
#ifdef EMU_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  emu_switch_stack(&from.sp, to.sp);
#endif
  landed(from.fake_stack);
}

[[noreturn]] static inline void fail(const char *format, unsigned a = 0, unsigned b = 0, unsigned c = 0) {
  state.failed = true;
  std::snprintf(state.error, sizeof state.error, format, a, b, c);
  jump(*state.current, state.scheduler);
  std::abort();  // the scheduler gives the block up
}

// Leave the current fiber for one that can run, or for the scheduler where its warp has none.
static inline void pass_on() {
  Fiber &self = *state.current;
  if (state.max_switches && ++state.switches > state.max_switches) fail("switch limit reached (live-lock?)");
  Fiber *to = &state.scheduler;
  if (state.random) {
    const uint32_t warp = (draw() & 7) == 0 ? draw() % state.n_warps : self.warp, ready = state.warps[warp].ready;
    if (ready) to = &state.fibers[warp * LANES + drawn(ready)];
  } else if (const uint32_t ready = warp_of(self).ready) {
    const uint32_t above = ready & ~((2u << self.lane) - 1u);
    to = &state.fibers[self.warp * LANES + lowest(above ? above : ready)];
  }
  if (to != &self) jump(self, *to);
}

static inline void park(Fiber &f) {
  warp_of(f).ready &= ~(1u << f.lane);
  warp_of(f).waiting |= 1u << f.lane;
}
static inline bool parked(const Fiber &f) { return warp_of(f).waiting >> f.lane & 1; }

// ---- collectives

static inline uint32_t reduced(Operation op, uint32_t a, uint32_t v) {
  switch (op) {
    case ADD: return a + v;
    case AND: return a & v;
    case OR: return a | v;
    case XOR: return a ^ v;
    case MIN: return v < a ? v : a;
    case MAX: return v > a ? v : a;
    case SIGNED_MIN: return int32_t(v) < int32_t(a) ? v : a;
    default: return int32_t(v) > int32_t(a) ? v : a;
  }
}

// What lane `lane` gets from a collective that the lanes of `group` have reached.
static inline uint64_t outcome(const Fiber *lanes, uint32_t group, uint32_t lane) {
  const Fiber &me = lanes[lane];
  if (me.waits_at == SYNCWARP) return 0;
  if (me.waits_at == SHUFFLE) return group >> me.source & 1 ? lanes[me.source].value : POISON;
  uint64_t sum = me.waits_at == BALLOT || me.waits_at == MATCH_ANY ? 0 : lanes[lowest(group)].value;
  for (uint32_t rest = group, first = 1; rest; rest &= rest - 1, first = 0) {
    const uint32_t i = lowest(rest);
    if (me.waits_at == BALLOT) sum |= uint64_t(lanes[i].value != 0) << i;
    else if (me.waits_at == MATCH_ANY) sum |= uint64_t(lanes[i].value == me.value) << i;
    else if (!first) sum = reduced(me.waits_at, uint32_t(sum), uint32_t(lanes[i].value));
  }
  return sum;
}

// Where all lanes that a waiting one waits for have come: give each its result and let them run.
static inline bool try_complete(const Fiber &waiting) {
  Warp &warp = warp_of(waiting);
  Fiber *lanes = &state.fibers[waiting.warp * LANES];
  const uint32_t group = waiting.mask & warp.present & ~warp.left;
  if ((warp.waiting & group) != group) return false;
  for (uint32_t rest = group; rest; rest &= rest - 1) {
    const Fiber &other = lanes[lowest(rest)];
    if (other.waits_at != waiting.waits_at || other.mask != waiting.mask) return false;
  }
  const bool same = waiting.waits_at != SHUFFLE && waiting.waits_at != MATCH_ANY;  // for every lane
  const uint64_t common = same ? outcome(lanes, group, waiting.lane) : 0;
  for (uint32_t rest = group; rest; rest &= rest - 1) {
    const uint32_t i = lowest(rest);
    lanes[i].result = same ? common : outcome(lanes, group, i);
  }
  warp.waiting &= ~group;
  warp.ready |= group;
  return true;
}

static inline uint64_t collective(Operation op, uint32_t mask, uint64_t value, uint32_t source = 0) {
  Fiber &self = *state.current;
  if (!(mask >> self.lane & 1))
    fail("lane %u of warp %u: a collective (operation %u) whose mask leaves the caller out", self.lane, self.warp, op);
  self.waits_at = op;
  self.mask = mask;
  self.value = value;
  self.source = source;
  park(self);
  if (!try_complete(self)) pass_on();
  else if (state.random && (draw() & 1)) pass_on();  // the last to come does not always go on first
  while (parked(self)) pass_on();
  self.waits_at = NONE;
  return self.result;
}

static inline void add_steps() {
  for (uint32_t first = 0; first < state.n_threads; first += LANES)
    for (uint32_t s = 0; s < N_STEPS; s++) {
      uint32_t most = 0;
      for (uint32_t i = first; i < first + LANES && i < state.n_threads; i++) {
        uint32_t &own = state.fibers[i].steps[s];
        most = own > most ? own : most;
        state.steps[1][s] += own;
        own = 0;
      }
      state.steps[0][s] += most;
    }
}

static inline void release_barrier() {
  add_steps();
  uint32_t sum = 0;
  for (uint32_t i = 0; i < state.n_threads; i++)
    if (state.fibers[i].waits_at == SYNCTHREADS) sum += uint32_t(state.fibers[i].value);
  for (uint32_t i = 0; i < state.n_threads; i++) {
    Fiber &f = state.fibers[i];
    if (f.waits_at != SYNCTHREADS) continue;
    f.result = f.source == COUNT ? sum : f.source == ALL ? sum == state.n_at_barrier : sum > 0;
    f.waits_at = NONE;
    warp_of(f).waiting &= ~(1u << f.lane);
    warp_of(f).ready |= 1u << f.lane;
  }
  state.n_at_barrier = 0;
}

static inline uint32_t barrier(bool value, BarrierKind kind) {
  Fiber &self = *state.current;
  self.waits_at = SYNCTHREADS;
  self.mask = 0;
  self.value = value;
  self.source = kind;
  park(self);
  if (++state.n_at_barrier + state.n_left == state.n_threads) release_barrier();
  do pass_on();
  while (parked(self));
  return uint32_t(self.result);
}

static inline void preempt() {
  if (state.random && (draw() & 3) == 0) pass_on();
}

// ---- a launch

[[noreturn]] static void fiber_main() {
  landed(nullptr);
  for (;;) {
    Fiber &self = *state.current;
    state.entry(state.params);
    Warp &warp = warp_of(self);
    warp.ready &= ~(1u << self.lane);
    warp.left |= 1u << self.lane;
    state.n_left++;
    for (uint32_t i = 0; i < LANES; i++) {  // others may have waited for this one only
      const Fiber &other = state.fibers[self.warp * LANES + i];
      if (warp.waiting >> i & 1 && other.waits_at != SYNCTHREADS) try_complete(other);
    }
    if (state.n_at_barrier && state.n_at_barrier + state.n_left == state.n_threads) release_barrier();
    jump(self, state.scheduler);  // comes back for the next block
  }
}

static inline void start(Fiber &f) {
  if (!f.stack) {
    f.stack_size = STACK_BYTES;
    void *memory = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, GUARD_BYTES, PROT_NONE);  // a stack that overflows faults
    f.stack = static_cast<char *>(memory) + GUARD_BYTES;
  }
  f.fake_stack = nullptr;
  f.started = true;
#ifdef EMU_UCONTEXT
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = f.stack_size;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiber_main, 0);
#else
  void **sp = reinterpret_cast<void **>(f.stack + f.stack_size);  // a multiple of 16: the pages are
  *--sp = nullptr;
  *--sp = reinterpret_cast<void *>(fiber_main);
  for (int i = 0; i < 6; i++) *--sp = nullptr;  // the registers emu_switch_stack takes up
  f.sp = sp;
#endif
}

static inline void report_deadlock() {
  const Fiber *first = nullptr;
  uint32_t n = 0;
  for (uint32_t i = 0; i < state.n_threads; i++) {
    if (!parked(state.fibers[i])) continue;
    if (!first) first = &state.fibers[i];
    n++;
  }
  state.failed = true;
  const uint3 b = state.block_idx;
  std::snprintf(state.error, sizeof state.error,
                "deadlock in block (%u,%u,%u): %u of %u threads wait for ever; the first is thread %u at operation %u, "
                "mask %08x",
                b.x, b.y, b.z, n, state.n_threads, first ? uint32_t(first - state.fibers) : 0,
                first ? uint32_t(first->waits_at) : 0, first ? first->mask : 0);
}

static inline void run_block(const emu_config &c) {
  if (c.shared_bytes) {
    state.dynamic_shared = static_cast<char *>(aligned_alloc(128, (c.shared_bytes + 127u) & ~127u));
    std::memset(state.dynamic_shared, 0xA5, c.shared_bytes);
  }
#if !EMU_ASAN
  const size_t static_bytes = __start_emu_shared ? size_t(__stop_emu_shared - __start_emu_shared) : 0;
  if (static_bytes) std::memset(__start_emu_shared, 0xA5 ^ int(state.block_idx.x & 0xFF), static_bytes);
#endif
  state.n_left = state.n_at_barrier = 0;
  std::memset(state.warps, 0, sizeof state.warps);
  for (uint32_t i = 0; i < state.n_threads; i++) {
    Fiber &f = state.fibers[i];
    if (!f.started) start(f);
    f.lane = i % LANES;
    f.warp = i / LANES;
    f.waits_at = NONE;
    f.thread_idx = {i % c.block[0], i / c.block[0] % c.block[1], i / (c.block[0] * c.block[1])};
    warp_of(f).present |= 1u << f.lane;
    warp_of(f).ready |= 1u << f.lane;
  }
  while (state.n_left < state.n_threads && !state.failed) {
    const uint32_t from = state.random ? draw() % state.n_warps : 0;
    uint32_t k = 0, ready = 0;
    for (; k < state.n_warps && !ready; k++) ready = state.warps[(from + k) % state.n_warps].ready;
    if (!ready) {
      report_deadlock();
      break;
    }
    const uint32_t warp = (from + k - 1) % state.n_warps;
    jump(state.scheduler, state.fibers[warp * LANES + (state.random ? drawn(ready) : lowest(ready))]);
  }
  add_steps();
  std::free(state.dynamic_shared);
  state.dynamic_shared = nullptr;
}

static int run(const emu_config *config, void (*entry)(void **), void **params) {
  const emu_config &c = *config;
  const uint64_t n_threads = uint64_t(c.block[0]) * c.block[1] * c.block[2];
  const uint64_t n_blocks = uint64_t(c.grid[0]) * c.grid[1] * c.grid[2];
  if (!n_threads || n_threads > MAX_THREADS || !n_blocks) {
    std::snprintf(state.error, sizeof state.error, "bad launch: %llu blocks of %llu threads",
                  (unsigned long long)n_blocks, (unsigned long long)n_threads);
    return 1;
  }
  state.failed = false;
  state.entry = entry;
  state.params = params;
  state.n_threads = uint32_t(n_threads);
  state.n_warps = (state.n_threads + LANES - 1) / LANES;
  state.block_dim = {c.block[0], c.block[1], c.block[2]};
  state.grid_dim = {c.grid[0], c.grid[1], c.grid[2]};
  state.random = c.seed ? c.seed * 0x9E3779B97F4A7C15ull | 1 : 0;
  state.switches = 0;
  state.max_switches = c.max_switches;
  for (uint64_t i = 0; i < n_blocks && !state.failed; i++) {
    // a scattered order: the factor is prime
    const uint64_t b = c.seed && n_blocks % 2654435761ull ? (i * 2654435761ull + c.seed % n_blocks) % n_blocks : i;
    state.block_idx = {uint32_t(b % c.grid[0]), uint32_t(b / c.grid[0] % c.grid[1]),
                       uint32_t(b / (uint64_t(c.grid[0]) * c.grid[1]))};
    run_block(c);
  }
  if (state.failed)  // what its fibers were doing is given up
    for (Fiber &f : state.fibers) f.started = false;
  return state.failed;
}

template <typename> struct Caller;
template <typename... A> struct Caller<void (*)(A...)> {
  template <void (*KERNEL)(A...), size_t... I> static void go(void **p, std::index_sequence<I...>) {
    (void)p;
    KERNEL(*static_cast<std::remove_const_t<std::remove_reference_t<A>> *>(p[I])...);
  }
  template <void (*KERNEL)(A...)> static void call(void **p) { go<KERNEL>(p, std::index_sequence_for<A...>{}); }
};

template <typename T> static inline uint64_t packed(T v) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "values of 8 bytes at most");
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof(T));
  return bits;
}
template <typename T> static inline T unpacked(uint64_t bits) {
  T v;
  std::memcpy(&v, &bits, sizeof(T));
  return v;
}
template <typename T> static inline T shuffled(unsigned mask, T v, uint32_t source) {
  return unpacked<T>(collective(SHUFFLE, mask, packed(v), source));
}

}  // namespace emu

#define EMU_EXPORT(kernel)                                                                            \
  extern "C" __attribute__((visibility("default"))) int emu_##kernel(const emu_config *c, void **p) { \
    return emu::run(c, &emu::Caller<decltype(&kernel)>::template call<&kernel>, p);                   \
  }
#define EMU_STEP(name) (emu::state.current->steps[emu::name]++)
extern "C" __attribute__((visibility("default"), weak)) const char *emu_error() { return emu::state.error; }
extern "C" __attribute__((visibility("default"), weak)) void emu_steps(uint64_t *by_warp_by_thread) {  // since the last
  std::memcpy(by_warp_by_thread, emu::state.steps, sizeof emu::state.steps);
  std::memset(emu::state.steps, 0, sizeof emu::state.steps);
}

// ---- built-ins

#define threadIdx (emu::state.current->thread_idx)
#define blockIdx (emu::state.block_idx)
#define blockDim (emu::state.block_dim)
#define gridDim (emu::state.grid_dim)
#define warpSize 32

static inline void __syncthreads() { emu::barrier(false, emu::COUNT); }
static inline int __syncthreads_count(int v) { return int(emu::barrier(v, emu::COUNT)); }
static inline int __syncthreads_and(int v) { return int(emu::barrier(v, emu::ALL)); }
static inline int __syncthreads_or(int v) { return int(emu::barrier(v, emu::ANY)); }
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { emu::collective(emu::SYNCWARP, mask, 0); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

static inline unsigned __ballot_sync(unsigned mask, int v) {
  return unsigned(emu::collective(emu::BALLOT, mask, v != 0));
}
static inline int __any_sync(unsigned mask, int v) { return __ballot_sync(mask, v) != 0; }
static inline int __all_sync(unsigned mask, int v) { return __ballot_sync(mask, !v) == 0; }
template <typename T> static inline unsigned __match_any_sync(unsigned mask, T v) {
  return unsigned(emu::collective(emu::MATCH_ANY, mask, emu::packed(v)));
}
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  const uint32_t lane = emu::state.current->lane, in_width = uint32_t(width - 1);
  return emu::shuffled(mask, v, (lane & ~in_width) + (uint32_t(source) & in_width));
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32) {
  const uint32_t lane = emu::state.current->lane;
  return emu::shuffled(mask, v, (lane & uint32_t(width - 1)) < d ? lane : lane - d);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32) {
  const uint32_t lane = emu::state.current->lane;
  return emu::shuffled(mask, v, (lane & uint32_t(width - 1)) + d >= uint32_t(width) ? lane : lane + d);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const uint32_t lane = emu::state.current->lane, to = lane ^ uint32_t(bits), segment = ~uint32_t(width - 1);
  return emu::shuffled(mask, v, ((to & segment) > (lane & segment) ? lane : to) & 31u);
}
#define EMU_REDUCE(name, type, operation) \
  static inline type name(unsigned mask, type v) { return type(emu::collective(operation, mask, uint32_t(v))); }
EMU_REDUCE(__reduce_add_sync, unsigned, emu::ADD)
EMU_REDUCE(__reduce_add_sync, int, emu::ADD)
EMU_REDUCE(__reduce_min_sync, unsigned, emu::MIN)
EMU_REDUCE(__reduce_min_sync, int, emu::SIGNED_MIN)
EMU_REDUCE(__reduce_max_sync, unsigned, emu::MAX)
EMU_REDUCE(__reduce_max_sync, int, emu::SIGNED_MAX)
EMU_REDUCE(__reduce_and_sync, unsigned, emu::AND)
EMU_REDUCE(__reduce_or_sync, unsigned, emu::OR)
EMU_REDUCE(__reduce_xor_sync, unsigned, emu::XOR)

#define EMU_ATOMIC(name, expression)                                                  \
  template <typename T> static inline T name(T *p, std::common_type_t<T> v) {         \
    emu::preempt();                                                                   \
    const T old = *p;                                                                 \
    *p = T(expression);                                                               \
    emu::preempt();                                                                   \
    return old;                                                                       \
  }
EMU_ATOMIC(atomicAdd, old + v)
EMU_ATOMIC(atomicSub, old - v)
EMU_ATOMIC(atomicMin, v < old ? v : old)
EMU_ATOMIC(atomicMax, v > old ? v : old)
EMU_ATOMIC(atomicAnd, old & v)
EMU_ATOMIC(atomicOr, old | v)
EMU_ATOMIC(atomicXor, old ^ v)
EMU_ATOMIC(atomicExch, v)
template <typename T>
static inline T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  emu::preempt();
  const T old = *p;
  if (old == expected) *p = v;
  emu::preempt();
  return old;
}

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (v >> i & 1u) << (31 - i);
  return r;
}
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selectors) {
  const uint64_t bytes = uint64_t(high) << 32 | low;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned s = selectors >> (4 * i) & 15u, byte = unsigned(bytes >> (8 * (s & 7u))) & 255u;
    r |= (s & 8u ? (byte & 128u ? 255u : 0u) : byte) << (8 * i);
  }
  return r;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 255u) * (b >> i & 255u);
  return c;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
  return unsigned((uint64_t(high) << 32 | low) >> (n & 31u));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
  return unsigned((uint64_t(high) << 32 | low) << (n & 31u) >> 32);
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
static inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 wide;
  return (unsigned long long)(wide(a) * b >> 64);
}
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T v) { *p = v; }
template <typename A, typename B> static inline std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <typename A, typename B> static inline std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}
