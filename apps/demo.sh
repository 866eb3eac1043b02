#!/usr/bin/env bash
# What `make demo` shows: checkpoints in the released layouts of both models, looked at, classifying and answering about the
# same picture.
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

echo "Two small checkpoints with RANDOM weights are made first: classes and answers below mean nothing yet. What is real is"
echo "everything else: the released layouts, the tokenizers, the tiling, the numbers (tests compare them with the reference)."
data=$root/tests/data
show init --quiet --force --config-json "$root/configs/demo/internvl-tiny.json" --tokenizer "$data/tokenizer/tokenizer.json" --output "$folder/internvl"
llama=$data/llama_vision/instruct
show init --quiet --force --config-json "$llama/config.json" --preprocessor "$llama/preprocessor_config.json" --generation "$llama/generation_config.json" \
  --tokenizer "$llama/tokenizer.json" --output "$folder/llama_vision"
printf 'model:\n  model_type: internvl\n  pretrained_path: internvl\n  seed: 1\n' > "$folder/internvl.yaml"
sed -e 's/model_type: .*/model_type: llama-vision/' -e 's/pretrained_path: .*/pretrained_path: llama_vision/' "$folder/internvl.yaml" > "$folder/llama_vision.yaml"

show plugins
echo
echo "From one model to the other, two lines of the configuration:"
diff "$folder/internvl.yaml" "$folder/llama_vision.yaml" || true
for model in internvl llama_vision; do
  show info --config "$folder/$model.yaml"
  show classify --config "$folder/$model.yaml" "$picture"
  show ask --config "$folder/$model.yaml" --image "$picture" --prompt "How many receipts are there?" --max-new-tokens 20
done
