package dev.halve.cpu;

import dev.halve.core.Tensor;
import dev.halve.engine.BertModel;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Pass;
import dev.halve.engine.Workspace;

/** A model that runs an operation at a time in one workspace. */
record EagerModel(BertModel model, Linear head, int maxTokens, int maxRows, Workspace workspace)
    implements CompiledModel {
  EagerModel(BertModel model, Linear head, int maxTokens, int maxRows) {
    this(model, head, maxTokens, maxRows, new Workspace(model.device()));
  }

  @Override
  public long weightBytes() {
    return model.linears().stream().mapToLong(Linear::weightBytes).sum();
  }

  @Override
  public Tensor run(PackedBatch batch) {
    workspace.reset();
    batch.check(model.config());
    Pass pass = Pass.inference(workspace, batch);
    Tensor hidden = model.forward(pass).lastHidden();
    if (head == null) {
      return hidden;
    }
    Tensor logits = workspace.take(batch.tokens(), head.out());
    model.device().linear(hidden, head.weight(), head.bias().compute(), Epilogue.NONE, logits, 0);
    return logits;
  }

  @Override
  public void close() {
    workspace.close();
  }
}
