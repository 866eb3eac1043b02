"""transformers 5 on the shape of InternVL2.5-1B, for bench_peers.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.cache_utils import DynamicCache

PRESET = Path(__file__).resolve().parents[2] / "plugins" / "internvl" / "presets" / "internvl2_5-1b-hf.json"


def write_random_checkpoint(folder: Path) -> None:
    """The preset's shape with random weights in bf16, as save_pretrained writes it."""
    config = InternVLConfig(**json.loads(PRESET.read_text(encoding="utf-8")))
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(folder)


class Peer:
    """One picture of one tile, and a prompt that holds its image tokens."""

    def __init__(self, folder: Path, dtype: str) -> None:
        """Parameters in `dtype`; RoPE frequencies stay fp32 (checked)."""
        self.model = InternVLForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
        ).eval()
        if self.model.model.language_model.rotary_emb.inv_freq.dtype != torch.float32:
            raise SystemExit("RoPE frequencies were cast: the peer would be measured with other numbers")
        size = self.model.config.vision_config.image_size[0]
        picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        self._pixel_values = picture.to(self.model.dtype)

    def encode(self) -> Any:
        """Vision tower and connector."""
        return self.model.get_image_features(self._pixel_values).pooler_output

    def prefill(self, image_embeds: Any, tokens: int) -> tuple[Any, Any]:
        """Logits and cache of a prompt of `tokens` positions: one tile's image tokens and text."""
        of_image = image_embeds.shape[1]
        ids = torch.arange(1000, 1000 + tokens).unsqueeze(0) % self.model.config.text_config.vocab_size
        embeds = self.model.get_input_embeddings()(ids)
        start = (tokens - of_image) // 2
        embeds[:, start : start + of_image] = image_embeds
        cache = DynamicCache(config=self.model.config.text_config)
        return self.model(inputs_embeds=embeds, past_key_values=cache, logits_to_keep=1).logits, cache

    def step(self, token: Any, cache: Any) -> Any:
        """Logits of one more position."""
        return self.model(input_ids=token, past_key_values=cache, logits_to_keep=1).logits
