package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Damaged files: each is read as what it says, or refused in one line that names it. Seeds are
 * fixed, so a failure repeats.
 */
class ParserFuzzTest {
  private static final List<String> PIECES =
      List.of(
          "{",
          "}",
          "[",
          "]",
          ",",
          ":",
          "\"",
          "\\",
          "null",
          "true",
          "-1",
          "1e999",
          "0.5",
          "99999999999999999999",
          "\"id\"",
          "\"context\"",
          "\"answers\"",
          "\"answer_start\"",
          "\\ud800",
          "\u0000",
          "é",
          "😀",
          " ");

  @TempDir Path folder;

  @Test
  void squadFiles() throws IOException {
    byte[] whole =
        Files.readAllBytes(Path.of("src/test/resources/dev/halve/qa/features-squad.json"));
    int read =
        fuzz(
            whole,
            file -> {
              SquadDataset dataset = SquadDataset.read(file);
              assertThat(dataset.examples()).isNotEmpty();
              for (Example example : dataset.examples()) {
                assertThat(example.question()).isNotBlank();
                for (Answer answer : example.answers()) {
                  assertThat(example.context().substring(answer.start(), answer.end()))
                      .isEqualTo(answer.text());
                }
              }
            });
    assertThat(read).as("damage that does not matter").isBetween(20, 980);
  }

  @Test
  void predictionsFiles() throws IOException {
    byte[] whole =
        "{\"q1\": \"Marta Quennell\", \"q2\": \"\", \"q3\": \"1,000.50 😀 \\u00e9\"}"
            .getBytes(StandardCharsets.UTF_8);
    int read =
        fuzz(
            whole,
            file -> {
              for (Map.Entry<String, String> entry : Predictions.read(file).entrySet()) {
                assertThat(entry.getKey()).isNotNull();
                assertThat(entry.getValue()).isNotNull();
              }
            });
    assertThat(read).isBetween(20, 980);
  }

  /** How many of 1,000 damaged files the reader takes. */
  private int fuzz(byte[] whole, Consumer<Path> reader) throws IOException {
    Random random = new Random(20_26);
    Path file = folder.resolve("damaged.json");
    int read = 0;
    for (int round = 0; round < 1_000; round++) {
      Files.write(file, damage(whole, random));
      try {
        reader.accept(file);
        read++;
      } catch (HalveException refused) {
        assertThat(refused.getMessage()).startsWith(file + ": ").hasLineCount(1);
        assertThat(refused.getMessage().length()).isLessThan(file.toString().length() + 600);
      }
    }
    return read;
  }

  private static byte[] damage(byte[] whole, Random random) {
    byte[] bytes = whole.clone();
    for (int times = 1 + random.nextInt(3); times > 0; times--) {
      int at = random.nextInt(bytes.length);
      switch (random.nextInt(6)) {
        case 0 -> bytes = Arrays.copyOf(bytes, at + 1);
        case 1 -> bytes[at] = (byte) random.nextInt(256);
        case 2 -> bytes[at] ^= (byte) (1 << random.nextInt(8));
        case 3 ->
            bytes =
                splice(
                    bytes,
                    at,
                    PIECES.get(random.nextInt(PIECES.size())).getBytes(StandardCharsets.UTF_8),
                    at);
        case 4 ->
            bytes =
                splice(bytes, at, new byte[0], Math.min(bytes.length, at + 1 + random.nextInt(30)));
        default -> {
          int from = random.nextInt(bytes.length);
          bytes =
              splice(
                  bytes,
                  at,
                  Arrays.copyOfRange(bytes, from, Math.min(bytes.length, from + 100)),
                  at);
        }
      }
      if (bytes.length == 0) {
        return bytes;
      }
    }
    return bytes;
  }

  /** The bytes with {@code [from, to)} replaced. */
  private static byte[] splice(byte[] bytes, int from, byte[] middle, int to) {
    byte[] spliced = Arrays.copyOf(bytes, from + middle.length + bytes.length - to);
    System.arraycopy(middle, 0, spliced, from, middle.length);
    System.arraycopy(bytes, to, spliced, from + middle.length, bytes.length - to);
    return spliced;
  }

  @Test
  void deepNestingEndsInALine() throws IOException {
    Path file = Files.writeString(folder.resolve("deep.json"), "{\"x\": " + "[".repeat(200_000));
    for (Consumer<Path> reader : List.<Consumer<Path>>of(SquadDataset::read, Predictions::read)) {
      try {
        reader.accept(file);
        throw new AssertionError("read");
      } catch (HalveException refused) {
        assertThat(refused.getMessage()).startsWith(file + ": ").hasLineCount(1);
      }
    }
  }
}
