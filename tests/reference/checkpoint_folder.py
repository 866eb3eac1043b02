"""Checkpoint folders: the JSON files of a tiny case, its tokenizer and weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def read_config(folder: Path) -> Config:
    """config.json of a folder."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def write_folder(case: Path, tokenizer: Path, tensors: dict[str, torch.Tensor], target: Path) -> None:
    """A checkpoint folder as it would be downloaded: the JSON files of `case`, the tokenizer, the weights."""
    target.mkdir(parents=True, exist_ok=True)
    for file in [*case.glob("*.json"), tokenizer]:
        shutil.copy(file, target / file.name)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
