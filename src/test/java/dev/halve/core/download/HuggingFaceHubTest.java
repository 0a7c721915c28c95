package dev.halve.core.download;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import dev.halve.core.HalveException;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Against a hub on this machine, which breaks off, lies and refuses as hubs and networks do. */
class HuggingFaceHubTest {
  private static final String COMMIT = "0123456789abcdef0123456789abcdef01234567";
  private static final List<String> FILES = List.of("tokenizer.json", "1_Pooling/config.json");

  @TempDir Path folder;
  private HttpServer server;
  private ExecutorService threads;
  private final Map<String, byte[]> files = new LinkedHashMap<>();

  /** Method, path and authorization of each request. */
  private final List<String> requests = Collections.synchronizedList(new ArrayList<>());

  private final List<Long> heard = new ArrayList<>();

  /** Bytes of a body after which the connection breaks off. */
  private int breakAfter = Integer.MAX_VALUE;

  private String token = "";
  private int status = 200;
  private String list;
  private boolean redirects;

  @BeforeEach
  void start() throws IOException {
    byte[] weights = new byte[300_000];
    new Random(1).nextBytes(weights);
    files.put("config.json", "{\"model_type\": \"bert\"}".getBytes(StandardCharsets.UTF_8));
    files.put("model.safetensors", weights);
    files.put("tokenizer.json", "{}".getBytes(StandardCharsets.UTF_8));
    files.put("1_Pooling/config.json", "{\"a\": 1}".getBytes(StandardCharsets.UTF_8));
    files.put("README.md", "not wanted".getBytes(StandardCharsets.UTF_8));
    threads = Executors.newCachedThreadPool();
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.setExecutor(threads);
    server.createContext("/", this::answer);
    server.start();
  }

  @AfterEach
  void stop() {
    server.stop(0);
    threads.shutdownNow();
  }

  private void answer(HttpExchange exchange) throws IOException {
    try (exchange) {
      String path = exchange.getRequestURI().getPath();
      String authorization = exchange.getRequestHeaders().getFirst("Authorization");
      requests.add(path + (authorization == null ? "" : " " + authorization));
      if (status != 200 || !token.isEmpty() && !("Bearer " + token).equals(authorization)) {
        exchange.sendResponseHeaders(status != 200 ? status : 401, -1);
      } else if (path.startsWith("/api/models/old-name/")) {
        exchange
            .getResponseHeaders()
            .set("Location", path.replace("old-name", "org/tiny") + "?blobs=true");
        exchange.sendResponseHeaders(307, -1);
      } else if (path.startsWith("/api/models/")) {
        byte[] body = (list == null ? list() : list).getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
      } else {
        String file = path.replaceFirst(".*/resolve/[0-9a-f]{40}/|/storage/", "");
        if (redirects && !path.startsWith("/storage/") && file.equals("model.safetensors")) {
          exchange.getResponseHeaders().set("Location", storage() + "/storage/" + file);
          exchange.sendResponseHeaders(302, -1);
        } else {
          send(exchange, files.get(file));
        }
      }
    }
  }

  /** Another host than the hub's, by its name. */
  private String storage() {
    return "http://127.0.0.1:" + server.getAddress().getPort();
  }

  private void send(HttpExchange exchange, byte[] content) throws IOException {
    if (content == null) {
      exchange.sendResponseHeaders(404, -1);
      return;
    }
    String range = exchange.getRequestHeaders().getFirst("Range");
    int from = range == null ? 0 : Integer.parseInt(range.replaceAll("bytes=(\\d+)-", "$1"));
    if (from > 0) {
      exchange
          .getResponseHeaders()
          .set(
              "Content-Range",
              "bytes %d-%d/%d".formatted(from, content.length - 1, content.length));
    }
    exchange.sendResponseHeaders(from > 0 ? 206 : 200, content.length - from);
    exchange.getResponseBody().write(content, from, Math.min(breakAfter, content.length - from));
    exchange.getResponseBody().flush();
  }

  private static String hex(String algorithm, byte[]... parts) {
    try {
      MessageDigest digest = MessageDigest.getInstance(algorithm);
      for (byte[] part : parts) {
        digest.update(part);
      }
      return HexFormat.of().formatHex(digest.digest());
    } catch (java.security.NoSuchAlgorithmException e) {
      throw new AssertionError(e);
    }
  }

  private static String blobId(byte[] content) {
    byte[] head = ("blob " + content.length + "\0").getBytes(StandardCharsets.UTF_8);
    return hex("SHA-1", head, content);
  }

