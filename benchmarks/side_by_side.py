"""Embeddings side by side: the textbook way and model.embed in float32 and bfloat16, in one run, as ratios and with memory.

Without ``--device`` on the CPU and, where there is one, on the GPU too. Memory is the process's on a CPU, the card's on a GPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scfm.embed import choose_dtype
from scfm.tokenized import TokenizedCells

WAYS = ("textbook", "float32", "bfloat16")
CELLS_ON_GPU = 32  # times as many cells as on a CPU, so that a run takes more than a blink


@dataclass(frozen=True)
class Contest:
    """What is compared. ``load``: device → model; ``kinds``: name → (cells per run on a CPU, maker of that many cells)."""

    file: str
    load: Callable[[str], Any]
    kinds: Mapping[str, tuple[int, Callable[[int], TokenizedCells]]]
    textbook: Callable[[Any, TokenizedCells], np.ndarray]
    ours: Callable[[Any, TokenizedCells, str], np.ndarray]
    goal: Mapping[str, float]

    def run(self, way: str, model: Any, cells: TokenizedCells) -> np.ndarray:
        return self.textbook(model, cells) if way == "textbook" else self.ours(model, cells, way)


def own_peak() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands ru_maxrss on from a parent to its child; VmHWM is the child's own
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def peak_memory(contest: Contest, way: str, kind: str, n_cells: int, device: str) -> float:
    """Peak memory in MB of a process that does nothing else, weights included (on a CPU the libraries too)."""
    command = [sys.executable, contest.file, "--one", way, "--kind", kind, "--cells", str(n_cells), "--device", device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def finished(device: str) -> None:
    """Wait until the GPU has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure(
    contest: Contest, kind: str, n_cells: int, pairs: int, clock: Callable[[], float], device: str
) -> list[dict]:
    model, cells = contest.load(device), contest.kinds[kind][1](n_cells)
    expected = contest.run("textbook", model, cells)  # also warms up
    for way in WAYS[1:]:
        got = contest.run(way, model, cells[: min(4, n_cells)])
        lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected[: len(got)], axis=1)
        cosine = (got * expected[: len(got)]).sum(1) / lengths
        assert cosine.min() > 0.999, f"{way} does not agree with the textbook way: cosine {cosine.min()}"
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(pairs):
        for way in WAYS:
            finished(device)
            start = clock()
            contest.run(way, model, cells)
            finished(device)
            seconds[way].append(clock() - start)
    rows = []
    for way in WAYS:
        ratios = [slow / fast for slow, fast in zip(seconds["textbook"], seconds[way], strict=True)]
        rows.append(
            {
                "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
                "cells": kind,
                "tokens_per_cell": float(np.median(cells.lengths)),
                "way": way,
                "cells_per_second": n_cells / statistics.median(seconds[way]),
                "times_textbook": statistics.median(ratios),
                "goal": contest.goal.get(way) if device == "cpu" else None,
                "peak_mb": peak_memory(contest, way, kind, n_cells, device),
            }
        )
    return rows


def main(contest: Contest, description: str) -> None:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cells", type=int, help="number of cells per run")
    parser.add_argument("--kind", choices=list(contest.kinds))
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU and, where there is one, the GPU")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        contest.run(args.one, contest.load(args.device), contest.kinds[args.kind][1](args.cells))
        print(torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else own_peak())
        return
    devices = [args.device] if args.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    features = torch.cpu.get_capabilities()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, AVX512-BF16 {features.get('avx512_bf16', False)}, "
        f"AMX-BF16 {features.get('amx_bf16', False)}, dtype='auto' is {choose_dtype('auto')}"
    )
    rows = []
    for device in devices:
        print("on the CPU" if device == "cpu" else f"on the GPU: {torch.cuda.get_device_name()}")
        print(
            f"{'cells':8}{'tokens':>8}  {'way':10}{'cells/s':>9}{'x textbook':>12}{'goal':>6}{'peak MB':>9}{'of textbook':>13}"
        )
        for kind in [args.kind] if args.kind else contest.kinds:
            n_cells = args.cells or contest.kinds[kind][0] * (CELLS_ON_GPU if device == "cuda" else 1)
            measured = measure(contest, kind, n_cells, args.pairs, clock, device)
            for row in measured:
                share = row["peak_mb"] / measured[0]["peak_mb"]
                print(
                    f"{kind:8}{row['tokens_per_cell']:8.0f}  {row['way']:10}{row['cells_per_second']:9.2f}"
                    f"{row['times_textbook']:12.2f}{row['goal'] or '':>6}{row['peak_mb']:9.0f}{share:13.0%}"
                )
            rows += measured
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
