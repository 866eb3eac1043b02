"""Pictures and token ids, the same way for both models."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer

IMAGE_MARK = "<image>"
Piece = tuple[str, bool]  # text, typed by the user


def find_picture(images: Path, stem: str) -> Path:
    """The one file of that stem."""
    found = sorted(path for path in images.iterdir() if path.stem == stem)
    if len(found) != 1:
        raise SystemExit(f"{images}: expected one picture called {stem}, found {len(found)}")
    return found[0]


def load_picture(path: Path) -> Image.Image:
    """The picture as RGB, turned as its EXIF data says."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def tiles_digest(tiles: list[np.ndarray]) -> str:
    """SHA-256 of the uint8 tiles [T, S, S, 3] of all pictures, one after another."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in tiles)).hexdigest()


class PromptEncoder:
    """Token ids of template and question: control tokens of the template and `usable` ones of the user are special, all
    else is text."""

    def __init__(self, tokenizer_json: Path, usable: tuple[str, ...] = ()) -> None:
        spec = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        self._special = {token["content"]: token["id"] for token in spec["added_tokens"]}
        plain = dict(spec, added_tokens=[], post_processor=None)  # which may name an added token
        self._plain = Tokenizer.from_str(json.dumps(plain))
        self._usable = usable
        self._whole = Tokenizer.from_file(str(tokenizer_json))
        self.vocab_size = self._whole.get_vocab_size()

    def id_of(self, token: str) -> int:
        """Id of an added token."""
        return self._special[token]

    def encode(self, pieces: list[Piece]) -> list[int]:
        """Plain text on both sides of a border meets before BPE."""
        ids: list[int] = []
        text = ""
        for part, special in self._split(pieces):
            if special:
                ids += [*self._encode_plain(text), self._special[part]]
                text = ""
            else:
                text += part
        return ids + self._encode_plain(text)

    def encode_apart(self, pieces: list[Piece]) -> list[int]:
        """Every piece by itself."""
        return [token for piece in pieces for token in self.encode([piece])]

    def decode(self, ids: list[int]) -> str:
        """Text of ids, without special tokens."""
        return self._whole.decode(ids)

    def _split(self, pieces: list[Piece]) -> list[tuple[str, bool]]:
        parts: list[tuple[str, bool]] = []
        for text, user in pieces:
            tokens = self._usable if user else tuple(self._special)
            if not tokens:
                parts.append((text, False))
                continue
            pattern = "(" + "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) + ")"
            parts += [(part, i % 2 == 1) for i, part in enumerate(re.split(pattern, text))]
        return parts

    def _encode_plain(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids if text else []
