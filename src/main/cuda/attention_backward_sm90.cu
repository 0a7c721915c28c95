// The gradients of self-attention on Hopper; what is computed, and in which layouts, is said in
// attention_backward.cu, which is the same operation for other GPUs and has attention_delta.
//
// 32 rows of 384 tokens, hidden 768, heads of 64: 36 GFLOP are 0.04 ms of wgmma; 57 M exponentials,
// as many hashes of dropout and about ten more instructions each take the schedulers 0.07 ms. 32 rows
// as SQuAD has them, 5,357 tokens: 10 GFLOP by blocks of 64, 0.01 ms, and 0.02 ms. So the five products
// must run beside that arithmetic, and no multiprocessor may wait for a longer row:
//   - thread blocks take pieces (a row and head) from a common count, the longest rows first. A piece's
//     keys come 64 at a time by each of two warpgroups, in turns, so that both are busy where the
//     number of blocks is odd: one is ahead, in the next piece, by as much as the rings hold;
//   - S^T = K Q^T and dP^T = V dO^T leave P^T and dS^T in registers as the first operands of
//     dV += (P . D)^T dO and dK += dS^T Q;
//   - dS goes to shared memory transposed for dQ = dS K, which a third warpgroup makes: of 128 keys at a
//     time, waiting in fp32 between, since nobody else adds to it;
//   - the copy engine brings keys, values, queries and dO; nobody waits for all at a barrier.
//
// Column sums of dQkv, the gradients of the projections' biases, are made where it is in registers:
// partial [rows, SUMS, 3 * hidden], zero before, which add_partials of column_sums.cu adds up.
//
// Nothing is added across blocks, and no two warps add to one sum: the same input gives the same bits,
// whoever takes a piece.
//
// Operands: `qkv` and `dOut` are tensor maps as in attention_sm90.cu; what a block of 64 holds of the
// next row is masked or set to zero.
//
// Compile-time: HEAD (32 or 64), DROPOUT. Launch: 512 threads, at most as many blocks as there are
// multiprocessors and at most rows * heads, dynamic shared memory KEYS_FULL + 2048 bytes. One launch at
// a time: the count is the module's.
#include "attention.cuh"
#include "dropout.cuh"
#include "hopper.cuh"

constexpr int COMPUTERS = 2;  // warpgroups with keys of their own
constexpr int THREADS = 128 * (COMPUTERS + 2);
constexpr int BLOCK = 64;  // keys or queries
constexpr int KEY_SLOTS = 4, STAGES = 4, PIECES = 4;
constexpr int ROW_BYTES = HEAD * 2;
constexpr int BLOCK_BYTES = BLOCK * ROW_BYTES;
constexpr int SCORE_BYTES = BLOCK * 128;  // of 64 queries with 64 keys
constexpr int MOST_SORTED = 1024;         // rows
constexpr int SUMS = 4 * COMPUTERS;       // of a row: one for each warp

// Shared memory: slots of K and V; stages of Q and dO; dS of each stage with two blocks of keys; what
// each query has; the rows from long to short; barriers; pieces.
constexpr int STAGES_AT = KEY_SLOTS * 2 * BLOCK_BYTES;
constexpr int SCORES_AT = STAGES_AT + STAGES * 2 * BLOCK_BYTES;
constexpr int PER_QUERY_AT = SCORES_AT + STAGES * COMPUTERS * SCORE_BYTES;
constexpr int ORDER_AT = PER_QUERY_AT + STAGES * 3 * BLOCK * 4;
constexpr int KEYS_FULL = ORDER_AT + MOST_SORTED * 2, KEYS_EMPTY = KEYS_FULL + 8 * KEY_SLOTS;
constexpr int STAGE_FULL = KEYS_EMPTY + 8 * KEY_SLOTS, STAGE_EMPTY = STAGE_FULL + 8 * STAGES;
constexpr int SCORES_FULL = STAGE_EMPTY + 8 * STAGES, SCORES_EMPTY = SCORES_FULL + 8 * STAGES;
constexpr int PIECE_FULL = SCORES_EMPTY + 8 * STAGES, PIECE_EMPTY = PIECE_FULL + 8 * PIECES;
constexpr int PIECES_AT = PIECE_EMPTY + 8 * PIECES;

