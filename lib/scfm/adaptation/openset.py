"""A type that nobody labelled: can a head say "none of these"? Four scores of strangeness, each higher for stranger cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scfm.linear import LinearHead, linear_head, softmax
from scfm.metrics import of_draw

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("1 - max softmax", "entropy", "energy", "Mahalanobis")


def strangeness(head: LinearHead, learned: np.ndarray, names: np.ndarray, features: np.ndarray) -> dict[str, np.ndarray]:  # fmt: skip
    """How strange each cell is to a head, by four scores; features (cell, d), learned (training cell, d) with their names.

    Max softmax: Hendrycks & Gimpel 2017 (arXiv:1610.02136); energy, minus the log of the summed exponentials of the logits:
    Liu et al. 2020 (arXiv:2010.03759); Mahalanobis: Lee et al. 2018 (arXiv:1807.03888).
    """
    logits = head.logits(features)
    probability = softmax(logits)
    highest = logits.max(axis=1)
    return {
        "1 - max softmax": 1 - probability.max(axis=1),
        "entropy": -(probability * np.log(np.maximum(probability, 1e-12))).sum(axis=1),
        "energy": -(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))),
        "Mahalanobis": mahalanobis(learned, names, features),
    }


def mahalanobis(learned: np.ndarray, names: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Squared distance of each cell to the nearest class mean, in units of the spread within classes: (cell,).

    The covariance is shared by the classes and shrunk (Ledoit & Wolf), because there are fewer labelled cells than features.
    """
    from sklearn.covariance import LedoitWolf

    classes = np.unique(names)
    means = np.stack([learned[names == c].mean(axis=0) for c in classes])  # (class, d)
    within = learned - means[np.searchsorted(classes, names)]
    precision = LedoitWolf(assume_centered=True).fit(within).precision_
    distances = []
    for mean in means:
        away = features - mean
        distances.append(np.einsum("cd,cd->c", away @ precision, away))
    return np.min(distances, axis=0)


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Share of pairs (known cell, unknown cell) in which the unknown one is the stranger; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(known), len(unknown)]), np.concatenate([known, unknown])))


def hold_out(
    features_of: Callable[[np.ndarray], Mapping[str, np.ndarray | Sequence[np.ndarray]]], names: np.ndarray, per_class: int,
    n_draws: int, seed: int = 0, most: int = 40,
) -> pd.DataFrame:  # fmt: skip
    """Hold out each type in turn; learn a head on ``per_class`` cells of each other type; rank known and unknown cells.

    features_of
        Indices of the cells that may be learned from → method → features (cell, d) of all cells. What is learned without labels
        (variable genes, components) comes from these cells alone. Neither the tested unknown nor the tested *known* cells are
        among them: components lie closer to the cells they were fitted on, so that new cells of either kind look different.
    most
        Cells of each type to test, known or unknown.

    Returns a long table: method, group (the held-out type), metric ("auroc " + score), seed (the draw), value.
    """
    import pandas as pd

    rows = []
    for stranger in np.unique(names):
        for draw in range(n_draws):
            rng = np.random.default_rng([seed, 4, draw])
            order = {c: rng.permutation(np.flatnonzero(names == c)) for c in np.unique(names)}
            others = [own for c, own in order.items() if c != stranger]
            train = np.concatenate([own[: min(per_class, int(0.6 * len(own)))] for own in others])
            known = np.concatenate([own[-min(most, int(0.4 * len(own))) :] for own in others])
            unknown = order[stranger][-most:]
            features = features_of(np.setdiff1d(np.flatnonzero(names != stranger), known))
            for method, given in features.items():
                x = of_draw(given, draw)
                head = linear_head(x[train], names[train])
                a, b = (strangeness(head, x[train], names[train], x[tested]) for tested in (known, unknown))
                rows += [(method, stranger, f"auroc {score}", draw, auroc(a[score], b[score])) for score in SCORES]
    return pd.DataFrame(rows, columns=["method", "group", "metric", "seed", "value"])
