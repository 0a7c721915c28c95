package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.cuda.SparseGemmTile.Epilogue;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Every kernel compiles for every architecture, by NVRTC or by nvcc, whichever is there. */
class KernelCompilationTest {
  @TempDir Path folder;

  private record Source(String name, Map<String, String> definitions) {
    Source inBfloat16() {
      Map<String, String> all = new HashMap<>(definitions);
      all.put("HALVE_BF16", "1");
      return new Source(name, all);
    }
  }

  /** Each file once, its other shapes being compiled where they run. */
  private static List<Source> sources(String architecture) {
    List<Source> sources = new ArrayList<>();
    sources.add(new Source("layer_norm.cu", Map.of("HIDDEN", "768")));
    sources.add(new Source("token_norms.cu", Map.of("HIDDEN", "768")));
    sources.add(
        new Source("head.cu", Map.of("HIDDEN", "36", "OUTPUTS", "2", "ELEMENT_LOGITS", "0")));
    sources.add(new Source("elementwise.cu", Map.of()));
    sources.add(new Source("dense_gemm.cu", Map.of("EPILOGUE", "1")));
    sources.add(new Source("attention.cu", Map.of("HEAD", "64")));
    sources.addAll(trainingSources());
    if (architecture.equals("sm_90a")) {
      sources.add(new Source("attention_sm90.cu", Map.of("HEAD", "64")));
      sources.add(
          new Source("attention_sm90.cu", Map.of("HEAD", "32", "TRAINING", "1", "DROPOUT", "1")));
      sources.add(new Source("attention_backward_sm90.cu", Map.of("HEAD", "64", "DROPOUT", "1")));
      sources.add(new Source("attention_backward_sm90.cu", Map.of("HEAD", "32", "DROPOUT", "0")));
      for (boolean backward : new boolean[] {false, true}) {
        sources.add(
            new Source(
                "gelu_gemm_sm90.cu", GeluGemm.tiles(1).getFirst().definitions(backward, backward)));
      }
      for (Epilogue epilogue : Epilogue.values()) {
        List<SparseGemmTile.Sm90> tiles = SparseGemmTile.hopperCandidates(98304, 12);
        sources.add(sparse(tiles.getFirst(), epilogue));
        sources.add(sparse(tiles.getLast(), epilogue));
      }
    }
    sources.add(sparse(SparseGemmTile.ampereCandidates().getFirst(), Epilogue.BIAS_GELU));
    return sources;
  }

  private static List<Source> trainingSources() {
    return List.of(
        new Source("attention.cu", Map.of("HEAD", "32", "TRAINING", "1", "DROPOUT", "1")),
        new Source("attention_backward.cu", Map.of("HEAD", "64", "WARPS", "4", "DROPOUT", "1")),
        new Source("layer_norm_training.cu", Map.of("HIDDEN", "384", "DROPOUT", "1")),
        new Source("column_sums.cu", Map.of()),
        new Source("embeddings_backward.cu", Map.of("HIDDEN", "384", "TYPES", "2")),
        new Source("head_backward.cu", Map.of("HIDDEN", "384", "OUTPUTS", "2")),
        new Source("span_loss.cu", Map.of("HIDDEN", "384")),
        new Source("adamw.cu", Map.of()),
        new Source("dropout.cu", Map.of()));
  }

  private static Source sparse(SparseGemmTile tile, Epilogue epilogue) {
    return new Source(tile.entry() + ".cu", tile.definitions(epilogue));
  }

  @ParameterizedTest
  @ValueSource(strings = {"sm_80", "sm_86", "sm_89", "sm_90a"})
  void kernelsCompile(String architecture) throws Exception {
    Path nvcc = Nvrtc.present() ? null : nvcc();
    if (!Nvrtc.present() && nvcc == null) {
      String reason = "kernels not compiled: neither NVRTC nor nvcc was found";
      System.out.println(reason);
      Assumptions.abort(reason);
    }
    KernelCompiler compiler =
        new KernelCompiler(new KernelCache(folder.resolve("cache")), architecture, "");
    boolean bfloat16 = architecture.equals("sm_80") || architecture.equals("sm_89");
    sources(architecture).parallelStream()
        .map(source -> bfloat16 ? source.inBfloat16() : source)
        .forEach(source -> {
          byte[] cubin =
              nvcc == null
                  ? compiler.compile(source.name, source.definitions)
                  : byNvcc(nvcc, architecture, source);
          assertThat(cubin).as(source.name).startsWith(0x7F, 'E', 'L', 'F');
        });
  }

  private static Path nvcc() {
    return Stream.concat(
            Stream.of(System.getenv("PATH").split(java.io.File.pathSeparator)),
            Stream.of("/usr/local/cuda/bin"))
        .map(path -> Path.of(path, "nvcc"))
        .filter(Files::isExecutable)
        .findFirst()
        .orElse(null);
  }

  private byte[] byNvcc(Path nvcc, String architecture, Source source) {
    try {
      Path work = Files.createTempDirectory(folder, "nvcc");
      for (String name :
          List.of(
              "attention.cuh",
              "common.cuh",
              "dropout.cuh",
              "hopper.cuh",
              "token_share.cuh",
              source.name)) {
        try (InputStream stream = KernelCompiler.class.getResourceAsStream("kernels/" + name)) {
          Files.copy(stream, work.resolve(name));
        }
      }
      Path cubin = work.resolve("kernel.cubin");
      List<String> command =
          new ArrayList<>(
              List.of(
                  nvcc.toString(),
                  "-std=c++17",
                  "-cubin",
                  "-arch=" + architecture,
                  "-o",
                  cubin.toString(),
                  work.resolve(source.name).toString()));
      source.definitions.forEach((macro, value) -> command.add("-D" + macro + "=" + value));
      Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
      String log = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
      assertThat(process.waitFor()).as(log).isZero();
      return Files.readAllBytes(cubin);
    } catch (IOException failed) {
      throw new java.io.UncheckedIOException(failed);
    } catch (InterruptedException stopped) {
      throw new IllegalStateException(stopped);
    }
  }
}