// ---- products ------------------------------------------------------------------------------------

constexpr u64 SIXTEEN_ROWS = 16 * ROW_BYTES >> 4;

#define SCORES(c, accumulate)                                                    \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, " \
               "%32, %33, " accumulate ", 1, 1, 0, 0;"                           \
               : R16(c, s, 0), R16(c, s, 4)                                      \
               : "l"(a), "l"(b))

// s[64 keys, 64 queries] = or += a[64, 16] * b[64 queries, 16]^T.
template <bool FIRST> DEVICE void multiply_scores(float (&s)[8][4], u64 a, u64 b) {
  if constexpr (FIRST) SCORES("=f", "0"); else SCORES("+f", "1");
}
DEVICE void multiply_block(float (&s)[8][4], u64 a, u64 b) {
  multiply_scores<true>(s, a, b);
#pragma unroll
  for (int step = 1; step < HEAD / 16; step++) multiply_scores<false>(s, a + 2 * step, b + 2 * step);
}

// d[64, HEAD] += a[64, 16 rows of b] * b[16, HEAD]: a from registers.
DEVICE void multiply_rows(float (&d)[HEAD / 8][4], const u32 (&a)[4], u64 b) {
#if HEAD == 64
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, "
               "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : R16("+f", d, 0), R16("+f", d, 4)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#else
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16" TYPES "{" NAMES_16 "}, "
               "{%16,%17,%18,%19}, %20, 1, 1, 1, 1;"
               : R16("+f", d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}

// The same with a in shared memory, rows of 64 elements.
DEVICE void multiply_shared(float (&d)[HEAD / 8][4], u64 a, u64 b) {
#if HEAD == 64
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, "
               "%32, %33, 1, 1, 1, 0, 1;"
               : R16("+f", d, 0), R16("+f", d, 4)
               : "l"(a), "l"(b));
#else
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16" TYPES "{" NAMES_16 "}, "
               "%16, %17, 1, 1, 1, 0, 1;"
               : R16("+f", d, 0)
               : "l"(a), "l"(b));
#endif
}

// ---- the walk ------------------------------------------------------------------------------------

// A row and head.
struct Piece {
  int start, length, head, row;  // length is 0 behind the last

  DEVICE_MEMBER int blocks() const { return (length + BLOCK - 1) / BLOCK; }
};

// Pieces in the order in which they are handed out, and how many blocks of keys came before.
struct Walk {
  u32 shared;
  const int4 *pieces;
  Ring<PIECES> ring;
  int keyBlocks = 0;

  DEVICE_MEMBER Piece next() {
    barrier_wait(shared + PIECE_FULL + 8 * ring.slot, ring.phase);
    int4 words = {};
    if (threadIdx.x % 32 == 0) {
      words = pieces[ring.slot];
      barrier_arrive(shared + PIECE_EMPTY + 8 * ring.slot);
    }
    ring.advance();
    return {from_first_lane(words.x), from_first_lane(words.y), from_first_lane(words.z),
            from_first_lane(words.w)};
  }
};

struct Arguments {
  element *dQkv;
  float *dQuery, *partial;
  const float *logSumExp, *delta;
  const int *rowOffsets;
  int rows, heads;
  float scale;
  DropoutSite site;

  // A warp's sums of the columns of a piece's queries, keys or values.
  DEVICE_MEMBER float *sums(const Piece &piece, int warp, int which) const {
    return partial + ((u64)(piece.row * SUMS + warp) * 3 + which) * heads * HEAD + piece.head * HEAD;
  }
};

