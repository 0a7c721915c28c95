// Dense products on Hopper with the GELU of a MLP in their epilogue.
//
//   BACKWARD 0   inner = x * W^T + bias;  y = gelu(inner)         x [tokens, in], W [out, in]
//   BACKWARD 1   y = (x * W) * gelu'(inner), and its column sums  x [tokens, in], W [in, out]
//
// inner and y are [tokens, out]; the first writes inner, as the second reads it, unless INNER is 0: then
// y alone, of values that were not rounded before. The pass that each replaces moves 4 and 6 bytes for
// each of y's elements.
//
//   12,288 tokens, 768 and 3,072   58 GFLOP: 61 us at 949 TFLOP/s (1.755 GHz), about 87 at 700 W
//                                  19 MB of x, 75 of inner, 75 of y: 57 us at 3 TB/s
//
// A tile is y^T: 128 outputs by TILE_TOKENS tokens, fp32 sums in registers, so that a bias is one number
// a row, and a column's sum over tokens stays in its thread. Clusters of two blocks, of which each has 128
// of 256 outputs and fetches half of x for both, walk over tiles, outputs fastest. A block's warps:
//   - two consumer warpgroups, which take turns: one multiplies its tile while the results of the
//     other's leave, so that the tensor cores and memory are busy at the same time;
//   - a producer warp, whose one thread keeps STAGES tiles of W and x (64 inputs each) in flight;
//   - a mover warp for each consumer warpgroup, which carries pieces of STORE_TOKENS tokens by 64 outputs:
//     those of inner and y out, or inner in and y out.
// They meet at mbarriers only.
//
// Operands: tensor maps of 16-bit elements, 128-byte swizzle, zeros out of bounds: x, box {64,
// TILE_TOKENS / 2}; weight as it lies, box {64, 64}; inner and y, box {64, STORE_TOKENS}. bias [out]
// elements; partial fp32 [ceil(tokens / TILE_TOKENS), out], which add_partials of column_sums.cu adds up.
// Rows are multiples of 8 elements.
//
// Compile-time: BACKWARD, INNER, TILE_TOKENS (128 or 192), STAGES, STORE_TOKENS, STORE_BUFFERS. Launch: 384
// threads, clusters of two, as many as fit or as there are tiles, dynamic shared memory as GeluGemm says.
#include "hopper.cuh"

constexpr int WARPGROUPS = 2, BLOCKS = 2, CLUSTER = 2;
constexpr int BLOCK_OUT = BLOCKS * 64, TILE_OUT = CLUSTER * BLOCK_OUT;
constexpr int W_BLOCK_BYTES = 64 * 128;
constexpr int X_BYTES = TILE_TOKENS * 128, W_BYTES = BLOCKS * W_BLOCK_BYTES;
constexpr int PIECE_BYTES = STORE_TOKENS * 128;
constexpr int PIECES = TILE_TOKENS / STORE_TOKENS;  // of one block of 64 outputs
constexpr int STORED = BACKWARD || !INNER ? 1 : 2;  // matrices that leave
constexpr int ACCUMULATORS = TILE_TOKENS / 2;       // per thread and block
static_assert(TILE_TOKENS % STORE_TOKENS == 0 && STORE_TOKENS % 16 == 0, "pieces of a tile");

// ---- shared memory -------------------------------------------------------------------------------

constexpr int X_AT = 0, W_AT = X_AT + STAGES * X_BYTES, PIECES_AT = W_AT + STAGES * W_BYTES;
constexpr int FULL_AT = PIECES_AT + WARPGROUPS * STORE_BUFFERS * PIECE_BYTES;
constexpr int EMPTY_AT = FULL_AT + 8 * STAGES;
constexpr int READY_AT = EMPTY_AT + 8 * STAGES;                       // a piece may be filled
constexpr int STAGED_AT = READY_AT + 8 * WARPGROUPS * STORE_BUFFERS;  // a piece may leave
constexpr int TURN_AT = STAGED_AT + 8 * WARPGROUPS * STORE_BUFFERS;   // a warpgroup may multiply

// A tile in 128-byte swizzle: rows of 128 bytes, groups of eight rows one after another, whichever of
// the two axes the rows are.
DEVICE u64 descriptor(u32 shared) {
  constexpr u64 group = 8 * 128 >> 4;
  return (u64)(shared >> 4) | group << 16 | group << 32 | 1ull << 62;
}

// ---- products ------------------------------------------------------------------------------------

#if TILE_TOKENS == 128
#define SUM_NAMES TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60,%61,%62,%63"
#define OPERAND_NAMES "%64, %65"
#define TRANSPOSE_NAME "%66"
#define SUMS(c, s) SUMS_64(c, s, 0)
#elif TILE_TOKENS == 192
#define SUM_NAMES \
  TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) "%90,%91,%92,%93,%94,%95"
