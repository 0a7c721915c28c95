// Self-attention of packed rows on Hopper; what it computes, and in which layouts, is said in
// attention.cu, which is the same operation for other GPUs.
//
// 256 rows of 384 tokens, hidden 768, heads of 64: 604 MB at 3.0 TB/s are 0.20 ms; 116 GFLOP at 4,096
// a cycle and multiprocessor 0.13 ms; 453 M exponentials at 16 a cycle 0.13 ms. So memory is the
// floor, and arithmetic comes near it only if the three overlap:
//   - products by wgmma: Q, K and V are read from shared memory where cp.async left them, P comes
//     from registers, and V is read transposed, so that nothing is shuffled;
//   - four warpgroups on a multiprocessor, two blocks of two, each with 64 queries: while one takes
//     exponentials, another multiplies;
//   - a block walks over (row, head, block of 128 queries), the queries fastest, so that a head's
//     keys and values come from L2 for all but the first; the ring of stages runs on from one piece
//     of work into the next, so that no load is waited for twice.
//
// The running maximum is only a reference that keeps exponentials in range: it moves when some
// exponent would pass 8, P is at most 256, and what moving costs (rescaling the sums and the output)
// is rarely paid.
//
// Compile-time: HEAD (32 or 64). Launch: 256 threads, as many blocks as the GPU holds at once or as
// there are pieces of work, dynamic shared memory (STAGES * (2 * KEYS + QUERIES) * HEAD * 2 + 1024)
// bytes, which is 98,304 + 1,024 for heads of 64.
#include "common.cuh"

constexpr int QUERIES = 128;
constexpr int KEYS = 64;
constexpr int STAGES = 3;
constexpr int THREADS = 256;
constexpr int ROW_BYTES = HEAD * 2;
constexpr int ROW_CHUNKS = HEAD / 8;
constexpr int TILE_BYTES = KEYS * ROW_BYTES;     // of keys, of values, and of a warpgroup's queries
constexpr int STAGE_BYTES = 2 * TILE_BYTES;      // keys, then values
constexpr int QUERY_BYTES = QUERIES * ROW_BYTES;
constexpr float RANGE = 8.0f;  // log2 of the largest P

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

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

#ifdef HALVE_BF16
#define TYPES ".f32.bf16.bf16 "
#else
#define TYPES ".f32.f16.f16 "
#endif
#define R4(r, i) "+f"(r[i][0]), "+f"(r[i][1]), "+f"(r[i][2]), "+f"(r[i][3])

// s[64 queries, 64 keys] (+)= q[64, 16] * k[64, 16]^T, both rows of shared memory.
DEVICE void multiply_keys(float (&s)[8][4], u64 q, u64 k, int accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16" TYPES
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
               "%32, %33, p, 1, 1, 0, 0;\n}"
               : R4(s, 0), R4(s, 1), R4(s, 2), R4(s, 3), R4(s, 4), R4(s, 5), R4(s, 6), R4(s, 7)
               : "l"(q), "l"(k), "r"(accumulate));
}

// o[64 queries, HEAD] += p[64, 16 keys] * v[16 keys, HEAD]: p from registers, v with the keys as rows.
DEVICE void multiply_values(float (&o)[HEAD / 8][4], const u32 (&p)[4], u64 v) {
#if HEAD == 64
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
               "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : R4(o, 0), R4(o, 1), R4(o, 2), R4(o, 3), R4(o, 4), R4(o, 5), R4(o, 6), R4(o, 7)
               : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));
#else
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16" TYPES
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
               "{%16,%17,%18,%19}, %20, 1, 1, 1, 1;"
               : R4(o, 0), R4(o, 1), R4(o, 2), R4(o, 3)
               : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));
#endif
}

// A place in the sequence of (piece of work, tile of keys) that a block walks through. A piece is a
// block of queries of a row and head; pieces past the row's end are stepped over.
struct Cursor {
  int piece, tile, count;  // count of pieces so far: which query buffer
  int start, length, column, firstQuery;
};

struct Work {
  const int *rowOffsets;
  int pieces, heads, queryBlocks;
};

