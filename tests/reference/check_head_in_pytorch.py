"""Runs the PyTorch module of docs/heads.md against tests/goldens/heads.json, through head files written here.
Usage: check_head_in_pytorch.py"""

import json
import re
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import head_formula as formula

ROOT = Path(__file__).parents[2]


def documented():
    """The names that the code block of docs/heads.md defines."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "heads.md").read_text(), re.DOTALL)
    if len(blocks) != 1:
        sys.exit(f"docs/heads.md has {len(blocks)} Python blocks; expected 1")
    names = {}
    exec(compile(blocks[0], "docs/heads.md", "exec"), names)
    return names


def write_head(path, activation="gelu", batch_norm=True, variant=("mlp", "vision", "model")):
    classifier = {
        "hidden_dims": formula.HIDDEN_DIMS,
        "dropout_rates": formula.DROPOUT_RATES,
        "batch_norm": batch_norm,
        "activation": activation,
        **dict(zip(["type", "features", "pooling"], variant)),
    }
    if classifier["type"] == "linear":
        classifier |= {"hidden_dims": [], "dropout_rates": []}
    metadata = {
        "vlmzoo_head": "1",
        "model_type": "toy",
        "num_features": str(formula.NUM_FEATURES),
        "text_hidden_size": str(formula.TEXT_HIDDEN_SIZE),
        "class_names": json.dumps(formula.CLASS_NAMES),
        "classifier": json.dumps(classifier),
        "created_by": "check_head_in_pytorch.py",
    }
    save_file(formula.tensors(batch_norm, *variant), path, metadata)


def relative_error(got, expected):
    expected = torch.tensor(expected)
    return ((got.flatten() - expected).abs().max() / expected.abs().max()).item()


def main():
    docs = documented()
    goldens = json.loads((ROOT / "tests" / "goldens" / "heads.json").read_text())
    hidden, valid = formula.features()
    pooled = docs["mean_pool"](docs["valid_tokens"](hidden, formula.TILES_PER_IMAGE, valid))
    worst = relative_error(pooled, goldens["pooled"])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "head.safetensors"
        for case in goldens["cases"]:
            write_head(path, case["activation"], case["batch_norm"])
            logits, embeddings = docs["load_head"](path)(pooled)
            worst = max(worst, relative_error(logits, case["logits"]), relative_error(embeddings, case["embeddings"]))
        for case in goldens["variants"]:
            write_head(path, variant=(case["type"], case["features"], case["pooling"]))
            head = docs["load_head"](path)
            if case["features"] == "multimodal":
                logits, embeddings = head(formula.multimodal_embeddings())
            else:
                tokens = docs["valid_tokens"](hidden, formula.TILES_PER_IMAGE, valid)
                logits, embeddings = head(head.pool(tokens, formula.pooler_output()))
            worst = max(worst, relative_error(logits, case["logits"]), relative_error(embeddings, case["embeddings"]))
    print(f"{len(goldens['cases']) + len(goldens['variants'])} heads of docs/heads.md in PyTorch: largest relative difference {worst:.1e}")
    if not worst < 1e-5:
        sys.exit("more than 1e-5: docs/heads.md and the goldens disagree")


if __name__ == "__main__":
    main()
