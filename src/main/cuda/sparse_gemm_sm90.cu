// y[tokens, out] = epilogue(x[tokens, in] * W[out, in]^T) with W in 2:4 form, on Hopper.
//
// The sparse operand of wgmma is always the first, so a tile computes y^T: TILE_OUT outputs (rows of
// W, 64 a block) by TILE_TOKENS tokens, fp32 sums in registers, y transposed on its way out.
//
//                      GFLOP (dense)   bytes of device memory (fp16)     floor, H100
//   98,304 tokens                      x      y      residual            3.0 TB/s    1,630 TFLOP/s
//   2304 x  768        348             151    453      -    MB           0.20 ms     0.21 ms
//   3072 x  768        464             151    604      -                 0.25        0.28
//    768 x 3072        464             604    151    151                 0.30        0.28
//    768 x  768        116             151    151    151                 0.15        0.07
//
// (W and its metadata, 9/16 of the dense weight, are at most 2.7 MB. 1,630 is what m64n192k32 can do
// at 1.755 GHz with both operands in shared memory: 14 KB at 128 bytes a cycle are 112 cycles.)
// In between lies the power cap: at 700 W the clock falls to 1.4 to 1.65 GHz in all large products, so
// that energy is what a change has to save. Fetches out of L2 are 43 KB for the 6.3 MFLOP of a stage of
// 256 x 192. The blocks of a cluster can share them: blocks of the same outputs each fetch a slice of
// W, blocks of the same tokens a slice of x, and the copy engine delivers a slice to all of them. Two
// blocks of the same outputs pay with GELU and for 1,024 inputs and more; other clusters lost.
// The copy engine fills the stages through the same 128 bytes a cycle that the products read. A weight
// that its warpgroup holds in registers (HELD) is neither filled in nor read again, 96 cycles for 112; up
// to 768 inputs fit there.
//
// RESIDENTS blocks run on a multiprocessor and walk over tiles, outputs fastest, so that a tile of x is
// fetched from device memory once and serves all outputs out of L2. Its warps:
//   - WARPGROUPS consumer warpgroups, one above another along the outputs, BLOCKS of 64 each;
//   - a producer warp, whose one thread keeps STAGES tiles of W and x (64 inputs each) in flight;
//   - a mover warp for each consumer warpgroup: fetches pieces of the residual, STORE_TOKENS tokens
//     each, into the buffers that the finished pieces of y then leave from.
// They meet at mbarriers only; consumers never wait for a store to finish before going on.
//
// HELD is 0, or the inputs in blocks of 64: then the grid is a multiple of the tiles along the outputs, so
// that a block has the same outputs in all its tiles, and only x goes through the stages.
//
// Operands
//   x          tensor map of [tokens, in], box {64, TILE_TOKENS / CLUSTER_OUT}
//   y          tensor map of [tokens, out], box {64, STORE_TOKENS}
//   residual   the same for the residual, which may be y itself; any map where there is none
//   weight     packed as dev.halve.cuda.SparseGemmLayout says
//   bias       fp32 [out]
//   tokenCount null, or how many of the tokens are wanted: tiles past them are left out
//
// NORM 1 takes the LayerNorm out of memory. Where a matrix is to be normalised, its rows lie there as
// they were before, and beside it for each row the two numbers that make the norm a multiplication and
// an addition, n = scale[t] * v + shift[t]; token_norms.cu has them from the moments. Then
//   without a residual, x is the one to be normalised, gamma lies in W's columns and beta in the bias:
//     y = epilogue(scale[t] * (W x) + shift[t] * slope[o] + bias[o]), slope the row sums of W;
//   with one, the residual is, with gamma as slope and beta in the bias, and y's own moments are written:
//     y = W x + bias[o] + slope[o] * (scale[t] * residual + shift[t]).
//   slope      fp32 [out]
//   norms      float2 [tokens], scale and shift, with room for a whole tile's at the end
//   yMoments   float2 [ceil(out / 64), tokens], of each 64 columns of y as it was rounded: the mean and
//              the sum of squares around it
// That is 12 * 8 bytes a token beside 1,536 for a pass over 768 columns.
// All maps: 16-bit elements, 128-byte swizzle, zeros out of bounds. So in, out and tokens may be any
// numbers, but addresses and row pitches must be multiples of 16 bytes (8 elements): rows of another
// length are to be copied into longer ones first. y's columns from out to the next multiple of 8 are
// overwritten, since the copy engine stores 16 bytes at a time.
//
// Launch: (WARPGROUPS + 1) * 128 threads; clusters of CLUSTER_OUT * CLUSTER_TOKENS blocks, as many as
// fit the GPU at once or as there are tiles; dynamic shared memory as SparseGemmTile.Sm90 says. May
// be launched with programmatic stream serialisation.
#include "common.cuh"
#include "hopper.cuh"

