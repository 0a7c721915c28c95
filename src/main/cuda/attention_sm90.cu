// Self-attention of packed rows on Hopper; what it computes, and in which layouts, is said in
// attention.cu, which is the same operation for other GPUs.
//
// 256 rows of 384 tokens, hidden 768, heads of 64: 604 MB at 3.0 TB/s are 0.20 ms; 116 GFLOP at 4,096
// a cycle and multiprocessor 0.13 ms; 453 M exponentials at 16 a cycle 0.13 ms, and about five more
// instructions for each of them 0.14 ms. So memory is the floor, and arithmetic comes near it only if
// all of these overlap:
//   - products by wgmma: Q, K and V are read from shared memory where the copy engine left them, P
//     comes from registers, and V is read transposed, so that nothing is shuffled;
//   - within a warpgroup (64 queries), the product with a tile's values runs while the exponentials
//     of the next tile are taken;
//   - three warpgroups on a multiprocessor do so at their own pace, and one takes exponentials while
//     another multiplies; a fourth one's first thread keeps STAGES tiles of keys and values, and the
//     next queries, in flight;
//   - a block walks over (row, head, block of 192 queries), the queries fastest, so that a head's
//     keys and values come from L2 for all but the first.
//
// The running maximum is only a reference that keeps exponentials in range: it moves when some
// exponent would pass 8, P is at most 256, and what moving costs (rescaling the sums and the output)
// is rarely paid.
//
// Operands: `qkv` is a tensor map of [tokens, 3 * hidden], box {HEAD, 64}, swizzle of a HEAD's bytes.
// A tile at the end of a row holds tokens of the next one: their products are masked, their values
// set to zero, since they may be anything.
//
// In training (TRAINING 1) each query's logSumExp is kept, and P is dropped out (DROPOUT 1) after it was
// summed; attention.cu says how.
//
// Compile-time: HEAD (32 or 64), TRAINING, DROPOUT. Launch: 512 threads, as many blocks as there are multiprocessors or
// pieces of work, dynamic shared memory (2 * QUERIES + 2 * STAGES * KEYS) * HEAD * 2 + 2048 bytes.
#include "common.cuh"
#include "hopper.cuh"
#include "dropout.cuh"

constexpr int WARPGROUPS = 3;
constexpr int QUERIES = 64 * WARPGROUPS;
constexpr int KEYS = 128;  // a tile; a row's last one is half as wide where half suffices
constexpr int HALF = 64;
constexpr int STAGES = 4;
constexpr int ROW_BYTES = HEAD * 2;
constexpr int ROW_CHUNKS = HEAD / 8;
constexpr int BOX_BYTES = 64 * ROW_BYTES;  // what one copy brings, and a warpgroup's queries
constexpr int TILE_BYTES = KEYS * ROW_BYTES;
constexpr float RANGE = 8.0f;  // log2 of the largest P

// Shared memory: two buffers of queries, the rings of keys and of values, barriers.
constexpr int QUERIES_AT = 0, KEYS_AT = 2 * WARPGROUPS * BOX_BYTES;
constexpr int VALUES_AT = KEYS_AT + STAGES * TILE_BYTES;
constexpr int BARRIERS_AT = VALUES_AT + STAGES * TILE_BYTES;
constexpr int QUERIES_FULL = BARRIERS_AT, QUERIES_EMPTY = QUERIES_FULL + 16;
constexpr int KEYS_FULL = QUERIES_EMPTY + 16, KEYS_EMPTY = KEYS_FULL + 8 * STAGES;
constexpr int VALUES_FULL = KEYS_EMPTY + 8 * STAGES, VALUES_EMPTY = VALUES_FULL + 8 * STAGES;

// ---- products ------------------------------------------------------------------------------------

// Byte offset of a 16-byte chunk in a tile: the swizzle that wgmma undoes, of 128 or 64 bytes.
DEVICE u32 chunk_offset(int row, int chunk) {
  if constexpr (HEAD == 64) return row * 128 + ((chunk ^ (row & 7)) << 4);
  return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
}

// A tile for wgmma: rows of ROW_BYTES, groups of eight rows one after another. The other stride is not
// used, since a row is exactly as wide as the swizzle.
DEVICE u64 descriptor(u32 shared) {
  constexpr u64 group = 8 * ROW_BYTES >> 4;
  constexpr u64 swizzle = HEAD == 64 ? 1 : 2;
  return (u64)((shared & 0x3ffff) >> 4) | group << 16 | group << 32 | swizzle << 62;
}

