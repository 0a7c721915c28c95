// Self-attention of packed rows on Hopper; what it computes, and in which layouts, is said in
// attention.cu, which is the same operation for other GPUs.
//
// 256 rows of 384 tokens, hidden 768, heads of 64: 604 MB at 3.0 TB/s are 0.20 ms; 116 GFLOP at 4,096
// a cycle and multiprocessor 0.13 ms; 453 M exponentials at 16 a cycle 0.13 ms, and about five more
// instructions for each of them 0.14 ms. 256 rows as SQuAD has them, 46,226 tokens: 284 MB are 0.09 ms,
// 35 GFLOP and 138 M exponentials, by 64 queries and 32 keys at least, 0.04 ms each. So memory is the
// floor, and arithmetic comes near it only if all of these overlap:
//   - products by wgmma: Q, K and V are read from shared memory where the copy engine left them, P
//     comes from registers, and V is read transposed, so that nothing is shuffled;
//   - within a warpgroup (64 queries), the product with a tile's values runs while the exponentials
//     of the next tile are taken;
//   - four warpgroups on a multiprocessor do so at their own pace. They take blocks of 64 queries in
//     turns, of whatever row and head is next, so that none idles where a row is short; keys and
//     values are loaded once for all blocks of a row and head, into one ring of tiles that all four
//     read;
//   - two warps keep tiles and queries in flight, and share the work out (Walk): by what it costs, so
//     that short rows and long ones end together, and computed from rowOffsets alone.
//
// The running maximum is only a reference that keeps exponentials in range: it moves when some
// exponent would pass 8, P is at most 256, and what moving costs (rescaling the sums and the output)
// is rarely paid.
//
// Operands: `qkv` is a tensor map of [tokens, 3 * hidden], box {HEAD, 64}, swizzle of a HEAD's bytes.
// A tile at the end of a row holds tokens of the next one: their products are masked, their values
// set to zero, since they may be anything.
//
// In training (TRAINING 1) each query's logSumExp is kept, and P is dropped out (DROPOUT 1) after it
// was summed; attention.cu says how.
//
// Compile-time: HEAD (32 or 64), TRAINING, DROPOUT. Launch: 640 threads, at most as many blocks as there
// are multiprocessors, dynamic shared memory BARRIERS_AT + 2048 bytes.
#include "attention.cuh"
#include "dropout.cuh"
#include "hopper.cuh"

constexpr int WARPGROUPS = 4;  // and one of producers
constexpr int CONSUMER_REGISTERS = 112, PRODUCER_REGISTERS = 32;
constexpr int QUERIES = 64;    // of a warpgroup
constexpr int KEYS = 64;       // a tile; a row's last one is half as wide where half suffices
constexpr int HALF = KEYS / 2;
constexpr int STAGES = 10;
constexpr int ROW_BYTES = HEAD * 2;
constexpr int QUERY_BYTES = QUERIES * ROW_BYTES;
constexpr int TILE_BYTES = KEYS * ROW_BYTES;
constexpr float RANGE = 8.0f;  // log2 of the largest P

// Shared memory: two buffers of queries for each warpgroup, the rings of keys and of values, barriers,
// and what the queries' buffers hold.
constexpr int QUERIES_AT = 0, QUERY_SLOTS = 2 * WARPGROUPS, KEYS_AT = QUERY_SLOTS * QUERY_BYTES;
constexpr int VALUES_AT = KEYS_AT + STAGES * TILE_BYTES;
constexpr int BARRIERS_AT = VALUES_AT + STAGES * TILE_BYTES;
constexpr int QUERIES_FULL = BARRIERS_AT, QUERIES_EMPTY = QUERIES_FULL + 8 * QUERY_SLOTS;
constexpr int KEYS_FULL = QUERIES_EMPTY + 8 * QUERY_SLOTS, KEYS_EMPTY = KEYS_FULL + 8 * STAGES;
constexpr int VALUES_FULL = KEYS_EMPTY + 8 * STAGES, VALUES_EMPTY = VALUES_FULL + 8 * STAGES;
constexpr int BLOCKS_AT = (VALUES_EMPTY + 8 * STAGES + 31) & ~31;

