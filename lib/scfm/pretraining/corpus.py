"""A corpus for pretraining: many datasets on one set of genes, its medians and its vocabulary.

Geneformer was made in three steps: collect cells, find what a usual count of each gene is, give each gene a token. Here
they are, exact and in memory, for the small corpora of this course.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from scfm import genes

SPECIAL = {genes.PAD: 0, genes.MASK: 1, genes.CLS: 2, genes.EOS: 3}


@dataclass
class Corpus:
    """Counts of many datasets on the union of their genes: ``counts`` (cell, gene) CSR, ``n_counts`` and ``dataset`` (cell,)."""

    counts: sp.csr_matrix
    n_counts: np.ndarray
    dataset: np.ndarray
    ensembl_ids: list[str]
    hashes: dict[str, str | None]

    def __len__(self) -> int:
        return self.counts.shape[0]


def read_corpus(names: list[str]) -> Corpus:
    """Read datasets (names or paths, as for ``scfm.load_dataset``) and lay them on the union of their Ensembl ids.

    Genes without an Ensembl id are left out; counts of columns that share one are summed.
    """
    from tqdm.auto import tqdm

    from scfm.datasets import load_dataset

    columns: dict[str, int] = {}
    parts, n_counts, dataset, hashes = [], [], [], {}
    for name in tqdm(names, desc="reading the corpus", unit="set"):
        adata = load_dataset(name)
        named = adata.var["ensembl_id"].astype(str).str.startswith("ENSG").to_numpy()
        adata_counts = adata.X.tocsr()[:, named].tocoo()
        column = np.array(
            [columns.setdefault(gene, len(columns)) for gene in adata.var["ensembl_id"].astype(str)[named]]
        )
        parts.append((adata_counts, column))
        n_counts.append(adata.obs["n_counts"].to_numpy(dtype=np.float64))
        dataset.append(np.full(adata.n_obs, Path(str(name)).stem))
        hashes[str(name)] = adata.uns["scfm"]["sha256"]
    stacked = sp.vstack(
        [sp.csr_matrix((c.data, (c.row, column[c.col])), shape=(c.shape[0], len(columns))) for c, column in parts],
        format="csr",
    )
    return Corpus(stacked, np.concatenate(n_counts), np.concatenate(dataset), list(columns), hashes)


def nonzero_medians(counts: sp.csr_matrix, n_counts: np.ndarray) -> np.ndarray:
    """Each gene's median over the cells that express it, of counts per 10,000. (gene,); NaN where no cell does.

    Exact, since a small corpus fits in memory; Geneformer's 30 million cells needed t-digests for the same number.
    """
    per_10k = sp.diags(1e4 / n_counts) @ counts
    by_gene = per_10k.tocsc()
    return np.array(
        [
            np.median(by_gene.data[start:end]) if end > start else np.nan
            for start, end in itertools.pairwise(by_gene.indptr)
        ]
    )


def make_vocabulary(corpus: Corpus, train: np.ndarray, name: str, min_cells: int, max_len: int) -> genes.RankVocabulary:
    """Give a token to every gene that enough training cells express, in the order of their Ensembl ids."""
    counts = corpus.counts[train]
    n_cells = np.bincount(counts.indices, minlength=counts.shape[1])
    medians = nonzero_medians(counts, corpus.n_counts[train])
    kept = sorted((corpus.ensembl_ids[g], g) for g in np.flatnonzero(n_cells >= min_cells))
    symbols = genes.ensembl_to_symbol()
    return genes.RankVocabulary(
        name=name,
        tokens={gene: number + len(SPECIAL) for number, (gene, _) in enumerate(kept)},
        medians={gene: float(medians[g]) for gene, g in kept},
        mapping={gene: gene for gene, _ in kept},
        symbols={gene: symbols.get(gene, "") for gene, _ in kept},
        special=SPECIAL,
        max_len=max_len,
    )


def gene_directions(
    corpus: Corpus, train: np.ndarray, known: np.ndarray, d: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where genes lie that are expressed in the same cells: a truncated SVD of which training cell expresses which gene.

    ``known``: bool (gene,) of the corpus. Returns float32 (known gene, d) of unit deviation, and the share of the training
    cells that express each (known gene,).
    """
    from sklearn.utils.extmath import randomized_svd

    presence = corpus.counts[train][:, known].astype(np.float32)
    presence.data[:] = 1.0
    _, _, components = randomized_svd(presence, n_components=d, random_state=seed)
    frequency = np.asarray(presence.mean(axis=0)).ravel()
    return np.ascontiguousarray(components.T / components.std(), dtype=np.float32), frequency
