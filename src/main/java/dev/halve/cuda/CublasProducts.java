package dev.halve.cuda;

import dev.halve.core.HalveException;
import java.util.LinkedHashMap;
import java.util.List;

/**
 * Products through cuBLASLt, each by the algorithm that was fastest when its candidates were timed
 * on this GPU at about this size.
 */
final class CublasProducts implements AutoCloseable {
  private static final int CANDIDATES = 16;
  private static final int KEPT_PRODUCTS = 2048;

  private final CudaContext context;
  private final Measured measured;
  private final boolean bfloat16;
  private final CublasLt cublas;
  private final LinkedHashMap<CublasLt.Form, CublasLt.Product> prepared =
      new LinkedHashMap<>(16, 0.75f, true);

  CublasProducts(CudaContext context, Measured measured, boolean bfloat16) {
    this.context = context;
    this.measured = measured;
    this.bfloat16 = bfloat16;
    this.cublas = new CublasLt(bfloat16);
  }

  /**
   * The addresses of one product's operands; bias and c are 0 where the form has none.
   *
   * @param c what the form adds to the product; may be d
   */
  record Operands(long a, long b, long bias, long c, long d) {}

  /**
   * Queues {@code d = op(a) · op(b) (+ bias) (+ c)}.
   *
   * @param size the token count of the form, rounded so that products of about one size share their
   *     measurement
   * @param workspace of {@link CublasLt#WORKSPACE_BYTES}, that no other stream uses
   */
  void multiply(CublasLt.Form form, int size, Operands operands, long workspace, long stream) {
    if (context.rehearsing()) {
      return;
    }
    CublasLt.Product product = prepared.get(form);
    if (product == null) {
      product = prepare(form, size, operands, workspace);
      prepared.put(form, product);
      if (prepared.size() > KEPT_PRODUCTS) {
        prepared.pollFirstEntry().getValue().close();
      }
    }
    if (product.launch(operands, workspace, stream) != 0) {
      // The choice made at another size does not suit this one.
      product.use(product.algorithms(1).getFirst());
      CublasLt.check("cublasLtMatmul " + form, product.launch(operands, workspace, stream));
    }
  }

  private CublasLt.Product prepare(
      CublasLt.Form form, int size, Operands operands, long workspace) {
    CublasLt.Product product = cublas.new Product(form);
    try {
      choose(product, form, size, operands, workspace);
      return product;
    } catch (Throwable failed) {
      product.close();
      throw failed;
    }
  }

  private void choose(
      CublasLt.Product product, CublasLt.Form form, int size, Operands operands, long workspace) {
    String[] question = {
      "product of fp32 sums",
      "cuBLASLt " + CublasLt.version(),
      bfloat16 ? "bf16" : "fp16",
      form.about(size).toString()
    };
    byte[] choice = measured.choice(question).orElse(null);
    if (choice != null) {
      product.use(choice);
      return;
    }
    List<byte[]> algorithms = product.algorithms(CANDIDATES);
    if (algorithms.isEmpty()) {
      throw new HalveException(
          "cuBLASLt has no algorithm for the product " + form + "; check its installation");
    }
    // Where the product adds to what is there, every run would add again: choose on other memory.
    long scratch = context.allocate(form.outputBytes());
    try {
      Operands aside =
          new Operands(
              operands.a, operands.b, operands.bias, operands.c == 0 ? 0 : scratch, scratch);
      List<Candidate> candidates =
          algorithms.stream().map(each -> new Candidate(each, product, aside, workspace)).toList();
      product.use(measured.measure(candidates, question).orElse(algorithms.getFirst()));
    } finally {
      context.free(scratch);
    }
  }

  /** One algorithm, under its own bytes as name. */
  private final class Candidate implements Measured.Candidate {
    private final byte[] algorithm;
    private final CublasLt.Product product;
    private final Operands operands;
    private final long workspace;

    Candidate(byte[] algorithm, CublasLt.Product product, Operands operands, long workspace) {
      this.algorithm = algorithm;
      this.product = product;
      this.operands = operands;
      this.workspace = workspace;
    }

    @Override
    public byte[] name() {
      return algorithm;
    }

    @Override
    public boolean run() {
      product.use(algorithm);
      return product.launch(operands, workspace, context.stream()) == 0;
    }
  }

  @Override
  public void close() {
    prepared.values().forEach(CublasLt.Product::close);
    prepared.clear();
    cublas.close();
  }
}
