package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.List;

/**
 * A class for each row, from its first token: a dense layer, an activation, a classifier, each
 * family's own. Hugging Face's {@code BertForSequenceClassification} and its kin.
 */
public final class SequenceClassificationHead implements EncoderHead {
  private final HostLinear dense;
  private final Activation activation;
  private final HostLinear classifier;
  private final List<String> labels;
  private final boolean multiLabel;

  enum Activation {
    TANH,
    RELU,
    GELU;

    float of(float x) {
      return switch (this) {
        case TANH -> (float) Math.tanh(x);
        case RELU -> Math.max(x, 0);
        case GELU -> (float) (x * 0.5 * (1 + ErrorFunction.erf(x / Math.sqrt(2))));
      };
    }
  }

  /** What the layers are called, and what is between them. */
  record Modules(String dense, Activation activation, String classifier) {}

  /**
   * @param prefix of the encoder's tensors in the file
   */
  static Modules modules(ModelFamily family, String prefix) {
    return switch (family) {
      case BERT -> new Modules(prefix + "pooler.dense", Activation.TANH, "classifier");
      case ROBERTA, XLM_ROBERTA ->
          new Modules("classifier.dense", Activation.TANH, "classifier.out_proj");
      case DISTILBERT -> new Modules("pre_classifier", Activation.RELU, "classifier");
      case ELECTRA -> new Modules("classifier.dense", Activation.GELU, "classifier.out_proj");
    };
  }

  private SequenceClassificationHead(
      HostLinear dense,
      Activation activation,
      HostLinear classifier,
      List<String> labels,
      boolean multiLabel) {
    this.dense = dense;
    this.activation = activation;
    this.classifier = classifier;
    this.labels = labels;
    this.multiLabel = multiLabel;
  }

  static SequenceClassificationHead of(
      StoredTensors tensors, BertConfig config, Labels labels, boolean multiLabel) {
    Modules modules = modules(config.family(), tensors.prefix());
    tensors.requireHead(modules.classifier, "text classification");
    HostLinear first = tensors.hostLinear(modules.dense, config.hiddenSize());
    HostLinear last = tensors.hostLinear(modules.classifier, first.out());
    return new SequenceClassificationHead(
        first, modules.activation, last, labels.of(last.out()), multiLabel || last.out() == 1);
  }

  /** The classes' names, in the order of the logits. */
  public List<String> labels() {
    return labels;
  }

  /** Whether a text may have several of the classes, so that each has a probability of its own. */
  public boolean multiLabel() {
    return multiLabel;
  }

  /** Logits, {@code [rows][labels]}. */
  @Override
  public float[][] apply(Tensor lastHidden, PackedBatch batch) {
    float[][] logits = new float[batch.rows()][];
    for (int row = 0; row < batch.rows(); row++) {
      float[] inner = dense.apply(EncoderHead.token(lastHidden, batch.rowOffsets()[row]));
      for (int i = 0; i < inner.length; i++) {
        inner[i] = activation.of(inner[i]);
      }
      logits[row] = classifier.apply(inner);
    }
    return logits;
  }
}
