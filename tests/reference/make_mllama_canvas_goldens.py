"""Writes canvas.json: onto which grid of tiles, and at which size, pictures of many sizes go. Needs transformers 4.45.2.
Usage: make_mllama_canvas_goldens.py OUT [--help]."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from transformers.models.mllama.image_processing_mllama import (
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)

from checkpoint_folder import read_config
from golden_files import DATA
from mllama_runs import SEEDS

SEED = 5
COUNT = 120  # random sizes per case


def sizes(tile: int) -> list[tuple[int, int]]:
    """Edges of the rule (one tile, whole canvases, one pixel more or less), thin pictures, random ones."""
    edges = [1, tile - 1, tile, tile + 1, 2 * tile, 2 * tile + 1, 3 * tile, 4 * tile, 4 * tile + 1]
    pairs = [(width, height) for width in edges for height in edges if 1 / 60 <= width / height <= 60]
    generator = random.Random(SEED)
    return pairs + [(generator.randint(20, 8 * tile), generator.randint(20, 8 * tile)) for _ in range(COUNT)]


def row(width: int, height: int, tile: int, max_tiles: int) -> list[int]:
    """width, height, aspect_ratio_id, width and height of the picture on its canvas."""
    canvas_height, canvas_width = (int(side) for side in get_optimal_tiled_canvas(height, width, max_tiles, tile))
    fitted = get_image_size_fit_to_canvas(height, width, canvas_height, canvas_width, tile)
    ratio = (canvas_height // tile, canvas_width // tile)
    index = get_all_supported_aspect_ratios(max_tiles).index(ratio) + 1
    return [width, height, index, int(fitted[1]), int(fitted[0])]


def main() -> None:
    """Writes the rows of every case, one case a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the goldens: tests/goldens/llama_vision")
    arguments = parser.parse_args()
    lines = []
    for name in SEEDS:
        vision = read_config(DATA / "llama_vision" / name)["vision_config"]
        rows = [row(*size, vision["image_size"], vision["max_num_tiles"]) for size in sizes(vision["image_size"])]
        lines.append(f"{json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}")
    (arguments.out / "canvas.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
