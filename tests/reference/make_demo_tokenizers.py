#!/usr/bin/env python3
"""Makes the tokenizers of the demo's two models: the layouts of the released ones, with a vocabulary of the demo's words.

Needs the `tokenizers` package (made with 0.23.3); the result is the same every time.

    python tests/reference/make_demo_tokenizers.py
"""

import json
from pathlib import Path

from make_tokenizer import ADDED, LLAMA_ADDED, LLAMA_REGEX, QWEN_REGEX, learn, qwen_config, write
from tokenizers import AddedToken, normalizers, processors

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
WORDS = 314  # entries: 256 bytes and the merges that make every word below one token

TEXT = [
    "How many receipts are there?",
    "there are no receipts",
    "there is one receipt",
    "there are several receipts : two",
    "there are several receipts : three",
    "there are several receipts : four",
    "user\nsystem\nassistant\n",
] * 4


def special(tokenizer, contents):
    tokenizer.add_special_tokens([AddedToken(content, normalized=False, special=True) for content in contents])
    return tokenizer


def main():
    internvl = special(learn(QWEN_REGEX, normalizers.NFC(), WORDS, TEXT), ADDED)
    write(DEMO / "internvl", internvl)
    (DEMO / "internvl" / "tokenizer_config.json").write_text(json.dumps(qwen_config(internvl), indent=2) + "\n")
    llama = special(learn(LLAMA_REGEX, None, WORDS, TEXT), LLAMA_ADDED)
    begin = LLAMA_ADDED[0]
    llama.post_processor = processors.TemplateProcessing(single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1",
                                                         special_tokens=[(begin, llama.token_to_id(begin))])
    write(DEMO / "llama_vision", llama)
    for name, tokenizer in (("internvl", internvl), ("llama_vision", llama)):
        print(name, tokenizer.get_vocab_size(), [tokenizer.encode(line, add_special_tokens=False).tokens for line in TEXT[:4]])


if __name__ == "__main__":
    main()
