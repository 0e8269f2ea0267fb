"""Labels in, class numbers out; which cells are learned from, which are watched; and what is wrong with labels, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scfm.adaptation.heads import IGNORE
from scfm.metrics import NO_LABEL

FEWEST = 2  # cells (or genes) that a class needs to be learned at all


@dataclass
class Labels:
    """targets: int64 (n, column), the class number per column or IGNORE; classes: column → names, in alphabetical order."""

    targets: np.ndarray
    classes: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)

    def counts(self, rows: np.ndarray) -> dict[str, dict[str, int]]:
        """Column → class → how many of ``rows`` have it."""
        return {
            column: {name: int((self.targets[rows, c] == k).sum()) for k, name in enumerate(names)}
            for c, (column, names) in enumerate(self.classes.items())
        }


def of_cells(labels: Any, n_cells: int) -> Labels:
    """Read the labels of cells: one array of names, or several columns (a dict of arrays, a DataFrame).

    Raises
    ------
    ValueError
        Wrong length, missing labels (in a single column), one class only, classes too small, or numbers instead of classes.
    """
    several = isinstance(labels, Mapping) or (hasattr(labels, "columns") and hasattr(labels, "iloc"))
    columns = {str(name): labels[name] for name in labels} if several else {"label": labels}
    if not columns:
        raise ValueError("labels has no column; give one array of labels, or a dict of them.")
    targets, classes, notes = [], {}, []
    for column, given in columns.items():
        what = f"labels[{column!r}]" if several else "labels"
        names, missing = names_of(given, n_cells, what)
        if missing.any():
            if not several:
                raise ValueError(
                    f"{missing.sum():,} of {n_cells:,} labels are missing (NaN, None, empty or 'unknown'). A cell without a label "
                    "cannot be learned from: leave it out of cells and labels (keep, _ = scfm.metrics.usable_cells(labels))."
                )
            notes.append(f"{missing.sum():,} cells have no {column}: they count nothing there")
        found, numbers = np.unique(names[~missing], return_inverse=True)
        _check_classes(given, found, np.bincount(numbers, minlength=len(found)), what)
        own = np.full(n_cells, IGNORE, np.int64)
        own[~missing] = numbers
        targets.append(own)
        classes[column] = [str(name) for name in found]
    return Labels(np.stack(targets, 1), classes, notes)


def of_genes(labels: Any, vocabulary: Any, present: np.ndarray) -> tuple[Labels, np.ndarray]:
    """Read the classes of genes: a dict (or Series) of gene → class, by Ensembl id or symbol.

    Returns the labels of the genes that are in the vocabulary and occur in the cells (``present``: their tokens), and the
    genes' token ids.
    """
    if not isinstance(labels, Mapping) and not hasattr(labels, "items"):
        raise ValueError(
            "For level='gene', labels is a dict (or Series) of gene → class: the classes of genes, not cells."
        )
    tokens: dict[int, str] = {}
    unknown: list[str] = []
    twice: list[str] = []
    for gene, name in labels.items():
        token = vocabulary.find(str(gene))
        if token is None:
            unknown.append(str(gene))
        elif tokens.setdefault(token, name) != name:
            twice.append(str(gene))
    if twice:
        raise ValueError(f"{len(twice)} genes have two different classes, for example {', '.join(twice[:3])}.")
    if not tokens:
        raise ValueError(
            f"None of the {len(unknown):,} genes is in the vocabulary {vocabulary.name}, for example {', '.join(unknown[:3])}. "
            "Give human Ensembl ids or gene symbols."
        )
    here = set(np.unique(present).tolist())
    absent = [token for token in tokens if token not in here]
    if len(absent) == len(tokens):
        raise ValueError(f"None of the {len(tokens):,} genes occurs in these cells; there is nothing to learn from.")
    tokens = {token: name for token, name in tokens.items() if token in here}
    found = of_cells(np.array(list(tokens.values()), dtype=object), len(tokens))
    if absent:
        found.notes.append(f"{len(absent):,} genes occur in none of the cells")
    if unknown:
        found.notes.append(f"{len(unknown):,} genes are not in the vocabulary: {', '.join(unknown[:5])}")
    return found, np.array(list(tokens), dtype=np.int64)


def names_of(given: Any, n: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """One column of labels as str (n,), and which of them are missing (NaN, None, "", "unknown"): bool (n,).

    ValueError: another length or form.
    """
    import pandas as pd

    array = np.asarray(given)
    if array.ndim != 1:
        raise ValueError(
            f"{what} has shape {array.shape}; one label per cell, ({n},), was expected. Several columns are a dict."
        )
    if len(array) != n:
        raise ValueError(
            f"{what} has {len(array):,} entries for {n:,} cells; one label per cell was expected. Were cells filtered after the "
            "labels were read, or empty cells left out by tokenize (cells.cell_ids says which are there)?"
        )
    missing = np.asarray(pd.isna(array)) | np.isin(array.astype(str), NO_LABEL)
    return array.astype(str), missing


def _check_classes(given: Any, names: np.ndarray, counts: np.ndarray, what: str) -> None:
    if len(names) == 0:
        raise ValueError(f"{what} holds no label at all.")
    if len(names) == 1:
        raise ValueError(
            f"{what} holds one class only, {str(names[0])!r}: there is nothing to tell apart. Two are needed."
        )
    if np.asarray(given).dtype.kind == "f" and len(names) > 20 and counts.mean() < 10:
        raise ValueError(
            f"{what} holds {len(names):,} different numbers for {counts.sum():,} cells: adapt learns classes, not quantities. "
            "Cut the numbers into a few named ranges (pandas.cut)."
        )
    few = [f"{str(name)!r} ({n})" for name, n in zip(names, counts, strict=True) if n < FEWEST]
    if few:
        raise ValueError(
            f"{len(few)} of {len(names)} classes of {what} have fewer than {FEWEST} members: {', '.join(few[:5])}. Leave them out "
            "(scfm.metrics.usable_cells names them), or give them another class."
        )


# --- learned from, or watched ---------------------------------------------------------------------------


def split(
    labels: Labels, share: float, seed: int, groups: Sequence[str] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Indices to learn from and to watch, and a note on how they were chosen.

    Without groups, ``share`` of each class (of the first column) is watched. With groups (donors, batches), whole groups are,
    in an order drawn from the seed, as long as every class keeps at least half of its cells to be learned from. If none of the
    chosen cells has a label, there is nothing to watch, and all cells are learned from.

    Raises
    ------
    ValueError
        The groups have another length, or only one of them exists, or a cell's is not known, or none can be spared.
    """
    rng = np.random.default_rng([seed, 11])
    if groups is not None:
        found = _split_groups(labels, share, rng, np.asarray(groups))
    else:
        found = _split_cells(labels, share, rng)
    if len(found[1]) and (labels.targets[found[1]] == IGNORE).all():
        return (
            np.arange(len(labels.targets)),
            np.empty(0, np.int64),
            ["no validation cells: none of those drawn has a label"],
        )
    return found


