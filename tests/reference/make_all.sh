#!/usr/bin/env bash
# Makes every golden again with the pinned reference packages, in two virtual environments below build/: transformers 5
# for InternVL and all that both models share, 4.45.2 for Llama-3.2-Vision. Slow: some 10 minutes. Then compares the demo's
# models with them. Usage: tests/reference/make_all.sh PROGRAM
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/../.."
venv=$(tests/reference/venv.sh internvl)
mllama=$(tests/reference/venv.sh llama-vision)
[ -f build/tokenizers/qwen/tokenizer.json ] || tests/reference/fetch_tokenizers.sh build/tokenizers
run() { echo "== $*" && $venv/bin/python "tests/reference/$@"; }
run_mllama() { echo "== $*" && $mllama/bin/python "tests/reference/$@"; }
run make_image_goldens.py
run make_tokenizer.py
run make_tokenizer_goldens.py build/tokenizers
run make_head_goldens.py
run check_head_in_pytorch.py
run make_metrics_goldens.py
run make_comparison_goldens.py
run make_training_goldens.py
run make_goldens.py tests/goldens/internvl
run_mllama check_mllama_against_meta.py
run_mllama make_mllama_goldens.py tests/goldens/llama_vision
run_mllama make_mllama_canvas_goldens.py tests/goldens/llama_vision
# The table of docs/llama_vision_reference.md.
run_mllama measure_mllama_differences.py record build/mllama-differences
run measure_mllama_differences.py compare build/mllama-differences
run check_demo_models.py internvl --vlmzoo "$program"
run_mllama check_demo_models.py llama_vision --vlmzoo "$program"
git diff --stat -- tests/goldens tests/data
