package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.LANES;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.AdamW;
import dev.halve.engine.BertModel;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.DeviceBatch;
import dev.halve.engine.Dropout;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedWeight;
import dev.halve.engine.Parameter;
import dev.halve.engine.Pool;
import dev.halve.engine.Weight;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import jdk.incubator.vector.FloatVector;

/**
 * The CPU as a device: F32 throughout, every operation shared out over a {@link ThreadTeam}. How
 * work is split depends on shapes alone, and every sum has one fixed order, so that results are the
 * same on every run and for every team size.
 */
final class CpuDevice implements Device {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;
  private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;

  /** Tokens of one part of an elementwise operation. */
  private static final int TOKEN_BLOCK = 64;

  /** Elements of one part of an optimizer step. */
  private static final int ELEMENT_BLOCK = 1 << 16;

  /** Parts into which sums over tokens are cut; fixed, since the cut decides how they round. */
  private static final int SUM_PARTS = 16;

  private final ThreadTeam team;
  private final Blas[] blas;
  private final Scratch[] scratch;

  CpuDevice(int threads) {
    team = new ThreadTeam(threads);
    blas = new Blas[threads];
    scratch = new Scratch[threads];
    for (int member = 0; member < threads; member++) {
      blas[member] = new Blas();
      scratch[member] = new Scratch();
    }
  }

  @Override
  public String name() {
    return "cpu";
  }

  @Override
  public DType computeType() {
    return DType.F32;
  }

  @Override
  public Pool openPool() {
    return new ArenaPool();
  }

  @Override
  public void upload(Tensor host, Tensor device) {
    device.copyFrom(host);
  }

  @Override
  public void download(Tensor device, Tensor host) {
    host.copyFrom(device);
  }

  @Override
  public void zero(Tensor tensor) {
    tensor.segment().fill((byte) 0);
  }

  @Override
  public void round(Parameter parameter) {
    if (parameter.compute() != parameter.value()) {
      long elements = parameter.value().elements();
      int parts = Math.toIntExact((elements + ELEMENT_BLOCK - 1) / ELEMENT_BLOCK);
      team.run(
          parts,
          (part, member) ->
              CpuAdamW.copyUnmasked(parameter, (long) part * ELEMENT_BLOCK, ELEMENT_BLOCK));
    }
  }

  @Override
  public PackedWeight pack(Pool pool, SparseSemiStructuredTensor weight) {
    return PackedSparseWeight.pack(pool, weight);
  }

  private interface TokenRange {
    void run(int from, int to);
  }

  private void overTokens(long tokens, TokenRange task) {
    int count = Math.toIntExact(tokens);
    team.run(
        (count + TOKEN_BLOCK - 1) / TOKEN_BLOCK,
        (part, member) -> task.run(part * TOKEN_BLOCK, Math.min(count, (part + 1) * TOKEN_BLOCK)));
  }

  @Override
  public void embed(DeviceBatch batch, Tensor word, Tensor position, Tensor type, Tensor out) {
    int hidden = (int) out.extent(1);
    MemorySegment ids = batch.tokenIds().segment();
    MemorySegment positions = batch.positions().segment();
    MemorySegment types = batch.typeIds().segment();
    overTokens(
        batch.tokens(),
        (from, to) -> {
          for (long token = from; token < to; token++) {
            long wordAt = (long) ids.getAtIndex(INT, token) * hidden;
            long positionAt = (long) positions.getAtIndex(INT, token) * hidden;
            long typeAt = (long) types.getAtIndex(INT, token) * hidden;
            for (int i = 0; i < hidden; i += LANES) {
              FloatVector sum =
                  VectorMath.load(word.segment(), wordAt + i, wordAt + hidden)
                      .add(VectorMath.load(position.segment(), positionAt + i, positionAt + hidden))
                      .add(VectorMath.load(type.segment(), typeAt + i, typeAt + hidden));
              VectorMath.store(sum, out.segment(), token * hidden + i, (token + 1) * hidden);
            }
          }
        });
  }

