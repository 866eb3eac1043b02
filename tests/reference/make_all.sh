#!/usr/bin/env bash
# Makes every golden again with the pinned reference packages, in build/reference-venv. Slow: some 10 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=build/reference-venv
if [ ! -f $venv/ready ]; then
  python3 -m venv $venv
  $venv/bin/pip install -q --no-deps torch==2.13.0
  $venv/bin/pip install -q -r tests/reference/requirements.txt
  touch $venv/ready
fi
[ -f build/tokenizers/qwen/tokenizer.json ] || tests/reference/fetch_tokenizers.sh build/tokenizers
run() { echo "== $*" && $venv/bin/python "tests/reference/$@"; }
run make_image_goldens.py
run make_tokenizer.py
run make_tokenizer_goldens.py build/tokenizers
run make_head_goldens.py
run check_head_in_pytorch.py
run make_goldens.py tests/goldens/internvl
git diff --stat -- tests/goldens tests/data
