package dev.halve.cpu;

import dev.halve.cpu.X86Assembler.Address;
import dev.halve.cpu.X86Assembler.Register;

/**
 * Writes {@link SparsePanelKernel}s in machine code. A sum stays in a register through its block,
 * and takes its terms in the order in which {@link PairedSparseWeight} has them.
 */
final class PairPanelAssembler {
  /** Of a panel: with two rows of a weight, twelve of 16 registers hold sums. */
  static final int MOST_VECTORS = 6;

  // The convention's first parameters.
  private static final Register WEIGHT = Register.RDI;
  private static final Register X = Register.RSI;

  // The other two are moved here: second bytes have names in the first four registers alone.
  private static final Register Y = Register.R9;
  private static final Register BLOCKS = Register.R10;

  private static final Register PASS = Register.R8;
  private static final Register END = Register.R11;

  /** Those of a pair's three columns: the one that both rows keep, the first's, the second's. */
  private static final Register[] INPUTS = {Register.RCX, Register.RDX, Register.RAX};

  private final X86Assembler code;
  private final int vectorBytes;
  private final int vectors;
  private final int pairs;
  private final int pitch;

  private PairPanelAssembler(int lanes, int vectors) {
    this.vectorBytes = lanes * Float.BYTES;
    this.code = new X86Assembler(vectorBytes);
    this.vectors = vectors;
    // Additions to a sum take four cycles, in which a processor begins eight.
    this.pairs = vectors > 3 ? 1 : vectors > 1 ? 2 : 4;
    this.pitch = vectors * vectorBytes;
  }

  /**
   * A kernel for panels of so many vectors, only where {@link MachineCode#supported}.
   *
   * @param lanes tokens of a vector: 8 with AVX2, 16 with AVX-512
   * @param vectors 1 to {@link #MOST_VECTORS}
   */
  static SparsePanelKernel kernel(int lanes, int vectors) {
    MachineCode code = MachineCode.load(write(lanes, vectors));
    return (weight, x, y, blocks) -> code.call(weight, x, y, blocks, 0, 0, 0, 0);
  }

  private static byte[] write(int lanes, int vectors) {
    PairPanelAssembler assembler = new PairPanelAssembler(lanes, vectors);
    assembler.writeBlocks();
    return assembler.code.code();
  }

  private void writeBlocks() {
    code.move(Y, Register.RDX);
    code.move(BLOCKS, Register.RCX);
    int block = code.position();
    for (int pair = 0; pair < PairedSparseWeight.PAIRS; pair += pairs) {
      writePairs(pair);
    }
    code.move(WEIGHT, END);
    code.decrementInt(BLOCKS);
    code.jumpIfNotEqual(block);
    code.zeroUpper();
    code.ret();
  }

  private void writePairs(int first) {
    for (int row = 0; row < 2 * pairs; row++) {
      sumAddress(2 * first + row);
      for (int v = 0; v < vectors; v++) {
        code.load(row * vectors + v, Register.RAX.at((long) v * vectorBytes));
      }
    }
    code.loadInt(END, WEIGHT.at(PairedSparseWeight.PASSES_AT));
    code.multiply(END, END, PairedSparseWeight.PASS_BYTES);
    code.address(PASS, WEIGHT.at(PairedSparseWeight.HEAD_BYTES));
    code.add(END, PASS);
    code.align(32);
    int pass = code.position();
    for (int pair = 0; pair < pairs; pair++) {
      writeProducts(first + pair, 2 * pair * vectors);
    }
    code.add(PASS, PairedSparseWeight.PASS_BYTES);
    code.compare(PASS, END);
    code.jumpIfNotEqual(pass);
    for (int row = 0; row < 2 * pairs; row++) {
      sumAddress(2 * first + row);
      for (int v = 0; v < vectors; v++) {
        code.store(Register.RAX.at((long) v * vectorBytes), row * vectors + v);
      }
    }
  }

  /** Leaves the address of a row's sums in RAX. */
  private void sumAddress(int row) {
    code.loadShort(Register.RAX, WEIGHT.at((long) row * Short.BYTES));
    timesPitch(Register.RAX);
    code.add(Register.RAX, Y);
  }

  private void writeProducts(int pair, int firstSum) {
    final int firstValue = 13;
    final int secondValue = 14;
    final int input = 15;
    int secondSum = firstSum + vectors;
    int values = pair * PairedSparseWeight.VALUES_BYTES;
    findInputs(PairedSparseWeight.COLUMNS_AT + pair * PairedSparseWeight.COLUMNS_BYTES);
    code.broadcast(firstValue, PASS.at(values));
    code.broadcast(secondValue, PASS.at(values + Float.BYTES));
    for (int v = 0; v < vectors; v++) {
      code.load(input, input(0, v));
      code.multiplyAdd(firstSum + v, firstValue, input);
      code.multiplyAdd(secondSum + v, secondValue, input);
    }
    code.broadcast(firstValue, PASS.at(values + 2 * Float.BYTES));
    code.broadcast(secondValue, PASS.at(values + 3 * Float.BYTES));
    for (int v = 0; v < vectors; v++) {
      code.multiplyAdd(firstSum + v, firstValue, input(1, v));
      code.multiplyAdd(secondSum + v, secondValue, input(2, v));
    }
  }

  /**
   * A wide panel waits for loads, of which two begin in a cycle: there a pair's columns are one. A
   * narrow one waits for instructions to begin, six in a cycle: there they are as few as can be.
   */
  private void findInputs(int columns) {
    if (narrow()) {
      for (int i = 0; i < INPUTS.length; i++) {
        code.loadByte(INPUTS[i], PASS.at(columns + i));
        timesPitch(INPUTS[i]);
      }
      return;
    }
    code.loadInt(INPUTS[2], PASS.at(columns));
    code.lowByte(INPUTS[0], INPUTS[2]);
    code.secondByte(INPUTS[1], INPUTS[2]);
    code.shiftRight(INPUTS[2], 16);
    code.lowByte(INPUTS[2], INPUTS[2]);
    for (Register input : INPUTS) {
      timesPitch(input);
      code.add(input, X);
    }
  }

  private Address input(int i, int vector) {
    int at = vector * vectorBytes;
    return narrow() ? new Address(X, INPUTS[i], 1, at) : INPUTS[i].at(at);
  }

  private boolean narrow() {
    return vectors < 3;
  }

  private void timesPitch(Register register) {
    if (Integer.bitCount(pitch) == 1) {
      code.shiftLeft(register, Integer.numberOfTrailingZeros(pitch));
    } else {
      code.multiply(register, register, pitch);
    }
  }
}
