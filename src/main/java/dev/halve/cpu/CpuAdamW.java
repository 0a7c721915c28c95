package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import dev.halve.core.Tensor;
import dev.halve.engine.AdamW;
import dev.halve.engine.Parameter;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/**
 * The optimizer and the masks that it heeds; see {@code Device.adamW}, {@code Device.round} and
 * {@code Device.chooseMask}.
 */
final class CpuAdamW {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  /** Of one parameter; fixed, since the cut decides how the norm rounds. */
  private static final int PART_ELEMENTS = 1 << 16;

  private final ThreadTeam team;

  CpuAdamW(ThreadTeam team) {
    this.team = team;
  }

  void step(List<Parameter> parameters, AdamW settings, int step, Tensor norm) {
    int[] firstParts = firstParts(parameters);
    double[] squares = new double[firstParts[parameters.size()]];
    boolean hold = settings.maskedKeep() == 0;
    overParts(
        parameters,
        firstParts,
        (part, parameter, from, to) -> squares[part] = maskAndSquare(parameter, from, to, hold));
    double total = 0;
    for (double each : squares) {
      total += each;
    }
    double length = Math.sqrt(total);
    norm.setFloat(0, (float) length);
    // As torch.nn.utils.clip_grad_norm_ does.
    double clip = Math.min(1, settings.maxNorm() / (length + 1e-6));
    overParts(
        parameters,
        firstParts,
        (part, parameter, from, to) -> update(parameter, from, to, settings, step, clip));
  }

  void round(Parameter parameter) {
    if (parameter.compute() != parameter.value()) {
      List<Parameter> alone = List.of(parameter);
      overParts(alone, firstParts(alone), (part, it, from, to) -> copyUnmasked(it, from, to));
    }
  }

  void chooseMask(Tensor weight, Tensor mask) {
    team.run(
        parts(weight),
        (part, member) -> {
          long from = (long) part * PART_ELEMENTS;
          long to = Math.min(weight.elements(), from + PART_ELEMENTS);
          for (long i = from; i < to; i += 4) {
            chooseTwo(weight, mask, i);
          }
        });
  }

  private interface Stretch {
    void run(int part, Parameter parameter, long from, long to);
  }

  private void overParts(List<Parameter> parameters, int[] firstParts, Stretch stretch) {
    team.run(
        firstParts[parameters.size()],
        (part, member) -> {
          int found = Arrays.binarySearch(firstParts, part);
          int index = found >= 0 ? found : -found - 2;
          Parameter parameter = parameters.get(index);
          long from = (long) (part - firstParts[index]) * PART_ELEMENTS;
          long to = Math.min(parameter.value().elements(), from + PART_ELEMENTS);
          stretch.run(part, parameter, from, to);
        });
  }

  /** Each parameter's first part, and behind the last how many there are. */
  private static int[] firstParts(List<Parameter> parameters) {
    int[] firstParts = new int[parameters.size() + 1];
    for (int i = 0; i < parameters.size(); i++) {
      firstParts[i + 1] = firstParts[i] + parts(parameters.get(i).value());
    }
    return firstParts;
  }

  private static int parts(Tensor tensor) {
    return Math.toIntExact(Math.ceilDiv(tensor.elements(), PART_ELEMENTS));
  }

