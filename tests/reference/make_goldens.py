"""Writes the InternVL goldens: one safetensors file per run, and manifest.json. Usage: make_goldens.py OUT [--help]."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import InternVLForConditionalGeneration
from transformers.cache_utils import DynamicCache

from checkpoint_folder import Config, read_config, write_folder
from golden_files import DATA, Facts, Goldens, Run, Tensors, greedy, write_all
from internvl_checkpoint import build_tensors, is_release, reference_model, tokens_per_tile
from internvl_inputs import USABLE, Tiler, prompt_pieces
from internvl_runs import SEEDS, all_runs
from reference_inputs import PromptEncoder, find_picture, load_picture, tiles_digest

TOKENIZER = DATA / "tokenizer" / "tokenizer.json"


@dataclass
class InternVLCase:
    """A tiny checkpoint with its reference model and what prepares its inputs."""

    config: Config
    model: InternVLForConditionalGeneration
    tiler: Tiler
    encoder: PromptEncoder
    system: bool = True  # the template's system message

    def record(self, run: Run, images: Path) -> tuple[Tensors, Facts, float]:
        """Everything that `vlmzoo trace` records, whole; facts about it; the smallest top-2 gap."""
        pictures = [load_picture(find_picture(images, stem)) for stem in run.images]
        tiles = [self.tiler.tiles(picture) for picture in pictures]
        # Layout B has no key for the template: its text models are all used with internvl2_5's.
        template = self.config.get("template", "internvl2_5")
        counts = [len(part) for part in tiles]
        pieces = prompt_pieces(template, run.prompt, counts, tokens_per_tile(self.config), self.system)
        input_ids = torch.tensor([self.encoder.encode(pieces)])
        embeds = self.model.get_input_embeddings()(input_ids)
        tensors, facts = {"input_ids": input_ids}, {"template": template}
        if pictures:
            pixel_values = torch.cat([self.tiler.pixel_values(picture) for picture in pictures])
            features = self.model.get_image_features(pixel_values)
            image_embeds = features.pooler_output.flatten(0, 1)
            mask = (input_ids == self.encoder.id_of("<IMG_CONTEXT>")).unsqueeze(-1)
            embeds = embeds.masked_scatter(mask, image_embeds)
            tensors |= {"pixel_values": pixel_values, "image_embeds": image_embeds}
            tensors |= {"vision_last_hidden_state": features.last_hidden_state}
            facts |= {
                "tiles_sha256": tiles_digest(tiles),
                "tiles_per_image": ",".join(str(len(part)) for part in tiles),
            }
        hidden, logits, ids, gap = self._greedy(embeds)
        tensors |= {"last_hidden_state": hidden, "logits": logits, "generated_ids": torch.tensor(ids)}
        return tensors, facts, gap

    def periods(self) -> dict[str, int]:
        """Rows of a tile."""
        tokens = tokens_per_tile(self.config)
        return {"vision_last_hidden_state": 4 * tokens + 1, "image_embeds": tokens, "last_hidden_state": 1}

    def _greedy(self, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[int], float]:
        cache = DynamicCache()

        def step(token: int | None) -> tuple[torch.Tensor, torch.Tensor]:
            inputs = embeds if token is None else self.model.get_input_embeddings()(torch.tensor([[token]]))
            hidden = self.model.model.language_model(inputs_embeds=inputs, past_key_values=cache).last_hidden_state
            return hidden, self.model.lm_head(hidden[:, -1])

        return greedy(step, (self.encoder.id_of("<|im_end|>"), self.encoder.id_of("<|endoftext|>")))


def make_tiler(folder: Path, config: Config) -> Tiler:
    """The limits of the grid come from config.json (layout A) or preprocessor_config.json (layout B)."""
    spec = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    mean, std = spec["image_mean"], spec["image_std"]
    if is_release(config):
        limits = (config["force_image_size"], config["min_dynamic_patch"], config["max_dynamic_patch"])
    else:
        limits = (spec["size"]["height"], spec["min_patches"], spec["max_patches"])
    return Tiler(*limits, mean, std)


def check_tokenizer(config: Config, encoder: PromptEncoder) -> None:
    """Stops when config.json and the tokenizer don't belong together."""
    text = config.get("llm_config") or config["text_config"]
    if text["vocab_size"] != encoder.vocab_size:
        raise SystemExit(f"vocab_size is {text['vocab_size']}, but the tokenizer has {encoder.vocab_size} tokens")
    image_token = encoder.id_of("<IMG_CONTEXT>")
    if config.get("image_token_id", image_token) != image_token:
        raise SystemExit(f"image_token_id is {config['image_token_id']}, but <IMG_CONTEXT> is {image_token}")


def open_case(folder: Path, seed: int, keep: Path | None) -> InternVLCase:
    """Builds the checkpoint of `folder` and loads the reference with it."""
    config, encoder = read_config(folder), PromptEncoder(TOKENIZER, USABLE)
    check_tokenizer(config, encoder)
    tensors = build_tensors(config, seed)
    if keep:
        write_folder(folder, TOKENIZER, tensors, keep)
    model = reference_model(config, tensors, encoder.id_of("<IMG_CONTEXT>"))
    return InternVLCase(config, model, make_tiler(folder, config), encoder)


if __name__ == "__main__":
    write_all(Goldens(DATA / "internvl", SEEDS, all_runs(), max_rows=24, open_case=open_case), __doc__)
