#!/usr/bin/env bash
# Tests and measures Halve on a GPU host that has an NVIDIA driver, a CUDA toolkit and nothing else: no
# Java, no Maven, no network.
#
#   benchmarks/gpu-host.sh bundle OUT [KERNEL_CACHE]
#       Here: builds Halve and packs it with a small Java runtime into OUT/halve-gpu.tar.gz, under
#       64 MiB, beside a copy of this script. A folder of compiled kernels goes along where given.
#   benchmarks/gpu-host.sh answers OUT MODEL DATA
#       Here: packs a model's weights and the rows of a SQuAD file into OUT/answers.bin.
#   OUT/gpu-host.sh run [--results DIR] [--skip tests,kernels,models,quickstart,sanitizer]
#                       [--model base] [--batches 4,16,64,256] [--max-seconds 2]
#                       [--peer TORCH_BERT.py] [--peer-variants dense,dense_compile]
#                       [--lengths FILE] [--answers FILE]
#       There: runs the GPU tests, then times the kernels, then Halve (dense and 2:4 in turn, then each on
#       its own) and the PyTorch harness on the same work, and prints the tables of benchmarks/h100.md;
#       with --answers, compares logits and answers with the CPU's. Logs and figures go to DIR.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() {
  echo "gpu-host.sh: $*" >&2
  exit 2
}