// ---- producers -----------------------------------------------------------------------------------

// Pieces that were taken, beside each block's first; back at 0 when all blocks have seen the end.
__device__ u32 piecesTaken;

// By one thread: pieces, then for each two blocks of keys of a piece those and all blocks of queries.
DEVICE void produce(const TensorMap &qkv, const TensorMap &dOut, const Arguments &x, u32 shared,
                    int4 *pieces, const u16 *order) {
  Ring<PIECES> ring;
  Ring<KEY_SLOTS> keys;
  Ring<STAGES> stage;
  const int count = x.rows * x.heads, hidden = x.heads * HEAD;
  int index = blockIdx.x;
  while (true) {
    Piece piece = {0, 0, 0, 0};
    if (index < count) {
      piece.row = index / x.heads;
      piece.head = index - piece.row * x.heads;
      if (x.rows <= MOST_SORTED) piece.row = order[piece.row];
      piece.start = x.rowOffsets[piece.row];
      piece.length = x.rowOffsets[piece.row + 1] - piece.start;
      index = gridDim.x + atomicInc(&piecesTaken, count - 1);
      if (piece.length == 0) continue;
    }
    barrier_wait(shared + PIECE_EMPTY + 8 * ring.slot, ring.phase ^ 1);
    pieces[ring.slot] = make_int4(piece.start, piece.length, piece.head, piece.row);
    barrier_arrive(shared + PIECE_FULL + 8 * ring.slot);
    ring.advance();
    if (piece.length == 0) return;
    const int blocks = piece.blocks(), column = piece.head * HEAD;
    for (int key = 0; key < blocks; key += COMPUTERS) {
      for (int i = key; i < min(blocks, key + COMPUTERS); i++) {
        const u32 at = shared + keys.slot * 2 * BLOCK_BYTES, full = shared + KEYS_FULL + 8 * keys.slot;
        barrier_wait(shared + KEYS_EMPTY + 8 * keys.slot, keys.phase ^ 1);
        barrier_expect(full, 2 * BLOCK_BYTES);
        load_tile(at, qkv, hidden + column, piece.start + i * BLOCK, full);
        load_tile(at + BLOCK_BYTES, qkv, 2 * hidden + column, piece.start + i * BLOCK, full);
        keys.advance();
      }
      for (int i = 0; i < blocks; i++) {
        const u32 at = shared + STAGES_AT + stage.slot * 2 * BLOCK_BYTES;
        const u32 full = shared + STAGE_FULL + 8 * stage.slot;
        barrier_wait(shared + STAGE_EMPTY + 8 * stage.slot, stage.phase ^ 1);
        barrier_expect(full, 2 * BLOCK_BYTES);
        load_tile(at, qkv, column, piece.start + i * BLOCK, full);
        load_tile(at + BLOCK_BYTES, dOut, column, piece.start + i * BLOCK, full);
        stage.advance();
      }
    }
  }
}

// By 64 threads: what each query of a stage has. Those past the end have zeros everywhere: P of 1
// times a dO, a dP and a delta of 0.
DEVICE void produce_per_query(const Arguments &x, Walk walk, u32 shared) {
  Ring<STAGES> stage;
  const int each = threadIdx.x % BLOCK;
#if DROPOUT
  const u32 seed = x.site.seed();
#endif
  for (Piece piece = walk.next(); piece.length > 0; piece = walk.next()) {
    const int blocks = piece.blocks();
    for (int key = 0; key < blocks; key += COMPUTERS) {
      for (int i = 0; i < blocks; i++) {
        const int query = i * BLOCK + each;
        const u32 at = (piece.start + query) * x.heads + piece.head;
        float logSumExp = 0.0f, delta = 0.0f;
        if (query < piece.length) {
          logSumExp = x.logSumExp[at] * 1.4426950408889634f;
          delta = x.delta[at];
        }
        barrier_wait(shared + STAGE_EMPTY + 8 * stage.slot, stage.phase ^ 1);
        const u32 to = shared + PER_QUERY_AT + (stage.slot * 3 * BLOCK + each) * 4;
        store_shared(to, __float_as_uint(logSumExp));
        store_shared(to + BLOCK * 4, __float_as_uint(delta));
#if DROPOUT
        store_shared(to + 2 * BLOCK * 4, dropout_row_key(at, seed));
#endif
        barrier_arrive(shared + STAGE_FULL + 8 * stage.slot);
        stage.advance();
      }
    }
  }
}

