"""The fixed-formula head that the goldens, the check and tests/heads/heads_test.cpp share."""

import itertools

NUM_FEATURES, TEXT_HIDDEN_SIZE, CLASS_NAMES = 12, 10, ["none", "one", "several"]
HIDDEN_DIMS, DROPOUT_RATES = [8, 6], [0.2, 0.1]
TILES_PER_IMAGE, TOKENS = [2, 1, 3, 1], 5  # 4 pictures


def value(stream, index):
    """In [-0.5, 0.5); a double that float32 rounds the same way in every language."""
    return (index * 7919 + stream * 104729 + 17) % 1009 / 1009 - 0.5


VARIANTS = [(kind, *of) for kind in ["mlp", "linear"] for of in [("vision", "model"), ("vision", "mean"),
            ("vision", "attention"), ("multimodal", "model")]]  # (type, features, pooling)


def layout(batch_norm, kind="mlp", features="vision", pooling="model"):
    """(name, shape) in the order of the file."""
    if pooling == "attention":
        yield "attention_pooling.query", [NUM_FEATURES]
    if features == "vision" and kind == "mlp":
        yield "vision_projection.weight", [TEXT_HIDDEN_SIZE, NUM_FEATURES]
        yield "vision_projection.bias", [TEXT_HIDDEN_SIZE]
    inputs = NUM_FEATURES if features == "vision" and kind == "linear" else TEXT_HIDDEN_SIZE
    widths = [inputs, *(HIDDEN_DIMS if kind == "mlp" else [])]
    for n, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layer = f"classification_head.layers.{n}"
        yield f"{layer}.linear.weight", [outputs, inputs]
        yield f"{layer}.linear.bias", [outputs]
        if batch_norm:
            for name in ["weight", "bias", "running_mean", "running_var"]:
                yield f"{layer}.norm.{name}", [outputs]
            yield f"{layer}.norm.num_batches_tracked", []
    yield "classification_head.out.weight", [len(CLASS_NAMES), widths[-1]]
    yield "classification_head.out.bias", [len(CLASS_NAMES)]


def tensors(batch_norm, *variant):
    """Name -> float32 tensor; variances and scales are moved to [0.5, 1.5) so that they are positive."""
    import torch

    result = {}
    for stream, (name, shape) in enumerate(layout(batch_norm, *variant)):
        if name.endswith("num_batches_tracked"):
            result[name] = torch.tensor(7)
            continue
        count = torch.Size(shape).numel()
        shift = 1.0 if name.endswith(("running_var", "norm.weight")) else 0.0
        data = [value(stream, i) + shift for i in range(count)]
        result[name] = torch.tensor(data, dtype=torch.float64).float().reshape(shape)
    return result


def formula_tensor(stream, shape, scale):
    import torch

    data = [scale * value(stream, i) for i in range(torch.Size(shape).numel())]
    return torch.tensor(data, dtype=torch.float64).float().reshape(shape)


def pooler_output():
    """[I, C]"""
    return formula_tensor(98, [len(TILES_PER_IMAGE), NUM_FEATURES], 4)


def multimodal_embeddings():
    """[B, H] of two prompts"""
    return formula_tensor(97, [2, TEXT_HIDDEN_SIZE], 4)


def features():
    """last_hidden_state [N, P, C] float32 and valid bool [N, P]: the last tokens of odd tiles are padding."""
    import torch

    rows = sum(TILES_PER_IMAGE)
    hidden = formula_tensor(99, [rows, TOKENS, NUM_FEATURES], 4)
    valid = torch.tensor([[t < TOKENS - 2 * (row % 2) for t in range(TOKENS)] for row in range(rows)])
    return hidden, valid