constexpr int BIAS_GELU = 1, BIAS_RESIDUAL = 2;
constexpr bool MOMENTS = NORM && EPILOGUE == BIAS_RESIDUAL;  // of y are written
constexpr int CLUSTER = CLUSTER_OUT * CLUSTER_TOKENS;
constexpr int PEERS = CLUSTER_OUT + CLUSTER_TOKENS - 1;  // blocks that write into one's stages
constexpr int BLOCK_BYTES = 4608, METADATA = 4096;       // of 64 outputs by 64 inputs
constexpr int TILE_BLOCKS = WARPGROUPS * BLOCKS;
constexpr int X_BYTES = TILE_TOKENS * 128, W_BYTES = HELD ? 0 : TILE_BLOCKS * BLOCK_BYTES;
constexpr int X_SLICE = X_BYTES / CLUSTER_OUT, W_SLICE = W_BYTES / CLUSTER_TOKENS;
constexpr int PIECE_BYTES = STORE_TOKENS * 128;
constexpr int PIECES = TILE_TOKENS / STORE_TOKENS;  // of one block of 64 outputs
constexpr int ACCUMULATORS = TILE_TOKENS / 2;       // per thread and block
static_assert(TILE_TOKENS % (8 * CLUSTER_OUT) == 0 && W_SLICE % 16 == 0, "slices of a cluster");
static_assert(TILE_TOKENS % STORE_TOKENS == 0 && STORE_TOKENS % 16 == 0, "pieces of a tile");

// ---- shared memory -------------------------------------------------------------------------------

constexpr int X_AT = 0, PIECES_AT = X_AT + STAGES * X_BYTES;
constexpr int W_AT = PIECES_AT + WARPGROUPS * STORE_BUFFERS * PIECE_BYTES;
constexpr int FULL_AT = W_AT + STAGES * W_BYTES, EMPTY_AT = FULL_AT + 8 * STAGES;
constexpr int READY_AT = EMPTY_AT + 8 * STAGES;                      // a piece may be filled
constexpr int STAGED_AT = READY_AT + 8 * WARPGROUPS * STORE_BUFFERS;  // a piece may leave
constexpr int NORM_FULL_AT = STAGED_AT + 8 * WARPGROUPS * STORE_BUFFERS;
constexpr int NORM_EMPTY_AT = NORM_FULL_AT + 16;
constexpr int NORMS_AT = FULL_AT + 512, NORM_BYTES = TILE_TOKENS * 8;  // two tiles' scales and shifts
static_assert(NORM_EMPTY_AT + 16 <= NORMS_AT, "barriers");

DEVICE void cluster_sync() {
  if (CLUSTER > 1) {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  } else {
    __syncthreads();
  }
}

// ---- copy engine ---------------------------------------------------------------------------------

DEVICE void load_bytes(u32 shared, const void *global, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1], %2, [%3];" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}
DEVICE void load_weight(u32 shared, const u8 *global, u32 barrier, u16 blocks) {
  if (CLUSTER_TOKENS > 1) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;" ::"r"(shared),
        "l"(global), "r"(W_SLICE), "r"(barrier), "h"(blocks)
        : "memory");
  } else {
    load_bytes(shared, global, W_SLICE, barrier);
  }
}

// ---- sparse tensor cores -------------------------------------------------------------------------

// The registers of one instruction for each width: the sums first (%0 and on), then the operands (two
// descriptors, metadata, selector).
#if TILE_TOKENS == 64
#define SUM_NAMES TEN() TEN(1) TEN(2) "%30,%31"
#define OPERAND_NAMES "%32, %33, %34, %35"
#define SUMS(c, s) SUMS_32(c, s, 0)
#elif TILE_TOKENS == 96
#define SUM_NAMES TEN() TEN(1) TEN(2) TEN(3) "%40,%41,%42,%43,%44,%45,%46,%47"
#define OPERAND_NAMES "%48, %49, %50, %51"
#define SUMS(c, s) SUMS_32(c, s, 0), SUMS_16(c, s, 32)
#elif TILE_TOKENS == 128
#define SUM_NAMES TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60,%61,%62,%63"
#define OPERAND_NAMES "%64, %65, %66, %67"
#define SUMS(c, s) SUMS_64(c, s, 0)
#elif TILE_TOKENS == 192
#define SUM_NAMES \
  TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) "%90,%91,%92,%93,%94,%95"
