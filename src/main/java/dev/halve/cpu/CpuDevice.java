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
 * work is split depends on the shapes and, for dense products, on the size of the team, and every
 * sum has one fixed order, so that results are the same on every run of as many threads.
 */
final class CpuDevice implements Device {
  private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;

  /** Tokens of one part of an elementwise operation. */
  private static final int TOKEN_BLOCK = 64;

  /** Parts into which sums over tokens are cut; fixed, since the cut decides how they round. */
  private static final int SUM_PARTS = 16;

  private final ThreadTeam team;
  private final Blas[] blas;
  private final Scratch[] scratch;
  private final CpuProducts products;
  private final CpuLosses losses;
  private final CpuAdamW optimizer;

  CpuDevice(int threads) {
    team = new ThreadTeam(threads);
    blas = new Blas[threads];
    scratch = new Scratch[threads];
    for (int member = 0; member < threads; member++) {
      blas[member] = new Blas();
      scratch[member] = new Scratch();
    }
    products = new CpuProducts(team, blas, scratch);
    losses = new CpuLosses(team);
    optimizer = new CpuAdamW(team);
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
    optimizer.round(parameter);
  }

  @Override
  public PackedWeight pack(Pool pool, SparseSemiStructuredTensor weight) {
    return CpuSparseWeight.pack(pool, weight);
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
    VectorMath.addTo(table.segment(), row + from, dOut.segment(), at + from, to - from);
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
      VectorMath.addTo(dGamma.segment(), 0, partial, 2L * part * hidden, hidden);
      VectorMath.addTo(dBeta.segment(), 0, partial, 2L * part * hidden + hidden, hidden);
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
            VectorMath.addTo(
                sums.segment(), first, x.segment(), token * pitch + column + first, count);
          }
        });
  }

  @Override
  public void linear(
      Tensor x, Weight weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    products.linear(x, weight, bias, epilogue, y, column);
  }

  @Override
  public void addGram(Tensor x, Tensor gram) {
    products.addGram(x, gram);
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
    products.linearBackward(x, weight, dY, column, dWeight, dBias, dX, addToInput);
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
      Tensor logits, DeviceBatch batch, float weight, Tensor dLogits, Tensor loss) {
    losses.spanLoss(logits, batch, weight, dLogits, loss);
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
    losses.distillationLoss(logits, teacher, batch, temperature, weight, dLogits, loss);
  }

  @Override
  public void hiddenLoss(
      Tensor student,
      Tensor teacher,
      DeviceBatch batch,
      float weight,
      Tensor dStudent,
      Tensor loss) {
    losses.hiddenLoss(student, teacher, batch, weight, dStudent, loss);
  }

  @Override
  public void chooseMask(Tensor weight, Tensor mask) {
    optimizer.chooseMask(weight, mask);
  }

  @Override
  public void adamW(List<Parameter> parameters, AdamW settings, int step, Tensor norm) {
    optimizer.step(parameters, settings, step, norm);
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