// Products with up to KEYS keys: of n-th eight, this thread's two columns of each of its two rows.
typedef float Products[KEYS / 8][4];

#define NAMES_64                                                            \
  NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
           "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define KEYS_64(c, accumulate)                                                       \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, "     \
               "%32, %33, " accumulate ", 1, 1, 0, 0;"                               \
               : R16(c, s, 0), R16(c, s, 4)                                          \
               : "l"(q), "l"(k))
#define KEYS_128(c, accumulate)                                                      \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16" TYPES "{" NAMES_64 "}, "    \
               "%64, %65, " accumulate ", 1, 1, 0, 0;"                               \
               : R16(c, s, 0), R16(c, s, 4), R16(c, s, 8), R16(c, s, 12)             \
               : "l"(q), "l"(k))

// s[64 queries, N keys] = or += q[64, 16] * k[N, 16]^T, both rows of shared memory. The first product
// takes no sums in, so that their registers are free until it is issued.
template <int N, bool FIRST> DEVICE void multiply_keys(Products &s, u64 q, u64 k) {
  if constexpr (N == KEYS) {
    if constexpr (FIRST) KEYS_128("=f", "0"); else KEYS_128("+f", "1");
  } else {
    if constexpr (FIRST) KEYS_64("=f", "0"); else KEYS_64("+f", "1");
  }
}

// o[64 queries, HEAD] += p[64, 16 keys] * v[16 keys, HEAD]: p from registers, v with the keys as rows.
DEVICE void multiply_values(float (&o)[HEAD / 8][4], const u32 (&p)[4], u64 v) {
#if HEAD == 64
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, "
               "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : R16("+f", o, 0), R16("+f", o, 4)
               : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));
#else
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16" TYPES "{" NAMES_16 "}, "
               "{%16,%17,%18,%19}, %20, 1, 1, 1, 1;"
               : R16("+f", o, 0)
               : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));
#endif
}

// ---- the walk ------------------------------------------------------------------------------------

struct Work {
  const int *rowOffsets;
  int pieces, heads, queryBlocks;
};

// A piece of work: a block of queries of a row and head. Producer and consumers step through the same
// ones; those past their row's end are stepped over.
struct Piece {
  int index, start, length, column, firstQuery;

  DEVICE_MEMBER bool find(const Work &work) {
    for (; index < work.pieces; index += gridDim.x) {
      // From the last row to the first: what the product before wrote last is still in L2, and what is
      // written last here is what the next product reads first.
      const int fromLast = work.pieces - 1 - index;
      const int rowAndHead = fromLast / work.queryBlocks;
      firstQuery = (fromLast - rowAndHead * work.queryBlocks) * QUERIES;
      const int row = rowAndHead / work.heads;
      column = (rowAndHead - row * work.heads) * HEAD;
      start = work.rowOffsets[row];
      length = work.rowOffsets[row + 1] - start;
      if (firstQuery < length) return true;
    }
    return false;
  }
  DEVICE_MEMBER bool next(const Work &work) {
    index += gridDim.x;
    return find(work);
  }
  DEVICE_MEMBER int tiles() const { return (length + KEYS - 1) / KEYS; }
};

DEVICE void produce(const TensorMap &qkv, u32 shared, const Work &work, int hidden) {
  Piece piece;
  piece.index = blockIdx.x;
  Ring<2> queries;
  Ring<STAGES> stage;
  for (bool more = piece.find(work); more; more = piece.next(work)) {
    // Warpgroups whose queries lie past the row's end take theirs too, which keeps the counts simple.
    barrier_wait(shared + QUERIES_EMPTY + 8 * queries.slot, queries.phase ^ 1);
    const u32 full = shared + QUERIES_FULL + 8 * queries.slot;
    barrier_expect(full, WARPGROUPS * BOX_BYTES);
#pragma unroll
    for (int i = 0; i < WARPGROUPS; i++) {
      load_tile(shared + QUERIES_AT + (queries.slot * WARPGROUPS + i) * BOX_BYTES, qkv, piece.column,
                piece.start + piece.firstQuery + 64 * i, full);
    }
    queries.advance();
    for (int tile = 0; tile < piece.tiles(); tile++) {
      const int row = piece.start + tile * KEYS;
      const u32 at = stage.slot * TILE_BYTES, keys = shared + KEYS_FULL + 8 * stage.slot,
                values = shared + VALUES_FULL + 8 * stage.slot;
      const int boxes = piece.length - tile * KEYS <= HALF ? 1 : 2;
      barrier_wait(shared + KEYS_EMPTY + 8 * stage.slot, stage.phase ^ 1);
      barrier_expect(keys, boxes * BOX_BYTES);
      for (int i = 0; i < boxes; i++) {
        load_tile(shared + KEYS_AT + at + i * BOX_BYTES, qkv, hidden + piece.column, row + 64 * i,
                  keys);
      }
      barrier_wait(shared + VALUES_EMPTY + 8 * stage.slot, stage.phase ^ 1);
      barrier_expect(values, boxes * BOX_BYTES);
      for (int i = 0; i < boxes; i++) {
        load_tile(shared + VALUES_AT + at + i * BOX_BYTES, qkv, 2 * hidden + piece.column,
                  row + 64 * i, values);
      }
      stage.advance();
    }
  }
}