#define OPERAND_NAMES "%96, %97, %98, %99"
#define HELD_NAMES "{%96, %97, %98, %99}, %100, %101, %102"
#define SUMS(c, s) SUMS_64(c, s, 0), SUMS_32(c, s, 64)
#elif TILE_TOKENS == 256
#define SUM_NAMES                                                                        \
  TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11)   \
  "%120,%121,%122,%123,%124,%125,%126,%127"
#define OPERAND_NAMES "%128, %129, %130, %131"
#define SUMS(c, s) SUMS_64(c, s, 0), SUMS_64(c, s, 64)
#endif

// sums[64 outputs, TILE_TOKENS] = or += w[64, 32 of 2:4] * x[TILE_TOKENS, 32]^T. The first product of a
// tile takes no sums in, which lets the epilogue use their registers as soon as it has read them.
#define WGMMA(accumulate, operands)                                                  \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " accumulate ", 0;\n"                            \
  "wgmma.mma_async.sp.sync.aligned.m64n" TEXT(TILE_TOKENS) "k32" TYPES "{" SUM_NAMES \
  "}, " operands ";\n}"
#define SHARED_OPERANDS OPERAND_NAMES ", p, 1, 1, 0, 0"
template <int SELECTOR>
DEVICE void multiply(float (&sums)[ACCUMULATORS], u64 w, u64 x, u32 metadata, bool first = false) {
  if (first) {
    asm volatile(WGMMA("0", SHARED_OPERANDS)
                 : SUMS("=f", sums)
                 : "l"(w), "l"(x), "r"(metadata), "n"(SELECTOR));
  } else {
    asm volatile(WGMMA("1", SHARED_OPERANDS)
                 : SUMS("+f", sums)
                 : "l"(w), "l"(x), "r"(metadata), "n"(SELECTOR));
  }
}
#if HELD
// The same with a weight from registers.
#define HELD_OPERANDS HELD_NAMES ", p, 1, 1, 0"
template <int SELECTOR>
DEVICE void multiply(float (&sums)[ACCUMULATORS], const u32 *w, u64 x, u32 metadata,
                     bool first = false) {
  if (first) {
    asm volatile(WGMMA("0", HELD_OPERANDS)
                 : SUMS("=f", sums)
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(x), "r"(metadata), "n"(SELECTOR));
  } else {
    asm volatile(WGMMA("1", HELD_OPERANDS)
                 : SUMS("+f", sums)
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(x), "r"(metadata), "n"(SELECTOR));
  }
}
#endif

// Operand descriptors: address and leading offset in the low word, stride and swizzle in the high one.
// W: rows of 64 bytes in 64-byte swizzle, 512 bytes to the next eight; a step of 32 inputs is 32 bytes.
// x: rows of 128 bytes in 128-byte swizzle, 1,024 bytes to the next eight; a step is 64 bytes.
DEVICE u64 weight_descriptor(u32 shared, int step) {
  return (u64)(512 >> 4 | 2u << 30) << 32 | (shared >> 4 | 1u << 16) + step * (32 >> 4);
}
DEVICE u64 x_descriptor(u32 shared, int step) {
  return (u64)(1024 >> 4 | 1u << 30) << 32 | (shared >> 4 | 1u << 16) + step * (64 >> 4);
}

// ---- the tiles of a cluster ----------------------------------------------------------------------

struct Walk {
  int first, step, tiles;        // of clusters
  int outTiles;                  // along the outputs, which go fastest
  int rankOut, rankTokens;       // of this block in its cluster

  DEVICE_MEMBER int out_block(int tile) const {  // in blocks of 64 outputs
    return (tile % outTiles * CLUSTER_OUT + rankOut) * TILE_BLOCKS;
  }
  DEVICE_MEMBER int token(int tile) const {
    return (tile / outTiles * CLUSTER_TOKENS + rankTokens) * TILE_TOKENS;
  }
};

