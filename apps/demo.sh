#!/usr/bin/env bash
# What `make demo` shows: a checkpoint in the released InternVL layout, looked at, classifying and answering about a picture.
# Usage: apps/demo.sh PROGRAM
set -euo pipefail
program=$(realpath "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(dirname "$(dirname "$program")")/demo
picture=$root/configs/demo/receipts.jpg
mkdir -p "$folder"

show() {
  printf '\n$ vlmzoo'
  printf ' %q' "$@"
  printf '\n'
  "$program" "$@"
}

echo "A small InternVL checkpoint with RANDOM weights is made first: classes and answers below mean nothing yet. What is"
echo "real is everything else: the released layout, the tokenizer, the tiling, the numbers (tests compare them with the reference)."
show init --force --config-json "$root/configs/demo/internvl-tiny.json" --tokenizer "$root/tests/data/tokenizer/tokenizer.json" --output "$folder/internvl"
show plugins
show info --model "$folder/internvl"
show classify --model "$folder/internvl" "$picture"
show ask --model "$folder/internvl" --image "$picture" --prompt "How many receipts are there?" --max-new-tokens 20
