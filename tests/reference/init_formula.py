"""The values that `vlmzoo init` and `pretrained: false` give a checkpoint; described in docs/init_formula.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fnv1a64(name: str) -> int:
    """64-bit FNV-1a of the UTF-8 bytes of `name`."""
    value = 0xCBF29CE484222325
    for byte in name.encode("utf-8"):
        value = ((value ^ byte) * 0x100000001B3) & _MASK
    return value


def uniform(name: str, seed: int, first: int, count: int) -> np.ndarray:
    """u_i in [-1, 1) for i = first … first + count - 1: float64 [count]."""
    state = (fnv1a64(name) + seed) & _MASK
    with np.errstate(over="ignore"):
        index = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
        z = np.uint64(state) + index * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) - 2.0**23) / 2.0**23


def center_and_amplitude(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Where the values of a tensor lie: [center - amplitude, center + amplitude)."""
    if len(shape) >= 2:
        return (0.0, 0.5) if shape[0] == 1 else (0.0, math.sqrt(3.0 / math.prod(shape[1:])))
    if name.endswith(".weight"):
        return 1.0, 0.25
    if name.endswith(".bias"):
        return 0.0, 0.125
    return 0.5, 0.25


def tensor(name: str, shape: Sequence[int], seed: int = 0, dtype: str = "float32") -> torch.Tensor:
    """The tensor [*shape] in `dtype` ('float32', 'bfloat16' or 'float16')."""
    center, amplitude = center_and_amplitude(name, shape)
    values = (center + amplitude * uniform(name, seed, 0, math.prod(shape))).astype(np.float32)
    return torch.from_numpy(values).reshape(tuple(shape)).to(_DTYPES[dtype])


def state_dict(shapes: Mapping[str, Sequence[int]], seed: int = 0, dtype: str = "float32") -> dict[str, torch.Tensor]:
    """One tensor per entry of `shapes` (name -> shape)."""
    return {name: tensor(name, shape, seed, dtype) for name, shape in shapes.items()}


if __name__ == "__main__":
    shapes = {"a.weight": (2, 3), "norm.weight": (4,), "a.bias": (4,), "ls1": (4,), "cls": (1, 1, 4)}
    for name, shape in shapes.items():
        print(f"{name} {list(shape)} seed 7:", [float(x).hex() for x in tensor(name, shape, 7).flatten()[:4]])
