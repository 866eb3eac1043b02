#!/usr/bin/env bash
# What `make demo-models` does: trains the two small models of configs/demo/ from nothing, on 63,000 synthetic pictures, and
# puts them in place. Can be stopped and started again: it goes on where it was.
# Usage: apps/demo_models.sh PROGRAM [internvl|llama_vision]...
set -euo pipefail
program=$(realpath "$1")
shift
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(dirname "$(dirname "$program")")/demo-models
demo=$root/configs/demo
mkdir -p "$work"
[ $# -gt 0 ] || set -- internvl llama_vision

[ -f "$work/data/labels.csv" ] || "$program" synth receipts --count 90000 --seed 1 --output "$work/data"
steps=6000 # of 32 pictures

for name in "$@"; do
  files=$demo/$name run=$work/$name-run
  resume=(--resume)
  if [ ! -f "$run/config.yaml" ]; then
    "$program" init --force --config-json "$files/config.json" --preprocessor "$files/preprocessor_config.json" \
      --generation "$files/generation_config.json" --tokenizer "$files/tokenizer.json" --dtype fp32 --seed 1 --output "$work/$name"
    sed '/^  head:/d' "$demo/$name.yaml" > "$work/$name.yaml"
    resume=()
  fi
  "$program" train --config "$work/$name.yaml" --data "$work/data" --output "$run" --dtype bf16 --set training.max_steps=$steps "${resume[@]}"
  cp "$run/model/"* "$run/head.safetensors" "$files/"
  "$program" eval --config "$demo/$name.yaml" --data "$work/data" --split test --answers --limit 2000 --no-cache
done
