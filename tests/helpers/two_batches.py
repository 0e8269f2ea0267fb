"""A small study of two batches, and quick settings to fine-tune on it."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import tiny_scgpt as tiny

PARTS = {"num_batches": 2, "batch_tokens": True, "adversarial": True, "num_classes": 3, "zero_prob": True}


QUICK = {"n_genes": 40, "minibatch": 16, "learning_rate": 3e-3, "decay": 1.0, "epochs": 8, "progress": False}


ALL = ("GEP", "GEPC", "ECS", "DAR", "CLS")


def study_of(n_cells: int = 48, seed: int = 0) -> anndata.AnnData:
    """Counts of three types, each with its own ten genes, in two batches of which one sees half as much."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(0, 3, n_cells), rng.integers(0, 2, n_cells)
    rate = np.full((n_cells, tiny.N_GENES), 0.3)
    for row, k in enumerate(kind):
        rate[row, 10 * k : 10 * k + 10] = 6
    counts = rng.poisson(rate * np.where(batch, 0.5, 1)[:, None])
    counts[:, 0] += 1  # no empty cell
    symbols = [f"GENE{i}" for i in range(tiny.N_GENES)]
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {k}" for k in kind]),
            "batch": pd.Categorical([f"batch {b}" for b in batch]),
            "n_counts": counts.sum(1).astype(float),
        },
        index=[f"cell {i}" for i in range(n_cells)],
    )
    var = pd.DataFrame({"gene_symbol": symbols, "ensembl_id": ""}, index=symbols)
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