  @Override
  public void embedBackward(
      DeviceBatch batch, Tensor dOut, Tensor dWord, Tensor dPosition, Tensor dType) {
    int hidden = (int) dOut.extent(1);
    // Each part owns some columns of every table, so that no two parts add to one element.
    int width = Math.max(LANES, 64);
    team.run(
        (hidden + width - 1) / width,
        (part, member) -> {
          int from = part * width;
          int to = Math.min(hidden, from + width);
          for (long token = 0; token < batch.tokens(); token++) {
            long at = token * hidden;
            addColumns(dOut, at, dWord, batch.tokenIds(), token, from, to, hidden);
            addColumns(dOut, at, dPosition, batch.positions(), token, from, to, hidden);
            addColumns(dOut, at, dType, batch.typeIds(), token, from, to, hidden);
          }
        });
  }

  private static void addColumns(
      Tensor dOut, long at, Tensor table, Tensor ids, long token, int from, int to, int hidden) {
    long row = (long) ids.segment().getAtIndex(INT, token) * hidden;
    for (int i = from; i < to; i += LANES) {
      FloatVector sum =
          VectorMath.load(table.segment(), row + i, row + to)
              .add(VectorMath.load(dOut.segment(), at + i, at + to));
      VectorMath.store(sum, table.segment(), row + i, row + to);
    }
  }

  @Override
  public void layerNorm(
      Tensor x,
      Dropout dropout,
      Tensor residual,
      Tensor gamma,
      Tensor beta,
      float epsilon,
      Tensor sum,
      Tensor statistics,
      Tensor out) {
    Tensor summand = dropout.isNone() ? x : sum;
    if (!dropout.isNone()) {
      dropout(x, dropout, sum);
    }
    overTokens(
        x.extent(0),
        (from, to) ->
            CpuNorm.forward(
                from,
                to,
                (int) x.extent(1),
                summand.segment(),
                residual == null ? null : residual.segment(),
                gamma.segment(),
                beta.segment(),
                epsilon,
                sum == null ? null : sum.segment(),
                statistics == null ? null : statistics.segment(),
                out.segment()));
  }

  @Override
  public void layerNormBackward(
      Tensor sum,
      Tensor statistics,
      Tensor gamma,
      Tensor dOut,
      Tensor dSum,
      Dropout dropout,
      Tensor dX,
      Tensor dGamma,
      Tensor dBeta,
      Tensor dBias) {
    int hidden = (int) sum.extent(1);
    long tokens = sum.extent(0);
    MemorySegment partial = scratch[0].floats(2L * SUM_PARTS * hidden);
    partial.asSlice(0, 8L * SUM_PARTS * hidden).fill((byte) 0);
    team.run(
        SUM_PARTS,
        (part, member) ->
            CpuNorm.backward(
                tokens * part / SUM_PARTS,
                tokens * (part + 1) / SUM_PARTS,
                hidden,
                sum.segment(),
                statistics.segment(),
                gamma.segment(),
                dOut.segment(),
                dSum.segment(),
                partial.asSlice(8L * part * hidden, 4L * hidden),
                partial.asSlice(8L * part * hidden + 4L * hidden, 4L * hidden)));
    for (int part = 0; part < SUM_PARTS; part++) {
      addTo(dGamma, 0, partial, 2L * part * hidden, hidden);
      addTo(dBeta, 0, partial, 2L * part * hidden + hidden, hidden);
    }
    if (!dropout.isNone()) {
      dropout(dSum, dropout, dX);
    }
    if (dBias != null) {
      addColumnSums(dropout.isNone() ? dSum : dX, 0, dBias);
    }
  }

  /** Adds the sums over rows of as many columns of x as there are sums. */
  private void addColumnSums(Tensor x, int column, Tensor sums) {
    long pitch = x.extent(1);
    int width = (int) sums.extent(0);
    int block = Math.max(LANES, 64);
    team.run(
        (width + block - 1) / block,
        (part, member) -> {
          int first = part * block;
          int count = Math.min(width, first + block) - first;
          for (long token = 0; token < x.extent(0); token++) {
            addTo(sums, first, x.segment(), token * pitch + column + first, count);
          }
        });
  }