// Keeps the stages full: one thread of the block.
DEVICE void produce(const Walk &walk, u32 shared, const TensorMap &x, const u8 *weight,
                    const float2 *norms, int outBlocks, int kTiles) {
  // Blocks of the same outputs have ranks CLUSTER_OUT apart, blocks of the same tokens are neighbours.
  u16 sameOut = 0;
  for (int i = 0; i < CLUSTER_TOKENS; i++) sameOut |= 1 << (i * CLUSTER_OUT + walk.rankOut);
  const u16 sameTokens = ((1 << CLUSTER_OUT) - 1) << (walk.rankTokens * CLUSTER_OUT);
  Ring<STAGES> stage;
  Ring<2> norm;
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    if (NORM) {
      const u32 full = shared + NORM_FULL_AT + 8 * norm.slot;
      barrier_wait(shared + NORM_EMPTY_AT + 8 * norm.slot, norm.phase ^ 1);
      barrier_expect(full, NORM_BYTES);
      load_bytes(shared + NORMS_AT + norm.slot * NORM_BYTES, norms + walk.token(tile), NORM_BYTES,
                 full);
      norm.advance();
    }
    const u8 *w = weight + (u64)walk.out_block(tile) * BLOCK_BYTES + walk.rankTokens * W_SLICE;
    const int token = walk.token(tile) + walk.rankOut * (TILE_TOKENS / CLUSTER_OUT);
    for (int k = 0; k < kTiles; k++) {
      const u32 full = shared + FULL_AT + 8 * stage.slot;
      const u32 to_x = shared + X_AT + stage.slot * X_BYTES + walk.rankOut * X_SLICE;
      const u32 to_w = shared + W_AT + stage.slot * W_BYTES + walk.rankTokens * W_SLICE;
      barrier_wait(shared + EMPTY_AT + 8 * stage.slot, stage.phase ^ 1);
      barrier_expect(full, X_BYTES + W_BYTES);
      if (!HELD) load_weight(to_w, w, full, sameOut);
      if (CLUSTER_OUT > 1) {
        load_tile_multicast(to_x, x, k * 64, token, full, sameTokens);
      } else {
        load_tile(to_x, x, k * 64, token, full);
      }
      w += (u64)outBlocks * BLOCK_BYTES;
      stage.advance();
    }
  }
}

// The moments of a piece's tokens, a row each: 64 outputs, or what is left of y. The squares' sum less
// the mean's loses to a large mean what y's rounding has lost already.
DEVICE void write_moments(float2 *moments, u32 piece, int firstToken, int tokens, int columns) {
#pragma unroll 1
  for (int row = threadIdx.x % 32; row < STORE_TOKENS; row += 32) {
    float sum[2] = {}, squares[2] = {};
#pragma unroll
    for (int j = 0; j < 8; j++) {
      uint4 words;
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                   : "r"(piece + row * 128 + (j ^ row % 8) * 16)
                   : "memory");
      const Eight eight = unpack(words);
      if (j * 8 < columns) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          sum[i % 2] += eight.value[i];
          squares[i % 2] = fmaf(eight.value[i], eight.value[i], squares[i % 2]);
        }
      }
    }
    const float total = sum[0] + sum[1], mean = __fdividef(total, min(64, columns));
    if (firstToken + row < tokens) {
      moments[firstToken + row] =
          make_float2(mean, fmaxf(squares[0] + squares[1] - total * mean, 0.0f));
    }
  }
}

// Carries the pieces of one warpgroup: the residual in, y out. One warp for each warpgroup, whose first
// thread copies.
DEVICE void move_pieces(const Walk &walk, u32 shared, int warpgroup, const TensorMap &y,
                        const TensorMap &residual, float2 *yMoments, int tokens, int out) {
  const bool leader = threadIdx.x % 32 == 0;
  const u32 pieces = shared + PIECES_AT + warpgroup * STORE_BUFFERS * PIECE_BYTES;
  const u32 ready = shared + READY_AT + warpgroup * STORE_BUFFERS * 8;
  const u32 staged = shared + STAGED_AT + warpgroup * STORE_BUFFERS * 8;
  const int perTile = BLOCKS * PIECES;
  const int tiles = (walk.tiles - walk.first + walk.step - 1) / walk.step;
  auto column = [&](int n) {
    const int block = walk.out_block(walk.first + n / perTile * walk.step);
    return (block + warpgroup * BLOCKS + n % perTile / PIECES) * 64;
  };
  auto row = [&](int n) {
    return walk.token(walk.first + n / perTile * walk.step) + n % PIECES * STORE_TOKENS;
  };
  auto make_ready = [&](int n) {
    const int slot = n % STORE_BUFFERS;
    if (leader && EPILOGUE == BIAS_RESIDUAL) {
      barrier_expect(ready + 8 * slot, PIECE_BYTES);
      load_tile(pieces + slot * PIECE_BYTES, residual, column(n), row(n), ready + 8 * slot);
    } else if (leader || MOMENTS) {
      barrier_arrive(ready + 8 * slot);
    }
  };
  for (int n = 0; n < STORE_BUFFERS && n < tiles * perTile; n++) make_ready(n);
  for (int n = 0; n < tiles * perTile; n++) {
    const int slot = n % STORE_BUFFERS;
    barrier_wait(staged + 8 * slot, n / STORE_BUFFERS & 1);
    if (leader) store_tile(pieces + slot * PIECE_BYTES, y, column(n), row(n));
    if (MOMENTS && column(n) < out) {
      write_moments(yMoments + (u64)(column(n) / 64) * tokens, pieces + slot * PIECE_BYTES, row(n),
                    tokens, out - column(n));
    }
    if (leader) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    __syncwarp();
    if (n + STORE_BUFFERS < tiles * perTile) make_ready(n + STORE_BUFFERS);
  }
}