// Zeros for a block's rows past its row's end, by a warpgroup for itself: 0 times what the next row
// holds could be NaN.
DEVICE void clear_rows(u32 block, int valid) {
  for (int at = valid * ROW_CHUNKS + threadIdx.x % 128; at < BLOCK * ROW_CHUNKS; at += 128) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(block + at * 16), "r"(0) : "memory");
  }
}
DEVICE void warp_arrive(u32 barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// ---- 64 keys, by a warpgroup ---------------------------------------------------------------------

// What a thread needs for the probabilities of its two of each eight queries, made while their scores are:
// logSumExp, and dropout's bits for keys lane / 4 and lane / 4 + 8 of its warp's 16.
struct PerQuery {
  float2 logSumExp[8];
#if DROPOUT
  u32 both[8][2];
#endif

  DEVICE_MEMBER PerQuery(const float *perQuery, int key, const DropoutSite &site) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
      const int query = n * 8 + threadIdx.x % 4 * 2;
      logSumExp[n] = *(const float2 *)(perQuery + query);
#if DROPOUT
      const uint2 rowKeys = *(const uint2 *)(perQuery + 2 * BLOCK + query);
      both[n][0] = site.both(key, rowKeys.x);
      both[n][1] = site.both(key, rowKeys.y);
#endif
    }
  }
};

// s becomes P^T, negative where dropout drops. P . D in `kept` as an operand.
DEVICE void probabilities(float (&s)[8][4], u32 (&kept)[4][4], const PerQuery &q, float scaleLog2,
                          const DropoutSite &site) {
#pragma unroll
  for (int n = 0; n < 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      s[n][i] = exp2_fast(s[n][i] * scaleLog2 - (i % 2 ? q.logSumExp[n].y : q.logSumExp[n].x));
#if DROPOUT
      if (!site.keeps_half(q.both[n][i % 2], i / 2)) s[n][i] = -s[n][i];
#endif
    }
    kept[n / 2][n % 2 * 2] = to_positive_pair(s[n][0], s[n][1]);
    kept[n / 2][n % 2 * 2 + 1] = to_positive_pair(s[n][2], s[n][3]);
  }
}

// dS^T = P^T . (dP^T . D - delta), as an operand.
DEVICE void score_gradients(const float (&p)[8][4], const float (&dP)[8][4], u32 (&dS)[4][4],
                            const float *perQuery, const DropoutSite &site) {
#pragma unroll
  for (int n = 0; n < 8; n++) {
    const float2 delta = *(const float2 *)(perQuery + BLOCK + n * 8 + threadIdx.x % 4 * 2);
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float gradient = dP[n][i];
#if DROPOUT
      gradient *= p[n][i] < 0.0f ? 0.0f : site.scale;
#endif
      value[i] = fabsf(p[n][i]) * (gradient - (i % 2 ? delta.y : delta.x));
    }
    dS[n / 2][n % 2 * 2] = to_pair(value[0], value[1]);
    dS[n / 2][n % 2 * 2 + 1] = to_pair(value[2], value[3]);
  }
}

