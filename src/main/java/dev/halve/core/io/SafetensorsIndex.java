package dev.halve.core.io;

import dev.halve.core.HalveException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.SequencedMap;
import tools.jackson.databind.JsonNode;

/** The index of a sharded model: which file of its folder has which tensor. */
public final class SafetensorsIndex {
  private SafetensorsIndex() {}

  /** Tensor names and the shard file of each. */
  public static SequencedMap<String, String> read(Path index) {
    JsonNode map = Json.read(index).path("weight_map");
    if (!map.isObject()) {
      throw new HalveException(index + ": no object named 'weight_map' in this index");
    }
    SequencedMap<String, String> shards = new LinkedHashMap<>();
    map.forEachEntry((name, shard) -> {
      // A shard lies beside its index: a name with a path in it would reach out of the folder.
      if (!shard.isString() || !shard.stringValue().matches("[^/\\\\:\\x00]+\\.safetensors")) {
        throw new HalveException(
            "%s: tensor '%s' is said to be in %s; expected the name of a .safetensors file beside the index"
                .formatted(index, name, shard));
      }
      shards.put(name, shard.stringValue());
    });
    return shards;
  }
}
