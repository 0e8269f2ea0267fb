"""How much faster and leaner than the textbook way is model.embed? Ratios measured in one run, on this machine.

    python benchmarks/bench_embed.py [--json FILE]
    OMP_NUM_THREADS=1 python benchmarks/bench_embed.py --clock cpu      on a busy machine: CPU time of one thread

Textbook: ``BertForMaskedLM`` with ``output_hidden_states``, padded minibatches of 8 in input order, float32. Both ways give
the mean-pooled second-to-last layer of the Geneformer-V1-10M network (random weights: speed does not depend on them).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from scfm import cache
from scfm.embed import choose_dtype
from scfm.models import load_model
from scfm.tokenized import TokenizedCells

WAYS = ("textbook", "float32", "bfloat16")
GOAL = {"float32": 1.8, "bfloat16": 5.0}


def make_cells(kind: str, n_cells: int, seed: int = 0) -> TokenizedCells:
    """``"full"``: random tokens, 2,048 per cell. ``"ragged"``: cells as long as those of pbmc3k."""
    rng = np.random.default_rng(seed)
    lengths = np.full(n_cells, 2048)
    if kind == "ragged":
        golden = cache.find("golden/geneformer_tokens_pbmc3k.npz")
        if golden:
            with np.load(golden) as file:
                key = next(name for name in file.files if "offsets" in name.lower() and "v1" in name.lower())
                lengths = rng.choice(np.diff(file[key]), n_cells)
        else:  # pbmc3k's genes per cell: median about 800, a tail to 2,048
            lengths = np.clip(np.exp(rng.normal(np.log(800), 0.35, n_cells)), 200, 2048).astype(int)
    return TokenizedCells.from_lists([rng.choice(np.arange(2, 25_426), n, replace=False) for n in lengths])


def textbook(model, cells: TokenizedCells) -> np.ndarray:
    out = []
    with torch.no_grad():
        for first in range(0, len(cells), 8):
            ids, mask = map(torch.from_numpy, cells.padded(range(first, min(first + 8, len(cells)))))
            hidden = model.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
            weights = mask[..., None].float()
            out.append(((hidden * weights).sum(1) / weights.sum(1)).numpy())
    return np.concatenate(out)


def run(way: str, model, cells: TokenizedCells) -> np.ndarray:
    if way == "textbook":
        return textbook(model, cells)
    return model.embed(cells, pooling="mean", layer=-1, dtype=way, progress=False)


def own_peak() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands ru_maxrss on from a parent to its child; VmHWM is the child's own
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def peak_memory(way: str, kind: str, n_cells: int) -> float:
    """Peak memory in MB of a process that does nothing else, libraries and weights included."""
    command = [sys.executable, __file__, "--one", way, "--kind", kind, "--cells", str(n_cells)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(kind: str, n_cells: int, pairs: int, clock: Callable[[], float]) -> list[dict]:
    model, cells = load_model("geneformer-v1-10m", weights="random"), make_cells(kind, n_cells)
    expected = run("textbook", model, cells)  # also warms up
    for way in WAYS[1:]:
        got = run(way, model, cells[: min(4, n_cells)])
        cosine = (
            (got * expected[: len(got)]).sum(1)
            / np.linalg.norm(got, axis=1)
            / np.linalg.norm(expected[: len(got)], axis=1)
        )
        assert cosine.min() > 0.999, f"{way} does not agree with the textbook way: cosine {cosine.min()}"
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(pairs):
        for way in WAYS:
            start = clock()
            run(way, model, cells)
            seconds[way].append(clock() - start)
    rows = []
    for way in WAYS:
        ratios = [slow / fast for slow, fast in zip(seconds["textbook"], seconds[way], strict=True)]
        rows.append(
            {
                "cells": kind,
                "tokens_per_cell": float(np.median(cells.lengths)),
                "way": way,
                "cells_per_second": n_cells / statistics.median(seconds[way]),
                "times_textbook": statistics.median(ratios),
                "goal": GOAL.get(way),
                "peak_mb": peak_memory(way, kind, n_cells),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cells", type=int, help="number of cells (8 full ones, 16 ragged ones)")
    parser.add_argument("--kind", choices=["full", "ragged"])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        run(args.one, load_model("geneformer-v1-10m", weights="random"), make_cells(args.kind, args.cells))
        print(own_peak())
        return
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    features = torch.cpu.get_capabilities()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, AVX512-BF16 {features.get('avx512_bf16', False)}, "
        f"AMX-BF16 {features.get('amx_bf16', False)}, dtype='auto' is {choose_dtype('auto')}"
    )
    rows = []
    print(
        f"{'cells':8}{'tokens':>8}  {'way':10}{'cells/s':>9}{'x textbook':>12}{'goal':>6}{'peak MB':>9}{'of textbook':>13}"
    )
    for kind in [args.kind] if args.kind else ["full", "ragged"]:
        measured = measure(kind, args.cells or {"full": 8, "ragged": 16}[kind], args.pairs, clock)
        for row in measured:
            share = row["peak_mb"] / measured[0]["peak_mb"]
            print(
                f"{kind:8}{row['tokens_per_cell']:8.0f}  {row['way']:10}{row['cells_per_second']:9.2f}"
                f"{row['times_textbook']:12.2f}{row['goal'] or '':>6}{row['peak_mb']:9.0f}{share:13.0%}"
            )
        rows += measured
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
