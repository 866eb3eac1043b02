"""Times one joint training step of an InternVL checkpoint (vision encoder frozen; connector, language model and a
linear head trained by AdamW) in `vlmzoo train` and in transformers 5 + PyTorch; then a head's epoch on cached features
beside one on pictures in `vlmzoo train`.

Both train on the same two pictures, question and answer in every step, so that their losses can be compared: in fp32
the first language losses have to agree. Runs take turns, each in a process of its own. The peer is the faster of
AdamW's `foreach` and `fused`, and makes logits of the answer's positions only. With avx512_bf16 or AMX also in bf16
autocast.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_peers import Results, check_load, peak_memory_bytes, run_json, spread, timed

QUESTION = "How many receipts are there?"
ANSWER = "there is one receipt"
BATCH = 2
LEARNING_RATE, WEIGHT_DECAY, CLIP = 5e-5, 1e-4, 1.0
OPTIMIZERS = ("foreach", "fused")
LOSS_TOLERANCE = 1e-3  # relative, of the first language losses in fp32
GOAL = 20.0  # times that an epoch on cached features has to be faster
NEVER = 1_000_000  # steps

# What both parts have in common: nothing is saved or evaluated while times are taken.
COMMON = {
    "training.batch_size": BATCH,
    "training.gradient_accumulation_steps": 1,
    "training.logging_steps": 1,
    "training.eval_steps": NEVER,
    "training.save_steps": NEVER,
    "training.lr_scheduler_type": "constant",
    "training.warmup_steps": 0,
    "training.learning_rate": LEARNING_RATE,
    "training.weight_decay": WEIGHT_DECAY,
    "training.gradient_clip": CLIP,
    "training.prompt": QUESTION,
    "model.max_tiles": 1,
    "model.freeze_vision_encoder": "true",
}


# --- the peer, in a process of its own -----------------------------------------------------------------------------


def peer_batch(arguments: argparse.Namespace, config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """pixel_values [2, 3, S, S], input_ids [2, L] (the answer but its last token behind the prompt), answer ids [A]."""
    import torch

    from internvl_checkpoint import tokens_per_tile
    from internvl_inputs import USABLE, prompt_pieces
    from make_goldens import make_tiler
    from reference_inputs import PromptEncoder, load_picture

    tiler = make_tiler(arguments.checkpoint, dict(config, max_dynamic_patch=1))
    pictures = sorted((arguments.worker_data / "images").iterdir())[:BATCH]
    pixel_values = torch.cat([tiler.pixel_values(load_picture(picture)) for picture in pictures])
    encoder = PromptEncoder(arguments.checkpoint / "tokenizer.json", USABLE)
    prompt = encoder.encode(prompt_pieces(config["template"], QUESTION, [1], tokens_per_tile(config)))
    answer = encoder.encode([(ANSWER, True), ("<|im_end|>", False)])
    ids = torch.tensor([prompt + answer[:-1]]).repeat(BATCH, 1)
    return pixel_values, ids, torch.tensor(answer)


def peer_model(arguments: argparse.Namespace, config: dict[str, Any]) -> Any:
    """fp32 with PyTorch's attention kernels; the vision tower frozen."""
    from safetensors.torch import load_file

    from internvl_checkpoint import reference_model
    from reference_inputs import PromptEncoder

    tensors: dict[str, Any] = {}
    for path in sorted(arguments.checkpoint.glob("*.safetensors")):
        tensors |= load_file(path)
    image_token = PromptEncoder(arguments.checkpoint / "tokenizer.json").id_of("<IMG_CONTEXT>")
    model = reference_model(config, tensors, image_token, attention="sdpa").train()
    model.model.vision_tower.requires_grad_(False)
    return model