def _split_cells(labels: Labels, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    n = len(labels.targets)
    if share == 0:
        return np.arange(n), np.empty(0, np.int64), []
    first = labels.targets[:, 0]
    watched = np.concatenate(
        [
            rng.permutation(own)[: min(round(share * len(own)), len(own) - 1)]
            for own in (np.flatnonzero(first == k) for k in np.unique(first))
        ]
    )
    for column in range(labels.targets.shape[1]):  # a class of another column must not be watched only
        for k in np.unique(labels.targets[:, column]):
            own = np.flatnonzero(labels.targets[:, column] == k)
            if np.isin(own, watched).all():
                watched = np.setdiff1d(watched, own)
    if len(watched) == 0:
        return np.arange(n), watched, ["no validation cells: the classes are too small to spare any"]
    left = np.setdiff1d(np.arange(n), watched)
    return left, np.sort(watched), []


def _split_groups(
    labels: Labels, share: float, rng: np.random.Generator, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    n = len(labels.targets)
    if groups.shape != (n,):
        raise ValueError(f"groups has shape {groups.shape} for {n:,} cells; one donor or batch per cell was expected.")
    names = np.unique(groups.astype(str))
    if len(names) < 2:
        raise ValueError(
            f"groups holds one group only ({str(names[0])!r}); a split by donor or batch needs at least two. Leave groups out."
        )
    if share == 0:
        return np.arange(n), np.empty(0, np.int64), ["groups were given, but validation=0: nothing is watched"]
    groups, unknown = names_of(groups, n, "groups")
    if unknown.any():  # of any donor, a watched one too
        raise ValueError(
            f"groups does not say for {unknown.sum():,} of {n:,} cells which donor or batch they are of (NaN, None, empty or "
            "'unknown'), so they cannot be kept apart from the cells that are watched. Leave these cells out, or leave groups out."
        )
    watched = np.zeros(n, bool)
    chosen: list[str] = []
    for name in rng.permutation(names):
        tried = watched | (groups == name)
        if tried.sum() > max(share * n * 1.5, 1) and chosen:
            continue
        keeps = all(
            2 * (labels.targets[~tried, c] == k).sum() >= (labels.targets[:, c] == k).sum()
            for c in range(labels.targets.shape[1])
            for k in range(int(labels.targets[:, c].max()) + 1)
        )
        if keeps:
            watched, chosen = tried, [*chosen, str(name)]
        if watched.sum() >= share * n:
            break
    if not chosen:
        raise ValueError(
            "No group can be watched: each holds more than half of some class. Leave groups out, or set validation=0."
        )
    left = np.flatnonzero(~watched)
    return left, np.flatnonzero(watched), [f"validation cells are those of {', '.join(chosen)}"]
