#!/usr/bin/env bash
# The recipe on a GPU host that has an NVIDIA driver, a CUDA toolkit and nothing else: no Java, no
# Maven, no network. Prints the tables of benchmarks/quality.md.
#
#   benchmarks/gpu-recipe.sh bundle OUT MODEL DATA
#       Here: packs the model folder MODEL and DATA/train.json and DATA/eval.json into OUT/model.tar.xz,
#       Halve with a small Java runtime into OUT/program.tar.xz, beside a copy of this script.
#   OUT/gpu-recipe.sh run [--results DIR] [--seeds N] [--peer TORCH_SQUAD.py] [--device NAME] [-- OPTIONS]
#       There: the plain recipe, 3 + 3 epochs at 1.5e-4, then the preset best, with N seeds (3) and what
#       other OPTIONS of halve tutorial are given. The PyTorch harness, where named, runs the plain
#       recipe with one seed.
#   OUT/gpu-recipe.sh recovery [--results DIR] [--seeds N] [--device NAME] [-- OPTIONS]
#       There: the preset best with each method of recovery in turn, sorted by what is least known.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() {
  echo "gpu-recipe.sh: $*" >&2
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

bundle() {
  local out=$1 model=$2 data=$3 jar
  for file in "$model/model.safetensors" "$model/config.json" "$data/train.json" "$data/eval.json"; do
    [[ -r $file ]] || fail "$file is missing; a model folder comes from ./halve convert --to dense"
  done
  mkdir -p "$out"
  out=$(cd "$out" && pwd) model=$(cd "$model" && pwd) data=$(cd "$data" && pwd)
  work=$(mktemp -d) # not local: the trap runs when the function is over
  trap 'rm -rf "$work"' EXIT
  cd "$here/.."
  mvn -q package -DskipTests
  mkdir -p "$work/halve/lib"
  "$(jdk_home)/bin/jlink" --compress zip-0 --strip-java-debug-attributes --no-header-files \
    --no-man-pages --output "$work/halve/jre" --add-modules \
    java.base,java.logging,java.management,java.naming,java.net.http,java.sql,java.xml,jdk.httpserver,jdk.incubator.vector,jdk.unsupported
  if command -v strip >/dev/null; then
    strip --strip-unneeded "$work/halve/jre/lib/server/libjvm.so"
  fi
  # The driver, NVRTC and cuBLASLt are the host's; models and peers stay here.
  for jar in target/lib/*.jar; do
    [[ $(basename "$jar") =~ langchain4j|onnxruntime|^cuda.*linux|jline ]] ||
      cp "$jar" "$work/halve/lib/"
  done
  cp -r target/classes "$work/halve/classes"
  sed -n '/<jvm.flags>/,/<\/jvm.flags>/p' pom.xml | sed 's/<[^>]*>//g' >"$work/halve/jvm.flags"
  tar -C "$work" -cJf "$out/program.tar.xz" halve
  tar -C "$model" -cJf "$out/model.tar.xz" . -C "$data" train.json eval.json
  cp "$here/gpu-recipe.sh" "$out/"
  ls -l "$out"
}

java_halve() {
  # shellcheck disable=SC2046  # the flags are words
  "$home/jre/bin/java" $(cat "$home/jvm.flags") -XX:+UseParallelGC -Xmx16g \
    -cp "$home/classes:$home/lib/*" dev.halve.cli.Main "$@"
}

# The weights under the names that the harness takes, without the head.
peer_weights() {
  python3 - "$home/model/model.safetensors" "$home/weights.npz" <<'PYTHON'
import json, struct, sys
import numpy as np

source, target = sys.argv[1:]
data = open(source, "rb").read()
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + size])
kinds = {"F32": np.float32, "F16": np.float16}
weights = {}
for name, tensor in header.items():
    if name.startswith("bert."):
        first, last = (8 + size + offset for offset in tensor["data_offsets"])
        values = np.frombuffer(data[first:last], kinds[tensor["dtype"]])
        weights[name[len("bert."):]] = values.reshape(tensor["shape"])
np.savez(target, **weights)
PYTHON
}

# What is done beside learning from the dense model, a line each; what names no method starts from
# SparseGPT, as the preset does.
methods='
magnitude --method magnitude
reconstructed --reconstruct 100
permuted --permute
srste --method magnitude --masked-decay 6e-5 --mask-steps 1
cubic --method magnitude --sparsity-schedule cubic --mask-steps 100
fading --method magnitude --masked-keep 0.98
srste-to-the-end --method magnitude --masked-decay 6e-5 --mask-steps 1 --mask-share 1
best'

# Sees the variables of run.
recovery() {
  local name options
  while read -r name options; do
    [[ -n $name ]] || continue
    echo "== $name $options"
    # shellcheck disable=SC2086  # the options are words
    java_halve tutorial --preset best "${common[@]}" $options "${more[@]}" --seeds "$seeds" \
      --out "$home/$name" </dev/null 2>"$results/$name.log" | tee "$results/$name.txt"
  done <<<"$methods"
}

run() {
  local what=$1
  shift
  local seeds=3 peer='' results=$PWD/gpu-recipe device=cuda:0 more=()
  while (($#)); do
    case $1 in
      --)
        more=("${@:2}")
        break
        ;;
      --device) device=$2 ;;
      --results) results=$2 ;;
      --seeds) seeds=$2 ;;
      --peer) peer=$2 ;;
      *) fail "unknown option $1" ;;
    esac
    shift 2
  done
  mkdir -p "$results"
  results=$(cd "$results" && pwd)
  [[ -z $peer ]] || peer=$(cd "$(dirname "$peer")" && pwd)/$(basename "$peer")
  home=${HALVE_GPU_HOME:-$here/unpacked}
  mkdir -p "$home/model" "$home/cache"
  tar -C "$home" --strip-components=1 -xJf "$here/program.tar.xz"
  tar -C "$home/model" -xJf "$here/model.tar.xz"
  export LD_LIBRARY_PATH=/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export HALVE_CACHE=$home/cache
  local common=(--model "$home/model" --device "$device"
    --train "$home/model/train.json" --eval "$home/model/eval.json" --seed 100 --batches 32)
  if [[ $what == recovery ]]; then
    recovery
    return
  fi
  for preset in full best; do
    local own=()
    [[ $preset == best ]] || own=(--epochs 3 --learning-rate 1.5e-4)
    echo "== preset $preset"
    java_halve tutorial --preset "$preset" "${common[@]}" "${own[@]}" "${more[@]}" \
      --seeds "$seeds" --out "$home/$preset" 2>"$results/$preset.log" | tee "$results/$preset.txt"
    # One run leaves results.json, several seeds.json.
    for file in results seeds; do
      [[ ! -e $home/$preset/$file.json ]] || cp "$home/$preset/$file.json" "$results/$preset-$file.json"
    done
  done
  if [[ -n $peer ]]; then
    echo "== PyTorch, the plain recipe"
    peer_weights
    python3 "$peer" --weights "$home/weights.npz" --tokenizer "$home/model/tokenizer.json" \
      --train "$home/model/train.json" --eval "$home/model/eval.json" --lr 1.5e-4 |
      tee "$results/torch.jsonl"
  fi
}

case ${1:-} in
  bundle) (($# == 4)) || fail "bundle needs a folder to write to, a model folder and a data folder" && bundle "${@:2}" ;;
  run) run recipes "${@:2}" ;;
  recovery) run recovery "${@:2}" ;;
  *) fail "bundle OUT MODEL DATA, run or recovery; see the head of this file" ;;
esac
