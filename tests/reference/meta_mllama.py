"""Meta's own Llama-3.2-Vision (PyPI llama-models) at the size of a tiny case, with the weights of a checkpoint in the
released layout. Its parallel layers (fairscale) and picture transforms (torchvision) are replaced by the plain ones
that they are in a single process."""

from __future__ import annotations

import enum
import sys
import types
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import init_formula
from checkpoint_folder import Config

Tensors = dict[str, torch.Tensor]


class _Linear(nn.Linear):
    """ColumnParallelLinear and RowParallelLinear of fairscale in one process."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **_: Any) -> None:
        super().__init__(in_features, out_features, bias)


class _Embedding(nn.Embedding):
    """VocabParallelEmbedding of fairscale in one process."""

    def __init__(self, rows: int, width: int, **_: Any) -> None:
        super().__init__(rows, width)


class _InterpolationMode(enum.Enum):
    BILINEAR = "bilinear"


class _ToTensor:
    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)


class _Normalize:
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], **_: Any) -> None:
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return (values - self._mean) / self._std


def _resize(picture: Image.Image, size: tuple[int, int], **_: Any) -> Image.Image:
    return picture.resize(size[::-1], Image.Resampling.BILINEAR)


def _module(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


for _parent in ("fairscale", "fairscale.nn", "fairscale.nn.model_parallel", "torchvision"):
    _module(_parent)
_module("fairscale.nn.model_parallel.initialize", get_model_parallel_world_size=lambda: 1)
_module(
    "fairscale.nn.model_parallel.layers",
    ColumnParallelLinear=_Linear,
    RowParallelLinear=_Linear,
    VocabParallelEmbedding=_Embedding,
)
_functional = types.SimpleNamespace(resize=_resize)
_module(
    "torchvision.transforms",
    ToTensor=_ToTensor,
    Normalize=_Normalize,
    InterpolationMode=_InterpolationMode,
    functional=_functional,
)
sys.modules["fairscale.nn.model_parallel"].initialize = sys.modules["fairscale.nn.model_parallel.initialize"]
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]

from llama_models.llama3.args import ModelArgs  # noqa: E402
from llama_models.llama3.multimodal import model as meta  # noqa: E402

meta.reduce_from_tensor_model_parallel_region = lambda values: values
meta.gather_from_tensor_model_parallel_region = lambda values: values


class _Vision(meta.CrossAttentionTransformerVision):
    """The original has its sizes built in."""

    def __init__(self, vision: Config, text_width: int) -> None:
        nn.Module.__init__(self)
        self.image_res, self.patch_size = vision["image_size"], vision["patch_size"]
        self.vision_encoder = meta.VisionEncoder(
            max_num_tiles=vision["max_num_tiles"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["hidden_size"],
            layers=vision["num_hidden_layers"],
            heads=vision["attention_heads"],
            mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
            n_global_layers=vision["num_global_layers"],
            return_intermediate=vision["intermediate_layers_indices"],
        )
        self.vision_projection = _Linear(vision["vision_output_dim"], text_width)


def _arguments(config: Config, length: int) -> ModelArgs:
    text, vision = config["text_config"], config["vision_config"]
    width = text["hidden_size"]
    return ModelArgs(
        dim=width,
        n_layers=text["num_hidden_layers"] - len(text["cross_attention_layers"]),
        n_heads=text["num_attention_heads"],
        n_kv_heads=text["num_key_value_heads"],
        vocab_size=text["vocab_size"],
        multiple_of=1,
        ffn_dim_multiplier=(text["intermediate_size"] + 0.5) / int(8 * width / 3),
        norm_eps=text["rms_norm_eps"],
        rope_theta=text["rope_theta"],
        use_scaled_rope=True,
        max_seq_len=length,
        vision_chunk_size=vision["image_size"],
        vision_max_num_chunks=vision["max_num_tiles"],
        vision_num_cross_attention_layers=len(text["cross_attention_layers"]),
    )


def tile_tables(config: Config, seed: int) -> Tensors:
    """Meta's embeddings by place of a tile in the grid, [M, M, positions, width], under Meta's names: the released
    layout has a row per aspect ratio instead, made from them when a checkpoint is converted."""
    vision = config["vision_config"]
    side, width = vision["max_num_tiles"], vision["hidden_size"]
    positions = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    names = {"pre_tile_pos_embed.embedding": 1, "post_tile_pos_embed.embedding": 1}
    names |= {"gated_positional_embedding": positions}
    prefix = "vision_model.vision_encoder."
    return {
        prefix + name: init_formula.tensor(prefix + name, (side, side, rows, width), seed)
        for name, rows in names.items()
    }


def with_tables(config: Config, tensors: Tensors, tables: Tensors) -> Tensors:
    """`tensors` of a released checkpoint, with the rows per aspect ratio made from Meta's tables: tiles that an aspect
    ratio doesn't have get zeros."""
    names = {
        "pre_tile_positional_embedding.embedding": "pre_tile_pos_embed.embedding",
        "post_tile_positional_embedding.embedding": "post_tile_pos_embed.embedding",
        "gated_positional_embedding.tile_embedding": "gated_positional_embedding",
    }
    result = dict(tensors)
    for released, name in names.items():
        table = tables["vision_model.vision_encoder." + name]
        rows = torch.zeros(1 + len(config["vision_config"]["supported_aspect_ratios"]), len(table), *table.shape[2:])
        for row, (height, width) in zip(rows[1:], config["vision_config"]["supported_aspect_ratios"]):
            row[: height * width] = table[:height, :width].flatten(0, 1)
        result[f"vision_model.{released}.weight"] = rows.flatten(1)
    return result


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection as Meta's RoPE takes them: pairs side by side, not half a head apart."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


