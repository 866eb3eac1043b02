"""Writes the InternVL goldens: one safetensors file per run, and manifest.json. Usage: make_goldens.py OUT [--help]."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import InternVLForConditionalGeneration
from transformers.cache_utils import DynamicCache

from internvl_checkpoint import (
    Config,
    build_tensors,
    is_release,
    read_config,
    reference_model,
    tokens_per_tile,
    write_folder,
)
from internvl_inputs import PromptEncoder, Tiler, load_picture, prompt_pieces, tiles_digest
from internvl_runs import SEEDS, Run, all_runs

DATA = Path(__file__).resolve().parents[1] / "data"
NEW_TOKENS = 12
PIXEL_STEP = 97  # prime to every stride of [T, 3, S, S]
MAX_ROWS = 24
MIN_GAP = 1e-3
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "Pillow", "numpy")


@dataclass
class Case:
    """A tiny checkpoint with its reference model and what prepares its inputs."""

    name: str
    config: Config
    model: InternVLForConditionalGeneration
    tiler: Tiler
    encoder: PromptEncoder

    @property
    def template(self) -> str:
        """Layout B has no key for it: its text models are all used with internvl2_5's."""
        return self.config.get("template", "internvl2_5")

    @property
    def stop_ids(self) -> tuple[int, int]:
        return self.encoder.id_of("<|im_end|>"), self.encoder.id_of("<|endoftext|>")


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


def make_case(name: str, seed: int, tokenizer: Path, keep: Path | None) -> Case:
    """Builds the checkpoint of `name` and loads the reference with it."""
    folder = DATA / "internvl" / name
    config, encoder = read_config(folder), PromptEncoder(tokenizer)
    check_tokenizer(config, encoder)
    tensors = build_tensors(config, seed)
    if keep:
        write_folder(folder, tokenizer, tensors, keep / name)
    model = reference_model(config, tensors, encoder.id_of("<IMG_CONTEXT>"))
    return Case(name, config, model, make_tiler(folder, config), encoder)


def find_picture(images: Path, stem: str) -> Path:
    """The one file of that stem."""
    found = sorted(path for path in images.iterdir() if path.stem == stem)
    if len(found) != 1:
        raise SystemExit(f"{images}: expected one picture called {stem}, found {len(found)}")
    return found[0]


def greedy(case: Case, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[int], float]:
    """From inputs_embeds [1, L, H]: hidden [1, L, H] after the final norm, logits [1, V], ids, smallest top-2 gap."""
    cache, hidden_of_prompt, logits_of_prompt = DynamicCache(), None, None
    ids: list[int] = []
    gap = float("inf")
    while len(ids) < NEW_TOKENS:
        hidden = case.model.model.language_model(inputs_embeds=embeds, past_key_values=cache).last_hidden_state
        logits = case.model.lm_head(hidden[:, -1])
        if logits_of_prompt is None:
            hidden_of_prompt, logits_of_prompt = hidden, logits
        top = logits[0].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
        if ids[-1] in case.stop_ids:
            break
        embeds = case.model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
    return hidden_of_prompt, logits_of_prompt, ids, gap


def record(case: Case, run: Run, images: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], float]:
    """Everything that `vlmzoo trace` records, whole; the picture's digest; the smallest top-2 gap."""
    pictures = [load_picture(find_picture(images, stem)) for stem in run.images]
    tiles = [case.tiler.tiles(picture) for picture in pictures]
    pieces = prompt_pieces(case.template, run.prompt, [len(part) for part in tiles], tokens_per_tile(case.config))
    input_ids = torch.tensor([case.encoder.encode(pieces)])
    embeds = case.model.get_input_embeddings()(input_ids)
    tensors, facts = {"input_ids": input_ids}, {}
    if pictures:
        pixel_values = torch.cat([case.tiler.pixel_values(picture) for picture in pictures])
        features = case.model.get_image_features(pixel_values)
        image_embeds = features.pooler_output.flatten(0, 1)
        mask = (input_ids == case.encoder.id_of("<IMG_CONTEXT>")).unsqueeze(-1)
        embeds = embeds.masked_scatter(mask, image_embeds)
        tensors |= {"pixel_values": pixel_values, "image_embeds": image_embeds}
        tensors |= {"vision_last_hidden_state": features.last_hidden_state}
        facts = {"tiles_sha256": tiles_digest(tiles), "tiles_per_image": ",".join(str(len(part)) for part in tiles)}
    hidden, logits, ids, gap = greedy(case, embeds)
    tensors |= {"last_hidden_state": hidden, "logits": logits, "generated_ids": torch.tensor(ids)}
    return tensors, facts, gap


