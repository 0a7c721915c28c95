package dev.halve.core.download;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import dev.halve.core.HalveException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Against a server on this machine that misbehaves as servers and networks do. */
class DownloadTest {
  private static final byte[] CONTENT = new byte[300_000];
  private static final Download.Manner QUICK = manner(5_000);

  static {
    new Random(1).nextBytes(CONTENT);
  }

  @TempDir Path folder;
  private HttpServer server;
  private ExecutorService threads;
  private Path target;
  private final List<Headers> requests = Collections.synchronizedList(new ArrayList<>());
  private final List<Long> heard = new ArrayList<>();

  private static Download.Manner manner(int silenceMillis) {
    return new Download.Manner(
        Duration.ofMillis(silenceMillis), Duration.ofMillis(2), new ProxySettings(Map.of()));
  }

  @FunctionalInterface
  private interface Behaviour {
    /**
     * @param count of this request, from 0
     */
    void answer(HttpExchange exchange, int count) throws IOException;
  }

  @BeforeEach
  void start() throws IOException {
    target = folder.resolve("cache/file.bin");
    threads = Executors.newCachedThreadPool();
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.setExecutor(threads);
    server.start();
  }

  @AfterEach
  void stop() {
    server.stop(0);
    threads.shutdownNow();
  }

  private URI serve(String path, Behaviour behaviour) {
    server.createContext(
        path,
        exchange -> {
          int count;
          synchronized (requests) {
            count = requests.size();
            requests.add(exchange.getRequestHeaders());
          }
          try (exchange) {
            behaviour.answer(exchange, count);
          }
        });
    return URI.create("http://localhost:" + server.getAddress().getPort() + path);
  }

  private Path fetch(Download.Source source) {
    return Download.fetch(
        source, target, "name it with --file", (done, total) -> heard.add(done), QUICK);
  }

  private static Download.Source known(URI uri) {
    return new Download.Source(uri, CONTENT.length, sha256(CONTENT));
  }

