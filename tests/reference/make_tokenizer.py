#!/usr/bin/env python3
"""Makes the two small byte-level BPE tokenizers of the tiny test checkpoints, learned from the text below.

tests/data/tokenizer: as InternVL's checkpoints have it. Qwen's regex and NFC, 600 vocabulary entries (256 bytes and 344
merges), then InternVL's added tokens.
tests/data/tokenizer_llama: as Llama-3.2-Vision's have it. Llama's regex, no normaliser, 600 entries of which the last 8
are words that no merges lead to (`ignore_merges` takes them all the same), then Llama's special tokens: <|image|> is the
last and has the id that is `vocab_size` in config.json.

Needs the `tokenizers` package (made with 0.23.3); the result is the same every time.

    python tests/reference/make_tokenizer.py
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(__file__).resolve().parent.parent / "data"

QWEN_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_REGEX = QWEN_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>",
         "</ref>", "<box>", "</box>"]
LLAMA_ADDED = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
               "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
               "<|eot_id|>", "<|python_tag|>", *[f"<|reserved_special_token_{i}|>" for i in range(2, 7)], "<|image|>"]
WHOLE_WORDS = [" receipts", " receipt", " counted", " invoice", " several", " paper", " first", "receipts"]

TEXT = [
    "The picture shows a small red house beside the river, and the river runs behind the hills.",
    "What is in the image? The image shows three people who are standing in front of the station.",
    "Please describe the image in detail. Please answer with a single word or a short phrase.",
    "There are two cats on the table; the black cat is sleeping and the white cat is watching it.",
    "I don't think that's right: they've said it isn't, we'll see, I'm sure you're certain she'd agree.",
    "user\nYou are a helpful assistant.\nassistant\nYes, there is a person with a bicycle in the picture.",
    "Is this an X-ray of the chest? No, this is a photograph of a building with many windows.",
    "A: yes\nB: no\nC: unknown\nAnswer with the letter of the right choice from the given choices directly.",
    "The temperature was 25 degrees in 2024, 18 degrees in 2023 and 21 degrees in 2022.",
    "请描述这张图片。图片中有一只猫和一只狗，它们在草地上。这张图片里有什么？图片里有三个人。",
    "你是一个有用的助手。请用中文回答问题。图中的文字是什么？图中的文字是“出口”。",
    "これは写真です。写真の中に猫がいます。日本語で答えてください。",
    "이 사진에는 고양이가 있습니다. 한국어로 대답해 주세요.",
    "def area(width, height):\n    return width * height\n\n\ndef main():\n    print(area(3, 4))\n",
    "for (int i = 0; i < count; ++i) {\n    total += values[i];\n}\nreturn total;\n",
    "{\"label\": \"cat\", \"score\": 0.97, \"box\": [12, 34, 56, 78]}",
    "https://www.example.org/images/photo.jpg and https://www.example.org/images/other.png",
    "😀 😀 😂 👍 👍 ❤️ 👩‍👩‍👧 🎉 🎉 great! great! 😀 thanks 👍",
    "Où est le café ? Le café est à côté de l'hôtel. Très bien, merci. El niño está en la montaña.",
    "Das Bild zeigt eine Straße mit Bäumen. Привет, как дела? На картинке изображена собака.",
    "The dog is standing in the garden next to the house, and the man with the hat is looking at the other dog.",
    "What color is the car? The color of the car is blue. How many people are there in the picture? There are three.",
    "A photograph of a woman holding an umbrella while walking down the street in the rain.",
    "In the left image there is a tree, in the right image there is none; describe the difference between them.",
    "The report describes a small change in the lower left part; no other changes were found in this region.",
    "You should answer the question using the text in the image. What does the sign say? The sign says stop.",
    "这张照片显示了一个人在街上。照片里的人在做什么？他在看书。这是什么颜色的？这是红色的。",
    "写真には何が写っていますか。写真には木と家が写っています。",
    "if (image.empty()) {\n    return false;\n}\nfor (const auto& value : values) {\n    total += value;\n}\n",
    "مرحبا، ما هذا؟ هذه صورة. שלום, מה זה? זו תמונה.",
]


def learn(regex, normalizer, size, text=TEXT):
    """A tokenizer of `size` entries: 256 bytes and size - 256 merges."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text, trainer)
    assert tokenizer.get_vocab_size() == size, tokenizer.get_vocab_size()
    return tokenizer


def with_whole_words(tokenizer, words):
    """The tokenizer with `ignore_merges` and `words` as further entries, which no merges lead to."""
    spec = json.loads(tokenizer.to_str())
    for word in words:
        spelled = word.replace(" ", "\u0120")
        assert spelled not in spec["model"]["vocab"], word
        spec["model"]["vocab"][spelled] = len(spec["model"]["vocab"])
    spec["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(spec))


def qwen():
    tokenizer = learn(QWEN_REGEX, normalizers.NFC(), 600)
    tokenizer.add_special_tokens([AddedToken(content, normalized=False, special=True) for content in ADDED])
    return tokenizer


def llama():
    tokenizer = with_whole_words(learn(LLAMA_REGEX, None, 600 - len(WHOLE_WORDS)), WHOLE_WORDS)
    tokenizer.add_special_tokens([AddedToken(content, normalized=False, special=True) for content in LLAMA_ADDED])
    begin = LLAMA_ADDED[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1",
                                      special_tokens=[(begin, tokenizer.token_to_id(begin))]),
    ])
    return tokenizer


def write(folder, tokenizer):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")


def qwen_config(tokenizer):
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 8192,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "unk_token": None,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(content)): {
                "content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            } for content in ADDED
        },
    }


def main():
    tokenizer = qwen()
    write(DATA / "tokenizer", tokenizer)
    config = json.dumps(qwen_config(tokenizer), indent=2, ensure_ascii=False)
    (DATA / "tokenizer" / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    write(DATA / "tokenizer_llama", llama())


if __name__ == "__main__":
    main()
