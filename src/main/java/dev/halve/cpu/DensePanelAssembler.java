package dev.halve.cpu;

import dev.halve.cpu.X86Assembler.Address;
import dev.halve.cpu.X86Assembler.Register;
import java.util.function.IntFunction;

/**
 * Writes {@link DenseTile.Kernel}s and {@link DensePanelKernel}s in machine code: all sums of a
 * tile in registers, and at each step its vectors of inputs, which meet a value of every row.
 */
final class DensePanelAssembler {
  private final X86Assembler code;
  private final int vectorBytes;
  private final int vectors;
  private final int rows;

  private DensePanelAssembler(int lanes, int vectors, int rows) {
    this.vectorBytes = lanes * Float.BYTES;
    this.code = new X86Assembler(vectorBytes);
    this.vectors = vectors;
    this.rows = rows;
  }

  /** {@link PanelCompiler#denseTile}, only where {@link MachineCode#supported}. */
  static DenseTile.Kernel tile(int lanes, int vectors, int rows, int together) {
    DensePanelAssembler assembler = new DensePanelAssembler(lanes, vectors, rows);
    assembler.writeTile(together);
    MachineCode code = MachineCode.load(assembler.code.code());
    return (weight, x, y, pitch, inputs) -> code.call(weight, x, y, pitch, inputs, 0, 0, 0);
  }

  /** {@link PanelCompiler#densePanel}, only where {@link MachineCode#supported}. */
  static DensePanelKernel panel(int lanes, int vectors, int rows) {
    DensePanelAssembler assembler = new DensePanelAssembler(lanes, vectors, rows);
    assembler.writePanel();
    MachineCode code = MachineCode.load(assembler.code.code());
    return code::call;
  }

  private void writeTile(int together) {
    final Register weight = Register.RDI;
    final Register x = Register.RSI;
    final Register y = Register.RDX;
    final Register pitch = Register.RCX;
    final Register inputs = Register.R8;
    eachSum(y, pitch, (sum, at) -> code.load(sum, at));
    code.align(32);
    int step = code.position();
    writeStep(x, row -> weight.at(row * (long) Float.BYTES));
    code.add(weight, together * Float.BYTES);
    code.add(x, pitch);
    code.decrementInt(inputs);
    code.jumpIfNotEqual(step);
    eachSum(y, pitch, (sum, at) -> code.store(at, sum));
    code.zeroUpper();
    code.ret();
  }

  private void writePanel() {
    final Register pitch = Register.RSI;
    final Register next = Register.RDX;
    final Register b = Register.RCX;
    final Register bPitch = Register.R8;
    final Register c = Register.R9;
    final Register steps = Register.R10;
    final Register cPitch = Register.R11;
    // Every third row's; those between are a pitch and two away.
    final Register[] a = {Register.RDI, Register.RAX, Register.R11};
    int thirds = (rows + 2) / 3;
    for (int sum = 0; sum < rows * vectors; sum++) {
      code.zero(sum);
    }
    for (int i = 1; i < thirds; i++) {
      code.address(a[i], new Address(a[i - 1], pitch, 2, 0));
      code.add(a[i], pitch);
    }
    // The seventh and eighth parameter lie behind the address to return to.
    code.loadInt(steps, Register.RSP.at(2L * Long.BYTES));
    code.align(32);
    int step = code.position();
    writeStep(
        b, row -> row % 3 == 0 ? a[row / 3].at(0) : new Address(a[row / 3], pitch, row % 3, 0));
    for (int i = 0; i < thirds; i++) {
      code.add(a[i], next);
    }
    code.add(b, bPitch);
    code.decrementInt(steps);
    code.jumpIfNotEqual(step);
    code.loadLong(cPitch, Register.RSP.at(Long.BYTES));
    eachSum(c, cPitch, (sum, at) -> code.store(at, sum));
    code.zeroUpper();
    code.ret();
  }

  /** Adds each row's value, whose address is given, times the vectors at an address. */
  private void writeStep(Register inputs, IntFunction<Address> value) {
    int input = rows * vectors;
    for (int v = 0; v < vectors; v++) {
      code.load(input + v, inputs.at(v * (long) vectorBytes));
    }
    for (int row = 0; row < rows; row++) {
      int factor = input + vectors;
      code.broadcast(factor, value.apply(row));
      for (int v = 0; v < vectors; v++) {
        code.multiplyAdd(row * vectors + v, factor, input + v);
      }
    }
  }

  private interface Sum {
    void write(int sum, Address at);
  }

  /** From the first row's on; leaves another address in RAX. */
  private void eachSum(Register first, Register pitch, Sum sum) {
    code.move(Register.RAX, first);
    for (int row = 0; row < rows; row++) {
      for (int v = 0; v < vectors; v++) {
        sum.write(row * vectors + v, Register.RAX.at(v * (long) vectorBytes));
      }
      code.add(Register.RAX, pitch);
    }
  }
}
