"""Checkers of lesson 04."""

import numpy as np

from coursekit.check import checker, need


@checker(
    "04.1",
    hints=[
        "Each class has one weight for each feature.",
        "And each class has one bias.",
        "(d + 1) * classes",
    ],
)
def head_size(size):
    """Weights and biases."""
    need(size(128, 7) is not None, "Return a number.")
    need(size(128, 7) != 128 * 7, "These are the weights; each class has a bias too.")
    need(size(128, 7) == 903, f"128 features and 7 classes: 128 · 7 weights and 7 biases, not {size(128, 7)}.")
    need(size(1, 2) == 4, "One feature and two classes: two weights, two biases.")
    return "A file of a few kilobytes."


@checker(
    "04.2",
    hints=[
        "For one temperature: softmax(logits, t), then the column of the true class of each cell.",
        "probability[np.arange(len(truth)), truth], minus its logarithm, the mean.",
        "np.argmin of the losses gives the place of the best in the list that you tried.",
    ],
)
def best_temperature(best):
    """Finds the temperature that the logits were multiplied with."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (4000, 4))
    probability = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    truth = np.array([rng.choice(4, p=p) for p in probability])
    for factor in (3.0, 0.4):
        found = best(honest * factor, truth)
        need(found is not None and np.ndim(found) == 0, "Return one number.")
        need(
            abs(np.log(found / factor)) < 0.25,
            f"Logits that are {factor} times too large need a temperature near {factor}, not {found:.2f}.",
        )
    return "One number, and no answer changed."


@checker(
    "04.3",
    hints=[
        "np.unique(names, return_counts=True) counts each type.",
        "The weight is a constant over the count; which constant makes the mean over the cells 1?",
        "len(names) / (number of types * count)",
    ],
)
def balanced_weights(weights):
    """As scikit-learn's "balanced"."""
    names = np.array(["T"] * 90 + ["NK"] * 9 + ["DC"])
    found = weights(names)
    need(isinstance(found, dict), "Return a dict: type → weight.")
    need(set(found) == {"T", "NK", "DC"}, "Each type needs a weight, and nothing else.")
    total = {c: found[c] * np.sum(names == c) for c in found}
    need(max(total.values()) - min(total.values()) < 1e-6, "Weight times count should be the same for all types.")
    need(abs(sum(total.values()) / len(names) - 1) < 1e-6, "The mean weight over the cells should be 1.")
    return "In the check's sample, the one DC now counts as much as ninety T cells."
