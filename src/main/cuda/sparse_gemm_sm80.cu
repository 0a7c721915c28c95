// y[tokens, out] = epilogue(x[tokens, in] * W[out, in]^T) with W in 2:4 form, on Ampere, Ada and later.
//
// The sparse operand of mma.sp is the first, so a tile computes y^T: TILE_OUT outputs by TILE_TOKENS
// tokens, fp32 sums in registers, turned round in shared memory on their way out.
//
//                      GFLOP (dense)   device memory (fp16)      floor, A100: 1.5 TB/s   624 TFLOP/s
//   98,304 tokens                      x + y + residual
//   2304 x  768        348             0.60 GB                          0.40 ms          0.56 ms
//   3072 x  768        464             0.75                             0.50             0.74
//    768 x 3072        464             0.91                             0.60             0.74
//    768 x  768        116             0.45                             0.30             0.19
//
// A block computes one tile, outputs fastest, so that neighbours share their tokens in L2. STAGES tiles
// of 64 inputs are in flight by cp.async, one barrier a tile. A warp computes TILE_OUT / WARPS_OUT
// outputs by TILE_TOKENS / WARPS_TOKENS tokens with mma.sp.m16n8k32.
//
// Operands
//   y, x             16-bit elements at addresses and row pitches (in elements) that are multiples of
//                    16 bytes; y's columns from out to the next multiple of 8 are overwritten
//   residual         rows as y's, and may be y itself; not read in the other epilogues
//   weight           packed as dev.halve.cuda.SparseGemmLayout says
//   bias             fp32 [out]
//
// Launch: WARPS_OUT * WARPS_TOKENS * 32 threads, ceil(out / TILE_OUT) * ceil(tokens / TILE_TOKENS)
// blocks, dynamic shared memory as SparseGemmTile.Sm80 says.
#include "common.cuh"

constexpr int BIAS_GELU = 1, BIAS_RESIDUAL = 2;
constexpr int THREADS = WARPS_OUT * WARPS_TOKENS * 32;
constexpr int BLOCK_BYTES = 4608, METADATA = 4096;  // of 64 outputs by 64 inputs
constexpr int X_BYTES = TILE_TOKENS * 128, W_BYTES = TILE_OUT / 64 * BLOCK_BYTES;
constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
constexpr int WARP_OUT = TILE_OUT / WARPS_OUT, WARP_TOKENS = TILE_TOKENS / WARPS_TOKENS;
constexpr int ROWS = WARP_OUT / 16, COLUMNS = WARP_TOKENS / 8;  // instructions of a warp
constexpr int PITCH = TILE_OUT + 8;  // of the staged tile: eight elements more keep banks apart
static_assert(TILE_OUT % 64 == 0 && WARP_OUT % 16 == 0 && WARP_TOKENS % 8 == 0, "tile");

// d[16, 8] += a[16, 32 of 2:4] * b[32, 8].
template <int SELECTOR>
DEVICE void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 metadata) {
#ifdef HALVE_BF16
  asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 "
#else
  asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
#endif
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]),
                 "r"(b[3]), "r"(metadata), "n"(SELECTOR));
}

// 16 bytes, of which only the first `bytes` are read and the others become zeros.
DEVICE void copy_async(u32 shared, const void *global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}

// Sends one stage on its way: x with rows of 128 bytes, chunk j of row r at j ^ (r % 8); W as packed.
DEVICE void load_stage(u32 stage, const element *x, const u8 *weight, int token, int tokens, int in,
                       int xPitch, int k) {
#pragma unroll
  for (int i = 0; i < (TILE_TOKENS * 8 + THREADS - 1) / THREADS; i++) {
    const int chunk = i * THREADS + threadIdx.x, row = chunk / 8, j = chunk % 8;
    if (TILE_TOKENS * 8 % THREADS != 0 && row >= TILE_TOKENS) break;
    const int column = k * 64 + j * 8;
    const int valid = token + row < tokens ? max(0, min(16, (in - column) * 2)) : 0;
    const element *from = valid > 0 ? x + (u64)(token + row) * xPitch + column : x;
    copy_async(stage + row * 128 + (j ^ row % 8) * 16, from, valid);
  }
#pragma unroll
  for (int i = 0; i < (W_BYTES / 16 + THREADS - 1) / THREADS; i++) {
    const int chunk = i * THREADS + threadIdx.x;
    if (chunk * 16 < W_BYTES) copy_async(stage + X_BYTES + chunk * 16, weight + chunk * 16, 16);
  }
}

// One half of a stage, 32 inputs: fragments of all rows, then one column of tokens after another.
template <int STEP>
DEVICE void multiply_step(float (&sums)[ROWS][COLUMNS][4], const u32 (&metadata)[ROWS], u32 x, u32 w) {
  const int lane = threadIdx.x % 32;
  u32 a[ROWS][4];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const int row = i * 16 + lane % 16, chunk = (STEP * 2 + lane / 16) ^ (row / 2 % 4);
    load_matrix_x4(a[i], w + row / 64 * BLOCK_BYTES + row % 64 * 64 + chunk * 16);
  }
