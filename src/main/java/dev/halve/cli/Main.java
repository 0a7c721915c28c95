package dev.halve.cli;

/** Entry point of the {@code halve} command. */
public final class Main {
  private Main() {}

  public static void main(String[] args) {
    System.out.println("halve");
  }
}
