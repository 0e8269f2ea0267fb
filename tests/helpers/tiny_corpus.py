"""Cells like those of a small corpus, and small models that know their genes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import tiny_geneformer
import tiny_scgpt

from scfm.genes import SymbolVocabulary
from scfm.models.scgpt import ScGPT

N_GENES = 160


def adata(n_cells: int = 60, seed: int = 0, n_genes: int = N_GENES) -> ad.AnnData:
    """Cells of two types, each with genes of its own: raw counts in the course's schema."""
    rng = np.random.default_rng(seed)
    types = np.where(rng.random(n_cells) < 0.5, "B", "T")
    own = np.where(types == "B", 0, n_genes // 4)[:, None] + np.arange(n_genes // 4)  # (cell, gene)
    mean = np.full((n_cells, n_genes), 0.7)
    np.put_along_axis(mean, own, 3.0, axis=1)
    counts = rng.poisson(mean).astype(np.float32)
    obs = pd.DataFrame({"n_counts": counts.sum(1), "cell_type": types}, index=[f"c{i}" for i in range(n_cells)])
    ids = [f"ENSG{i:011d}" for i in range(n_genes)]
    var = pd.DataFrame({"ensembl_id": ids, "gene_symbol": [f"GENE{i}" for i in range(n_genes)]}, index=ids)
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)


def model(kind: str = "geneformer"):
    if kind == "geneformer":
        return tiny_geneformer.model(hidden_dropout_prob=0.0)
    special = {"<pad>": N_GENES, "<cls>": N_GENES + 1, "<eoc>": N_GENES + 2}
    vocabulary = SymbolVocabulary("tiny", {f"GENE{i}": i for i in range(N_GENES)}, special)
    tokens = {"vocab_size": N_GENES + 3, "pad_token_id": N_GENES, "cls_token_id": N_GENES + 1, "dropout": 0.0}
    return ScGPT(tiny_scgpt.network(**tokens, if_expressed=True, zero_prob=True), vocabulary, "tiny")
