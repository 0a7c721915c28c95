package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparsify.Sparsifier;
import dev.halve.engine.AdamW;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Linear;
import dev.halve.engine.StepScalars;
import dev.halve.engine.TrainingStep;
import dev.halve.report.LossCurve;
import dev.halve.report.Score;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Fine-tunes a question-answering model, masked or dense, with AdamW on packed rows. Everything
 * random is a function of seed and step, and a device's sums have a fixed order on the CPU, so that
 * a training that was interrupted and resumed ends with the same bits as one that was not.
 */
public final class Trainer {
  private final BertForQuestionAnswering model;
  private final TrainingSettings settings;
  private final RecoverySettings recovery;
  private final BertForQuestionAnswering teacher;
  private final int maxTokens;
  private final TrainingOrder order;
  private final int totalSteps;
  private final List<LossCurve.Point> loss;
  private final List<LossCurve.ScorePoint> scores;
  private Evaluation evaluation;
  private int step;
  private float lossSum;
  private long tokens;

  /** Keeps what a training needs to be resumed: {@link #state}, weights, moments, masks. */
  @FunctionalInterface
  public interface Keeper {
    void keep(TrainingState state);
  }

  /** Scores the model as it is. */
  @FunctionalInterface
  public interface Evaluation {
    Score evaluate();
  }

  /**
   * @param model prepared for training, with the moments of the state it starts from
   * @param from where an earlier run stopped, or {@link TrainingState#START}
   */
  public Trainer(
      BertForQuestionAnswering model,
      List<TrainingRow> rows,
      TrainingSettings settings,
      TrainingState from) {
    this(model, rows, settings, RecoverySettings.PLAIN, null, from);
  }

  /**
   * @param recovery what else is done to bring a pruned model back; to choose masks that do not
   *     grow, every encoder weight has one
   * @param teacher the dense model, on the same device; null where the recovery does not distil
   */
  public Trainer(
      BertForQuestionAnswering model,
      List<TrainingRow> rows,
      TrainingSettings settings,
      RecoverySettings recovery,
      BertForQuestionAnswering teacher,
      TrainingState from) {
    if (rows.isEmpty()) {
      throw new HalveException("there are no questions to train on");
    }
    this.model = model;
    this.settings = settings;
    this.recovery = recovery;
    this.teacher = teacher;
    this.maxTokens =
        rows.stream()
            .map(row -> row.tokenIds().length)
            .sorted(Comparator.reverseOrder())
            .limit(settings.batchSize())
            .mapToInt(Integer::intValue)
            .sum();
    this.order = new TrainingOrder(rows, settings.batchSize(), settings.seed());
    this.totalSteps =
        settings.maxSteps() > 0
            ? settings.maxSteps()
            : Math.ceilDiv(
                Math.multiplyExact(settings.epochs(), order.stepsPerEpoch()),
                settings.gradientAccumulationSteps());
    this.step = from.step();
    this.lossSum = from.lossSum();
    this.loss = new ArrayList<>(from.loss());
    this.scores = new ArrayList<>(from.scores());
  }

  /** Scores the model in between, as often as the settings say. */
  public void evaluateBy(Evaluation evaluation) {
    this.evaluation = evaluation;
  }

  /** Steps when it is over. */
  public int totalSteps() {
    return totalSteps;
  }

  /** Tokens trained on since this trainer was made. */
  public long tokens() {
    return tokens;
  }

  public TrainingState state() {
    return new TrainingState(step, lossSum, loss, scores);
  }

  /** The learning rate of a step, counted from 1, as transformers' schedules have it. */
  static double learningRate(TrainingSettings settings, int step, int totalSteps) {
    int before = step - 1;
    if (before < settings.warmupSteps()) {
      return settings.learningRate() * before / settings.warmupSteps();
    }
    return switch (settings.schedule()) {
      case CONSTANT -> settings.learningRate();
      case LINEAR ->
          settings.learningRate()
              * Math.max(0, totalSteps - before)
              / Math.max(1, totalSteps - settings.warmupSteps());
    };
  }

