// Elementwise operations of training that no other kernel carries along.
//
//   dropout   y[t, c] = dropout(x[t, c]) with the token as row and the feature as column
//   add       y += x
//
// x and y are [tokens, width] elements, width a multiple of 8; y may be x. Bytes per element: 4, and 6.
//
// Launch: 256 threads, as many blocks as fit.
#include "dropout.cuh"

extern "C" __global__ void __launch_bounds__(256)
    dropout(element *y, const element *x, int width, u64 count, DropoutSite site) {
  const u32 seed = site.seed();
  for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < count / 8; i += (u64)gridDim.x * 256) {
    const u32 token = (u32)(i * 8 / width), column = (u32)(i * 8 - (u64)token * width);
    const u32 rowKey = dropout_row_key(token, seed);
    Eight values = unpack(((const uint4 *)x)[i]);
#pragma unroll
    for (int k = 0; k < 8; k++) values.value[k] = site.apply(values.value[k], column + k, rowKey);
    ((uint4 *)y)[i] = pack(values);
  }
}

extern "C" __global__ void __launch_bounds__(256) add(element *y, const element *x, u64 count) {
  for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < count / 8; i += (u64)gridDim.x * 256) {
    Eight sum = unpack(((const uint4 *)y)[i]);
    const Eight values = unpack(((const uint4 *)x)[i]);
#pragma unroll
    for (int k = 0; k < 8; k++) sum.value[k] += values.value[k];
    ((uint4 *)y)[i] = pack(sum);
  }
}
