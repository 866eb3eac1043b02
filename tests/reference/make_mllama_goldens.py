"""Writes the Llama-3.2-Vision goldens: one safetensors file per run, and manifest.json. Needs transformers 4.45.2.
Usage: make_mllama_goldens.py OUT [--help]."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import MllamaForConditionalGeneration
from transformers.cache_utils import DynamicCache
from transformers.models.mllama.modeling_mllama import _prepare_cross_attention_mask

from checkpoint_folder import Config, read_config, write_folder
from golden_files import DATA, Facts, Goldens, Run, Tensors, greedy, write_all
from mllama_checkpoint import build_tensors, reference_model
from mllama_inputs import MllamaTiler, cross_attention_mask, prompt_pieces
from mllama_runs import SEEDS, all_runs
from reference_inputs import PromptEncoder, find_picture, load_picture, tiles_digest


@dataclass
class MllamaCase:
    """A tiny checkpoint with its reference model and what prepares its inputs."""

    config: Config
    model: MllamaForConditionalGeneration
    tiler: MllamaTiler
    encoder: PromptEncoder
    instruct: bool
    stop_ids: list[int]

    def inputs(self, run: Run, images: Path) -> tuple[Tensors, Facts]:
        """What preprocessing gives: input_ids [1, L]; with pictures also pixel values, aspect ratios and masks."""
        pictures = [load_picture(find_picture(images, stem)) for stem in run.images]
        ids = self.encoder.encode_apart(prompt_pieces(self.instruct, run.prompt, len(pictures)))
        tensors = {"input_ids": torch.tensor([ids])}
        if not pictures:
            return tensors, {}
        of_pictures, tiles = self.tiler.inputs(pictures)
        max_tiles = self.config["vision_config"]["max_num_tiles"]
        mask = cross_attention_mask(ids, self.config["image_token_index"], tiles, max_tiles)
        facts = {"tiles_sha256": tiles_digest(self.tiler.tiles(pictures)), "tiles_per_image": ",".join(map(str, tiles))}
        return tensors | of_pictures | {"cross_attention_mask": mask}, facts

    def encode(self, inputs: Tensors) -> Tensors:
        """vision_last_hidden_state [1, images, M, 1 + patches, output dim] and image_embeds, the same in text width."""
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        states = self.model.vision_model(**{name: inputs[name] for name in names}).last_hidden_state
        return {"vision_last_hidden_state": states, "image_embeds": self.model.multi_modal_projector(states)}

    def greedy(self, inputs: Tensors, features: Tensors) -> tuple[torch.Tensor, torch.Tensor, list[int], float]:
        """See golden_files.greedy; each new position sees what the prompt's last one saw."""
        cache, pictures = DynamicCache(), {}
        mask = rows = None
        if features:
            mask, rows = _prepare_cross_attention_mask(
                inputs["cross_attention_mask"], self.model.vision_model.num_patches, torch.float32
            )
            pictures = {"cross_attention_states": features["image_embeds"].flatten(0, 2)}

        def step(token: int | None) -> tuple[torch.Tensor, torch.Tensor]:
            first = token is None
            seen = slice(None) if first else slice(-1, None)
            hidden = self.model.language_model.model(
                input_ids=inputs["input_ids"] if first else torch.tensor([[token]]),
                cross_attention_mask=None if mask is None else mask[:, :, seen],
                full_text_row_masked_out_mask=None if rows is None else rows[:, :, seen],
                past_key_values=cache,
                use_cache=True,
                **(pictures if first else {}),
            ).last_hidden_state
            return hidden, self.model.language_model.lm_head(hidden[:, -1])

        return greedy(step, self.stop_ids)

    def record(self, run: Run, images: Path) -> tuple[Tensors, Facts, float]:
        """Everything that `vlmzoo trace` records, whole; facts about it; the smallest top-2 gap."""
        inputs, facts = self.inputs(run, images)
        features = self.encode(inputs) if run.images else {}
        hidden, logits, ids, gap = self.greedy(inputs, features)
        answer = {"last_hidden_state": hidden, "logits": logits, "generated_ids": torch.tensor(ids)}
        return inputs | features | answer, facts, gap

    def periods(self) -> dict[str, int]:
        """Rows of a tile."""
        positions = self.model.vision_model.num_patches
        return {"vision_last_hidden_state": positions, "image_embeds": positions, "last_hidden_state": 1}


def check_versions() -> None:
    """Stops under any other transformers: its numbers would differ without a word."""
    if transformers.__version__ != "4.45.2":
        raise SystemExit(f"transformers is {transformers.__version__}; the goldens come from 4.45.2 (README.md)")


def check_tokenizer(config: Config, encoder: PromptEncoder) -> None:
    """Stops when config.json and the tokenizer don't belong together."""
    rows, image_token = config["text_config"]["vocab_size"], encoder.id_of("<|image|>")
    if not rows == image_token == config["image_token_index"] == encoder.vocab_size - 1:
        raise SystemExit(f"vocab_size is {rows}, but <|image|> is {image_token} of {encoder.vocab_size} tokens")


def read_stop_ids(folder: Path) -> list[int]:
    """eos_token_id of generation_config.json, a number or a list."""
    stops = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return stops if isinstance(stops, list) else [stops]


def open_case(folder: Path, seed: int, keep: Path | None) -> MllamaCase:
    """Builds the checkpoint of `folder` and loads the reference with it."""
    tokenizer = folder / "tokenizer.json"
    config, encoder = read_config(folder), PromptEncoder(tokenizer)
    check_tokenizer(config, encoder)
    tensors = build_tensors(config, seed)
    if keep:
        write_folder(folder, tokenizer, tensors, keep)
    instruct = "chat_template" in json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    model = reference_model(config, tensors)
    return MllamaCase(config, model, MllamaTiler(folder), encoder, instruct, read_stop_ids(folder))


if __name__ == "__main__":
    check_versions()
    write_all(Goldens(DATA / "llama_vision", SEEDS, all_runs(), max_rows=8, open_case=open_case), __doc__)
