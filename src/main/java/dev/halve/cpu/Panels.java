package dev.halve.cpu;

/**
 * How the tokens of a batch are cut into panels: {@code [features, tokens]}, tokens in lanes, the
 * panels one after another. A panel is so many vectors of tokens wide, or less at the end; the last
 * vector of all may be partly empty. The cut gives the members of a team equal shares; one thread
 * takes a group of panels at a time, all as wide as each other.
 */
final class Panels {
  private final int lanes;
  private final int members;
  private final int mostVectors;
  private final int together;
  private final int[] firstVector;
  private final int[] firstPanel;
  private final int[] panelOfVector;
  private int tokens;
  private int count;
  private int groups;

  /**
   * @param mostVectors of a panel
   * @param together widest panels of a group, at most
   */
  Panels(int lanes, int maxTokens, int members, int mostVectors, int together) {
    this.lanes = lanes;
    this.members = members;
    this.mostVectors = mostVectors;
    this.together = together;
    int vectors = vectorsOf(maxTokens);
    firstVector = new int[vectors + 1];
    firstPanel = new int[vectors + 1];
    panelOfVector = new int[vectors];
  }

  private int vectorsOf(int tokens) {
    return (tokens + lanes - 1) / lanes;
  }

  /** Cuts so many tokens anew; widest panels first, since members claim them in order. */
  void cut(int tokens) {
    this.tokens = tokens;
    int vectors = vectorsOf(tokens);
    int shared = vectors / (mostVectors * members) * members;
    int rest = vectors - shared * mostVectors;
    count = 0;
    for (int i = 0; i < shared; i++) {
      add(mostVectors);
    }
    for (int member = 0; member < members; member++) {
      int share = (rest + members - 1 - member) / members;
      if (share > 0) {
        add(share);
      }
    }
    groups = 0;
    while (firstPanel[groups] < count) {
      int first = firstPanel[groups];
      // Smaller ones at the end: members do not come to it at the same time.
      int share = (shared - first + members - 1) / members;
      firstPanel[++groups] = first + Math.clamp(share, 1, together);
    }
  }

  private void add(int width) {
    int first = firstVector[count];
    for (int vector = first; vector < first + width; vector++) {
      panelOfVector[vector] = count;
    }
    firstVector[++count] = first + width;
  }

  /** Groups of panels. */
  int groups() {
    return groups;
  }

  int firstPanel(int group) {
    return firstPanel[group];
  }

  /** Panels of a group. */
  int panels(int group) {
    return firstPanel[group + 1] - firstPanel[group];
  }

  /** Width of a panel in vectors. */
  int vectors(int panel) {
    return firstVector[panel + 1] - firstVector[panel];
  }

  int firstToken(int panel) {
    return firstVector[panel] * lanes;
  }

  /** Tokens of a panel, less than its width in the last one. */
  int tokens(int panel) {
    return Math.min(tokens, firstToken(panel + 1)) - firstToken(panel);
  }

  int panelOf(int token) {
    return panelOfVector[token / lanes];
  }

  /** Bytes from one feature of a panel to the next. */
  long pitch(int panel) {
    return (long) vectors(panel) * lanes * Float.BYTES;
  }

  /** Bytes from the first panel's beginning to this one's, of so many features. */
  long offset(int panel, int features) {
    return (long) firstToken(panel) * features * Float.BYTES;
  }
}
