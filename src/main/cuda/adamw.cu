// The AdamW step over all parameters at once (Loshchilov and Hutter, 2019), with the clipping of the
// global norm, masks, and the rounding of the compute copies.
//
//   gradient_squares   partial[block] = sum of squares of its pieces' gradients, masked ones left out
//   gradient_norm      norm = the root of the partial sums' sum
//   adamw              g = gradient * min(1, maxNorm / (norm + 1e-6))
//                      m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//                      value = value * decay - stepSize * m / (sqrt(v) * correction + epsilon)
//                      compute = value as an element; gradient = 0, unless it may stay as it is
//   row_squares, adamw_rows   the same two of a table [rows, width] of which few rows have gradients
//   round_kept         compute = value as an element where the mask keeps it, else 0
//   choose_mask        of each four weights the two of the largest magnitude, the first among equals
//
// Masked elements (mask 0): where maskedKeep is 0, value, m and v are exactly 0; above, they are
// trained like the others and multiplied by it. Where maskedDecay is above 0, they add so much of
// themselves to g, and their compute is 0.
//
// Of a table's rows it is known what is zero for certain (`states`): a row without a gradient is not
// asked for one, and where its moments are zero too, decay alone can change it. Results are those of the
// dense step, bit for bit.
//
// Bytes per parameter: 4 (5 with a mask), then 30 (31) and 4 where the gradient is zeroed: value, m, v
// read and written, the gradient read, the compute copy written. 110M parameters at 3 TB/s: 1.3 ms.
// FLOPs: 15. Of a table's rows 26 where they have no gradient, 10 or none without moments.
//
// Parameters come as pieces of at most so many elements, cut once on the host; each block of
// gradient_squares takes the same pieces in the same order each step. Nothing waits for the host: what
// changes from step to step is in `scalars`.
//
// Launch: 256 threads; gradient_squares as many blocks as partial has elements, gradient_norm one,
// adamw one for each piece: short blocks without an order among them keep memory busiest; row_squares as
// many as it has of partial's elements, adamw_rows one for each eight rows. Widths are multiples of 4.
#include "common.cuh"

struct Piece {
  float *value, *gradient, *first, *second;
  element *compute;
  const u8 *mask;  // null where nothing is masked
  u64 count, leaveGradient;
};

struct Scalars {
  u32 seed;
  float stepSize, correction, decay, maxNorm, beta1, beta2, epsilon, maskedKeep, maskedDecay;
};

