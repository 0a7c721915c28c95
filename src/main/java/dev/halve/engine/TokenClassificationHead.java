package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.List;

/** A class for each token: Hugging Face's {@code BertForTokenClassification} and its kin. */
public final class TokenClassificationHead implements EncoderHead {
  private final HostLinear classifier;
  private final List<String> labels;

  private TokenClassificationHead(HostLinear classifier, List<String> labels) {
    this.classifier = classifier;
    this.labels = labels;
  }

  static TokenClassificationHead of(StoredTensors tensors, BertConfig config, Labels labels) {
    tensors.requireHead("classifier", "token classification");
    HostLinear classifier = tensors.hostLinear("classifier", config.hiddenSize());
    return new TokenClassificationHead(classifier, labels.of(classifier.out()));
  }

  /** The classes' names, in the order of the logits. */
  public List<String> labels() {
    return labels;
  }

  /** Logits, {@code [tokens][labels]}. */
  @Override
  public float[][] apply(Tensor lastHidden, PackedBatch batch) {
    float[][] logits = new float[batch.tokens()][];
    for (int token = 0; token < logits.length; token++) {
      logits[token] = classifier.apply(EncoderHead.token(lastHidden, token));
    }
    return logits;
  }
}
