"""Completing cells: some genes are observed, the others to be guessed. Does it help to guess in K steps?

As if a targeted panel had measured some genes of each cell. scGPT stands beside simple guessers that learn from training
cells of the same study, which it never saw: it answers zero-shot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import calibration
from scfm.generation.prompts import gene_prompt, keep_genes
from scfm.generation.simple_generators import RealCells
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import pandas as pd

    from scfm.models.scgpt import ScGPT

COLUMNS = ["model", "method", "dataset", "steps", "confidence", "exact", "feed", "seed", "metric", "value"]
# metric → what it says
METRICS = {
    "squared_error": "mean squared error of the hidden genes, in bins²",
    "surer_is_better": "rank correlation of confidence and accuracy within a cell: 1 = the surer, the better",
    "brier": "mean squared error of P(nonzero)",
    "calibration_error": "how far P(nonzero) is from the share that is nonzero (expected calibration error)",
    "tokens": "tokens that pass through the layers, per cell",
    "looks": "pairs of genes of which one attends to the other, per cell",
    "seconds": "per cell, on this machine",
}


@dataclass(frozen=True)
class Question:
    """Held-out cells of which some genes are seen, and the training cells that simple guessers may learn from."""

    prompt: TokenizedCells  # <cls> and the observed genes, zeros included
    seen: list[str]  # the observed genes
    genes: list[str]  # the hidden ones
    truth: np.ndarray  # float32 (cell, hidden gene) bins
    observed: np.ndarray  # float32 (cell, observed gene)
    train_observed: np.ndarray  # float32 (training cell, observed gene)
    train_hidden: np.ndarray  # float32 (training cell, hidden gene)

    def share_on(self) -> np.ndarray:
        """Share of the observed genes that are expressed, (cell,), a little away from 0 and 1: what to expect of the hidden."""
        n = self.observed.shape[1]
        return ((self.observed > 0).sum(1) + 0.5) / (n + 1)

    def first(self, n: int) -> Question:
        """The same question with only the first ``n`` of the observed genes."""
        prompt = keep_genes(self.prompt, self.prompt[0][1 : n + 1])
        return replace(
            self,
            prompt=prompt,
            seen=self.seen[:n],
            observed=self.observed[:, :n],
            train_observed=self.train_observed[:, :n],
        )


@dataclass
class Guess:
    """An answer to a Question: values (cell, gene), and what else the guesser can say."""

    value: np.ndarray
    nonzero: np.ndarray | None = None  # P(value > 0)
    confidence: np.ndarray | None = None  # larger = surer
    tokens: float = 0.0  # per cell
    looks: float = 0.0
    seconds: float = 0.0


def hide(cells: RealCells, model: ScGPT, n_observed: int = 200, n_cells: int = 16, seed: int = 0) -> Question:
    """Show ``n_observed`` of the genes, the same at random for all, in ``n_cells`` held-out cells, and hide the others.

    Raises
    ------
    ValueError
        ``n_observed`` leaves nothing to hide, or is less than 1.
    """
    if not 1 <= n_observed < len(cells.genes):
        raise ValueError(
            f"{n_observed} genes cannot be observed so that some of {len(cells.genes)} are hidden; choose 1 to {len(cells.genes) - 1}."
        )
    rng = np.random.default_rng([seed, 9])
    train, truth, fresh = cells.split(seed)
    held_out = np.concatenate([truth, fresh])
    chosen = np.sort(rng.choice(held_out, min(n_cells, len(held_out)), replace=False))
    order = rng.permutation(len(cells.genes))
    seen, hidden = order[:n_observed], np.sort(order[n_observed:])  # the first of the panel are any of it
    prompt = gene_prompt(
        model, [cells.genes[g] for g in seen], cells.bins[np.ix_(chosen, seen)], cells.cells.cell_ids[chosen]
    )
    return Question(
        prompt,
        [cells.genes[g] for g in seen],
        [cells.genes[g] for g in hidden],
        cells.bins[np.ix_(chosen, hidden)],
        cells.bins[np.ix_(chosen, seen)],
        cells.bins[np.ix_(train, seen)],
        cells.bins[np.ix_(train, hidden)],
    )


# --- simple guessers --------------------------------------------------------------------------------


def gene_mean(question: Question) -> Guess:
    """Each gene's mean over the training cells, whatever the cell shows; sure of genes that vary little."""
    hidden = question.train_hidden
    shape = question.truth.shape
    return Guess(
        np.broadcast_to(hidden.mean(0), shape),
        np.broadcast_to((hidden > 0).mean(0), shape),
        np.broadcast_to(-hidden.var(0), shape),
    )


