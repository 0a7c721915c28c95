package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Parameter;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.Answer;
import dev.halve.qa.Example;
import dev.halve.qa.SquadDataset;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SequencedMap;

/** A model folder and question files that a whole run takes seconds with. */
final class TinyFolder {
  private static final List<String> CITIES = List.of("arl", "bex", "cor", "dun", "esk", "fay");
  private static final List<String> THINGS = List.of("towers", "gates", "wells", "mills");
  private static final List<String> NUMBERS =
      List.of("two", "three", "four", "five", "six", "seven", "eight", "nine");
  private static final List<String> OTHER =
      List.of("how", "many", "has", "the", "city", "and", ".", "?");

  private TinyFolder() {}

  /** Writes the folder {@code model} without a head, {@code train.json} and {@code eval.json}. */
  static void write(Path folder) {
    write(folder, 16);
  }

  /**
   * @param hidden size of the model's hidden states
   */
  static void write(Path folder, int hidden) {
    List<String> words = new ArrayList<>(List.of("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"));
    List.of(CITIES, THINGS, NUMBERS, OTHER).forEach(words::addAll);
    Path model = folder.resolve("model");
    AtomicFile.write(model.resolve("vocab.txt"), String.join("\n", words) + "\n");
    BertConfig config =
        new BertConfig(words.size() + 1, hidden, 2, 2, 32, 40, 2, 1e-12f, 0.1f, 0.1f);
    Map<String, Object> json = new LinkedHashMap<>();
    json.put("architectures", List.of("BertModel"));
    json.put("model_type", "bert");
    json.put("hidden_act", "gelu");
    json.put("vocab_size", config.vocabSize());
    json.put("hidden_size", config.hiddenSize());
    json.put("num_hidden_layers", config.numHiddenLayers());
    json.put("num_attention_heads", config.numAttentionHeads());
    json.put("intermediate_size", config.intermediateSize());
    json.put("max_position_embeddings", config.maxPositionEmbeddings());
    json.put("type_vocab_size", config.typeVocabSize());
    json.put("layer_norm_eps", 1e-12);
    json.put("hidden_dropout_prob", 0.1);
    json.put("attention_probs_dropout_prob", 0.1);
    Json.write(model.resolve("config.json"), json);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering random = PretrainedModel.random(device, config, 5);
        Arena arena = Arena.ofConfined()) {
      SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
      for (Parameter parameter : random.parameters()) {
        if (!parameter.name().startsWith("qa_outputs")) {
          Tensor host = Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
          device.download(parameter.value(), host);
          tensors.put(parameter.name(), host);
        }
      }
      SafetensorsWriter.write(model.resolve("model.safetensors"), tensors, Map.of("format", "pt"));
    }
    questions("t", 24, new Random(1)).write(folder.resolve("train.json"));
    questions("e", 12, new Random(2)).write(folder.resolve("eval.json"));
  }

  private static SquadDataset questions(String prefix, int count, Random random) {
    List<Example> examples = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      String city = CITIES.get(random.nextInt(CITIES.size()));
      int thing = random.nextInt(THINGS.size());
      String first = NUMBERS.get(random.nextInt(NUMBERS.size()));
      String second = NUMBERS.get(random.nextInt(NUMBERS.size()));
      String context =
          "the city %s has %s %s and %s %s ."
              .formatted(
                  city, first, THINGS.get(thing), second, THINGS.get((thing + 1) % THINGS.size()));
      boolean asksFirst = random.nextBoolean();
      String answer = asksFirst ? first : second;
      String asked = THINGS.get((thing + (asksFirst ? 0 : 1)) % THINGS.size());
      String question = "how many " + asked + " has " + city + " ?";
      examples.add(
          new Example(
              prefix + i,
              question,
              context,
              List.of(new Answer(answer, context.indexOf(answer + " " + asked)))));
    }
    return new SquadDataset(prefix, examples);
  }

  /** A whole run on the folder that {@link #write} made. */
  static TutorialSettings settings(Path folder, int checkpointSeconds) {
    TrainingSettings training =
        new TrainingSettings(
            3e-3, TrainingSettings.Schedule.CONSTANT, 0, 5, 1, 7, 1.0, 0, 4, 3, checkpointSeconds);
    return new TutorialSettings(
        "tiny",
        folder.resolve("model").toString(),
        "cpu",
        DataSettings.files(folder.resolve("train.json"), folder.resolve("eval.json")),
        new FeatureSettings(24, 0),
        training,
        PruningSettings.SEMI_STRUCTURED,
        training,
        new EvaluationSettings(5, 20, 30),
        new LatencySettings(List.of(1, 3), 12, 1, 3, 5));
  }
}
