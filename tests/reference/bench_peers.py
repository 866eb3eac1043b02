"""Times transformers (fp32 and bf16) on the shape of a released model, and `vlmzoo bench` beside it.

InternVL2.5-1B with transformers 5, or with --model llama-vision Llama-3.2-11B-Vision cut in depth (peer_mllama.py says
how) with transformers 4.45.2. Each measurement runs in a process of its own. With --vlmzoo the order is ours, fp32,
bf16, ours, and a table of ratios against the faster peer is printed for each --config.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEERS = {"internvl": "peer_internvl", "llama-vision": "peer_mllama"}
PROMPT_TOKENS = 320
Results = dict[str, Any]
LOWER_IS_BETTER = ("load_s", "vision_ms_per_tile", "prefill_s")


def spread(values: list[float]) -> dict[str, float]:
    """min, median and max of repeats."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what `action` returned."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def peak_memory_bytes() -> int:
    """Highest resident size of this process so far (VmHWM: not inherited from the parent, as ru_maxrss is)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmHWM in /proc/self/status")


def warm_page_cache(folder: Path) -> None:
    """Reads the weights once."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def decode(peer: Any, cache: Any, token: Any, steps: int) -> float:
    """Tokens per second over `steps` greedy steps."""

    def loop() -> None:
        current = token
        for _ in range(steps):
            current = peer.step(current, cache).argmax(-1)

    return steps / timed(loop)[0]


def measure_speed(peer: Any, repeats: int, steps: int) -> Results:
    """Vision, prefill and decode; one round to warm up, then `repeats` rounds."""
    vision_ms, prefill_s, decode_rate = [], [], []
    for _ in range(repeats + 1):
        seconds, features = timed(peer.encode)
        vision_ms.append(seconds * 1e3)
        seconds, (logits, cache) = timed(lambda features=features: peer.prefill(features, PROMPT_TOKENS))
        prefill_s.append(seconds)
        decode_rate.append(decode(peer, cache, logits.argmax(-1), steps))
    prefill_rate = [PROMPT_TOKENS / value for value in prefill_s[1:]]
    return {
        "vision_ms_per_tile": spread(vision_ms[1:]),
        "prefill_s": spread(prefill_s[1:]),
        "prefill_tok_per_s": spread(prefill_rate),
        "decode_tok_per_s": spread(decode_rate[1:]),
    }


def peer_module(arguments: argparse.Namespace) -> Any:
    """The file that knows the model."""
    return importlib.import_module(PEERS[arguments.model])


def work(arguments: argparse.Namespace) -> Results:
    """What one child process measures."""
    import torch

    open_peer = functools.partial(peer_module(arguments).Peer, arguments.checkpoint, arguments.worker)

    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    warm_page_cache(arguments.checkpoint)
    open_peer()  # imports and first touches, not timed
    load_s, peer = [], None
    for _ in range(arguments.repeats):
        peer = None
        gc.collect()
        seconds, peer = timed(open_peer)
        load_s.append(seconds)
    weight_bytes = sum(parameter.nbytes for parameter in peer.model.parameters())
    results = {"load_s": spread(load_s)} | measure_speed(peer, arguments.repeats, arguments.steps)
    return results | {"peak_memory_bytes": peak_memory_bytes(), "weight_bytes": weight_bytes}


