"""From a vector to an answer: standardize, then one linear layer (or a small network) per column of labels.

Standardization is part of the head: its numbers come from the training cells only and are saved with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scfm.inside.seeded import seeded
from scfm.linear import linear_head, solve, standard

IGNORE = -100  # a cell without a label in this column (torch's own default for cross-entropy)


class Head(nn.Module):
    """(x - center) / scale, then for each column ``Linear(d, classes)`` or ``Linear, Tanh, Dropout, Linear``.

    The second is what BERT's pooler and classifier compute, so plain transformers can hold it.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self, d: int, classes: Mapping[str, Sequence[str]], kind: str = "linear", dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.kind = kind
        self.classes = {column: list(names) for column, names in classes.items()}
        self.register_buffer("center", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))
        with seeded(seed):
            self.readers = nn.ModuleList(_reader(d, len(names), kind, dropout) for names in self.classes.values())

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.center.device

    def forward(self, x: Tensor) -> list[Tensor]:
        """(cell, d) → logits (cell, class), one per column."""
        x = (x - self.center) / self.scale
        return [reader(x) for reader in self.readers]

    @torch.no_grad()
    def standardize(self, features: np.ndarray, scale: str) -> None:
        """Learn center and scale: one number for all features (``"common"``), one for each (``"each"``), or neither."""
        if scale == "none":
            return
        center, size = standard(features, scale)
        self.center.copy_(torch.from_numpy(center))
        self.scale.copy_(torch.as_tensor(size))

    @torch.no_grad()
    def solve(
        self,
        features: np.ndarray,
        targets: np.ndarray,
        weights: list[np.ndarray],
        scale: str | None = None,
        strength: float | None = None,
    ) -> None:
        """Standardize, and solve each linear reader as logistic regression: what :func:`scfm.linear.linear_head` does.

        targets: int64 (cell, column). weights: per column, the weight of each class. A scale or strength that is None is chosen inside
        these cells; several columns share the common scale.
        """
        given = [dict(enumerate(own)) for own in weights]
        if scale is None and len(self.readers) == 1:
            known = targets[:, 0] != IGNORE
            scale, strength = linear_head(features[known], targets[known, 0], given[0], None, strength).chosen
        self.standardize(features, scale or "common")
        x = ((torch.from_numpy(features).to(self.device) - self.center) / self.scale).cpu().numpy()
        for number, reader in enumerate(self.readers):
            assert isinstance(reader, nn.Linear)  # the small network is trained by gradient steps
            known = targets[:, number] != IGNORE
            classes, weight, bias, *_ = solve(x[known], targets[known, number], given[number], strength)
            for row, c in enumerate(classes):  # a class of this column without a training cell keeps logit -30
                reader.weight[c] = torch.from_numpy(weight[row])
                reader.bias[c] = float(bias[row])
            for c in set(range(len(reader.bias))) - set(classes.tolist()):
                reader.weight[c] = 0
                reader.bias[c] = -30.0

    @torch.no_grad()
    def folded(self, number: int = 0) -> tuple[Tensor, Tensor]:
        """Weight and bias of the first linear layer with the standardization inside: for networks that have none."""
        reader = self.readers[number]
        first: Any = reader if isinstance(reader, nn.Linear) else reader[0]  # type: ignore[index]
        weight = first.weight / self.scale
        return weight, first.bias - weight @ self.center


def _reader(d: int, n_classes: int, kind: str, dropout: float) -> nn.Module:
    if kind == "linear":
        return nn.Linear(d, n_classes)
    return nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Dropout(dropout), nn.Linear(d, n_classes))


def n_parameters(d: int, n_classes: Sequence[int], kind: str) -> int:
    """Weights of a head, by the formula: per column (d + 1)·classes, and (d + 1)·d more for the small network."""
    return sum((d + 1) * n + ((d + 1) * d if kind == "mlp" else 0) for n in n_classes)
