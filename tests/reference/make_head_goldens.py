"""Writes tests/goldens/heads.json from plain PyTorch functions. Usage: make_head_goldens.py [OUTPUT]"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import head_formula as formula

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


def tokens():
    """[n, C] of each picture: its valid tokens"""
    hidden, valid = formula.features()
    first = 0
    for tiles in formula.TILES_PER_IMAGE:
        rows = [hidden[n, p] for n in range(first, first + tiles) for p in range(formula.TOKENS) if valid[n, p]]
        yield torch.stack(rows)
        first += tiles


def pooled():
    return torch.stack([x.mean(dim=0) for x in tokens()])


def attention_pooled(query):
    """One query, keys normalised, values as they are."""
    result = []
    for x in tokens():
        keys = F.layer_norm(x, x.shape[-1:])
        result.append(F.scaled_dot_product_attention(query[None], keys, x)[0])
    return torch.stack(result)


def forward(tensors, x, activation, training):
    if "vision_projection.weight" in tensors:
        x = F.linear(x, tensors["vision_projection.weight"], tensors["vision_projection.bias"])
    embeddings = x
    for n in range(len(formula.HIDDEN_DIMS)):
        if f"classification_head.layers.{n}.linear.weight" not in tensors:
            break  # of a linear head
        layer = f"classification_head.layers.{n}"
        x = F.linear(x, tensors[f"{layer}.linear.weight"], tensors[f"{layer}.linear.bias"])
        if f"{layer}.norm.weight" in tensors:
            norm = {key: tensors[f"{layer}.norm.{key}"] for key in ["running_mean", "running_var", "weight", "bias"]}
            x = F.batch_norm(x, **norm, training=training)
        x = ACTIVATIONS[activation](x)
    return F.linear(x, tensors["classification_head.out.weight"], tensors["classification_head.out.bias"]), embeddings


def numbers(tensor):
    return [float(f"{v:.9g}") for v in tensor.detach().flatten().tolist()]


def case(activation, batch_norm):
    tensors, x = formula.tensors(batch_norm), pooled()
    logits, embeddings = forward(tensors, x, activation, training=False)
    result = {
        "activation": activation,
        "batch_norm": batch_norm,
        "logits": numbers(logits),
        "embeddings": numbers(embeddings),
        "probabilities": numbers(torch.softmax(logits, dim=-1)),
    }
    # One step of training without dropout: batch statistics, the running ones after it, a gradient through all layers.
    weight = tensors["vision_projection.weight"].requires_grad_()
    logits, _ = forward(tensors, x, activation, training=True)
    logits.square().sum().backward()
    result["training_logits"] = numbers(logits)
    result["training_gradient"] = numbers(weight.grad)
    if batch_norm:
        for key in ["running_mean", "running_var"]:
            result[f"training_{key}"] = numbers(tensors[f"classification_head.layers.1.norm.{key}"])
    return result


def variant(kind, features, pooling):
    tensors = formula.tensors(True, kind, features, pooling)
    if features == "multimodal":
        x = formula.multimodal_embeddings()
    elif pooling == "attention":
        x = attention_pooled(tensors["attention_pooling.query"])
    else:
        x = pooled() if pooling == "mean" else formula.pooler_output()
    logits, embeddings = forward(tensors, x, "gelu", training=False)
    return {
        "type": kind,
        "features": features,
        "pooling": pooling,
        "logits": numbers(logits),
        "embeddings": numbers(embeddings),
    }


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "goldens" / "heads.json"
    torch.manual_seed(0)
    goldens = {
        "made_with": f"torch {torch.__version__}",
        "pooled": numbers(pooled()),
        "cases": [case(activation, batch_norm) for activation in ACTIVATIONS for batch_norm in [True, False]],
        "variants": [variant(*names) for names in formula.VARIANTS],
    }
    text = json.dumps(goldens)
    output.write_text(text.replace('{"activation"', '\n{"activation"').replace('{"type"', '\n{"type"') + "\n")
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
