// What the kernels for Hopper (sm_90a) share beside common.cuh: barriers in shared memory, the copy
// engine, and the bracket of wgmma.
#pragma once
#include "common.cuh"

// ---- barriers ------------------------------------------------------------------------------------

// A position in a ring of buffers; the phase flips with every round.
template <int SLOTS> struct Ring {
  int slot = 0;
  u32 phase = 0;
  DEVICE_MEMBER void advance() {
    if (++slot == SLOTS) {
      slot = 0;
      phase ^= 1;
    }
  }
};

DEVICE void barrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
DEVICE void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
// In the blocks of a cluster.
DEVICE u32 remote_address(u32 shared, u32 rank) {
  u32 address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}
// Plain semantics on purpose: with release at cluster scope the main loop loses 40%, and what
// crosses blocks here are the copy engine's writes, which the barrier's byte count orders.
DEVICE void barrier_arrive_remote(u32 cluster_address) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(cluster_address) : "memory");
}

// After barrier_init, for the other blocks of the cluster and for the copy engine.
DEVICE void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
// What this thread has written to shared memory, for the copy engine and for wgmma.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Of the thread's warpgroup alone.
DEVICE void warpgroup_barrier() {
  asm volatile("bar.sync %0, 128;" ::"r"(threadIdx.x / 128 + 1) : "memory");
}

DEVICE int from_first_lane(int value) { return __shfl_sync(0xffffffffu, value, 0); }
// Taken from one lane, so that the compiler knows it to be the same in all: it serialises wgmma on branches
// that may diverge.
DEVICE int warpgroup_index() { return from_first_lane(threadIdx.x / 128); }

// ---- copy engine ---------------------------------------------------------------------------------

// A box of a tensor map into shared memory; the barrier counts its bytes.
DEVICE void load_tile(u32 shared, const TensorMap &map, int column, int row, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
// Into the same place of several blocks of the cluster, whose barriers there count its bytes.
DEVICE void load_tile_multicast(u32 shared, const TensorMap &map, int column, int row, u32 barrier,
                                u16 blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
      : "memory");
}
DEVICE void prefetch_map(const TensorMap &map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The way back. The group of copies that it joins is committed.
DEVICE void store_tile(u32 shared, const TensorMap &map, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(column), "r"(row), "r"(shared)
      : "memory");
}

DEVICE void store_transposed(u32 shared, const u32 (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// ---- registers -----------------------------------------------------------------------------------

// A warpgroup gives registers up, or gets them, out of what its block was launched with and no more, or
// the last to ask for them waits forever.
template <int REGISTERS> DEVICE void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// ---- wgmma ---------------------------------------------------------------------------------------

// A tile in shared memory: rows of BYTES, as wide as its swizzle, groups of eight rows one after another.
template <int BYTES> DEVICE u64 descriptor(u32 shared) {
  constexpr u64 group = 8 * BYTES >> 4;
  constexpr u64 swizzle = BYTES == 128 ? 1 : 2;
  return (u64)((shared & 0x3ffff) >> 4) | group << 16 | group << 32 | swizzle << 62;
}

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#ifdef HALVE_BF16
#define TYPES ".f32.bf16.bf16 "
#else
#define TYPES ".f32.f16.f16 "
#endif

// The registers of one instruction: how operands are named, and what they are, of arrays [n][4].
#define R4(c, r, i) c(r[i][0]), c(r[i][1]), c(r[i][2]), c(r[i][3])
#define R16(c, r, i) R4(c, r, i), R4(c, r, i + 1), R4(c, r, i + 2), R4(c, r, i + 3)
#define NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_32 NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
// The same of arrays [n]; TEN names ten registers that start with the same digits.
#define TEN(d) \
  "%" #d "0,%" #d "1,%" #d "2,%" #d "3,%" #d "4,%" #d "5,%" #d "6,%" #d "7,%" #d "8,%" #d "9,"
#define SUMS_4(c, s, i) c(s[i]), c(s[i + 1]), c(s[i + 2]), c(s[i + 3])
#define SUMS_16(c, s, i) \
  SUMS_4(c, s, i), SUMS_4(c, s, i + 4), SUMS_4(c, s, i + 8), SUMS_4(c, s, i + 12)
#define SUMS_32(c, s, i) SUMS_16(c, s, i), SUMS_16(c, s, i + 16)
#define SUMS_64(c, s, i) SUMS_32(c, s, i), SUMS_32(c, s, i + 32)
#define TEXT(x) TEXT_OF(x)
#define TEXT_OF(x) #x
