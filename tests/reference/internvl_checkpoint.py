"""InternVL checkpoints of both layouts (A: the release, B: the `-hf` conversion): tensor names and shapes from a
config.json, and the reference model built from either."""

from __future__ import annotations

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

import init_formula
from checkpoint_folder import Config, Shapes


def is_release(config: Config) -> bool:
    """True for layout A (InternVLChatModel), false for layout B (InternVLForConditionalGeneration)."""
    return "llm_config" in config


def _side(value: int | list[int]) -> int:
    return value[0] if isinstance(value, list) else value


def tile_size(config: Config) -> int:
    """Side of a tile in pixels."""
    return config.get("force_image_size") or _side(config["vision_config"]["image_size"])


def tokens_per_tile(config: Config) -> int:
    """Text positions that one tile takes."""
    patches = tile_size(config) // _side(config["vision_config"]["patch_size"])
    return int(patches * config["downsample_ratio"]) ** 2


def _affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, width: int, norm_type: str) -> Shapes:
    return {f"{name}.weight": (width,)} if norm_type == "rms_norm" else _affine(name, width)


def _positions(vision: Config) -> int:
    return (_side(vision["image_size"]) // _side(vision["patch_size"])) ** 2 + 1


def _release_vision(vision: Config) -> Shapes:
    width, mlp, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    embeddings = "vision_model.embeddings"
    shapes: Shapes = {
        f"{embeddings}.class_embedding": (1, 1, width),
        f"{embeddings}.position_embedding": (1, _positions(vision), width),
    } | _affine(f"{embeddings}.patch_embedding", width, 3, patch, patch)
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}"
        shapes |= {f"{layer}.ls1": (width,), f"{layer}.ls2": (width,)}
        shapes |= _norm(f"{layer}.norm1", width, vision["norm_type"])
        shapes |= _norm(f"{layer}.norm2", width, vision["norm_type"])
        shapes |= {f"{layer}.attn.qkv.weight": (3 * width, width)}
        if vision["qkv_bias"]:
            shapes |= {f"{layer}.attn.qkv.bias": (3 * width,)}
        if vision["qk_normalization"]:
            shapes |= {f"{layer}.attn.q_norm.weight": (width,), f"{layer}.attn.k_norm.weight": (width,)}
        shapes |= _affine(f"{layer}.attn.proj", width, width)
        shapes |= _affine(f"{layer}.mlp.fc1", mlp, width) | _affine(f"{layer}.mlp.fc2", width, mlp)
    return shapes


def _hf_vision(vision: Config) -> Shapes:
    width, mlp, patch = vision["hidden_size"], vision["intermediate_size"], _side(vision["patch_size"])
    embeddings = "vision_tower.embeddings"
    shapes: Shapes = {
        f"{embeddings}.cls_token": (1, 1, width),
        f"{embeddings}.position_embeddings": (1, _positions(vision), width),
    } | _affine(f"{embeddings}.patch_embeddings.projection", width, 3, patch, patch)
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_tower.encoder.layer.{i}"
        shapes |= {f"{layer}.lambda_1": (width,), f"{layer}.lambda_2": (width,)}
        shapes |= _norm(f"{layer}.layernorm_before", width, vision["norm_type"])
        shapes |= _norm(f"{layer}.layernorm_after", width, vision["norm_type"])
        for part in "qkv":
            shapes |= {f"{layer}.attention.{part}_proj.weight": (width, width)}
            if vision["attention_bias"]:
                shapes |= {f"{layer}.attention.{part}_proj.bias": (width,)}
        if vision["use_qk_norm"]:
            shapes |= {f"{layer}.attention.q_norm.weight": (width,), f"{layer}.attention.k_norm.weight": (width,)}
        shapes |= _affine(f"{layer}.attention.projection_layer", width, width)
        shapes |= _affine(f"{layer}.mlp.fc1", mlp, width) | _affine(f"{layer}.mlp.fc2", width, mlp)
    return shapes


def _connector(names: tuple[str, str, str], vision: Config, text: Config, ratio: float) -> Shapes:
    wide = vision["hidden_size"] * round(1 / ratio) ** 2
    width = text["hidden_size"]
    return _affine(names[0], wide) | _affine(names[1], width, wide) | _affine(names[2], width, width)


