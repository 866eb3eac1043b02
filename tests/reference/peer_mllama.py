"""transformers 4.45.2 on a copy of Llama-3.2-11B-Vision-Instruct that is cut in depth, for bench_peers.py: all widths
as released, but 8 of 32 local and 2 of 8 global vision layers, and 5 of 40 text layers, of which one looks at the
picture (released: one in five too). In fp32 that is 10 GB; the whole would be 43 GB.

    peer_mllama.py DIR      # writes its config.json and preprocessor_config.json, for `vlmzoo init --config-json`
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.cache_utils import DynamicCache

PRESETS = Path(__file__).resolve().parents[2] / "plugins" / "llama_vision" / "presets"
PRESET = "llama-3.2-11b-vision-instruct"
VISION = {"num_hidden_layers": 8, "num_global_layers": 2, "intermediate_layers_indices": [0, 2, 4, 5, 7]}
TEXT = {"num_hidden_layers": 5, "cross_attention_layers": [3]}


def reduced_config() -> dict[str, Any]:
    """config.json of the copy."""
    config = json.loads((PRESETS / f"{PRESET}.json").read_text(encoding="utf-8"))
    config["vision_config"] |= VISION
    config["text_config"] |= TEXT
    return config


def write_config(folder: Path) -> None:
    """The JSON files that `vlmzoo init` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(reduced_config(), indent=2) + "\n", encoding="utf-8")
    shutil.copy(PRESETS / f"{PRESET}-preprocessor.json", folder / "preprocessor_config.json")


def write_random_checkpoint(folder: Path) -> None:
    """The copy's shape with random weights in bf16, as save_pretrained writes it."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    MllamaForConditionalGeneration(MllamaConfig(**reduced_config())).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)


class Peer:
    """One picture of one tile (all four places are computed, as always), seen by all of the prompt after its token."""

    def __init__(self, folder: Path, dtype: str) -> None:
        """Parameters in `dtype`; RoPE frequencies stay fp32 (checked)."""
        self.model = MllamaForConditionalGeneration.from_pretrained(
            folder, torch_dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
        ).eval()
        if self.model.language_model.model.rotary_emb.inv_freq.dtype != torch.float32:
            raise SystemExit("RoPE frequencies were cast: the peer would be measured with other numbers")
        vision = self.model.config.vision_config
        tiles, size = vision.max_num_tiles, vision.image_size
        self._pixel_values = torch.zeros(1, 1, tiles, 3, size, size, dtype=self.model.dtype)
        self._pixel_values[0, 0, 0] = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
        self._tiles = torch.zeros(1, 1, tiles, dtype=torch.long)
        self._tiles[..., 0] = 1

    def encode(self) -> Any:
        """Vision tower and projector."""
        states = self.model.vision_model(
            pixel_values=self._pixel_values,
            aspect_ratio_ids=torch.ones(1, 1, dtype=torch.long),
            aspect_ratio_mask=self._tiles,
        ).last_hidden_state
        return self.model.multi_modal_projector(states).flatten(0, 2)

    def prefill(self, cross_attention_states: Any, tokens: int) -> tuple[Any, Any]:
        """Logits and cache of a prompt of `tokens` positions, the second of which is the picture's."""
        text = self.model.config.text_config
        ids = torch.arange(1000, 1000 + tokens).unsqueeze(0) % text.vocab_size
        ids[0, 0], ids[0, 1] = text.bos_token_id, self.model.config.image_token_index
        self._mask = self._tiles.unsqueeze(1).repeat(1, tokens, 1, 1)
        self._mask[:, 0] = 0
        cache = DynamicCache()
        logits = self.model(
            input_ids=ids,
            cross_attention_states=cross_attention_states,
            cross_attention_mask=self._mask,
            past_key_values=cache,
            num_logits_to_keep=1,
        ).logits
        return logits, cache

    def step(self, token: Any, cache: Any) -> Any:
        """Logits of one more position, which sees what the prompt's last one saw."""
        return self.model(
            input_ids=token, cross_attention_mask=self._mask[:, -1:], past_key_values=cache, num_logits_to_keep=1
        ).logits


if __name__ == "__main__":
    write_config(Path(sys.argv[1]))
