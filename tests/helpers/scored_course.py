"""A tiny course whose lesson compares a model with two baselines and a twin, draw by draw: what grids and boards are tested on."""

from __future__ import annotations

from pathlib import Path

from tiny_course import CHECKS, LESSON, make_course

SCORES = """\
# %%
import numpy as np
import pandas as pd

if "TINY_LOG" in os.environ:
    with open(os.environ["TINY_LOG"], "a") as log:  # who was executed, and how often
        log.write(f"{dataset} {seed} {mode}\\n")
time.sleep(float(os.environ.get("TINY_SLEEP", "0")))

ROLES = {"model": "model", "pca": "baseline", "mean": "baseline", "twin": "twin"}
LEVEL = {"model": 0.80, "pca": 0.70 if dataset != "hard" else 0.86, "mean": 0.5, "twin": 0.6}
draws = np.random.default_rng(seed).normal(0, 0.02, 20)
own = np.random.default_rng([seed, 1]).normal(0, 0.01, (len(ROLES), 20))
rows = [
    ("tiny-model", method, dataset, 10, draw, "accuracy", LEVEL[method] + draws[draw] + own[m, draw])
    for m, method in enumerate(ROLES)
    for draw in range(20)
]
table = pd.DataFrame(rows, columns=["model", "method", "dataset", "labels_per_class", "seed", "metric", "value"])
cost = pd.DataFrame({"dataset": dataset, "method": list(ROLES), "cells": 1000, "seconds": [2.0, 0.1, 0.1, 2.0]})
record.scores(table, roles=ROLES, key=["accuracy"], cost=cost)

# %%
if mode == "fail":
"""


def make_scored_course(root: Path) -> Path:
    """Write the course below ``root`` and return it."""
    lesson = LESSON.replace('# %%\nif mode == "fail":\n', SCORES, 1)
    assert lesson != LESSON
    return make_course(root, lesson, CHECKS)
