"""A corpus for pretraining: many datasets on one set of genes, its medians and its vocabulary.

Geneformer was made in three steps: collect cells, find what a usual count of each gene is, give each gene a token. Here
they are, exact and in memory, for the small corpora of this course.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scfm import genes

if TYPE_CHECKING:
    import anndata

SPECIAL = {genes.PAD: 0, genes.MASK: 1, genes.CLS: 2, genes.EOS: 3}


@dataclass
class Corpus:
    """Counts of many datasets on the union of their genes: ``counts`` (cell, gene) CSR, ``n_counts`` and ``dataset`` (cell,).

    ``left_out``: which cells of a dataset are not in it, as dataset → column of ``obs`` → values.
    """

    counts: sp.csr_matrix
    n_counts: np.ndarray
    dataset: np.ndarray
    ensembl_ids: list[str]
    hashes: dict[str, str | None]
    left_out: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What a training log says of the corpus."""
        return {"corpus": self.hashes, "left_out": {name: dict(which) for name, which in self.left_out.items()}}

    def __len__(self) -> int:
        return self.counts.shape[0]


def read_corpus(names: list[str], left_out: Mapping[str, Mapping[str, list[str]]] | None = None) -> Corpus:
    """Read datasets (names or paths, as for ``scfm.load_dataset``) and lay them on the union of their Ensembl ids.

    Genes without an Ensembl id are left out; an id that a release replaced counts as the present one, and counts of columns
    that share an id are summed. ``left_out``: cells to leave out, as dataset → column of ``obs`` → values (a batch that
    another set of the corpus holds too, say).

    Raises
    ------
    ValueError
        A dataset has no such column, or no cell with one of the values.
    """
    from tqdm.auto import tqdm

    from scfm.datasets import load_dataset

    columns: dict[str, int] = {}
    parts, n_counts, dataset, hashes = [], [], [], {}
    left_out = left_out or {}
    for name in tqdm(names, desc="reading the corpus", unit="set"):
        adata = _without(load_dataset(name), name, left_out.get(name, {}))
        named = adata.var["ensembl_id"].astype(str).str.startswith("ENSG").to_numpy()
        adata_counts = adata.X.tocsr()[:, named].tocoo()
        column = np.array(
            [
                columns.setdefault(genes.present_id(gene), len(columns))
                for gene in adata.var["ensembl_id"].astype(str)[named]
            ]
        )
        parts.append((adata_counts, column))
        n_counts.append(adata.obs["n_counts"].to_numpy(dtype=np.float64))
        dataset.append(np.full(adata.n_obs, Path(str(name)).stem))
        hashes[str(name)] = adata.uns["scfm"]["sha256"]
    stacked = sp.vstack(
        [sp.csr_matrix((c.data, (c.row, column[c.col])), shape=(c.shape[0], len(columns))) for c, column in parts],
        format="csr",
    )
    return Corpus(stacked, np.concatenate(n_counts), np.concatenate(dataset), list(columns), hashes, left_out)


def _without(adata: anndata.AnnData, name: str, left_out: Mapping[str, list[str]]) -> anndata.AnnData:
    for column, values in left_out.items():
        there = adata.obs[column].astype(str) if column in adata.obs else None
        if there is None or (absent := sorted(set(values) - set(there))):
            missing = f"no column {column!r}" if there is None else f"no cell whose {column} is {', '.join(absent)}"
            raise ValueError(f"{name} has {missing}, so its cells to be left out cannot be told from the others.")
        adata = adata[~there.isin(values).to_numpy()].copy()
    return adata


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
    mapping = {gene: gene for gene, _ in kept}
    # ids that other releases give to a gene with a token
    mapping |= {old: new for old in symbols if (new := genes.present_id(old)) in mapping and old not in mapping}
    return genes.RankVocabulary(
        name=name,
        tokens={gene: number + len(SPECIAL) for number, (gene, _) in enumerate(kept)},
        medians={gene: float(medians[g]) for gene, g in kept},
        mapping=mapping,
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
