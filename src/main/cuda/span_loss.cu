// Losses of question answering and of learning from a teacher, with their gradients.
//
//   span_loss          by row: cross entropies of start and end over the row's tokens, halved, over
//                      the number of rows that count; writes dLogits (zeros in rows that do not)
//   distillation_loss  by row: divergence of the student's distributions from the teacher's, both of
//                      logits / temperature, times temperature^2, halved, over the batch's rows; adds
//                      to dLogits
//   hidden_squares     partial[block] = sums of (student - teacher)^2 and of teacher^2
//   hidden_loss        loss += weight * error / norm; dStudent += 2 * weight / norm * (student -
//                      teacher)
//   add_losses         loss += the rows' losses in their order
//
// logits, teacher, dLogits are fp32 [tokens, 2]; rowLosses fp32 [rows, 2]; tokenCount holds the number
// of tokens that are the batch's own: rows that start past it fill up a bucket. Hidden states are
// elements, tokenCount * HIDDEN of them.
//
// Bytes: 16 per token (three reads, mostly cached); hidden_squares 4 and hidden_loss 8 per element.
//
// Compile-time: HIDDEN. Launch: span_loss and distillation_loss 64 threads, a warp for the starts and
// one for the ends, grid (rows); hidden_squares and hidden_loss 256 threads, as many blocks as
// partial has rows; add_losses 32 threads, one block.
#include "common.cuh"

DEVICE float warp_max(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

// The logarithm of the sum of exponentials of x[2 i] * factor.
DEVICE float log_sum(const float *x, int length, float factor) {
  const int lane = threadIdx.x % 32;
  float largest = -1e30f;
  for (int i = lane; i < length; i += 32) largest = fmaxf(largest, x[2 * i] * factor);
  largest = warp_max(largest);
  float sum = 0.0f;
  for (int i = lane; i < length; i += 32) sum += expf(x[2 * i] * factor - largest);
  return largest + logf(warp_sum(sum));
}

DEVICE bool inside(const int *rowOffsets, const int *positions, int row) {
  return positions[row] >= 0 && positions[row] < rowOffsets[row + 1] - rowOffsets[row];
}

extern "C" __global__ void __launch_bounds__(64)
    span_loss(float *dLogits, float *rowLosses, const float *logits, const int *rowOffsets,
              const int *starts, const int *ends, int rows, float weight) {
  const int row = blockIdx.x, column = threadIdx.x / 32, lane = threadIdx.x % 32;
  float counted = 0.0f;
  for (int each = lane; each < rows; each += 32) {
    counted += inside(rowOffsets, starts, each) && inside(rowOffsets, ends, each) ? 1.0f : 0.0f;
  }
  counted = warp_sum(counted);
  const int first = rowOffsets[row], length = rowOffsets[row + 1] - first;
  const bool counts = inside(rowOffsets, starts, row) && inside(rowOffsets, ends, row);
  const float *x = logits + 2 * (u64)first + column;
  float *gradient = dLogits + 2 * (u64)first + column;
  if (!counts) {
    for (int i = lane; i < length; i += 32) gradient[2 * i] = 0.0f;
    if (lane == 0) rowLosses[2 * row + column] = 0.0f;
    return;
  }
  const int target = column == 0 ? starts[row] : ends[row];
  const float factor = weight * 0.5f / counted;
  const float normalizer = log_sum(x, length, 1.0f);
  for (int i = lane; i < length; i += 32) {
    gradient[2 * i] = factor * (expf(x[2 * i] - normalizer) - (i == target ? 1.0f : 0.0f));
  }
  if (lane == 0) rowLosses[2 * row + column] = factor * (normalizer - x[2 * target]);
}

extern "C" __global__ void __launch_bounds__(64)
    distillation_loss(float *dLogits, float *rowLosses, const float *logits, const float *teacher,
                      const int *rowOffsets, const int *tokenCount, int rows, float temperature,
                      float weight) {
  const int row = blockIdx.x, column = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tokens = *tokenCount;
  float counted = 0.0f;
  for (int each = lane; each < rows; each += 32) counted += rowOffsets[each] < tokens ? 1.0f : 0.0f;
  counted = warp_sum(counted);
  const int first = rowOffsets[row], length = rowOffsets[row + 1] - first;
  if (first >= tokens) {
    if (lane == 0) rowLosses[2 * row + column] = 0.0f;
    return;
  }
  const float *x = logits + 2 * (u64)first + column, *t = teacher + 2 * (u64)first + column;
  float *gradient = dLogits + 2 * (u64)first + column;
  const float inverse = 1.0f / temperature, factor = weight * 0.5f / counted;
  const float xSum = log_sum(x, length, inverse), tSum = log_sum(t, length, inverse);
  float divergence = 0.0f;
  for (int i = lane; i < length; i += 32) {
    const float xLog = x[2 * i] * inverse - xSum, tLog = t[2 * i] * inverse - tSum;
    const float xProbability = expf(xLog), tProbability = expf(tLog);
    divergence += tProbability * (tLog - xLog);
    gradient[2 * i] += factor * temperature * (xProbability - tProbability);
  }
  divergence = warp_sum(divergence);
  if (lane == 0) rowLosses[2 * row + column] = factor * temperature * temperature * divergence;
}

extern "C" __global__ void __launch_bounds__(32)
    add_losses(float *loss, const float *rowLosses, int count) {
  float sum = 0.0f;
  for (int i = threadIdx.x; i < count; i += 32) sum += rowLosses[i];
  sum = warp_sum(sum);
  if (threadIdx.x == 0) *loss += sum;
}

// The block's sum, in a fixed order, in every thread.
DEVICE float block_sum(float value, float *shared) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0.0f;
  for (int warp = 0; warp < (int)blockDim.x / 32; warp++) total += shared[warp];
  __syncthreads();
  return total;
}