// ---- sums and epilogue ---------------------------------------------------------------------------

// What is added to and multiplied with one output's sums.
struct Affine {
  float bias, slope;
};

// One element of y. The scale and the shift are those of its token.
DEVICE float finish(float sum, const Affine &output, float residual, float scale, float shift) {
  if (EPILOGUE == BIAS_RESIDUAL) {
    if (!NORM) return sum + output.bias + residual;
    return fmaf(output.slope, fmaf(scale, residual, shift), sum + output.bias);
  }
  const float value =
      NORM ? fmaf(scale, sum, fmaf(shift, output.slope, output.bias)) : sum + output.bias;
  return EPILOGUE == BIAS_GELU ? gelu_fast(value) : value;
}

// One consumer warpgroup.
struct Consumer {
  u32 shared;
  int warpgroup, thread;
  u32 releaseAt;  // this thread's peer's EMPTY barriers
  Ring<STAGES> stage;
  Ring<STORE_BUFFERS> buffer;
  int norm = 0;  // tiles so far

  DEVICE_MEMBER void wait_norms() const {
    if (NORM) barrier_wait(shared + NORM_FULL_AT + 8 * (norm % 2), norm / 2 % 2);
  }
  DEVICE_MEMBER void release_norms() {
    if (!NORM) return;
    barrier_arrive(shared + NORM_EMPTY_AT + 8 * (norm % 2));
    norm++;
  }

  DEVICE_MEMBER void wait_stage() { barrier_wait(shared + FULL_AT + 8 * stage.slot, stage.phase); }

  // Every thread for itself, since each reads metadata: racecheck follows a barrier from what a
  // thread did to its own arrival.
  DEVICE_MEMBER void release(int slot) const {
    if (CLUSTER > 1) {
      for (int p = 0; p < PEERS; p++) {
        barrier_arrive_remote(__shfl_sync(0xffffffffu, releaseAt, p) + 8 * slot);
      }
    } else {
      barrier_arrive(shared + EMPTY_AT + 8 * slot);
    }
  }

  DEVICE_MEMBER u32 weight(int slot, int block) const {
    return shared + W_AT + slot * W_BYTES + (warpgroup * BLOCKS + block) * BLOCK_BYTES;
  }
  DEVICE_MEMBER u32 metadata(int slot, int block) const {
    u32 word;
    asm volatile("ld.shared.b32 %0, [%1];"
                 : "=r"(word)
                 : "r"(weight(slot, block) + METADATA + thread * 4)
                 : "memory");
    return word;
  }
  // One block's product of a whole stage.
  DEVICE_MEMBER void multiply_stage(float (&sums)[ACCUMULATORS], int slot, int block, u32 metadata,
                                    bool first) const {
    const u32 w = weight(slot, block), x = shared + X_AT + slot * X_BYTES;
    multiply<0>(sums, weight_descriptor(w, 0), x_descriptor(x, 0), metadata, first);
    multiply<1>(sums, weight_descriptor(w, 1), x_descriptor(x, 1), metadata);
  }

