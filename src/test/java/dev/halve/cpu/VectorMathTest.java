package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.api.Test;

/** The errors that {@link VectorMath} states, against double precision. */
class VectorMathTest {
  @Test
  void expIsOffByLessThanItSays() {
    double worst = 0;
    for (double x = -87.2; x <= 88; x += 1e-3) {
      float argument = (float) x;
      double expected = Math.exp(argument);
      worst = Math.max(worst, Math.abs(exp(argument) - expected) / expected);
    }
    assertThat(worst).isLessThan(2e-7);
    assertThat(exp(0)).isEqualTo(1);
    assertThat(exp(-87.4f)).isZero();
    assertThat(exp(Float.NEGATIVE_INFINITY)).isZero();
    assertThat(exp(1e9f)).isEqualTo(exp(88f));
  }

  @Test
  void geluAndItsDerivativeAreOffByLessThanTheySay() {
    // Both follow from the integral of the normal density, here by Simpson's rule from 0 on.
    double step = 1e-3;
    double area = 0;
    for (int i = 0; i * step <= 12; i++) {
      double x = i * step;
      if (i > 0) {
        area += step / 6 * (density(x - step) + 4 * density(x - step / 2) + density(x));
      }
      for (double sign : new double[] {1, -1}) {
        float argument = (float) (sign * x);
        double beyond = argument - sign * x;
        double cdf = 0.5 + sign * area + beyond * density(x);
        assertThat(Math.abs(gelu(argument) - argument * cdf))
            .as("gelu(%s)", argument)
            .isLessThan(5e-7 * (1 + x));
        assertThat(Math.abs(derivative(argument) - (cdf + argument * density(argument))))
            .as("gelu'(%s)", argument)
            .isLessThan(1e-6);
      }
    }
  }

  private static double density(double x) {
    return Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
  }

  private static float exp(float x) {
    return VectorMath.exp(FloatVector.broadcast(VectorMath.FLOATS, x)).lane(0);
  }

  private static float gelu(float x) {
    return VectorMath.gelu(FloatVector.broadcast(VectorMath.FLOATS, x)).lane(0);
  }

  private static float derivative(float x) {
    return VectorMath.geluDerivative(FloatVector.broadcast(VectorMath.FLOATS, x)).lane(0);
  }
}
