#!/usr/bin/env bash
# vlmzoo beside transformers, random weights, in one run: InternVL2.5-1B's full shape, or Llama-3.2-11B-Vision's widths at
# reduced depth (peer_mllama.py says how); or a training step of InternVL2.5-1B.
# Usage: tests/reference/bench.sh PROGRAM [internvl|llama-vision|training] [option of bench_training.py]…
set -euo pipefail
program=$(realpath "$1")
model=${2:-internvl}
cd "$(dirname "$0")/../.."
mkdir -p build/bench
case $model in
  internvl)
    folder=internvl2_5-1b-hf
    from=(--preset internvl2_5-1b-hf --tokenizer build/tokenizers/qwen/tokenizer.json)
    ;;
  llama-vision)
    folder=llama-vision-reduced
    from=(--config-json build/bench/llama-vision-config/config.json --tokenizer build/tokenizers/llama/tokenizer.json
      --preprocessor build/bench/llama-vision-config/preprocessor_config.json)
    ;;
  training)
    folder=internvl2_5-1b
    from=(--preset internvl2_5-1b --tokenizer build/tokenizers/qwen/tokenizer.json)
    ;;
  *) echo "usage: $0 PROGRAM [internvl|llama-vision|training]" >&2 && exit 2 ;;
esac
venv=$(tests/reference/venv.sh ${model/training/internvl})
[ -f build/tokenizers/qwen/tokenizer.json ] || tests/reference/fetch_tokenizers.sh build/tokenizers
if [ ! -d build/bench/$folder ]; then
  [ $model != llama-vision ] || $venv/bin/python tests/reference/peer_mllama.py build/bench/llama-vision-config
  "$program" init "${from[@]}" --output build/bench/$folder
fi
if [ $model = training ]; then
  exec $venv/bin/python tests/reference/bench_training.py --checkpoint build/bench/$folder --vlmzoo "$program" --threads 2 "${@:3}"
fi
configs=()
for precision in auto int8; do
  config=build/bench/$model-$precision.yaml
  printf 'model:\n  model_type: %s\n  pretrained_path: %s\n  precision: %s\n' $model $folder $precision > "$config"
  configs+=(--config "$config")
done
exec $venv/bin/python tests/reference/bench_peers.py --model $model --checkpoint build/bench/$folder --vlmzoo "$program" "${configs[@]}" --threads 2
