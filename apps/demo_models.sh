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
declare -A second=([internvl]=2 [llama_vision]=1)  # epochs of the second round

run() {  # run RUN CONFIG [--set...]: trains, or goes on
  local resume=()
  [ -f "$1/config.yaml" ] && resume=(--resume)
  "$program" train --config "$2" --data "$work/data" --output "$1" "${resume[@]}" "${@:3}"
}

for name in "$@"; do
  files=$demo/$name
  if [ ! -f "$work/$name-1/config.yaml" ]; then
    "$program" init --force --config-json "$files/config.json" --preprocessor "$files/preprocessor_config.json" \
      --generation "$files/generation_config.json" --tokenizer "$files/tokenizer.json" --dtype fp32 --seed 1 --output "$work/$name"
    sed '/^  head:/d' "$demo/$name.yaml" > "$work/$name.yaml"
  fi
  run "$work/$name-1" "$work/$name.yaml"
  # A second round from there, at half the rate.
  run "$work/$name-2" "$work/$name-1/trained.yaml" --dtype bf16 --set training.epochs="${second[$name]}" --set training.learning_rate=1.0e-3 \
    --set training.language_loss_from=0 --set training.seed=2
  cp "$work/$name-2/model/"* "$files/"
  cp "$work/$name-2/head.safetensors" "$demo/${name}_head.safetensors"
  "$program" eval --config "$demo/$name.yaml" --data "$work/data" --split test --answers --limit 2000 --no-cache
done
