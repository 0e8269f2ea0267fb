"""A linear head on any features, and the gene features it is compared with.

The head is logistic regression with its standardization inside, the same numbers as :class:`scfm.adaptation.heads.Head`, in numpy:
a head on a cached embedding takes milliseconds, so that hundreds of draws of labels cost seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import baselines
from scfm.metrics import small_fit

if TYPE_CHECKING:
    import anndata


@dataclass(frozen=True)
class LinearHead:
    """classes: str (class,) in alphabetical order; weight (class, d) and bias (class,) on (x - center) / scale."""

    classes: np.ndarray
    center: np.ndarray
    scale: float
    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(cell, d) → (cell, class)."""
        return (features - self.center) / self.scale @ self.weight.T + self.bias

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(cell, d) → the most probable class, str (cell,)."""
        return self.classes[self.logits(features).argmax(axis=1)]

    @property
    def n_parameters(self) -> int:
        """Trained numbers: (d + 1) · classes."""
        return self.weight.size + self.bias.size


def linear_head(features: np.ndarray, names: Sequence[str] | np.ndarray, class_weight: Any = None) -> LinearHead:
    """Learn a head from features (cell, d) and one name per cell; center and scale come from these cells only.

    class_weight: None, "balanced", or {class: weight}. As :func:`scfm.adapt` with ``method="head"`` does it.
    """
    from sklearn.linear_model import LogisticRegression

    center = features.mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(np.mean((features - center) ** 2))), 1e-12)
    with small_fit():
        found = LogisticRegression(max_iter=500, class_weight=class_weight).fit((features - center) / scale, names)
    weight, bias = found.coef_, found.intercept_
    if len(found.classes_) == 2:  # one row there, two logits here, with the same difference
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearHead(np.asarray(found.classes_).astype(str), center, scale, weight, bias)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of logits (cell, class); a temperature above 1 makes them softer."""
    shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
    return np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)


def gene_features(
    adata: anndata.AnnData, learned: np.ndarray | None = None, n_genes: int = 2000, n_components: int = 50
) -> dict[str, np.ndarray]:
    """Scaled variable genes and their principal components of all cells, both chosen on the cells ``learned`` alone.

    A donor that is tested, or a type that nobody expects, must not choose the genes. With ``learned=None`` all cells choose,
    which gives :func:`scfm.baselines.hvg_matrix` and :func:`scfm.baselines.pca`.

    Returns {"HVG": float32 (cell, gene), "PCA": float32 (cell, component)}.
    """
    from sklearn.decomposition import PCA

    learned = np.arange(adata.n_obs) if learned is None else learned
    genes = baselines.variable_genes(adata[learned], n_genes)
    dense = baselines.log_normalize(adata)[:, genes].toarray()
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
