package dev.halve.core.download;

import dev.halve.core.HalveException;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.URI;
import java.net.URISyntaxException;
import java.util.Locale;
import java.util.Map;

/**
 * The proxy of a connection, from the variables that command-line clients share: {@code
 * HTTPS_PROXY}, {@code HTTP_PROXY}, {@code ALL_PROXY}, {@code NO_PROXY}, in lower case too, which
 * goes first. Where none is set, Java's own system properties decide.
 */
record ProxySettings(Map<String, String> environment) {
  static ProxySettings ofEnvironment() {
    return new ProxySettings(System.getenv());
  }

  Proxy proxy(URI uri) {
    String scheme = uri.getScheme().toLowerCase(Locale.ROOT);
    String chosen = variable(scheme + "_proxy");
    if (chosen.isEmpty()) {
      chosen = variable("all_proxy");
    }
    if (chosen.isEmpty()) {
      return ProxySelector.getDefault().select(uri).getFirst();
    }
    if (isExempt(uri.getHost().toLowerCase(Locale.ROOT))) {
      return Proxy.NO_PROXY;
    }
    URI proxy = address(chosen);
    boolean socks = proxy.getScheme().startsWith("socks");
    int port = proxy.getPort() >= 0 ? proxy.getPort() : socks ? 1080 : 80;
    return new Proxy(
        socks ? Proxy.Type.SOCKS : Proxy.Type.HTTP,
        InetSocketAddress.createUnresolved(proxy.getHost(), port));
  }

  private static URI address(String setting) {
    try {
      URI proxy = new URI(setting.contains("://") ? setting : "http://" + setting);
      if (proxy.getHost() != null) {
        return proxy;
      }
    } catch (URISyntaxException e) {
      // Said below.
    }
    throw new HalveException(
        "the proxy '" + setting + "' is no address; set HTTPS_PROXY to http://HOST:PORT");
  }

  /**
   * {@code NO_PROXY} names hosts and domains, with or without a leading dot, or {@code *}. This
   * machine needs no proxy to itself, as Java has it too.
   */
  private boolean isExempt(String host) {
    if (host.equals("localhost") || host.startsWith("127.") || host.equals("[::1]")) {
      return true;
    }
    for (String entry : variable("no_proxy").split(",")) {
      String domain = entry.strip().toLowerCase(Locale.ROOT);
      String bare = domain.startsWith(".") ? domain.substring(1) : domain;
      if (!bare.isEmpty() && (bare.equals("*") || host.equals(bare) || host.endsWith("." + bare))) {
        return true;
      }
    }
    return false;
  }

  private String variable(String name) {
    String lower = environment.getOrDefault(name, "");
    return lower.isEmpty() ? environment.getOrDefault(name.toUpperCase(Locale.ROOT), "") : lower;
  }
}