  /**
   * Takes all steps that are left.
   *
   * @param name of the stage
   * @param keeper called every so often, and before it stops on request; not after the last step
   * @return seconds that it took
   * @throws StoppedException if the listener asked for it
   * @throws HalveException if the loss is no longer a number
   */
  public double run(String name, Progress progress, Keeper keeper) {
    Stage stage = Stage.begin(progress, name, step, totalSteps, "steps");
    ExecutorService ahead =
        Executors.newSingleThreadExecutor(
            Thread.ofPlatform().daemon().name("next-batch").factory());
    try (TrainingStep trainingStep = openStep()) {
      Tensor lossOnDevice = trainingStep.loss();
      setLoss(lossOnDevice, lossSum);
      int number = step * settings.gradientAccumulationSteps() + 1;
      int last = totalSteps * settings.gradientAccumulationSteps();
      CompletableFuture<TrainingOrder.Batch> next = prepare(number, ahead);
      long kept = System.nanoTime();
      while (step < totalSteps) {
        TrainingOrder.Batch batch = joined(next);
        if (number < last) {
          next = prepare(number + 1, ahead);
        }
        boolean whole = take(trainingStep, batch, number);
        number++;
        if (!whole) {
          continue;
        }
        log(lossOnDevice, stage);
        score();
        boolean stop = progress.stopRequested();
        boolean due = System.nanoTime() - kept >= settings.checkpointSeconds() * 1_000_000_000L;
        if ((stop || due) && step < totalSteps) {
          lossSum = checkedLoss(lossOnDevice);
          keeper.keep(state());
          kept = System.nanoTime();
          stage.checkStop("step %d of %d is kept".formatted(step, totalSteps));
        }
      }
      lossSum = checkedLoss(lossOnDevice);
      if (recovery.masks().choosing(totalSteps, totalSteps)) {
        Pruning.squash(Pruning.byWeightNorm(recovery.masks().pattern()), model.bert().linears());
      }
    } finally {
      ahead.shutdownNow();
    }
    return stage.end();
  }

  private CompletableFuture<TrainingOrder.Batch> prepare(int number, ExecutorService ahead) {
    return CompletableFuture.supplyAsync(
        () -> {
          TrainingOrder.Batch batch = order.batch(number);
          batch.packed().check(model.config());
          return batch;
        },
        ahead);
  }

  private static TrainingOrder.Batch joined(CompletableFuture<TrainingOrder.Batch> next) {
    try {
      return next.join();
    } catch (CompletionException failure) {
      throw failure.getCause() instanceof HalveException bad ? bad : failure;
    }
  }

  private TrainingStep openStep() {
    return new TrainingStep(
        model,
        recovery.distils() ? recovery.distillation(teacher) : null,
        maxTokens,
        settings.batchSize(),
        settings.gradientAccumulationSteps());
  }

  /**
   * @param number of the batch, counted from 1
   * @return whether a step is over
   */
  private boolean take(TrainingStep trainingStep, TrainingOrder.Batch batch, int number) {
    MaskSettings masks = recovery.masks();
    int place = (number - 1) % settings.gradientAccumulationSteps();
    if (place == 0 && masks.choosesBefore(step + 1, totalSteps)) {
      chooseMasks();
    }
    AdamW optimizer =
        new AdamW(
            learningRate(settings, step + 1, totalSteps),
            0.9,
            0.999,
            1e-8,
            settings.weightDecay(),
            settings.maxGradNorm(),
            masks.keep(step + 1, totalSteps),
            masks.decay(step + 1, totalSteps));
    StepScalars scalars = new StepScalars(order.dropoutSeed(number), optimizer, step + 1);
    tokens += batch.packed().tokens();
    if (place + 1 < settings.gradientAccumulationSteps()) {
      trainingStep.accumulate(batch.packed(), batch.starts(), batch.ends(), scalars);
      return false;
    }
    trainingStep.run(batch.packed(), batch.starts(), batch.ends(), scalars);
    step++;
    return true;
  }

  private void chooseMasks() {
    List<Linear> linears = model.bert().linears();
    if (recovery.masks().growth() == null) {
      linears.forEach(Linear::chooseMask);
      return;
    }
    double level = recovery.masks().schedule(totalSteps).level(step);
    Sparsifier sparsifier = Pruning.byWeightNorm(recovery.masks().pattern().withLevel(level));
    sparsifier.prepare(linears);
    sparsifier.step();
  }

  private void score() {
    if (evaluation != null && settings.evalSteps() > 0 && step % settings.evalSteps() == 0) {
      Score score = evaluation.evaluate();
      scores.add(new LossCurve.ScorePoint(step, score.exactMatch(), score.f1()));
    }
  }

  /** The device's sum is fetched once a point, so that steps need not wait for each other. */
  private void log(Tensor lossOnDevice, Stage stage) {
    int since = step - (loss.isEmpty() ? 0 : loss.getLast().step());
    if (since == settings.loggingSteps() || step == totalSteps) {
      loss.add(new LossCurve.Point(step, (double) checkedLoss(lossOnDevice) / since));
      setLoss(lossOnDevice, 0);
    }
    stage.advance(
        step, loss.isEmpty() ? "" : String.format(Locale.ROOT, "loss %.3f", loss.getLast().loss()));
  }

  private float checkedLoss(Tensor lossOnDevice) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.F32, 1);
      model.device().download(lossOnDevice, host);
      if (!Float.isFinite(host.getFloat(0))) {
        throw new HalveException(
            "the loss is %s at step %d; lower the learning rate (%s)"
                .formatted(host.getFloat(0), step, settings.learningRate()));
      }
      return host.getFloat(0);
    }
  }

  private void setLoss(Tensor lossOnDevice, float value) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.F32, 1);
      host.setFloat(0, value);
      model.device().upload(host, lossOnDevice);
    }
  }
}