  private static void addTo(Tensor sum, long at, MemorySegment x, long from, int count) {
    for (int i = 0; i < count; i += LANES) {
      FloatVector value =
          VectorMath.load(sum.segment(), at + i, at + count)
              .add(VectorMath.load(x, from + i, from + count));
      VectorMath.store(value, sum.segment(), at + i, at + count);
    }
  }

  @Override
  public void linear(
      Tensor x, Weight weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    switch (weight) {
      case Weight.Dense(Parameter parameter) ->
          dense(x, parameter.compute(), bias, epilogue, y, column);
      case Weight.Masked(Parameter parameter) ->
          dense(x, parameter.compute(), bias, epilogue, y, column);
      case Weight.Compressed compressed ->
          sparse(x, (PackedSparseWeight) compressed.packed(), bias, epilogue, y, column);
      case Weight.Hybrid hybrid -> {
        long row = 0;
        for (Weight part : hybrid.parts()) {
          long rows = part.shape().extent(0);
          linear(x, part, bias.rows(row, rows), epilogue, y, Math.toIntExact(column + row));
          row += rows;
        }
      }
    }
  }

  private void sparse(
      Tensor x, PackedSparseWeight weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    PanelKernels kernels = CpuKernels.best().panels();
    if (x.extent(0) < kernels.fewestTokens()) {
      TiledProduct.run(team, CpuKernels.best().tiles(), weight, x, bias, epilogue, y, column);
    } else {
      PanelLinear.run(team, scratch, kernels, weight, x, bias, epilogue, y, column);
    }
  }

  /** Tokens of one product: enough to pay for OpenBLAS's packing of the weight. */
  private static int productTokens(long tokens) {
    return tokens <= 256 ? 128 : 256;
  }

  private void dense(
      Tensor x, Tensor weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    int tokens = (int) x.extent(0);
    int in = (int) weight.extent(1);
    int out = (int) weight.extent(0);
    int width = (int) y.extent(1);
    int block = productTokens(tokens);
    int tokenParts = (tokens + block - 1) / block;
    // Few tokens: cut the outputs instead.
    int outParts = tokenParts >= 2 ? 1 : Math.min(4, (out + 95) / 96);
    team.run(
        tokenParts * outParts,
        (part, member) -> {
          int token = part / outParts * block;
          int count = Math.min(tokens, token + block) - token;
          int first = (int) ((long) out * (part % outParts) / outParts);
          int last = (int) ((long) out * (part % outParts + 1) / outParts);
          blas[member].timesTransposed(
              count,
              last - first,
              in,
              1,
              x.segment().address() + 4L * token * in,
              in,
              weight.segment().address() + 4L * first * in,
              in,
              0,
              y.segment().address() + 4 * ((long) token * width + column + first),
              width);
          for (long t = token; t < token + count; t++) {
            finish(y.segment(), t * width + column + first, last - first, bias, first, epilogue);
          }
        });
  }

  private static void finish(
      MemorySegment y, long at, int count, Tensor bias, int first, Epilogue epilogue) {
    for (int i = 0; i < count; i += LANES) {
      FloatVector value =
          VectorMath.load(y, at + i, at + count)
              .add(VectorMath.load(bias.segment(), first + i, first + count));
      if (epilogue == Epilogue.GELU) {
        value = VectorMath.gelu(value);
      }
      VectorMath.store(value, y, at + i, at + count);
    }
  }

  @Override
  public void addGram(Tensor x, Tensor products) {
    int tokens = (int) x.extent(0);
    int in = (int) x.extent(1);
    // Rows of the triangle differ in length: enough parts that a team's members end together.
    int rowBlock = Math.max(32, in / 24);
    team.run(
        Math.ceilDiv(in, rowBlock),
        (part, member) -> {
          int first = part * rowBlock;
          long from = x.segment().address() + 4L * first;
          blas[member].transposedTimes(
              Math.min(rowBlock, in - first),
              in - first,
              tokens,
              1,
              from,
              in,
              from,
              in,
              1,
              products.segment().address() + 4L * first * (in + 1),
              in);
        });
  }