def _text(text: Config, tied: bool) -> Shapes:
    width, mlp, rows = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    key_width = width // text["num_attention_heads"] * text["num_key_value_heads"]
    model = "language_model.model"
    shapes: Shapes = {f"{model}.embed_tokens.weight": (rows, width), f"{model}.norm.weight": (width,)}
    for i in range(text["num_hidden_layers"]):
        layer = f"{model}.layers.{i}"
        shapes |= {f"{layer}.input_layernorm.weight": (width,), f"{layer}.post_attention_layernorm.weight": (width,)}
        shapes |= _affine(f"{layer}.self_attn.q_proj", width, width)
        shapes |= _affine(f"{layer}.self_attn.k_proj", key_width, width)
        shapes |= _affine(f"{layer}.self_attn.v_proj", key_width, width)
        shapes |= {f"{layer}.self_attn.o_proj.weight": (width, width)}
        shapes |= {f"{layer}.mlp.gate_proj.weight": (mlp, width), f"{layer}.mlp.up_proj.weight": (mlp, width)}
        shapes |= {f"{layer}.mlp.down_proj.weight": (width, mlp)}
    return shapes if tied else shapes | {"language_model.lm_head.weight": (rows, width)}


def tensor_shapes(config: Config) -> Shapes:
    """Every tensor of the checkpoint that belongs to a config.json."""
    vision, ratio = config["vision_config"], config["downsample_ratio"]
    if is_release(config):
        text = config["llm_config"]
        names = ("mlp1.0", "mlp1.1", "mlp1.3")
        return _release_vision(vision) | _connector(names, vision, text, ratio) | _text(text, tied=False)
    text = config["text_config"]
    names = tuple(f"multi_modal_projector.{part}" for part in ("layer_norm", "linear_1", "linear_2"))
    tied = config.get("tie_word_embeddings", True)
    return _hf_vision(vision) | _connector(names, vision, text, ratio) | _text(text, tied)


_RENAMES = (
    ("vision_model.encoder.layers.", "vision_tower.encoder.layer."),
    ("vision_model.", "vision_tower."),
    (".class_embedding", ".cls_token"),
    (".position_embedding", ".position_embeddings"),
    (".patch_embedding.", ".patch_embeddings.projection."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.projection_layer."),
    (".attn.", ".attention."),
    ("mlp1.0.", "multi_modal_projector.layer_norm."),
    ("mlp1.1.", "multi_modal_projector.linear_1."),
    ("mlp1.3.", "multi_modal_projector.linear_2."),
)


def release_to_hf(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of layout A under the names of layout B; the fused qkv [3·C, …] becomes three of [C, …]."""
    result: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if name.startswith(("vision_model.", "mlp1.")):
            for old, new in _RENAMES:
                name = name.replace(old, new)
        if ".attention.qkv." in name:
            for part, rows in zip("qkv", value.chunk(3)):
                result[name.replace(".qkv.", f".{part}_proj.")] = rows
        else:
            result[name] = value
    return result


def _module_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of layout B as the module of transformers 5 has them."""
    result: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if name.startswith("language_model.lm_head."):
            name = name.removeprefix("language_model.")
        else:
            name = "model." + name.replace("language_model.model.", "language_model.")
        result[name] = value
    return result


def hf_config(config: Config) -> Config:
    """The layout B config of a layout A one."""
    vision = dict(config["vision_config"], model_type="internvl_vision", image_size=tile_size(config))
    vision["attention_bias"] = vision.pop("qkv_bias")
    vision["use_qk_norm"] = vision.pop("qk_normalization")
    return {
        "vision_config": vision,
        "text_config": config["llm_config"],
        "downsample_ratio": config["downsample_ratio"],
        "image_seq_length": tokens_per_tile(config),
        "tie_word_embeddings": False,
    }


def reference_model(
    config: Config, tensors: dict[str, torch.Tensor], image_token_id: int, attention: str = "eager"
) -> InternVLForConditionalGeneration:
    """The reference, in fp32, with the tensors of either layout."""
    if is_release(config):
        config, tensors = hf_config(config), release_to_hf(tensors)
    parsed = InternVLConfig(**dict(config, image_token_id=image_token_id))
    parsed.dtype = parsed.text_config.dtype = parsed.vision_config.dtype = torch.float32
    parsed._attn_implementation = attention
    model = InternVLForConditionalGeneration(parsed).float().eval()
    values = _module_names(tensors)  # copied into fp32 one by one
    if parsed.tie_word_embeddings:
        values["lm_head.weight"] = values["model.language_model.embed_tokens.weight"]
    model.load_state_dict(values, strict=True)
    return model


def build_tensors(config: Config, seed: int) -> dict[str, torch.Tensor]:
    """All tensors by the formula, in the type that `torch_dtype` names."""
    return init_formula.state_dict(tensor_shapes(config), seed, config["torch_dtype"])
