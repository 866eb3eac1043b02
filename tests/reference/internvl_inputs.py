"""What goes into InternVL: tiles of a picture and token ids of a prompt, made with the reference packages."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from reference_inputs import IMAGE_MARK, Piece

USABLE = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
TEMPLATES = {
    "internvl2_5": (
        "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
        "<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Hermes-2": (
        "<|im_start|>system\n你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
        "<|im_end|><|im_start|>user\n",
        "<|im_end|><|im_start|>assistant\n",
    ),
}


class Tiler:
    """dynamic_preprocess of the release, by transformers' class (equal tiles: see README.md)."""

    def __init__(self, size: int, min_tiles: int, max_tiles: int, mean: list[float], std: list[float]) -> None:
        self._options = {"min_patches": min_tiles, "max_patches": max_tiles, "crop_to_patches": True}
        self._processor = GotOcr2ImageProcessorPil(
            size={"height": size, "width": size}, image_mean=mean, image_std=std, **self._options
        )

    def tiles(self, picture: Image.Image) -> np.ndarray:
        """uint8 [T, S, S, 3], the thumbnail last."""
        output = self._processor(picture, do_rescale=False, do_normalize=False, **self._options)
        return np.stack(output["pixel_values"]).transpose(0, 2, 3, 1).astype(np.uint8)

    def pixel_values(self, picture: Image.Image) -> torch.Tensor:
        """fp32 [T, 3, S, S], normalised."""
        output = self._processor(picture, **self._options)
        return torch.from_numpy(np.stack(output["pixel_values"]).astype(np.float32))


def prompt_pieces(
    template: str, question: str, tiles: list[int], tokens_per_tile: int, system: bool = True
) -> list[Piece]:
    """The whole prompt; `tiles`: how many tiles each picture has. `system`: with the template's system message."""
    if IMAGE_MARK not in question:
        question = f"{IMAGE_MARK}\n" * len(tiles) + question
    texts = question.split(IMAGE_MARK)
    if len(texts) != len(tiles) + 1:
        raise ValueError(f"{len(texts) - 1} marks for {len(tiles)} pictures")
    before, after = TEMPLATES[template]
    if not system:
        before = before[before.index("<|im_start|>user") :]
    pieces = [(before, False), (texts[0], True)]
    for count, text in zip(tiles, texts[1:]):
        pieces += [("<img>" + "<IMG_CONTEXT>" * (count * tokens_per_tile) + "</img>", False), (text, True)]
    return [*pieces, (after, False)]