  @Override
  public void linearBackward(
      Tensor x,
      Weight weight,
      Tensor dY,
      int column,
      Tensor dWeight,
      Tensor dBias,
      Tensor dX,
      boolean addToInput) {
    Tensor value =
        switch (weight) {
          case Weight.Dense(Parameter parameter) -> parameter.compute();
          case Weight.Masked(Parameter parameter) -> parameter.compute();
          case Weight.Compressed compressed ->
              throw new IllegalArgumentException(compressed.name() + " is for inference only");
          case Weight.Hybrid hybrid ->
              throw new IllegalArgumentException(hybrid.name() + " is for inference only");
        };
    int tokens = (int) x.extent(0);
    int in = (int) value.extent(1);
    int out = (int) value.extent(0);
    int width = (int) dY.extent(1);
    long dYAddress = dY.segment().address() + 4L * column;
    int rowBlock = Math.max(16, Math.min(128, out / 4));
    int rowParts = (out + rowBlock - 1) / rowBlock;
    int block = productTokens(tokens);
    int tokenParts = dX == null ? 0 : (tokens + block - 1) / block;
    team.run(
        rowParts + tokenParts,
        (part, member) -> {
          if (part < rowParts) {
            int first = part * rowBlock;
            int rows = Math.min(out, first + rowBlock) - first;
            blas[member].transposedTimes(
                rows,
                in,
                tokens,
                1,
                dYAddress + 4L * first,
                width,
                x.segment().address(),
                in,
                1,
                dWeight.segment().address() + 4L * first * in,
                in);
            for (long token = 0; dBias != null && token < tokens; token++) {
              addTo(dBias, first, dY.segment(), token * width + column + first, rows);
            }
          } else {
            int token = (part - rowParts) * block;
            int count = Math.min(tokens, token + block) - token;
            blas[member].times(
                count,
                in,
                out,
                1,
                dYAddress + 4L * token * width,
                width,
                value.segment().address(),
                in,
                addToInput ? 1 : 0,
                dX.segment().address() + 4L * token * in,
                in);
          }
        });
  }

  private interface Elementwise {
    FloatVector apply(FloatVector value, long index, long end);
  }

  /** {@code y = f(x)} by rows of {@code [tokens, features]}; {@code end} is the end of the row. */
  private void map(Tensor x, Tensor y, Elementwise function) {
    int width = (int) x.extent(1);
    overTokens(
        x.extent(0),
        (from, to) -> {
          for (long token = from; token < to; token++) {
            long end = (token + 1) * width;
            for (long i = token * width; i < end; i += LANES) {
              VectorMath.store(
                  function.apply(VectorMath.load(x.segment(), i, end), i, end),
                  y.segment(),
                  i,
                  end);
            }
          }
        });
  }

  @Override
  public void gelu(Tensor x, Tensor y) {
    map(x, y, (value, index, end) -> VectorMath.gelu(value));
  }

  @Override
  public void geluBackward(Tensor x, Tensor dY, Tensor dX, Tensor dBias) {
    map(
        x,
        dX,
        (value, index, end) ->
            VectorMath.geluDerivative(value).mul(VectorMath.load(dY.segment(), index, end)));
    if (dBias != null) {
      addColumnSums(dX, 0, dBias);
    }
  }

  @Override
  public void dropout(Tensor x, Dropout dropout, Tensor y) {
    long width = x.extent(1);
    map(
        x,
        y,
        (value, index, end) -> {
          int token = (int) (index / width);
          return value.mul(
              CpuAttention.kept(dropout, dropout.rowKey(token), (int) (index - token * width)));
        });
  }

