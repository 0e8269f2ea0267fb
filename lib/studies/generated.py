"""Completed cells and generated ones: what true genes buy, what K steps buy, who is ahead. Lesson 08 shows the tables.

The cells are completed by :mod:`scfm.generation.completion` and judged by :mod:`scfm.generation.yardsticks`; here scores become
statements. Errors are compared draw by draw, in percent: below zero is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import stats
from scfm.calibration import expected_error
from scfm.generation import completion
from studies import comparisons

if TYPE_CHECKING:
    import pandas as pd

    from scfm.generation.simple_generators import RealCells
    from scfm.models.scgpt import ScGPT

ZERO_SHOT, WITH_MEANS, CORPUS, RIDGE = (
    "scGPT, zero-shot",
    "scGPT + study's means",
    "corpus means, zero-shot",
    "ridge regression",
)


def of_true_genes(
    model: ScGPT,
    cells: RealCells,
    budgets: Sequence[int],
    n_draws: int = 20,
    n_cells: int = 16,
    n_train: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """How well held-out cells are completed from more and more true genes: error relative to that of each gene's mean.

    budgets: numbers of observed genes, ascending; the same genes are hidden for all. n_train: training cells on which scGPT's own
    mean answer is replaced by the study's. Columns method, observed, seed (the draw), value; without the corpus' means where the
    model came without.
    """
    import pandas as pd

    rows = []
    for draw in range(n_draws):
        whole = completion.hide(cells, model, budgets[-1], n_cells, seed + draw)
        for n in budgets:
            question = whole.first(n)
            guesses = {ZERO_SHOT: completion.by_scgpt(model, question, steps=1)}
            if completion.has_corpus_means(model):
                guesses[CORPUS] = completion.corpus_means(model, question)
            guesses[WITH_MEANS] = completion.with_study_means(model, question, guesses[ZERO_SHOT], n_train, seed + draw)
            guesses[RIDGE] = completion.ridge(question)
            of_mean = completion.score(completion.gene_mean(question), question)["squared_error"]
            for method, guess in guesses.items():
                rows.append((method, n, draw, completion.score(guess, question)["squared_error"] / of_mean))
    return pd.DataFrame(rows, columns=["method", "observed", "seed", "value"])


def relative_errors(completed: pd.DataFrame) -> pd.DataFrame:
    """Squared errors of :func:`scfm.generation.completion.compare`, divided by those of each gene's mean in the same draw.

    One step is the same whatever its confidence, so there is one row of it, called "K = 1".
    """
    errors = completed[completed["metric"] == "squared_error"].copy()
    base = errors[errors["method"] == "gene mean"].set_index(["dataset", "seed"])["value"]
    errors["value"] = (
        errors["value"].to_numpy() / base.loc[list(zip(errors["dataset"], errors["seed"], strict=True))].to_numpy()
    )
    asked_once = errors[errors["steps"] == 1]["method"].drop_duplicates().tolist()
    errors = errors[~errors["method"].isin(asked_once[1:])]
    return errors.replace({"method": dict.fromkeys(asked_once[:1], "K = 1")})


def against_one_step(table: pd.DataFrame) -> pd.DataFrame:
    """K steps against one on the same cells: change of the squared error in percent, for every model, set and way.

    Columns model, dataset, steps, confidence, exact, feed, mean, low, high and verdict (of an error: below zero is better).
    """
    import pandas as pd

    rows = []
    error = table[(table["metric"] == "squared_error") & (table["steps"] > 0)]
    for (model, dataset), part in error.groupby(["model", "dataset"], sort=False):
        one = part[part["steps"] == 1].drop_duplicates("seed").set_index("seed")["value"]
        for key, some in part[part["steps"] > 1].groupby(["steps", "confidence", "exact", "feed"], sort=False):
            gap = stats.interval(100 * (some.set_index("seed")["value"] / one - 1).dropna().to_numpy())
            rows.append((model, dataset, *key, gap.mean, gap.low, gap.high, gap.verdict(lower_is_better=True)))
    columns = ["model", "dataset", "steps", "confidence", "exact", "feed", "mean", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def against_random_order(table: pd.DataFrame, steps: int = 4) -> pd.DataFrame:
    """Does it matter which genes become known first? Each confidence against a random order, in percent of the squared error.

    Rows of exact steps that feed expected bins back. Columns dataset, confidence, mean, low, high.
    """
    import pandas as pd

    error = table[(table["metric"] == "squared_error") & (table["steps"] == steps)]
    error = error[error["exact"] & (error["feed"] == "expected")]
    rows = []
    for dataset, part in error.groupby("dataset", sort=False):
        by_order = part.pivot_table(index="seed", columns="confidence", values="value", sort=False)
        for order in by_order.columns.drop("random", errors="ignore"):
            gap = stats.interval(100 * (by_order[order] / by_order["random"] - 1).dropna().to_numpy())
            rows.append((dataset, order, gap.mean, gap.low, gap.high))
    return pd.DataFrame(rows, columns=["dataset", "confidence", "mean", "low", "high"])


def calibration(
    guessers: Mapping[str, Callable[[completion.Question], completion.Guess]], questions: Sequence[completion.Question]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Of all genes that were given a P(nonzero) of 0.3, are three in ten on? All guessers on the same questions.

    Returns the lines (columns guesser, said, happened, n) and how far each guesser is off on average, weighted by the genes.
    """
    import pandas as pd

    lines, off_by = [], {}
    for who, guess in guessers.items():
        said, happened = [], []
        for question in questions:
            said.append(np.ravel(_nonzero(guess(question))))
            happened.append(np.ravel(question.truth > 0))
        given, true = np.concatenate(said), np.concatenate(happened)
        off_by[who] = expected_error(given, true)
        lines.append(completion.reliability(given, true).assign(guesser=who))
    return pd.concat(lines, ignore_index=True), off_by


def _nonzero(guess: completion.Guess) -> Any:
    if guess.nonzero is None:
        raise ValueError("This guesser gives no P(nonzero), so there is nothing to be calibrated.")
    return guess.nonzero


def best_against(
    scores: pd.DataFrame, ours: str, rivals: Sequence[str], of: Sequence[str], lower_is_better: Sequence[str] = ()
) -> pd.DataFrame:
    """The best of our methods (those whose name holds ``ours``) against each rival, by model, set and metric.

    The best is chosen on the draws that are then compared, which flatters it. Columns as of :func:`studies.comparisons.gaps`.
    """
    import pandas as pd

    found = []
    for _, part in scores.groupby(["model", "dataset"], sort=False):
        for metric in of:
            means = part[part["metric"] == metric].groupby("method")["value"].mean()
            own = means[means.index.str.contains(ours, regex=False)]
            best = str(own.idxmin() if metric in lower_is_better else own.idxmax())
            found.append(
                comparisons.gaps(part, [(best, r) for r in rivals], (metric,), lower_is_better=lower_is_better)
            )
    return pd.concat(found, ignore_index=True)