#define OPERAND_NAMES "%96, %97"
#define TRANSPOSE_NAME "%98"
#define SUMS(c, s) SUMS_64(c, s, 0), SUMS_32(c, s, 64)
#endif
#define WGMMA(accumulate)                                                                     \
  "wgmma.mma_async.sync.aligned.m64n" TEXT(TILE_TOKENS) "k16" TYPES "{" SUM_NAMES "}, "       \
  OPERAND_NAMES ", " accumulate ", 1, 1, " TRANSPOSE_NAME ", 0;"

// sums[64 outputs, TILE_TOKENS] = or += w[64, 16] * x[TILE_TOKENS, 16]^T. The first product of a tile takes
// no sums in, which lets the epilogue use their registers as soon as it has read them.
DEVICE void multiply(float (&sums)[ACCUMULATORS], u64 w, u64 x, bool first) {
  if (first) {
    asm volatile(WGMMA("0") : SUMS("=f", sums) : "l"(w), "l"(x), "n"(BACKWARD));
  } else {
    asm volatile(WGMMA("1") : SUMS("+f", sums) : "l"(w), "l"(x), "n"(BACKWARD));
  }
}
// Sixteen inputs on: 32 bytes along the rows, or 16 rows where the inputs are the rows.
constexpr u64 X_STEP = 32 >> 4, W_STEP = (BACKWARD ? 16 * 128 : 32) >> 4;

// ---- the tiles of a cluster ----------------------------------------------------------------------

DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

struct Walk {
  int first, step, tiles;  // of clusters
  int outTiles;            // along the outputs, which go fastest
  int rank;                // of this block in its cluster

  DEVICE_MEMBER int output(int tile) const {
    return tile % outTiles * TILE_OUT + rank * BLOCK_OUT;
  }
  DEVICE_MEMBER int token(int tile) const { return tile / outTiles * TILE_TOKENS; }
};

// Keeps the stages full: one thread.
DEVICE void produce(const Walk &walk, u32 shared, const TensorMap &x, const TensorMap &weight,
                    int kTiles) {
  constexpr int SHARE = TILE_TOKENS / CLUSTER;
  Ring<STAGES> stage;
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    const int output = walk.output(tile), token = walk.token(tile) + walk.rank * SHARE;
    for (int k = 0; k < kTiles; k++) {
      const u32 full = shared + FULL_AT + 8 * stage.slot;
      barrier_wait(shared + EMPTY_AT + 8 * stage.slot, stage.phase ^ 1);
      barrier_expect(full, X_BYTES + W_BYTES);
      load_tile_multicast(shared + X_AT + stage.slot * X_BYTES + walk.rank * SHARE * 128, x, k * 64,
                          token, full, (1 << CLUSTER) - 1);
#pragma unroll
      for (int block = 0; block < BLOCKS; block++) {
        const int out = output + block * 64;
        load_tile(shared + W_AT + stage.slot * W_BYTES + block * W_BLOCK_BYTES, weight,
                  BACKWARD ? out : k * 64, BACKWARD ? k * 64 : out, full);
      }
      stage.advance();
    }
  }
}

// Carries the pieces of one warpgroup, which has every other tile: one thread.
DEVICE void move_pieces(const Walk &walk, u32 shared, int warpgroup, const TensorMap &inner,
                        const TensorMap &y) {
  const u32 pieces = shared + PIECES_AT + warpgroup * STORE_BUFFERS * PIECE_BYTES;
  const u32 ready = shared + READY_AT + warpgroup * STORE_BUFFERS * 8;
  const u32 staged = shared + STAGED_AT + warpgroup * STORE_BUFFERS * 8;
  constexpr int PER_TILE = BLOCKS * PIECES * STORED;
  const int first = walk.first + warpgroup * walk.step, step = WARPGROUPS * walk.step;
  const int count = first < walk.tiles ? (walk.tiles - first + step - 1) / step * PER_TILE : 0;
  auto column = [&](int n) {
    return walk.output(first + n / PER_TILE * step) + n % PER_TILE / (PIECES * STORED) * 64;
  };
  auto row = [&](int n) {
    return walk.token(first + n / PER_TILE * step) + n / STORED % PIECES * STORE_TOKENS;
  };
  auto make_ready = [&](int n) {
    const int slot = n % STORE_BUFFERS;
    if (BACKWARD) {
      barrier_expect(ready + 8 * slot, PIECE_BYTES);
      load_tile(pieces + slot * PIECE_BYTES, inner, column(n), row(n), ready + 8 * slot);
    } else {
      barrier_arrive(ready + 8 * slot);
    }
  };
  for (int n = 0; n < STORE_BUFFERS && n < count; n++) make_ready(n);
  for (int n = 0; n < count; n++) {
    const int slot = n % STORE_BUFFERS;
    barrier_wait(staged + 8 * slot, n / STORE_BUFFERS & 1);
    store_tile(pieces + slot * PIECE_BYTES, STORED == 2 && n % 2 == 0 ? inner : y, column(n), row(n));
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    if (n + STORE_BUFFERS < count) make_ready(n + STORE_BUFFERS);
  }
}

