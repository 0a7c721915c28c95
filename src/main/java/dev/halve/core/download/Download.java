package dev.halve.core.download;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.io.InputStream;
import java.net.ConnectException;
import java.net.HttpURLConnection;
import java.net.SocketTimeoutException;
import java.net.URI;
import java.net.UnknownHostException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.locks.ReentrantLock;
import javax.net.ssl.SSLException;

/**
 * Fetches one file over HTTP: into a partial file beside the target, taken up again where it broke
 * off (in this run or the next), checked, renamed. A target that is there is a target that is
 * whole. Lost connections and busy servers are tried again, with longer and longer pauses.
 */
public final class Download {
  private static final int MAX_REDIRECTS = 10;

  /** Attempts in a row that bring nothing; one that brings bytes starts the count again. */
  private static final int MAX_IDLE_ATTEMPTS = 5;

  /** Of one JVM; a file lock keeps other processes out. */
  private static final ReentrantLock TURN = new ReentrantLock();

  private final Source source;
  private final Path target;
  private final Path partial;
  private final Path entityTag;
  private final String wayOut;
  private final Listener listener;
  private final Manner manner;

  /**
   * What to fetch.
   *
   * @param bytes its length, or -1 where nobody knows
   * @param checksum what its bytes must add up to, or null where nobody knows
   * @param limit bytes at most, where nobody knows its length
   * @param headers sent along; an {@code Authorization} goes to the host of the uri alone, not to
   *     where it redirects
   */
  public record Source(
      URI uri, long bytes, Checksum checksum, long limit, Map<String, String> headers) {
    public Source {
      headers = Map.copyOf(headers);
    }

    /**
     * @param sha256 64 lower-case hexadecimal digits, or null where nobody knows
     */
    public Source(URI uri, long bytes, String sha256, Map<String, String> headers) {
      this(
          uri,
          bytes,
          sha256 == null ? null : new Checksum(Checksum.Kind.SHA_256, sha256),
          Long.MAX_VALUE,
          headers);
    }

    public Source(URI uri, long bytes, String sha256) {
      this(uri, bytes, sha256, Map.of());
    }
  }

  /** Hears how far it is; what it throws ends the download, which the next one takes up again. */
  @FunctionalInterface
  public interface Listener {
    /**
     * @param total -1 where nobody knows
     */
    void progress(long bytes, long total);
  }

  /**
   * How to deal with the network.
   *
   * @param silence to wait for an answer or for the next bytes
   * @param pause after the first failed attempt; doubled after each further one
   */
  record Manner(Duration silence, Duration pause, ProxySettings proxies) {
    static final Manner USUAL =
        new Manner(Duration.ofSeconds(30), Duration.ofMillis(500), ProxySettings.ofEnvironment());
  }

  /** An attempt that failed in a way that may pass. */
  private static final class Interrupted extends Exception {
    private static final long serialVersionUID = 1L;

    /** When the server asks to come back; null where it does not say. */
    final Duration retryAfter;

    Interrupted(String reason, Duration retryAfter) {
      super(reason);
      this.retryAfter = retryAfter;
    }

    Interrupted(String reason, IOException cause) {
      super(reason, cause);
      this.retryAfter = null;
    }

    /** Nobody waits long for a network that is not there. */
    int maxIdleAttempts() {
      return getCause() instanceof UnknownHostException ? 2 : MAX_IDLE_ATTEMPTS;
    }
  }

  private Download(Source source, Path target, String wayOut, Listener listener, Manner manner) {
    this.source = source;
    this.target = target.toAbsolutePath();
    this.partial = this.target.resolveSibling("." + target.getFileName() + ".part");
    this.entityTag = this.target.resolveSibling("." + target.getFileName() + ".etag");
    this.wayOut = wayOut;
    this.listener = listener;
    this.manner = manner;
  }

  /**
   * Fetches the file unless it is there, of the right length and hash.
   *
   * @param wayOut what else a person can do, the end of every error's line
   * @return the target
   * @throws HalveException if there is no connection, the server refuses, or what it sends is not
   *     what it should be
   */
  public static Path fetch(Source source, Path target, String wayOut, Listener listener) {
    return fetch(source, target, wayOut, listener, Manner.USUAL);
  }

  static Path fetch(Source source, Path target, String wayOut, Listener listener, Manner manner) {
    Download download = new Download(source, target, wayOut, listener, manner);
    try {
      if (!download.isWhole(target)) {
        download.fetchAlone();
      }
    } catch (IOException e) {
      throw HalveException.of("write", target, e);
    }
    return target;
  }

  /** Whether a download failed for want of an answer, so that what is in a cache may do. */
  static boolean wasUnreachable(HalveException failure) {
    return failure.getCause() instanceof Interrupted;
  }

