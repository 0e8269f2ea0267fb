"""An atlas of generated cells through `make atlas`: cells per second and the largest process at 10k, 100k and 1M cells.

    make bench-atlas                          all three sizes, one job at a time (hours on a laptop)
    make bench-atlas ARGS="--cells 10000 100000 --jobs 2"

Cells have about 500 genes each (of which the mini reads the 256 that stand out most) and are written in chunks into a scratch folder that is deleted afterwards. The clock covers the
whole workflow: reading, tokenizing, embedding with geneformer-mini, gathering, and every process start. Two things must hold:
no process takes over 3 GiB, and the speeds at all sizes lie within 25 % of each other. Writes data/results/bench_atlas.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from coursekit.machine.facts import cpu_name
from coursekit.rerun import atlas
from scfm.genes import RankVocabulary
from scfm.store.cache import repo_data

GENES_PER_CELL, CHUNK = 500, 20_000
LIMIT_GIB, SPREAD = 3.0, 0.25


def make_cells(path: Path, n_cells: int, genes: list[str], seed: int = 0) -> None:
    """Write generated cells, CSR, a chunk at a time: few genes are in most cells, most genes in few."""
    rng = np.random.default_rng(seed)
    chance = rng.lognormal(0, 1.6, len(genes))
    chance *= GENES_PER_CELL / chance.sum()
    for _ in range(50):
        chance = np.minimum(0.95, chance * GENES_PER_CELL / np.minimum(0.95, chance).sum())
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = file.create_group("X")
        matrix.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_cells, len(genes)]}
        )
        data, indices = (
            matrix.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1 << 18,))
            for name, kind in (("data", "f4"), ("indices", "i4"))
        )
        indptr = np.zeros(n_cells + 1, np.int64)
        totals = np.zeros(n_cells, np.float32)
        for first in range(0, n_cells, CHUNK):
            n = min(CHUNK, n_cells - first)
            rows, columns = _draw(rng, chance, n)
            counts = 1 + rng.poisson(0.6, len(columns)).astype(np.float32)
            lengths = np.bincount(rows, minlength=n)
            indptr[first + 1 : first + n + 1] = indptr[first] + np.cumsum(lengths)
            totals[first : first + n] = np.bincount(rows, counts, minlength=n)
            for stored, values in ((data, counts), (indices, columns)):
                stored.resize((indptr[first + n],))
                stored[indptr[first] :] = values
        matrix.create_dataset("indptr", data=indptr)
        _frame(file, "obs", [f"cell{i}" for i in range(n_cells)], {"n_counts": totals})
        _frame(file, "var", genes, {"ensembl_id": genes, "gene_symbol": genes})


def _draw(rng: np.random.Generator, chance: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which genes each of n cells has: (cell, gene) pairs in order, some hundred cells at a time to keep the table small."""
    pairs = []
    for first in range(0, n, 500):
        cells, genes = np.nonzero(rng.random((min(500, n - first), len(chance)), np.float32) < chance)
        pairs.append((cells + first, genes.astype(np.int32)))
    return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])


def _frame(file: h5py.File, name: str, index: list[str], columns: dict) -> None:
    group = file.create_group(name)
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    group.attrs["column-order"] = list(columns)
    for key, values in {"_index": index, **columns}.items():
        if isinstance(values, list):
            stored = group.create_dataset(key, data=values, dtype=h5py.string_dtype())
            stored.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        else:
            group.create_dataset(key, data=values).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def measure(folder: Path, n_cells: int, jobs: int, per_shard: int, dtype: str, genes: list[str]) -> dict:
    """Generate, embed, and look at the result; returns what was measured."""
    path = folder / f"cells{n_cells}.h5ad"
    make_cells(path, n_cells, genes)
    begin = time.perf_counter()
    own = atlas.plan(folder, path, cells_per_shard=per_shard, dtype=dtype)
    made = atlas.make(own, jobs)
    seconds = time.perf_counter() - begin
    if not made:
        sys.exit(atlas.words(own, made))
    report = json.loads((own.folder / "report.json").read_text())
    with h5py.File(own.embedding) as file:
        assert file["X"].shape == (n_cells, 128)
        assert np.isfinite(file["X"][-1000:]).all()
    with h5py.File(path) as file:
        n_values = len(file["X/data"])
    size = path.stat().st_size
    shutil.rmtree(own.folder)
    path.unlink()
    return {
        "cells": n_cells,
        "genes_per_cell": n_values / n_cells,
        "tokens_per_cell": report["n_tokens"] / n_cells,  # the mini reads the first 256
        "input_gib": size / 2**30,
        "shards": report["n_shards"],
        "seconds": seconds,
        "cells_per_second": n_cells / seconds,
        "seconds_in_shards": report["shard_seconds"],
        "seconds_gathering": report["gather_seconds"],
        "peak_gib": report["peak_memory"] / 2**30,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cells-per-shard", type=int, default=atlas.CELLS_PER_SHARD)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--folder", type=Path, help="where to put the scratch folder (8 GB for a million cells)")
    parser.add_argument("--no-json", action="store_true", help="measure, and do not store")
    args = parser.parse_args()
    genes = [
        gene
        for gene in RankVocabulary.load(repo_data() / "models" / "geneformer-mini").tokens
        if gene.startswith("ENSG")
    ]
    rows = []
    print(
        f"{'cells':>9} {'genes/cell':>10} {'tokens':>7} {'shards':>7} {'seconds':>9} {'cells/s':>8} {'largest process':>16}"
    )
    for n_cells in args.cells:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-atlas-") as scratch:
            row = measure(Path(scratch), n_cells, args.jobs, args.cells_per_shard, args.dtype, genes)
        rows.append(row)
        print(
            f"{n_cells:>9,} {row['genes_per_cell']:>10.0f} {row['tokens_per_cell']:>7.0f} {row['shards']:>7} {row['seconds']:>9.1f} "
            f"{row['cells_per_second']:>8.1f} {row['peak_gib']:>12.2f} GiB",
            flush=True,
        )
    speeds = [row["cells_per_second"] for row in rows]
    spread = max(speeds) / min(speeds) - 1
    largest = max(row["peak_gib"] for row in rows)
    print(
        f"Speeds differ by {spread:.0%} (limit {SPREAD:.0%}); the largest process took {largest:.2f} GiB (limit {LIMIT_GIB:.0f})."
    )
    if not args.no_json:
        content = {
            "machine": f"{cpu_name()}, {platform.system()}",
            "jobs": args.jobs,
            "cells_per_shard": args.cells_per_shard,
            "dtype": args.dtype,
            "sizes": rows,
        }
        (repo_data() / "results" / "bench_atlas.json").write_text(json.dumps(content, indent=1) + "\n")
    return int(spread > SPREAD or largest > LIMIT_GIB)


if __name__ == "__main__":
    raise SystemExit(main())
