"""Checkers of lesson 07."""

import numpy as np
import pandas as pd

from coursekit.check import checker, need


@checker(
    "07.1",
    hints=[
        "Two errors at the hidden positions: that of `predicted`, and that of one number per gene.",
        "The number per gene is the mean of its shown values only: sum them with the hidden ones set to 0, divide by how many are shown.",
        "shown_mean = np.where(mask, 0, target).sum(0) / (~mask).sum(0); then 1 - error(predicted) / error(shown_mean), both at [mask].",
    ],
)
def explained_share(explained):
    """One minus the ratio of two errors, hidden positions only, mean of the shown values."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 51, (40, 6)).astype(float)
    mask = rng.random(target.shape) < 0.4
    mask[0], mask[1] = False, True
    perfect = explained(target.copy(), target, mask)
    need(perfect is not None and np.ndim(perfect) == 0, "Return one number.")
    need(abs(perfect - 1) < 1e-9, f"A perfect prediction should give 1, not {perfect:.3f}.")
    elsewhere = np.where(mask, target, -1000.0)
    need(
        abs(explained(elsewhere, target, mask) - 1) < 1e-9, "What is predicted where nothing was hidden must not count."
    )
    shown = np.array([target[~mask[:, g], g].mean() for g in range(6)])
    zero = explained(np.broadcast_to(shown, target.shape), target, mask)
    need(
        abs(zero) < 1e-9,
        f"Answering each gene's mean over its shown values should give 0, not {zero:.3f}. Do the hidden values help your mean?",
    )
    half = target + np.sqrt(0.5) * (np.broadcast_to(shown, target.shape) - target)
    need(abs(explained(half, target, mask) - 0.5) < 1e-9, "Half of the mean's squared error left should give 0.5.")
    need(explained(target + 500, target, mask) < 0, "Worse than the mean should be negative.")
    return "Without the shown-only mean, the hidden values would have helped the baseline."


@checker(
    "07.2",
    hints=[
        "Look at the curve: where is it flat, where does it rise, where does it fall? Training walks downhill.",
        "Below 0 it is flat. Between 0 and beta the loss rises with the cosine, so downhill is a smaller cosine.",
        'cosine <= 0 → "nothing"; cosine > beta → "together"; 0 < cosine < beta → "apart".',
    ],
)
def ecs_direction(direction):
    """Down the slope of 1 - (relu(c) - beta)^2."""
    need(isinstance(direction(0.9, 0.3), str), 'Return one of the strings "together", "apart", "nothing".')
    for beta in (0.3, 0.8):
        for cosine in np.linspace(-0.95, 0.95, 39):
            if abs(cosine - beta) < 1e-6 or abs(cosine) < 1e-6:
                continue
            h = 1e-4  # the slope, measured
            slope = ((1 - (max(0, cosine + h) - beta) ** 2) - (1 - (max(0, cosine - h) - beta) ** 2)) / (2 * h)
            expected = "nothing" if slope == 0 else "together" if slope < 0 else "apart"
            got = direction(float(cosine), beta)
            need(
                got == expected, f"At cosine {cosine:.2f} with β = {beta} you say {got!r}; the slope says {expected!r}."
            )
    return "The sign changes at β, which is the top of a hill."


@checker(
    "07.3",
    hints=[
        "Plain descent would be weights - lr * gradient for both.",
        "For one of the two players the gradient arrives multiplied by -strength.",
        "encoder + lr * strength * g_encoder, discriminator - lr * g_discriminator",
    ],
)
def reversed_step(one_step):
    """Uphill for the encoder, downhill for the discriminator."""
    e, d, ge, gd = np.array([1.0, 2.0]), np.array([3.0]), np.array([0.5, -1.0]), np.array([2.0])
    got = one_step(e, d, ge, gd, 0.1, 1.0)
    need(isinstance(got, tuple | list) and len(got) == 2, "Return the two new weights: encoder, discriminator.")
    encoder, discriminator = got
    need(np.allclose(discriminator, [2.8]), "The discriminator goes downhill: its weights minus lr times its gradient.")
    need(not np.allclose(encoder, e - 0.1 * ge), "The encoder went downhill too: then it helps the discriminator.")
    need(np.allclose(encoder, e + 0.1 * ge), "The encoder goes uphill by lr times its gradient when strength is 1.")
    stronger = one_step(e, d, ge, gd, 0.1, 3.0)
    need(np.allclose(stronger[0], e + 0.3 * ge), "strength multiplies the encoder's step.")
    need(np.allclose(stronger[1], [2.8]), "strength must not change the discriminator's step.")
    off = one_step(e, d, ge, gd, 0.1, 0.0)
    need(np.allclose(off[0], e), "With strength 0 the encoder does not move.")
    need(np.allclose(e, [1.0, 2.0]), "Do not change the given arrays.")
    return "The special function in the network only hides this minus from the optimizer."


@checker(
    "07.4",
    hints=[
        "Keep the rows of this dataset, then look at one objective after the other.",
        '`stats.paired_difference(rows, "without GEP", "all five", metric)` has .low and .high. When is it a decided loss?',
        "A decided loss: .high < 0. Keep the names of the others, sorted.",
    ],
)
def not_missed(can_go):
    """Those whose removal is not decidedly worse, in the dataset and by the metric asked for."""
    rng = np.random.default_rng(0)
    drop = {"GEP": -0.1, "GEPC": 0.0, "ECS": 0.1, "DAR": 0.0, "CLS": -0.2}
    rows = []
    for dataset, sign in (("a", 1), ("b", -1)):
        for metric, scale in (("probe", 1), ("ilisi", 0)):
            for seed in range(20):
                base = rng.normal(0.5, 0.1)  # seeds differ by more than methods do
                rows.append((dataset, "all five", metric, seed, base))
                for name, change in drop.items():
                    noise = 0.02 * (-1) ** seed
                    rows.append((dataset, f"without {name}", metric, seed, base + sign * scale * change + noise))
    table = pd.DataFrame(rows, columns=["dataset", "method", "metric", "seed", "value"])
    got = can_go(table, "a", "probe")
    need(got is not None, "Return a list.")
    need(
        list(got) == ["DAR", "ECS", "GEPC"],
        f"In a table where leaving out GEP or CLS is a decided loss you gave {list(got)}.",
    )
    need(list(can_go(table, "b", "probe")) == ["CLS", "DAR", "GEP", "GEPC"], "Look at the dataset asked for only.")
    need(list(can_go(table, "a", "ilisi")) == sorted(drop), "Look at the metric asked for only.")
    return "Paired by seed, differences far smaller than the spread of the seeds are seen."