  private static String sha256(byte[] bytes) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
    } catch (java.security.NoSuchAlgorithmException e) {
      throw new AssertionError(e);
    }
  }

  /** Answers as a server should, but breaks off after so many bytes of the body. */
  private static void send(HttpExchange exchange, int breakAfter) throws IOException {
    String tag = exchange.getResponseHeaders().getFirst("ETag");
    String ifRange = exchange.getRequestHeaders().getFirst("If-Range");
    boolean changed = ifRange != null && !ifRange.equals(tag);
    String range = changed ? null : exchange.getRequestHeaders().getFirst("Range");
    int from = range == null ? 0 : Integer.parseInt(range.replaceAll("bytes=(\\d+)-", "$1"));
    int length = CONTENT.length - from;
    if (from > 0) {
      exchange
          .getResponseHeaders()
          .set(
              "Content-Range",
              "bytes %d-%d/%d".formatted(from, CONTENT.length - 1, CONTENT.length));
    }
    exchange.sendResponseHeaders(from > 0 ? 206 : 200, length);
    exchange.getResponseBody().write(CONTENT, from, Math.min(breakAfter, length));
    exchange.getResponseBody().flush();
  }

  private static void status(HttpExchange exchange, int status) throws IOException {
    exchange.sendResponseHeaders(status, -1);
  }

  private List<String> ranges() {
    return requests.stream().map(headers -> headers.getFirst("Range")).toList();
  }

  private void assertOnlyTheFileIsLeft() throws IOException {
    assertThat(target).hasBinaryContent(CONTENT);
    try (var files = Files.list(target.getParent())) {
      assertThat(files.map(file -> file.getFileName().toString()))
          .containsOnly("file.bin", ".file.bin.lock");
    }
  }

  @Test
  void fetchesOnceAndTellsHowFarItIs() throws IOException {
    URI uri = serve("/f", (exchange, _) -> send(exchange, Integer.MAX_VALUE));
    assertThat(fetch(known(uri))).isEqualTo(target);
    assertOnlyTheFileIsLeft();
    assertThat(heard).isSorted().startsWith(0L).endsWith((long) CONTENT.length);
    fetch(known(uri));
    assertThat(requests).hasSize(1);
  }

  @Test
  void resumesEachTimeTheConnectionBreaks() throws IOException {
    URI uri = serve("/f", (exchange, _) -> send(exchange, 100_000));
    fetch(known(uri));
    assertOnlyTheFileIsLeft();
    assertThat(ranges()).containsExactly(null, "bytes=100000-", "bytes=200000-");
  }

  @Test
  void resumesWhatAnEarlierRunLeft() throws IOException {
    URI uri = serve("/f", (exchange, _) -> send(exchange, Integer.MAX_VALUE));
    assertThatThrownBy(() ->
            Download.fetch(
                known(uri),
                target,
                "",
                (done, total) -> {
                  if (done > 100_000) {
                    throw new IllegalStateException("stopped by hand");
                  }
                },
                QUICK))
        .hasMessage("stopped by hand");
    assertThat(target).doesNotExist();
    fetch(known(uri));
    assertOnlyTheFileIsLeft();
    assertThat(ranges().get(1)).matches("bytes=1\\d{5}-");
    assertThat(heard.getFirst()).isGreaterThan(100_000);
  }

  @Test
  void startsAnewWhereTheServerIgnoresRanges() throws IOException {
    URI uri =
        serve(
            "/f",
            (exchange, count) -> {
              exchange.sendResponseHeaders(200, CONTENT.length);
              exchange.getResponseBody().write(CONTENT, 0, count < 2 ? 150_000 : CONTENT.length);
            });
    fetch(known(uri));
    assertOnlyTheFileIsLeft();
    assertThat(requests).hasSize(3);
  }

  @Test
  void startsAnewWhereTheServerSendsAnotherRange() throws IOException {
    URI uri =
        serve(
            "/f",
            (exchange, count) -> {
              if (count == 1) {
                exchange.getResponseHeaders().set("Content-Range", "bytes 5-9/10");
                exchange.sendResponseHeaders(206, 5);
                exchange.getResponseBody().write(CONTENT, 5, 5);
              } else {
                send(exchange, count == 0 ? 1000 : Integer.MAX_VALUE);
              }
            });
    fetch(known(uri));
    assertOnlyTheFileIsLeft();
    assertThat(ranges()).containsExactly(null, "bytes=1000-", null);
  }

  @Test
  void refusesWrongBytesAndLeavesNothing() {
    byte[] other = CONTENT.clone();
    other[77]++;
    URI uri =
        serve(
            "/f",
            (exchange, _) -> {
              exchange.sendResponseHeaders(200, other.length);
              exchange.getResponseBody().write(other);
            });
    assertThatThrownBy(() -> fetch(known(uri)))
        .isInstanceOf(HalveException.class)
        .hasMessage(
            "cannot download %s: its SHA-256 is %s, expected %s; name it with --file"
                .formatted(uri, sha256(other), sha256(CONTENT)));
    assertThat(target.getParent().toFile().list()).containsExactly(".file.bin.lock");
  }

  @Test
  void aPartOfAnotherFileDoesNotSpoilTheNewOne() throws IOException {
    Files.createDirectories(target.getParent());
    Files.write(target.resolveSibling(".file.bin.part"), new byte[1234]);
    URI uri = serve("/f", (exchange, _) -> send(exchange, Integer.MAX_VALUE));
    fetch(known(uri));
    assertOnlyTheFileIsLeft();
    assertThat(ranges()).containsExactly("bytes=1234-", null);
  }

  @Test
  void aDamagedFileInTheCacheIsFetchedAgain() throws IOException {
    Files.createDirectories(target.getParent());
    byte[] damaged = CONTENT.clone();
    damaged[0]++;
    Files.write(target, damaged);
    fetch(known(serve("/f", (exchange, _) -> send(exchange, Integer.MAX_VALUE))));
    assertOnlyTheFileIsLeft();
  }

  @Test
  void refusesAnotherLengthBeforeFetchingIt() {
    URI uri = serve("/f", (exchange, _) -> send(exchange, Integer.MAX_VALUE));
    assertThatThrownBy(() -> fetch(new Download.Source(uri, 10, null)))
        .hasMessage(
            "cannot download "
                + uri
                + ": 300,000 bytes are offered, 10 expected; name it with --file");
    assertThat(heard).isEmpty();
  }

  @Test
  void refusesABodyThatDoesNotEnd() {
    URI uri =
        serve(
            "/f",
            (exchange, _) -> {
              exchange.sendResponseHeaders(200, 0);
              try (OutputStream body = exchange.getResponseBody()) {
                for (int i = 0; i < 100; i++) {
                  body.write(CONTENT);
                }
              }
            });
    assertThatThrownBy(() -> fetch(known(uri)))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("bytes, 300,000 expected");
    assertThat(heard.getLast()).isLessThanOrEqualTo(CONTENT.length);
  }

  @Test
  void withoutAHashTheEntityTagSaysWhetherToResume() throws IOException {
    URI uri =
        serve(
            "/f",
            (exchange, count) -> {
              exchange.getResponseHeaders().set("ETag", "\"v" + Math.min(count, 1) + "\"");
              send(exchange, 200_000);
            });
    fetch(new Download.Source(uri, -1, null));
    assertOnlyTheFileIsLeft();
    assertThat(requests).hasSize(3);
    assertThat(requests.get(1).getFirst("If-Range")).isEqualTo("\"v0\"");
    assertThat(requests.get(2).getFirst("If-Range")).isEqualTo("\"v1\"");
  }

  @Test
  void withNeitherHashNorEntityTagNothingIsResumed() throws IOException {
    URI uri = serve("/f", (exchange, count) -> send(exchange, count == 0 ? 5 : Integer.MAX_VALUE));
    fetch(new Download.Source(uri, -1, null));
    assertOnlyTheFileIsLeft();
    assertThat(ranges()).containsExactly(null, null);
  }

  @Test
  void waitsForABusyServer() throws IOException {
    URI uri =
        serve(
            "/f",
            (exchange, count) -> {
              switch (count) {
                case 0 -> status(exchange, 503);
                case 1 -> {
                  exchange.getResponseHeaders().set("Retry-After", "0");
                  status(exchange, 429);
                }
                case 2 -> status(exchange, 500);
                default -> send(exchange, Integer.MAX_VALUE);
              }
            });
    fetch(known(uri));
    assertOnlyTheFileIsLeft();
  }

  @Test
  void givesUpOnAServerThatStaysBusyOrMute() {
    URI busy = serve("/busy", (exchange, _) -> status(exchange, 503));
    assertThatThrownBy(() -> fetch(known(busy)))
        .isInstanceOf(HalveException.class)
        .hasMessage(
            "cannot download "
                + busy
                + ": the server answers 503 Service Unavailable; name it with --file");
    assertThat(requests).hasSize(5);
    CountDownLatch end = new CountDownLatch(1);
    URI mute = serve("/mute", (exchange, _) -> await(end));
    assertThatThrownBy(
            () -> Download.fetch(known(mute), target, "wait", (done, total) -> {}, manner(50)))
        .hasMessage("cannot download " + mute + ": no answer in time; wait");
    end.countDown();
  }

  private static void await(CountDownLatch latch) {
    try {
      latch.await();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  @Test
  void resumesWhereABodyFallsSilent() throws IOException {
    CountDownLatch end = new CountDownLatch(1);
    URI uri =
        serve(
            "/f",
            (exchange, count) -> {
              send(exchange, count == 0 ? 150_000 : Integer.MAX_VALUE);
              if (count == 0) {
                await(end);
              }
            });
    Download.fetch(known(uri), target, "", (done, total) -> {}, manner(1_000));
    end.countDown();
    assertOnlyTheFileIsLeft();
    assertThat(ranges()).contains("bytes=150000-");
  }

  @Test
  void saysAtOnceWhatTheServerRefuses() {
    for (int status : new int[] {401, 403, 404}) {
      requests.clear();
      URI uri = serve("/" + status, (exchange, _) -> status(exchange, status));
      assertThatThrownBy(() -> fetch(known(uri)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("the server answers " + status)
          .hasMessageEndingWith("; name it with --file");
      assertThat(requests).hasSize(1);
    }
    assertThat(target).doesNotExist();
  }

  @Test
  void saysThatThereIsNoNetwork() {
    URI closed = serve("/f", (exchange, _) -> status(exchange, 404));
    server.stop(0);
    assertThatThrownBy(() -> fetch(known(closed)))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith("cannot download " + closed + ": no connection (")
        .hasMessageEndingWith("; name it with --file");
    URI nowhere = URI.create("http://no-such-host.invalid/file");
    assertThatThrownBy(() -> fetch(known(nowhere)))
        .hasMessage(
            "cannot download "
                + nowhere
                + ": the host cannot be found (is there a network?); name it with --file");
  }

  @Test
  void takesItsTokenToTheFirstHostOnly() throws IOException {
    URI end = serve("/end", (exchange, _) -> send(exchange, Integer.MAX_VALUE));
    URI elsewhere = URI.create(end.toString().replace("localhost", "127.0.0.1"));
    URI near =
        serve(
            "/near",
            (exchange, _) -> {
              exchange.getResponseHeaders().set("Location", elsewhere.toString());
              status(exchange, 302);
            });
    URI start =
        serve(
            "/start",
            (exchange, _) -> {
              exchange.getResponseHeaders().set("Location", "/near");
              status(exchange, 307);
            });
    assertThat(near.getHost()).isEqualTo("localhost");
    fetch(
        new Download.Source(
            start, -1, sha256(CONTENT), Map.of("Authorization", "Bearer x", "X-Kind", "model")));
    assertOnlyTheFileIsLeft();
    assertThat(requests.stream().map(headers -> headers.getFirst("Authorization")))
        .containsExactly("Bearer x", "Bearer x", null);
    assertThat(requests.stream().map(headers -> headers.getFirst("X-Kind"))).containsOnly("model");
  }

  @Test
  void doesNotGoInCircles() {
    URI uri =
        serve(
            "/f",
            (exchange, _) -> {
              exchange.getResponseHeaders().set("Location", "/f");
              status(exchange, 301);
            });
    assertThatThrownBy(() -> fetch(known(uri)))
        .hasMessageContaining("redirects more than 10 times");
  }

  @ParameterizedTest
  @ValueSource(strings = {"/sign in", "https:f"})
  void aRedirectThatLeadsNowhereIsCalledOne(String location) {
    URI uri =
        serve(
            "/f",
            (exchange, _) -> {
              exchange.getResponseHeaders().set("Location", location);
              status(exchange, 302);
            });
    assertThatThrownBy(() -> fetch(known(uri)))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("it redirects to no address");
  }

  @Test
  void severalAtOnceFetchOnce() throws Exception {
    URI uri = serve("/f", (exchange, _) -> send(exchange, Integer.MAX_VALUE));
    List<Future<Path>> all = new ArrayList<>();
    for (int i = 0; i < 4; i++) {
      all.add(
          threads.submit(() -> Download.fetch(known(uri), target, "", (done, total) -> {}, QUICK)));
    }
    for (Future<Path> one : all) {
      assertThat(one.get()).isEqualTo(target);
    }
    assertThat(requests).hasSize(1);
    assertOnlyTheFileIsLeft();
  }

  @Test
  void namesAFolderThatCannotBe() throws IOException {
    Path file = Files.createFile(folder.resolve("file"));
    URI uri = serve("/f", (exchange, _) -> send(exchange, Integer.MAX_VALUE));
    assertThatThrownBy(() ->
            Download.fetch(known(uri), file.resolve("in/it.bin"), "", (done, total) -> {}, QUICK))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith("cannot write ")
        .hasMessageContaining("it.bin");
    assertThat(requests).isEmpty();
  }
}