def mean_and_offset(question: Question) -> Guess:
    """Gene mean + this cell's offset: how far its observed genes lie above their means on average."""
    offset = (question.observed - question.train_observed.mean(0)).mean(1, keepdims=True)  # (cell, 1)
    return Guess(np.clip(question.train_hidden.mean(0) + offset, 0, None))


def nearest_cells(question: Question, k: int = 15) -> Guess:
    """The mean over the k training cells that are most alike in the observed genes; sure where these agree."""
    from scipy.spatial.distance import cdist

    near = np.argsort(cdist(question.observed, question.train_observed), axis=1)[:, :k]  # (cell, k)
    theirs = question.train_hidden[near]  # (cell, k, gene)
    return Guess(theirs.mean(1), (theirs > 0).mean(1), -theirs.var(1))


def ridge(question: Question) -> Guess:
    """Ridge regression from the observed genes to each hidden one; its penalty chosen within the training cells."""
    from sklearn.linear_model import RidgeCV

    fit = RidgeCV(alphas=np.logspace(1, 7, 13)).fit(question.train_observed, question.train_hidden)
    return Guess(np.clip(fit.predict(question.observed), 0, None))


SIMPLE: dict[str, Callable[[Question], Guess]] = {
    "gene mean": gene_mean,
    "gene mean + offset": mean_and_offset,
    "nearest cells": nearest_cells,
    "ridge regression": ridge,
}


# --- guessers that come with the model --------------------------------------------------------------


def corpus_means(model: ScGPT, question: Question) -> Guess:
    """What the model's training cells say of each gene, and nothing else: the rival of a zero-shot answer.

    The gene's mean bin where expressed, times how often it was, corrected to the cell's own share as scGPT's P(nonzero) is.
    Raises FileNotFoundError for a model that came without these means.
    """
    import torch

    from scfm.generation.answer import odds_shift

    known = model.gene_means().loc[question.genes]
    p = torch.from_numpy(np.tile(known["share_on"].to_numpy(), (len(question.truth), 1)))
    by = odds_shift(p, torch.from_numpy(question.share_on()))
    nonzero = (torch.special.logit(p, 1e-6) + by).sigmoid().numpy()
    bins = known["mean_bin"].to_numpy()
    return Guess(nonzero * bins, nonzero, -(bins**2) * nonzero * (1 - nonzero))


def by_scgpt(model: ScGPT, question: Question, own_share: bool = True, **how: Any) -> Guess:
    """scGPT completes the cells; ``how`` goes to ``scfm.generate``.

    own_share: as many of the hidden genes are expected to be expressed as of the cell's observed ones (if the network gives
    P(nonzero)).
    """
    from scfm.generation.generating import generate

    if own_share and model.network.config.zero_prob:
        how = {"share_on": question.share_on()} | how
    made = generate(model, question.prompt, question.genes, progress=False, **how)
    n = len(made)
    cost = (made.about[key] / n for key in ("tokens", "looks", "seconds"))
    return Guess(made.values, made.nonzero, made.confidence, *cost)


def with_study_means(model: ScGPT, question: Question, guess: Guess, n_train: int = 8, seed: int = 0) -> Guess:
    """scGPT's guess, moved gene by gene by its mean error on a few training cells: what does it know beyond the means?

    ``n_train`` training cells are completed in one step; the gene means of all training cells take the place of scGPT's own.
    """
    rng = np.random.default_rng([seed, 10])
    rows = rng.choice(len(question.train_observed), min(n_train, len(question.train_observed)), replace=False)
    seen = question.train_observed[rows]
    some = replace(
        question, prompt=gene_prompt(model, question.seen, seen), observed=seen, truth=question.train_hidden[rows]
    )
    own = by_scgpt(model, some, steps=1).value.mean(0)
    return Guess(np.clip(guess.value - own + question.train_hidden.mean(0), 0, None))


# --- scores -----------------------------------------------------------------------------------------


def score(guess: Guess, question: Question) -> dict[str, float]:
    """Those of ``METRICS`` that the guess has."""
    error = (guess.value - question.truth) ** 2
    found = {"squared_error": float(error.mean())}
    if guess.confidence is not None:
        found["surer_is_better"] = surer_is_better(guess.confidence, error)
    if guess.nonzero is not None:
        is_on = question.truth > 0
        found["brier"] = float(((guess.nonzero - is_on) ** 2).mean())
        found["calibration_error"] = calibration.expected_error(np.ravel(guess.nonzero), np.ravel(is_on))
    if guess.tokens:
        found |= {"tokens": guess.tokens, "looks": guess.looks, "seconds": guess.seconds}
    return found


