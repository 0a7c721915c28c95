package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.io.SparseLayout;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Damaged folders in every layout: they are read, or refused in one line; nothing else. */
class ModelReaderFuzzTest {
  private static final int ROUNDS = 250;

  @TempDir Path folder;

  private Path folderOf(SparseLayout layout) {
    Path in = folder.resolve("in");
    new FamilyReference("roberta", "question-answering", 1, 64, 64, 4).pruned().write(in);
    Path out = folder.resolve("out");
    try (PretrainedModel model = PretrainedModel.open(in.toString())) {
      if (layout == null) {
        model.exportOnnx(out, _ -> {});
      } else {
        assertThat(model.convert(out, layout, DType.F16, _ -> {}).leftDense()).isEmpty();
      }
    }
    return out;
  }

  /** Opens, fills and converts; true if all of it is refused or succeeds as it should. */
  private boolean isRefused(Path model, int round) {
    try (Device device = Devices.open("cpu");
        PretrainedModel opened = PretrainedModel.open(model.toString())) {
      opened.convert(folder.resolve("again" + round % 3), SparseLayout.HALVE, null, _ -> {});
      opened.pooling();
      opened.questionAnswering(device, 0, _ -> {}).close();
      return false;
    } catch (HalveException refused) {
      assertThat(refused.getMessage()).isNotBlank().doesNotContain("\n");
      return true;
    }
  }

  @ParameterizedTest
  @CsvSource({"HALVE, 100", "SPARSE_24_BITMASK, 100", "CUTLASS, 100", "ONNX, 40"})
  void weightsWithBytesChanged(String layout, int atLeast) throws IOException {
    Path model = folderOf(layout.equals("ONNX") ? null : SparseLayout.valueOf(layout));
    Path file = model.resolve(layout.equals("ONNX") ? "model.onnx" : "model.safetensors");
    byte[] whole = Files.readAllBytes(file);
    SplittableRandom random = new SplittableRandom(7);
    assertThat(isRefused(model, 0)).isFalse();
    int refused = 0;
    for (int round = 0; round < ROUNDS; round++) {
      byte[] damaged = whole.clone();
      // Half in the description of the tensors, half anywhere.
      int reach = round % 2 == 0 ? Math.min(6000, whole.length) : whole.length;
      for (int i = random.nextInt(1, 6); i > 0; i--) {
        damaged[random.nextInt(reach)] = (byte) random.nextInt();
      }
      if (round % 5 == 4) {
        damaged = Arrays.copyOf(damaged, random.nextInt(damaged.length));
      }
      Files.write(file, damaged);
      refused += isRefused(model, round) ? 1 : 0;
    }
    assertThat(refused).isBetween(atLeast, ROUNDS - 5);
  }

  @Test
  void configurationsWithCharactersChanged() throws IOException {
    Path model = folderOf(SparseLayout.HALVE);
    Files.createDirectories(model.resolve("1_Pooling"));
    Path config = model.resolve("config.json");
    Path pooling = model.resolve("1_Pooling/config.json");
    String right = Files.readString(config);
    String pools = "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": false}";
    SplittableRandom random = new SplittableRandom(8);
    int refused = 0;
    for (int round = 0; round < ROUNDS; round++) {
      Files.writeString(config, round % 4 == 0 ? right : changed(right, random));
      Files.writeString(pooling, round % 4 == 0 ? changed(pools, random) : pools);
      refused += isRefused(model, round) ? 1 : 0;
    }
    assertThat(refused).isBetween(80, ROUNDS - 5);
  }

  private static String changed(String json, SplittableRandom random) {
    byte[] bytes = json.getBytes(StandardCharsets.UTF_8);
    byte[] useful = "0123456789-.eE\"{}[]:,truefalsn \\".getBytes(StandardCharsets.UTF_8);
    for (int i = random.nextInt(1, 4); i > 0; i--) {
      bytes[random.nextInt(bytes.length)] = useful[random.nextInt(useful.length)];
    }
    return new String(bytes, StandardCharsets.UTF_8);
  }
}