  // Scale and shift of this thread's two tokens in each eight of sixteen.
  DEVICE_MEMBER void load_norms(float4 (&pairs)[2], u32 shared) const {
#pragma unroll
    for (int half = 0; NORM && half < 2; half++) {
      asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                   : "=f"(pairs[half].x), "=f"(pairs[half].y), "=f"(pairs[half].z),
                     "=f"(pairs[half].w)
                   : "r"(shared + half * 64));
    }
  }

  // Rounds one block's sums and hands them to the mover, a piece at a time. A thread of lane 4g + c
  // in warp w holds, for each eight tokens, outputs 16w + g and 16w + g + 8 at tokens 2c and 2c + 1.
  DEVICE_MEMBER void store(const float (&sums)[ACCUMULATORS], const Affine (&outputs)[2]) {
    const int lane = thread % 32, warp = thread / 32;
    const int row = lane / 16 * 8 + lane % 8;
    const int chunk = (warp * 2 + lane / 8 % 2) ^ (lane % 8);
    const int first = warpgroup * STORE_BUFFERS;
    const u32 norms = shared + NORMS_AT + norm % 2 * NORM_BYTES + lane % 4 * 16;
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
      const u32 at = shared + PIECES_AT + (first + buffer.slot) * PIECE_BYTES + row * 128 + chunk * 16;
      barrier_wait(shared + READY_AT + 8 * (first + buffer.slot), buffer.phase);
      float4 next[2] = {};  // norms are fetched a step ahead
      load_norms(next, norms + piece * STORE_TOKENS * 8);
#pragma unroll
      for (int j = 0; j < STORE_TOKENS / 16; j++) {
        const float *s = sums + (piece * STORE_TOKENS + 16 * j) / 2;
        const float4 pairs[2] = {next[0], next[1]};
        if ((j + 1) * 16 < STORE_TOKENS) {
          load_norms(next, norms + (piece * STORE_TOKENS + (j + 1) * 16) * 8);
        }
        u32 words[4] = {0, 0, 0, 0};
        if (EPILOGUE == BIAS_RESIDUAL) load_matrix_x4_transposed(words, at + j * 16 * 128);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float4 &pair = pairs[half];
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; i++) {
            const Affine &o = outputs[i % 2];
            words[i] = to_pair(finish(s[2 * i], o, low_float(words[i]), pair.x, pair.y),
                               finish(s[2 * i + 1], o, high_float(words[i]), pair.z, pair.w));
          }
        }
        store_transposed(at + j * 16 * 128, words);
      }
      fence_async();
      barrier_arrive(shared + STAGED_AT + 8 * (first + buffer.slot));
      buffer.advance();
    }
  }
};

// Of this thread's two outputs in the block of 64 that starts at one.
DEVICE void load_outputs(Affine (&outputs)[2], const float *bias, const float *slope, int output,
                         int out) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int at = output + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + i * 8;
    outputs[i].bias = at < out ? __ldg(bias + at) : 0.0f;
    if (NORM) outputs[i].slope = at < out ? __ldg(slope + at) : 0.0f;
  }
}

// One block of outputs a warpgroup: sums, then the epilogue. Other warpgroups fill the gap.
DEVICE void consume_one(Consumer &c, const Walk &walk, const float *bias, const float *slope, int out,
                        int kTiles) {
  float sums[ACCUMULATORS];
  Affine outputs[2];
  auto multiply_next = [&](bool start) {
    const int slot = c.stage.slot;
    c.wait_stage();
    const u32 metadata = c.metadata(slot, 0);
    wgmma_fence();
    c.multiply_stage(sums, slot, 0, metadata, start);
    wgmma_commit();
    c.stage.advance();
    return slot;
  };
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    int previous = multiply_next(true);
    for (int k = 1; k < kTiles; k++) {
      const int slot = multiply_next(false);
      wgmma_wait<1>();
      c.release(previous);
      previous = slot;
    }
    const int output = (walk.out_block(tile) + c.warpgroup) * 64;
    load_outputs(outputs, bias, slope, output, out);
    wgmma_wait<0>();
    c.release(previous);
    c.wait_norms();
    c.store(sums, outputs);
    c.release_norms();
  }
}

