#!/usr/bin/env bash
# Runs the commands of a document, in order, as a reader would: in a folder with a copy of the configurations, with the
# program on the PATH. Blocks that begin with ```sh count; one that begins with ```sh exits N has to end with that code.
# Usage: run_commands.sh PROGRAM DOCUMENT
set -euo pipefail
program=$(realpath "$1") document=$(realpath "$2")
root=$(cd "$(dirname "$0")/../.." && pwd)
for needed in zoo.yaml internvl/model.safetensors llama_vision/model.safetensors; do
  if [ ! -f "$root/configs/demo/$needed" ]; then
    echo "  skipped: $(basename "$document"): configs/demo/$needed isn't there, so there are no demo models to run it on"
    exit 0
  fi
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r "$root/configs" "$folder/configs"
cd "$folder"
PATH="$(dirname "$program"):$PATH"
export PATH XDG_CACHE_HOME="$folder/cache" OMP_NUM_THREADS=1

awk '/^```sh/ {n++; code = $2 == "exits" ? $3 : 0; print code > ("block" n ".code"); inside = 1; next}
     /^```/ {inside = 0} inside {print > ("block" n ".sh")}' "$document"
blocks=$(ls block*.code | wc -l)
for n in $(seq "$blocks"); do
  expected=$(cat "block$n.code") code=0
  bash -euo pipefail "block$n.sh" > "block$n.log" 2>&1 || code=$?
  if [ "$code" != "$expected" ]; then
    echo "$(basename "$document"), block $n ended with $code instead of $expected:"
    cat "block$n.sh" "block$n.log"
    exit 1
  fi
done
echo "$(basename "$document"): $blocks blocks of commands ran"
