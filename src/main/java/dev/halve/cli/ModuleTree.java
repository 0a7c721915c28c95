package dev.halve.cli;

import dev.halve.recipe.ModelSummary.Entry;
import dev.halve.report.Numbers;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.SequencedMap;
import java.util.stream.Collectors;

/** A model's modules as an indented tree, one line for each that holds tensors. */
final class ModuleTree {
  private final SequencedMap<String, ModuleTree> children = new LinkedHashMap<>();
  private final List<Entry> tensors = new ArrayList<>();

  private ModuleTree() {}

  static List<String> lines(List<Entry> entries) {
    ModuleTree root = new ModuleTree();
    for (Entry entry : entries) {
      ModuleTree module = root;
      String[] path = entry.name().split("\\.");
      for (int i = 0; i + 1 < path.length; i++) {
        module = module.children.computeIfAbsent(path[i], name -> new ModuleTree());
      }
      module.tensors.add(entry);
    }
    List<String> lines = new ArrayList<>();
    root.write("", lines);
    return lines;
  }

  private void write(String indent, List<String> lines) {
    if (!tensors.isEmpty() && indent.isEmpty()) {
      lines.add(columns("(no module)"));
    }
    children.entrySet().stream()
        .sorted(Comparator.comparingLong(child -> place(child.getKey())))
        .forEach(child -> {
          String label = indent + child.getKey();
          ModuleTree module = child.getValue();
          lines.add(module.tensors.isEmpty() ? label : module.columns(label));
          module.write(indent + "  ", lines);
        });
  }

  /** Embeddings come first and layers by number; everything else stays in the file's order. */
  private static long place(String name) {
    if (name.equals("embeddings")) {
      return -1;
    }
    return name.matches("\\d{1,9}") ? Long.parseLong(name) : Long.MAX_VALUE;
  }

  /** Shape of the weight, pattern, and bytes of all the module's own tensors. */
  private String columns(String label) {
    Entry weight =
        tensors.stream()
            .filter(each -> each.name().endsWith(".weight"))
            .findFirst()
            .orElse(tensors.getFirst());
    String others =
        tensors.stream()
            .filter(each -> each != weight)
            .map(each -> " + " + each.name().substring(each.name().lastIndexOf('.') + 1))
            .collect(Collectors.joining());
    long dense = tensors.stream().mapToLong(Entry::denseBytes).sum();
    long compressed = tensors.stream().mapToLong(Entry::compressedBytes).sum();
    String size =
        compressed == dense
            ? Numbers.bytes(dense)
            : Numbers.bytes(dense) + " -> " + Numbers.bytes(compressed);
    return "%-34s %-28s %-16s %s"
        .formatted(label, weight.dtype() + " " + weight.shape() + others, pattern(weight), size);
  }

  private static String pattern(Entry weight) {
    return switch (weight.stored()) {
      case "dense" -> weight.pattern();
      case "2:4", "2:4 and dense rows" -> weight.stored() + ", compressed";
      default -> "2:4, " + weight.stored();
    };
  }
}