// Two blocks a warpgroup. They run apart at both ends of a tile, so that the tensor cores have work
// during the epilogue: the last two stages are multiplied for the first block, then, while its sums
// leave, for the second; and while the second's leave, the next tile's first two for the first.
DEVICE void consume_two(Consumer &c, const Walk &walk, const float *bias, const float *slope, int out,
                        int kTiles) {
  float sums[2][ACCUMULATORS];
  Affine outputs[2];
  int slots[2];
  auto wait_two = [&] {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      slots[i] = c.stage.slot;
      c.wait_stage();
      c.stage.advance();
    }
  };
  auto multiply_two = [&](float(&blockSums)[ACCUMULATORS], int block, bool start) {
    const u32 m0 = c.metadata(slots[0], block), m1 = c.metadata(slots[1], block);
    wgmma_fence();
    c.multiply_stage(blockSums, slots[0], block, m0, start);
    c.multiply_stage(blockSums, slots[1], block, m1, false);
    wgmma_commit();
  };
  wait_two();
  multiply_two(sums[0], 0, true);
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    multiply_two(sums[1], 1, true);
    const int first = slots[0];
    int previous = slots[1];
    for (int k = 2; k < kTiles - 2; k++) {
      const int slot = c.stage.slot;
      c.wait_stage();
      const u32 m0 = c.metadata(slot, 0), m1 = c.metadata(slot, 1);
      const u32 w0 = c.weight(slot, 0), w1 = c.weight(slot, 1);
      const u32 x = c.shared + X_AT + slot * X_BYTES;
      wgmma_fence();
      multiply<0>(sums[0], weight_descriptor(w0, 0), x_descriptor(x, 0), m0);
      multiply<0>(sums[1], weight_descriptor(w1, 0), x_descriptor(x, 0), m1);
      multiply<1>(sums[0], weight_descriptor(w0, 1), x_descriptor(x, 1), m0);
      multiply<1>(sums[1], weight_descriptor(w1, 1), x_descriptor(x, 1), m1);
      wgmma_commit();
      wgmma_wait<1>();
      if (k == 2) c.release(first);
      c.release(previous);
      previous = slot;
      c.stage.advance();
    }
    wait_two();
    multiply_two(sums[0], 0, false);
    wgmma_wait<1>();
    if (kTiles == 4) c.release(first);
    c.release(previous);
    multiply_two(sums[1], 1, false);
    const int output = (walk.out_block(tile) + c.warpgroup * 2) * 64;
    load_outputs(outputs, bias, slope, output, out);
    wgmma_wait<1>();
    c.wait_norms();
    c.store(sums[0], outputs);
    load_outputs(outputs, bias, slope, output + 64, out);
    wgmma_wait<0>();
    c.release(slots[0]);
    c.release(slots[1]);
    if (tile + walk.step < walk.tiles) {
      wait_two();
      multiply_two(sums[0], 0, true);
    }
    c.store(sums[1], outputs);
    c.release_norms();
  }
  wgmma_wait<0>();  // nothing pends, but the compiler would serialise the products without it
}

#if HELD
// One block of outputs a warpgroup, the same for all its tiles: its weight stays in registers, as the
// first operand of a dense product would lie there. The second warpgroup is half a tile behind, so that
// each multiplies under the other's epilogue.
static_assert(HELD / 2 < STAGES, "the first warpgroup comes so far alone");
DEVICE void consume_held(Consumer &c, const Walk &walk, const u8 *weight, const float *bias,
                         const float *slope, int out) {
  float sums[ACCUMULATORS];
  u32 w[HELD][8], metadata[HELD];
  const int block = walk.out_block(walk.first) + c.warpgroup;
  const int lane = c.thread % 32;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const u8 *from = weight + ((u64)k * ((out + 63) / 64) + block) * BLOCK_BYTES;
    metadata[k] = __ldg((const u32 *)(from + METADATA) + c.thread);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int row = c.thread / 32 * 16 + i % 2 * 8 + lane / 4, chunk = i / 2 ^ row / 2 % 4;
      w[k][i] = __ldg((const u32 *)(from + row * 64 + chunk * 16) + lane % 4);
    }
  }
  Affine outputs[2];
  load_outputs(outputs, bias, slope, block * 64, out);
  if (c.warpgroup == 1) asm volatile("bar.sync 1, 256;" ::: "memory");
  for (int tile = walk.first; tile < walk.tiles; tile += walk.step) {
    int previous;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      const int slot = c.stage.slot;
      const u32 x = c.shared + X_AT + slot * X_BYTES;
      c.wait_stage();
      wgmma_fence();
      multiply<0>(sums, w[k], x_descriptor(x, 0), metadata[k], k == 0);
      multiply<1>(sums, w[k] + 4, x_descriptor(x, 1), metadata[k]);
      wgmma_commit();
      c.stage.advance();
      if (k > 0) {
        wgmma_wait<1>();
        c.release(previous);
      }
      previous = slot;
      if (k == HELD / 2 && c.warpgroup == 0 && tile == walk.first) {
        asm volatile("bar.arrive 1, 256;" ::: "memory");
      }
    }
    wgmma_wait<0>();
    c.release(previous);
    c.wait_norms();
    c.store(sums, outputs);
    c.release_norms();
  }
}
#endif

// ---- entry ---------------------------------------------------------------------------------------

// Registers of a thread, out of what the block was launched with and no more, or the last warpgroup to
// ask for them waits forever.
constexpr int LAUNCH_REGISTERS = 65536 / ((WARPGROUPS + 1) * 128 * RESIDENTS) / 8 * 8;
constexpr int CONSUMER_REGISTERS = WARPGROUPS == 3 ? 152 : RESIDENTS == 2 ? 96 : 232;
constexpr int OTHER_REGISTERS =
    LAUNCH_REGISTERS * (WARPGROUPS + 1) - CONSUMER_REGISTERS * WARPGROUPS;

