"""What the goldens of both models share: runs, greedy decoding, what is kept of a recorded run, files and manifest."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save

from checkpoint_folder import read_config
from reference_inputs import PromptEncoder, find_picture

DATA = Path(__file__).resolve().parents[1] / "data"
NEW_TOKENS = 12
PIXEL_STEP = 97  # prime to every stride of [T, 3, S, S]
MIN_GAP = 1e-3
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "Pillow", "numpy")
Tensors = dict[str, torch.Tensor]
Facts = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One run of one case. `images` are stems of files in tests/data/images."""

    case: str
    name: str
    images: tuple[str, ...]
    prompt: str

    @property
    def file(self) -> str:
        return f"{self.case}-{self.name}.safetensors"


class Case(Protocol):
    """A tiny checkpoint with its reference model and what prepares its inputs."""

    encoder: PromptEncoder

    def record(self, run: Run, images: Path) -> tuple[Tensors, Facts, float]:
        """Everything that `vlmzoo trace` records, whole; facts about it; the smallest top-2 gap."""

    def periods(self) -> dict[str, int]:
        """The tensors of which rows are kept, each with the rows after which its positions repeat."""


@dataclass(frozen=True)
class Goldens:
    """All goldens of one model. `open_case` gets the case's folder, its seed and the folder of `--keep`, if any."""

    data: Path
    seeds: Mapping[str, int]
    runs: list[Run]
    max_rows: int
    open_case: Callable[[Path, int, Path | None], Case]


def greedy(
    step: Callable[[int | None], tuple[torch.Tensor, torch.Tensor]], stop_ids: Iterable[int]
) -> tuple[torch.Tensor, torch.Tensor, list[int], float]:
    """hidden [1, L, H] after the final norm and logits [1, V] of the prompt, ids, smallest top-2 gap.
    `step(None)` computes the prompt, `step(id)` one more position."""
    hidden, prompt_logits = step(None)
    logits, ids, gap = prompt_logits, [], float("inf")
    while True:
        top = logits[0].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
        if len(ids) == NEW_TOKENS or ids[-1] in stop_ids:
            return hidden, prompt_logits, ids, gap
        logits = step(ids[-1])[1]


def row_step(rows: int, period: int, max_rows: int) -> int:
    """The smallest step that keeps at most `max_rows` rows and shares no factor with `period`, the rows of a tile."""
    step = -(-rows // max_rows)
    while step > 1 and math.gcd(step, period) > 1:
        step += 1
    return step


def thin(tensors: Tensors, periods: Mapping[str, int], max_rows: int) -> tuple[Tensors, Facts]:
    """Every k-th row of the large tensors as [rows, width], every 97th pixel value; and metadata that says which."""
    result, facts = dict(tensors), {}
    for name, period in periods.items():
        if name in tensors:
            rows = tensors[name].flatten(0, -2)
            step = row_step(len(rows), period, max_rows)
            result[name] = rows[::step].contiguous()
            facts |= {f"row_step.{name}": str(step), f"shape.{name}": ",".join(map(str, tensors[name].shape))}
    if "pixel_values" in tensors:
        result["pixel_values"] = tensors["pixel_values"].flatten()[::PIXEL_STEP].contiguous()
        facts |= {"element_step.pixel_values": str(PIXEL_STEP)}
        facts |= {"shape.pixel_values": ",".join(map(str, tensors["pixel_values"].shape))}
    return result, facts


def versions() -> Facts:
    """Metadata that names the reference packages."""
    return {f"version.{name}": importlib.metadata.version(name).split("+")[0] for name in PACKAGES}


def save_sorted(tensors: Tensors, metadata: Facts, out: Path) -> None:
    """A safetensors file with a sorted header (the library's order of the metadata changes from run to run)."""
    data = save(tensors, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    out.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def write_run(case: Case, run: Run, images: Path, max_rows: int, out: Path) -> float:
    """Records `run` into `out`; returns its smallest top-2 gap."""
    tensors, facts, gap = case.record(run, images)
    tensors, thinned = thin(tensors, case.periods(), max_rows)
    names = ",".join(find_picture(images, stem).name for stem in run.images)
    metadata = {"case": run.case, "name": run.name, "prompt": run.prompt, "images": names}
    metadata |= facts | thinned | versions() | {"min_top2_gap": f"{gap:.6f}"}
    save_sorted(tensors, metadata, out)
    return gap


def manifest_of(goldens: Goldens, images: Path) -> dict[str, object]:
    """What the C++ tests read: the cases with their seeds, and the runs."""
    entries = []
    for run in goldens.runs:
        names = [find_picture(images, stem).name for stem in run.images]
        entries.append(asdict(run) | {"images": names, "file": run.file})
    cases = {}
    for name, seed in goldens.seeds.items():
        cases[name] = {"seed": seed, "dtype": read_config(goldens.data / name)["torch_dtype"]}
    return {"cases": cases, "max_new_tokens": NEW_TOKENS, "runs": entries}


def write_all(goldens: Goldens, description: str) -> None:
    """The whole program: parses the command line and writes every golden and manifest.json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help="folder for the goldens, below tests/goldens")
    parser.add_argument("--images", type=Path, default=DATA / "images", help="folder of the test pictures")
    parser.add_argument("--keep", type=Path, help="also write the checkpoint folders here (compare with `vlmzoo init`)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    manifest = json.dumps(manifest_of(goldens, arguments.images), indent=1, ensure_ascii=False)
    (arguments.out / "manifest.json").write_text(manifest + "\n", encoding="utf-8")
    worst = float("inf")
    for name, seed in goldens.seeds.items():
        case = goldens.open_case(goldens.data / name, seed, arguments.keep and arguments.keep / name)
        for run in (run for run in goldens.runs if run.case == name):
            gap = write_run(case, run, arguments.images, goldens.max_rows, arguments.out / run.file)
            worst = min(worst, gap)
            print(f"{run.case}-{run.name}: top-2 gap {gap:.4f}")
    print(f"smallest top-2 gap {worst:.6f}")
    if worst < MIN_GAP:
        raise SystemExit(f"a greedy step is a near-tie (below {MIN_GAP}): choose another seed in the file of the runs")
