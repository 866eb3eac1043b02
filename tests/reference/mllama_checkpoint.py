"""Llama-3.2-Vision checkpoints: tensors of a config.json, and the reference model made from them. transformers 4.45.2
only: later ones take other intermediate vision states (docs/llama_vision_reference.md)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer

import init_formula
from checkpoint_folder import Config


def empty_model(config: Config) -> MllamaForConditionalGeneration:
    """The module of config.json in fp32; its own names are those of the release."""
    parsed = MllamaConfig(**config)
    parsed._attn_implementation = "eager"
    return MllamaForConditionalGeneration(parsed).float().eval()


def build_tensors(config: Config, seed: int) -> dict[str, torch.Tensor]:
    """All tensors by the formula, in the type that `torch_dtype` names."""
    shapes = {name: tuple(value.shape) for name, value in empty_model(config).state_dict().items()}
    return init_formula.state_dict(shapes, seed, config["torch_dtype"])


def _remember_rows(layer: MllamaCrossAttentionDecoderLayer, _: Any, arguments: dict[str, Any]) -> None:
    layer.cross_attn.rows_that_see = arguments["full_text_row_masked_out_mask"]


def _mask_rows(attention: torch.nn.Module, _: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
    return attention.rows_that_see[:, 0] * output[0], *output[1:]


def mask_rows_as_meta(model: MllamaForConditionalGeneration) -> None:
    """Rows of text that see no picture take nothing from a cross-attention layer: the output of the attention is
    multiplied by the row mask too, as in Meta's CrossAttention.forward; transformers does so with the MLP's only."""
    for layer in model.modules():
        if isinstance(layer, MllamaCrossAttentionDecoderLayer):
            layer.register_forward_pre_hook(_remember_rows, with_kwargs=True)
            layer.cross_attn.register_forward_hook(_mask_rows)


def reference_model(config: Config, tensors: dict[str, torch.Tensor]) -> MllamaForConditionalGeneration:
    """transformers 4.45.2 with the row mask of Meta's code, in fp32 whatever type `tensors` have."""
    model = empty_model(config)
    model.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=True)
    mask_rows_as_meta(model)
    return model