extern "C" __global__ void __launch_bounds__((WARPGROUPS + 1) * 128, RESIDENTS)
    sparse_gemm_sm90(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap y,
                     const __grid_constant__ TensorMap residual, const u8 *weight,
                     const float *bias, int tokens, int out, int kTiles, const float *slope,
                     const float2 *norms, float2 *yMoments, const int *tokenCount) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int warpgroup = warpgroup_index();
  const int thread = threadIdx.x % 128;
  u32 rank = 0;
  if (CLUSTER > 1) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));

  if (threadIdx.x == 128 * WARPGROUPS) prefetch_map(x);
  if (threadIdx.x == 128 * WARPGROUPS + 32) {
    prefetch_map(y);
    if (EPILOGUE == BIAS_RESIDUAL) prefetch_map(residual);
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(shared + FULL_AT + 8 * i, 1);
      barrier_init(shared + EMPTY_AT + 8 * i, PEERS * 128 * WARPGROUPS);
    }
    for (int i = 0; i < WARPGROUPS * STORE_BUFFERS; i++) {
      barrier_init(shared + READY_AT + 8 * i, MOMENTS ? 32 : 1);
      barrier_init(shared + STAGED_AT + 8 * i, 128);
    }
    for (int i = 0; NORM && i < 2; i++) {
      barrier_init(shared + NORM_FULL_AT + 8 * i, 1);
      barrier_init(shared + NORM_EMPTY_AT + 8 * i, 128 * WARPGROUPS);
    }
    fence_barriers();
  }
  cluster_sync();

  const int outBlocks = (out + 63) / 64;
  Walk walk;
  walk.first = blockIdx.x / CLUSTER;
  walk.step = gridDim.x / CLUSTER;
  walk.rankOut = rank % CLUSTER_OUT;
  walk.rankTokens = rank / CLUSTER_OUT;
  const int clusterBlocks = TILE_BLOCKS * CLUSTER_OUT, clusterTokens = TILE_TOKENS * CLUSTER_TOKENS;
  walk.outTiles = (outBlocks + clusterBlocks - 1) / clusterBlocks;
  // What writes the count is followed by another kernel, which was launched after it had ended.
  const int wanted = tokenCount ? min(tokens, *(const volatile int *)tokenCount) : tokens;
  walk.tiles = walk.outTiles * ((wanted + clusterTokens - 1) / clusterTokens);
  if (walk.first >= walk.tiles) return;

  // Registers go where the sums are.
  if (warpgroup == WARPGROUPS) {
    if constexpr (WARPGROUPS > 1) keep_registers<OTHER_REGISTERS>();
    if (thread == 0) {
      wait_for_previous_kernel();
      produce(walk, shared, x, weight, norms, outBlocks, kTiles);
      let_next_kernel_start();
    } else if (thread >= 32 && thread / 32 <= WARPGROUPS) {
      wait_for_previous_kernel();
      move_pieces(walk, shared, thread / 32 - 1, y, residual, yMoments, tokens, out);
    }
    __syncwarp();
  } else {
    if constexpr (WARPGROUPS > 1) take_registers<CONSUMER_REGISTERS>();
    Consumer consumer;
    consumer.shared = shared;
    consumer.warpgroup = warpgroup;
    consumer.thread = thread;
    // A stage is written by the blocks of the same tokens and those of the same outputs: all of them
    // hear that it is free. A warp's first CLUSTER_OUT lanes tell the former, this block among them.
    const int lane = thread % 32, other = lane - CLUSTER_OUT;
    const int peer = lane < CLUSTER_OUT
                         ? walk.rankTokens * CLUSTER_OUT + lane
                         : (other + (other >= walk.rankTokens)) * CLUSTER_OUT + walk.rankOut;
    consumer.releaseAt = 0;
    if (CLUSTER > 1 && lane < PEERS) consumer.releaseAt = remote_address(shared + EMPTY_AT, peer);
#if HELD
    consume_held(consumer, walk, weight, bias, slope, out);
#else
    if (BLOCKS == 2) {
      consume_two(consumer, walk, bias, slope, out, kTiles);
    } else {
      consume_one(consumer, walk, bias, slope, out, kTiles);
    }
#endif
  }
  // A block's stages and barriers must outlive its peers' last writes to them.
  if (CLUSTER > 1) cluster_sync();
}
