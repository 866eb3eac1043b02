#!/usr/bin/env bash
# vlmzoo beside transformers at InternVL2.5-1B's full shape, random weights, in one run. Usage: tests/reference/bench.sh PROGRAM
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/../.."
venv=build/reference-venv
[ -f $venv/ready ] || { echo "run make reference once: it makes $venv" && exit 1; }
folder=build/bench/internvl2_5-1b-hf
mkdir -p build/bench
[ -d $folder ] || "$program" init --preset internvl2_5-1b-hf --tokenizer build/tokenizers/qwen/tokenizer.json --output $folder
printf 'model:\n  pretrained_path: internvl2_5-1b-hf\n' > build/bench/internvl.yaml
exec $venv/bin/python tests/reference/bench_peers.py --checkpoint $folder --vlmzoo "$program" --config build/bench/internvl.yaml --threads 2
