// The dense product where cuBLASLt is not installed: y[t, o] = epilogue(x[t] . weight[o] + bias[o]),
// x [tokens, in], weight [out, in], y [tokens, out] with rows `pitch` elements apart; fp32
// accumulation. EPILOGUE 0: none, 1: erf GELU, 2: residual [tokens, out] added, rows as y's (the
// residual may be y). It stands in, it does not compete: mma.sync through a three-stage cp.async
// ring, without Hopper's instructions.
//
// FLOPs: 2 * tokens * out * in. Bytes: x is read out / 128 times and weight tokens / 128 times,
// mostly from L2; y once. Device memory is the floor only below some 300 FLOP a byte.
//
// Any tokens and out; in must be a multiple of 8 (rows of 16-byte chunks), which the caller sees to.
// A block is 8 warps and 128 tokens x 128 outputs. Launch: grid (ceil(out / 128), ceil(tokens / 128)),
// 256 threads.
#include "common.cuh"

constexpr int TILE = 128;  // of tokens and of outputs
constexpr int TILE_IN = 32;
constexpr int STAGES = 3;
constexpr int THREADS = 256;
constexpr int TILE_BYTES = TILE * TILE_IN * 2;

// Rows of 64 bytes; the exclusive or spreads the eight rows of one ldmatrix over all banks.
DEVICE u32 chunk_offset(int row, int chunk) { return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4); }

DEVICE void load_tile(u32 shared, const element *matrix, int firstRow, int rows, int firstIn, int in) {
#pragma unroll
  for (int i = threadIdx.x; i < TILE * TILE_IN / 8; i += THREADS) {
    const int row = i / 4, chunk = i % 4, column = firstIn + chunk * 8;
    const bool valid = firstRow + row < rows && column < in;
    copy_async_16(shared + chunk_offset(row, chunk),
                  valid ? matrix + (u64)(firstRow + row) * in + column : matrix, valid);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    dense_gemm(element *y, const element *x, const element *weight, const element *bias,
               const element *residual, int tokens, int out, int in, int pitch) {
  __shared__ __align__(128) u8 shared[2 * STAGES * TILE_BYTES];
  wait_for_previous_kernel();
  const u32 sharedX = shared_address(shared), sharedW = sharedX + STAGES * TILE_BYTES;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warpToken = warp / 4 * 64, warpOut = warp % 4 * 32;
  const int firstToken = blockIdx.y * TILE, firstOut = blockIdx.x * TILE;
  const int steps = (in + TILE_IN - 1) / TILE_IN;

  auto load_stage = [&](int step) {
    if (step < steps) {
      const u32 stage = step % STAGES * TILE_BYTES;
      load_tile(sharedX + stage, x, firstToken, tokens, step * TILE_IN, in);
      load_tile(sharedW + stage, weight, firstOut, out, step * TILE_IN, in);
    }
    copy_async_commit();
  };
  for (int step = 0; step < STAGES - 1; step++) load_stage(step);

  float sum[4][4][4] = {};
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    load_stage(step + STAGES - 1);
    const u32 stage = step % STAGES * TILE_BYTES;
#pragma unroll
    for (int k = 0; k < TILE_IN / 16; k++) {
      u32 a[4][4], b[2][4];
#pragma unroll
      for (int m = 0; m < 4; m++) {
        load_matrix_x4(a[m], sharedX + stage +
                                 chunk_offset(warpToken + m * 16 + lane % 16, 2 * k + lane / 16));
      }
#pragma unroll
      for (int n = 0; n < 2; n++) {
        load_matrix_x4(b[n], sharedW + stage +
                                 chunk_offset(warpOut + n * 16 + (lane / 16) * 8 + lane % 8,
                                              2 * k + (lane / 8) % 2));
      }
#pragma unroll
      for (int m = 0; m < 4; m++) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
          mma_m16n8k16(sum[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
        }
      }
    }
  }
  copy_async_wait<0>();
  let_next_kernel_start();

#pragma unroll
  for (int n = 0; n < 4; n++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int o = firstOut + warpOut + n * 8 + lane % 4 * 2 + i;
      const float b = o < out ? to_float(bias[o]) : 0.0f;
#pragma unroll
      for (int m = 0; m < 4; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int token = firstToken + warpToken + m * 16 + half * 8 + lane / 4;
          if (o < out && token < tokens) {
            float value = sum[m][n][2 * half + i] + b;
            if (EPILOGUE == 1) value = gelu(value);
            if (EPILOGUE == 2) value += to_float(residual[(u64)token * pitch + o]);
            y[(u64)token * pitch + o] = to_element(value);
          }
        }
      }
    }
  }
}