// dS^T to shared memory as dS: [64 queries, 64 keys], rows of 128 bytes.
DEVICE void store_transposed(u32 scores, const u32 (&dS)[4][4]) {
  const int lane = threadIdx.x % 32, chunk = threadIdx.x / 32 % 4 * 2 + lane / 8 % 2;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const int query = k * 16 + lane / 16 * 8 + lane % 8;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                     scores + query * 128 + ((chunk ^ (query & 7)) << 4)),
                 "r"(dS[k][0]), "r"(dS[k][1]), "r"(dS[k][2]), "r"(dS[k][3])
                 : "memory");
  }
}

// A warp's 16 rows of a gradient, through its own rows of shared memory, so that a row leaves as whole
// 16-byte chunks.
DEVICE void write_rows(const float (&d)[HEAD / 8][4], float scale, u32 rows, element *to, int stride,
                       int valid) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < HEAD / 8; n += 2) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                     rows + chunk_offset(lane % 16, n + lane / 16)),
                 "r"(to_pair(d[n][0] * scale, d[n][1] * scale)),
                 "r"(to_pair(d[n][2] * scale, d[n][3] * scale)),
                 "r"(to_pair(d[n + 1][0] * scale, d[n + 1][1] * scale)),
                 "r"(to_pair(d[n + 1][2] * scale, d[n + 1][3] * scale))
                 : "memory");
  }
  __syncwarp();
  constexpr int COUNT = 16 * ROW_CHUNKS / 32;
  uint4 words[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const int at = lane + 32 * i;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                 : "r"(rows + chunk_offset(at / ROW_CHUNKS, at % ROW_CHUNKS))
                 : "memory");
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const int at = lane + 32 * i, row = at / ROW_CHUNKS, chunk = at % ROW_CHUNKS;
    if (row < valid) *(uint4 *)(to + (u64)row * stride + chunk * 8) = words[i];
  }
  __syncwarp();
}

// Lanes whose numbers differ by DISTANCE alone each keep one half of their sums, of both lanes.
template <int HALF, int DISTANCE> DEVICE void share_sums(float (&sum)[HEAD / 4]) {
  const bool upper = (threadIdx.x & DISTANCE) != 0;
#pragma unroll
  for (int i = 0; i < HALF; i++) {
    const float low = sum[i], high = sum[HALF + i];
    const float other = __shfl_xor_sync(0xffffffffu, upper ? low : high, DISTANCE);
    sum[i] = (upper ? high : low) + other;
  }
}

// Adds up a warp's 16 rows, and adds that to its sums.
DEVICE void add_column_sums(const float (&d)[HEAD / 8][4], float scale, float *sums, int valid) {
  const int lane = threadIdx.x % 32;
  float sum[HEAD / 4];
#pragma unroll
  for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      sum[2 * n + i] =
          (lane / 4 < valid ? d[n][i] : 0.0f) + (lane / 4 + 8 < valid ? d[n][i + 2] : 0.0f);
    }
  }
  share_sums<HEAD / 8, 16>(sum);
  share_sums<HEAD / 16, 8>(sum);
#if HEAD == 64
  share_sums<2, 4>(sum);
#else
#pragma unroll
  for (int i = 0; i < 2; i++) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 4);
#endif
  constexpr int LANES = 256 / HEAD;  // that end with the same eight columns
  if (lane % LANES < 4) {
    asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(
                     sums + lane / LANES * 8 + lane % 4 * 2),
                 "f"(sum[0] * scale), "f"(sum[1] * scale)
                 : "memory");
  }
}