def surer_is_better(confidence: np.ndarray, error: np.ndarray) -> float:
    """Spearman's rank correlation of confidence with minus the error (cell, gene), within each cell, mean over the cells.

    A cell whose confidences are all alike counts as 0.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(table, axis=1) for table in (confidence, -error)]
    a, b = (r - r.mean(1, keepdims=True) for r in ranks)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return float(np.where(scale > 0, (a * b).sum(1) / np.maximum(scale, 1e-12), 0.0).mean())


def reliability(said: np.ndarray, happened: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """Is what was given a probability of 0.3 true 3 times in 10? Columns said, happened (means) and n, by tenths of ``said``."""
    table = calibration.reliability(np.ravel(said), np.ravel(happened), n_bins)
    return table.set_axis(["said", "happened", "n"], axis=1)


# --- does K help? -----------------------------------------------------------------------------------


def ways(
    steps: Sequence[int] = (1, 2, 4, 8),
    confidences: Sequence[str] = ("zero_prob", "variance", "dropout", "agreement", "largest", "random"),
    exact: Sequence[bool] = (True,),
    feed: Sequence[str] = ("expected",),
) -> Iterator[dict[str, Any]]:
    """Settings of ``scfm.generate`` to compare; one step is the same whatever it feeds back, and either way."""
    for k in steps:
        for confidence in confidences:
            for way in exact if k > 1 else (True,):
                for fed in feed if k > 1 else feed[:1]:
                    yield {"steps": k, "confidence": confidence, "exact": way, "feed": fed}


def name(how: Mapping[str, Any]) -> str:
    """What a setting is called in tables: "K = 4, dropout, block-causal"."""
    return (
        f"K = {how['steps']}, {how['confidence']}"
        + ("" if how["exact"] else ", block-causal")
        + (", off or on fed back" if how.get("feed") == "likely" else "")
    )


def compare(
    cells: RealCells,
    model: ScGPT,
    settings: Sequence[Mapping[str, Any]] | None = None,
    n_draws: int = 20,
    n_observed: int = 200,
    n_cells: int = 16,
    seed: int = 0,
    progress: bool = True,
    **how: Any,
) -> pd.DataFrame:
    """Complete held-out cells in all ``settings`` (unless given, those of :func:`ways`), with the simple guessers beside them.

    Each draw has its own panel of observed genes, held-out cells and training cells, the same for all. ``how`` goes to
    ``scfm.generate``.

    Returns a long table with ``COLUMNS``; method is ``name(setting)`` or the guesser's name, whose steps are 0. The model's
    ``corpus_means`` are among them if it came with such.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    settings = list(ways() if settings is None else settings)
    has_means = has_corpus_means(model)
    rows: list[tuple] = []
    for draw in tqdm(range(n_draws), desc="completing", unit="draw", disable=not progress, delay=1, leave=False):
        question = hide(cells, model, n_observed, n_cells, seed + draw)
        for guesser, guess in SIMPLE.items():
            begin = time.perf_counter()
            found = score(guess(question), question)
            found["seconds"] = (time.perf_counter() - begin) / len(question.truth)
            rows += [(guesser, 0, "", True, "", draw, metric, value) for metric, value in found.items()]
        if has_means:
            found = score(corpus_means(model, question), question)
            rows += [("corpus means", 0, "", True, "", draw, metric, value) for metric, value in found.items()]
        for setting in settings:
            found = score(by_scgpt(model, question, seed=seed + draw, **{**how, **setting}), question)
            about = (
                name(setting),
                setting["steps"],
                setting["confidence"],
                setting["exact"],
                setting.get("feed", "expected"),
                draw,
            )
            rows += [(*about, metric, value) for metric, value in found.items()]
    table = pd.DataFrame(rows, columns=["method", "steps", "confidence", "exact", "feed", "seed", "metric", "value"])
    return table.assign(model=model.name, dataset=cells.name)[COLUMNS]


def has_corpus_means(model: ScGPT) -> bool:
    """Did the model come with the gene means of its training corpus? Only our own do."""
    try:
        model.gene_means()
    except FileNotFoundError:
        return False
    return True
