"""Writes tests/goldens/training.json from PyTorch and transformers. Usage: make_training_goldens.py [OUTPUT]"""

import json
import math
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
import transformers
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from head_formula import value

STEPS = 12


def formula(stream, shape, scale=1.0):
    data = [scale * value(stream, i) for i in range(math.prod(shape))]
    return torch.tensor(data, dtype=torch.float64).float().reshape(shape)


def numbers(tensor):
    return [float(f"{v:.9g}") for v in tensor.detach().flatten().tolist()]


def classification_case(weights, smoothing):
    logits = formula(1, [6, 4], scale=8).requires_grad_()
    labels = torch.tensor([0, 3, 1, 1, 2, 3])
    weight = torch.tensor(weights) if weights else None
    loss = F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    loss.backward()
    return {
        "weights": weights,
        "smoothing": smoothing,
        "loss": loss.item(),
        "gradient": numbers(logits.grad),
    }


def language_case(smoothing):
    hidden = formula(2, [2, 5, 6], scale=4).requires_grad_()
    weight = formula(3, [11, 6], scale=2).requires_grad_()
    targets = torch.tensor([[-100, -100, 4, 0, 10], [-100, 7, 7, -100, 1]])
    loss = F.cross_entropy(F.linear(hidden, weight).flatten(0, 1), targets.flatten(), label_smoothing=smoothing)
    loss.backward()
    return {
        "smoothing": smoothing,
        "loss": loss.item(),
        "hidden_gradient": numbers(hidden.grad),
        "weight_gradient": numbers(weight.grad),
    }


SHAPES = {"embedding": [7, 4], "norm": [5], "tall": [8, 4], "wide": [4, 8], "square": [6, 6], "q": [4, 6], "k": [2, 6]}


def run(optimizers, tensors, scheduled):
    """STEPS steps with the formula's gradients; `embedding` gets none in step 3."""
    for step in range(STEPS):
        for index, (name, tensor) in enumerate(tensors.items()):
            gradient = formula(100 + 10 * step + index, SHAPES[name], scale=2)
            tensor.grad = None if name == "embedding" and step == 3 else gradient.to(tensor.dtype)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = scheduled(step)
            optimizer.step()
    return {name: numbers(tensor) for name, tensor in tensors.items()}


def parameters(dtype):
    return {name: formula(20 + i, shape).to(dtype).requires_grad_() for i, (name, shape) in enumerate(SHAPES.items())}


def adamw(tensors, names, weight_decay):
    groups = [
        {"params": [tensors[n] for n in names if tensors[n].dim() >= 2], "weight_decay": weight_decay},
        {"params": [tensors[n] for n in names if tensors[n].dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=1.0)


def learning_rate(step):
    return 0.02 / (1 + step)


def adamw_case():
    tensors = parameters(torch.float32)
    return run([adamw(tensors, list(SHAPES), 0.1)], tensors, learning_rate)


def muon_case():
    """In fp64: PyTorch's own code casts to bfloat16, which hides whether the rest is right."""
    tensors = parameters(torch.float64)
    matrices = [n for n in SHAPES if n not in ("embedding", "norm")]
    muon = torch.optim.Muon([tensors[n] for n in matrices], lr=1.0, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
        return run([muon, adamw(tensors, ["embedding", "norm"], 0.1)], tensors, learning_rate)


def schedule_case(make, warmup, total):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = make(optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []
    for _ in range(total + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return {"warmup": warmup, "total": total, "rates": rates}


def clip_case(max_norm):
    tensors = parameters(torch.float32)
    for index, (name, tensor) in enumerate(tensors.items()):
        tensor.grad = formula(100 + index, SHAPES[name], scale=2)
    norm = torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm)
    return {"max_norm": max_norm, "norm": norm.item(), "tall": numbers(tensors["tall"].grad)}


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "goldens" / "training.json"
    torch.set_num_threads(1)
    goldens = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "classification": [classification_case(w, s) for w in [[], [0.5, 1.0, 2.0, 4.0]] for s in [0.0, 0.1]],
        "language": [language_case(s) for s in [0.0, 0.1]],
        "adamw": adamw_case(),
        "muon": muon_case(),
        "cosine": [schedule_case(get_cosine_schedule_with_warmup, w, t) for w, t in [(0, 10), (4, 20)]],
        "linear": [schedule_case(get_linear_schedule_with_warmup, w, t) for w, t in [(0, 10), (4, 20)]],
        "clip": [clip_case(m) for m in [0.5, 1000.0]],
    }
    text = json.dumps(goldens)
    for key in list(goldens)[1:]:
        text = text.replace(f'"{key}":', f'\n"{key}":')
    output.write_text(text + "\n")
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