// ---- products ------------------------------------------------------------------------------------

// Products with up to KEYS keys: of n-th eight, this thread's two columns of each of its two rows.
typedef float Products[KEYS / 8][4];

#define KEYS_32(c, accumulate)                                                       \
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16" TYPES "{" NAMES_16 "}, "     \
               "%16, %17, " accumulate ", 1, 1, 0, 0;"                               \
               : R16(c, s, 0)                                                        \
               : "l"(q), "l"(k))
#define KEYS_64(c, accumulate)                                                       \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, "     \
               "%32, %33, " accumulate ", 1, 1, 0, 0;"                               \
               : R16(c, s, 0), R16(c, s, 4)                                          \
               : "l"(q), "l"(k))

// s[64 queries, N keys] = or += q[64, 16] * k[N, 16]^T, both rows of shared memory. The first product
// takes no sums in, so that their registers are free until it is issued.
template <int N, bool FIRST> DEVICE void multiply_keys(Products &s, u64 q, u64 k) {
  if constexpr (N == KEYS) {
    if constexpr (FIRST) KEYS_64("=f", "0"); else KEYS_64("+f", "1");
  } else {
    if constexpr (FIRST) KEYS_32("=f", "0"); else KEYS_32("+f", "1");
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
  int rows, heads;

  // From the last row to the first: what the product before wrote last is still in L2, and what is
  // written last here is what the next product reads first.
  DEVICE_MEMBER int start(int row) const { return rowOffsets[rows - 1 - row]; }
  DEVICE_MEMBER int length(int row) const { return rowOffsets[rows - row] - start(row); }
};

DEVICE int blocks_of(int length) { return (length + QUERIES - 1) / QUERIES; }
// What a block of queries takes, in blocks of keys: those of its row, and two for all the rest.
DEVICE int cost_of(int blocks) { return blocks + 2; }

// Blocks of queries of one row and head, whose keys and values are loaded once for all of them.
struct Piece {
  int start, length, column, block, blocks;

  DEVICE_MEMBER int tiles() const { return (length + KEYS - 1) / KEYS; }
};

// One thread block's share of the work, by a whole warp. All blocks of queries, row by row, head by
// head, lie on a line, each as long as its cost; the line is cut into equal parts, a few for each thread
// block, which takes those that begin in its parts. Parts next to each other run at the same time, so
// that a token's heads are read together; short parts cut through too many rows.
constexpr int MOST_PARTS = 5, LEAST_PART = 32;

struct Walk {
  Work work;
  int before, total;         // on the line: this lane's rows' first, the end
  int part, partLength, at;  // the part's begin, the next block's
  int row, head, block;

  DEVICE_MEMBER int rows_a_lane() const { return (work.rows + 31) / 32; }
  DEVICE_MEMBER int row_cost(int row) const {
    const int blocks = blocks_of(work.length(row));
    return work.heads * blocks * cost_of(blocks);
  }

  DEVICE_MEMBER Walk(const Work &work) : work(work) {
    const int lane = threadIdx.x % 32, first = lane * rows_a_lane();
    int sum = 0;
    for (int i = first; i < min(work.rows, first + rows_a_lane()); i++) sum += row_cost(i);
    total = sum;
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
      const int other = __shfl_up_sync(0xffffffffu, total, distance);
      if (lane >= distance) total += other;
    }
    before = total - sum;
    total = __shfl_sync(0xffffffffu, total, 31);
    const int parts = max(1, min(MOST_PARTS, total / (int)(gridDim.x * LEAST_PART))) * gridDim.x;
    partLength = (total + parts - 1) / parts;
    part = ((int)blockIdx.x - (int)gridDim.x) * partLength;
    at = part + partLength;
  }

  // To the first block of queries at or behind a point of the line.
  DEVICE_MEMBER void seek(int point) {
    const int lane = __popc(__ballot_sync(0xffffffffu, before <= point)) - 1;
    at = __shfl_sync(0xffffffffu, before, lane);
    row = lane * rows_a_lane();
    for (int cost; at + (cost = row_cost(row)) <= point; row++) at += cost;
    const int blocks = blocks_of(work.length(row)), each = cost_of(blocks);
    const int index = (point - at + each - 1) / each;
    at += index * each;
    head = index / blocks;
    block = index - head * blocks;
    if (head == work.heads) next_row();
  }
  DEVICE_MEMBER void next_row() {
    head = block = 0;
    do row++;
    while (row < work.rows && work.length(row) == 0);
  }

  DEVICE_MEMBER bool next(Piece &piece) {
    while (at >= min(part + partLength, total)) {
      part += gridDim.x * partLength;
      if (part >= total) return false;
      seek(part);
    }
    piece.start = work.start(row);
    piece.length = work.length(row);
    piece.column = head * HEAD;
    piece.block = block;
    const int blocks = blocks_of(piece.length), each = cost_of(blocks);
    piece.blocks = min(blocks - block, (part + partLength - at + each - 1) / each);
    // A warpgroup takes several blocks of a piece only if its keys stay in the ring.
    if (piece.tiles() > STAGES) piece.blocks = min(piece.blocks, WARPGROUPS);
    at += piece.blocks * each;
    block += piece.blocks;
    if (block == blocks) {
      block = 0;
      if (++head == work.heads) next_row();
    }
    return true;
  }
};

