"""What goes into Llama-3.2-Vision, made with transformers 4.45.2: tiles, aspect ratios, prompt, cross-attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import MllamaImageProcessor
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from reference_inputs import IMAGE_MARK, Piece

Tensors = dict[str, torch.Tensor]

USER = "<|start_header_id|>user<|end_header_id|>"
ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>"


class MllamaTiler:
    """Pictures as the release's preprocessor_config.json has them."""

    def __init__(self, folder: Path) -> None:
        self._processor = MllamaImageProcessor.from_pretrained(folder, local_files_only=True)

    def inputs(self, pictures: list[Image.Image]) -> tuple[Tensors, list[int]]:
        """pixel_values fp32 [1, images, M, 3, S, S], aspect_ratio_ids [1, images], aspect_ratio_mask [1, images, M];
        and how many tiles each picture has."""
        output = self._processor([pictures], return_tensors="pt")
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        return {name: output[name] for name in names}, output["num_tiles"][0]

    def tiles(self, pictures: list[Image.Image]) -> list[np.ndarray]:
        """uint8 [T, S, S, 3] of each picture."""
        output = self._processor([pictures], do_rescale=False, do_normalize=False)
        return [
            image[:count].transpose(0, 2, 3, 1).astype(np.uint8)
            for image, count in zip(output["pixel_values"][0], output["num_tiles"][0])
        ]


def prompt_pieces(instruct: bool, question: str, pictures: int) -> list[Piece]:
    """The whole prompt, whose pieces are tokenized apart as in Meta's ChatFormat. A newline directly after <image>
    belongs to the mark."""
    if IMAGE_MARK not in question:
        question = IMAGE_MARK * pictures + question
    texts = question.replace(f"{IMAGE_MARK}\n", IMAGE_MARK).split(IMAGE_MARK)
    if len(texts) != pictures + 1:
        raise ValueError(f"{len(texts) - 1} marks for {pictures} pictures")
    content = [(texts[0], True)]
    for text in texts[1:]:
        content += [("<|image|>", False), (text, True)]
    begin = ("<|begin_of_text|>", False)
    if not instruct:
        return [begin, *content]
    newlines = ("\n\n", False)
    return [begin, (USER, False), newlines, *content, ("<|eot_id|>", False), (ASSISTANT, False), newlines]


def cross_attention_mask(input_ids: list[int], image_token: int, tiles: list[int], max_tiles: int) -> torch.Tensor:
    """int64 [1, L, images, M]: 1 where a position of the text sees a tile."""
    ranges = get_cross_attention_token_mask(input_ids, image_token)
    dense = convert_sparse_cross_attention_mask_to_dense([ranges], [tiles], max_tiles, len(input_ids))
    return torch.from_numpy(dense)
