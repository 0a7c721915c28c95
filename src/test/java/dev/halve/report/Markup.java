package dev.halve.report;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A check that a page's elements nest, for pages that close what they open. */
final class Markup {
  private static final Pattern TAG =
      Pattern.compile(
          "<(/?)([a-z][a-z0-9]*)((?:\\s+[A-Za-z][A-Za-z0-9-]*(?:=\"[^\"<>]*\")?)*)\\s*(/?)>");
  private static final Set<String> VOID = Set.of("meta", "br", "img", "hr");

  private Markup() {}

  /** What does not nest; empty if all does. */
  static String unbalanced(String page) {
    String body =
        page.replaceFirst("(?i)<!doctype html>", "").replaceAll("(?s)<style>.*?</style>", "");
    Deque<String> open = new ArrayDeque<>();
    Matcher tag = TAG.matcher(body);
    int end = 0;
    while (tag.find()) {
      if (body.substring(end, tag.start()).matches("(?s).*[<>].*")) {
        return "stray bracket before " + tag.group();
      }
      end = tag.end();
      String name = tag.group(2);
      if (!tag.group(1).isEmpty()) {
        if (open.isEmpty() || !open.peek().equals(name)) {
          return tag.group() + " inside " + open;
        }
        open.pop();
      } else if (tag.group(4).isEmpty() && !VOID.contains(name)) {
        open.push(name);
      }
    }
    return open.isEmpty() ? "" : "left open: " + open;
  }
}