// The block's sum in a fixed order, in every thread.
template <typename T> DEVICE T block_sum(T value, T *shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = 128; half > 0; half >>= 1) {
    if ((int)threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

// Zeroes what the four bytes of a mask do not keep.
DEVICE void drop(float4 &value, u32 four) {
  if (!(four & 0xff)) value.x = 0.0f;
  if (!(four >> 8 & 0xff)) value.y = 0.0f;
  if (!(four >> 16 & 0xff)) value.z = 0.0f;
  if (!(four >> 24)) value.w = 0.0f;
}

DEVICE bool aligned(const Piece &piece) {
  return (((u64)piece.value | (u64)piece.gradient | (u64)piece.first | (u64)piece.second) & 15) == 0 &&
         ((u64)piece.compute & 7) == 0 && ((u64)piece.mask & 3) == 0;
}

extern "C" __global__ void __launch_bounds__(256)
    gradient_squares(float *partial, const Piece *pieces, int count, const Scalars *scalars) {
  __shared__ float shared[256];
  const bool hold = scalars->maskedKeep == 0.0f;
  float sum = 0.0f;
  for (int p = blockIdx.x; p < count; p += gridDim.x) {
    const Piece piece = pieces[p];
    const u8 *mask = hold ? piece.mask : nullptr;
    const u64 quads = aligned(piece) ? piece.count / 4 : 0;
#pragma unroll 4
    for (u64 i = threadIdx.x; i < quads; i += 256) {
      float4 g = ((const float4 *)piece.gradient)[i];
      if (mask != nullptr) drop(g, ((const u32 *)mask)[i]);
      sum += g.x * g.x + g.y * g.y + g.z * g.z + g.w * g.w;
    }
    for (u64 i = quads * 4 + threadIdx.x; i < piece.count; i += 256) {
      const float g = piece.gradient[i];
      if (mask == nullptr || mask[i]) sum += g * g;
    }
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    gradient_norm(float *norm, const float *partial, int count) {
  __shared__ double shared[256];
  double squares = 0.0;
  for (int i = threadIdx.x; i < count; i += 256) squares += (double)partial[i];
  squares = block_sum(squares, shared);
  if (threadIdx.x == 0) *norm = sqrtf((float)squares);
}

// Fused where it says so: left to the compiler, two kernels may fuse different products of one sum, and
// a row's results would depend on which of them took it.
DEVICE void update(float &value, float gradient, float &first, float &second, bool kept, float clip,
                   const Scalars &scalars) {
  if (!kept && scalars.maskedKeep == 0.0f) {
    value = first = second = 0.0f;
    return;
  }
  const float g = fmaf(gradient, clip, kept ? 0.0f : scalars.maskedDecay * value);
  first = fmaf(first, scalars.beta1, g * (1.0f - scalars.beta1));
  second = fmaf(second, scalars.beta2, g * g * (1.0f - scalars.beta2));
  const float deviation = fmaf(sqrtf(second), scalars.correction, scalars.epsilon);
  value = fmaf(value, scalars.decay, -(first * scalars.stepSize / deviation));
  if (!kept) value *= scalars.maskedKeep;
}

extern "C" __global__ void __launch_bounds__(256)
    adamw(const float *norm, const Piece *pieces, const Scalars *source) {
  const Scalars scalars = *source;
  // As torch.nn.utils.clip_grad_norm_ does.
  const float clip = fminf(1.0f, scalars.maxNorm / (*norm + 1e-6f));
  const Piece piece = pieces[blockIdx.x];
  const u64 quads = aligned(piece) ? piece.count / 4 : 0;
#pragma unroll 2
  for (u64 i = threadIdx.x; i < quads; i += 256) {
    float4 value = ((float4 *)piece.value)[i], gradient = ((float4 *)piece.gradient)[i];
    float4 first = ((float4 *)piece.first)[i], second = ((float4 *)piece.second)[i];
    const u32 four = piece.mask == nullptr ? 0x01010101u : ((const u32 *)piece.mask)[i];
    update(value.x, gradient.x, first.x, second.x, four & 0xff, clip, scalars);
    update(value.y, gradient.y, first.y, second.y, four >> 8 & 0xff, clip, scalars);
    update(value.z, gradient.z, first.z, second.z, four >> 16 & 0xff, clip, scalars);
    update(value.w, gradient.w, first.w, second.w, four >> 24, clip, scalars);
    ((float4 *)piece.value)[i] = value;
    if (!piece.leaveGradient) ((float4 *)piece.gradient)[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    ((float4 *)piece.first)[i] = first;
    ((float4 *)piece.second)[i] = second;
    if (scalars.maskedDecay > 0.0f) drop(value, four);
    ((uint2 *)piece.compute)[i] = make_uint2(to_pair(value.x, value.y), to_pair(value.z, value.w));
  }
  for (u64 i = quads * 4 + threadIdx.x; i < piece.count; i += 256) {
    float value = piece.value[i], first = piece.first[i], second = piece.second[i];
    const bool kept = piece.mask == nullptr || piece.mask[i];
    update(value, piece.gradient[i], first, second, kept, clip, scalars);
    piece.value[i] = value;
    if (!piece.leaveGradient) piece.gradient[i] = 0.0f;
    piece.first[i] = first;
    piece.second[i] = second;
    piece.compute[i] = to_element(scalars.maskedDecay > 0.0f && !kept ? 0.0f : value);
  }
}

// What a row may hold that is not zero.
constexpr u8 NOTHING = 0, MOMENTS = 1, ANYTHING = 2;
constexpr int WARPS = 8;
constexpr int ROWS = 8;  // a warp of row_squares looks at together

struct Table {
  float *value, *gradient, *first, *second;
  element *compute;
  u8 *states;
  int rows, width;
};

extern "C" __global__ void __launch_bounds__(256) row_squares(float *partial, Table table) {
  __shared__ float shared[256];
  const int lane = threadIdx.x % 32, quads = table.width / 4;
  float sum = 0.0f;
  for (int from = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS; from < table.rows;
       from += gridDim.x * WARPS * ROWS) {
    const bool mine =
        lane < ROWS && from + lane < table.rows && table.states[from + lane] == ANYTHING;
    for (u32 left = __ballot_sync(0xffffffffu, mine); left != 0; left &= left - 1) {
      const float4 *gradient =
          (const float4 *)(table.gradient + (u64)(from + __ffs(left) - 1) * table.width);
#pragma unroll 4
      for (int i = lane; i < quads; i += 32) {
        const float4 g = gradient[i];
        sum += g.x * g.x + g.y * g.y + g.z * g.z + g.w * g.w;
      }
    }
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    adamw_rows(const float *norm, Table table, const Scalars *source) {
  const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= table.rows) return;
  const Scalars scalars = *source;
  const float clip = fminf(1.0f, scalars.maxNorm / (*norm + 1e-6f));
  const u8 state = table.states[row];
  if (state == NOTHING && scalars.decay == 1.0f) return;
  const u64 at = (u64)row * table.width;
  bool moments = false;
#pragma unroll 2
  for (int i = lane; i < table.width / 4; i += 32) {
    float4 &to = ((float4 *)(table.value + at))[i];
    float4 value = to;
    if (state == NOTHING) {
      value.x *= scalars.decay;
      value.y *= scalars.decay;
      value.z *= scalars.decay;
      value.w *= scalars.decay;
    } else {
      float4 gradient = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      float4 &from = ((float4 *)(table.gradient + at))[i];
      float4 &firsts = ((float4 *)(table.first + at))[i], &seconds = ((float4 *)(table.second + at))[i];
      float4 first = firsts, second = seconds;
      if (state == ANYTHING) {
        gradient = from;
        from = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      }
      update(value.x, gradient.x, first.x, second.x, true, clip, scalars);
      update(value.y, gradient.y, first.y, second.y, true, clip, scalars);
      update(value.z, gradient.z, first.z, second.z, true, clip, scalars);
      update(value.w, gradient.w, first.w, second.w, true, clip, scalars);
      firsts = first;
      seconds = second;
      moments |= first.x != 0.0f || first.y != 0.0f || first.z != 0.0f || first.w != 0.0f ||
                 second.x != 0.0f || second.y != 0.0f || second.z != 0.0f || second.w != 0.0f;
    }
    to = value;
    ((uint2 *)(table.compute + at))[i] =
        make_uint2(to_pair(value.x, value.y), to_pair(value.z, value.w));
  }
  moments = __any_sync(0xffffffffu, moments);
  if (lane == 0) table.states[row] = moments ? MOMENTS : NOTHING;
}

extern "C" __global__ void __launch_bounds__(256)
    round_kept(element *compute, const float *value, const u8 *mask, u64 count) {
  for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < count; i += (u64)gridDim.x * 256) {
    compute[i] = to_element(mask[i] ? value[i] : 0.0f);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    choose_mask(u8 *mask, const float *weight, u64 groups) {
  const u64 group = (u64)blockIdx.x * 256 + threadIdx.x;
  if (group >= groups) return;
  const float4 four = ((const float4 *)weight)[group];
  const float size[4] = {fabsf(four.x), fabsf(four.y), fabsf(four.z), fabsf(four.w)};
  u32 kept = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int larger = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) larger += size[j] > size[i] || (size[j] == size[i] && j < i);
    if (larger < 2) kept |= 1u << 8 * i;
  }
  ((u32 *)mask)[group] = kept;
}
