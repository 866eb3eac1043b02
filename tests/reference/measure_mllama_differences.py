"""How far other implementations are from the reference of the Llama-3.2-Vision goldens, on the tiny models: a table of
docs/llama_vision_reference.md. Run it twice, with transformers 4.45.2 first and then with a current one:

    measure_mllama_differences.py record DIR      # the reference's numbers, checkpoint folders; the row mask left out
    measure_mllama_differences.py compare DIR     # this transformers, with the row mask and without
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import MllamaForConditionalGeneration

from golden_files import DATA, Tensors
from mllama_checkpoint import mask_rows_as_meta
from mllama_runs import SEEDS, all_runs

INPUTS = ("input_ids", "pixel_values", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask")


def open_model(folder: Path) -> MllamaForConditionalGeneration:
    """As anybody would load it, in fp32; no row mask."""
    return MllamaForConditionalGeneration.from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def vision_model(model: MllamaForConditionalGeneration) -> torch.nn.Module:
    """transformers 5 has it one level deeper."""
    return model.vision_model if hasattr(model, "vision_model") else model.model.vision_model


def run(model: MllamaForConditionalGeneration, inputs: Tensors) -> Tensors:
    """Vision states and the logits [1, V] of the prompt's last position."""
    of_pictures = {name: inputs[name] for name in INPUTS if name in inputs and name.startswith(("pixel", "aspect"))}
    return {
        "vision_last_hidden_state": vision_model(model)(**of_pictures).last_hidden_state,
        "logits": model(**inputs, use_cache=False).logits[:, -1],
    }


class Row:
    """One row of the table: differences over all runs."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._most = {"vision_last_hidden_state": 0.0, "logits": 0.0}
        self._scale = dict(self._most)
        self._runs = self._other_tokens = 0

    def add(self, got: Tensors, reference: Tensors) -> None:
        for name, most in self._most.items():
            self._most[name] = max(most, (got[name] - reference[name]).abs().max().item())
            self._scale[name] = max(self._scale[name], reference[name].abs().max().item())
        self._runs += 1
        self._other_tokens += int(got["logits"].argmax() != reference["logits"].argmax())

    def __str__(self) -> str:
        cells = [f"{self._most[name]:.2g} of {self._scale[name]:.2g}" for name in self._most]
        return " | ".join(["| " + self.title, *cells, f"{self._other_tokens} of {self._runs} |"])


def record(folder: Path) -> None:
    """Writes checkpoints and the reference's numbers to `folder`; measures 4.45.2 without the row mask."""
    from make_mllama_goldens import check_versions, open_case

    check_versions()
    row = Row("transformers 4.45.2: row mask left out")
    for name, seed in SEEDS.items():
        case = open_case(DATA / "llama_vision" / name, seed, keep=folder / name)
        as_it_is = open_model(folder / name)
        for item in (item for item in all_runs() if item.case == name and item.images):
            inputs, _ = case.inputs(item, DATA / "images")
            reference = run(case.model, inputs)
            row.add(run(as_it_is, inputs), reference)
            tensors = {key: value.contiguous() for key, value in (inputs | reference).items()}
            save_file(tensors, folder / item.file)
    print(row)


def compare(folder: Path) -> None:
    """Measures this transformers against the recorded numbers."""
    title = f"transformers {transformers.__version__}"
    rows = [Row(f"{title}: with the row mask"), Row(f"{title}: as it is")]
    for name in SEEDS:
        models = [open_model(folder / name), open_model(folder / name)]
        mask_rows_as_meta(models[0])
        for item in (item for item in all_runs() if item.case == name and item.images):
            reference = load_file(folder / item.file)
            inputs = {key: reference[key] for key in INPUTS}
            for row, model in zip(rows, models):
                row.add(run(model, inputs), reference)
    print(*rows, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    (record if arguments.what == "record" else compare)(arguments.folder)


if __name__ == "__main__":
    main()
