"""How fast cells become tokens, as ratios in one run: the library against the loops that lesson 02 writes by hand.

    python benchmarks/bench_tokenize.py [--cells 20000] [--pairs 5] [--write]

Both sides read the same synthetic .h5ad (20,000 genes, about 2,250 per cell) and write tokens to disk. They take turns, so
that whatever else the machine does hits both; medians are reported. Peak memory and cold starts come from new processes.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scfm import genes

N_GENES, GENES_PER_CELL, MAX_LEN = 20_000, 2_250, 2048


def vocabulary() -> genes.RankVocabulary:
    """Twenty thousand genes with invented medians."""
    ids = [f"ENSG{number:011d}" for number in range(N_GENES)]
    medians = np.random.default_rng(1).lognormal(0.5, 0.7, N_GENES)
    return genes.RankVocabulary(
        name="bench",
        tokens={gene: 2 + number for number, gene in enumerate(ids)},
        medians=dict(zip(ids, medians.tolist(), strict=True)),
        mapping={gene: gene for gene in ids},
        symbols={},
        special={genes.PAD: 0, genes.MASK: 1},
        max_len=MAX_LEN,
    )


def make_cells(path: Path, n_cells: int) -> None:
    """Cells of counts: few genes are in every cell, most in few; deeper cells do not exist here."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    mean = rng.lognormal(0, 1.6, N_GENES)
    chance = np.minimum(1, mean)
    for _ in range(50):
        chance = np.minimum(1, chance * GENES_PER_CELL / chance.sum())
    rows = [np.flatnonzero(rng.random(N_GENES, np.float32) < chance).astype(np.int32) for _ in range(n_cells)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows)
    counts = 1 + rng.poisson(0.4 * mean[indices]).astype(np.float32)
    matrix = sp.csr_matrix((counts, indices, indptr), shape=(n_cells, N_GENES))
    obs = pd.DataFrame({"n_counts": np.asarray(matrix.sum(axis=1)).ravel()}, index=[f"cell{i}" for i in range(n_cells)])
    ids = list(vocabulary().tokens)
    anndata.AnnData(matrix, obs=obs, var=pd.DataFrame({"ensembl_id": ids}, index=ids)).write_h5ad(path)


# --- the two sides ----------------------------------------------------------------------------------


def ranks_by_hand(path: Path, out: Path) -> None:
    """The lesson's loop: one CSR row after the other in numpy, then a Hugging Face dataset on disk."""
    import anndata
    import datasets

    datasets.disable_progress_bars()
    adata = anndata.read_h5ad(path)
    token, median = vocabulary().columns(adata.var["ensembl_id"])
    n_counts = adata.obs["n_counts"].to_numpy()
    lists = []
    for cell in range(adata.n_obs):
        row = slice(adata.X.indptr[cell], adata.X.indptr[cell + 1])
        columns = adata.X.indices[row]
        value = adata.X.data[row] / n_counts[cell] * 10_000 / median[columns]
        lists.append(token[columns[np.argsort(-value, kind="stable")]][:MAX_LEN])
    data = datasets.Dataset.from_dict({"input_ids": lists, "length": [len(cell) for cell in lists]})
    data.save_to_disk(str(out))


def ranks_by_library(path: Path, out: Path) -> None:
    from scfm.files.tokenize_file import tokenize_file

    tokenize_file(path, out, vocabulary(), progress=False)


def bins_by_hand(matrix: Any) -> np.ndarray:
    bins = np.empty(len(matrix.data), np.float32)
    for cell in range(matrix.shape[0]):
        row = slice(matrix.indptr[cell], matrix.indptr[cell + 1])
        bins[row] = np.digitize(matrix.data[row], np.quantile(matrix.data[row], np.linspace(0, 1, 50)))
    return bins


def bins_by_library(matrix: Any) -> np.ndarray:
    from scfm.tokenize import bin_rows

    return bin_rows(matrix.indptr, matrix.indices, matrix.data, np.arange(matrix.shape[1]))[2]


SIDES = {"by hand": ranks_by_hand, "library": ranks_by_library}


