#!/usr/bin/env bash
# Llama-3.2-11B-Vision's full shape with random weights: peak memory, load time and speed in int8 (`use_8bit`) and fp16,
# against their limits. Slow (20 minutes), and 22 GB of disk for the checkpoint; without that much the weights are made in
# memory. Usage: tests/heavy/llama_vision_memory.sh PROGRAM [int8|fp16]...
set -euo pipefail
program=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- int8 fp16
cd "$(dirname "$0")/../.."
folder=build/bench/llama-3.2-11b-vision
mkdir -p build/bench
tokenizer=build/tokenizers/llama/tokenizer.json
[ -f $tokenizer ] || tests/reference/fetch_tokenizers.sh build/tokenizers
pretrained=true
if [ ! -f $folder/model.safetensors.index.json ]; then
  if [ "$(df --output=avail -B1 build | tail -1)" -gt 25000000000 ]; then
    "$program" init --preset llama-3.2-11b-vision --tokenizer $tokenizer --output $folder
  else
    echo "less than 25 GB of disk: pretrained: false"
    pretrained=false
    mkdir -p $folder
    for file in "" -generation -preprocessor; do
      to=${file:+${file#-}_}config.json
      cp plugins/llama_vision/presets/llama-3.2-11b-vision$file.json $folder/$to
    done
    cp $tokenizer $folder/
  fi
fi
echo 1000 > /proc/self/oom_score_adj # if memory runs out after all, this goes first
passed=0 failed=0 skipped=0
for name in "$@"; do
  case $name in
    int8) options=(--set model.use_8bit=true) need=12900000000 limit=$((14 << 30)) ;;
    fp16) options=(--precision fp16) need=22300000000 limit=$((22 << 30)) ;;
    *) echo "unknown precision $name" >&2 && exit 2 ;;
  esac
  free=$(awk '/MemAvailable/ {printf "%.0f\n", $2 * 1024}' /proc/meminfo)
  if [ "$free" -lt $((need + (1 << 30))) ]; then
    echo "$name: skipped, $free bytes are free and $((need + (1 << 30))) are needed"
    skipped=$((skipped + 1))
    continue
  fi
  result=build/bench/llama-3.2-11b-vision-$name.json
  "$program" bench --model-type llama-vision --model $folder --set model.pretrained=$pretrained "${options[@]}" --repeats 1 \
    --decode-tokens 16 --json > $result
  python3 - $result $name $limit << 'PYTHON' && passed=$((passed + 1)) || failed=$((failed + 1))
import json, sys
run, limit = json.load(open(sys.argv[1])), int(sys.argv[3])
peak, kept = run["peak_memory_bytes"], run["kept_memory_bytes"] / run["weight_bytes"]
print(f"{sys.argv[2]}: peak {peak / 2**30:.2f} GiB (limit {limit / 2**30:.0f}), weights {run['weight_bytes'] / 1e9:.2f} GB, "
      f"kept after unloading {kept * 100:.1f} % of that (limit 5), "
      f"load {run['load_s']['median']:.1f} s, vision {run['vision_ms_per_tile']['median'] / 1e3:.1f} s per picture, "
      f"prefill {run['prefill_s']['median']:.1f} s, decode {run['decode_tok_per_s']['median']:.2f} tokens/s "
      f"({run['decode_bandwidth_share'] * 100:.0f} % of the memory bandwidth)")
sys.exit(peak > limit or kept > 0.05)
PYTHON
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
