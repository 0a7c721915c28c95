// What every kernel shares: fixed-width types, the 16-bit element type of one compilation, and thin
// wrappers over the PTX that CUDA C++ has no name for. NVRTC compiles the kernels without any header
// of the CUDA toolkit, so that a driver and NVRTC are all a machine needs.
//
// A compilation is for one element type: fp16, or bf16 where HALVE_BF16 is defined. Elements are raw
// 16-bit words (`element`), two of them a 32-bit word with the lower index in the lower half.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 element;

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__

// A tensor map of the copy engine, passed by value as a __grid_constant__ parameter.
struct alignas(64) TensorMap {
  u64 words[16];
};

// ---- conversions -------------------------------------------------------------------------------

#ifdef HALVE_BF16
DEVICE float to_float(element bits) { return __uint_as_float((u32)bits << 16); }
DEVICE float low_float(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_float(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
DEVICE element to_element(float value) {
  element bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
DEVICE u32 to_pair(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// Zeros where negative.
DEVICE u32 to_positive_pair(float low, float high) {
  u32 pair;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#else
DEVICE float to_float(element bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
DEVICE float low_float(u32 pair) { return to_float((element)pair); }
DEVICE float high_float(u32 pair) { return to_float((element)(pair >> 16)); }
DEVICE element to_element(float value) {
  element bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
DEVICE u32 to_pair(float low, float high) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// Zeros where negative.
DEVICE u32 to_positive_pair(float low, float high) {
  u32 pair;
  asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

// Eight elements of one 16-byte access.
struct Eight {
  float value[8];
};
DEVICE Eight unpack(uint4 words) {
  return {{low_float(words.x), high_float(words.x), low_float(words.y), high_float(words.y),
           low_float(words.z), high_float(words.z), low_float(words.w), high_float(words.w)}};
}
DEVICE uint4 pack(const Eight &v) {
  return make_uint4(to_pair(v.value[0], v.value[1]), to_pair(v.value[2], v.value[3]),
                    to_pair(v.value[4], v.value[5]), to_pair(v.value[6], v.value[7]));
}

// ---- arithmetic --------------------------------------------------------------------------------

DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// BERT's GELU, x * Phi(x) with the error function, not its tanh approximation. Exact to fp32
// rounding: for kernels that wait on memory. For the epilogues of products there is gelu_fast.
DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

// x * Phi(x) = max(x, 0) - |x| * Phi(-|x|), with a polynomial for the logarithm of Phi: 7 instructions
// and one exponential. Off by at most 2.3e-5, and by 1.6e-4 of the result where that is over 6e-5,
// which is under half a unit in the last place of fp16 (2.4e-4).
DEVICE float gelu_fast(float x) {
  const float a = fabsf(x);
  float q = fmaf(-2.699197062e-04f, a, 5.297373834e-03f);
  q = fmaf(q, a, -4.631945334e-02f);
  q = fmaf(q, a, -4.669072522e-01f);
  q = fmaf(q, a, -1.147789013e+00f);
  q = fmaf(q, a, -1.000228333e+00f);
  return fmaf(-a, exp2_fast(q), fmaxf(x, 0.0f));
}

DEVICE float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// ---- programmatic dependent launch -------------------------------------------------------------

// A kernel launched with programmatic stream serialisation starts before the one it depends on has
// ended. It must call this before it touches anything another kernel wrote or still reads.
DEVICE void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel's blocks be scheduled as this one's drain; says nothing about memory.
DEVICE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- shared memory and tensor cores (sm_80 and later) ------------------------------------------

DEVICE u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// 16 bytes from global to shared memory; zeros instead where `valid` is false.
DEVICE void copy_async_16(u32 shared, const void *global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
// The same with 4 bytes.
DEVICE void copy_async_4(u32 shared, const void *global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global),
               "r"(valid ? 4 : 0)
               : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

DEVICE void store_shared(u32 shared, u32 word) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(shared), "r"(word) : "memory");
}

DEVICE void load_matrix_x4(u32 (&r)[4], u32 shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}
DEVICE void load_matrix_x4_transposed(u32 (&r)[4], u32 shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// d[16, 8] += a[16, 16] * b[16, 8], fp32 accumulation.
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef HALVE_BF16
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