def run_json(command: list[str], threads: int) -> Results:
    """Runs `command` and parses its stdout."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout)


def run_peer(dtype: str, folder: Path, arguments: argparse.Namespace) -> Results:
    """Measures one peer in a fresh process."""
    options = ["--checkpoint", str(folder), "--threads", str(arguments.threads)]
    options += ["--model", arguments.model, "--repeats", str(arguments.repeats), "--steps", str(arguments.steps)]
    return run_json([sys.executable, __file__, "--worker", dtype, *options], arguments.threads)


def run_ours(config: Path, arguments: argparse.Namespace) -> Results:
    """`vlmzoo bench`."""
    command = [str(arguments.vlmzoo), "bench", "--config", str(config), "--json", "--threads", str(arguments.threads)]
    return run_json([*command, "--repeats", str(arguments.repeats)], arguments.threads)


def merged(runs: list[Results]) -> Results:
    """Our runs before and after as one: the mean of the medians, the highest peak."""
    result = dict(runs[0])
    for key in (*LOWER_IS_BETTER, "decode_tok_per_s"):
        result[key] = {"median": statistics.mean(run[key]["median"] for run in runs)}
    result["peak_memory_bytes"] = max(run["peak_memory_bytes"] for run in runs)
    return result


def answer_start_s(results: Results) -> float:
    """Seconds until the first token: one tile through the vision tower, then the prompt."""
    return results["vision_ms_per_tile"]["median"] / 1e3 + results["prefill_s"]["median"]


def median_of(key: str) -> Callable[[Results], float]:
    """Picks the median of `key`."""
    return lambda results: results[key]["median"]


def ratio_rows(ours: Results, peers: dict[str, Results]) -> list[tuple[str, float, float, str, float]]:
    """(what, ours, theirs, which peer, ours / theirs); theirs is the better of the peers, for loading that in fp32."""
    metrics: list[tuple[str, Callable[[Results], float], Callable[..., str], list[str]]] = [
        ("load, s", median_of("load_s"), min, ["float32"]),
        ("vision, ms/tile", median_of("vision_ms_per_tile"), min, list(peers)),
        ("prefill 320, s", median_of("prefill_s"), min, list(peers)),
        ("vision + prefill, s", answer_start_s, min, list(peers)),
        ("decode, tok/s", median_of("decode_tok_per_s"), max, list(peers)),
        ("peak memory, GB", lambda results: results["peak_memory_bytes"] / 1e9, min, list(peers)),
    ]
    rows = []
    for title, value, better, names in metrics:
        best = better(names, key=lambda name: value(peers[name]))
        rows.append((title, value(ours), value(peers[best]), best, value(ours) / value(peers[best])))
    return rows


def print_peers(peers: dict[str, Results]) -> None:
    """One line per metric, min / median of the repeats."""
    for name, results in peers.items():
        print(f"transformers {name}, peak {results['peak_memory_bytes'] / 1e9:.2f} GB")
        for key in (*LOWER_IS_BETTER, "prefill_tok_per_s", "decode_tok_per_s"):
            values = results[key]
            print(f"  {key:20} min {values['min']:10.3f}  median {values['median']:10.3f}  max {values['max']:10.3f}")


def print_ratios(rows: list[tuple[str, float, float, str, float]]) -> None:
    """The table of ratios."""
    print(f"{'':20} {'vlmzoo':>10} {'peer':>10}  {'peer type':10} {'ours/theirs':>11}")
    for title, ours, theirs, name, ratio in rows:
        print(f"{title:20} {ours:10.3f} {theirs:10.3f}  {name:10} {ratio:11.3f}")


def check_load() -> float:
    """The load average before anything is measured; warns when other work would spoil the numbers."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: load average {load:.1f}, other programs run: the times are not usable", file=sys.stderr)
    return load


def compare(folder: Path, arguments: argparse.Namespace) -> Results:
    """All measurements, our own before and after the peers'."""
    load = check_load()
    before = {config: run_ours(config, arguments) for config in arguments.config}
    peers = {dtype: run_peer(dtype, folder, arguments) for dtype in ("float32", "bfloat16")}
    results: Results = {"threads": arguments.threads, "repeats": arguments.repeats, "load_average": load}
    results |= {"transformers": peers, "vlmzoo": {}, "ratios": {}}
    if not arguments.json:
        print_peers(peers)
    for config, first in before.items():
        runs = [first, run_ours(config, arguments)]
        rows = ratio_rows(merged(runs), peers)
        results["vlmzoo"][config.name] = runs
        results["ratios"][config.name] = {title: {"peer": name, "ratio": ratio} for title, _, _, name, ratio in rows}
        if not arguments.json:
            print(f"vlmzoo, {config.name}: {runs[0]['precision']}")
            print_ratios(rows)
    if arguments.json:
        print(json.dumps(results, indent=1))
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PEERS, default="internvl")
    parser.add_argument("--checkpoint", type=Path, help="from `vlmzoo init` (bench.sh says how); else random")
    parser.add_argument("--vlmzoo", type=Path, help="also run this program's bench")
    parser.add_argument("--config", type=Path, action="append", default=[], help="config for --vlmzoo; repeatable")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16, help="decode steps per repeat")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=("float32", "bfloat16"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if bool(arguments.vlmzoo) != bool(arguments.config):
        parser.error("--vlmzoo and --config go together")
    if min(arguments.threads, arguments.repeats, arguments.steps) < 1:
        parser.error("--threads, --repeats and --steps have to be at least 1")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        print(json.dumps(work(arguments)))
    elif arguments.checkpoint:
        compare(arguments.checkpoint, arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            peer_module(arguments).write_random_checkpoint(Path(folder))
            compare(Path(folder), arguments)


if __name__ == "__main__":
    main()