// What a buffer of queries holds, for the warpgroup that takes it.
struct Block {
  int token, valid;    // of its first query; queries and those past the row's end
  int length, column;  // of the row and head; length is 0 behind the last block
  int tile;            // of the ring's tiles, its row's first
  int again;           // whether this warpgroup's next block takes the same tiles
};

// Read by the lane that says when the buffer is free, so that no other lane's read has to be waited for.
DEVICE Block from_first_lane(const Block *from) {
  Block block = {};
  if (threadIdx.x % 32 == 0) block = *from;
  return {from_first_lane(block.token),  from_first_lane(block.valid), from_first_lane(block.length),
          from_first_lane(block.column), from_first_lane(block.tile),  from_first_lane(block.again)};
}

DEVICE void produce_queries(const TensorMap &qkv, u32 shared, Block *blocks, const Work &work) {
  Walk walk(work);
  wait_for_previous_kernel();
  let_next_kernel_start();
  Piece piece;
  Ring<QUERY_SLOTS> slot;
  int tile = 0;
  const bool leader = threadIdx.x % 32 == 0;
  for (bool more = walk.next(piece); more; more = walk.next(piece)) {
    for (int i = 0; i < piece.blocks; i++) {
      const int first = (piece.block + i) * QUERIES;
      const u32 full = shared + QUERIES_FULL + 8 * slot.slot;
      barrier_wait(shared + QUERIES_EMPTY + 8 * slot.slot, slot.phase ^ 1);
      if (leader) {
        blocks[slot.slot] = {piece.start + first, piece.length - first, piece.length,
                             piece.column,        tile,                 i + WARPGROUPS < piece.blocks};
        barrier_expect(full, QUERY_BYTES);
        load_tile(shared + QUERIES_AT + slot.slot * QUERY_BYTES, qkv, piece.column,
                  piece.start + first, full);
      }
      slot.advance();
    }
    tile += piece.tiles();
  }
  for (int i = 0; i < WARPGROUPS; i++) {
    barrier_wait(shared + QUERIES_EMPTY + 8 * slot.slot, slot.phase ^ 1);
    if (leader) {
      blocks[slot.slot] = {0, 0, 0, 0, tile, 0};
      barrier_arrive(shared + QUERIES_FULL + 8 * slot.slot);
    }
    slot.advance();
  }
}