// ---- a warpgroup's 64 queries --------------------------------------------------------------------

// A thread holds, of rows lane / 4 and lane / 4 + 8 of its warp's 16: the output so far, the sums of
// its own columns, the references, and P of the tile that is being multiplied.
struct Consumer {
  u32 shared;
  float scaleLog2;
  float o[HEAD / 8][4];
  float reference[2], sum[2], shrink[2];
  u32 p[KEYS / 16][4];
  Ring<STAGES> keys, values;
  u64 q;
#if TRAINING
  float *logSumExp;  // of the piece's head
  DropoutSite site;
  u32 seed, rowKeys[2];
  int length;
#endif

  DEVICE_MEMBER void start(u32 queries) {
    q = descriptor(queries);
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) o[n][i] = 0.0f;
    }
    reference[0] = reference[1] = -1e30f;
    sum[0] = sum[1] = 0.0f;
  }

  // Waits for the next tile of keys and issues s = q k^T for N of them.
  template <int N> DEVICE_MEMBER void issue_keys(Products &s) {
    barrier_wait(shared + KEYS_FULL + 8 * keys.slot, keys.phase);
    const u64 k = descriptor(shared + KEYS_AT + keys.slot * TILE_BYTES);
    wgmma_fence();
    multiply_keys<N, true>(s, q, k);
#pragma unroll
    for (int step = 1; step < HEAD / 16; step++) {
      multiply_keys<N, false>(s, q + 2 * step, k + 2 * step);
    }
    wgmma_commit();
  }
  DEVICE_MEMBER void release_keys() {
    if (threadIdx.x % 32 == 0) barrier_arrive(shared + KEYS_EMPTY + 8 * keys.slot);
    keys.advance();
  }
  // Waits for a tile of values, which stays until release_values.
  DEVICE_MEMBER void wait_values() {
    barrier_wait(shared + VALUES_FULL + 8 * values.slot, values.phase);
  }
  // Issues o += p v for N keys.
  template <int N> DEVICE_MEMBER void issue_values() {
    const u64 v = descriptor(shared + VALUES_AT + values.slot * TILE_BYTES);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < N / 16; step++) {
      multiply_values(o, p[step], v + (16 * ROW_BYTES >> 4) * step);
    }
    wgmma_commit();
  }
  DEVICE_MEMBER void release_values() {
    if (threadIdx.x % 32 == 0) barrier_arrive(shared + VALUES_EMPTY + 8 * values.slot);
    values.advance();
  }

  // Zeros for the values past the row's end, by every warpgroup for itself: 0 times what the next row
  // holds could be NaN.
  DEVICE_MEMBER void clear_values(int valid, int width) {
    if (valid == width) return;
    const u32 tile = shared + VALUES_AT + values.slot * TILE_BYTES;
    for (int at = valid * ROW_CHUNKS + threadIdx.x % 128; at < width * ROW_CHUNKS; at += 128) {
      asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(tile + at * 16), "r"(0) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(threadIdx.x / 128 + 1) : "memory");
  }

  // Whether some exponent of this warp would leave the range.
  template <int N> DEVICE_MEMBER bool out_of_range(const Products &s, float (&largest)[2]) {
    largest[0] = reference[0];
    largest[1] = reference[1];
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
      largest[0] = fmaxf(largest[0], fmaxf(s[n][0], s[n][1]));
      largest[1] = fmaxf(largest[1], fmaxf(s[n][2], s[n][3]));
    }
    const float excess = fmaxf(largest[0] - reference[0], largest[1] - reference[1]) * scaleLog2;
    return __any_sync(0xffffffffu, excess > RANGE);
  }

  // Moves the references up to the largest products, and the sums with them; the output follows when
  // no product adds to it.
  DEVICE_MEMBER void move_references(const float (&largest)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float top = largest[half];
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      shrink[half] = exp2_fast((reference[half] - top) * scaleLog2);
      reference[half] = top;
      sum[half] *= shrink[half];
    }
  }
  DEVICE_MEMBER void shrink_output() {
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
    }
  }

  template <int N> DEVICE_MEMBER void mask(Products &s, int valid) {
    if (valid >= N) return;
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (n * 8 + threadIdx.x % 4 * 2 + i % 2 >= valid) s[n][i] = -1e30f;
      }
    }
  }

  // Masks and exponentiates a tile; whether the references moved.
  template <int N> DEVICE_MEMBER bool exponentials(Products &s, int valid) {
    mask<N>(s, valid);
    float largest[2];
    const bool moved = out_of_range<N>(s, largest);
    if (moved) move_references(largest);
    const float offset[2] = {reference[0] * scaleLog2, reference[1] * scaleLog2};
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        s[n][i] = exp2_fast(s[n][i] * scaleLog2 - offset[i / 2]);
        sum[i / 2] += s[n][i];
#if DROPOUT
        const u32 key = length - valid + n * 8 + threadIdx.x % 4 * 2 + i % 2;
        if (!site.keeps(key * DROPOUT_COLUMN, rowKeys[i / 2])) s[n][i] = 0.0f;
#endif
      }
    }
    return moved;
  }

  template <int N> DEVICE_MEMBER void round_to_p(const Products &s) {
#pragma unroll
    for (int step = 0; step < N / 16; step++) {
      p[step][0] = to_pair(s[2 * step][0], s[2 * step][1]);
      p[step][1] = to_pair(s[2 * step][2], s[2 * step][3]);
      p[step][2] = to_pair(s[2 * step + 1][0], s[2 * step + 1][1]);
      p[step][3] = to_pair(s[2 * step + 1][2], s[2 * step + 1][3]);
    }
  }

  // The first tile: from its product with the keys to P.
  template <int N> DEVICE_MEMBER void begin(Products &s, int valid) {
    issue_keys<N>(s);
    wgmma_wait<0>();
    release_keys();
    exponentials<N>(s, valid);
    round_to_p<N>(s);
  }

  // The product with a whole tile's values, and the next tile of N keys up to its P. Exponentials are
  // taken while the values' product runs; P is rounded when none does, as ptxas wants it.
  template <int N> DEVICE_MEMBER void advance(Products &s, int valid) {
    issue_keys<N>(s);
    wait_values();
    issue_values<KEYS>();
    wgmma_wait<1>();
    release_keys();
    const bool moved = exponentials<N>(s, valid);
    wgmma_wait<0>();
    release_values();
    if (moved) shrink_output();
    round_to_p<N>(s);
  }

  DEVICE_MEMBER void attend(int length) {
#if TRAINING
    this->length = length;
#endif
    Products s;
    int valid = length;  // keys from the tile that P is of
    bool half = length <= HALF;
    if (half) begin<HALF>(s, valid); else begin<KEYS>(s, valid);
    for (; valid > KEYS + HALF; valid -= KEYS) advance<KEYS>(s, valid - KEYS);
    if (valid > KEYS) {
      advance<HALF>(s, valid - KEYS);
      valid -= KEYS;
      half = true;
    }
    wait_values();
    clear_values(valid, half ? HALF : KEYS);
    if (half) issue_values<HALF>(); else issue_values<KEYS>();
    wgmma_wait<0>();
    release_values();
  }

  // Divides by the sums and writes the warp's 16 queries: through its own rows of the query buffer, so
  // that a row leaves as whole 16-byte chunks.
  DEVICE_MEMBER void finish(u32 warpQueries, element *out, int hidden, int valid) {
    const int lane = threadIdx.x % 32;
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      scale[half] = 1.0f / total;
#if TRAINING
      scale[half] *= site.scale;
      const int query = half * 8 + lane / 4;
      if (lane % 4 == 0 && query < valid) {
        const float logarithm = reference[half] * scaleLog2 + log2f(total);
        logSumExp[(u64)query * (hidden / HEAD)] = logarithm * 0.69314718055994531f;
      }
#endif
    }
