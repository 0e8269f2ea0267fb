"""Classes of genes, for ``adapt(level="gene")``: families that a symbol gives away, and the label files of Geneformer's paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import baselines, metrics
from scfm.store import cache

if TYPE_CHECKING:
    import anndata
    import pandas as pd

# root symbols of gene families (HGNC): what every cell runs on, and what cells of the immune system wear and send
FAMILIES = {
    "machinery": r"RP[LS]\d|MRP[LS]\d|NDUF|ATP5|COX\d|UQCR|PSM[A-G]\d|TIMM|TOMM|EIF\d|SNRP|POLR|SF3|CCT\d|LSM\d|HNRNP|SDH[A-D]|SRSF",
    "immune": r"CD\d|HLA-|IL\d|CCL|CCR|CXC[LR]|KLR|GZM|TNF|IFI|FC[EG]R|FCRL|LILR|TLR\d|LY\d|LTB|IG[LH]|MS4A|S100A|PRF1|GNLY|NKG7|ISG",
}
DOSAGE = "dictionaries/geneformer/labels/dosage_sens_tf_labels.csv"


def by_symbol(symbols: Iterable[str]) -> dict[str, str]:
    """Gene symbol → ``"machinery"`` or ``"immune"``, of those symbols that belong to one of :data:`FAMILIES`."""
    patterns = {name: re.compile(f"({pattern})") for name, pattern in FAMILIES.items()}
    return {symbol: name for symbol in symbols for name, pattern in patterns.items() if pattern.match(symbol)}


def dosage_sensitive() -> dict[str, str]:
    """Ensembl id → ``"dosage_sensitive"`` or ``"dosage_insensitive"``: the transcription factors of Theodoris et al. 2023.

    Raises
    ------
    FileNotFoundError
        The file of labels is in none of the folders of ``SCFM_CACHE``.
    """
    import pandas as pd

    path = cache.find(DOSAGE)
    if path is None:
        raise FileNotFoundError(f"No folder of SCFM_CACHE has {DOSAGE}; it comes with Geneformer's published examples.")
    table = pd.read_csv(path)
    return {gene: str(column) for column in table for gene in table[column].dropna().astype(str)}


def contest(
    networks: Mapping[str, Any], adata: anndata.AnnData, labels: dict[str, str], max_len: int | None = None, per_class: int = 20,
    n_draws: int = 20, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What frozen networks of one vocabulary know of genes, on genes that were kept aside, beside what their counts in these cells say.

    ``networks``: name → model, "pretrained" among them, and for comparison its random twin and its warm start.
    A gene's vector is its mean over the cells that have it, as ``adapt(level="gene", method="head")`` reads it. Beside it: mean,
    share of cells and spread of its log counts; 20 principal components of its counts over the cells; and shuffled labels. Genes
    that no sentence holds take no part. Long table of :func:`scfm.metrics.probe`.
    """
    import pandas as pd

    from scfm.adaptation.adapting import adapt
    from scfm.genes import ensembl_to_symbol

    cells = networks["pretrained"].tokenize(adata, max_len=max_len)
    how: dict[str, Any] = {"level": "gene", "dtype": "float32", "validation": 0, "progress": False}
    vectors = {
        name: adapt(m, cells, labels, "head", **how).embed(cells, progress=False) for name, m in networks.items()
    }
    symbol = ensembl_to_symbol()
    class_of = {g: labels.get(g) or labels.get(symbol.get(g, "")) for g in vectors["pretrained"].index}
    place = {g: i for column in ("gene_symbol", "ensembl_id") for i, g in enumerate(adata.var[column].astype(str))}
    chosen = [g for g, name in class_of.items() if name and g in place]
    kinds = np.array([class_of[g] for g in chosen])
    counts = baselines.log_normalize(adata)[:, [place[g] for g in chosen]].toarray().T  # (gene, cell)
    features = {name: v.loc[chosen].to_numpy(np.float32) for name, v in vectors.items()}
    features["mean, share, spread"] = np.c_[counts.mean(1), (counts > 0).mean(1), counts.std(1)]
    u, s, _ = np.linalg.svd(counts - counts.mean(axis=0), full_matrices=False)
    features["its counts, 20 PCs"] = u[:, :20] * s[:20]
    found = metrics.probe(features, kinds, per_class, n_draws, seed)
    control = {"shuffled labels": features["pretrained"]}
    shuffled = metrics.probe(control, kinds, per_class, n_draws, seed, shuffle_labels=True)
    table = pd.concat([found, shuffled], ignore_index=True)
    table.attrs["n_genes"] = {str(k): int(n) for k, n in zip(*np.unique(kinds, return_counts=True), strict=True)}
    return table
