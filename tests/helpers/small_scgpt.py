"""Small scGPTs and studies for the tests of generation."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import tiny_scgpt as tiny
import torch


def network(seed: int = 0, **options):
    """As tiny.network, with values that spread over the bins, so that nothing is hidden by the clamp at 0 and 50."""
    made = tiny.network(seed, **({"zero_prob": True} | options))
    with torch.no_grad():
        made.decoder.fc[4].weight.mul_(60)
        made.decoder.fc[4].bias.fill_(25)
        if made.mvc_decoder is not None:
            made.mvc_decoder.W.weight.mul_(10)
    return made


def study(n_each: int = 40, seed: int = 0) -> ad.AnnData:
    """Three types with programs of their own, two columns outside the vocabulary, one gene in two columns."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c"], n_each)
    mean = np.full((3, tiny.N_GENES + 3), 0.6)
    for number in range(3):
        mean[number, 10 * number : 10 * number + 10] = 4
    depth = rng.uniform(0.5, 1.5, (len(labels), 1))
    table = rng.poisson(depth * mean[np.repeat(np.arange(3), n_each)]).astype(np.float32)
    symbols = [*tiny.VOCABULARY.tokens, "OTHER1", "OTHER2", "GENE7"]
    adata = ad.AnnData(
        sp.csr_matrix(table), pd.DataFrame({"cell_type": labels}, index=np.arange(len(labels)).astype(str))
    )
    adata.var_names = [f"column{i}" for i in range(len(symbols))]
    adata.var["gene_symbol"], adata.var["ensembl_id"] = symbols, symbols
    adata.obs["n_counts"] = table.sum(1)
    return adata
