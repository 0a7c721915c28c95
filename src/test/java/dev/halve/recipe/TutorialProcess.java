package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.nio.file.Path;

/** A whole run as a process that can be killed: says a line for everything that it did. */
public final class TutorialProcess {
  private TutorialProcess() {}

  public static void main(String[] args) {
    Progress lines =
        new Progress() {
          @Override
          public void advance(long done, double perSecond, String detail) {
            System.out.println("did " + done);
          }

          @Override
          public void end(String stage, double seconds) {
            System.out.println("ended " + stage);
          }
        };
    try {
      Tutorial.run(TinyFolder.settings(Path.of(args[0]), 0), Path.of(args[1]), true, lines);
    } catch (HalveException bad) {
      System.out.println(bad.getMessage());
      System.exit(2);
    }
  }
}
