package dev.halve.cpu;

import java.util.Arrays;

/**
 * Writes x86-64 machine code: the few instructions that kernels need. Encodings are those of the
 * Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: chapter 2 for prefixes
 * and addresses, chapters 3 to 5 for operation codes. Vectors are the {@code ymm} registers, of 256
 * bits, by their numbers 0 to 15, or with AVX-512 the {@code zmm} registers, 0 to 31.
 */
final class X86Assembler {
  /** The general registers, in the order of their numbers. */
  enum Register {
    RAX,
    RCX,
    RDX,
    RBX,
    RSP,
    RBP,
    RSI,
    RDI,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15;

    Address at(long displacement) {
      return new Address(this, null, 1, Math.toIntExact(displacement));
    }
  }

  /**
   * {@code base + index * scale + displacement}.
   *
   * @param index none where null
   * @param scale 1, 2, 4 or 8
   */
  record Address(Register base, Register index, int scale, int displacement) {
    Address {
      if (index == Register.RSP || Integer.bitCount(scale) != 1 || scale < 1 || scale > 8) {
        throw new IllegalArgumentException("no address: " + index + " * " + scale);
      }
    }
  }

  private static final int NO_PREFIX = 0;
  private static final int PREFIX_66 = 1;
  private static final int MAP_0F = 1;
  private static final int MAP_0F38 = 2;
  private static final int MAP_0F3A = 3;