// Moves to the first piece at or after cursor.piece that has queries; false if there is none.
DEVICE bool find_piece(Cursor &cursor, const Work &work) {
  for (; cursor.piece < work.pieces; cursor.piece += gridDim.x) {
    const int rowAndHead = cursor.piece / work.queryBlocks;
    cursor.firstQuery = (cursor.piece - rowAndHead * work.queryBlocks) * QUERIES;
    const int row = rowAndHead / work.heads;
    cursor.column = (rowAndHead - row * work.heads) * HEAD;
    cursor.start = work.rowOffsets[row];
    cursor.length = work.rowOffsets[row + 1] - cursor.start;
    if (cursor.firstQuery < cursor.length) return true;
  }
  return false;
}

DEVICE bool next_tile(Cursor &cursor, const Work &work) {
  cursor.tile++;
  if (cursor.tile * KEYS < cursor.length) return true;
  cursor.tile = 0;
  cursor.count++;
  cursor.piece += gridDim.x;
  return find_piece(cursor, work);
}

// Rows [0, valid) of a tile from memory, zeros below: what a tail leaves must not be NaN.
template <int ROWS> DEVICE void load_rows(u32 shared, const element *from, int stride, int valid) {
#pragma unroll
  for (int i = 0; i < ROWS * ROW_CHUNKS / THREADS; i++) {
    const int at = threadIdx.x + i * THREADS;
    const int row = at / ROW_CHUNKS, chunk = at % ROW_CHUNKS;
    const bool inside = row < valid;
    copy_async_16(shared + chunk_offset(row, chunk),
                  from + (u64)(inside ? row : 0) * stride + chunk * 8, inside);
  }
}

// What a thread holds of its warpgroup's 64 queries: rows lane / 4 and lane / 4 + 8 of its warp's 16.
struct Rows {
  float o[HEAD / 8][4];
  float reference[2], sum[2];
};

DEVICE void start_rows(Rows &rows) {
#pragma unroll
  for (int n = 0; n < HEAD / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) rows.o[n][i] = 0.0f;
  }
  rows.reference[0] = rows.reference[1] = -1e30f;
  rows.sum[0] = rows.sum[1] = 0.0f;
}

// Moves the references up to the new largest products, where a warp's exponents would leave the range.
DEVICE void keep_in_range(Rows &rows, const float (&s)[8][4], float scaleLog2) {
  float largest[2] = {rows.reference[0], rows.reference[1]};
#pragma unroll
  for (int n = 0; n < 8; n++) {
    largest[0] = fmaxf(largest[0], fmaxf(s[n][0], s[n][1]));
    largest[1] = fmaxf(largest[1], fmaxf(s[n][2], s[n][3]));
  }
  const float excess =
      fmaxf(largest[0] - rows.reference[0], largest[1] - rows.reference[1]) * scaleLog2;
  if (!__any_sync(0xffffffffu, excess > RANGE)) return;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float top = largest[half];
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float shrink = exp2_fast((rows.reference[half] - top) * scaleLog2);
    rows.reference[half] = top;
    rows.sum[half] *= shrink;
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) {
      rows.o[n][2 * half] *= shrink;
      rows.o[n][2 * half + 1] *= shrink;
    }
  }
}

// One tile of keys: s = q k^T, p = exp(s), o += p v.
DEVICE void attend(Rows &rows, u32 sharedQ, u32 sharedKV, int valid, float scaleLog2) {
  const int lane = threadIdx.x % 32;
  float s[8][4];
  const u64 q = descriptor(sharedQ), k = descriptor(sharedKV);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < HEAD / 16; step++) {
    multiply_keys(s, q + 2 * step, k + 2 * step, step != 0);
  }
  wgmma_commit();
  wgmma_wait();
  if (valid < KEYS) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (n * 8 + lane % 4 * 2 + i % 2 >= valid) s[n][i] = -1e30f;
      }
    }
  }
  keep_in_range(rows, s, scaleLog2);
  const float offset[2] = {rows.reference[0] * scaleLog2, rows.reference[1] * scaleLog2};
  const u64 v = descriptor(sharedKV + TILE_BYTES);
  u32 p[KEYS / 16][4];
