// Sums over tokens, as the gradients of biases need them, in two passes of fixed order.
//
//   column_sums     partial[p, c] = sum over the tokens of part p of x[t, c]
//   gelu_backward   dX = dY * gelu'(x), and the column sums of dX on the way
//   add_partials    out0[c] += sum over p of partial[p, c], and out1 and out2, where they
//                   are there, from the columns after
//
// x, dY, dX have rows `pitch` elements apart, `width` columns, a multiple of 8; partial is fp32
// [parts, width]; the second pass takes a partial's rows `partialPitch` apart. dX may be dY.
//
// Bytes per element: column_sums 2, gelu_backward 6 (12,288 x 3,072 at 3 TB/s: 75 us). FLOPs: 1, and
// about 35 for the error function and the exponential.
//
// A block takes 64 columns, 8 a thread, and 32 tokens at a time. Launch: 256 threads, grid
// (width / 64 rounded up, parts); add_partials: 1024 threads, grid (width / 32 rounded up, outputs).
#include "common.cuh"

constexpr int COLUMN_GROUPS = 8;
constexpr int TOKEN_LANES = 32;

// gelu'(x) = Phi(x) + x * phi(x).
DEVICE float gelu_derivative(float x) {
  const float density = 0.39894228040143268f * __expf(-0.5f * x * x);
  return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * density;
}

// The sum over the block's 32 token lanes, in their order.
DEVICE void store_sums(float *partial, int width, const Eight &sum) {
  __shared__ float shared[TOKEN_LANES][COLUMN_GROUPS * 8 + 4];
  const int group = threadIdx.x % COLUMN_GROUPS, lane = threadIdx.x / COLUMN_GROUPS;
#pragma unroll
  for (int i = 0; i < 8; i++) shared[lane][group * 8 + i] = sum.value[i];
  __syncthreads();
  const int column = blockIdx.x * 64 + threadIdx.x;
  if (threadIdx.x < 64 && column < width) {
    float total = 0.0f;
    for (int k = 0; k < TOKEN_LANES; k++) total += shared[k][threadIdx.x];
    partial[(u64)blockIdx.y * width + column] = total;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    column_sums(float *partial, const element *x, int pitch, int width, int tokens) {
  const int column = blockIdx.x * 64 + threadIdx.x % COLUMN_GROUPS * 8;
  const int first = (int)((u64)tokens * blockIdx.y / gridDim.y);
  const int end = (int)((u64)tokens * (blockIdx.y + 1) / gridDim.y);
  Eight sum = {};
  if (column < width) {
#pragma unroll 4
    for (int token = first + threadIdx.x / COLUMN_GROUPS; token < end; token += TOKEN_LANES) {
      const Eight values = unpack(*(const uint4 *)(x + (u64)token * pitch + column));
#pragma unroll
      for (int i = 0; i < 8; i++) sum.value[i] += values.value[i];
    }
  }
  store_sums(partial, width, sum);
}

extern "C" __global__ void __launch_bounds__(256)
    gelu_backward(float *partial, element *dX, const element *x, const element *dY, int width,
                  int tokens) {
  const int column = blockIdx.x * 64 + threadIdx.x % COLUMN_GROUPS * 8;
  const int first = (int)((u64)tokens * blockIdx.y / gridDim.y);
  const int end = (int)((u64)tokens * (blockIdx.y + 1) / gridDim.y);
  Eight sum = {};
  if (column < width) {
#pragma unroll 2
    for (int token = first + threadIdx.x / COLUMN_GROUPS; token < end; token += TOKEN_LANES) {
      const u64 at = (u64)token * width + column;
      const Eight values = unpack(*(const uint4 *)(x + at));
      Eight gradient = unpack(*(const uint4 *)(dY + at));
#pragma unroll
      for (int i = 0; i < 8; i++) gradient.value[i] *= gelu_derivative(values.value[i]);
      const uint4 packed = pack(gradient);
      *(uint4 *)(dX + at) = packed;
      const Eight rounded = unpack(packed);
#pragma unroll
      for (int i = 0; i < 8; i++) sum.value[i] += rounded.value[i];
    }
  }
  if (partial != nullptr) store_sums(partial, width, sum);
}

extern "C" __global__ void __launch_bounds__(1024)
    add_partials(float *out0, float *out1, float *out2, const float *partial, int partialPitch,
                 int width, int parts) {
  __shared__ float shared[32][33];
  float *out = blockIdx.y == 0 ? out0 : blockIdx.y == 1 ? out1 : out2;
  if (out == nullptr) return;
  const float *from = partial + (u64)blockIdx.y * width;
  const int column = blockIdx.x * 32 + threadIdx.x % 32, lane = threadIdx.x / 32;
  float sum = 0.0f;
  if (column < width) {
#pragma unroll 8
    for (int part = lane; part < parts; part += 32) sum += from[(u64)part * partialPitch + column];
  }
  shared[lane][threadIdx.x % 32] = sum;
  __syncthreads();
  // The columns' 32 shares, a warp to a column.
  const float total = warp_sum(shared[threadIdx.x % 32][lane]);
  if (threadIdx.x % 32 == 0 && blockIdx.x * 32 + lane < width) out[blockIdx.x * 32 + lane] += total;
}
