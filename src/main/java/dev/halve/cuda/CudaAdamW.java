package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static dev.halve.cuda.CudaDevice.extent;
import static dev.halve.cuda.CudaTraining.addressOrNone;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.core.Tensor;
import dev.halve.cuda.KernelLaunch.Kernel;
import dev.halve.engine.AdamW;
import dev.halve.engine.Parameter;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** The optimizer's step over all parameters at once, and the choice of masks. */
final class CudaAdamW {
  private static final int PIECE_BYTES = 64;
  private static final int PIECE_ELEMENTS = 1 << 12;
  private static final int TABLE_BYTES = 56;

  private final CudaTraining training;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final CudaContext context;
  private final Map<List<Long>, Pieces> pieces = new HashMap<>();
  private final MemorySegment table = Arena.ofAuto().allocate(TABLE_BYTES, 8);

  /**
   * A parameter list cut up for the optimizer's kernels, in device memory.
   *
   * @param weights how many are of gradients that products make; these come first
   */
  private record Pieces(long address, int count, int weights) {}

  CudaAdamW(CudaTraining training, Kernels kernels, KernelLaunch launch, CudaContext context) {
    this.training = training;
    this.kernels = kernels;
    this.launch = launch;
    this.context = context;
  }

  void chooseMask(Tensor weight, Tensor mask) {
    long groups = weight.elements() / 4;
    launch
        .of(kernel("choose_mask"), Math.ceilDiv(groups, 256L))
        .with(mask)
        .with(weight)
        .with(groups)
        .launch();
  }

  /** The compute copy without what the mask prunes. */
  void roundKept(Parameter parameter) {
    long elements = parameter.value().elements();
    Kernel round = kernel("round_kept");
    launch
        .of(round, Math.min(round.blocks(), Math.ceilDiv(elements, 256L)))
        .with(parameter.compute())
        .with(parameter.value())
        .with(parameter.mask())
        .with(elements)
        .launch();
  }

  void step(List<Parameter> parameters, AdamW settings, int step, Tensor norm) {
    training.requireTraining();
    training.joinWeights();
    training.setOptimizer(settings, step);
    // What no backward pass has made since counts as zero.
    List<Tensor> gradients = parameters.stream().map(Parameter::gradient).toList();
    training.stale().clear(gradients);
    Map<Boolean, List<Parameter>> byRows =
        parameters.stream().collect(Collectors.partitioningBy(training.sparse()::has));
    List<Parameter> tables = byRows.get(true);
    Pieces pieces = pieces(byRows.get(false));
    norm(pieces, tables, norm);
    if (pieces.count > 0) {
      launch
          .of(kernel("adamw"), pieces.count)
          .with(norm)
          .with(pieces.address)
          .with(training.scalars())
          .launch();
    }
    for (Parameter each : tables) {
      launch
          .of(kernel("adamw_rows"), rowBlocks(each, 8))
          .with(norm)
          .with(table(each))
          .with(training.scalars())
          .launch();
    }
    training.stale().left(gradients.stream().filter(training.stale()::mayStay).toList());
  }

  /** The gradients' norm: first the weights', which are there while others are being made. */
  private void norm(Pieces pieces, List<Parameter> tables, Tensor norm) {
    int most = kernel("gradient_squares").blocks();
    int weightBlocks = Math.min(pieces.weights, most);
    int otherBlocks = Math.min(pieces.count - pieces.weights, most);
    int blocks = weightBlocks + otherBlocks;
    for (Parameter each : tables) {
      blocks += rowBlocks(each, 64);
    }
    long partial = training.scratch(4L * blocks);
    squares(partial, weightBlocks, pieces.address, pieces.weights);
    training.join();
    long next = partial + 4L * weightBlocks;
    long others = pieces.address + (long) PIECE_BYTES * pieces.weights;
    squares(next, otherBlocks, others, pieces.count - pieces.weights);
    next += 4L * otherBlocks;
    for (Parameter each : tables) {
      launch.of(kernel("row_squares"), rowBlocks(each, 64)).with(next).with(table(each)).launch();
      next += 4L * rowBlocks(each, 64);
    }
    launch.of(kernel("gradient_norm"), 1).with(norm).with(partial).with(blocks).launch();
  }