def joint_loss(model: Any, head: Any, batch: tuple[Any, Any, Any], labels: Any) -> tuple[Any, Any]:
    """Language loss on the answer, and that plus the head's on the CLS of the frozen tower."""
    import torch
    from torch.nn.functional import cross_entropy

    pixel_values, ids, answer = batch
    features = model.get_image_features(pixel_values)
    embeds = model.get_input_embeddings()(ids)
    mask = (ids == model.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(mask, features.pooler_output.flatten(0, 1).to(embeds.dtype))
    logits = model(inputs_embeds=embeds, logits_to_keep=len(answer), use_cache=False).logits
    language = cross_entropy(logits.flatten(0, 1).float(), answer.repeat(BATCH))
    classification = cross_entropy(head(features.last_hidden_state[:, 0]).float(), labels)
    return language, torch.add(language, classification)


def work(arguments: argparse.Namespace) -> Results:
    """What one peer process measures: `worker` is PRECISION-OPTIMIZER."""
    import torch

    from checkpoint_folder import read_config

    precision, optimizer_kind = arguments.worker.split("-")
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    config = read_config(arguments.checkpoint)
    batch, model = peer_batch(arguments, config), peer_model(arguments, config)
    head = torch.nn.Linear(config["vision_config"]["hidden_size"], 2)
    trained = [value for module in (model, head) for value in module.parameters() if value.requires_grad]
    options = {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, optimizer_kind: True}
    optimizer, labels = torch.optim.AdamW(trained, **options), torch.arange(BATCH)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            language, total = joint_loss(model, head, batch, labels)
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        return language.item()

    times = [timed(step) for _ in range(arguments.steps)]
    return {
        "step_ms": [seconds * 1e3 for seconds, _ in times[arguments.drop :]],
        "language_loss": [loss for _, loss in times],
        "peak_memory_bytes": peak_memory_bytes(),
    }


# --- vlmzoo --------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[Results]:
    """The lines of metrics.jsonl that are whole and about training."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if "pictures_per_s" in line]


def resident_peak(pid: int) -> int:
    """VmHWM of a running process in bytes; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def train(arguments: argparse.Namespace, data: Path, settings: dict[str, Any], until: int) -> tuple[list[Results], int]:
    """Lines of metrics.jsonl and peak memory of `vlmzoo train`. It is killed after step `until`: a joint run would
    otherwise write a checkpoint of several GB, which isn't part of a step."""
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        command = [str(arguments.vlmzoo), "train", "--model-type", "internvl", "--model", str(arguments.checkpoint)]
        command += ["--data", str(data), "--output", f"{folder}/run", "--threads", str(arguments.threads)]
        command += ["--precision", "fp32", "--quiet"]
        for key, value in (COMMON | settings).items():
            command += ["--set", f"{key}={value}"]
        environment = dict(os.environ, XDG_CACHE_HOME=f"{folder}/cache")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        metrics, peak = Path(folder, "run", "metrics.jsonl"), 0
        try:
            while process.poll() is None and len(read_lines(metrics)) < until:
                peak = max(peak, resident_peak(process.pid))
                time.sleep(0.05)
        finally:
            peak = max(peak, resident_peak(process.pid))
            process.kill()
            process.wait()
        lines = read_lines(metrics)
        if len(lines) < until:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode} after {len(lines)} of {until} steps")
        return lines[:until], peak


def ours(precision: str, arguments: argparse.Namespace, data: Path) -> Results:
    """One run of joint steps in `vlmzoo train`."""
    settings = {
        "model.freeze_language_model": "false",
        "model.classifier": "{type: linear}",
        "training.bf16": str(precision == "bf16").lower(),
        "training.epochs": NEVER,
        "training.max_steps": arguments.steps + 1,
    }
    lines, peak = train(arguments, data, settings, arguments.steps)
    return {
        "step_ms": [BATCH / line["pictures_per_s"] * 1e3 for line in lines[arguments.drop :]],
        "language_loss": [line["language_loss"] for line in lines],
        "peak_memory_bytes": peak,
    }


