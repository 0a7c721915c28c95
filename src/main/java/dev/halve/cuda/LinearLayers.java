package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static dev.halve.cuda.CudaDevice.extent;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.cuda.Products.Activations;
import dev.halve.cuda.TrainingProducts.Product;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Linear;
import dev.halve.engine.Parameter;
import dev.halve.engine.Weight;
import java.util.List;

/** Linear layers, forwards and backwards: which product, or which pass, each of them is. */
final class LinearLayers implements AutoCloseable {
  private final Operations operations;
  private final Products products;
  private final GeluGemm geluGemm;
  private final TrainingProducts trainingProducts;
  private final TrainingOperations trainingOperations;
  private final Scratch biasScratch;

  LinearLayers(
      CudaContext context,
      Operations operations,
      Products products,
      GeluGemm geluGemm,
      TrainingProducts trainingProducts,
      TrainingOperations trainingOperations) {
    this.operations = operations;
    this.products = products;
    this.geluGemm = geluGemm;
    this.trainingProducts = trainingProducts;
    this.trainingOperations = trainingOperations;
    this.biasScratch = new Scratch(context);
  }

  /**
   * @param column of y, the layer's first
   */
  void forward(Tensor x, Weight weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    int pitch = extent(y, 1);
    int out = Math.toIntExact(weight.shape().extent(0));
    int in = Math.toIntExact(weight.shape().extent(1));
    boolean gelu = epilogue == Epilogue.GELU;
    if (gelu && pitch != out) {
      throw new IllegalArgumentException("GELU covers whole rows of the output");
    }
    Activations activations =
        new Activations(address(x), extent(x, 0), 0, address(y) + 2L * column, pitch);
    switch (weight) {
      case Weight.Trainable trainable -> {
        long dense = address(trainable.parameter().compute());
        if (out <= Operations.HEAD_OUTPUTS && !gelu) {
          head(activations, dense, address(bias), out, in, !CudaTraining.isFloat(y));
        } else {
          products.dense(activations, dense, address(bias), out, in, gelu);
        }
      }
      case Weight.Compressed compressed -> {
        long wide = biasScratch.take(4L * out);
        operations.toFloat(wide, address(bias), out);
        products.sparse(activations, (CudaPackedWeight) compressed.packed(), wide, gelu);
      }
      case Weight.Hybrid hybrid ->
          throw new HalveException(
              hybrid.name()
                  + " has dense rows among 2:4 ones, which a GPU runs compiled alone; compile the"
                  + " model, or decompress it");
    }
  }

  private void head(Activations a, long weight, long bias, int out, int in, boolean elementLogits) {
    operations.head(a.y(), elementLogits, a.yPitch(), a.x(), weight, bias, a.tokens(), in, out);
  }

  /** Layers of one input whose weights and biases lie one after another, as one product. */
  void forward(Tensor x, List<Linear> linears, Tensor y) {
    Linear first = linears.getFirst();
    products.dense(
        new Activations(address(x), extent(x, 0), 0, address(y), extent(y, 1)),
        address(TrainingProducts.parameter(first).compute()),
        address(first.bias().compute()),
        out(linears),
        first.in(),
        false);
  }

  void backward(
      Tensor x,
      Weight weight,
      Tensor dY,
      int column,
      Tensor dWeight,
      Tensor dBias,
      Tensor dX,
      boolean addToInput) {
    Parameter parameter = parameter(weight);
    if (CudaTraining.isFloat(dY)) {
      trainingOperations.headBackward(x, parameter, dY, dWeight, dBias, dX);
      return;
    }
    Product product = product(x, parameter, extent(parameter.value(), 0), dY, column);
    trainingProducts.weightGradient(product, List.of(dWeight));
    if (dX != null) {
      trainingProducts.inputGradient(product, address(dX), addToInput);
    }
    if (dBias != null) {
      trainingProducts.biasGradient(product, dBias);
    }
  }

  /**
   * As {@link #forward(Tensor, List, Tensor)}; adds to dX, and leaves the biases' gradients out.
   */
  void backward(Tensor x, List<Linear> linears, Tensor dY, Tensor dX) {
    Product product =
        product(x, TrainingProducts.parameter(linears.getFirst()), out(linears), dY, 0);
    List<Tensor> dWeights =
        linears.stream().map(each -> TrainingProducts.parameter(each).gradient()).toList();
    trainingProducts.weightGradient(product, dWeights);
    trainingProducts.inputGradient(product, address(dX), true);
  }

  /** With what GELU takes kept in {@code inner}. */
  void forwardGelu(Tensor x, Weight weight, Tensor bias, Tensor inner, Tensor y) {
    int out = extent(inner, 1);
    geluGemm.run(
        new GeluGemm.Operands(
            address(x),
            address(parameter(weight).compute()),
            address(inner),
            address(y),
            address(bias),
            0,
            extent(x, 0),
            extent(x, 1),
            out,
            false),
        o -> {
          Activations activations = new Activations(o.x(), o.tokens(), 0, o.inner(), out);
          products.dense(activations, o.weight(), o.bias(), out, o.in(), false);
          operations.gelu(o.y(), o.inner(), inner.elements());
        });
  }

  /** Of a layer whose input is a GELU's output, and of that GELU. */
  void backwardGelu(
      Tensor activated,
      Weight weight,
      Tensor dY,
      Tensor dWeight,
      Tensor inner,
      Tensor dInner,
      Tensor dInnerBias) {
    Parameter parameter = parameter(weight);
    Product product = product(activated, parameter, extent(parameter.value(), 0), dY, 0);
    GeluGemm.Operands operands =
        new GeluGemm.Operands(
            product.dY(),
            product.weight(),
            address(inner),
            address(dInner),
            0,
            address(dInnerBias),
            product.tokens(),
            product.out(),
            product.in(),
            true);
    GeluGemm.Separately separately =
        o -> {
          trainingProducts.inputGradient(product, o.y(), false);
          trainingOperations.geluBackward(o.inner(), o.y(), o.y(), o.tokens(), o.out(), o.dBias());
        };
    geluGemm.choose(operands, separately);
    trainingProducts.weightGradient(product, List.of(dWeight));
    geluGemm.run(operands, separately);
  }

  private static Parameter parameter(Weight weight) {
    return ((Weight.Trainable) weight).parameter();
  }

  private static int out(List<Linear> linears) {
    return linears.stream().mapToInt(Linear::out).sum();
  }

  private static Product product(Tensor x, Parameter weight, int out, Tensor dY, int column) {
    return new Product(
        address(x),
        extent(x, 0),
        extent(x, 1),
        address(weight.compute()),
        out,
        address(dY) + 2L * column,
        extent(dY, 1));
  }

  @Override
  public void close() {
    biasScratch.close();
  }
}