  @Override
  public void add(Tensor x, Tensor y) {
    map(x, y, (value, index, end) -> value.add(VectorMath.load(y.segment(), index, end)));
  }

  @Override
  public void attention(
      Tensor qkv, DeviceBatch batch, int heads, Dropout dropout, Tensor logSumExp, Tensor out) {
    CpuAttention attention = new CpuAttention(qkv, batch.host(), heads, dropout, logSumExp);
    team.run(
        attention.parts(),
        (part, member) ->
            attention.forward(
                part, blas[member], scratch[member].floats(attention.scoreFloats()), out));
  }

  @Override
  public void attentionBackward(
      Tensor qkv,
      DeviceBatch batch,
      int heads,
      Dropout dropout,
      Tensor logSumExp,
      Tensor out,
      Tensor dOut,
      Tensor dQkv,
      List<Tensor> dBiases) {
    CpuAttention attention = new CpuAttention(qkv, batch.host(), heads, dropout, logSumExp);
    long floats = attention.scoreFloats();
    team.run(
        attention.parts(),
        (part, member) -> {
          MemorySegment both = scratch[member].floats(2 * floats);
          attention.backward(
              part,
              blas[member],
              both.asSlice(0, 4 * floats),
              both.asSlice(4 * floats, 4 * floats),
              dOut,
              dQkv);
        });
    int column = 0;
    for (Tensor each : dBiases) {
      addColumnSums(dQkv, column, each);
      column += (int) each.extent(0);
    }
  }

  @Override
  public void spanLoss(
      Tensor logits,
      DeviceBatch batch,
      Tensor starts,
      Tensor ends,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    int[] rowOffsets = batch.host().rowOffsets();
    int counted = 0;
    for (int row = 0; row < batch.rows(); row++) {
      int length = batch.host().rowLength(row);
      if (inside(starts, row, length) && inside(ends, row, length)) {
        counted++;
      }
    }
    zero(dLogits);
    double total = 0;
    for (int row = 0; row < batch.rows(); row++) {
      int length = batch.host().rowLength(row);
      if (inside(starts, row, length) && inside(ends, row, length)) {
        float half = weight * 0.5f / counted;
        total += crossEntropy(logits, dLogits, rowOffsets[row], length, 0, starts, row, half);
        total += crossEntropy(logits, dLogits, rowOffsets[row], length, 1, ends, row, half);
      }
    }
    loss.setFloat(0, (float) (loss.getFloat(0) + total));
  }

  private static boolean inside(Tensor positions, int row, int length) {
    int position = positions.segment().getAtIndex(INT, row);
    return position >= 0 && position < length;
  }

  private static double crossEntropy(
      Tensor logits,
      Tensor dLogits,
      int first,
      int length,
      int column,
      Tensor targets,
      int row,
      float weight) {
    int target = targets.segment().getAtIndex(INT, row);
    float max = Float.NEGATIVE_INFINITY;
    for (int i = 0; i < length; i++) {
      max = Math.max(max, logits.segment().getAtIndex(FLOAT, 2L * (first + i) + column));
    }
    double sum = 0;
    for (int i = 0; i < length; i++) {
      sum += Math.exp(logits.segment().getAtIndex(FLOAT, 2L * (first + i) + column) - max);
    }
    for (int i = 0; i < length; i++) {
      long at = 2L * (first + i) + column;
      double probability = Math.exp(logits.segment().getAtIndex(FLOAT, at) - max) / sum;
      dLogits
          .segment()
          .setAtIndex(FLOAT, at, (float) (weight * (probability - (i == target ? 1 : 0))));
    }
    float score = logits.segment().getAtIndex(FLOAT, 2L * (first + target) + column);
    return weight * (Math.log(sum) + max - score);
  }

