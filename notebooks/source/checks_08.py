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
        "The expected bin weighs b with P and 0 with 1 - P. The cell takes b or 0, as the coin says.",
        "np.where(condition, value_if_true, value_if_false) does it for all genes at once.",
        "return nonzero * if_on, np.where(coin < nonzero, if_on, 0)",
    ],
)
def mean_against_cell(mean_and_cell):
    """Expected bins, and a cell."""
    nonzero, if_on = np.array([0.4, 0.4, 1.0, 0.6]), np.array([30.0, 30.0, 25.0, 45.0])
    coin = np.array([0.3, 0.5, 0.9, 0.1])
    got = mean_and_cell(nonzero, if_on, coin)
    need(got is not None and len(got) == 2, "Return two arrays: the expected bins, and the sampled cell.")
    mean, cell = (np.asarray(x, float) for x in got)
    need(mean.shape == cell.shape == (4,), "Each of the two has one bin per gene.")
    need(
        np.allclose(mean, [12, 12, 25, 27]),
        f"Expected bins are P times b, here 12, 12, 25, 27; you gave {mean.tolist()}.",
    )
    need(cell[1] == 0, "A coin of 0.5 with P = 0.4 is off: the bin is 0.")
    need(not np.isclose(cell[0], 12), "Nearly: a gene that is on has its bin b, not the mean over on and off.")
    need(np.allclose(cell, [30, 0, 25, 45]), f"The cell should be 30, 0, 25, 45; you gave {cell.tolist()}.")
    rng = np.random.default_rng(0)
    many = np.full(20_000, 0.4), np.full(20_000, 30.0), rng.random(20_000)
    drawn = np.asarray(mean_and_cell(*many)[1])
    need(
        abs(drawn.mean() - 12) < 0.6,
        f"Over many tosses the mean must be the expected bin, 12; it is {drawn.mean():.1f}.",
    )
    return "The mean stays the same, and a cell is a cell: off or on, never in between."


@checker(
    "08.3",
    hints=[
        "The bin is b with probability P and 0 otherwise: its mean is P·b, the mean of its square P·b².",
        "Variance = P b² - (P b)². Put b² outside the bracket.",
        "b² P (1 - P); and confidence is minus that.",
    ],
)
def variance_as_doubt(confidence):
    """Minus the variance of off or b."""
    nonzero, if_on = np.array([0.4, 1.0, 0.0, 0.5]), np.array([30.0, 20.0, 40.0, 10.0])
    got = confidence(nonzero, if_on)
    need(got is not None and np.shape(got) == (4,), "Return one number for each gene.")
    got = np.asarray(got, float)
    need(got[0] < 0, "Minus the variance: the surer, the larger; nothing is above 0.")
    need(np.isclose(got[1], 0), "A gene that is on for sure (P = 1) has one possible bin: its variance is 0.")
    need(np.isclose(got[2], 0), "A gene that is off for sure (P = 0) has one possible bin, 0: its variance is 0.")
    need(
        np.isclose(got[0], -216),
        f"Bin 30 with P = 0.4, else 0: the mean square is 360, the squared mean 144, so the variance is 216; you gave {-got[0]:g}.",
    )
    need(np.isclose(got[3], -25), f"Bin 10 with P = 0.5: the variance is 25, not {-got[3]:g}.")
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