  /** The manual's recommended no-operations of 1 to 9 bytes, volume 2, NOP. */
  private static final int[][] NOPS = {
    {0x90},
    {0x66, 0x90},
    {0x0F, 0x1F, 0x00},
    {0x0F, 0x1F, 0x40, 0x00},
    {0x0F, 0x1F, 0x44, 0x00, 0x00},
    {0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00},
    {0x0F, 0x1F, 0x80, 0x00, 0x00, 0x00, 0x00},
    {0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
    {0x66, 0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
  };

  private final int vectorBytes;
  private byte[] code = new byte[1024];
  private int size;

  /**
   * @param vectorBytes 32 or 64
   */
  X86Assembler(int vectorBytes) {
    this.vectorBytes = vectorBytes;
  }

  /** What has been written. */
  byte[] code() {
    return Arrays.copyOf(code, size);
  }

  // Vectors.

  void load(int to, Address from) {
    vector(NO_PREFIX, MAP_0F, 0x10, to, 0, from, vectorBytes);
  }

  void store(Address to, int from) {
    vector(NO_PREFIX, MAP_0F, 0x11, from, 0, to, vectorBytes);
  }

  /** A float into all lanes. */
  void broadcast(int to, Address from) {
    vector(PREFIX_66, MAP_0F38, 0x18, to, 0, from, Float.BYTES);
  }

  /** {@code sum += a * b} in each lane, rounded once. */
  void multiplyAdd(int sum, int a, int b) {
    vectorPrefix(PREFIX_66, MAP_0F38, sum, a, b >> 1 & 8, b);
    bytes(0xB8);
    modRegister(sum, b);
  }

  void multiplyAdd(int sum, int a, Address b) {
    vector(PREFIX_66, MAP_0F38, 0xB8, sum, a, b, vectorBytes);
  }

  // Of AVX2's vectors alone.

  /** Half a vector into both halves. */
  void loadHalves(int to, Address from) {
    vector(PREFIX_66, MAP_0F38, 0x1A, to, 0, from, 16);
  }

  /** Half a vector into the upper half; the lower one stays. */
  void loadUpperHalf(int to, Address from) {
    vector(PREFIX_66, MAP_0F3A, 0x18, to, to, from, 16);
    bytes(1);
  }

  /** In each half {@code a0 b0 a1 b1}. */
  void interleaveLow(int to, int a, int b) {
    vex(0x14, to, a, b);
  }

  /** In each half {@code a2 b2 a3 b3}. */
  void interleaveHigh(int to, int a, int b) {
    vex(0x15, to, a, b);
  }

  /**
   * In each half two lanes of {@code a} and two of {@code b}.
   *
   * @param choice the four lanes, two bits each, from the lowest on
   */
  void shuffle(int to, int a, int b, int choice) {
    vex(0xC6, to, a, b);
    bytes(choice);
  }

  /** The whole register, of which AVX2 names but a part; one of the first 16. */
  void zero(int vector) {
    vex(0x57, vector, vector, vector);
  }

  /** Before returning to code that may use SSE: its mixing with dirty upper halves is slow. */
  void zeroUpper() {
    bytes(0xC5, 0xF8, 0x77);
  }

  // Numbers and addresses.

  void move(Register to, Register from) {
    rex(true, from, null, to);
    bytes(0x89);
    modRegister(from.ordinal(), to.ordinal());
  }

  /** A number that is not negative. */
  void move(Register to, int value) {
    rex(false, Register.RAX, null, to);
    bytes(0xB8 + (to.ordinal() & 7));
    number(value, Integer.BYTES);
  }

  /** 32 bits, the upper half zero. */
  void loadInt(Register to, Address from) {
    rex(false, to, from.index, from.base);
    bytes(0x8B);
    modMemory(to.ordinal(), from);
  }

  void loadLong(Register to, Address from) {
    rex(true, to, from.index, from.base);
    bytes(0x8B);
    modMemory(to.ordinal(), from);
  }

  /** A byte without its sign, all other bits zero. */
  void loadByte(Register to, Address from) {
    rex(false, to, from.index, from.base);
    bytes(0x0F, 0xB6);
    modMemory(to.ordinal(), from);
  }

  /** Two bytes without their sign, all other bits zero. */
  void loadShort(Register to, Address from) {
    rex(false, to, from.index, from.base);
    bytes(0x0F, 0xB7);
    modMemory(to.ordinal(), from);
  }

  /** The lowest byte, all other bits zero. */
  void lowByte(Register to, Register from) {
    // Without a prefix the numbers of RSP to RDI mean second bytes.
    boolean needed = from.ordinal() >= 4;
    rex(false, to, null, from, needed);
    bytes(0x0F, 0xB6);
    modRegister(to.ordinal(), from.ordinal());
  }

  /** The second byte, all other bits zero, of RAX to RBX, into a register below R8. */
  void secondByte(Register to, Register from) {
    if (from.ordinal() >= 4 || to.ordinal() >= 8) {
      throw new IllegalArgumentException("no second byte of " + from + " into " + to);
    }
    bytes(0x0F, 0xB6);
    modRegister(to.ordinal(), from.ordinal() + 4);
  }

  void add(Register to, Register from) {
    rex(true, from, null, to);
    bytes(0x01);
    modRegister(from.ordinal(), to.ordinal());
  }

  void add(Register to, int value) {
    immediate(0, to, value);
  }

  void compare(Register a, Register b) {
    rex(true, b, null, a);
    bytes(0x39);
    modRegister(b.ordinal(), a.ordinal());
  }

  void address(Register to, Address of) {
    rex(true, to, of.index, of.base);
    bytes(0x8D);
    modMemory(to.ordinal(), of);
  }

  void multiply(Register to, Register from, int factor) {
    rex(true, to, null, from);
    boolean small = isByte(factor);
    bytes(small ? 0x6B : 0x69);
    modRegister(to.ordinal(), from.ordinal());
    number(factor, small ? 1 : 4);
  }

  void shiftLeft(Register register, int bits) {
    shift(4, register, bits);
  }

  /** Of 64 bits, zeros coming in. */
  void shiftRight(Register register, int bits) {
    shift(5, register, bits);
  }

  /** The lower half alone, the upper one zero. */
  void decrementInt(Register register) {
    rex(false, Register.RAX, null, register);
    bytes(0xFF);
    modRegister(1, register.ordinal());
  }

  /** What the processor is; see the manual's CPUID. Changes RAX, RBX, RCX and RDX. */
  void processor() {
    bytes(0x0F, 0xA2);
  }

  // Control.

  void push(Register register) {
    rex(false, Register.RAX, null, register);
    bytes(0x50 + (register.ordinal() & 7));
  }

  void pop(Register register) {
    rex(false, Register.RAX, null, register);
    bytes(0x58 + (register.ordinal() & 7));
  }

  void ret() {
    bytes(0xC3);
  }

  /** Where the next instruction will be. */
  int position() {
    return size;
  }

  /** Back to a position, where a comparison found no equals or a count is not yet zero. */
  void jumpIfNotEqual(int position) {
    int distance = position - (size + 2);
    if (isByte(distance)) {
      bytes(0x75, distance);
    } else {
      bytes(0x0F, 0x85);
      number(position - (size + Integer.BYTES), Integer.BYTES);
    }
  }

  /** Fills up to a multiple of a power of two, counted from the code's beginning. */
  void align(int bytes) {
    int missing = -size & (bytes - 1);
    while (missing > 0) {
      int[] nop = NOPS[Math.min(missing, NOPS.length) - 1];
      bytes(nop);
      missing -= nop.length;
    }
  }

  // Encodings.

  private void immediate(int operation, Register register, int value) {
    rex(true, Register.RAX, null, register);
    boolean small = isByte(value);
    bytes(small ? 0x83 : 0x81);
    modRegister(operation, register.ordinal());
    number(value, small ? 1 : 4);
  }

  private void shift(int operation, Register register, int bits) {
    rex(true, Register.RAX, null, register);
    bytes(0xC1);
    modRegister(operation, register.ordinal());
    number(bits, 1);
  }

  /** Of an operand in memory of so many bytes. */
  private void vector(
      int prefix, int map, int operation, int register, int second, Address address, int bytes) {
    int index = address.index == null ? 0 : address.index.ordinal();
    vectorPrefix(prefix, map, register, second, index, address.base.ordinal());
    bytes(operation);
    modMemory(register, address, vectorBytes == 64 ? bytes : 1);
  }

  private void vex(int operation, int register, int second, int third) {
    vexPrefix(NO_PREFIX, MAP_0F, register, second, 0, third);
    bytes(operation);
    modRegister(register, third);
  }

  private void vectorPrefix(int prefix, int map, int register, int second, int index, int base) {
    if (vectorBytes == 64) {
      evexPrefix(prefix, map, register, second, index, base);
    } else {
      vexPrefix(prefix, map, register, second, index, base);
    }
  }

  /** Volume 2, 2.3.5: the numbers' fourth bits are inverted; two bytes do where they can. */
  private void vexPrefix(int prefix, int map, int register, int second, int index, int base) {
    int r = (~register & 8) << 4;
    int rest = (~second & 0xF) << 3 | 1 << 2 | prefix;
    if (map == MAP_0F && index < 8 && base < 8) {
      bytes(0xC5, r | rest);
    } else {
      bytes(0xC4, r | (~index & 8) << 3 | (~base & 8) << 2 | map, rest);
    }
  }

  /** Volume 2, 2.7.1: the same of the fifth bits, that of a third vector in the index's place. */
  private void evexPrefix(int prefix, int map, int register, int second, int index, int base) {
    int rxb = (~register & 8) << 4 | (~index & 8) << 3 | (~base & 8) << 2;
    bytes(
        0x62,
        rxb | ~register & 16 | map,
        (~second & 0xF) << 3 | 1 << 2 | prefix,
        2 << 5 | (~second & 16) >> 1);
  }

  private void rex(boolean wide, Register register, Register index, Register base) {
    rex(wide, register, index, base, false);
  }

  /** Volume 2, 2.2.1. */
  private void rex(boolean wide, Register register, Register index, Register base, boolean needed) {
    int bits =
        (wide ? 8 : 0)
            | (register.ordinal() & 8) >> 1
            | (index == null ? 0 : (index.ordinal() & 8) >> 2)
            | (base.ordinal() & 8) >> 3;
    if (bits != 0 || needed) {
      bytes(0x40 | bits);
    }
  }

  private void modRegister(int register, int base) {
    bytes(0xC0 | (register & 7) << 3 | base & 7);
  }

  private void modMemory(int register, Address address) {
    modMemory(register, address, 1);
  }

  /**
   * Volume 2, 2.1.5: a base of RSP's low bits asks for a second byte, one of RBP's means another
   * thing without a displacement.
   *
   * @param unit in which a displacement of one byte counts; volume 2, 2.7.5
   */
  private void modMemory(int register, Address address, int unit) {
    int base = address.base.ordinal() & 7;
    int displacement = address.displacement;
    boolean none = displacement == 0 && base != Register.RBP.ordinal();
    boolean small = displacement % unit == 0 && isByte(displacement / unit);
    boolean indexed = address.index != null;
    boolean second = indexed || base == Register.RSP.ordinal();
    bytes((none ? 0 : small ? 1 : 2) << 6 | (register & 7) << 3 | (second ? 4 : base));
    if (second) {
      int index = indexed ? address.index.ordinal() & 7 : 4;
      bytes(Integer.numberOfTrailingZeros(address.scale) << 6 | index << 3 | base);
    }
    if (small && !none) {
      bytes(displacement / unit);
    } else if (!none) {
      number(displacement, Integer.BYTES);
    }
  }

  private static boolean isByte(int value) {
    return value == (byte) value;
  }

  private void number(int value, int bytes) {
    for (int i = 0; i < bytes; i++) {
      bytes(value >> 8 * i);
    }
  }

  private void bytes(int... values) {
    if (size + values.length > code.length) {
      code = Arrays.copyOf(code, 2 * code.length);
    }
    for (int value : values) {
      code[size++] = (byte) value;
    }
  }
}
