"""Checkers of lesson 03."""

import numpy as np
import pandas as pd

from coursekit.check import checker, need


@checker(
    "03.1",
    hints=[
        "Both arrays are of the same draws: subtract first, then ask how sure the mean of the difference is.",
        "`stats.interval(ours - theirs)` gives .low and .high; where must zero lie for a win?",
        'low > 0 → "ours"; high < 0 → "theirs"; otherwise "undecided".',
    ],
)
def paired_verdict(verdict):
    """Decided by the interval of the paired difference."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0.5, 0.1, 20)  # the draws vary a lot, the methods differ by little
    need(isinstance(verdict(draws + 0.3, draws), str), 'Return one of the strings "ours", "theirs", "undecided".')
    need(verdict(draws + 0.3, draws) == "ours", "Better by 0.3 in every draw must give 'ours'.")
    need(verdict(draws, draws + 0.3) == "theirs", "Worse by 0.3 in every draw must give 'theirs'.")
    noise = rng.normal(0, 0.05, 20)
    noise -= noise.mean()
    need(verdict(draws + noise, draws) == "undecided", "A difference of zero on average must give 'undecided'.")
    need(
        verdict(draws + 0.02 + 0.001 * noise, draws) == "ours",
        "Better by 0.02 in every single draw is a win: take the interval of the difference, not two separate intervals.",
    )
    need(
        verdict(draws + 0.02 + 4 * noise, draws) == "undecided",
        "Ahead by 0.02 on average while the draws differ by 0.2: zero is inside the interval, so that is 'undecided'.",
    )
    need(
        verdict(draws + 0.02 + 0.6 * noise, draws) == "ours",
        "Ahead by 0.02 on average, in draws that differ by 0.03: the mean of 20 such draws is sure to be above zero, though some "
        "draws are below. Ask for the interval of the mean, not for the span of the draws.",
    )
    return "Paired comparisons see small differences that two separate intervals hide."


@checker(
    "03.2",
    hints=[
        "For one type: which share of its cells got the right answer?",
        "Then the plain mean over the types, so that a type of 30 cells counts as much as one of 3,000.",
        "np.mean([np.mean(answer[truth == kind] == kind) for kind in np.unique(truth)])",
    ],
)
def balanced_accuracy(balanced):
    """Each type counts once."""
    truth = np.array(["T"] * 90 + ["NK"] * 10)
    lazy = np.array(["T"] * 100)
    got = balanced(truth, lazy)
    need(got is not None and np.ndim(got) == 0, "Return one number.")
    need(abs(got - 0.5) < 1e-9, f"Answering 'T' for every cell of 90 T and 10 NK should score 0.5, not {got:.2f}.")
    need(abs(balanced(truth, truth) - 1) < 1e-9, "All right should score 1.")
    mixed = truth.copy()
    mixed[:45] = "NK"
    need(abs(balanced(truth, mixed) - 0.75) < 1e-9, "Half of the T cells right, all NK right: (0.5 + 1) / 2 = 0.75.")
    truth, answer = np.array(["a", "a", "b", "b", "c", "c"]), np.array(["a", "a", "b", "d", "a", "a"])
    got = balanced(truth, answer)
    need(
        abs(got - 0.5) < 1e-9,
        f"Types a, b, c with 1, 0.5 and 0 of their cells right (one answer is 'd'): 0.5, not {got:.2f}.",
    )
    return "A classifier that never says 'NK' is 90 % accurate and still useless for NK cells."


@checker(
    "03.3",
    hints=[
        "What does 0.6 * biology + 0.4 * mixing give a constant embedding with mixing 1 and biology near 0.2?",
        "You want a mean that follows the smaller of the two.",
        "The harmonic mean 2ab / (a + b), the geometric mean, or simply the minimum.",
    ],
)
def both_or_nothing(fair):
    """High only if both are."""
    need(np.ndim(fair(0.5, 0.5)) == 0, "Return one number.")
    need(
        fair(0.6, 0.6) > fair(1.0, 0.15),
        "Perfect mixing with lost biology (1.0, 0.15) still beats an honest (0.6, 0.6).",
    )
    need(fair(0.6, 0.6) > fair(0.05, 0.9), "Perfect biology without any mixing (0.05, 0.9) still beats (0.6, 0.6).")
    need(fair(0.7, 0.7) > fair(0.6, 0.6), "Better in both should score higher.")
    need(fair(0.7, 0.6) > fair(0.6, 0.6), "More mixing at the same biology should score higher.") if fair(
        0.7, 0.6
    ) != fair(0.6, 0.6) else need(
        min(0.7, 0.6) == fair(0.7, 0.6), "More mixing at the same biology should not score lower."
    )
    need(fair(0.6, 0.9) > fair(0.2, 0.9), "At the same biology, mixing of 0.6 should score higher than of 0.2.")
    need(fair(0.9, 0.6) > fair(0.9, 0.2), "At the same mixing, biology of 0.6 should score higher than of 0.2.")
    need(fair(0.0, 0.9) <= 0.01, "No mixing at all should score (about) nothing.")
    with np.errstate(all="ignore"):  # a NaN fails below, with a word
        try:
            both = fair(0.0, 0.0)
        except ZeroDivisionError:
            both = None
    need(both is not None and both <= 0.01, "fair(0, 0) should be 0, and not divide by zero.")
    return "A constant embedding cannot win any more."


@checker(
    "03.4",
    hints=[
        'Keep the rows with than == "HVG + PCA" and "pretrained is" == "better".',
        "How many different metrics remain for each dataset?",
        'rows.groupby("dataset")["metric"].nunique() == 2, then its index, sorted.',
    ],
)
def both_metrics(wins_on_both):
    """Better than PCA as clusters and for the probe."""
    rows = [
        ("a", "avg_bio", "HVG + PCA", "better"),
        ("a", "balanced_accuracy", "HVG + PCA", "better"),
        ("b", "avg_bio", "HVG + PCA", "better"),
        ("b", "balanced_accuracy", "HVG + PCA", "worse"),
        ("c", "avg_bio", "random twin", "better"),
        ("c", "balanced_accuracy", "random twin", "better"),
        ("c", "avg_bio", "HVG + PCA", "undecided"),
        ("c", "balanced_accuracy", "HVG + PCA", "better"),
    ]
    table = pd.DataFrame(rows, columns=["dataset", "metric", "than", "pretrained is"])
    got = wins_on_both(table)
    need(got is not None, "Return a list.")
    need(list(got) == ["a"], f"On a table where only 'a' wins by both metrics you gave {list(got)}.")
    need(list(wins_on_both(table[table["dataset"] == "b"])) == [], "With no such set the answer is an empty list.")
    return "Count what you claim."