#pragma unroll
  for (int step = 0; step < KEYS / 16; step++) {
#pragma unroll
    for (int n = 2 * step; n < 2 * step + 2; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        s[n][i] = exp2_fast(s[n][i] * scaleLog2 - offset[i / 2]);
        rows.sum[i / 2] += s[n][i];
      }
      p[step][n % 2 * 2] = to_pair(s[n][0], s[n][1]);
      p[step][n % 2 * 2 + 1] = to_pair(s[n][2], s[n][3]);
    }
  }
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < KEYS / 16; step++) {
    multiply_values(rows.o, p[step], v + (16 * ROW_BYTES >> 4) * step);
  }
  wgmma_commit();
  wgmma_wait();
}

// Divides by the sums and writes the warp's 16 queries: through its own rows of the query buffer, so
// that a row leaves as whole 16-byte chunks.
DEVICE void finish_rows(Rows &rows, u32 warpQueries, element *out, int hidden, int valid) {
  const int lane = threadIdx.x % 32;
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = rows.sum[half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    scale[half] = 1.0f / total;
  }
#pragma unroll
  for (int n = 0; n < HEAD / 8; n += 2) {
    const u32 to = warpQueries + chunk_offset(lane % 16, n + lane / 16);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to),
                 "r"(to_pair(rows.o[n][0] * scale[0], rows.o[n][1] * scale[0])),
                 "r"(to_pair(rows.o[n][2] * scale[1], rows.o[n][3] * scale[1])),
                 "r"(to_pair(rows.o[n + 1][0] * scale[0], rows.o[n + 1][1] * scale[0])),
                 "r"(to_pair(rows.o[n + 1][2] * scale[1], rows.o[n + 1][3] * scale[1]))
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
    if (row < valid) *(uint4 *)(out + (u64)row * hidden + chunk * 8) = words;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_sm90(element *out, const element *qkv, const int *rowOffsets, int rows, int heads,
                   int queryBlocks, float scaleLog2) {
  extern __shared__ u8 memory[];
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int hidden = heads * HEAD, stride = 3 * hidden;
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
  const u32 stages = (shared_address(memory) + 1023) & ~1023u;
  const u32 queries = stages + STAGES * STAGE_BYTES;
  const Work work = {rowOffsets, rows * heads * queryBlocks, heads, queryBlocks};

  Cursor load = {};
  load.piece = blockIdx.x;
  bool loading = find_piece(load, work);
  Cursor here = load;
  bool computing = loading;
  int loadStage = 0, stage = 0;

  auto load_next = [&]() {
    if (loading) {
      const element *row = qkv + (u64)load.start * stride + load.column;
      if (load.tile == 0) {
        load_rows<QUERIES>(queries + load.count % STAGES * QUERY_BYTES,
                           row + (u64)load.firstQuery * stride, stride,
                           load.length - load.firstQuery);
      }
      const int firstKey = load.tile * KEYS;
      const element *keys = row + (u64)firstKey * stride + hidden;
      const u32 to = stages + loadStage * STAGE_BYTES;
      load_rows<KEYS>(to, keys, stride, load.length - firstKey);
      load_rows<KEYS>(to + TILE_BYTES, keys + hidden, stride, load.length - firstKey);
      loading = next_tile(load, work);
      loadStage = loadStage + 1 == STAGES ? 0 : loadStage + 1;
    }
    copy_async_commit();  // also where nothing is left, so that the count of groups stays simple
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load_next();

  Rows mine;
  start_rows(mine);
  while (computing) {
    copy_async_wait<STAGES - 2>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    load_next();  // into the stage that every warp left before the barrier

    const int firstQuery = here.firstQuery + warpgroup * 64;
    const u32 buffer = queries + here.count % STAGES * QUERY_BYTES + warpgroup * TILE_BYTES;
    const bool active = firstQuery < here.length;
    if (active) {
      attend(mine, buffer, stages + stage * STAGE_BYTES, here.length - here.tile * KEYS, scaleLog2);
    }
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    if ((here.tile + 1) * KEYS >= here.length) {
      if (active) {
        // The warpgroup's last product may still be reading these queries for another warp.
        asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory");
        const int query = firstQuery + warp * 16;
        finish_rows(mine, buffer + warp * 16 * ROW_BYTES,
                    out + (u64)(here.start + query) * hidden + here.column, hidden,
                    here.length - query);
        start_rows(mine);
      }
    }
    computing = next_tile(here, work);
  }
}