#pragma unroll
    for (int n = 0; n < HEAD / 8; n += 2) {
      const u32 to = warpQueries + chunk_offset(lane % 16, n + lane / 16);
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to),
                   "r"(to_pair(o[n][0] * scale[0], o[n][1] * scale[0])),
                   "r"(to_pair(o[n][2] * scale[1], o[n][3] * scale[1])),
                   "r"(to_pair(o[n + 1][0] * scale[0], o[n + 1][1] * scale[0])),
                   "r"(to_pair(o[n + 1][2] * scale[1], o[n + 1][3] * scale[1]))
                   : "memory");
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * ROW_CHUNKS / 32; i++) {
      const int at = lane + 32 * i, row = at / ROW_CHUNKS, chunk = at % ROW_CHUNKS;
      uint4 words;
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                   : "r"(warpQueries + chunk_offset(row, chunk))
                   : "memory");
      if (row < valid) {
        asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(out + (u64)row * hidden + chunk * 8),
                     "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
                     : "memory");
      }
    }
  }

  // A warpgroup without queries in this piece only hands the tiles on.
  DEVICE_MEMBER void skip(int tiles) {
    for (int j = 0; j < tiles; j++) {
      barrier_wait(shared + KEYS_FULL + 8 * keys.slot, keys.phase);
      release_keys();
      barrier_wait(shared + VALUES_FULL + 8 * values.slot, values.phase);
      release_values();
    }
  }
};