DEVICE void compute(const Arguments &x, Walk walk, u32 shared, const u8 *generic) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int warpgroup = warpgroup_index();
  const float scaleLog2 = x.scale * 1.4426950408889634f;
  const int hidden = x.heads * HEAD;
  Ring<KEY_SLOTS / COMPUTERS> own;
  Ring<STAGES> stage;
  for (Piece piece = walk.next(); piece.length > 0; piece = walk.next()) {
    const int blocks = piece.blocks();
    for (int first = 0; first < blocks; first += COMPUTERS) {
      const int pair = min(blocks - first, COMPUTERS);
      const int mine = (warpgroup + walk.keyBlocks) % COMPUTERS;  // of the two
      walk.keyBlocks += pair;
      if (mine >= pair) {  // only hands the stages on
        for (int i = 0; i < blocks; i++) {
          barrier_wait(shared + STAGE_FULL + 8 * stage.slot, stage.phase);
          barrier_wait(shared + SCORES_EMPTY + 8 * stage.slot, stage.phase ^ 1);
          warp_arrive(shared + SCORES_FULL + 8 * stage.slot);
          barrier_arrive(shared + STAGE_EMPTY + 8 * stage.slot);
          stage.advance();
        }
        continue;
      }
      const int firstKey = (first + mine) * BLOCK, valid = piece.length - firstKey - warp * 16;
      const int slot = own.slot * COMPUTERS + warpgroup;
      const u32 keys = shared + slot * 2 * BLOCK_BYTES;
      barrier_wait(shared + KEYS_FULL + 8 * slot, own.phase);
      const u64 k = descriptor<ROW_BYTES>(keys), v = descriptor<ROW_BYTES>(keys + BLOCK_BYTES);
      float dK[HEAD / 8][4] = {}, dV[HEAD / 8][4] = {};
      int before = 0;  // the stage whose scores are stored and not handed on
      for (int block = 0; block < blocks; block++) {
        const u32 at = shared + STAGES_AT + stage.slot * 2 * BLOCK_BYTES;
        const float *perQuery = (const float *)(generic + PER_QUERY_AT + stage.slot * 3 * BLOCK * 4);
        const u64 queries = descriptor<ROW_BYTES>(at);
        const u64 gradients = descriptor<ROW_BYTES>(at + BLOCK_BYTES);
        barrier_wait(shared + STAGE_FULL + 8 * stage.slot, stage.phase);
        if (piece.length < (block + 1) * BLOCK) {
          clear_rows(at, piece.length - block * BLOCK);
          clear_rows(at + BLOCK_BYTES, piece.length - block * BLOCK);
          fence_async();
          warpgroup_barrier();
        }
        float s[8][4], dP[8][4];
        u32 kept[4][4], dS[4][4];
        wgmma_fence();
        multiply_block(s, k, queries);
        wgmma_commit();
        multiply_block(dP, v, gradients);
        wgmma_commit();
        if (block > 0) {
          fence_async();
          warp_arrive(shared + SCORES_FULL + 8 * before);
        }
        const PerQuery each(perQuery, firstKey + warp * 16 + lane / 4, x.site);
        wgmma_wait<1>();
        probabilities(s, kept, each, scaleLog2, x.site);
        wgmma_wait<0>();
        score_gradients(s, dP, dS, perQuery, x.site);
        if (valid < 16) {
#pragma unroll
          for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
              if (lane / 4 + i % 2 * 8 >= valid) dS[n][i] = 0;
            }
          }
        }
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++) {
          multiply_rows(dV, kept[step], gradients + SIXTEEN_ROWS * step);
          multiply_rows(dK, dS[step], queries + SIXTEEN_ROWS * step);
        }
        wgmma_commit();
        barrier_wait(shared + SCORES_EMPTY + 8 * stage.slot, stage.phase ^ 1);
        store_transposed(shared + SCORES_AT + (stage.slot * COMPUTERS + mine) * SCORE_BYTES, dS);
        wgmma_wait<0>();
        barrier_arrive(shared + STAGE_EMPTY + 8 * stage.slot);
        before = stage.slot;
        stage.advance();
      }
      fence_async();
      warp_arrive(shared + SCORES_FULL + 8 * before);
      // Through V, which the warpgroup's last product may still be reading for another warp.
      warpgroup_barrier();
      const u32 rows = keys + BLOCK_BYTES + warp * 16 * ROW_BYTES;
      element *to = x.dQkv + (u64)(piece.start + firstKey + warp * 16) * 3 * hidden + hidden +
                    piece.head * HEAD;
      write_rows(dK, x.scale, rows, to, 3 * hidden, valid);
      write_rows(dV, x.site.scale, rows, to + hidden, 3 * hidden, valid);
      add_column_sums(dK, x.scale, x.sums(piece, mine * 4 + warp, 1), valid);
      add_column_sums(dV, x.site.scale, x.sums(piece, mine * 4 + warp, 2), valid);
      fence_async();
      warp_arrive(shared + KEYS_EMPTY + 8 * slot);
      own.advance();
    }
  }
}

