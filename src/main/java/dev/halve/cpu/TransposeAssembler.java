package dev.halve.cpu;

import dev.halve.cpu.X86Assembler.Address;
import dev.halve.cpu.X86Assembler.Register;

/**
 * Writes the {@link TransposeKernel} of AVX2 in machine code. Loads put each row beside the fourth
 * one after it, half by half; what is left is turned within halves, four by four.
 */
final class TransposeAssembler {
  private static final int LANES = 8;
  private static final int HALF = LANES / 2;

  // The convention's parameters, but the seventh.
  private static final Register FROM = Register.RDI;
  private static final Register FROM_PITCH = Register.RSI;
  private static final Register FROM_STEP = Register.RDX;
  private static final Register TO = Register.RCX;
  private static final Register TO_PITCH = Register.R8;
  private static final Register TO_STEP = Register.R9;

  private static final Register SQUARES = Register.R10;
  private static final Register ROW = Register.RAX;

  private final X86Assembler code = new X86Assembler(LANES * Float.BYTES);

  private TransposeAssembler() {}

  /** Only where {@link MachineCode#supported}. */
  static TransposeKernel transpose() {
    TransposeAssembler assembler = new TransposeAssembler();
    assembler.write();
    MachineCode code = MachineCode.load(assembler.code.code());
    return (from, fromPitch, fromStep, to, toPitch, toStep, squares) ->
        code.call(from, fromPitch, fromStep, to, toPitch, toStep, squares, 0);
  }

  private void write() {
    // Behind the address to return to.
    code.loadInt(SQUARES, Register.RSP.at(Long.BYTES));
    code.align(32);
    int square = code.position();
    for (int row = 0; row < LANES; row++) {
      Address left = row(row, FROM, FROM_PITCH, 0);
      Address right = row(row, FROM, FROM_PITCH, HALF * Float.BYTES);
      if (row < HALF) {
        code.loadHalves(row, left);
        code.loadHalves(HALF + row, right);
      } else {
        code.loadUpperHalf(row - HALF, left);
        code.loadUpperHalf(row, right);
      }
      nextRow(row, FROM, FROM_PITCH);
    }
    turn(0, LANES);
    turn(HALF, LANES + HALF);
    for (int row = 0; row < LANES; row++) {
      code.store(row(row, TO, TO_PITCH, 0), row);
      nextRow(row, TO, TO_PITCH);
    }
    code.add(FROM, FROM_STEP);
    code.add(TO, TO_STEP);
    code.decrementInt(SQUARES);
    code.jumpIfNotEqual(square);
    code.zeroUpper();
    code.ret();
  }

  /** Rows are a pitch or two from the first, or from {@link #ROW}, which is every third. */
  private static Address row(int row, Register first, Register pitch, int displacement) {
    Register third = row < 3 ? first : ROW;
    return row % 3 == 0 ? third.at(displacement) : new Address(third, pitch, row % 3, displacement);
  }

  private void nextRow(int row, Register first, Register pitch) {
    if (row % 3 == 2) {
      code.address(ROW, new Address(row < 3 ? first : ROW, pitch, 2, 0));
      code.add(ROW, pitch);
    }
  }

  /** Four vectors, four by four in each half, by way of four others. */
  private void turn(int vectors, int others) {
    for (int i = 0; i < HALF; i += 2) {
      code.interleaveLow(others + i, vectors + i, vectors + i + 1);
      code.interleaveHigh(others + i + 1, vectors + i, vectors + i + 1);
    }
    for (int i = 0; i < HALF; i++) {
      // The first two of both, or the last two.
      int choice = i % 2 == 0 ? 0b01_00_01_00 : 0b11_10_11_10;
      code.shuffle(vectors + i, others + i / 2, others + 2 + i / 2, choice);
    }
  }
}
