#!/usr/bin/env python3
"""Makes tests/goldens/tokenizer_*.json with the Python `tokenizers` library (made with 0.23.3).

    tests/reference/fetch_tokenizers.sh FOLDER
    python tests/reference/make_tokenizer_goldens.py FOLDER

Without FOLDER only the goldens of the small tokenizer (tests/data/tokenizer) are made.

`tokenizer_lines.json` holds text fragments; both sides put the same lines together from them by the integer formula in
`lines()`. For every tokenizer the goldens say how many ids each line has, and per block of lines the SHA-256 of the ids
(decimal, a space after each, a newline after each line) and of the decoded lines (a newline after each).
`tokenizer_variants.json` has the small tokenizer with changes (a JSON merge patch), and whole id lists.
"""

import copy
import hashlib
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

TESTS = Path(__file__).resolve().parent.parent
GOLDENS = TESTS / "goldens"
LINES, BLOCK = 2500, 50

FRAGMENTS = [
    # words, contractions, numbers
    "the", " the", " image", "Hello", " world", " internationalization", "don't", "DON'T", " we'll", "I'M", "it's", "'s", "'S",
    "x'\u017f", "they'Ve", "'d've", "1", "42", "12345", "3.14159", "1,000,000", " 2024", "\u0663\u0664\u0665", "\u00b2", "\u00bd",
    "\u2167", "0x1F", "a1b2", "CamelCaseWord", "snake_case_name", " supercalifragilisticexpialidocious",
    # scripts
    "na\u00efve", " caf\u00e9", "Stra\u00dfe", "\u0130stanbul", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u56fe\u7247\u4e2d\u6709\u4ec0\u4e48\uff1f", "\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a",
    "\u30ab\u30bf\u30ab\u30ca", "\ud55c\uad6d\uc5b4", " \u043f\u0440\u0438\u0432\u0435\u0442", "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1", "\u0645\u0631\u062d\u0628\u0627", " \u05e9\u05dc\u05d5\u05dd", "\u0e44\u0e17\u0e22", "\u0939\u093f\u0928\u094d\u0926\u0940",
    # what NFC changes, and combining marks that it orders or leaves
    "e\u0301", "A\u030a", "\u212b", "\u2126", "o\u0323\u0302", "o\u0302\u0323", "\u0344", "\u0958", "\u1112\u1161\u11ab", "\uac00\u11a8", "\ufb01", "q\u0307\u0323",
    "\u0301", "x\u0336\u0337", "a\u1df8\u0301", "\u0c3c\u0323", "\u1100\u1161\u11a8", "\uf900", "\U0001d15e", "\u2adc", "=\u0338", ">\u0338",
    # emoji, ZWJ sequences, flags, astral letters, letters and numbers new in Unicode 15 and 16
    "\U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f",
    "\U0001d54f", "\U00020bb7", "\U00031350\U000323af", "\U0002ebf0", "\U0001e030", "\U00011f04", "\U0001d2c0", "\U00016d40", "\U0001e5f1",
    # white space and what looks like it
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n  ", " \t \n\n ", "        ", "\u00a0", " \u00a0 ", "\u3000", "\u2003",
    "\u0085", "\u180e", "\u200b", "\u2028", "\u2029", "\u202f", "\u1680", "\ufeff", "\x0b", "\x0c", "\x1c", "\u200d", "\u2060",
    # punctuation, code, addresses
    ".", "...", "!?", " -", "--", "\u2014", "\u201cquoted\u201d", "(", ")]", " {", "};\n", "\"", "``", "\\n", "def f(x):\n    return x\n",
    "#include <vector>\n", "for (int i = 0; i < n; ++i) {", "https://example.org/a/b?c=d&e=%20f#g", "user@example.org",
    "{\"a\": [1, 2, {\"b\": null}]}", "<div class=\"x\">", "$\\frac{1}{2}$", "| a | b |\n|---|---|\n", "+=", "=>", "//", "/* */",
    # control characters, noncharacters, private use
    "\x00", "\x01", "\x7f", "\u00ad", "\ufffd", "\ufffe", "\U0010ffff", "\ue000",
    # added tokens, parts of them, several grown together
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>", "<IMG_CONTEXT><IMG_CONTEXT>",
    "<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<|begin_of_text|>", "<|image|>", "<|eot_id|>",
    "<|start_header_id|>user<|end_header_id|>\n\n", "<tool_call>", "<", "<|", "<|im", "|>", "<im", "<<img>>", "<|<|im_end|>",
    "<IMG_CONTEXT", "</im</img>", "<IMG>",
]