#pragma unroll
  for (int j = 0; j < COLUMNS; j++) {
    u32 b[4];
    load_matrix_x4(b, x + (j * 8 + lane % 8) * 128 + ((STEP * 4 + lane / 8) ^ (lane % 8)) * 16);
#pragma unroll
    for (int i = 0; i < ROWS; i++) multiply<STEP>(sums[i][j], a[i], b, metadata[i]);
  }
}

// Adds what the epilogue adds and rounds. A thread of lane 4g + c holds, of each 16 outputs by 8
// tokens, outputs g and g + 8 at tokens 2c and 2c + 1.
DEVICE void finish(float (&sums)[ROWS][COLUMNS][4], element *staged, const float *bias, int output,
                   int out, int warpOut, int warpToken) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = warpOut + i * 16 + half * 8 + lane / 4;
      const float add = output + row < out ? __ldg(bias + output + row) : 0.0f;
#pragma unroll
      for (int j = 0; j < COLUMNS * 2; j++) {
        element &at = staged[(warpToken + j / 2 * 8 + lane % 4 * 2 + j % 2) * PITCH + row];
        float value = sums[i][j / 2][half * 2 + j % 2] + add;
        if (EPILOGUE == BIAS_GELU) value = gelu_fast(value);
        if (EPILOGUE == BIAS_RESIDUAL) value += to_float(at);
        at = to_element(value);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sparse_gemm_sm80(element *y, const element *x, const u8 *weight, const float *bias,
                     const element *residual, int tokens, int out, int in, int xPitch, int yPitch) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int outBlocks = (out + 63) / 64, kTiles = (in + 63) / 64;
  const int outTiles = (out + TILE_OUT - 1) / TILE_OUT;
  const int output = blockIdx.x % outTiles * TILE_OUT, token = blockIdx.x / outTiles * TILE_TOKENS;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warpOut = warp % WARPS_OUT * WARP_OUT, warpToken = warp / WARPS_OUT * WARP_TOKENS;
  wait_for_previous_kernel();
  let_next_kernel_start();

  const u8 *w = weight + (u64)(output / 64) * BLOCK_BYTES;
  const u64 wStep = (u64)outBlocks * BLOCK_BYTES;
  auto load = [&](int k) {
    if (k < kTiles) {
      load_stage(shared + k % STAGES * STAGE_BYTES, x, w + k * wStep, token, tokens, in, xPitch, k);
    }
    copy_async_commit();  // an empty group too, so that the count of groups tells the stage
  };
  for (int k = 0; k < STAGES - 1; k++) load(k);

  float sums[ROWS][COLUMNS][4] = {};
  for (int k = 0; k < kTiles; k++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();  // this stage has come for all, and all have left the one that is loaded next
    load(k + STAGES - 1);
    const u32 stage = shared + k % STAGES * STAGE_BYTES;
    const u32 stageW = stage + X_BYTES + warpOut / 64 * BLOCK_BYTES + warpOut % 64 * 64;
    u32 metadata[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int row = warpOut + i * 16;
      const u32 at = stage + X_BYTES + row / 64 * BLOCK_BYTES + METADATA + (row % 64 * 2 + lane) * 4;
      asm volatile("ld.shared.b32 %0, [%1];" : "=r"(metadata[i]) : "r"(at) : "memory");
    }
    multiply_step<0>(sums, metadata, stage + warpToken * 128, stageW);
    multiply_step<1>(sums, metadata, stage + warpToken * 128, stageW);
  }
  copy_async_wait<0>();
  __syncthreads();

  // The tile leaves by way of shared memory, [TILE_TOKENS][PITCH], where the residual has come first.
  constexpr int CHUNKS = TILE_TOKENS * TILE_OUT / 8;
  auto for_each_chunk = [&](auto body) {
    for (int chunk = threadIdx.x; chunk < CHUNKS; chunk += THREADS) {
      const int row = chunk / (TILE_OUT / 8), column = chunk % (TILE_OUT / 8) * 8;
      if (token + row < tokens && output + column < out) body(row, column);
    }
  };
  if (EPILOGUE == BIAS_RESIDUAL) {
    for_each_chunk([&](int row, int column) {
      copy_async(shared + (row * PITCH + column) * 2,
                 residual + (u64)(token + row) * yPitch + output + column, 16);
    });
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
  }
  element *staged = (element *)memory;
  finish(sums, staged, bias, output, out, warpOut, warpToken);
  __syncthreads();
  for_each_chunk([&](int row, int column) {
    *(uint4 *)(y + (u64)(token + row) * yPitch + output + column) =
        *(const uint4 *)(staged + row * PITCH + column);
  });
}
