"""Checkers of lesson 08."""

import numpy as np

from coursekit.check import checker, need


def _mask(n_perceived, n_generated):
    """The rule, written out: (n, n) bool."""
    n = n_perceived + n_generated
    return (np.arange(n)[None] < n_perceived) | np.eye(n, dtype=bool)


@checker(
    "08.1",
    hints=[
        "Count row by row: how many columns may a perceived gene look at, and how many a generated one?",
        "A perceived gene looks at all perceived ones, itself included. A generated one looks at these and at itself.",
        "n_perceived * n_perceived + n_generated * (n_perceived + 1)",
    ],
)
def count_looks(looks):
    need(np.ndim(looks(2, 3)) == 0, "Return one number.")
    got = looks(2, 3)
    need(got != 25, "25 is ordinary attention: all five look at all five. Two rules forbid most of it.")
    need(got != 10, "Nearly: each generated gene also looks at itself.")
    for n, g in ((2, 3), (1, 0), (1, 7), (30, 11)):
        right = int(_mask(n, g).sum())
        need(
            looks(n, g) == right,
            f"For {n} perceived and {g} generated genes the mask has {right} pairs, not {looks(n, g)}.",
        )
    return "Linear in what is asked, quadratic only in what is known: asking is cheap, knowing is not."


@checker(
    "08.2",
    hints=[
        "Two questions: is it on (compare the coin with P)? And if so, how much (the expected bin divided by P)?",
        "np.where(condition, value_if_on, 0), and np.clip keeps the value between 1 and 50.",
        "np.where(coin < nonzero, np.clip(value / nonzero, 1, 50), 0)",
    ],
)
def toss_coins(toss):
    value, nonzero = np.array([12.0, 12.0, 30.0, 45.0]), np.array([0.4, 0.4, 1.0, 0.6])
    coin = np.array([0.3, 0.5, 0.9, 0.1])
    got = toss(value, nonzero, coin)
    need(got is not None and np.shape(got) == (4,), "Return one bin for each gene.")
    need(got[1] == 0, "A coin of 0.5 with P = 0.4 is off: the bin is 0.")
    need(
        not np.isclose(got[0], 12),
        "Nearly: 12 is the mean over on AND off. If it is on with P = 0.4, its bin is larger, or the mean would come out too small.",
    )
    need(np.isclose(got[0], 30), f"A gene with expected bin 12 and P = 0.4 that is on has bin 30, not {got[0]:g}.")
    need(got[3] <= 50, "There are 50 bins: 45 / 0.6 has to be cut to 50.")
    need(toss(np.array([0.01]), np.array([0.5]), np.array([0.1]))[0] >= 1, "A gene that is on has at least bin 1.")
    rng = np.random.default_rng(0)
    drawn = toss(np.full(20_000, 12.0), np.full(20_000, 0.4), rng.random(20_000))
    need(abs(drawn.mean() - 12) < 0.6, f"Over many tosses the mean must stay 12; it is {drawn.mean():.1f}.")
    return "The mean stays, and a cell is a cell: off or on, never in between."


@checker(
    "08.3",
    hints=[
        "The bin is b with probability P and 0 otherwise: mean P·b, mean of the square P·b².",
        "Variance = P b² - (P b)². Put in b = value / P and simplify.",
        "value² / P - value² = value² (1 - P) / P; and confidence is minus that.",
    ],
)
def variance_as_doubt(confidence):
    value, nonzero = np.array([12.0, 30.0, 0.0]), np.array([0.4, 1.0, 0.3])
    got = confidence(value, nonzero)
    need(got is not None and np.shape(got) == (3,), "Return one number for each gene.")
    got = np.asarray(got, float)
    need(got[0] < 0, "Minus the variance: the surer, the larger; nothing is above 0.")
    need(np.isclose(got[1], 0), "A gene that is on for sure (P = 1) has one possible bin: its variance is 0.")
    need(np.isclose(got[2], 0), "An expected bin of 0 leaves nothing to vary.")
    need(
        np.isclose(got[0], -216),
        f"Bin 30 with P = 0.4, else 0: the mean square is 360, the squared mean 144, so the variance is 216; you gave {-got[0]:g}.",
    )
    return "In the library it is confidence='variance': the squared error that the network itself expects."


@checker(
    "08.4",
    hints=[
        "Give every token the number of its block: np.repeat(np.arange(len(blocks)), blocks).",
        "A row may look where its block number is at least the column's. That is too much for the last block: there, only the diagonal.",
        "allowed = block[:, None] >= block[None, :]; clear the corner of the last block; then put the diagonal back with np.eye.",
    ],
)
def causal_blocks(block_causal):
    got = block_causal([2, 1, 2])
    need(got is not None and np.shape(got) == (5, 5), "Return a matrix with one row and one column per token.")
    got = np.asarray(got).astype(bool)
    need(
        not got[0, 2], "The prompt looks at the genes of step 1. In this variant older genes never look at newer ones."
    )
    need(got[2, 0], "A gene of step 1 must see the prompt.")
    need(not got[3, 4] and not got[4, 3], "Generated genes see each other; only the diagonal is allowed there.")
    need(got.diagonal().all(), "Everyone looks at itself.")
    for blocks in ([2, 1, 2], [3, 2, 4, 1], [1, 5]):
        of = np.repeat(np.arange(len(blocks)), blocks)
        last = of == len(blocks) - 1
        right = (of[:, None] > of[None]) | ((of[:, None] == of[None]) & ~last[:, None]) | np.eye(len(of), dtype=bool)
        mine = np.asarray(block_causal(blocks)).astype(bool)
        wrong = np.argwhere(mine != right)
        if len(wrong):
            i, j = wrong[0]
            words = ("may not look, but does", "may look, but does not")[int(right[i, j])]
            need(False, f"Blocks {blocks}: token {i} {words} at token {j}.")
    return "What it looks like is a staircase, with single steps at the bottom."
