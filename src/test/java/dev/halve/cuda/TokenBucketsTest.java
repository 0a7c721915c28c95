package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class TokenBucketsTest {
  @Test
  void aBucketHoldsItsBatchAndLittleMore() {
    for (int tokens = 1; tokens < 300_000; tokens += 1 + tokens / 100) {
      int bucket = TokenBuckets.roundUp(tokens);
      assertThat(bucket).isGreaterThanOrEqualTo(tokens);
      assertThat(bucket - tokens).isLessThan(Math.max(64, tokens / 16 + 1));
      assertThat(TokenBuckets.roundUp(bucket)).isEqualTo(bucket);
    }
  }

  @Test
  void thereAreFewOfThem() {
    long buckets = IntStream.rangeClosed(1, 131_072).map(TokenBuckets::roundUp).distinct().count();
    assertThat(buckets).isLessThan(130);
  }

  @Test
  void fullRowsOfTheBenchmarkFitExactly() {
    for (int rows : new int[] {4, 16, 64, 256}) {
      assertThat(TokenBuckets.roundUp(rows * 384)).isEqualTo(rows * 384);
    }
  }
}