extern "C" __global__ void __launch_bounds__(256)
    hidden_squares(float *partial, const element *student, const element *teacher,
                   const int *tokenCount) {
  __shared__ float shared[8];
  const u64 chunks = (u64)*tokenCount * HIDDEN / 8;
  float error = 0.0f, norm = 0.0f;
  for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < chunks; i += (u64)gridDim.x * 256) {
    const Eight s = unpack(((const uint4 *)student)[i]), t = unpack(((const uint4 *)teacher)[i]);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const float difference = s.value[k] - t.value[k];
      error += difference * difference;
      norm += t.value[k] * t.value[k];
    }
  }
  error = block_sum(error, shared);
  norm = block_sum(norm, shared);
  if (threadIdx.x == 0) {
    partial[2 * blockIdx.x] = error;
    partial[2 * blockIdx.x + 1] = norm;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    hidden_loss(float *loss, element *dStudent, const float *partial, const element *student,
                const element *teacher, const int *tokenCount, float weight) {
  __shared__ float shared[8];
  float error = 0.0f, norm = 0.0f;
  for (int i = threadIdx.x; i < (int)gridDim.x; i += 256) {
    error += partial[2 * i];
    norm += partial[2 * i + 1];
  }
  error = block_sum(error, shared);
  norm = block_sum(norm, shared);
  const float factor = 2.0f * weight / norm;
  const u64 chunks = (u64)*tokenCount * HIDDEN / 8;
  for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < chunks; i += (u64)gridDim.x * 256) {
    const Eight s = unpack(((const uint4 *)student)[i]), t = unpack(((const uint4 *)teacher)[i]);
    Eight gradient = unpack(((const uint4 *)dStudent)[i]);
#pragma unroll
    for (int k = 0; k < 8; k++) gradient.value[k] += factor * (s.value[k] - t.value[k]);
    ((uint4 *)dStudent)[i] = pack(gradient);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *loss += weight * error / norm;
}