  /** As the hub lists a model: large files by SHA-256, small ones as git does. */
  private String list() {
    List<Object> siblings = new ArrayList<>();
    files.forEach((name, content) -> {
      Map<String, Object> file = new LinkedHashMap<>();
      file.put("rfilename", name);
      file.put("size", content.length);
      file.put("blobId", blobId(content));
      if (name.endsWith(".safetensors")) {
        file.put("blobId", "0000000000000000000000000000000000000000");
        file.put("lfs", Map.of("sha256", hex("SHA-256", content), "size", content.length));
      }
      siblings.add(file);
    });
    return Json.compact(Map.of("id", "org/tiny", "sha", COMMIT, "siblings", siblings));
  }

  private String endpoint() {
    return "http://localhost:" + server.getAddress().getPort();
  }

  private HubSettings settings(String... variables) {
    Map<String, String> environment = new LinkedHashMap<>();
    environment.put("HF_ENDPOINT", endpoint() + "/");
    environment.put("HF_HOME", folder.resolve("home").toString());
    for (int i = 0; i < variables.length; i += 2) {
      environment.put(variables[i], variables[i + 1]);
    }
    return HubSettings.of(environment, folder);
  }

  private Path fetch(String name, HubSettings settings) {
    return fetch(name, settings, Map.of());
  }

  private Path fetch(String name, HubSettings settings, Map<String, String> proxies) {
    Download.Manner manner =
        new Download.Manner(
            Duration.ofSeconds(5), Duration.ofMillis(2), new ProxySettings(proxies));
    return HuggingFaceHub.fetch(name, FILES, (done, total) -> heard.add(done), settings, manner);
  }

  private Path repository() {
    return folder.resolve("home/hub/models--org--tiny");
  }

  private void assertFetched(Path snapshot) {
    for (String file :
        List.of("config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")) {
      assertThat(snapshot.resolve(file)).hasBinaryContent(files.get(file));
    }
    assertThat(snapshot.resolve("README.md")).doesNotExist();
  }

  @Test
  @DisabledOnOs(value = OS.WINDOWS, disabledReason = "links need a right there")
  void theCacheIsLaidOutAsTheHubsOwnClientsLayItOut() throws IOException {
    Path snapshot = fetch("hf:org/tiny", settings());
    assertThat(snapshot).isEqualTo(repository().resolve("snapshots").resolve(COMMIT));
    assertFetched(snapshot);
    assertThat(repository().resolve("refs/main")).hasContent(COMMIT);
    assertThat(Files.readSymbolicLink(snapshot.resolve("model.safetensors")).toString())
        .isEqualTo("../../blobs/" + hex("SHA-256", files.get("model.safetensors")));
    assertThat(Files.readSymbolicLink(snapshot.resolve("1_Pooling/config.json")).toString())
        .isEqualTo("../../../blobs/" + blobId(files.get("1_Pooling/config.json")));
    long total =
        files.values().stream().mapToLong(each -> each.length).sum()
            - files.get("README.md").length;
    assertThat(heard).isSorted().startsWith(0L).endsWith(total);
  }

  @Test
  void aSecondTimeOnlyTheListIsAskedFor() {
    fetch("hf:org/tiny", settings());
    requests.clear();
    assertFetched(fetch("hf:org/tiny", settings()));
    assertThat(requests).containsExactly("/api/models/org/tiny/revision/main");
    // A new version fetches what has changed.
    files.put(
        "config.json", "{\"model_type\": \"bert\", \"x\": 1}".getBytes(StandardCharsets.UTF_8));
    list = list().replace(COMMIT, COMMIT.replace('0', 'f'));
    requests.clear();
    Path next = fetch("hf:org/tiny", settings());
    assertFetched(next);
    assertThat(requests).filteredOn(path -> path.endsWith("model.safetensors")).isEmpty();
    assertThat(repository().resolve("refs/main")).hasContent(COMMIT.replace('0', 'f'));
  }

  @Test
  void aBrokenConnectionIsTakenUpAgain() {
    breakAfter = 70_000;
    assertFetched(fetch("hf:org/tiny", settings()));
    assertThat(requests).filteredOn(path -> path.endsWith("model.safetensors")).hasSize(5);
  }

