"""Checks of the exercises of lesson 01."""

import numpy as np

from coursekit.check import checker, need


@checker(
    "01.1",
    hints=[
        "Two conditions on the rows, then a sort, then one column.",
        'fields[(fields["domain"] == ...) & (fields["task"] == ...)]: mind the brackets around each condition.',
        'Then .sort_values(["year", "foundation_model"])["foundation_model"].tolist()',
    ],
)
def hidden_guessers(function, fields):
    got = function(fields)
    need(isinstance(got, list), f"expected a list of names, got {type(got).__name__}; .tolist() makes one.")
    rows = {row["foundation_model"]: row for _, row in fields.iterrows()}
    strangers = [str(name) for name in got if name not in rows]
    need(not strangers, f"{', '.join(strangers[:3])} stands in no row of the column foundation_model.")
    outside = [name for name in got if rows[name]["domain"] != "biology"]
    need(not outside, f"{', '.join(outside)}: not a model of biology.")
    other = [name for name in got if rows[name]["task"] != "masked"]
    need(not other, f"{', '.join(other)}: does not learn by guessing what was hidden.")
    expected = [name for name, row in rows.items() if row["domain"] == "biology" and row["task"] == "masked"]
    need(len(set(got)) == len(got), "a name is in the list twice.")
    need(len(got) == len(expected), f"{len(got)} models, but there are {len(expected)}.")
    keys = [(rows[name]["year"], name) for name in got]
    need(keys == sorted(keys), "the right models, but not oldest first (and by name within a year).")
    return f"{len(got)} models of biology, all trained by hiding a part and asking for it. What is hidden differs: which gene, how much of it, a patch of an image."


@checker(
    "01.2",
    hints=[
        "Two matrices are trained, A and B. W is not.",
        "A maps d_in numbers to rank numbers: how many entries does it have? And B?",
        "A has rank * d_in entries, B has d_out * rank.",
    ],
)
def lora_parameters(function):
    square = function(128, 128, 8)
    need(square != 128 * 128, "that is W itself, which stays frozen.")
    need(square != 8 * 128, "that is one of the two matrices; A leads down to the rank, B back up.")
    need(square == 2 * 8 * 128, f"from 128 to 128 at rank 8, A and B have 1,024 entries each; got {square}.")
    need(
        function(256, 512, 4) == 4 * 768,
        f"from 256 to 512 at rank 4 got {function(256, 512, 4)}; A and B differ in size.",
    )
    need(function(10, 30, 1) == 40, f"from 10 to 30 at rank 1 got {function(10, 30, 1)}, expected 40.")
    return "For a square matrix the saving ends at half its size: at rank d / 2, LoRA trains as much as W has."


@checker(
    "01.3",
    hints=[
        "The loss of n equally likely genes is log n, with the natural logarithm. What undoes a logarithm?",
        "The exponential function.",
        "np.exp(loss)",
    ],
)
def choices(function):
    zero = float(function(0.0))
    need(np.isclose(zero, 1.0), f"a loss of 0 means certainty, one choice; got {zero:g}.")
    ten = float(function(np.log(10)))
    need(not np.isclose(ten, 2 ** np.log(10)), "nats, not bits: the base is e, not 2.")
    need(np.isclose(ten, 10.0), f"a loss of log 10 means ten equally likely genes; got {ten:g}.")
    return "Perplexity: compare it with the number of genes that are possible at all."


@checker(
    "01.4",
    hints=[
        'Take the rows with metric "loss" and the right rule first.',
        'Then one row per draw and one column per guesser: .pivot(index="seed", columns="guesser", values="value")',
        "A lower loss of `one` must give a positive number: column of other minus column of one.",
    ],
)
def lead(function):
    import pandas as pd

    rows = []
    for rule, shift in (("nothing", 0.0), ("all", 5.0)):
        for draw in (2, 0, 1):  # not in order
            rows.append(("a", rule, draw, "loss", 4.0 + draw + shift))
            rows.append(("b", rule, draw, "loss", 6.0 - draw + 2 * shift))
            rows.append(("c", rule, draw, "loss", 1.0))
            rows.append(("a", rule, draw, "top 1", 0.5))
            rows.append(("b", rule, draw, "top 1", 0.9))
    table = pd.DataFrame(rows, columns=["guesser", "told", "seed", "metric", "value"])
    got = np.asarray(function(table, "a", "b", "nothing"), dtype=float)
    need(got.shape == (3,), f"three draws should give three differences; got an array of shape {got.shape}.")
    need(not np.allclose(got, [-2, 0, 2]), "the sign is the other way round: a lower loss of `one` is a lead.")
    need(not np.allclose(got, [-2, 2, 0]), "the right differences, but in the order of the rows and not of the draws.")
    need(np.allclose(got, [2, 0, -2]), f"expected [2, 0, -2] for the little test table, got {got.tolist()}.")
    other = np.asarray(function(table, "a", "b", "all"), dtype=float)
    need(
        np.allclose(other, [7, 5, 3]),
        f"with the other rule expected [7, 5, 3], got {other.tolist()}; is the rule used?",
    )
    return "Paired by draw: what made a draw hard for both cancels. Now stats.interval(...) of it says if the lead is real."