// ---- the queries' gradients, by a warpgroup ------------------------------------------------------

// dQ = dS K for a block of queries with two blocks of keys at a time; between those it waits in fp32,
// written and read by the same thread: dQuery [tokens + BLOCK * rows, hidden], as the threads have it.
DEVICE void gather_queries(const Arguments &x, Walk walk, u32 shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, hidden = x.heads * HEAD;
  Ring<KEY_SLOTS> keys;
  Ring<STAGES> stage;
  for (Piece piece = walk.next(); piece.length > 0; piece = walk.next()) {
    const int blocks = piece.blocks(), column = piece.head * HEAD + lane % 4 * 2;
    float4 *waiting = (float4 *)(x.dQuery + (u64)(piece.start + BLOCK * piece.row) * hidden +
                                 piece.head * blocks * BLOCK * HEAD) + threadIdx.x % 128;
    for (int first = 0; first < blocks; first += COMPUTERS) {
      const int pair = min(blocks - first, COMPUTERS);
      const bool last = first + pair == blocks;
      u64 k[COMPUTERS];
      Ring<KEY_SLOTS> each = keys;
#pragma unroll
      for (int i = 0; i < COMPUTERS; i++) {
        const u32 at = shared + each.slot * 2 * BLOCK_BYTES;
        k[i] = descriptor<ROW_BYTES>(at);
        if (i < pair) {
          barrier_wait(shared + KEYS_FULL + 8 * each.slot, each.phase);
          const int valid = piece.length - (first + i) * BLOCK;
          if (valid < BLOCK) {
            clear_rows(at, valid);
            fence_async();
            warpgroup_barrier();
          }
          each.advance();
        }
      }
      for (int block = 0; block < blocks; block++) {
        const int query = block * BLOCK + warp * 16 + lane / 4;
        float dQ[HEAD / 8][4] = {};
        if (first > 0) {
#pragma unroll
          for (int n = 0; n < HEAD / 8; n++) {
            const float4 before = waiting[(block * (HEAD / 8) + n) * 128];
            dQ[n][0] = before.x;
            dQ[n][1] = before.y;
            dQ[n][2] = before.z;
            dQ[n][3] = before.w;
          }
        }
        const u64 scores = descriptor<128>(shared + SCORES_AT + stage.slot * COMPUTERS * SCORE_BYTES);
        barrier_wait(shared + SCORES_FULL + 8 * stage.slot, stage.phase);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++) {
          multiply_shared(dQ, scores + 2 * step, k[0] + SIXTEEN_ROWS * step);
        }
        if (pair > 1) {
#pragma unroll
          for (int step = 0; step < 4; step++) {
            multiply_shared(dQ, scores + (SCORE_BYTES >> 4) + 2 * step, k[1] + SIXTEEN_ROWS * step);
          }
        }
        wgmma_commit();
        wgmma_wait<0>();
        warp_arrive(shared + SCORES_EMPTY + 8 * stage.slot);
        stage.advance();
        if (!last) {
#pragma unroll
          for (int n = 0; n < HEAD / 8; n++) {
            waiting[(block * (HEAD / 8) + n) * 128] =
                make_float4(dQ[n][0], dQ[n][1], dQ[n][2], dQ[n][3]);
          }
          continue;
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
          if (query + half * 8 >= piece.length) continue;
          element *to = x.dQkv + (u64)(piece.start + query + half * 8) * 3 * hidden + column;
#pragma unroll
          for (int n = 0; n < HEAD / 8; n++) {
            *(u32 *)(to + n * 8) = to_pair(dQ[n][2 * half] * x.scale, dQ[n][2 * half + 1] * x.scale);
          }
        }
        add_column_sums(dQ, x.scale, x.sums(piece, warp, 0),
                        piece.length - block * BLOCK - warp * 16);
      }
      for (int i = 0; i < pair; i++) {
        warp_arrive(shared + KEYS_EMPTY + 8 * keys.slot);
        keys.advance();
      }
    }
  }
}