DEVICE void produce_keys(const TensorMap &qkv, u32 shared, const Work &work) {
  Walk walk(work);
  wait_for_previous_kernel();
  let_next_kernel_start();
  Piece piece;
  Ring<STAGES> stage;
  const int hidden = work.heads * HEAD;
  const bool leader = threadIdx.x % 32 == 0;
  for (bool more = walk.next(piece); more; more = walk.next(piece)) {
    for (int tile = 0; tile < piece.tiles(); tile++) {
      const int row = piece.start + tile * KEYS;
      const u32 at = stage.slot * TILE_BYTES, keys = shared + KEYS_FULL + 8 * stage.slot,
                values = shared + VALUES_FULL + 8 * stage.slot;
      barrier_wait(shared + KEYS_EMPTY + 8 * stage.slot, stage.phase ^ 1);
      if (leader) {
        barrier_expect(keys, TILE_BYTES);
        load_tile(shared + KEYS_AT + at, qkv, hidden + piece.column, row, keys);
      }
      barrier_wait(shared + VALUES_EMPTY + 8 * stage.slot, stage.phase ^ 1);
      if (leader) {
        barrier_expect(values, TILE_BYTES);
        load_tile(shared + VALUES_AT + at, qkv, 2 * hidden + piece.column, row, values);
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
  int tile;    // of the rings
  bool again;  // the tiles of this block are this warpgroup's next block's, too
  u64 q;
#if TRAINING
  float *logSumExp;  // of the piece's head
  DropoutSite site;
  u32 seed, rowKeys[2];
  int length;
#endif

  DEVICE_MEMBER void start(u32 queries) {
    q = descriptor<ROW_BYTES>(queries);
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
    const u64 k = descriptor<ROW_BYTES>(shared + KEYS_AT + keys.slot * TILE_BYTES);
    wgmma_fence();
    multiply_keys<N, true>(s, q, k);
#pragma unroll
    for (int step = 1; step < HEAD / 16; step++) {
      multiply_keys<N, false>(s, q + 2 * step, k + 2 * step);
    }
    wgmma_commit();
  }
  DEVICE_MEMBER void release_keys() {
    if (!again && threadIdx.x % 32 == 0) barrier_arrive(shared + KEYS_EMPTY + 8 * keys.slot);
    keys.advance();
  }
  // Waits for a tile of values, which stays until release_values.
  DEVICE_MEMBER void wait_values() {
    barrier_wait(shared + VALUES_FULL + 8 * values.slot, values.phase);
  }
  // Issues o += p v for N keys.
  template <int N> DEVICE_MEMBER void issue_values() {
    const u64 v = descriptor<ROW_BYTES>(shared + VALUES_AT + values.slot * TILE_BYTES);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < N / 16; step++) {
      multiply_values(o, p[step], v + (16 * ROW_BYTES >> 4) * step);
    }
    wgmma_commit();
  }
  DEVICE_MEMBER void release_values() {
    if (!again && threadIdx.x % 32 == 0) barrier_arrive(shared + VALUES_EMPTY + 8 * values.slot);
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
    fence_async();
    warpgroup_barrier();
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
    for (int n = 0; n < N / 8; n += 2) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
#if DROPOUT
        const u32 key = length - valid + n * 8 + threadIdx.x % 4 * 2 + i % 2;
        const u32 both = site.both(key, rowKeys[i / 2]);
#endif
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float &score = s[n + half][i];
          score = exp2_fast(score * scaleLog2 - offset[i / 2]);
          sum[i / 2] += score;
#if DROPOUT
          if (!site.keeps_half(both, half)) score = 0.0f;
#endif
        }
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

  // Hands on the tiles before a block's.
  DEVICE_MEMBER void skip_to(int next) {
    again = false;
    for (; tile < next; tile++) {
      barrier_wait(shared + KEYS_FULL + 8 * keys.slot, keys.phase);
      release_keys();
      wait_values();
      release_values();
    }
  }
};

DEVICE void consume(element *out, u32 shared, const Block *blocks, int heads, float scaleLog2
#if TRAINING
                    , float *logSumExp, const DropoutSite &site
#endif
) {
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, hidden = heads * HEAD;
  Consumer consumer;
  consumer.shared = shared;
  consumer.scaleLog2 = scaleLog2;
  consumer.tile = 0;
#if TRAINING
  consumer.site = site;
#if DROPOUT
  consumer.seed = site.seed();
#endif
#endif
  Ring<2> queries;
  while (true) {
    const int slot = queries.slot * WARPGROUPS + warpgroup;
    const u32 buffer = shared + QUERIES_AT + slot * QUERY_BYTES;
    barrier_wait(shared + QUERIES_FULL + 8 * slot, queries.phase);
    const Block block = from_first_lane(blocks + slot);
    consumer.skip_to(block.tile);
    const int length = block.length;
    if (length == 0) break;
    consumer.start(buffer);
#if TRAINING
    const int first = (block.token + 16 * warp) * heads + block.column / HEAD;
    consumer.logSumExp = logSumExp + first;
#if DROPOUT
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query = half * 8 + threadIdx.x % 32 / 4;
      consumer.rowKeys[half] = dropout_row_key(first + query * heads, consumer.seed);
    }
#endif
#endif
    const Ring<STAGES> keys = consumer.keys;
    consumer.again = block.again;
    consumer.attend(length);
    if (consumer.again) {
      consumer.keys = consumer.values = keys;
    } else {
      consumer.tile += (length + KEYS - 1) / KEYS;
    }
    // The warpgroup's last product may still be reading these queries for another warp.
    warpgroup_barrier();
    consumer.finish(buffer + 16 * warp * ROW_BYTES,
                    out + (u64)(block.token + 16 * warp) * hidden + block.column, hidden,
                    block.valid - 16 * warp);
    fence_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared + QUERIES_EMPTY + 8 * slot);
    queries.advance();
  }
}