_VISION_NAMES = (
    ("vision_model.", "vision_model.vision_encoder."),
    ("multi_modal_projector.", "vision_model.vision_projection."),
    (".patch_embedding.", ".conv1._linear."),
    (".gated_positional_embedding.gate", ".gated_positional_embedding_gate"),
    (".gated_positional_embedding.embedding", ".positional_embedding"),
    (".pre_tile_positional_embedding.", ".pre_tile_pos_embed."),
    (".post_tile_positional_embedding.", ".post_tile_pos_embed."),
    (".layernorm_pre.", ".ln_pre."),
    (".layernorm_post.", ".ln_post."),
    ("transformer.layers.", "transformer.resblocks."),
    (".self_attn.", ".attn."),
    (".fc1.", ".c_fc."),
    (".fc2.", ".c_proj."),
    (".input_layernorm.", ".ln_1."),
    (".post_attention_layernorm.", ".ln_2."),
)
_TEXT_NAMES = (
    ("language_model.lm_head.", "text_model.output."),
    ("language_model.model.", "text_model."),
    (".embed_tokens.", ".tok_embeddings."),
    (".self_attn.", ".attention."),
    (".cross_attn.", ".attention."),
    (".mlp.gate_proj.", ".feed_forward.w1."),
    (".mlp.down_proj.", ".feed_forward.w2."),
    (".mlp.up_proj.", ".feed_forward.w3."),
    (".input_layernorm.", ".attention_norm."),
    (".post_attention_layernorm.", ".ffn_norm."),
    (".cross_attn_attn_gate", ".gate_attn"),
    (".cross_attn_mlp_gate", ".gate_ffwd"),
)
_BOTH_NAMES = ((".q_proj.", ".wq."), (".k_proj.", ".wk."), (".v_proj.", ".wv."), (".o_proj.", ".wo."))


def _text_layer(name: str, cross_layers: list[int]) -> str:
    """Meta counts self-attention and cross-attention layers apart."""
    parts = name.split(".")
    if parts[1] != "layers":
        return name
    layer = int(parts[2])
    before = sum(index < layer for index in cross_layers)
    parts[1:3] = ["cross_attention_layers", str(before)] if layer in cross_layers else ["layers", str(layer - before)]
    return ".".join(parts)


def _meta_tensors(config: Config, tensors: Tensors, tables: Tensors) -> Tensors:
    text = config["text_config"]
    heads = {".self_attn.q_proj.": text["num_attention_heads"], ".self_attn.k_proj.": text["num_key_value_heads"]}
    result = dict(tables)
    for name, value in tensors.items():
        of_text = name.startswith("language_model.")
        for projection, count in heads.items():
            if of_text and projection in name:
                value = _interleaved(value, count)
        new = name
        for old, renamed in (*(_TEXT_NAMES if of_text else _VISION_NAMES), *_BOTH_NAMES):
            new = new.replace(old, renamed)
        if of_text:
            new = _text_layer(new, text["cross_attention_layers"])
        if new.endswith(("pos_embed.embedding.weight", "tile_embedding.weight")):
            continue  # `tables` has them as Meta does
        result[new] = value.flatten(1) if "conv1" in new else value
    embedding = result.pop("text_model.tok_embeddings.weight")
    for name, rows in (
        ("tok_embeddings", slice(text["vocab_size"])),
        ("learnable_embedding", slice(text["vocab_size"], None)),
    ):
        result[f"text_model.{name}.weight"] = embedding[rows]
    return result


def meta_model(config: Config, tensors: Tensors, tables: Tensors, length: int) -> meta.CrossAttentionTransformer:
    """Meta's model in fp32 with a cache for `length` positions."""
    original = meta.CrossAttentionTransformerVision
    meta.CrossAttentionTransformerVision = lambda args: _Vision(config["vision_config"], args.dim)
    try:
        model = meta.CrossAttentionTransformer(_arguments(config, length)).eval()
    finally:
        meta.CrossAttentionTransformerVision = original
    # The released index of a cross-attention layer counts those before it.
    schedule = [layer + i for i, layer in enumerate(model.text_model.fusion_schedule)]
    if schedule != config["text_config"]["cross_attention_layers"]:
        raise SystemExit(f"Meta's code would put cross-attention at {schedule}")
    model.load_state_dict(_meta_tensors(config, tensors, tables), strict=True)
    model.setup_cache(max_batch_size=1, device=torch.device("cpu"), dtype=torch.float32)
    return model