// ---- the kernel ----------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_backward_sm90(element *dQkv, float *dQuery, float *partial,
                            const __grid_constant__ TensorMap qkv,
                            const __grid_constant__ TensorMap dOut, const float *logSumExp,
                            const float *delta, const int *rowOffsets, int rows, int heads,
                            float scale, DropoutSite site) {
  extern __shared__ u8 memory[];
  const u32 shared = (shared_address(memory) + 1023) & ~1023u;
  u8 *generic = memory + (shared - shared_address(memory));
  u16 *order = (u16 *)(generic + ORDER_AT);
  if (threadIdx.x == 0) {
    for (int i = 0; i < KEY_SLOTS; i++) {
      barrier_init(shared + KEYS_FULL + 8 * i, 1);
      barrier_init(shared + KEYS_EMPTY + 8 * i, 4 + 4);  // its keys' warps, those of dQ
    }
    for (int i = 0; i < STAGES; i++) {
      barrier_init(shared + STAGE_FULL + 8 * i, 1 + BLOCK);
      barrier_init(shared + STAGE_EMPTY + 8 * i, 128 * COMPUTERS);
      barrier_init(shared + SCORES_FULL + 8 * i, 4 * COMPUTERS);
      barrier_init(shared + SCORES_EMPTY + 8 * i, 4);
    }
    for (int i = 0; i < PIECES; i++) {
      barrier_init(shared + PIECE_FULL + 8 * i, 1);
      barrier_init(shared + PIECE_EMPTY + 8 * i, 4 * COMPUTERS + 4 + 2);
    }
    fence_barriers();
  }
  // The longest rows first, so that the last pieces to be handed out are the smallest.
  if (rows <= MOST_SORTED) {
    int *lengths = (int *)generic;
    for (int row = threadIdx.x; row < rows; row += THREADS) {
      lengths[row] = rowOffsets[row + 1] - rowOffsets[row];
    }
    __syncthreads();
    for (int row = threadIdx.x; row < rows; row += THREADS) {
      const int length = lengths[row];
      int longer = 0;
      for (int other = 0; other < rows; other++) {
        longer += lengths[other] > length || (lengths[other] == length && other < row);
      }
      order[longer] = row;
    }
    fence_async();
  }
  __syncthreads();
  wait_for_previous_kernel();
  let_next_kernel_start();
  int4 *pieces = (int4 *)(generic + PIECES_AT);
  const Arguments arguments = {dQkv,       dQuery, partial, logSumExp, delta,
                               rowOffsets, rows,   heads,   scale,     site};
  const Walk walk = {shared, pieces};
  const int warpgroup = warpgroup_index();
  if (warpgroup < COMPUTERS) {
    take_registers<200>();
    compute(arguments, walk, shared, generic);
  } else if (warpgroup == COMPUTERS) {
    keep_registers<72>();
    gather_queries(arguments, walk, shared);
  } else {
    keep_registers<40>();
    const int warp = threadIdx.x / 32 % 4;
    if (warp < 2) {
      produce_per_query(arguments, walk, shared);
    } else if (threadIdx.x % 128 == 64) {
      produce(qkv, dOut, arguments, shared, pieces, order);
    }
  }
}
