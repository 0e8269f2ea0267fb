"""One linear layer on fixed features: what reads every embedding and every baseline of the course, in the same way.

How strongly it is regularized, and how features are scaled, is chosen by cross-validation inside the labelled cells: for a
model and for its rivals alike, and never with a cell that is tested.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SCALES = ("common", "each")
STRENGTHS = (1e-2, 1e-1, 1.0, 1e1)  # scikit-learn's C: small = strongly regularized
FOLDS = 3  # of the labelled cells, or two where a class has two


@contextlib.contextmanager
def small_fit() -> Iterator[None]:
    """For a small classifier of scikit-learn: no word about convergence, and one thread of BLAS.

    One that has not quite converged is still a classifier; on a few hundred rows a second thread costs more than it brings
    (twice the time).
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")  # scored are those that are tested
        yield


@dataclass(frozen=True)
class LinearHead:
    """classes: str (class,) in alphabetical order; weight (class, d) and bias (class,) on (x - center) / scale.

    ``scale``: one number for all features ("common"), or one for each (d,). ``chosen``: which of the two, and C.
    """

    classes: np.ndarray
    center: np.ndarray
    scale: float | np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    chosen: tuple[str, float]

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


def linear_head(
    features: np.ndarray,
    names: Sequence[str] | np.ndarray,
    class_weight: Any = None,
    scale: str | None = None,
    strength: float | None = None,
) -> LinearHead:
    """Learn a logistic regression from features (cell, d) and one name per cell; center and scale come from these cells only.

    Parameters
    ----------
    class_weight
        None, "balanced", or {class: weight}.
    scale
        "common": all features are divided by one number, which keeps weak features weak. "each": each by its own deviation,
        which blows the last principal components up to the size of the first. None: the one that predicts held-out labelled
        cells better.
    strength
        C of scikit-learn; None: the one of :data:`STRENGTHS` that gives held-out labelled cells the highest likelihood.

    Raises
    ------
    ValueError
        Another ``scale``, or cells of one class only.
    """
    if scale is not None and scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; it can be 'common', 'each', or None (chosen inside the labelled cells).")
    names = np.asarray(names)
    found = {}
    for candidate in SCALES if scale is None else (scale,):
        center, size = standard(features, candidate)
        found[candidate] = (center, size, *solve((features - center) / size, names, class_weight, strength))
    candidate = max(found, key=lambda name: found[name][-1])  # the first of equals: "common"
    center, size, classes, weight, bias, chosen, _ = found[candidate]
    return LinearHead(classes.astype(str), center, size, weight, bias, (candidate, chosen))


def standard(features: np.ndarray, scale: str) -> tuple[np.ndarray, float | np.ndarray]:
    """Center (d,) and scale of features (cell, d): one number ("common") or one per feature ("each")."""
    center = features.mean(axis=0, dtype=np.float64)
    square = ((features - center) ** 2).mean(axis=0)
    if scale == "common":
        return center, max(float(np.sqrt(square.mean())), 1e-12)
    return center, np.where(square > 1e-24, np.sqrt(square), 1.0)


def solve(
    x: np.ndarray, names: np.ndarray, class_weight: Any = None, strength: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Logistic regression (scikit-learn's, L2) of standardized features (cell, d).

    Returns classes (class,), weight (class, d), bias (class,), the strength C, and the mean log likelihood of held-out labelled cells
    with it (NaN where C was given).
    """
    from sklearn.linear_model import LogisticRegression

    turned, back = (x, None) if x.shape[1] <= len(x) else _own_directions(x)
    score = float("nan")
    with small_fit():
        if strength is None:
            strength, score = _chosen_strength(turned, names, class_weight)
        found = LogisticRegression(C=strength, max_iter=500, class_weight=class_weight).fit(turned, names)
    weight, bias = found.coef_, found.intercept_
    if len(found.classes_) == 2:  # one row there, two logits here, with the same difference
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return found.classes_, weight if back is None else weight @ back, bias, strength, score


def _chosen_strength(x: np.ndarray, names: np.ndarray, class_weight: Any) -> tuple[float, float]:
    """C by stratified cross-validation, and its held-out mean log likelihood. A class with one cell has none to hold out."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    classes, counts = np.unique(names, return_counts=True)
    several = np.isin(names, classes[counts > 1])
    if (counts > 1).sum() < 2:
        return 1.0, float("nan")
    if isinstance(class_weight, dict):
        class_weight = {name: weight for name, weight in class_weight.items() if name in classes[counts > 1]}
    folds = StratifiedKFold(min(FOLDS, int(counts[counts > 1].min())), shuffle=True, random_state=0)
    search: Any = LogisticRegressionCV(
        Cs=list(STRENGTHS), cv=folds, scoring="neg_log_loss", class_weight=class_weight, refit=False,
        max_iter=50, tol=1e-2,  # near enough to compare, in half the time
        use_legacy_attributes=False, l1_ratios=(0.0,),
    ).fit(x[several], names[several])  # fmt: skip
    by_strength = np.asarray(search.scores_).reshape(-1, len(STRENGTHS)).mean(axis=0)
    best = int(by_strength.argmax())  # the first of equals: the strongest
    return STRENGTHS[best], float(by_strength[best])


def _own_directions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features wider than there are cells, in the cells' own directions: the same solution of an L2 penalty, found much sooner."""
    left, size, right = np.linalg.svd(x, full_matrices=False)
    return left * size, right


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of logits (cell, class); a temperature above 1 makes them softer."""
    shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
    return np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
