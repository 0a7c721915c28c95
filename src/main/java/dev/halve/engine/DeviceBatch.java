package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/**
 * A {@link PackedBatch} in a device's memory, all I32. Where the shape is larger than the batch,
 * rows that count nothing take the tokens that are left over, and the rest of the rows is empty.
 *
 * @param tokenIds {@code [tokens]}
 * @param typeIds {@code [tokens]}
 * @param positions {@code [tokens]}
 * @param rowOffsets {@code [rows + 1]}
 * @param tokenCount {@code [1]}: the batch's own tokens, which come first
 * @param starts {@code [rows]}: the first token of each row's answer, a position within the row; -1
 *     where the row counts nothing
 * @param ends {@code [rows]}: its last token
 * @param host the batch it was made from; a recorded pass sees the first of its shape
 */
public record DeviceBatch(
    Tensor tokenIds,
    Tensor typeIds,
    Tensor positions,
    Tensor rowOffsets,
    Tensor tokenCount,
    Tensor starts,
    Tensor ends,
    PackedBatch host,
    BatchShape shape) {
  private static final int[] NO_ANSWERS = {};

  /** Copies a batch to the workspace's device, at its own size. */
  public static DeviceBatch upload(Workspace workspace, PackedBatch batch) {
    return upload(workspace, batch, NO_ANSWERS, NO_ANSWERS);
  }

  /** The same with answers. */
  public static DeviceBatch upload(
      Workspace workspace, PackedBatch batch, int[] starts, int[] ends) {
    BatchShape shape = BatchShape.of(batch);
    return upload(
        workspace.device(), workspace.take(DType.I32, integers(shape)), shape, batch, starts, ends);
  }

  /** How many integers a batch of a shape takes. */
  static long integers(BatchShape shape) {
    return 3L * shape.tokens() + 3L * shape.rows() + 2;
  }

  /**
   * Copies a batch into memory of the device, in one piece.
   *
   * @param memory I32 {@code [n]}, of {@link #integers} at least
   */
  static DeviceBatch upload(
      Device device, Tensor memory, BatchShape shape, PackedBatch batch, int[] starts, int[] ends) {
    int count = Math.toIntExact(integers(shape));
    Tensor target = memory.rows(0, count);
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.I32, count);
      int[] values = layOut(shape, batch, starts, ends);
      MemorySegment.copy(values, 0, host.segment(), ValueLayout.JAVA_INT, 0, count);
      device.upload(host, target);
    }
    int tokens = shape.tokens();
    int rows = shape.rows();
    return new DeviceBatch(
        memory.rows(0, tokens),
        memory.rows(tokens, tokens),
        memory.rows(2L * tokens, tokens),
        memory.rows(3L * tokens, rows + 1),
        memory.rows(3L * tokens + rows + 1, 1),
        memory.rows(3L * tokens + rows + 2, rows),
        memory.rows(3L * tokens + 2L * rows + 2, rows),
        batch,
        shape);
  }

  /** The integers of all tensors, one after another. */
  static int[] layOut(BatchShape shape, PackedBatch batch, int[] starts, int[] ends) {
    int tokens = shape.tokens();
    int rows = shape.rows();
    int[] all = new int[Math.toIntExact(integers(shape))];
    System.arraycopy(batch.tokenIds(), 0, all, 0, batch.tokens());
    System.arraycopy(batch.typeIds(), 0, all, tokens, batch.tokens());
    for (int row = 0; row < batch.rows(); row++) {
      int first = batch.rowOffsets()[row];
      for (int token = first; token < batch.rowOffsets()[row + 1]; token++) {
        all[2 * tokens + token] = token - first;
      }
    }
    int offsets = 3 * tokens;
    System.arraycopy(batch.rowOffsets(), 0, all, offsets, batch.rows() + 1);
    for (int row = batch.rows(); row < rows; row++) {
      all[offsets + row + 1] = Math.min(tokens, all[offsets + row] + shape.longestRow());
    }
    if (all[offsets + rows] != tokens) {
      throw new IllegalArgumentException(shape + " has too few rows for its tokens");
    }
    int count = offsets + rows + 1;
    all[count] = batch.tokens();
    fill(all, count + 1, rows, starts);
    fill(all, count + 1 + rows, rows, ends);
    return all;
  }

  private static void fill(int[] all, int at, int rows, int[] positions) {
    System.arraycopy(positions, 0, all, at, positions.length);
    Arrays.fill(all, at + positions.length, at + rows, -1);
  }

  public int tokens() {
    return shape.tokens();
  }

  public int rows() {
    return shape.rows();
  }

  public int longestRow() {
    return shape.longestRow();
  }
}
