package dev.halve.core.download;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.URI;
import java.util.Map;
import org.junit.jupiter.api.Test;

class ProxySettingsTest {
  private static final URI SITE = URI.create("https://files.example.org/f");

  private static Proxy proxy(Map<String, String> environment) {
    return new ProxySettings(environment).proxy(SITE);
  }

  private static Proxy http(String host, int port) {
    return new Proxy(Proxy.Type.HTTP, InetSocketAddress.createUnresolved(host, port));
  }

  @Test
  void followsTheVariableOfTheSchemeThenTheGeneralOne() {
    assertThat(proxy(Map.of())).isEqualTo(Proxy.NO_PROXY);
    assertThat(proxy(Map.of("HTTPS_PROXY", "http://gate:3128"))).isEqualTo(http("gate", 3128));
    assertThat(proxy(Map.of("https_proxy", "gate", "HTTPS_PROXY", "other:1")))
        .isEqualTo(http("gate", 80));
    assertThat(proxy(Map.of("HTTP_PROXY", "http://gate:3128"))).isEqualTo(Proxy.NO_PROXY);
    assertThat(proxy(Map.of("ALL_PROXY", "socks5://gate")))
        .isEqualTo(new Proxy(Proxy.Type.SOCKS, InetSocketAddress.createUnresolved("gate", 1080)));
  }

  @Test
  void leavesOutTheHostsThatAreExempt() {
    for (String exempt :
        new String[] {"*", "example.org", ".example.org", "a, FILES.example.org"}) {
      assertThat(proxy(Map.of("HTTPS_PROXY", "http://gate:3128", "NO_PROXY", exempt)))
          .isEqualTo(Proxy.NO_PROXY);
    }
    for (String other : new String[] {"", "ample.org", "other.example.org", "example.org.uk"}) {
      assertThat(proxy(Map.of("HTTPS_PROXY", "http://gate:3128", "NO_PROXY", other)))
          .isEqualTo(http("gate", 3128));
    }
  }

  @Test
  void needsNoneToThisMachine() {
    ProxySettings settings = new ProxySettings(Map.of("HTTP_PROXY", "http://gate:3128"));
    assertThat(settings.proxy(URI.create("http://example.org/"))).isEqualTo(http("gate", 3128));
    assertThat(settings.proxy(URI.create("http://localhost:80/"))).isEqualTo(Proxy.NO_PROXY);
    assertThat(settings.proxy(URI.create("http://127.0.0.1:80/"))).isEqualTo(Proxy.NO_PROXY);
  }

  @Test
  void namesAProxyThatIsNoAddress() {
    for (String wrong : new String[] {"http://", "http://a b", ":80"}) {
      assertThatThrownBy(() -> proxy(Map.of("HTTPS_PROXY", wrong)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("the proxy '" + wrong + "' is no address");
    }
  }
}