def head_epoch(cache: str, epochs: int, arguments: argparse.Namespace, data: Path, pictures: int) -> Results:
    """Seconds of each epoch of a head's training, the model frozen."""
    settings = {"model.freeze_language_model": "true", "training.cache_features": cache, "training.epochs": epochs}
    per_epoch = -(-pictures // BATCH)
    seconds, (lines, peak) = timed(lambda: train(arguments, data, settings, epochs * per_epoch))
    steps = [BATCH / line["pictures_per_s"] for line in lines]
    sums = [sum(steps[first : first + per_epoch]) for first in range(0, len(steps), per_epoch)]
    return {"epoch_s": spread(sums[1:] or sums), "run_s": seconds, "epochs": epochs, "peak_memory_bytes": peak}


def draw(arguments: argparse.Namespace, count: int, folder: Path) -> Path:
    """`vlmzoo synth receipts` with one answer for all, and without splits: everything is trained on."""
    command = [str(arguments.vlmzoo), "synth", "receipts", "--count", str(count), "--seed", "11", "--quiet"]
    subprocess.run([*command, "--output", str(folder)], check=True, stdout=subprocess.DEVNULL)
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["image"], row["label"], ANSWER) for row in csv.DictReader(file)]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label", "answer"), *rows])
    return folder


# --- together ------------------------------------------------------------------------------------------------------


def run_peer(name: str, arguments: argparse.Namespace, data: Path) -> Results:
    """One peer process."""
    options = ["--checkpoint", str(arguments.checkpoint), "--threads", str(arguments.threads)]
    options += ["--steps", str(arguments.steps), "--drop", str(arguments.drop), "--worker-data", str(data)]
    return run_json([sys.executable, __file__, "--worker", name, *options], arguments.threads)


def merged(runs: list[Results]) -> Results:
    """All steps of all repeats; the highest peak; the losses of the first run."""
    steps = [value for run in runs for value in run["step_ms"]]
    peak = max(run["peak_memory_bytes"] for run in runs)
    return {"step_ms": spread(steps), "peak_memory_bytes": peak, "language_loss": runs[0]["language_loss"]}


def median_ms(runs: list[Results]) -> float:
    """Median of all steps of `runs`."""
    return statistics.median(value for run in runs for value in run["step_ms"])


def told(name: str, results: Results) -> Results:
    """`results`, after a line about them on stderr: the whole takes half an hour."""
    median, peak = statistics.median(results["step_ms"]), results["peak_memory_bytes"] / 1e9
    print(f"{name}: {median:.1f} ms/step, peak {peak:.2f} GB", file=sys.stderr)
    return results


def compare_steps(precisions: list[str], arguments: argparse.Namespace, data: Path) -> Results:
    """Runs take turns; the first round chooses the peer's optimizer."""
    own: dict[str, list[Results]] = {precision: [] for precision in precisions}
    peers: dict[str, dict[str, list[Results]]] = {precision: {} for precision in precisions}
    for _ in range(arguments.repeats):
        for precision in precisions:
            own[precision].append(told(f"vlmzoo {precision}", ours(precision, arguments, data)))
            of_peer = peers[precision]
            kinds = [min(of_peer, key=lambda kind: median_ms(of_peer[kind]))] if of_peer else OPTIMIZERS
            for kind in kinds:
                run = told(f"transformers {precision} {kind}", run_peer(f"{precision}-{kind}", arguments, data))
                of_peer.setdefault(kind, []).append(run)
    results = {}
    for precision in precisions:
        kind = min(peers[precision], key=lambda kind: median_ms(peers[precision][kind]))
        ours_, theirs = merged(own[precision]), merged(peers[precision][kind])
        results[precision] = {
            "vlmzoo": ours_,
            "transformers": theirs | {"optimizer": kind},
            "ratio": ours_["step_ms"]["median"] / theirs["step_ms"]["median"],
            "memory_ratio": ours_["peak_memory_bytes"] / theirs["peak_memory_bytes"],
        }
    check_losses(results["fp32"])
    return results


def check_losses(of_fp32: Results) -> None:
    """Both have to be training the same thing: the language losses before the first update agree."""
    first, theirs = (of_fp32[name]["language_loss"][0] for name in ("vlmzoo", "transformers"))
    if not abs(first - theirs) <= LOSS_TOLERANCE * abs(theirs):
        raise SystemExit(f"first language losses: vlmzoo {first:.6f}, transformers {theirs:.6f}; not the same step")