extern "C" __global__ void __launch_bounds__(128 * WARPGROUPS + 128, 1)
    attention_sm90(element *out, const __grid_constant__ TensorMap qkv, const int *rowOffsets,
                   int rows, int heads, float scaleLog2
#if TRAINING
                   , float *logSumExp, DropoutSite site
#endif
                   ) {
  extern __shared__ u8 memory[];
  const u32 shared = (shared_address(memory) + 1023) & ~1023u;
  if (threadIdx.x == 0) {
    constexpr int warps = 4 * WARPGROUPS;
    for (int i = 0; i < QUERY_SLOTS; i++) {
      barrier_init(shared + QUERIES_FULL + 8 * i, 1);
      barrier_init(shared + QUERIES_EMPTY + 8 * i, 4);
    }
    for (int i = 0; i < STAGES; i++) {
      barrier_init(shared + KEYS_FULL + 8 * i, 1);
      barrier_init(shared + KEYS_EMPTY + 8 * i, warps);
      barrier_init(shared + VALUES_FULL + 8 * i, 1);
      barrier_init(shared + VALUES_EMPTY + 8 * i, warps);
    }
    fence_barriers();
  }
  __syncthreads();
  Block *blocks = (Block *)(memory + (shared - shared_address(memory)) + BLOCKS_AT);
  if (threadIdx.x >= 128 * WARPGROUPS) {
    keep_registers<PRODUCER_REGISTERS>();
    const Work work = {rowOffsets, rows, heads};
    const int warp = threadIdx.x / 32 - 4 * WARPGROUPS;
    if (warp == 0) produce_keys(qkv, shared, work);
    if (warp == 1) produce_queries(qkv, shared, blocks, work);
  } else {
    take_registers<CONSUMER_REGISTERS>();
    wait_for_previous_kernel();
    let_next_kernel_start();
#if TRAINING
    consume(out, shared, blocks, heads, scaleLog2, logSumExp, site);
#else
    consume(out, shared, blocks, heads, scaleLog2);
#endif
  }
}
