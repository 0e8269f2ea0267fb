"""Checkers of lesson 05."""

import numpy as np

from coursekit.check import checker, need


@checker(
    "05.1",
    hints=[
        "Write down the shapes: A is (rank, inputs). And B?",
        "A holds rank * inputs numbers, B holds outputs * rank.",
        "rank * (inputs + outputs)",
    ],
)
def count_lora(lora_weights):
    """r (in + out)."""
    got = lora_weights(128, 512, 8)
    need(np.ndim(got) == 0 and not isinstance(got, type(...)), "Return one number.")
    need(got != 128 * 512, "That is the whole matrix. LoRA trains A and B only.")
    need(got != 8 * 128 * 512, "The two shapes add up; they are not multiplied.")
    for i, o, r in ((128, 512, 8), (3, 5, 1), (7, 7, 2)):
        need(
            lora_weights(i, o, r) == r * i + o * r, f"{i} inputs, {o} outputs, rank {r}: {r * i + o * r} was expected."
        )
    return "Linear in the rank, and in the sum of the sides where the matrix has their product."


@checker(
    "05.2",
    hints=[
        "The update is B times A, in this order: (outputs, rank) @ (rank, inputs).",
        "It is scaled by alpha / rank, and len(A) is the rank.",
        "W + alpha / len(A) * B @ A",
    ],
)
def merged(merge):
    """W + alpha / r B A."""
    rng = np.random.default_rng(0)
    W, A, B = rng.normal(size=(5, 3)), rng.normal(size=(2, 3)), rng.normal(size=(5, 2))
    kept = W.copy()
    got = np.asarray(merge(W, A, B, 6.0))
    need(got.shape == W.shape, "Return a matrix of the shape of W.")
    need(np.array_equal(W, kept), "W itself was changed. Return a new matrix: another adapter may want the old one.")
    need(not np.allclose(got, W + 6 * B @ A), "The factor is alpha / rank, not alpha alone.")
    need(np.allclose(got, W + 3 * B @ A), "This is not W + (alpha / rank) B A.")
    x = rng.normal(size=3)
    need(np.allclose(got @ x, W @ x + 3 * B @ (A @ x)), "Merged and unmerged answer differently.")
    return "One matrix again: nothing more to compute than before."


@checker(
    "05.3",
    hints=[
        "np.linalg.svd(delta, compute_uv=False) gives the singular values, the largest first.",
        "Square them, cumsum, divide by the total: the share of the first 1, 2, 3, ... directions.",
        "The first place where it is >= share, plus 1 (places count from 0). Rounding can leave the last sum a hair below 1: "
        "then the answer is all of them.",
    ],
)
def enough(rank_needed):
    """The first rank that holds the share."""
    delta = np.diag([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
    need(np.ndim(rank_needed(delta, 0.5)) == 0 and rank_needed(delta, 0.5) is not ..., "Return one number.")
    need(rank_needed(delta, 0.55) != 0, "A rank of 0 holds nothing. Places count from 0, ranks from 1.")
    need(rank_needed(delta, 0.55) == 1, "9/14 = 64 % lies in the first direction: square the singular values.")
    need(rank_needed(delta, 0.9) == 2, "13/14 = 93 % lies in the first two directions.")
    need(rank_needed(delta, 0.99) == 3, "For 99 % all three are needed.")
    need(rank_needed(np.outer([1.0, 2.0], [3.0, 4.0, 5.0]), 0.99) == 1, "An outer product has rank 1.")
    for seed in range(50):
        got = rank_needed(np.random.default_rng(seed).normal(size=(6, 8)), 1.0)
        need(got == 6, f"All of a random 6 x 8 matrix (share 1) needs its 6 directions, not {got}; mind the rounding.")
    return "Now 'low-rank' is a number, not an adjective."