  @Test
  void aServerThatLiesAboutAFileIsFoundOut() throws IOException {
    String honest = list();
    list = honest.replace("\"size\":300000", "\"size\":299999");
    assertThat(list).isNotEqualTo(honest);
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("300,000 bytes are offered, 299,999 expected");
    list = honest;
    files.get("model.safetensors")[7]++;
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("its SHA-256 is");
    files.get("model.safetensors")[7]--;
    files.get("tokenizer.json")[0]++;
    Path elsewhere = folder.resolve("elsewhere");
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings("HF_HOME", elsewhere.toString())))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("tokenizer.json")
        .hasMessageContaining("its SHA-1 is");
    // No branch points to what never came whole.
    assertThat(repository().resolve("refs")).doesNotExist();
  }

  @ParameterizedTest
  @CsvSource({"401, HF_TOKEN", "403, HF_TOKEN", "404, check the model's name"})
  void whatTheHubRefusesIsSaidAtOnce(int code, String advice) {
    status = code;
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("/api/models/org/tiny/")
        .hasMessageContaining("the server answers " + code)
        .hasMessageContaining(advice);
    assertThat(requests).hasSize(1);
  }

  @Test
  void theTokenComesFromTheVariableOrTheFileAndStaysWithTheHub() throws IOException {
    token = "hf_secret";
    redirects = true;
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings())).hasMessageContaining("401");
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings("HF_TOKEN", "hf_other")))
        .hasMessageContaining("whether the token may read it")
        .hasMessageNotContaining("hf_other");
    token = "";
    requests.clear();
    assertFetched(fetch("hf:org/tiny", settings("HF_TOKEN", "hf_secret")));
    assertThat(requests)
        .filteredOn(path -> !path.startsWith("/storage/"))
        .allMatch(path -> path.endsWith(" Bearer hf_secret"));
    assertThat(requests).contains("/storage/model.safetensors");
    Path file = folder.resolve("home/token");
    Files.writeString(file, "hf_of_file\n");
    assertThat(settings().token()).isEqualTo("hf_of_file");
    assertThat(settings("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1").token()).isEmpty();
    Files.writeString(folder.resolve("mine"), "hf_mine");
    assertThat(settings("HF_TOKEN_PATH", folder.resolve("mine").toString()).token())
        .isEqualTo("hf_mine");
  }

  @Test
  void aModelThatWasRenamedIsFollowed() {
    Path snapshot = fetch("hf:old-name", settings());
    assertFetched(snapshot);
    assertThat(snapshot).startsWithRaw(folder.resolve("home/hub/models--old-name"));
  }

  @Test
  void offlineTheCacheHasToDo() {
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings("HF_HUB_OFFLINE", "1")))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("hf:org/tiny is not in the cache")
        .hasMessageContaining("HF_HUB_OFFLINE");
    Path snapshot = fetch("hf:org/tiny@v1.0", settings());
    requests.clear();
    assertThat(fetch("hf:org/tiny@v1.0", settings("HF_HUB_OFFLINE", "yes"))).isEqualTo(snapshot);
    assertThat(fetch("hf:org/tiny@" + COMMIT, settings("TRANSFORMERS_OFFLINE", "TRUE")))
        .isEqualTo(snapshot);
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings("HF_HUB_OFFLINE", "ON")))
        .hasMessageContaining("not in the cache");
    assertThat(requests).isEmpty();
    // Without a network, too.
    HubSettings reachable = settings();
    stop();
    assertThat(fetch("hf:org/tiny@v1.0", reachable)).isEqualTo(snapshot);
    assertThatThrownBy(() -> fetch("hf:org/tiny", reachable)).hasMessageContaining("no connection");
  }

  @Test
  void whatPythonsClientHasFetchedIsUsed() throws IOException {
    Path snapshot = repository().resolve("snapshots").resolve(COMMIT);
    for (String file : List.of("config.json", "model.safetensors")) {
      AtomicFile.write(snapshot.resolve(file), files.get(file));
    }
    requests.clear();
    assertFetched(fetch("hf:org/tiny", settings()));
    assertThat(requests)
        .noneMatch(path -> path.endsWith("model.safetensors") || path.endsWith("tiny/config.json"));
  }

  @Test
  void theProxyIsAskedForTheHubsHost() {
    HubSettings behind = settings("HF_ENDPOINT", "http://hub.invalid");
    Path snapshot = fetch("hf:org/tiny", behind, Map.of("HTTP_PROXY", endpoint()));
    assertFetched(snapshot);
    assertThatThrownBy(() ->
            fetch(
                "hf:org/other",
                behind,
                Map.of("HTTP_PROXY", endpoint(), "NO_PROXY", "hub.invalid")))
        .hasMessageContaining("the host cannot be found");
  }

  @Test
  void shardsAreFetchedByTheirIndex() {
    byte[] weights = files.remove("model.safetensors");
    files.put("a.safetensors", weights);
    files.put(
        "model.safetensors.index.json",
        "{\"weight_map\": {\"w\": \"a.safetensors\"}}".getBytes(StandardCharsets.UTF_8));
    Path snapshot = fetch("hf:org/tiny", settings());
    assertThat(snapshot.resolve("a.safetensors")).hasBinaryContent(weights);
    files.put(
        "model.safetensors.index.json",
        "{\"weight_map\": {\"w\": \"b.safetensors\"}}".getBytes(StandardCharsets.UTF_8));
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .hasMessageContaining("names b.safetensors, which the hub does not have");
    files.put(
        "model.safetensors.index.json",
        "{\"weight_map\": {\"w\": \"../../b.safetensors\"}}".getBytes(StandardCharsets.UTF_8));
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("../../b.safetensors");
  }

  @Test
  void modelsThatCannotBeReadHereAreRefusedBeforeTheyCome() {
    files.remove("model.safetensors");
    files.put("pytorch_model.bin", new byte[10]);
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .hasMessageContaining("hf:org/tiny has neither model.safetensors");
    files.remove("config.json");
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .hasMessageContaining("has no config.json");
    assertThat(requests).allMatch(path -> path.startsWith("/api/"));
    assertThat(repository()).doesNotExist();
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "{}",
        "[]",
        "no JSON",
        "{\"sha\": \"../../../etc\", \"siblings\": []}",
        "{\"sha\": \"" + COMMIT + "\"}",
        "{\"sha\": \"" + COMMIT + "\", \"siblings\": [{\"rfilename\": 7}]}",
        "{\"sha\": \""
            + COMMIT
            + "\", \"siblings\": [{\"rfilename\": \"config.json\", \"size\": 3,"
            + " \"blobId\": \"../../x\"}]}",
        "{\"sha\": \""
            + COMMIT
            + "\", \"siblings\": [{\"rfilename\": \"config.json\", \"size\": -3,"
            + " \"blobId\": \""
            + COMMIT
            + "\"}]}",
      })
  void listsThatLieAreRefused(String lie) {
    list = lie;
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .isInstanceOf(HalveException.class)
        .hasMessageNotContaining("\n");
    assertThat(folder.resolve("home")).doesNotExist();
  }

  @Test
  void aListThatDoesNotEndIsNotReadToItsEnd() throws IOException {
    server.removeContext("/");
    server.createContext(
        "/",
        exchange -> {
          exchange.sendResponseHeaders(200, 0);
          byte[] chunk = new byte[1 << 20];
          try {
            while (true) {
              exchange.getResponseBody().write(chunk);
            }
          } catch (IOException hungUp) {
            exchange.close();
          }
        });
    assertThatThrownBy(() -> fetch("hf:org/tiny", settings()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("more than 33,554,432 bytes");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "hf:",
        "hf:a/b/c",
        "hf:../x",
        "hf:a--b",
        "hf:a/..",
        "hf:a@",
        "hf:a@../b",
        "hf:a b",
        "hf:/a"
      })
  void namesThatAreNoneAreRefused(String name) {
    assertThatThrownBy(() -> fetch(name, settings()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("is no model's name");
    assertThat(requests).isEmpty();
  }

  @Test
  void theFoldersAreThoseOfTheHubsOwnClients() {
    Path home = Path.of("/home/ada");
    assertThat(HubSettings.of(Map.of(), home))
        .isEqualTo(
            new HubSettings(
                "https://huggingface.co", home.resolve(".cache/huggingface/hub"), "", false));
    assertThat(HubSettings.of(Map.of("XDG_CACHE_HOME", "/c"), home).cache())
        .isEqualTo(Path.of("/c/huggingface/hub"));
    assertThat(HubSettings.of(Map.of("HF_HOME", "~/hf"), home).cache())
        .isEqualTo(home.resolve("hf/hub"));
    assertThat(
            HubSettings.of(Map.of("HF_HUB_CACHE", "/x", "HUGGINGFACE_HUB_CACHE", "/y"), home)
                .cache())
        .isEqualTo(Path.of("/x"));
    assertThat(HubSettings.of(Map.of("HF_HUB_OFFLINE", "0"), home).offline()).isFalse();
    assertThatThrownBy(() -> HubSettings.of(Map.of("HF_ENDPOINT", "hub"), home))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("HF_ENDPOINT is 'hub'");
  }
}
