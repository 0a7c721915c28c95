package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.net.httpserver.HttpServer;
import dev.halve.core.HalveException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SquadDownloadTest {
  @TempDir Path folder;

  @Test
  void takesNothingButTheOfficialFiles() throws IOException {
    HttpServer server =
        HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext(
        "/",
        exchange -> {
          try (exchange) {
            boolean dev = exchange.getRequestURI().getPath().equals("/set/dev-v1.1.json");
            byte[] body = new byte[dev ? 4_854_279 : 10];
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
          }
        });
    server.start();
    try {
      URI site = URI.create("http://localhost:" + server.getAddress().getPort() + "/set/");
      assertThatThrownBy(
              () -> SquadDownload.fetch(site, folder, SquadDownload.TRAIN, (done, total) -> {}))
          .isInstanceOf(HalveException.class)
          .hasMessage(
              "cannot download %strain-v1.1.json: 10 bytes are offered, 30,288,272 expected; fetch it elsewhere and name it with --train and --eval, or put it at %s"
                  .formatted(site, folder.resolve("train-v1.1.json")));
      assertThatThrownBy(
              () -> SquadDownload.fetch(site, folder, SquadDownload.DEV, (done, total) -> {}))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("its SHA-256 is ")
          .hasMessageContaining(
              "expected 95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9; ");
      assertThat(folder.resolve("dev-v1.1.json")).doesNotExist();
    } finally {
      server.stop(0);
    }
  }
}
