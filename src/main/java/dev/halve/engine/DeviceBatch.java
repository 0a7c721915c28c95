package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * A {@link PackedBatch} in a device's memory, all I32.
 *
 * @param tokenIds {@code [tokens]}
 * @param typeIds {@code [tokens]}
 * @param positions {@code [tokens]}
 * @param rowOffsets {@code [rows + 1]}
 * @param host the batch it was made from
 */
public record DeviceBatch(
    Tensor tokenIds, Tensor typeIds, Tensor positions, Tensor rowOffsets, PackedBatch host) {
  /** Copies a batch to the workspace's device. */
  public static DeviceBatch upload(Workspace workspace, PackedBatch batch) {
    int[] positions = new int[batch.tokens()];
    for (int row = 0; row < batch.rows(); row++) {
      for (int token = batch.rowOffsets()[row]; token < batch.rowOffsets()[row + 1]; token++) {
        positions[token] = token - batch.rowOffsets()[row];
      }
    }
    return new DeviceBatch(
        upload(workspace, batch.tokenIds()),
        upload(workspace, batch.typeIds()),
        upload(workspace, positions),
        upload(workspace, batch.rowOffsets()),
        batch);
  }

  /** Copies integers to a workspace tensor {@code [values.length]}. */
  public static Tensor upload(Workspace workspace, int[] values) {
    Tensor device = workspace.take(DType.I32, values.length);
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.I32, values.length);
      MemorySegment.copy(values, 0, host.segment(), ValueLayout.JAVA_INT, 0, values.length);
      workspace.device().upload(host, device);
    }
    return device;
  }

  public int tokens() {
    return host.tokens();
  }

  public int rows() {
    return host.rows();
  }
}