jdk_home() {
  local home
  for home in "${JAVA_HOME:-}" /usr/lib/jvm/*25*; do
    [[ -n $home && -x $home/bin/jlink ]] || continue
    "$home/bin/java" -version 2>&1 | grep -q '"25' && echo "$home" && return
  done
  fail "no JDK 25 found; set JAVA_HOME"
}

# The runtime without desktop classes; jlink keeps what it is told and nothing else.
make_runtime() {
  "$(jdk_home)/bin/jlink" --compress zip-9 --strip-java-debug-attributes --no-header-files \
    --no-man-pages --output "$1" --add-modules \
    java.base,java.logging,java.management,java.naming,java.net.http,java.sql,java.xml,jdk.httpserver,jdk.incubator.vector,jdk.unsupported
  if command -v strip >/dev/null; then
    strip --strip-unneeded "$1/lib/server/libjvm.so"
  fi
}

# Only what a bench and the GPU tests need: no tokenizers, embedded models, plots or peers.
needless='langchain4j|onnxruntime|tokenizers|^api-|jna|commons-|xchart|gson|protobuf'

bundle() {
  local out=$1 kernels=${2:-}
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$here/.."
  mvn -q package -DskipTests
  local test_version
  test_version=$(sed -n 's/.*<junit.version>\(.*\)<.*/\1/p' pom.xml)
  mvn -q dependency:copy -DoutputDirectory="$work/halve/test" \
    -Dartifact="org.junit.platform:junit-platform-console-standalone:$test_version"
  mvn -q dependency:copy-dependencies -DincludeArtifactIds=assertj-core \
    -DoutputDirectory="$work/halve/test"
  make_runtime "$work/halve/jre"
  mkdir -p "$work/halve/lib" "$work/halve/test-classes/dev/halve"
  for jar in target/lib/*.jar; do
    [[ $(basename "$jar") =~ $needless ]] || cp "$jar" "$work/halve/lib/"
  done
  cp -r target/classes "$work/halve/classes"
  cp -r target/test-classes/dev/halve/cuda "$work/halve/test-classes/dev/halve/"
  sed -n '/<jvm.flags>/,/<\/jvm.flags>/p' pom.xml | sed 's/<[^>]*>//g' >"$work/halve/jvm.flags"
  [[ -z $kernels ]] || cp -r "$kernels" "$work/halve/kernels"
  tar -C "$work" -czf "$out/halve-gpu.tar.gz" halve
  cp "$here/gpu-host.sh" "$out/"
  ls -l "$out/halve-gpu.tar.gz"
}

answers() {
  mkdir -p "$1"
  local out
  out=$(cd "$1" && pwd)
  local data
  data=$(realpath "$3")
  cd "$here/.."
  mvn -q package -DskipTests
  # shellcheck disable=SC2046  # the flags are words
  "$(jdk_home)/bin/java" $(sed -n '/<jvm.flags>/,/<\/jvm.flags>/p' pom.xml | sed 's/<[^>]*>//g') \
    -cp "target/test-classes:target/classes:target/lib/*" \
    dev.halve.cuda.CudaAnswers prepare "$2" "$data" "$out/answers.bin"
  ls -l "$out/answers.bin"
}

java_halve() {
  # shellcheck disable=SC2046  # the flags are words
  "$home/jre/bin/java" $(cat "$home/jvm.flags") -XX:+UseParallelGC -Xmx8g \
    -cp "$home/classes:$home/lib/*" "$@"
}

java_test() {
  # shellcheck disable=SC2046
  "$home/jre/bin/java" $(cat "$home/jvm.flags") -XX:+UseParallelGC -Xmx8g \
    -cp "$home/test-classes:$home/classes:$home/lib/*:$home/test/*" "$@"
}

gpu_tests() {
  java_test org.junit.platform.console.ConsoleLauncher execute --disable-banner \
    --details=tree --disable-ansi-colors --select-package dev.halve.cuda \
    >"$results/tests.log" 2>&1 || echo "some tests failed: $results/tests.log"
  grep -E 'tests (successful|failed|skipped|aborted)|\[X\]' "$results/tests.log" | cut -c1-200 || true
}

# The kernels' tests again, watched; cuBLASLt's own kernels and the CPU's part are not what is checked.
sanitizer() {
  local tool
  for tool in memcheck racecheck; do
    # shellcheck disable=SC2046
    compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-regex-exclude kns=cublas \
      "$home/jre/bin/java" $(cat "$home/jvm.flags") -XX:+UseSerialGC \
      -cp "$home/test-classes:$home/classes:$home/lib/*:$home/test/*" \
      org.junit.platform.console.ConsoleLauncher execute --disable-banner --details=tree \
      --disable-ansi-colors --select-class dev.halve.cuda.CudaKernelsTest \
      --select-class dev.halve.cuda.CudaModelTest >"$results/$tool.log" 2>&1 || true
    echo "$tool: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$results/$tool.log" || echo 'no summary')"
  done
}

halve_bench() {
  java_halve dev.halve.cli.Main bench --device cuda:0 --model "$model" --random-weights --seq 384 \
    --json "$@"
}

# One kind of weights at a time, back to back, as the peer times its variants: nothing runs on a GPU that
# the other left hot.
halve_alone() {
  local suffix=$1 weights
  shift
  for weights in dense 2:4; do
    halve_bench --batches "$batches" --modes compiled --weights "$weights" --repeats 100 \
      --max-seconds "$max_seconds" "$@" >"$results/halve-$suffix-${weights/:/}.json"
  done
}

models() {
  halve_bench --batches "$batches" --modes eager,compiled --repeats 100 \
    --max-seconds "$max_seconds" >"$results/halve-full.json"
  halve_alone full
  if [[ -n $peer ]]; then
    python3 "$peer" --model "$model" --batches "$batches" --variants "$peer_variants" \
      >"$results/torch-full.jsonl"
  fi
  if [[ -n $lengths ]]; then
    halve_bench --batches "$batches" --modes compiled --lengths "$lengths" --repeats 100 \
      --max-seconds "$max_seconds" >"$results/halve-lengths.json"
    halve_alone lengths --lengths "$lengths"
    if [[ -n $peer ]]; then
      python3 "$peer" --model "$model" --batches "$batches" --variants "$peer_variants" \
        --lengths "$lengths" >"$results/torch-lengths.jsonl"
    fi
  fi
}

tables() {
  python3 - "$results" <<'PYTHON'
import json, os, sys

results = sys.argv[1]


def lines(name):
    path = os.path.join(results, name)
    if not os.path.exists(path):
        return []
    return [json.loads(line) for line in open(path) if line.startswith("{")]


def halve(name):
    path = os.path.join(results, name)
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return {}, {}
    whole = json.load(open(path))
    return {(r["weights"], r["mode"], r["batch"]): r["ms_p50"] for r in whole["rows"]}, whole


def torch_best(name):
    best = {}
    for row in lines(name):
        if "ms_p50" in row and row["ms_p50"] < best.get(row["batch"], (9e9,))[0]:
            best[row["batch"]] = (row["ms_p50"], row["variant"])
    return best


def text(value, form="%.3f"):
    return "-" if value is None else form % value


def ratio(a, b):
    return "-" if a is None or b is None else "%.2f" % (a / b)


form = "%-26s %10s %10s %10s %8s %10s %10s %8s %10s %10s"
print(form % ("forward pass, ms", "torch best", "dense", "2:4", "2:4 gain", "turn dense", "turn 2:4", "/ dense",
              "dense eag.", "2:4 eager"))
for what, suffix in (("full rows", "full"), ("real lengths", "lengths")):
    mine, whole = halve("halve-%s.json" % suffix)
    alone = {**halve("halve-%s-dense.json" % suffix)[0], **halve("halve-%s-24.json" % suffix)[0]}
    torch = torch_best("torch-%s.jsonl" % suffix)
    for batch in sorted({key[2] for key in mine}):
        peer = torch.get(batch, (None, ""))[0]
        get = lambda weights, mode, of=mine: of.get((weights, mode, batch))
        print(form % (
            "batch %d, %s" % (batch, what), text(peer), text(get("dense", "compiled", alone)),
            text(get("2:4", "compiled", alone)), ratio(peer, get("2:4", "compiled", alone)),
            text(get("dense", "compiled")), text(get("2:4", "compiled")),
            ratio(get("dense", "compiled"), get("2:4", "compiled")), text(get("dense", "eager")),
            text(get("2:4", "eager"))))
    if suffix == "full" and whole.get("dense_weight_bytes"):
        dense = whole.get("dense_weight_bytes")
        sparse = whole.get("sparse_weight_bytes")
        print("compressed weights / dense: %.3f" % (sparse / dense))

print()
print("%-26s %9s %12s %12s %8s" % ("product", "tokens", "2:4 TFLOP/s", "cuBLASLt", "ratio"))
for row in lines("kernels.jsonl"):
    if "product" in row:
        print("%-26s %9d %12.0f %12.0f %8.2f" % (
            row["product"] + ", " + row["epilogue"], row["tokens"], row["sparse_tflops"],
            row["dense_tflops"], row["ratio"]))
print()
for row in lines("kernels.jsonl"):
    if "kernel" in row:
        print("%-26s %9d %9.1f us  %s" % (
            row["kernel"] + (" %d" % row["head"] if "head" in row else ""), row["tokens"], row["us"],
            "%d TFLOP/s" % row["tflops"] if "tflops" in row else "%d GB/s" % row["gb_per_s"]))
PYTHON
}

run() {
  results=$PWD/gpu-results model=base peer='' lengths='' skip=, answers=''
  batches=4,16,64,256 max_seconds=2 peer_variants=dense,dense_compile
  while (($#)); do
    case $1 in
      --results) results=$2 ;;
      --model) model=$2 ;;
      --peer) peer=$2 ;;
      --peer-variants) peer_variants=$2 ;;
      --lengths) lengths=$2 ;;
      --answers) answers=$2 ;;
      --batches) batches=$2 ;;
      --max-seconds) max_seconds=$2 ;;
      --skip) skip=,$2, ;;
      *) fail "unknown option $1" ;;
    esac
    shift 2
  done
  mkdir -p "$results"
  results=$(cd "$results" && pwd)
  home=${HALVE_GPU_HOME:-$here/unpacked}
  mkdir -p "$home"
  tar -C "$home" --strip-components=1 -xzf "$here/halve-gpu.tar.gz"
  export LD_LIBRARY_PATH=/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export HALVE_CACHE=$home/cache
  mkdir -p "$HALVE_CACHE" "$home/run/target"
  if [[ -d $home/kernels ]]; then
    mkdir -p "$HALVE_CACHE/cuda"
    cp "$home"/kernels/* "$HALVE_CACHE/cuda/"
    ln -sfn "$HALVE_CACHE/cuda" "$home/run/target/kernel-cache"
  fi
  cd "$home/run"
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.limit --format=csv,noheader || true
  java_halve dev.halve.cli.Main doctor >"$results/doctor.log" 2>&1 || true
  [[ $skip == *,tests,* ]] || gpu_tests
  [[ $skip == *,kernels,* ]] ||
    java_test dev.halve.cuda.CudaTiming kernels products ${lengths:+"lengths=$lengths"} \
      >"$results/kernels.jsonl" 2>"$results/kernels.err" || true
  [[ $skip == *,models,* ]] || models
  [[ $skip == *,quickstart,* ]] ||
    java_halve dev.halve.cli.Main quickstart --device cuda:0 2>&1 | tee "$results/quickstart.log"
  [[ -z $answers ]] || java_test dev.halve.cuda.CudaAnswers check "$answers" | tee "$results/answers.jsonl"
  [[ $skip == *,sanitizer,* ]] || sanitizer
  tables
}

case ${1:-} in
  bundle) (($# >= 2)) || fail "bundle needs a folder to write to" && bundle "${@:2}" ;;
  answers) (($# == 4)) || fail "answers needs OUT, MODEL and DATA" && answers "${@:2}" ;;
  run) run "${@:2}" ;;
  *) fail "bundle OUT, answers OUT MODEL DATA, or run; see the head of this file" ;;
esac