# --- measuring --------------------------------------------------------------------------------------


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of computing (all threads together; what a busy machine does not distort)."""
    start, computing = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - computing


def alternate(pairs: int, by_hand: Callable[[], Any], library: Callable[[], Any]) -> dict[str, Any]:
    """Median seconds of each, and the median of the ratios of neighbours in time."""
    times = [(seconds(by_hand), seconds(library)) for _ in range(pairs)]
    ratios = sorted(hand[0] / ours[0] for hand, ours in times)
    return {
        "by_hand_s": statistics.median(hand[0] for hand, _ in times),
        "library_s": statistics.median(ours[0] for _, ours in times),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "ratio_of_cpu_seconds": statistics.median(hand[1] / ours[1] for hand, ours in times),
    }


def peak_memory() -> float:
    """Most memory of this process so far, GiB (of this program alone: rusage would include the one that started it)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # macOS counts bytes


def in_new_process(side: str, path: Path, folder: Path) -> tuple[float, float]:
    """Seconds (start of python and imports included) and peak memory in GiB."""
    out = folder / "tokens_new_process"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--side", side, "--input", str(path), "--out", str(out)]
    start = time.perf_counter()
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - start, json.loads(answer.splitlines()[-1])["peak_gib"]


def bench(n_cells: int, pairs: int, folder: Path) -> dict[str, Any]:
    import anndata

    path, quarter = folder / "cells.h5ad", folder / "quarter.h5ad"
    print(f"making {n_cells:,} synthetic cells ...", flush=True)
    make_cells(path, n_cells)
    make_cells(quarter, n_cells // 4)

    def fresh(side: str) -> Callable[[], None]:
        def work() -> None:
            shutil.rmtree(folder / side, ignore_errors=True)
            SIDES[side](path, folder / side)

        return work

    fresh("library")()  # compiles, or loads what numba has cached
    fresh("by hand")()
    warm = alternate(pairs, fresh("by hand"), fresh("library"))
    agree(folder)
    cold = [(in_new_process("by hand", path, folder), in_new_process("library", path, folder)) for _ in range(pairs)]
    small = in_new_process("library", quarter, folder)[1]

    matrix = anndata.read_h5ad(path)[: min(n_cells, 4000)].X.tocsr()
    if not np.array_equal(bins_by_hand(matrix), bins_by_library(matrix)):
        raise AssertionError("the two binnings differ")
    binning = alternate(pairs, lambda: bins_by_hand(matrix), lambda: bins_by_library(matrix))
    return {
        "n_cells": n_cells,
        "pairs": pairs,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "ranks_end_to_end_warm": warm | {"library_cells_per_s": n_cells / warm["library_s"]},
        "ranks_end_to_end_new_process": {
            "by_hand_s": statistics.median(hand[0] for hand, _ in cold),
            "library_s": statistics.median(ours[0] for _, ours in cold),
            "ratio": statistics.median(hand[0] / ours[0] for hand, ours in cold),
            "by_hand_peak_gib": statistics.median(hand[1] for hand, _ in cold),
            "library_peak_gib": statistics.median(ours[1] for _, ours in cold),
            "library_peak_gib_quarter_of_cells": small,
        },
        "bins": binning | {"n_cells": matrix.shape[0], "library_cells_per_s": matrix.shape[0] / binning["library_s"]},
    }


def agree(folder: Path) -> None:
    """A fast answer counts only if it is the same answer."""
    import datasets

    from scfm.tokenize import TokenizedCells

    by_hand, library = datasets.load_from_disk(str(folder / "by hand")), TokenizedCells.load(folder / "library")
    for cell in range(0, len(library), max(1, len(library) // 200)):
        if by_hand[cell]["input_ids"] != library[cell].tolist():
            raise AssertionError(f"cell {cell}: the two rank encodings differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the result as data/results/bench_tokenize.json")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        SIDES[args.side](args.input, args.out)
        print(json.dumps({"peak_gib": peak_memory()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = bench(args.cells, args.pairs, Path(folder))
    print(json.dumps(result, indent=1))
    if args.write:
        out = Path(__file__).resolve().parents[1] / "data" / "results" / "bench_tokenize.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}")


if __name__ == "__main__":
    main()