DEVICE void consume(element *out, u32 shared, const Work &work, int hidden, float scaleLog2
#if TRAINING
                    , float *logSumExp, const DropoutSite &site
#endif
) {
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
  Consumer consumer;
  consumer.shared = shared;
  consumer.scaleLog2 = scaleLog2;
#if TRAINING
  consumer.site = site;
#if DROPOUT
  consumer.seed = site.seed();
#endif
#endif
  Piece piece;
  piece.index = blockIdx.x;
  Ring<2> queries;
  for (bool more = piece.find(work); more; more = piece.next(work)) {
    const int firstQuery = piece.firstQuery + 64 * warpgroup;
    const u32 buffer =
        shared + QUERIES_AT + (queries.slot * WARPGROUPS + warpgroup) * BOX_BYTES;
    barrier_wait(shared + QUERIES_FULL + 8 * queries.slot, queries.phase);
    if (firstQuery < piece.length) {
      consumer.start(buffer);
#if TRAINING
      const int first = (piece.start + firstQuery + 16 * warp) * work.heads + piece.column / HEAD;
      consumer.logSumExp = logSumExp + first;
#if DROPOUT
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int query = half * 8 + threadIdx.x % 32 / 4;
        consumer.rowKeys[half] = dropout_row_key(first + query * work.heads, consumer.seed);
      }
#endif
#endif
      consumer.attend(piece.length);
      // The warpgroup's last product may still be reading these queries for another warp.
      asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory");
      const int query = firstQuery + 16 * warp;
      consumer.finish(buffer + 16 * warp * ROW_BYTES,
                      out + (u64)(piece.start + query) * hidden + piece.column, hidden,
                      piece.length - query);
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    } else {
      consumer.skip(piece.tiles());
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared + QUERIES_EMPTY + 8 * queries.slot);
    queries.advance();
  }
}

extern "C" __global__ void __launch_bounds__(512, 1)
    attention_sm90(element *out, const __grid_constant__ TensorMap qkv, const int *rowOffsets,
                   int rows, int heads, int queryBlocks, float scaleLog2
#if TRAINING
                   , float *logSumExp, DropoutSite site
#endif
                   ) {
  extern __shared__ u8 memory[];
  const u32 shared = (shared_address(memory) + 1023) & ~1023u;
  if (threadIdx.x == 0) {
    constexpr int warps = 4 * WARPGROUPS;
    for (int i = 0; i < 2; i++) {
      barrier_init(shared + QUERIES_FULL + 8 * i, 1);
      barrier_init(shared + QUERIES_EMPTY + 8 * i, warps);
    }
    for (int i = 0; i < STAGES; i++) {
      barrier_init(shared + KEYS_FULL + 8 * i, 1);
      barrier_init(shared + KEYS_EMPTY + 8 * i, warps);
      barrier_init(shared + VALUES_FULL + 8 * i, 1);
      barrier_init(shared + VALUES_EMPTY + 8 * i, warps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  wait_for_previous_kernel();
  let_next_kernel_start();
  const Work work = {rowOffsets, rows * heads * queryBlocks, heads, queryBlocks};
  const int hidden = heads * HEAD;
  if (threadIdx.x >= 128 * WARPGROUPS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 128 * WARPGROUPS) produce(qkv, shared, work, hidden);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
#if TRAINING
    consume(out, shared, work, hidden, scaleLog2, logSumExp, site);
#else
    consume(out, shared, work, hidden, scaleLog2);
#endif
  }
}
