package dev.halve.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;

class TerminalProgressTest {
  private final ByteArrayOutputStream err = new ByteArrayOutputStream();

  private TerminalProgress progress(boolean terminal) {
    PrintStream stream = new PrintStream(err, true, StandardCharsets.UTF_8);
    return new TerminalProgress(new Console(System.out, stream, terminal), Interruption.none());
  }

  private String written() {
    return err.toString(StandardCharsets.UTF_8);
  }

  /** A stage that takes longer than a moment. */
  private static void run(TerminalProgress progress) throws InterruptedException {
    progress.begin("fine-tune", 40, "steps");
    for (int step = 1; step <= 8; step++) {
      Thread.sleep(200);
      progress.advance(step, 5, "loss 1.25");
    }
  }

  @Test
  void aTerminalSeesABarWithRateAndTimeLeft() throws InterruptedException {
    TerminalProgress progress = progress(true);
    run(progress);
    progress.end("fine-tune", 8);
    assertThat(written())
        .contains("fine-tune", "/40 steps", "5.0 steps/s", "loss 1.25")
        .containsPattern("0:00:0\\d / 0:00:0[678]")
        .endsWith("fine-tune: 8 steps in 8.0 s, 5.0 steps/s, loss 1.25" + System.lineSeparator());
  }

  @Test
  void aFileSeesOneLineForEachStage() throws InterruptedException {
    TerminalProgress progress = progress(false);
    run(progress);
    assertThat(written()).isEmpty();
    progress.note("a head was initialised");
    progress.end("fine-tune", 125);
    assertThat(written())
        .isEqualToNormalizingNewlines(
            "a head was initialised\nfine-tune: 8 steps in 2:05 min, 5.0 steps/s, loss 1.25\n");
  }

  @Test
  void whatTakesAMomentLeavesNothing() {
    TerminalProgress progress = progress(true);
    progress.begin("check", 0, "outputs");
    progress.advance(1, 0, "");
    progress.end("check", 0.1);
    assertThat(written()).isEmpty();
  }

  @Test
  void aNoteDoesNotTearTheBar() throws InterruptedException {
    TerminalProgress progress = progress(true);
    run(progress);
    progress.note("a checkpoint is written");
    progress.hide();
    assertThat(written()).containsPattern("\r(\u001b\\[[0-9;]*[A-Z])?a checkpoint is written *\\R");
  }
}