// ---- sums and epilogue ---------------------------------------------------------------------------

// gelu'(x) = Phi(x) + x * phi(x): with a = |x| it is h for negative x and 1 - h for the others, h =
// exp(-a^2 / 2) times a polynomial. Off by at most 6.3e-5, where bf16 resolves 2e-3 of what it scales.
DEVICE float gelu_derivative_fast(float x) {
  const float a = fabsf(x);
  float p = fmaf(-2.7397488e-03f, a, 2.5281172e-02f);
  p = fmaf(p, a, -9.9663958e-02f);
  p = fmaf(p, a, 2.3543525e-01f);
  p = fmaf(p, a, -7.9551064e-01f);
  p = fmaf(p, a, 4.9993738e-01f);
  const float h = exp2_fast(-0.72134752f * a * a) * p;
  return x < 0.0f ? h : 1.0f - h;
}

struct Consumer {
  u32 shared;
  int warpgroup, thread;
  u32 releaseAt;  // in the first threads: the EMPTY barriers of one of the cluster's blocks
  Ring<STORE_BUFFERS> buffer;

  DEVICE_MEMBER void release(int slot) const {
    if (thread < CLUSTER) barrier_arrive_remote(releaseAt + 8 * slot);
  }

  DEVICE_MEMBER void begin_piece() const {
    barrier_wait(shared + READY_AT + 8 * (warpgroup * STORE_BUFFERS + buffer.slot), buffer.phase);
  }
  DEVICE_MEMBER void end_piece() {
    fence_async();
    __syncwarp();
    if (thread % 32 == 0) {
      barrier_arrive(shared + STAGED_AT + 8 * (warpgroup * STORE_BUFFERS + buffer.slot));
    }
    buffer.advance();
  }

  // Hands one block's results to the mover, a piece at a time. A thread of lane 4g + c in warp w holds, for
  // each eight tokens, outputs 16w + g and 16w + g + 8 at tokens 2c and 2c + 1; columnSums are over these.
  DEVICE_MEMBER void store(const float (&sums)[ACCUMULATORS], const float (&bias)[2],
                           float (&columnSums)[2]) {
    const int lane = thread % 32, warp = thread / 32;
    const u32 place = (lane / 16 * 8 + lane % 8) * 128 + ((warp * 2 + lane / 8 % 2) ^ (lane % 8)) * 16;
    const u32 pieces = shared + PIECES_AT + warpgroup * STORE_BUFFERS * PIECE_BYTES + place;
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
      const float *s = sums + piece * STORE_TOKENS / 2;
#pragma unroll
      for (int matrix = 0; matrix < STORED; matrix++) {
        const u32 at = pieces + buffer.slot * PIECE_BYTES;
        begin_piece();
#pragma unroll
        for (int j = 0; j < STORE_TOKENS / 16; j++) {
          u32 words[4];
          if (BACKWARD) load_matrix_x4_transposed(words, at + j * 16 * 128);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const float low = s[8 * j + 2 * i], high = s[8 * j + 2 * i + 1];
            if (BACKWARD) {
              words[i] = to_pair(low * gelu_derivative_fast(low_float(words[i])),
                                 high * gelu_derivative_fast(high_float(words[i])));
              columnSums[i % 2] += low_float(words[i]) + high_float(words[i]);
            } else if (!INNER) {
              words[i] = to_pair(gelu_fast(low + bias[i % 2]), gelu_fast(high + bias[i % 2]));
            } else {
              words[i] = to_pair(low + bias[i % 2], high + bias[i % 2]);
              if (matrix == 1) {
                words[i] = to_pair(gelu_fast(low_float(words[i])), gelu_fast(high_float(words[i])));
              }
            }
          }
          store_transposed(at + j * 16 * 128, words);
        }
        end_piece();
      }
    }
  }
};

