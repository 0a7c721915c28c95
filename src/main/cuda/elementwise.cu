// Elementwise operations that no other kernel can carry along.
//
//   gelu         out[i] = x[i] * Phi(x[i]), erf form; in place where out == x
//   from_float   fp32 -> element, to_float32: element -> fp32
//   copy_rows    out[r, 0 .. outWidth) = x[r, 0 .. width), zeros past width, rows so many elements
//                apart: rows whose length the copy engine cannot address are widened on the way in
//                and narrowed on the way out
//
// Bytes: gelu 4 per element, conversions 6; FLOPs: about 25 for erf. Memory is the floor: GELU of
// 98,304 x 3,072 at 3 TB/s takes 0.40 ms, which is why the sparse GEMM carries it in its epilogue.
//
// Launch: 256 threads, as many blocks as fit; arrays start at 16-byte boundaries.
#include "common.cuh"

DEVICE u64 first() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE u64 stride() { return (u64)gridDim.x * blockDim.x; }

extern "C" __global__ void __launch_bounds__(256) gelu(element *out, const element *x, u64 count) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (u64 i = first(); i < count / 8; i += stride()) {
    Eight values = unpack(((const uint4 *)x)[i]);
#pragma unroll
    for (int k = 0; k < 8; k++) values.value[k] = gelu(values.value[k]);
    ((uint4 *)out)[i] = pack(values);
  }
  for (u64 i = count / 8 * 8 + first(); i < count; i += stride()) {
    out[i] = to_element(gelu(to_float(x[i])));
  }
}

extern "C" __global__ void __launch_bounds__(256)
    from_float(element *out, const float *x, u64 count) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (u64 i = first(); i < count / 4; i += stride()) {
    const float4 v = ((const float4 *)x)[i];
    ((uint2 *)out)[i] = make_uint2(to_pair(v.x, v.y), to_pair(v.z, v.w));
  }
  for (u64 i = count / 4 * 4 + first(); i < count; i += stride()) out[i] = to_element(x[i]);
}

extern "C" __global__ void __launch_bounds__(256)
    to_float32(float *out, const element *x, u64 count) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (u64 i = first(); i < count / 4; i += stride()) {
    const uint2 v = ((const uint2 *)x)[i];
    ((float4 *)out)[i] = make_float4(low_float(v.x), high_float(v.x), low_float(v.y), high_float(v.y));
  }
  for (u64 i = count / 4 * 4 + first(); i < count; i += stride()) out[i] = to_float(x[i]);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_rows(element *out, int outPitch, int outWidth, const element *x, int xPitch, int width,
              u64 rows) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (u64 i = first(); i < rows * outWidth; i += stride()) {
    const u64 row = i / outWidth;
    const int column = (int)(i - row * outWidth);
    out[row * outPitch + column] = column < width ? x[row * xPitch + column] : (element)0;
  }
}
