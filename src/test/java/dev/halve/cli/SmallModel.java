package dev.halve.cli;

import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PretrainedModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import tools.jackson.databind.json.JsonMapper;

/** A model folder with a real tokenizer that runs in milliseconds, and questions to go with it. */
final class SmallModel {
  static final BertConfig CONFIG = new BertConfig(30522, 16, 2, 2, 32, 128, 2, 1e-12f, 0.1f, 0.1f);

  private SmallModel() {}

  static Path write(Path folder) {
    try (Device device = Devices.open("cpu");
        PretrainedModel origin = PretrainedModel.open("all-MiniLM-L6-v2");
        BertForQuestionAnswering model = PretrainedModel.random(device, CONFIG, 5)) {
      PretrainedModel.save(model, origin, folder);
      return folder;
    }
  }

  /** Eight questions about as many people, in SQuAD v1.1 format. */
  static Path questions(Path file) throws IOException {
    List<Map<String, Object>> questions = new ArrayList<>();
    StringBuilder context = new StringBuilder();
    String[] names = {"Ada", "Bela", "Cleo", "Dora", "Egon", "Frida", "Gert", "Hilde"};
    for (int i = 0; i < names.length; i++) {
      String town = List.of("Rome", "Oslo", "Lima", "Bern").get(i % 4) + " " + (i + 1);
      context.append(names[i]).append(" lives in ");
      questions.add(
          Map.of(
              "id", "q" + i,
              "question", "Where does " + names[i] + " live?",
              "answers", List.of(Map.of("text", town, "answer_start", context.length()))));
      context.append(town).append(". ");
    }
    Files.writeString(
        file,
        JsonMapper.shared()
            .writeValueAsString(
                Map.of(
                    "version",
                    "1.1",
                    "data",
                    List.of(
                        Map.of(
                            "title",
                            "people",
                            "paragraphs",
                            List.of(Map.of("context", context.toString(), "qas", questions)))))));
    return file;
  }
}