// The turns go by TURN rather than by the stages alone, since a barrier of a stage tells only the last
// round from the one before.
DEVICE void consume(Consumer &c, const Walk &walk, const element *bias, float *partial, int out,
                    int kTiles) {
  float sums[BLOCKS][ACCUMULATORS];
  int count = c.warpgroup * kTiles;  // of stages before this tile
  u32 turn = 0;
  for (int tile = walk.first + c.warpgroup * walk.step; tile < walk.tiles;
       tile += WARPGROUPS * walk.step) {
    barrier_wait(c.shared + TURN_AT + 8 * c.warpgroup, turn);
    turn ^= 1;
    int previous = 0;
    auto multiply_stage = [&](int k, bool first) {
      const int slot = (count + k) % STAGES;
      barrier_wait(c.shared + FULL_AT + 8 * slot, (count + k) / STAGES & 1);
      if (k == kTiles - 1 && c.thread == 0) {
        barrier_arrive(c.shared + TURN_AT + 8 * (c.warpgroup ^ 1));
      }
      const u64 x = descriptor(c.shared + X_AT + slot * X_BYTES);
      const u64 w = descriptor(c.shared + W_AT + slot * W_BYTES);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; step++) {
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
          multiply(sums[block], w + block * (W_BLOCK_BYTES >> 4) + step * W_STEP, x + step * X_STEP,
                   first && step == 0);
        }
      }
      wgmma_commit();
      return slot;
    };
    previous = multiply_stage(0, true);
    for (int k = 1; k < kTiles; k++) {
      const int slot = multiply_stage(k, false);
      wgmma_wait<1>();
      c.release(previous);
      previous = slot;
    }
    count += WARPGROUPS * kTiles;

    const int lane = c.thread % 32;
    const int output = walk.output(tile) + c.thread / 32 * 16 + lane / 4;
    float biases[BLOCKS][2] = {}, columnSums[BLOCKS][2] = {};
#pragma unroll
    for (int i = 0; i < 2 * BLOCKS; i++) {
      const int at = output + i / 2 * 64 + i % 2 * 8;
      if (!BACKWARD && at < out) biases[i / 2][i % 2] = to_float(bias[at]);
    }
    wgmma_wait<0>();
    c.release(previous);
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
      c.store(sums[block], biases[block], columnSums[block]);
    }
#pragma unroll
    for (int i = 0; BACKWARD && i < 2 * BLOCKS; i++) {
      float sum = columnSums[i / 2][i % 2];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int at = output + i / 2 * 64 + i % 2 * 8;
      if (lane % 4 == 0 && at < out) partial[(u64)(tile / walk.outTiles) * out + at] = sum;
    }
  }
}

// ---- entry ---------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__((WARPGROUPS + 1) * 128, 1)
    gelu_gemm_sm90(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight,
                   const __grid_constant__ TensorMap inner, const __grid_constant__ TensorMap y,
                   const element *bias, float *partial, int tokens, int out, int kTiles) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int warpgroup = warpgroup_index();
  const int thread = threadIdx.x % 128;
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(shared + FULL_AT + 8 * i, 1);
      barrier_init(shared + EMPTY_AT + 8 * i, CLUSTER);
    }
    for (int i = 0; i < WARPGROUPS * STORE_BUFFERS; i++) {
      barrier_init(shared + READY_AT + 8 * i, 1);
      barrier_init(shared + STAGED_AT + 8 * i, 4);
    }
    for (int i = 0; i < WARPGROUPS; i++) barrier_init(shared + TURN_AT + 8 * i, 1);
    fence_barriers();
    barrier_arrive(shared + TURN_AT);
  }
  cluster_sync();
  wait_for_previous_kernel();
  let_next_kernel_start();

  Walk walk;
  walk.first = blockIdx.x / CLUSTER;
  walk.step = gridDim.x / CLUSTER;
  walk.rank = rank;
  walk.outTiles = (out + TILE_OUT - 1) / TILE_OUT;
  walk.tiles = walk.outTiles * ((tokens + TILE_TOKENS - 1) / TILE_TOKENS);
  // Registers go where the sums are: 168 a thread at the launch.
  if (warpgroup == WARPGROUPS) {
    keep_registers<40>();
    if (thread == 0) {
      prefetch_map(x);
      prefetch_map(weight);
      produce(walk, shared, x, weight, kTiles);
    } else if (thread % 32 == 0 && thread / 32 <= WARPGROUPS) {
      prefetch_map(inner);
      prefetch_map(y);
      move_pieces(walk, shared, thread / 32 - 1, inner, y);
    }
    __syncwarp();
  } else {
    take_registers<232>();
    Consumer consumer;
    consumer.shared = shared;
    consumer.warpgroup = warpgroup;
    consumer.thread = thread;
    consumer.releaseAt = remote_address(shared + EMPTY_AT, thread % CLUSTER);
    consume(consumer, walk, bias, partial, out, kTiles);
  }
  // A block's stages and barriers must outlive its peer's last writes to them.
  cluster_sync();
}
