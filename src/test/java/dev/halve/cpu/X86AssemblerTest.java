package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.cpu.X86Assembler.Address;
import dev.halve.cpu.X86Assembler.Register;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;

/** Encodings against those of the GNU assembler, with every register in every place. */
class X86AssemblerTest {
  private static final Register[] REGISTERS = Register.values();
  private static final int[] DISPLACEMENTS = {
    0, 8, 127, 128, -128, -129, 64, 0, 0, 4096, 32, -32, 192, 0, 320, 1 << 20
  };

  private final List<String> written = new ArrayList<>();
  private int vectorBytes = 32;

  private void write(Consumer<X86Assembler> instruction) {
    X86Assembler code = new X86Assembler(vectorBytes);
    instruction.accept(code);
    written.add(HexFormat.of().formatHex(code.code()));
  }

  private static Address based(int number) {
    int i = number % 16;
    return REGISTERS[i].at(DISPLACEMENTS[i]);
  }

  private static Address indexed(int number) {
    int i = number % 16;
    Register index = REGISTERS[(5 * i + 1) % 16];
    return new Address(
        REGISTERS[i],
        index == Register.RSP ? Register.RBP : index,
        1 << i % 4,
        DISPLACEMENTS[15 - i]);
  }

  @Test
  void instructionsAreThoseOfTheGnuAssembler() throws IOException {
    for (int bytes : new int[] {32, 64}) {
      vectorBytes = bytes;
      int vectors = bytes / 2;
      for (int i = 0; i < vectors; i++) {
        writeVectors(i, (i + 5) % vectors, (7 * i + 3) % vectors);
      }
    }
    vectorBytes = 32;
    for (int i = 0; i < 16; i++) {
      writeShuffles(i, (i + 5) % 16, (7 * i + 3) % 16);
      writeNumbers(i, (i + 5) % 16);
    }
    write(X86Assembler::zeroUpper);
    write(X86Assembler::processor);
    write(X86Assembler::ret);
    List<String> expected;
    try (InputStream in = X86AssemblerTest.class.getResourceAsStream("x86-64.txt")) {
      expected = new String(in.readAllBytes(), StandardCharsets.US_ASCII).lines().toList();
    }
    assertThat(written).hasSameSizeAs(expected);
    for (int i = 0; i < expected.size(); i++) {
      String instruction = expected.get(i);
      assertThat(written.get(i))
          .as(instruction)
          .isEqualTo(instruction.substring(0, instruction.indexOf(' ')));
    }
  }

  private void writeVectors(int i, int j, int k) {
    write(code -> code.load(i, based(i)));
    write(code -> code.load(i, indexed(j)));
    write(code -> code.store(based(i), j));
    write(code -> code.broadcast(i, based(j)));
    write(code -> code.multiplyAdd(i, j, k));
    write(code -> code.multiplyAdd(i, k, based(j)));
    write(code -> code.multiplyAdd(j, i, indexed(k)));
  }

  private void writeShuffles(int i, int j, int k) {
    write(code -> code.zero(i));
    write(code -> code.loadHalves(i, indexed(j)));
    write(code -> code.loadUpperHalf(i, indexed(j)));
    write(code -> code.interleaveLow(i, j, k));
    write(code -> code.interleaveHigh(k, i, j));
    write(code -> code.shuffle(j, k, i, i * 16 + i));
  }

  private void writeNumbers(int i, int j) {
    Register a = REGISTERS[i];
    Register b = REGISTERS[j];
    write(code -> code.move(a, b));
    write(code -> code.move(a, i * 1000));
    write(code -> code.loadInt(a, based(j)));
    write(code -> code.loadLong(a, based(j)));
    write(code -> code.loadByte(a, based(j)));
    write(code -> code.loadShort(a, indexed(j)));
    write(code -> code.lowByte(a, b));
    write(code -> code.secondByte(REGISTERS[i % 8], REGISTERS[i % 4]));
    write(code -> code.add(a, b));
    write(code -> code.add(a, DISPLACEMENTS[i]));
    write(code -> code.compare(a, b));
    write(code -> code.address(a, indexed(j)));
    write(code -> code.multiply(a, b, DISPLACEMENTS[i]));
    write(code -> code.shiftLeft(a, i + 2));
    write(code -> code.shiftRight(a, i + 2));
    write(code -> code.decrementInt(a));
    write(code -> code.push(a));
    write(code -> code.pop(a));
  }

  /** Short ones count from their own end, as far as a byte reaches; long ones in four bytes. */
  @Test
  void aJumpCountsFromItsEnd() {
    assertThat(loop(126)).endsWith("7580");
    assertThat(loop(127)).endsWith("0f857bffffff");
    assertThat(loop(1)).isEqualTo("c375fd");
  }

  private static String loop(int length) {
    X86Assembler code = new X86Assembler(32);
    int begin = code.position();
    for (int i = 0; i < length; i++) {
      code.ret();
    }
    code.jumpIfNotEqual(begin);
    return HexFormat.of().formatHex(code.code());
  }

  @Test
  void alignmentFillsToAMultiple() {
    for (int before = 0; before <= 64; before++) {
      X86Assembler code = new X86Assembler(32);
      for (int i = 0; i < before; i++) {
        code.ret();
      }
      code.align(32);
      assertThat(code.code().length).isEqualTo((before + 31) / 32 * 32);
    }
  }
}
