"""What there is to learn, in the form that the training loop takes: cells with classes, or genes with classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfm.adaptation.features import Reader
from scfm.adaptation.heads import IGNORE
from scfm.adaptation.labels import Labels
from scfm.adaptation.loop import Task
from scfm.tokenized import TokenizedCells

GENES_ARE_WATCHED_IN = 200  # cells: enough to see whether the loss of genes kept aside still falls


class CellTasks:
    """Cells with classes: each cell is an example with one row."""

    def __init__(self, reader: Reader, cells: TokenizedCells, known: Labels, weights: list[np.ndarray]) -> None:
        self.reader, self.cells, self.known, self.weights = reader, cells, known, weights

    def start(self, learned: np.ndarray, progress: bool) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets that the head's first weights are learned from."""
        return self.reader.all(self.cells[learned], None, progress), self.known.targets[learned]

    def of(self, examples: np.ndarray) -> Task:
        """The task of these cells, run through the network at every step."""
        return Task(
            lambda some: self.reader(self.cells[some]),
            lambda some: self.known.targets[some],
            examples,
            self.cells.lengths,
            self.weights,
        )

    watch = of


class GeneTasks:
    """Genes with classes: each cell is an example, each of its tokens of a labelled gene a row.

    A gene has one vector per cell that expresses it. Whole genes are kept aside to watch, never single tokens of one.
    """

    def __init__(
        self, reader: Reader, cells: TokenizedCells, known: Labels, tokens: np.ndarray, weights: list[np.ndarray],
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.reader, self.cells = reader, reader.cut(cells)
        self.known, self.tokens, self.weights, self.seed = known, tokens, weights, seed

    def start(self, learned: np.ndarray, progress: bool) -> tuple[np.ndarray, np.ndarray]:
        """As above; a gene's features are their mean over the cells that have it."""
        ids, features, _ = self.reader.all_genes(self.cells, None, progress)
        place = {int(token): row for row, token in enumerate(ids)}
        return features[[place[int(t)] for t in self.tokens[learned]]], self.known.targets[learned]

    def watch(self, genes: np.ndarray) -> Task:
        """The task of genes kept aside, in some of the cells: drawn, since neighbours in a file are often of one kind."""
        return self.of(genes, GENES_ARE_WATCHED_IN)

    def of(self, genes: np.ndarray, most_cells: int | None = None) -> Task:
        """The task of these genes in all cells that have at least one of them, or in ``most_cells`` drawn from these."""
        class_of = np.full(self.reader.network.config.vocab_size, IGNORE, np.int64)
        class_of[self.tokens[genes]] = self.known.targets[genes, 0]
        asked = class_of[self.cells.tokens] != IGNORE
        examples = np.flatnonzero(self.cells.count(asked))
        if most_cells is not None and len(examples) > most_cells:
            rng = np.random.default_rng([self.seed, 13])
            examples = np.sort(rng.choice(examples, most_cells, replace=False))

        def rows(some: np.ndarray) -> np.ndarray:
            found = class_of[self.cells[some].tokens]
            return found[found != IGNORE][:, None]

        def features(some: np.ndarray) -> Tensor:
            part = self.cells[some]
            x = self.reader(part)  # (token, d)
            return x[torch.from_numpy(class_of[part.tokens] != IGNORE).to(x.device)]

        return Task(features, rows, examples, self.cells.lengths, self.weights)


def of_features(
    features: np.ndarray, targets: np.ndarray, examples: np.ndarray, weights: list[np.ndarray], device: Any
) -> Task:
    """The task of a frozen network: its answers are kept, so a step costs next to nothing."""
    kept = torch.from_numpy(features).to(device)
    return Task(
        lambda some: kept[torch.from_numpy(some).to(device)],
        lambda some: targets[some],
        examples,
        np.ones(len(features), np.int64),
        weights,
    )


def class_weights(known: Labels, learned: np.ndarray, wanted: Any) -> list[np.ndarray]:
    """Weight of each class in the loss, per column: 1, or n / (classes · own cells) for ``"balanced"``, or as given.

    Raises
    ------
    ValueError
        A class is named that does not exist.
    """
    found = []
    for c, names in enumerate(known.classes.values()):
        counts = np.bincount(known.targets[learned, c][known.targets[learned, c] != IGNORE], minlength=len(names))
        own = np.ones(len(names))
        if wanted == "balanced":
            own = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
        elif isinstance(wanted, dict):
            own = np.array([float(wanted.get(name, 1.0)) for name in names])
        elif wanted is not None:
            raise ValueError(f"class_weight is {wanted!r}; None, 'balanced' or a dict of class → weight was expected.")
        found.append(own)
    if isinstance(wanted, dict):
        every = {name for names in known.classes.values() for name in names}
        strange = sorted(set(map(str, wanted)) - every)
        if strange:
            raise ValueError(f"class_weight names classes that do not exist: {', '.join(strange[:5])}.")
    return found