  private void squares(long partial, int blocks, long pieces, int count) {
    if (count > 0) {
      launch
          .of(kernel("gradient_squares"), blocks)
          .with(partial)
          .with(pieces)
          .with(count)
          .with(training.scalars())
          .launch();
    }
  }

  private Kernel kernel(String entry) {
    return kernels.get("adamw.cu", entry, Map.of(), 256);
  }

  private static int rowBlocks(Parameter table, int rows) {
    return Math.ceilDiv(extent(table.value(), 0), rows);
  }

  /** A {@code Table} of adamw.cu. */
  private MemorySegment table(Parameter parameter) {
    Tensor[] tensors = {
      parameter.value(),
      parameter.gradient(),
      parameter.firstMoment(),
      parameter.secondMoment(),
      parameter.compute()
    };
    for (int i = 0; i < tensors.length; i++) {
      table.setAtIndex(JAVA_LONG, i, address(tensors[i]));
    }
    table.setAtIndex(JAVA_LONG, 5, training.sparse().states(parameter.gradient()));
    table.set(JAVA_INT, 48, extent(parameter.value(), 0));
    table.set(JAVA_INT, 52, extent(parameter.value(), 1));
    return table;
  }

  private Pieces pieces(List<Parameter> parameters) {
    List<Long> key = new ArrayList<>(8 * parameters.size());
    int count = 0;
    int weights = 0;
    for (Parameter each : parameters) {
      key.add(address(each.value()));
      key.add(address(each.compute()));
      key.add(address(each.gradient()));
      key.add(address(each.firstMoment()));
      key.add(address(each.secondMoment()));
      key.add(addressOrNone(each.mask()));
      key.add(each.value().elements());
      key.add(leaves(each));
      int own = Math.toIntExact(Math.ceilDiv(each.value().elements(), (long) PIECE_ELEMENTS));
      count += own;
      weights += leaves(each) == 1 ? own : 0;
    }
    Pieces found = pieces.get(key);
    if (found != null) {
      return found;
    }
    if (context.recording()) {
      throw new IllegalStateException("parameters moved while a step was recorded");
    }
    try (Arena scratchArena = Arena.ofConfined()) {
      MemorySegment host = scratchArena.allocate((long) count * PIECE_BYTES, 8);
      long at = 0;
      for (Parameter each : weightsFirst(parameters)) {
        for (long from = 0; from < each.value().elements(); from += PIECE_ELEMENTS) {
          at = putPiece(host, at, each, from);
        }
      }
      long address = training.allocate(host.byteSize());
      CudaDriver.copyToDevice(address, host.address(), host.byteSize(), context.stream());
      context.synchronize();
      Pieces made = new Pieces(address, count, weights);
      pieces.put(key, made);
      return made;
    }
  }

  private List<Parameter> weightsFirst(List<Parameter> parameters) {
    return parameters.stream().sorted(Comparator.comparingLong(each -> -leaves(each))).toList();
  }

  private long leaves(Parameter parameter) {
    return training.stale().mayStay(parameter.gradient()) ? 1 : 0;
  }

  /** One {@code Piece} of adamw.cu; returns where the next goes. */
  private long putPiece(MemorySegment host, long at, Parameter parameter, long from) {
    long[] words = {
      address(parameter.value()) + 4 * from,
      address(parameter.gradient()) + 4 * from,
      address(parameter.firstMoment()) + 4 * from,
      address(parameter.secondMoment()) + 4 * from,
      address(parameter.compute()) + 2 * from,
      parameter.mask() == null ? 0 : address(parameter.mask()) + from,
      Math.min(PIECE_ELEMENTS, parameter.value().elements() - from),
      leaves(parameter)
    };
    MemorySegment.copy(words, 0, host, JAVA_LONG, at, words.length);
    return at + PIECE_BYTES;
  }
}
