"""Checkers of lesson 06."""

import numpy as np

from coursekit.check import checker, need


def _number(got):
    need(np.ndim(got) == 0 and not isinstance(got, type(...)) and got is not None, "Return one number.")


@checker(
    "06.1",
    hints=[
        "Two cases: before the end of the warm-up, and after it.",
        "After it, the part that is done is (step - warmup) / (steps - warmup).",
        "if step < warmup: (step + 1) / (warmup + 1); otherwise 1 minus the part that is done.",
    ],
)
def warm_then_fall(share):
    """As scfm.adaptation.loop.schedule."""
    _number(share(0, 10, 2))
    need(0 < share(0, 10, 2) < 1, "The first step of a warm-up is small, but not zero: nothing would move.")
    need(abs(share(2, 10, 2) - 1) < 1e-9, "At step = warmup the whole rate is used.")
    need(abs(share(6, 10, 2) - 0.5) < 1e-9, "Half way down, between warmup = 2 and steps = 10, lies step 6: 0.5.")
    for warmup in (0, 1, 4):
        for step in range(12):
            expected = (step + 1) / (warmup + 1) if step < warmup else 1 - (step - warmup) / (12 - warmup)
            need(
                abs(share(step, 12, warmup) - expected) < 1e-9,
                f"step {step} of 12, warmup {warmup}: {expected:.3f} was expected.",
            )
    return "The library's schedule is this one, with the warm-up as a share of the steps."


@checker(
    "06.2",
    hints=[
        "How much worse did it get? And how much worse could it get, down to the guesser?",
        "The first is after - before, the second guess - before.",
        "(after - before) / (guess - before)",
    ],
)
def lost(share_lost):
    """(after - before) / (guess - before)."""
    _number(share_lost(2.0, 2.0, 4.0))
    need(abs(share_lost(2.0, 2.0, 4.0)) < 1e-9, "Nothing changed: 0.")
    need(abs(share_lost(2.0, 4.0, 4.0) - 1) < 1e-9, "As bad as the guesser: 1.")
    need(abs(share_lost(2.0, 2.5, 4.0) - 0.25) < 1e-9, "From 2 to 2.5, with the guesser at 4: a quarter.")
    need(share_lost(2.0, 1.9, 4.0) < 0, "A network that got better has lost less than nothing.")
    return "One scale for nats and squared bins."


@checker(
    "06.3",
    hints=[
        "Compare each station with the one before it: zip(scores, scores[1:]).",
        "The fall is the earlier score minus the later one; keep the name of the later station.",
        "max((before - after, name) for (_, before), (name, after) in zip(scores, scores[1:]))[1]",
    ],
)
def where_it_falls(culprit):
    """The station with the largest fall."""
    way = [("genes", 0.98), ("vocabulary", 0.95), ("tokens", 0.66), ("embedding", 0.58)]
    need(isinstance(culprit(way), str), "Return the name of a station.")
    need(culprit(way) == "tokens", "From 0.95 to 0.66 at the tokens is the largest fall.")
    need(
        culprit([("a", 0.5), ("b", 0.9), ("c", 0.8), ("d", 0.1)]) == "d",
        "Compare with the station before, not with the first one.",
    )
    need(culprit([("a", 0.9), ("b", 0.2), ("c", 0.1)]) == "b", "The lowest score is not the largest fall.")
    return "Now you know what to repair: vocabulary, tokens or weights."


@checker(
    "06.4",
    hints=[
        "When is a method significantly worse? Its gap to the best is surely above 0.",
        "Keep the methods whose low is not above 0, then take the smallest price.",
        "min([m for m, (low, high) in gaps.items() if low <= 0], key=price.get)",
    ],
)
def cheap_enough(cheapest):
    """Cheapest with low <= 0."""
    gaps = {"head": (0.01, 0.05), "lora": (-0.01, 0.03), "full": (0.0, 0.0), "logistic": (0.2, 0.3)}
    price = {"head": 0.3, "lora": 20.0, "full": 18.0, "logistic": 0.01}
    need(isinstance(cheapest(gaps, price), str), "Return the name of a method.")
    need(cheapest(gaps, price) != "logistic", "The cheapest of all is significantly worse here.")
    need(cheapest(gaps, price) != "head", "The head's interval lies above 0: significantly worse, if only a little.")
    need(cheapest(gaps, price) == "full", "lora and full are left; full is cheaper.")
    need(
        cheapest(gaps | {"head": (-0.001, 0.05)}, price) == "head",
        "An interval that reaches 0 is not significantly worse.",
    )
    return "That is the chart, cell by cell."