def row_step(rows: int, period: int) -> int:
    """The smallest step that keeps at most MAX_ROWS rows and shares no factor with `period`, the rows of a tile."""
    step = -(-rows // MAX_ROWS)
    while step > 1 and math.gcd(step, period) > 1:
        step += 1
    return step


def thin(tensors: dict[str, torch.Tensor], tokens: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every k-th row of the large tensors as [rows, width], every 97th pixel value; and metadata that says which."""
    result, facts = dict(tensors), {}
    periods = {"vision_last_hidden_state": 4 * tokens + 1, "image_embeds": tokens, "last_hidden_state": 1}
    for name, period in periods.items():
        if name in tensors:
            rows = tensors[name].flatten(0, -2)
            step = row_step(len(rows), period)
            result[name] = rows[::step].contiguous()
            facts |= {f"row_step.{name}": str(step), f"shape.{name}": ",".join(map(str, tensors[name].shape))}
    if "pixel_values" in tensors:
        result["pixel_values"] = tensors["pixel_values"].flatten()[::PIXEL_STEP].contiguous()
        facts |= {"element_step.pixel_values": str(PIXEL_STEP)}
        facts |= {"shape.pixel_values": ",".join(map(str, tensors["pixel_values"].shape))}
    return result, facts


def versions() -> dict[str, str]:
    """Metadata that names the reference packages."""
    return {f"version.{name}": importlib.metadata.version(name).split("+")[0] for name in PACKAGES}


def save_sorted(tensors: dict[str, torch.Tensor], metadata: dict[str, str], out: Path) -> None:
    """A safetensors file with a sorted header (the library's order of the metadata changes from run to run)."""
    data = save(tensors, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    out.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def write_run(case: Case, run: Run, images: Path, out: Path) -> float:
    """Records `run` into `out`; returns its smallest top-2 gap."""
    tensors, facts, gap = record(case, run, images)
    tensors, thinned = thin(tensors, tokens_per_tile(case.config))
    names = ",".join(find_picture(images, stem).name for stem in run.images)
    metadata = {"case": run.case, "name": run.name, "prompt": run.prompt, "images": names, "template": case.template}
    metadata |= facts | thinned | versions() | {"min_top2_gap": f"{gap:.6f}"}
    save_sorted(tensors, metadata, out)
    return gap


def manifest_of(runs: list[Run], images: Path) -> dict[str, object]:
    """What the C++ tests read: the cases with their seeds, and the runs."""
    entries = []
    for run in runs:
        names = [find_picture(images, stem).name for stem in run.images]
        entries.append(asdict(run) | {"images": names, "file": f"{run.case}-{run.name}.safetensors"})
    cases = {}
    for name, seed in SEEDS.items():
        cases[name] = {"seed": seed, "dtype": read_config(DATA / "internvl" / name)["torch_dtype"]}
    return {"cases": cases, "max_new_tokens": NEW_TOKENS, "runs": entries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the goldens (tests/goldens/internvl)")
    parser.add_argument("--images", type=Path, default=DATA / "images", help="folder of the test pictures")
    parser.add_argument("--tokenizer", type=Path, default=DATA / "tokenizer" / "tokenizer.json")
    parser.add_argument("--keep", type=Path, help="also write the checkpoint folders here (compare with `vlmzoo init`)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = all_runs()
    manifest = json.dumps(manifest_of(runs, arguments.images), indent=1, ensure_ascii=False)
    (arguments.out / "manifest.json").write_text(manifest + "\n", encoding="utf-8")
    worst = float("inf")
    for name, seed in SEEDS.items():
        case = make_case(name, seed, arguments.tokenizer, arguments.keep)
        for run in (run for run in runs if run.case == name):
            gap = write_run(case, run, arguments.images, arguments.out / f"{run.case}-{run.name}.safetensors")
            worst = min(worst, gap)
            print(f"{run.case}-{run.name}: top-2 gap {gap:.4f}")
    print(f"smallest top-2 gap {worst:.6f}")
    if worst < MIN_GAP:
        raise SystemExit(f"a greedy step is a near-tie (below {MIN_GAP}): choose another seed in internvl_runs.py")


if __name__ == "__main__":
    main()