  /**
   * Zeroes gradient, value and moments where the mask is zero, if it is held; returns the
   * gradient's sum of squares.
   */
  private static double maskAndSquare(Parameter parameter, long from, long end, boolean hold) {
    MemorySegment gradient = parameter.gradient().segment();
    if (hold && parameter.mask() != null) {
      MemorySegment mask = parameter.mask().segment();
      for (long i = from; i < end; i++) {
        if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
          gradient.setAtIndex(FLOAT, i, 0);
          parameter.value().segment().setAtIndex(FLOAT, i, 0);
          parameter.firstMoment().segment().setAtIndex(FLOAT, i, 0);
          parameter.secondMoment().segment().setAtIndex(FLOAT, i, 0);
        }
      }
    }
    return VectorMath.squares(gradient, from, end);
  }

  /** Writes the value without what the mask prunes to the compute copy. */
  private static void copyUnmasked(Parameter parameter, long from, long end) {
    MemorySegment value = parameter.value().segment();
    MemorySegment compute = parameter.compute().segment();
    MemorySegment.copy(value, FLOAT, 4 * from, compute, FLOAT, 4 * from, end - from);
    if (parameter.mask() != null) {
      MemorySegment mask = parameter.mask().segment();
      for (long i = from; i < end; i++) {
        if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
          compute.setAtIndex(FLOAT, i, 0);
        }
      }
    }
  }

  /** Updates value, compute copy and moments, and zeroes the gradient. */
  private static void update(
      Parameter parameter, long from, long end, AdamW settings, int step, double clip) {
    MemorySegment value = parameter.value().segment();
    MemorySegment gradient = parameter.gradient().segment();
    MemorySegment first = parameter.firstMoment().segment();
    MemorySegment second = parameter.secondMoment().segment();
    float beta1 = (float) settings.beta1();
    float beta2 = (float) settings.beta2();
    float decay = (float) (1 - settings.learningRate() * settings.weightDecay());
    float stepSize = (float) (settings.learningRate() / (1 - Math.pow(settings.beta1(), step)));
    float correction = (float) (1 / Math.sqrt(1 - Math.pow(settings.beta2(), step)));
    float epsilon = (float) settings.epsilon();
    float scale = (float) clip;
    if (parameter.mask() != null && settings.maskedDecay() > 0) {
      decayMasked(parameter, from, end, (float) settings.maskedDecay() / scale);
    }
    for (long i = from; i < end; i += LANES) {
      FloatVector g = VectorMath.load(gradient, i, end).mul(scale);
      FloatVector m = VectorMath.load(first, i, end).mul(beta1).add(g.mul(1 - beta1));
      FloatVector v = VectorMath.load(second, i, end).mul(beta2).add(g.mul(g).mul(1 - beta2));
      FloatVector deviation = v.lanewise(VectorOperators.SQRT).mul(correction).add(epsilon);
      FloatVector p = VectorMath.load(value, i, end).mul(decay).sub(m.mul(stepSize).div(deviation));
      VectorMath.store(m, first, i, end);
      VectorMath.store(v, second, i, end);
      VectorMath.store(p, value, i, end);
      VectorMath.store(FloatVector.zero(FLOATS), gradient, i, end);
    }
    if (parameter.mask() != null && settings.maskedKeep() > 0) {
      float keep = (float) settings.maskedKeep();
      MemorySegment mask = parameter.mask().segment();
      for (long i = from; i < end; i++) {
        if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
          value.setAtIndex(FLOAT, i, value.getAtIndex(FLOAT, i) * keep);
        }
      }
    }
    if (parameter.compute() != parameter.value()) {
      copyUnmasked(parameter, from, end);
    }
  }

  /** Adds a share of each masked weight to its gradient. */
  private static void decayMasked(Parameter parameter, long from, long end, float share) {
    MemorySegment mask = parameter.mask().segment();
    MemorySegment value = parameter.value().segment();
    MemorySegment gradient = parameter.gradient().segment();
    for (long i = from; i < end; i++) {
      if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
        float g = gradient.getAtIndex(FLOAT, i);
        gradient.setAtIndex(FLOAT, i, g + share * value.getAtIndex(FLOAT, i));
      }
    }
  }

  /** Keeps the two largest magnitudes of four, the first among equals. */
  private static void chooseTwo(Tensor weight, Tensor mask, long at) {
    MemorySegment w = weight.segment();
    for (int i = 0; i < 4; i++) {
      float here = Math.abs(w.getAtIndex(FLOAT, at + i));
      int larger = 0;
      for (int j = 0; j < 4; j++) {
        float other = Math.abs(w.getAtIndex(FLOAT, at + j));
        if (other > here || (other == here && j < i)) {
          larger++;
        }
      }
      mask.segment().set(ValueLayout.JAVA_BYTE, at + i, (byte) (larger < 2 ? 1 : 0));
    }
  }
}