  @Override
  public void distillationLoss(
      Tensor logits,
      Tensor teacher,
      DeviceBatch batch,
      float temperature,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    double[] losses = new double[2 * batch.rows()];
    double scale = 0.5 * weight / batch.rows();
    team.run(
        losses.length,
        (part, member) -> {
          int first = batch.host().rowOffsets()[part / 2];
          int length = batch.host().rowLength(part / 2);
          losses[part] =
              CpuDistillation.logits(
                  logits, teacher, dLogits, 2L * first + part % 2, length, temperature, scale);
        });
    double total = 0;
    for (double each : losses) {
      total += each;
    }
    loss.setFloat(0, (float) (loss.getFloat(0) + total));
  }

  @Override
  public void hiddenLoss(
      Tensor student,
      Tensor teacher,
      DeviceBatch batch,
      float weight,
      Tensor dStudent,
      Tensor loss) {
    long elements = batch.host().tokens() * student.extent(1);
    int parts = Math.toIntExact((elements + ELEMENT_BLOCK - 1) / ELEMENT_BLOCK);
    double[] squares = new double[2 * parts];
    team.run(
        parts,
        (part, member) -> {
          long from = (long) part * ELEMENT_BLOCK;
          long to = Math.min(elements, from + ELEMENT_BLOCK);
          squares[2 * part] = CpuDistillation.squaredError(student, teacher, from, to);
          squares[2 * part + 1] = CpuDistillation.squares(teacher, from, to);
        });
    double error = 0;
    double norm = 0;
    for (int part = 0; part < parts; part++) {
      error += squares[2 * part];
      norm += squares[2 * part + 1];
    }
    float factor = (float) (2 * weight / norm);
    team.run(
        parts,
        (part, member) -> {
          long from = (long) part * ELEMENT_BLOCK;
          long to = Math.min(elements, from + ELEMENT_BLOCK);
          CpuDistillation.addError(student, teacher, factor, dStudent, from, to);
        });
    loss.setFloat(0, (float) (loss.getFloat(0) + weight * error / norm));
  }

  @Override
  public void chooseMask(Tensor weight, Tensor mask) {
    int width = Math.toIntExact(weight.extent(1));
    overTokens(
        weight.extent(0),
        (from, to) -> {
          for (long i = (long) from * width; i < (long) to * width; i += 4) {
            CpuDistillation.chooseTwo(weight, mask, i);
          }
        });
  }

  @Override
  public void adamW(List<Parameter> parameters, AdamW settings, int step, Tensor norm) {
    int[] firstPart = new int[parameters.size() + 1];
    for (int i = 0; i < parameters.size(); i++) {
      long elements = parameters.get(i).value().elements();
      firstPart[i + 1] =
          firstPart[i] + Math.toIntExact((elements + ELEMENT_BLOCK - 1) / ELEMENT_BLOCK);
    }
    double[] squares = new double[firstPart[parameters.size()]];
    team.run(
        squares.length,
        (part, member) -> {
          int index = CpuAdamW.parameterOf(firstPart, part);
          long from = (long) (part - firstPart[index]) * ELEMENT_BLOCK;
          squares[part] =
              CpuAdamW.maskAndSquare(
                  parameters.get(index), from, ELEMENT_BLOCK, settings.maskedKeep() == 0);
        });
    double total = 0;
    for (double each : squares) {
      total += each;
    }
    double length = Math.sqrt(total);
    norm.setFloat(0, (float) length);
    // As torch.nn.utils.clip_grad_norm_ does.
    double clip = Math.min(1, settings.maxNorm() / (length + 1e-6));
    team.run(
        squares.length,
        (part, member) -> {
          int index = CpuAdamW.parameterOf(firstPart, part);
          long from = (long) (part - firstPart[index]) * ELEMENT_BLOCK;
          CpuAdamW.update(parameters.get(index), from, ELEMENT_BLOCK, settings, step, clip);
        });
  }

  @Override
  public CompiledModel compile(BertModel model, Linear head, int maxTokens, int maxRows) {
    return new CompiledEncoder(team, CpuKernels.best(), model, head, maxTokens, maxRows);
  }

  @Override
  public void close() {
    team.close();
    for (Scratch each : scratch) {
      each.close();
    }
  }
}
