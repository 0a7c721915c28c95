package dev.halve.core.download;

import dev.halve.core.HalveException;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import dev.halve.core.io.SafetensorsIndex;
import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import tools.jackson.databind.JsonNode;

/**
 * Models by name from the Hugging Face hub, in the cache that Python's clients share: {@code
 * models--ORG--NAME} with {@code blobs} by checksum, {@code snapshots} by commit that link to them,
 * and {@code refs}, the commit of each branch. What either has fetched the other finds.
 */
public final class HuggingFaceHub {
  /** What the name of a model on the hub begins with. */
  public static final String SCHEME = "hf:";

  private static final Pattern NAME =
      Pattern.compile("hf:((?:[\\w-][\\w.-]*/)?[\\w-][\\w.-]*)(?:@([\\w-][\\w./-]*))?");

  private static final Pattern COMMIT = Pattern.compile("[0-9a-f]{40}");

  /** A model's list of files; those of large models have a hundredth. */
  private static final long MAX_LIST_BYTES = 32L << 20;

  private static final String CONFIG = "config.json";
  private static final String SINGLE = "model.safetensors";
  private static final String INDEX = "model.safetensors.index.json";
  private static final List<String> ONNX = List.of("model.onnx", "onnx/model.onnx");

  private final HubSettings settings;
  private final Download.Manner manner;
  private final Download.Listener listener;
  private final String repository;
  private final String revision;
  private final Path folder;

  /** A file as the hub lists it. */
  private record Listed(long bytes, Checksum checksum) {}

  private HuggingFaceHub(
      String name, HubSettings settings, Download.Manner manner, Download.Listener listener) {
    Matcher matcher = NAME.matcher(name);
    if (!matcher.matches() || name.contains("..") || matcher.group(1).contains("--")) {
      throw new HalveException(
          "'%s' is no model's name; expected hf:NAME, hf:ORGANISATION/NAME, and @REVISION after it"
              .formatted(name));
    }
    this.settings = settings;
    this.manner = manner;
    this.listener = listener;
    this.repository = matcher.group(1);
    this.revision = matcher.group(2) == null ? "main" : matcher.group(2);
    this.folder = settings.cache().resolve("models--" + repository.replace("/", "--"));
  }

  /**
   * The folder of a model's files, fetched where they are not in the cache yet.
   *
   * @param name {@code hf:bert-base-cased}, {@code hf:org/name@revision}
   * @param files which others than configuration and weights to fetch, where the model has them
   * @param listener hears how much of all that is to be fetched has come
   * @throws HalveException if there is no such model, it may not be read, or it cannot be fetched
   */
  public static Path fetch(String name, List<String> files, Download.Listener listener) {
    return fetch(name, files, listener, HubSettings.ofEnvironment(), Download.Manner.USUAL);
  }

  static Path fetch(
      String name,
      List<String> files,
      Download.Listener listener,
      HubSettings settings,
      Download.Manner manner) {
    return new HuggingFaceHub(name, settings, manner, listener).fetch(files);
  }

  private Path fetch(List<String> files) {
    if (settings.offline()) {
      Path cached = cached();
      if (cached == null) {
        throw new HalveException(
            "%s is not in the cache %s, and HF_HUB_OFFLINE is set; unset it to fetch the model"
                .formatted(label(), settings.cache()));
      }
      return cached;
    }
    JsonNode list;
    try {
      list = list();
    } catch (HalveException failure) {
      Path cached = Download.wasUnreachable(failure) ? cached() : null;
      if (cached != null) {
        return cached;
      }
      throw failure;
    }
    String commit = list.path("sha").asString("");
    if (!COMMIT.matcher(commit).matches()) {
      throw new HalveException(
          "%s does not answer like the hub: it names no commit of %s; check HF_ENDPOINT"
              .formatted(settings.endpoint(), label()));
    }
    Path snapshot = folder.resolve("snapshots").resolve(commit);
    try {
      fetch(snapshot, commit, listed(list), files);
      if (!revision.equals(commit)) {
        AtomicFile.write(folder.resolve("refs").resolve(revision), commit);
      }
    } catch (IOException failure) {
      throw HalveException.of("write", snapshot, failure);
    }
    return snapshot;
  }

  private String label() {
    return SCHEME + repository + (revision.equals("main") ? "" : "@" + revision);
  }

  /** The snapshot in the cache, if it has a configuration and weights; null else. */
  private Path cached() {
    Path reference = folder.resolve("refs").resolve(revision);
    try {
      String commit =
          Files.isRegularFile(reference) && Files.size(reference) < 1024
              ? Files.readString(reference).strip()
              : revision;
      if (!COMMIT.matcher(commit).matches()) {
        return null;
      }
      Path snapshot = folder.resolve("snapshots").resolve(commit);
      return Files.exists(snapshot.resolve(CONFIG)) && hasWeights(snapshot) ? snapshot : null;
    } catch (IOException unreadable) {
      throw HalveException.of("read", reference, unreadable);
    }
  }

  private static boolean hasWeights(Path snapshot) {
    Path index = snapshot.resolve(INDEX);
    if (Files.exists(index)) {
      return SafetensorsIndex.read(index).values().stream()
          .allMatch(shard -> Files.exists(snapshot.resolve(shard)));
    }
    return Files.exists(snapshot.resolve(SINGLE))
        || ONNX.stream().anyMatch(file -> Files.exists(snapshot.resolve(file)));
  }

  private Map<String, String> headers() {
    return settings.token().isEmpty()
        ? Map.of()
        : Map.of("Authorization", "Bearer " + settings.token());
  }