def compare_heads(arguments: argparse.Namespace, data: Path) -> Results:
    """Epochs on cached features, and on pictures."""
    cached = head_epoch("auto", 6, arguments, data, arguments.head_pictures)
    never = head_epoch("never", 2, arguments, data, arguments.head_pictures)
    ratio = never["epoch_s"]["median"] / cached["epoch_s"]["median"]
    return {"pictures": arguments.head_pictures, "cached": cached, "never": never, "times_faster": ratio, "goal": GOAL}


def print_tables(results: Results) -> None:
    """The same as the JSON, to be read."""
    print(f"joint step of {BATCH} pictures, {results['threads']} threads, medians of {results['repeats']} runs")
    print(f"{'':22} {'vlmzoo':>10} {'peer':>10}  {'optimizer':10} {'ours/theirs':>11}")
    for precision, part in results["joint_step"].items():
        own, peer = part["vlmzoo"], part["transformers"]
        values = (own["step_ms"]["median"], peer["step_ms"]["median"])
        print(f"{precision + ', ms/step':22} {values[0]:10.1f} {values[1]:10.1f}", end="")
        print(f"  {peer['optimizer']:10} {part['ratio']:11.3f}")
        values = (own["peak_memory_bytes"] / 1e9, peer["peak_memory_bytes"] / 1e9)
        print(f"{precision + ', peak GB':22} {values[0]:10.2f} {values[1]:10.2f}  {'':10} {part['memory_ratio']:11.3f}")
        for name, step in (("first", 0), ("last", -1)):
            values = (own["language_loss"][step], peer["language_loss"][step])
            print(f"{f'{precision}, {name} loss':22} {values[0]:10.4f} {values[1]:10.4f}")
    head = results["head"]
    cached, never = head["cached"]["epoch_s"]["median"], head["never"]["epoch_s"]["median"]
    peaks = [head[name]["peak_memory_bytes"] / 1e9 for name in ("cached", "never")]
    verdict = "reached" if head["times_faster"] >= GOAL else "missed"
    print(f"a head's epoch of {head['pictures']} pictures: {cached:.4f} s on cached features, {never:.3f} s on pictures:")
    print(f"  {head['times_faster']:.0f} times faster (goal {GOAL:.0f}: {verdict}); peak {peaks[0]:.2f} and {peaks[1]:.2f} GB")


def has_bf16() -> bool:
    """Whether the processor multiplies bf16; `training.bf16` asks the same."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="release layout, from `vlmzoo init`")
    parser.add_argument("--vlmzoo", type=Path, help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each")
    parser.add_argument("--steps", type=int, default=6, help="steps of a run")
    parser.add_argument("--drop", type=int, default=2, help="steps of a run that aren't counted, at its beginning")
    parser.add_argument("--head-pictures", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    workers = [f"{precision}-{kind}" for precision in ("fp32", "bf16") for kind in OPTIMIZERS]
    parser.add_argument("--worker", choices=workers, help=argparse.SUPPRESS)
    parser.add_argument("--worker-data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.worker and not arguments.vlmzoo:
        parser.error("--vlmzoo is missing")
    if not 0 <= arguments.drop < arguments.steps or min(arguments.threads, arguments.repeats) < 1:
        parser.error("--drop has to be below --steps, --threads and --repeats at least 1")
    if arguments.head_pictures < BATCH or arguments.head_pictures % BATCH:
        parser.error(f"--head-pictures has to be a multiple of {BATCH}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        print(json.dumps(work(arguments)))
        return
    results: Results = {"threads": arguments.threads, "repeats": arguments.repeats, "steps": arguments.steps}
    results |= {"load_average": check_load()}
    precisions = ["fp32", "bf16"] if has_bf16() else ["fp32"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: ends what runs, removes its files
    with tempfile.TemporaryDirectory() as work_folder:
        joint = draw(arguments, BATCH, Path(work_folder, "joint"))
        results["joint_step"] = compare_steps(precisions, arguments, joint)
        pictures = draw(arguments, arguments.head_pictures, Path(work_folder, "head"))
        results["head"] = compare_heads(arguments, pictures)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        print_tables(results)


if __name__ == "__main__":
    main()
