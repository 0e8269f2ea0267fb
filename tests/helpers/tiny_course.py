"""A course of one tiny lesson, made in a temporary folder: what coursekit's own tests build, run and break."""

from __future__ import annotations

from pathlib import Path

EXERCISE = """\
# %% [markdown]
# ### Exercise 01.1
# Which of two numbers is larger?

# %% tags=["exercise"]
def larger(a, b):
    ...  # your line


check.exercise("01.1", larger)

# %% tags=["solution"]
def larger(a, b):
    return a if a > b else b


check.exercise("01.1", larger)

"""
LESSON = (
    """\
# %% [markdown]
# # 01 · Is two more than one?
#
# | You will be able to | Time | Needs |
# |---|---|---|
# | compare two numbers | 5 min | nothing |

# %% tags=["parameters"]
profile = "quick"  # quick | cpu | gpu: the same code, other sizes
dataset = "tiny"  # tiny, or a path
seed = 0
n_cells: int | None = None  # None = the size of the profile
share = 0.5
mode = "well"

# %%
import os
import time

from coursekit import check, record

record("double", 2.0 * seed, tolerance=0.1, key=True)
record("drift", float(os.environ.get("TINY_DRIFT", "1.0")))
record("counts", {"cells": 3, "nothing": float("nan")})
record.used("dataset", dataset, "ab" * 32)

# %%
if mode == "fail":
    raise ValueError("asked to fail")
if mode == "twice":
    record("double", 1)
if mode == "slow":
    print("sleeping", flush=True)
    time.sleep(600)

"""
    + EXERCISE
    + """\
# %% [markdown] tags=["instructor"]
# **Ask before running.** Which is larger? **Misconception:** "one." **Skip** this section if you are late.

# %% [markdown] tags=["quiz"]
# **Quiz.** Is two more than one?
# - [ ] no, `1 > 2` & more -> Count *again*.
# - [x] yes -> **Right**: 2 > 1.

# %% [markdown]
# ## Key points
# - Two is more than one.
#
# ## Further reading
# - A paper, https://doi.org/10.1038/s41586-023-06139-9
"""
)

CHECKS = """\
from coursekit.check import checker, need


@checker("01.1", hints=["Think of if.", "Compare a with b."])
def larger(answer):
    need(answer(2, 1) == 2, f"larger(2, 1) gave {answer(2, 1)}; expected 2.")
    need(answer(1, 2) == 2, f"larger(1, 2) gave {answer(1, 2)}; expected 2.")
    return "Well done."
"""


def make_course(root: Path, lesson: str = LESSON, checks: str = CHECKS) -> Path:
    """Write the tiny course below ``root`` and return it."""
    source = root / "notebooks" / "source"
    source.mkdir(parents=True)
    (source / "01_tiny.py").write_text(lesson, encoding="utf-8")
    (source / "checks_01.py").write_text(checks, encoding="utf-8")
    return root
