"""What a foundation model has to beat: normalized counts, highly variable genes, PCA, MDS, Harmony.

They are cheap, need no pretraining and stand in the same table as the models in every lesson.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.linear import small_fit

if TYPE_CHECKING:
    import anndata
    import scipy.sparse as sp


def log_normalize(adata: anndata.AnnData) -> sp.csr_matrix:
    """log(1 + counts per 10,000 of the whole cell). (cell, gene) CSR float32; ``adata`` is left as it is."""
    import scipy.sparse as sp

    totals = np.maximum(adata.obs["n_counts"].to_numpy(dtype=np.float64), 1.0)
    return (sp.diags(1e4 / totals) @ sp.csr_matrix(adata.X)).log1p().astype(np.float32).tocsr()


def variable_genes(adata: anndata.AnnData, n_genes: int = 2000, batches: Sequence[str] | None = None) -> np.ndarray:
    """Columns of the highly variable genes (scanpy, flavour "seurat"): genes that vary more than others of their mean.

    With ``batches`` (cell,) genes are chosen within each and those taken that most agree on, so that a gene is not chosen because it differs
    between the batches.
    """
    import anndata as ad
    import scanpy as sc

    if adata.n_vars <= n_genes:
        return np.arange(adata.n_vars)
    work = ad.AnnData(log_normalize(adata))
    if batches is not None:
        work.obs["batch"] = np.asarray(batches).astype(str)
    sc.pp.highly_variable_genes(
        work, n_top_genes=n_genes, flavor="seurat", batch_key=None if batches is None else "batch"
    )
    return np.flatnonzero(work.var["highly_variable"].to_numpy())


def hvg_matrix(
    adata: anndata.AnnData, n_genes: int = 2000, clip: float = 10.0, batches: Sequence[str] | None = None
) -> np.ndarray:
    """Log-normalized, scaled highly variable genes: scanpy's usual input to PCA. (cell, gene) float32."""
    dense = log_normalize(adata)[:, variable_genes(adata, n_genes, batches)].toarray()
    deviation = dense.std(axis=0)
    return np.clip((dense - dense.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0), -clip, clip)


def pca(
    adata: anndata.AnnData,
    n_components: int = 50,
    n_genes: int = 2000,
    seed: int = 0,
    batches: Sequence[str] | None = None,
) -> np.ndarray:
    """Principal components of the highly variable genes, the field's default embedding. (cell, n_components) float32."""
    from sklearn.decomposition import PCA

    matrix = hvg_matrix(adata, n_genes, batches=batches)
    n_components = min(n_components, min(matrix.shape) - 1)
    # exact and the same on every run; cheap, because there are never many genes
    solver = "covariance_eigh" if matrix.shape[1] <= 5000 else "arpack"
    return PCA(n_components, svd_solver=solver, random_state=seed).fit_transform(matrix).astype(np.float32)


def mds(
    adata: anndata.AnnData, n_components: int = 10, n_genes: int = 2000, seed: int = 0, max_iter: int = 100
) -> np.ndarray:
    """Metric multidimensional scaling of the highly variable genes. (cell, n_components) float32.

    It moves points until their distances match those between the cells (SMACOF). Time and memory grow with the square of
    the cells. Classical MDS of Euclidean distances would be PCA itself; this is the other, iterative kind.
    """
    from sklearn.manifold import MDS

    if adata.n_obs > 6000:
        raise ValueError(f"MDS of {adata.n_obs:,} cells needs all pairs of them; give it at most 6,000.")
    start = pca(adata, n_components, n_genes, seed)
    scaling = MDS(n_components=n_components, n_init=1, max_iter=max_iter, random_state=seed, init="random")
    return scaling.fit_transform(hvg_matrix(adata, n_genes), init=start).astype(np.float32)


def harmony(embedding: np.ndarray, batches: Sequence[str], seed: int = 0) -> np.ndarray:
    """Move the batches of an embedding onto each other. (cell, d) float32; Korsunsky et al. 2019 (10.1038/s41592-019-0619-0)."""
    import harmonypy
    import pandas as pd

    names = np.asarray(batches).astype(str)
    if len(set(names)) < 2:
        raise ValueError("Harmony needs at least two batches; this set has one.")
    found = harmonypy.run_harmony(
        np.asarray(embedding, np.float64), pd.DataFrame({"batch": names}), "batch", verbose=False, random_state=seed
    )
    corrected = np.asarray(found.Z_corr)
    return (corrected if corrected.shape == embedding.shape else corrected.T).astype(np.float32)


def gene_features(
    adata: anndata.AnnData, learned: np.ndarray | None = None, n_genes: int = 2000, n_components: int = 50
) -> dict[str, np.ndarray]:
    """Scaled variable genes and their principal components of all cells, both chosen on the cells ``learned`` alone.

    A donor that is tested, or a type that nobody expects, must not choose the genes. With ``learned=None`` all cells choose,
    which gives :func:`scfm.hvg_matrix` and :func:`scfm.pca`.

    Returns {"HVG": float32 (cell, gene), "PCA": float32 (cell, component)}.
    """
    from sklearn.decomposition import PCA

    learned = np.arange(adata.n_obs) if learned is None else learned
    genes = variable_genes(adata[learned], n_genes)
    dense = log_normalize(adata)[:, genes].toarray()
    deviation = dense[learned].std(axis=0)
    scaled = (dense - dense[learned].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    scaled = np.clip(scaled, -10, 10).astype(np.float32)
    n_components = min(n_components, min(len(learned), len(genes)) - 1)
    components = PCA(n_components, svd_solver="covariance_eigh").fit(scaled[learned])
    return {"HVG": scaled, "PCA": components.transform(scaled).astype(np.float32)}


def celltypist_answers(counts: Any, train: np.ndarray, names: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, int]:
    """The recipe of CellTypist (Domínguez Conde et al. 2022, 10.1126/science.abl5197): answers for ``test``, and parameters.

    counts: log-normalized CSR (cell, gene), all genes. Each gene by its own deviation, cut at 10, then one logistic regression
    per type against all others. Its package 1.7.1 passes ``multi_class`` to scikit-learn, which took that argument out, so
    that the recipe stands here in its own words.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import StandardScaler

    expressed = np.flatnonzero(np.asarray(counts[train].sum(axis=0)).ravel() > 0)
    scaler = StandardScaler().fit(counts[train][:, expressed].toarray())
    own, other = (np.minimum(scaler.transform(counts[rows][:, expressed].toarray()), 10) for rows in (train, test))
    with small_fit():
        found = OneVsRestClassifier(LogisticRegression(max_iter=200)).fit(own, names[train])
    return found.predict(other).astype(str), sum(e.coef_.size + e.intercept_.size for e in found.estimators_)