  private String wayOut() {
    return settings.token().isEmpty()
        ? "check the model's name; one that is private or gated needs a token in HF_TOKEN"
        : "check the model's name, and whether the token may read it";
  }

  /** The files of the revision with their checksums, as the hub lists them. */
  private JsonNode list() {
    URI uri =
        URI.create(
            "%s/api/models/%s/revision/%s?blobs=true"
                .formatted(settings.endpoint(), repository, encoded(revision)));
    try {
      Path temporary = Files.createTempDirectory("halve-hub");
      try {
        Path answer = temporary.resolve("list.json");
        Download.Source source = new Download.Source(uri, -1, null, MAX_LIST_BYTES, headers());
        Download.fetch(source, answer, wayOut(), (bytes, total) -> {}, manner);
        return Json.read(answer);
      } finally {
        delete(temporary);
      }
    } catch (IOException failure) {
      throw HalveException.of("write", Path.of(System.getProperty("java.io.tmpdir")), failure);
    }
  }

  private static void delete(Path temporary) throws IOException {
    try (var files = Files.list(temporary)) {
      for (Path file : files.toList()) {
        Files.delete(file);
      }
    }
    Files.delete(temporary);
  }

  private static String encoded(String part) {
    return URLEncoder.encode(part, StandardCharsets.UTF_8).replace("+", "%20");
  }

  private SequencedMap<String, Listed> listed(JsonNode list) {
    SequencedMap<String, Listed> files = new LinkedHashMap<>();
    for (JsonNode file : list.path("siblings")) {
      String name = file.path("rfilename").asString("");
      JsonNode large = file.path("lfs");
      String sha256 = large.path("sha256").asString("");
      String blob = file.path("blobId").asString("");
      long bytes = large.path("size").asLong(file.path("size").asLong(-1));
      if (bytes < 0 || sha256.isEmpty() && blob.isEmpty()) {
        continue;
      }
      try {
        files.put(
            name,
            new Listed(
                bytes,
                sha256.isEmpty()
                    ? new Checksum(Checksum.Kind.GIT_BLOB, blob)
                    : new Checksum(Checksum.Kind.SHA_256, sha256)));
      } catch (HalveException notOne) {
        throw notOne.in(settings.endpoint() + " " + label() + " " + name);
      }
    }
    return files;
  }

  private void fetch(
      Path snapshot, String commit, SequencedMap<String, Listed> listed, List<String> files)
      throws IOException {
    if (!listed.containsKey(CONFIG)) {
      throw new HalveException(
          "%s has no config.json; it is no model that transformers saved".formatted(label()));
    }
    List<String> wanted = new ArrayList<>(List.of(CONFIG));
    files.stream().filter(listed::containsKey).forEach(wanted::add);
    if (listed.containsKey(SINGLE)) {
      wanted.add(SINGLE);
    } else if (listed.containsKey(INDEX)) {
      fetch(snapshot, commit, listed, INDEX, 0, -1);
      wanted.addAll(new TreeSet<>(SafetensorsIndex.read(snapshot.resolve(INDEX)).values()));
    } else {
      wanted.add(
          ONNX.stream()
              .filter(listed::containsKey)
              .findFirst()
              .orElseThrow(() ->
                  new HalveException(
                      "%s has neither %s nor %s nor an ONNX file; convert it with transformers"
                          .formatted(label(), SINGLE, INDEX))));
    }
    long total = 0;
    for (String file : wanted) {
      if (!listed.containsKey(file)) {
        throw new HalveException(
            "%s: its %s names %s, which the hub does not have".formatted(label(), INDEX, file));
      }
      total += isThere(snapshot, file, listed) ? 0 : listed.get(file).bytes();
    }
    long done = 0;
    for (String file : wanted) {
      if (!isThere(snapshot, file, listed)) {
        fetch(snapshot, commit, listed, file, done, total);
        done += listed.get(file).bytes();
      }
    }
  }

  /** Checked when it was fetched, as Python's clients have it too. */
  private static boolean isThere(Path snapshot, String file, Map<String, Listed> listed)
      throws IOException {
    Path path = snapshot.resolve(file);
    return Files.isRegularFile(path) && Files.size(path) == listed.get(file).bytes();
  }

  private void fetch(
      Path snapshot,
      String commit,
      Map<String, Listed> listed,
      String file,
      long before,
      long total)
      throws IOException {
    Listed expected = listed.get(file);
    URI uri =
        URI.create(
            "%s/%s/resolve/%s/%s"
                .formatted(
                    settings.endpoint(), repository, commit, encoded(file).replace("%2F", "/")));
    Path blob = folder.resolve("blobs").resolve(expected.checksum().hex());
    Download.Source source =
        new Download.Source(uri, expected.bytes(), expected.checksum(), Long.MAX_VALUE, headers());
    Download.fetch(
        source,
        blob,
        wayOut(),
        (bytes, _) -> {
          if (total >= 0) {
            listener.progress(before + bytes, total);
          }
        },
        manner);
    link(snapshot.resolve(file), blob);
  }

  private static void link(Path file, Path blob) throws IOException {
    Files.createDirectories(file.getParent());
    Files.deleteIfExists(file);
    try {
      Files.createSymbolicLink(file, file.getParent().relativize(blob));
    } catch (UnsupportedOperationException | IOException noLinks) {
      // Windows allows links to some only; there Python's clients move the file, too.
      Files.copy(blob, file, StandardCopyOption.REPLACE_EXISTING);
    }
  }
}
