"""The baselines: normalization, variable genes, PCA, MDS, Harmony."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scfm import baselines


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    """120 cells of 3 types in 2 batches, 300 genes; counts of the whole cell are higher than those in X."""
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.3, 1.0, (3, 300))
    kind = np.repeat(range(3), 40)
    counts = rng.poisson(profile[kind] * rng.uniform(0.5, 2.0, (120, 1)))
    obs = pd.DataFrame({"n_counts": counts.sum(1) * 2.0, "type": kind}, index=[f"cell{i}" for i in range(120)])
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs)


def test_log_normalize_uses_the_whole_cells_total_and_leaves_the_counts_alone(adata) -> None:
    before = adata.X.copy()
    found = baselines.log_normalize(adata)
    totals = adata.obs["n_counts"].to_numpy()
    expected = np.log1p(before.toarray() / totals[:, None] * 1e4)
    assert np.allclose(found.toarray(), expected, rtol=1e-5)
    assert (before != adata.X).nnz == 0


def test_log_normalize_of_an_empty_cell_is_zero_not_nan(adata) -> None:
    empty = adata.copy()
    empty.X.data[: empty.X.indptr[1]] = 0
    empty.obs.loc["cell0", "n_counts"] = 0
    assert np.isfinite(baselines.log_normalize(empty).toarray()).all()


def test_depth_does_not_change_the_normalized_values(adata) -> None:
    deeper = adata.copy()
    deeper.X = deeper.X * 7
    deeper.obs["n_counts"] *= 7
    assert np.allclose(baselines.log_normalize(deeper).toarray(), baselines.log_normalize(adata).toarray(), rtol=1e-5)


def test_variable_genes_finds_the_genes_that_vary(adata) -> None:
    rng = np.random.default_rng(1)
    mean = np.tile(np.exp(rng.uniform(0, 3, 300)), (200, 1))  # the method compares genes of similar mean
    mean[:100, :50] *= 1.8  # the first 50 genes tell two halves of the cells apart, the others only scatter
    mean[100:, :50] *= 0.2
    counts = rng.poisson(mean).astype(np.float32)
    two_types = ad.AnnData(
        sp.csr_matrix(counts), obs=pd.DataFrame({"n_counts": counts.sum(1)}, index=map(str, range(200)))
    )
    chosen = baselines.variable_genes(two_types, 50)
    assert len(chosen) == 50
    assert (chosen < 50).mean() > 0.9
    assert len(baselines.variable_genes(adata, 1000)) == adata.n_vars


def test_pca_is_the_svd_up_to_signs(adata) -> None:
    matrix = baselines.hvg_matrix(adata)
    u, s, _ = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    found = baselines.pca(adata, 3)
    for i in range(3):
        assert abs(np.corrcoef(u[:, i] * s[i], found[:, i])[0, 1]) > 0.999
    assert baselines.pca(adata, 500).shape[1] < 120  # never more components than cells


def test_mds_keeps_distances(adata) -> None:
    matrix, points = baselines.hvg_matrix(adata), baselines.mds(adata, 10)
    near, far = (np.linalg.norm(x[:, None] - x[None], axis=2)[np.triu_indices(120, 1)] for x in (matrix, points))
    assert np.corrcoef(near, far)[0, 1] > 0.8


def test_harmony_mixes_batches_and_keeps_the_shape() -> None:
    rng = np.random.default_rng(0)
    kind, batch = np.repeat(range(3), 100), np.tile(["x", "y"], 150)
    embedding = rng.normal(0, 5, (3, 10))[kind] + rng.normal(size=(300, 10)) + 3.0 * (batch == "y")[:, None]
    fixed = baselines.harmony(embedding.astype(np.float32), batch)

    def gap(x: np.ndarray) -> float:
        return float(np.linalg.norm(x[batch == "x"].mean(0) - x[batch == "y"].mean(0)))

    assert fixed.shape == embedding.shape
    assert gap(fixed) < 0.4 * gap(embedding)
    with pytest.raises(ValueError, match="at least two batches"):
        baselines.harmony(embedding, ["x"] * 300)
