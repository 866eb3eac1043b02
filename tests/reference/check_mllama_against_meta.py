"""Checks that the goldens' reference (transformers 4.45.2 with the row mask) gives the numbers of Meta's own code in
every run: token ids, pixels, masks, vision states, embeddings, hidden states, logits, greedy answers.

The rows per aspect ratio of both sides are made from tables as Meta has them (meta_mllama.py). Left out is two_tiles,
whose RoPE has other constants than Meta's code has built in. With several pictures Meta's code lets generated rows see
none (its last interval ends at the prompt): there only the first token is compared."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from llama_models.datatypes import RawMediaItem, RawMessage, RawTextItem
from llama_models.llama3.chat_format import ChatFormat, LLMInput
from PIL import Image

from golden_files import DATA, NEW_TOKENS, Run, Tensors
from make_mllama_goldens import MllamaCase, check_versions, open_case
from meta_mllama import meta_model, tile_tables, with_tables
from mllama_checkpoint import reference_model
from mllama_inputs import prompt_pieces
from mllama_runs import SEEDS, all_runs
from reference_inputs import PromptEncoder, find_picture, load_picture

CASES = ("instruct", "base")
TOLERANCE = 1e-5  # max |a - b| / max(1, max |b|)
MAX_LENGTH = 512


class MetaTokenizer:
    """What ChatFormat asks of a tokenizer, from the test tokenizer."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        names = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|image|>")
        self.special_tokens = {name: encoder.id_of(name) for name in names}

    def encode(self, text: str, bos: bool, eos: bool) -> list[int]:
        assert not eos
        begin = [self.special_tokens["<|begin_of_text|>"]] if bos else []
        return begin + self._encoder.encode([(text, True)])


def png_of(picture: Image.Image) -> bytes:
    """Without loss: Meta's code opens pictures itself and doesn't turn them as EXIF says."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def meta_input(case: MllamaCase, run: Run, pictures: list[Image.Image]) -> LLMInput:
    """Token ids, pictures and their intervals by Meta's ChatFormat."""
    rest = iter(pictures)
    content = []
    for text, user in prompt_pieces(False, run.prompt, len(pictures))[1:]:
        if not user:
            content.append(RawMediaItem(data=png_of(next(rest))))
        elif text:
            content.append(RawTextItem(text=text))
    chat = ChatFormat(MetaTokenizer(case.encoder))
    if case.instruct:
        return chat.encode_dialog_prompt([RawMessage(role="user", content=content)])
    return chat.encode_content(content)


def run_meta(case: MllamaCase, model: torch.nn.Module, run: Run, images: Path) -> Tensors:
    """The same tensors as the reference's, from Meta's code."""
    pictures = [load_picture(find_picture(images, stem)) for stem in run.images]
    prompt = meta_input(case, run, pictures)
    image_token = case.config["image_token_index"]
    ids = [image_token if token == 128256 else token for token in prompt.tokens]  # 128256: built into ChatFormat
    length = len(ids)
    outputs: Tensors = {"input_ids": torch.tensor([ids])}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            outputs.setdefault(name, output)

        return hook

    def keep_images(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        outputs["pixel_values"] = inputs[0].clone()

    hooks = [
        model.vision_model.vision_encoder.register_forward_pre_hook(keep_images),
        model.vision_model.vision_encoder.register_forward_hook(keep("vision_last_hidden_state")),
        model.vision_model.register_forward_hook(keep("image_embeds")),
        model.text_model.norm.register_forward_hook(keep("last_hidden_state")),
    ]
    intervals = [list(pair) for pair in prompt.vision.mask] if prompt.vision else []
    total = length + NEW_TOKENS
    images_in = prompt.vision.images if prompt.vision else []
    caches, mask, rows = model.compute_vision_tokens_masks([images_in], [intervals], total, torch.device("cpu"))
    if pictures:
        tokens = outputs["image_embeds"].shape[-2]
        sees = (mask[:, 0, :length] == 0) & (rows[:, 0, :length] > 0)
        outputs["cross_attention_mask"] = sees[..., ::tokens].unflatten(-1, (len(pictures), -1)).long()
    sequence = torch.zeros(1, total, dtype=torch.long)
    sequence[0, :length] = outputs["input_ids"]
    positions = torch.arange(length)
    generated: list[int] = []
    while True:
        logits = model(positions, sequence, mask, rows, caches, text_only_inference=not pictures)[:, -1]
        outputs.setdefault("logits", logits)
        generated.append(int(logits.argmax()))
        if len(generated) == NEW_TOKENS or generated[-1] in case.stop_ids or len(pictures) > 1:
            break
        positions = torch.tensor([length + len(generated) - 1])
        sequence[0, positions] = generated[-1]
    for hook in hooks:
        hook.remove()
    return outputs | {"generated_ids": torch.tensor(generated)}


def difference(got: torch.Tensor, reference: torch.Tensor) -> float:
    """0 or infinity for integers."""
    if got.shape != reference.shape:
        raise SystemExit(f"shapes {tuple(got.shape)} and {tuple(reference.shape)}")
    if not got.is_floating_point():
        return 0.0 if got.equal(reference) else float("inf")
    return ((got - reference).abs().max() / reference.abs().max().clamp(min=1)).item()


def main() -> None:
    check_versions()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    worst: dict[str, float] = {}
    for name in CASES:
        case = open_case(DATA / "llama_vision" / name, SEEDS[name], keep=None)
        tables = tile_tables(case.config, SEEDS[name])
        tensors = with_tables(case.config, case.model.state_dict(), tables)
        case.model = reference_model(case.config, tensors)
        model = meta_model(case.config, tensors, tables, MAX_LENGTH)
        for run in (run for run in all_runs() if run.case == name):
            reference, _, _ = case.record(run, DATA / "images")
            got = run_meta(case, model, run, DATA / "images")
            reference["generated_ids"] = reference["generated_ids"][: len(got["generated_ids"])]
            for key, value in got.items():
                found = difference(value, reference[key])
                worst[key] = max(worst.get(key, 0.0), found)
                if not found <= TOLERANCE:
                    print(f"{run.case}-{run.name}: {key} differs by {found:.2e}")
    for key, value in worst.items():
        print(f"{key:26} {value:.1e}")
    if max(worst.values()) > TOLERANCE:
        raise SystemExit("the reference does not give the numbers of Meta's code")


if __name__ == "__main__":
    main()
