package dev.halve.qa;

import dev.halve.core.download.Download;
import dev.halve.core.io.CacheFolder;
import java.net.URI;
import java.nio.file.Path;

/**
 * The official SQuAD v1.1 files (Rajpurkar et al. 2016, CC BY-SA 4.0), fetched once from the SQuAD
 * site into the cache. Lengths and hashes are those that TensorFlow Datasets and ParlAI publish for
 * them.
 */
public final class SquadDownload {
  private static final URI SITE = URI.create("https://rajpurkar.github.io/SQuAD-explorer/dataset/");

  static final OfficialFile TRAIN =
      new OfficialFile(
          "train-v1.1.json",
          30_288_272,
          "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955");
  static final OfficialFile DEV =
      new OfficialFile(
          "dev-v1.1.json",
          4_854_279,
          "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9");

  private SquadDownload() {}

  record OfficialFile(String name, long bytes, String sha256) {}

  /**
   * The training file: 87,599 questions, 30 MB.
   *
   * @throws dev.halve.core.HalveException if it is not in the cache and cannot be fetched
   */
  public static Path train(Download.Listener listener) {
    return fetch(SITE, CacheFolder.of("squad"), TRAIN, listener);
  }

  /** The development file: 10,570 questions, 5 MB; otherwise as {@link #train}. */
  public static Path dev(Download.Listener listener) {
    return fetch(SITE, CacheFolder.of("squad"), DEV, listener);
  }

  static Path fetch(URI site, Path folder, OfficialFile file, Download.Listener listener) {
    Path target = folder.resolve(file.name());
    return Download.fetch(
        new Download.Source(site.resolve(file.name()), file.bytes(), file.sha256()),
        target,
        "fetch it elsewhere and name it with --train and --eval, or put it at " + target,
        listener);
  }
}
