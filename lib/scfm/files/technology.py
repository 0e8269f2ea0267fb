"""A second technology, simulated: where a lesson needs batches and nothing with batches is bundled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import anndata


def simulate_batch(
    adata: anndata.AnnData, seed: int = 0, depth: float = 0.5, spread: float = 0.5, dropout: float = 0.1
) -> anndata.AnnData:
    """Send half of the cells of every type through a simulated second technology → ``obs["batch"]`` "original" or "simulated".

    The technology, in three steps that are all losses, so that counts stay counts:

    1. depth: of every molecule a share of ``depth`` is seen;
    2. gene-wise efficiency: that share times exp(N(-s²/2, s²)), s = ``spread``, one factor per gene for all cells, at most 1;
       seen = Binomial(count, share);
    3. dropout: an entry with x seen molecules is lost with probability ``dropout`` to the power of x.

    ``n_counts`` loses what its genes lose; what the whole cell has beyond the matrix is thinned by ``depth``. The same cells
    and the same seed give the same result.
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    second = np.zeros(adata.n_obs, dtype=bool)
    for name in np.unique(types):
        rows = rng.permutation(np.flatnonzero(types == name))
        second[rows[: len(rows) // 2]] = True
    share = np.minimum(depth * np.exp(rng.normal(-(spread**2) / 2, spread, adata.n_vars)), 1.0)

    out = adata.copy()
    changed = np.repeat(second, np.diff(out.X.indptr))
    before = out.X.data[changed].astype(np.int64)
    seen = rng.binomial(before, share[out.X.indices[changed]])
    seen[rng.random(len(seen)) < dropout**seen] = 0
    summed = np.asarray(adata.X.sum(axis=1, dtype=np.float64)).ravel()
    out.X.data[changed] = seen
    out.X.eliminate_zeros()
    beyond = np.rint(np.maximum(adata.obs["n_counts"].to_numpy(np.float64) - summed, 0)).astype(np.int64)
    beyond = np.where(second, rng.binomial(beyond, depth), beyond)
    out.obs["n_counts"] = np.asarray(out.X.sum(axis=1, dtype=np.float64)).ravel() + beyond
    out.obs["batch"] = pd.Categorical(np.where(second, "simulated", "original"), categories=["original", "simulated"])
    about = adata.uns["scfm"]
    out.uns["scfm"] = {
        **about,
        "name": f"{about['name']}-2batch",
        "title": f"{about['title']}, with a simulated second batch",
        "batch": "simulated",
        "simulated": True,
        "simulation": {"seed": seed, "depth": depth, "spread": spread, "dropout": dropout},
    }
    return out