  private void fetchAlone() throws IOException {
    Files.createDirectories(target.getParent());
    Path lockFile = target.resolveSibling("." + target.getFileName() + ".lock");
    TURN.lock();
    try (FileChannel channel =
            FileChannel.open(lockFile, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
        FileLock lock = channel.lock()) {
      if (lock.isValid() && !isWhole(target)) {
        fetchOrResume();
      }
    } finally {
      TURN.unlock();
    }
  }

  private void fetchOrResume() throws IOException {
    boolean resumed = Files.exists(partial);
    transfer();
    if (!isWhole(partial) && resumed) {
      // What was there from before may be another version; all of it anew, once.
      Files.deleteIfExists(partial);
      transfer();
    }
    String wrong = difference(partial);
    if (wrong != null) {
      Files.deleteIfExists(partial);
      throw error(wrong);
    }
    try (FileChannel channel = FileChannel.open(partial, StandardOpenOption.WRITE)) {
      channel.force(true);
    }
    Files.move(partial, target, StandardCopyOption.ATOMIC_MOVE);
    Files.deleteIfExists(entityTag);
  }

  /** Attempts until the partial file has all that the server has. */
  private void transfer() throws IOException {
    Duration pause = manner.pause();
    for (int idle = 0; ; ) {
      long before = size(partial);
      try {
        attempt();
        return;
      } catch (Interrupted failure) {
        if (size(partial) > before) {
          idle = 0;
          pause = manner.pause();
        } else if (++idle >= failure.maxIdleAttempts()) {
          throw new HalveException(error(failure.getMessage()).getMessage(), failure);
        }
        sleep(failure.retryAfter == null ? pause : failure.retryAfter);
        pause = pause.multipliedBy(2);
      }
    }
  }

  private void attempt() throws IOException, Interrupted {
    long have = size(partial);
    if (source.bytes() >= 0 && have >= source.bytes()) {
      return;
    }
    // Without a hash only the server can say whether it still has the same file.
    String tag = Files.exists(entityTag) ? Files.readString(entityTag) : null;
    if (have > 0 && tag == null && source.checksum() == null) {
      have = 0;
    }
    HttpURLConnection connection = connect(have, tag);
    try {
      long from = accept(connection, have);
      copy(connection, from);
    } finally {
      connection.disconnect();
    }
  }

  /** Looks at the answer's head: where in the file its body starts. */
  private long accept(HttpURLConnection connection, long have) throws IOException, Interrupted {
    int status = network(connection::getResponseCode);
    if (status == 416) {
      Files.deleteIfExists(partial);
      throw new Interrupted("the server has less than was fetched before", Duration.ZERO);
    }
    if (status == 408 || status == 429 || status >= 500) {
      throw new Interrupted(answered(connection, status), retryAfter(connection));
    }
    if (status != 200 && status != 206) {
      throw error(answered(connection, status));
    }
    long from = 0;
    if (status == 206) {
      String range = connection.getHeaderField("Content-Range");
      if (range == null || !range.startsWith("bytes " + have + "-")) {
        Files.deleteIfExists(partial);
        throw new Interrupted("the server sends another part than was asked for", Duration.ZERO);
      }
      from = have;
    }
    long length = connection.getContentLengthLong();
    if (length >= 0 && source.bytes() >= 0 && from + length != source.bytes()) {
      throw error("%,d bytes are offered, %,d expected".formatted(from + length, source.bytes()));
    }
    if (from + length > source.limit()) {
      throw error(
          "%,d bytes are offered, at most %,d read".formatted(from + length, source.limit()));
    }
    String tag = connection.getHeaderField("ETag");
    if (tag == null || tag.startsWith("W/")) {
      Files.deleteIfExists(entityTag);
    } else {
      Files.writeString(entityTag, tag);
    }
    return from;
  }

  private void copy(HttpURLConnection connection, long from) throws IOException, Interrupted {
    long length = connection.getContentLengthLong();
    long total = length >= 0 ? from + length : source.bytes();
    long done = from;
    byte[] buffer = new byte[1 << 16];
    try (InputStream stream = network(connection::getInputStream);
        FileChannel channel =
            FileChannel.open(partial, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
      channel.truncate(from).position(from);
      listener.progress(done, total);
      for (int count = read(stream, buffer); count >= 0; count = read(stream, buffer)) {
        ByteBuffer bytes = ByteBuffer.wrap(buffer, 0, count);
        while (bytes.hasRemaining()) {
          channel.write(bytes);
        }
        done += count;
        if (source.bytes() >= 0 && done > source.bytes()) {
          break;
        }
        if (done > source.limit()) {
          throw error("more than %,d bytes come, which are not read".formatted(source.limit()));
        }
        listener.progress(done, total);
      }
    }
    if (total >= 0 && done < total) {
      throw new Interrupted(
          "the connection broke off after %,d of %,d bytes".formatted(done, total),
          (Duration) null);
    }
  }

  private static int read(InputStream stream, byte[] buffer) throws Interrupted {
    return network(() -> stream.read(buffer));
  }

  private HttpURLConnection connect(long from, String tag) throws Interrupted {
    URI uri = source.uri();
    for (int redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
      HttpURLConnection connection = open(uri);
      if (from > 0) {
        connection.setRequestProperty("Range", "bytes=" + from + "-");
        if (tag != null) {
          connection.setRequestProperty("If-Range", tag);
        }
      }
      int status = network(connection::getResponseCode);
      String location = connection.getHeaderField("Location");
      if (status < 300 || status > 308 || status == 304 || location == null) {
        return connection;
      }
      connection.disconnect();
      uri = redirected(uri, location);
    }
    throw error("it redirects more than " + MAX_REDIRECTS + " times");
  }

  private URI redirected(URI uri, String location) {
    URI next;
    try {
      next = uri.resolve(location);
    } catch (IllegalArgumentException e) {
      throw new HalveException(error("it redirects to no address").getMessage(), e);
    }
    if (!next.getScheme().equals(uri.getScheme()) && !next.getScheme().equals("https")) {
      throw error("it redirects to " + next.getScheme() + ", which is not safe");
    }
    if (next.getAuthority() == null) {
      throw error("it redirects to no address");
    }
    return next;
  }

  /** A request without Range. The older client, for it alone limits the wait for a body's bytes. */
  private HttpURLConnection open(URI uri) throws Interrupted {
    HttpURLConnection connection =
        network(() -> (HttpURLConnection) uri.toURL().openConnection(manner.proxies().proxy(uri)));
    connection.setInstanceFollowRedirects(false);
    connection.setConnectTimeout((int) manner.silence().toMillis());
    connection.setReadTimeout((int) manner.silence().toMillis());
    connection.setUseCaches(false);
    connection.setRequestProperty("User-Agent", "halve");
    connection.setRequestProperty("Accept-Encoding", "identity");
    boolean sameHost =
        uri.getAuthority().equals(source.uri().getAuthority())
            && uri.getScheme().equals(source.uri().getScheme());
    source
        .headers()
        .forEach((name, value) -> {
          if (sameHost || !name.equalsIgnoreCase("Authorization")) {
            connection.setRequestProperty(name, value);
          }
        });
    return connection;
  }

  @FunctionalInterface
  private interface Network<T> {
    T get() throws IOException;
  }

  /** Tells failures of the network, which may pass, from those of the disk. */
  private static <T> T network(Network<T> access) throws Interrupted {
    try {
      return access.get();
    } catch (IOException e) {
      String reason =
          switch (e) {
            case UnknownHostException _ -> "the host cannot be found (is there a network?)";
            case ConnectException _ -> "no connection (" + e.getMessage() + ")";
            case SocketTimeoutException _ -> "no answer in time";
            case SSLException _ -> "no safe connection (" + e.getMessage() + ")";
            default -> "the connection broke off (" + e.getMessage() + ")";
          };
      throw new Interrupted(reason, e);
    }
  }

  private static String answered(HttpURLConnection connection, int status) throws IOException {
    String message = connection.getResponseMessage();
    return "the server answers " + status + (message == null ? "" : " " + message);
  }

  private static Duration retryAfter(HttpURLConnection connection) {
    long seconds = connection.getHeaderFieldLong("Retry-After", -1);
    return seconds < 0 ? null : Duration.ofSeconds(Math.min(seconds, 60));
  }

  private boolean isWhole(Path file) throws IOException {
    return difference(file) == null;
  }

  /** What is wrong with a file, or null. */
  private String difference(Path file) throws IOException {
    if (!Files.exists(file)) {
      return "nothing came";
    }
    long size = Files.size(file);
    if (source.bytes() >= 0 && size != source.bytes()) {
      return "it has %,d bytes, %,d expected".formatted(size, source.bytes());
    }
    return source.checksum() == null ? null : source.checksum().difference(file);
  }

  private static long size(Path file) throws IOException {
    return Files.exists(file) ? Files.size(file) : 0;
  }

  private void sleep(Duration pause) {
    try {
      Thread.sleep(pause);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw error("it was interrupted");
    }
  }

  private HalveException error(String reason) {
    return new HalveException("cannot download %s: %s; %s".formatted(source.uri(), reason, wayOut));
  }
}
