"""Loads a model of configs/demo, which `vlmzoo train` wrote, with transformers, and compares what it answers with
`vlmzoo trace --precision fp32`. Every weight has to be taken, every token id equal, every number within 1e-4 of the
largest one of its tensor. InternVL needs transformers 5, Llama-3.2-Vision 4.45.2 (README.md).
Usage: check_demo_models.py internvl|llama_vision --vlmzoo PROGRAM"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from checkpoint_folder import read_config
from golden_files import NEW_TOKENS, Case, Run, Tensors

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
PROMPT = "How many receipts are there?"  # training.prompt's default, with which the demo's models were trained
TOLERANCE = 1e-4


def open_internvl(folder: Path) -> Case:
    """The release's layout, through the names of transformers 5; the demo has no system message."""
    from internvl_checkpoint import reference_model, tensor_shapes
    from internvl_inputs import USABLE
    from make_goldens import InternVLCase, check_tokenizer, make_tiler
    from reference_inputs import PromptEncoder

    config, encoder = read_config(folder), PromptEncoder(folder / "tokenizer.json", USABLE)
    check_tokenizer(config, encoder)
    tensors = load_file(folder / "model.safetensors")
    of_file = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = tensor_shapes(config)
    if wrong := sorted(set(of_file.items()) ^ set(expected.items())):
        raise SystemExit(f"{folder}: tensors that aren't both in the file and in the layout: {wrong}")
    # Strict: what transformers lacks or doesn't know is an error.
    model = reference_model(config, tensors, encoder.id_of("<IMG_CONTEXT>"))
    return InternVLCase(config, model, make_tiler(folder, config), encoder, system=False)


def open_llama_vision(folder: Path) -> Case:
    """transformers' own from_pretrained, with the row mask of Meta's code."""
    from make_mllama_goldens import MllamaCase, check_tokenizer, check_versions, read_stop_ids
    from mllama_checkpoint import mask_rows_as_meta
    from mllama_inputs import MllamaTiler
    from reference_inputs import PromptEncoder
    from transformers import MllamaForConditionalGeneration

    check_versions()
    config, encoder = read_config(folder), PromptEncoder(folder / "tokenizer.json")
    check_tokenizer(config, encoder)
    model, loading = MllamaForConditionalGeneration.from_pretrained(
        folder,
        torch_dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
        output_loading_info=True,
    )
    if any(loading.values()):
        raise SystemExit(f"{folder}: not all weights were taken: {loading}")
    mask_rows_as_meta(model.eval())
    instruct = "chat_template" in json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return MllamaCase(config, model, MllamaTiler(folder), encoder, instruct, read_stop_ids(folder))


OPEN = {"internvl": open_internvl, "llama_vision": open_llama_vision}


def vlmzoo(program: Path, *arguments: str | Path) -> None:
    """Runs the program on one thread."""
    command = [str(argument) for argument in (program, *arguments)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"), check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")


def difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference over the largest value of the reference; of integers 0 or infinity."""
    if ours.numel() != reference.numel():
        return float("inf")
    ours, reference = ours.flatten().double(), reference.flatten().double()
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def compare(ours: Tensors, reference: Tensors) -> float:
    """Largest difference of all numbers; ends the program for one that is too large, and for other token ids."""
    worst = 0.0
    for name, expected in reference.items():
        if name not in ours:
            raise SystemExit(f"{name} isn't in the trace of vlmzoo")
        if not expected.is_floating_point():
            if ours[name].flatten().tolist() != expected.flatten().tolist():
                raise SystemExit(f"{name}: vlmzoo has {ours[name].tolist()}, transformers {expected.tolist()}")
            continue
        value = difference(ours[name], expected)
        if not value <= TOLERANCE:
            raise SystemExit(f"{name}: relative difference {value:.1e}, more than {TOLERANCE:.0e}")
        worst = max(worst, value)
    return worst


def check(case: Case, arguments: argparse.Namespace, work: Path) -> None:
    """Asks both programs about fresh pictures."""
    count, seed = str(arguments.pictures), str(arguments.seed)
    vlmzoo(arguments.vlmzoo, "synth", "receipts", "--count", count, "--seed", seed, "--output", work / "set", "--quiet")
    for picture in sorted((work / "set" / "images").iterdir()):
        run = Run(arguments.model, picture.stem, (picture.stem,), PROMPT)
        reference, _, gap = case.record(run, picture.parent)
        trace = work / f"{picture.stem}.safetensors"
        config = ["--config", arguments.demo / f"{arguments.model}.yaml", "--precision", "fp32", "--quiet"]
        asked = ["--image", picture, "--prompt", PROMPT, "--max-new-tokens", str(NEW_TOKENS), "--output", trace]
        vlmzoo(arguments.vlmzoo, "trace", *config, *asked)
        ours = load_file(trace)
        worst = compare(ours, reference)
        logits = difference(ours["logits"], reference["logits"])
        answer = case.encoder.decode(reference["generated_ids"].tolist())
        print(
            f"{arguments.model} {picture.name}: both say {answer!r} (smallest top-2 gap {gap:.3f}); "
            f"logits differ by {logits:.1e}, the worst of {len(reference)} tensors by {worst:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=OPEN)
    parser.add_argument("--vlmzoo", type=Path, required=True, help="the program")
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of MODEL.yaml and MODEL/")
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20260101, help="of the pictures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    case = OPEN[arguments.model](arguments.demo / arguments.model)
    with tempfile.TemporaryDirectory() as work:
        check(case, arguments, Path(work))


if __name__ == "__main__":
    main()