def lines():
    """LINES lines of 1 to 14 fragments, by a linear congruential generator (Knuth's MMIX constants)."""
    state = 20240607
    for _ in range(LINES):
        picks = []
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        for _ in range(1 + (state >> 33) % 14):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            picks.append(FRAGMENTS[(state >> 33) % len(FRAGMENTS)])
        yield "".join(picks)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def goldens(tokenizer):
    counts, id_hashes, text_hashes = [], [], []
    texts = list(lines())
    for begin in range(0, LINES, BLOCK):
        ids = [encode(tokenizer, text) for text in texts[begin:begin + BLOCK]]
        counts += [len(line) for line in ids]
        spelled = "".join("".join(f"{i} " for i in line) + "\n" for line in ids)
        id_hashes.append(hashlib.sha256(spelled.encode()).hexdigest())
        decoded = "".join(tokenizer.decode(line, skip_special_tokens=True) + "\n" for line in ids)
        text_hashes.append(hashlib.sha256(decoded.encode()).hexdigest())
    return {"size": tokenizer.get_vocab_size(), "counts": counts, "ids_sha256": id_hashes, "decoded_sha256": text_hashes}


def merge_patch(target, patch):
    """RFC 7386, as nlohmann's merge_patch."""
    if not isinstance(patch, dict):
        return patch
    target = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def added(content, number, **flags):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    token.update(flags)
    return token


TEXTS = [
    "", " ", "Hello world", "It's 12345 o'clock, isn't it?  \n\n  Yes.\t", "\u4f60\u597d \u4e16\u754c e\u0301 \u212b o\u0302\u0323", "    indented\n\tcode()  ",
    "a<one>b <one> <one>c  <one>  d\u3000<one>\u00a0\n", "<two><two> <two>x x<two> _<two> -<two>- \u24b6<two> \u0301<two> \u200d<two>",
    "caf\u00e9 cafe\u0301 cafe\u0301s ca\u0301fe", "<long<long>><long>>> <lon", "\u212bngstrom \u00c5ngstrom A\u030angstrom", "x <both> y<both>z  <both>\n",
    " <sp> <sp>  <sp>", "the<one>the image<two>The the", "<\u0338one> <one>\u0338 <one>\u0301", "\U0001f469\u200d\U0001f467 \U0001f600\U0001f600",
]


def variants(base):
    """(name, patch) pairs over what a tokenizer.json may say beside the common case."""
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bare = {**gpt2, "use_regex": False}

    def split(regex, last=bare):
        step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [step, last]}

    flagged = [
        added("<one>", 600, lstrip=True, special=True), added("<two>", 601, single_word=True),
        added("<long", 602), added("<long>>", 603), added("<long>", 604), added("<both>", 605, lstrip=True, rstrip=True),
        added("cafe\u0301", 606, normalized=True), added("\u212bngstrom", 607, normalized=True),
        added(" <sp>", 608, rstrip=True), added("the", 609, normalized=True), added("The", base["model"]["vocab"]["The"]),
    ]
    merges = base["model"]["merges"]
    return [
        ("no normalizer", {"normalizer": None}),
        ("NFC in a Sequence", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}),
        ("flags", {"added_tokens": flagged}),
        ("flags, no normalizer", {"added_tokens": flagged, "normalizer": None}),
        ("no added tokens", {"added_tokens": []}),
        ("ByteLevel alone", {"pre_tokenizer": gpt2}),
        ("ByteLevel without a regex", {"pre_tokenizer": bare}),
        ("Llama's regex", {"pre_tokenizer": split(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
            "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")}),
        ("two regexes", {"pre_tokenizer": split("\\p{N}|[a-e]+", gpt2)}),
        ("a regex that matches nothing", {"pre_tokenizer": split("x*")}),
        ("ignore_merges", {"model": {"ignore_merges": True, "merges": [m for m in merges if m != ["Ġthe", "re"]][:40]}}),
        ("merges as lines", {"model": {"merges": [" ".join(merge) for merge in merges]}}),
        ("few merges, one of them twice", {"model": {"merges": merges[:60] + merges[:1]}}),
    ]


def write(name, value):
    GOLDENS.mkdir(exist_ok=True)
    members = [f"{json.dumps(key)}:{json.dumps(member, separators=(',', ':'))}" for key, member in value.items()]
    (GOLDENS / name).write_text("{" + ",\n".join(members) + "}\n", encoding="utf-8")


def main():
    small = TESTS / "data/tokenizer/tokenizer.json"
    write("tokenizer_lines.json", {"lines": LINES, "block": BLOCK, "fragments": FRAGMENTS})
    write("tokenizer_small.json", goldens(Tokenizer.from_file(str(small))))

    base, made = json.loads(small.read_text(encoding="utf-8")), []
    for name, patch in variants(base):
        tokenizer = Tokenizer.from_str(json.dumps(merge_patch(base, patch)))
        ids = [encode(tokenizer, text) for text in TEXTS]
        decoded = [[tokenizer.decode(line, skip_special_tokens=skip) for line in ids] for skip in (False, True)]
        made.append({"name": name, "patch": patch, "ids": ids, "decoded": decoded[0], "decoded_without_special": decoded[1]})
    write("tokenizer_variants.json", {"texts": TEXTS, "variants": made})

    if len(sys.argv) > 1:
        for name in ("qwen", "llama"):
            tokenizer = Tokenizer.from_file(str(Path(sys.argv[1]) / name / "tokenizer.json"))
            write(f"tokenizer_{name}.json", goldens(tokenizer))


if __name__ == "__main__":
    main()
