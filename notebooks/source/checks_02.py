"""Checks of the exercises of lesson 02."""

import numpy as np

from coursekit.check import checker, need


@checker(
    "02.1",
    hints=[
        "Two things have to go before you take the median: the depth of each cell, and the cells that do not have the gene.",
        "Counts per 10,000 first: counts / n_counts * 10_000. Then choose the entries that are above zero.",
        "np.median(per_10k[counts > 0])",
    ],
)
def nonzero_median(function):
    counts = np.array([0, 4, 0, 1, 3, 0])
    n_counts = np.array([9000, 2000, 400, 1000, 1000, 500])
    got = float(function(counts, n_counts))
    need(
        not np.isclose(got, 3.0),
        "you took the median of the counts themselves. A cell that was sequenced twice as deeply has twice the counts.",
    )
    need(not np.isclose(got, 5.0), "cells without the gene are still in it: most genes would get a median of zero.")
    need(
        not np.isclose(got, 0.002),
        "nearly: the unit is counts per 10,000, so multiply the share of the cell by 10,000.",
    )
    need(np.isclose(got, 20.0), f"for counts {counts.tolist()} in cells of depth {n_counts.tolist()} got {got:g}.")
    skewed = float(function(np.array([1, 2, 9, 0]), np.full(4, 1000)))
    need(np.isclose(skewed, 20.0), f"of 10, 20 and 90 per 10,000 the one in the middle is 20; got {skewed:g}.")
    even = float(function(np.array([1, 2]), np.array([1000, 1000])))
    need(np.isclose(even, 15.0), f"the median of 10 and 20 per 10,000 is their middle, 15; got {even:g}.")
    return "Depth out, zeros out, middle taken: that is the number the vocabulary stores for each gene."


@checker(
    "02.2",
    hints=[
        "You need two keys: the value decides, and only where two values are equal the token id does.",
        "np.lexsort sorts by several keys at once, and its LAST key counts most.",
        "np.lexsort((token_ids, -values))",
    ],
)
def order(function):
    values = np.array([3.0, 1.0, 3.0, 2.0])
    token_ids = np.array([9, 4, 5, 7])
    got = [int(i) for i in function(values, token_ids)]
    need(sorted(got) == [0, 1, 2, 3], f"expected the four indices in some order, got {got}.")
    need(got != [1, 3, 2, 0] and got != [1, 3, 0, 2], "that is the smallest value first; the largest comes first.")
    need(
        got != [0, 2, 3, 1],
        "equal values stay in the order of the columns. Another file with other columns would give another sentence: "
        "the smaller token id should come first.",
    )
    need(got == [2, 0, 3, 1], f"order([3, 1, 3, 2], token ids [9, 4, 5, 7]) gave {got}; expected [2, 0, 3, 1].")
    rng = np.random.default_rng(0)
    values, token_ids = rng.integers(1, 4, 50).astype(float), rng.permutation(50)
    shuffle = rng.permutation(50)
    first = token_ids[np.asarray(function(values, token_ids))]
    second = token_ids[shuffle][np.asarray(function(values[shuffle], token_ids[shuffle]))]
    need(np.array_equal(first, second), "with the columns shuffled, 50 genes with many ties gave another sentence.")
    return "The sentence depends on the cell alone, not on the file or the machine."


@checker(
    "02.3",
    hints=[
        "Count the edges: those at or below the count give the highest bin, those strictly below it the lowest.",
        "high = (edges <= count).sum(). If some edges equal the count, the lowest is one more than the edges below it.",
        "low = min((edges < count).sum() + 1, high)",
    ],
)
def bin_range(function):
    edges = np.array([1.0, 1.0, 1.0, 2.0, 2.5, 6.0])
    told = f"edges {edges.tolist()}"
    for count, expected in ((1, (1, 3)), (2, (4, 4)), (3, (5, 5)), (6, (6, 6))):
        got = tuple(int(b) for b in function(count, edges))
        need(len(got) == 2, f"expected two numbers, the lowest and the highest bin; got {got}.")
        need(
            got[1] == expected[1],
            f"{told}: the highest bin of a count of {count} is {expected[1]} (edges at or below it); got {got[1]}.",
        )
        need(got[0] >= 1, f"{told}: bin 0 is for zeros only, but a count of {count} got down to {got[0]}.")
        need(
            got[0] == expected[0],
            f"{told}: the lowest bin of a count of {count} is {expected[0]}, not {got[0]}.",
        )
    return "A count that many edges share is spread over as many bins. How many, the next figure shows."


@checker(
    "02.4",
    hints=[
        "A gene with one molecule survives with probability share. And one with two? Ask first when it is lost.",
        "It is lost only if every one of its molecules is: (1 - share) ** count.",
        "np.mean(1 - (1 - share) ** counts)",
    ],
)
def expected_kept(function):
    single = float(function(np.array([1, 1, 1]), 0.3))
    need(np.isclose(single, 0.3), f"three genes of one molecule each at share 0.3 keep 0.3 of them; got {single:g}.")
    double = float(function(np.array([2]), 0.5))
    need(
        np.isclose(double, 0.75),
        f"a gene with two molecules at share 0.5 is lost only if both are: it stays with 0.75; got {double:g}.",
    )
    mixed = float(function(np.array([1, 2, 10]), 0.1))
    need(np.isclose(mixed, (0.1 + 0.19 + 1 - 0.9**10) / 3), f"counts [1, 2, 10] at share 0.1 gave {mixed:.4f}.")
    whole = float(function(np.array([1, 5]), 1.0))
    need(np.isclose(whole, 1.0), f"nothing is lost at share 1; got {whole:g}.")
    return "No random draw needed: the counts say how many genes a shallower run would have missed."
