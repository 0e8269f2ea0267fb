"""The figure of the course: what a label buys on each rung, with what the pretraining is worth and where it is not needed.

One row of panels per model, one panel per dataset, and per panel three questions: do the rungs differ (four colours)? Is the
pretraining worth anything (the same rung's random twin, dashed)? Is the model needed at all (logistic regression, grey)?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.plots import PALETTE, axes
from studies.comparisons import BASELINES, COVERED, NO_ONE, RUNGS, arm_of, summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLOURS = {"head": PALETTE[0], "lora": PALETTE[2], "partial": PALETTE[5], "full": PALETTE[3]}
MARKS = {"head": "o", "lora": "s", "partial": "^", "full": "D"}
LINES = {"pretrained": "-", "random": "--", "start": ":"}
GREY = {"logistic PCA": "#555555", "logistic HVG": "#A0A0A0"}


def figure(table: pd.DataFrame, metric: str = "balanced_accuracy", datasets: Sequence[str] | None = None) -> Any:
    """Label efficiency: panels (model, dataset), lines with 95 % t intervals over the draws. Returns the array of Axes."""
    part = table[table["metric"] == metric]
    models = [m for m in dict.fromkeys(part["model"]) if m != BASELINES]
    names = list(datasets or dict.fromkeys(part["dataset"]))
    names.sort(key=lambda name: not COVERED.get(name, True))  # stable: the tissues of the corpus first
    # every panel of a row shares its scale, so that rungs can be compared by eye across sets
    panels = axes(3.9 * len(names) + 1.3, 4.4 * len(models), rows=len(models), columns=len(names), sharey=True)
    grid = np.asarray(panels, dtype=object).reshape(len(models), len(names))
    for row, model in enumerate(models):
        for column, name in enumerate(names):
            own = part[(part["dataset"] == name) & part["model"].isin([model, BASELINES])]
            ax = grid[row, column]
            panel(ax, summary(own, by=("method", "labels_per_class")))
            n_classes = table.loc[(table["dataset"] == name) & (table["metric"] == "n_classes"), "value"]
            if len(n_classes):
                ax.axhline(1 / n_classes.max(), color="#888888", lw=1, ls=":", zorder=0)
            inside = COVERED.get(name)
            where = "" if inside is None else f"\ntissue {'in' if inside else 'NOT in'} the corpus"
            ax.set_title(f"{name}{where}" if row == 0 else "", fontsize=10)
            ax.set_xlabel("labels per class" if row == len(models) - 1 else "")
            if column == 0:
                ax.set_ylabel(f"{model}\n{metric.replace('_', ' ')}")
    budgets = part["labels_per_class"]
    for ax in grid.ravel():  # one scale of labels as well
        ax.set_xlim(budgets.min() / 1.3, budgets.max() * 1.3)
    _legend(grid[0, -1], bool(part["method"].str.startswith("start ").any()))
    return panels


def panel(ax: Axes, lines: pd.DataFrame) -> None:
    """One panel from rows method, labels_per_class, mean, low, high: rungs solid, twins dashed, warm starts dotted, baselines grey."""
    methods = list(dict.fromkeys(lines["method"]))
    # baselines behind, then twins, then rungs on top; points side by side, so that intervals can be told apart
    order = [m for m in GREY if m in methods]
    order += [m for arm in ("twin", "start") for r in RUNGS if (m := f"{arm} {r}") in methods]
    order += [m for m in RUNGS if m in methods]
    for number, method in enumerate(order):
        own = lines[lines["method"] == method].sort_values("labels_per_class")
        weights, rung = arm_of(method)
        colour = GREY.get(method) or COLOURS[rung]
        baseline = method in GREY
        x = own["labels_per_class"].to_numpy() * 1.035 ** (number - (len(order) - 1) / 2)
        mean, low, high = (own[c].to_numpy() for c in ("mean", "low", "high"))
        ax.plot(
            x, mean, color=colour, lw=2.4 if baseline else 1.6, ls=LINES[weights], marker=MARKS.get(rung, "o"),
            ms=0 if baseline else 4.5, mfc=colour if weights == "pretrained" else "white", zorder=2 + number,
        )  # fmt: skip
        ax.vlines(x, low, np.minimum(high, 1.0), color=colour, lw=1.1, alpha=0.75, zorder=1)
    ticks = sorted(lines["labels_per_class"].unique())
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(0, 1.02)
    ax.grid(axis="y", color="#E8E8E8")


def _legend(ax: Axes, starts: bool) -> None:
    """The key, in the words of the three questions."""
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    for text in (
        "pretrained, trained:",
        *RUNGS,
        "same, random weights:",
        "twin (dashed)",
        *(["before training:", "warm start (dotted)"] if starts else []),
        "no model:",
        *GREY,
        "chance",
    ):
        if text.endswith(":"):
            handles.append(Line2D([], [], color="none", label=text))
        elif text == "chance":
            handles.append(Line2D([], [], color="#888888", lw=1, ls=":", label=text))
        elif text in GREY:
            handles.append(Line2D([], [], color=GREY[text], lw=2.4, label=text))
        elif text in COLOURS:
            handles.append(Line2D([], [], color=COLOURS[text], marker=MARKS[text], ms=5, label=text))
        else:
            ls = LINES["random" if "dashed" in text else "start"]
            handles.append(Line2D([], [], color="#333333", ls=ls, marker="o", mfc="white", ms=5, label=text))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=9, handlelength=2.2)


def differences(compared: pd.DataFrame, rival: str = "logistic PCA") -> Any:
    """Each rung minus ``rival``, draw by draw: panels (model, dataset), budgets side by side, whiskers the 95 % t interval.

    ``compared``: rows of :func:`studies.comparisons.paired`. Returns the array of Axes.
    """
    part = compared[compared["rival"] == rival]
    models = list(dict.fromkeys(part["model"]))
    names = sorted(dict.fromkeys(part["dataset"]), key=lambda name: not COVERED.get(name, True))
    panels = axes(3.9 * len(names) + 1.3, 2.8 * len(models), rows=len(models), columns=len(names), sharey=True)
    grid = np.asarray(panels, dtype=object).reshape(len(models), len(names))
    for (row, column), ax in np.ndenumerate(grid):
        own = part[(part["model"] == models[row]) & (part["dataset"] == names[column])]
        budgets = sorted(own["labels_per_class"].unique())
        for number, rung in enumerate(COLOURS):
            line = own[own["ours"] == rung]
            x = np.searchsorted(budgets, line["labels_per_class"]) + 0.17 * (number - 1.5)
            ax.vlines(x, line["low"], line["high"], color=COLOURS[rung], lw=2)
            ax.plot(x, line["mean"], MARKS[rung], color=COLOURS[rung], label=rung)
        ax.axhline(0, color=GREY.get(rival, "#555555"), lw=2.4, zorder=0)
        ax.set_xticks(range(len(budgets)), [f"{b:g}" for b in budgets])
        ax.set_title(names[column] if row == 0 else "")
        ax.set_xlabel("labels per class" if row == len(models) - 1 else "")
        ax.set_ylabel(f"{models[row]}\nminus {rival}" if column == 0 else "")
        ax.grid(axis="y", color="#E8E8E8")
    grid[0, -1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return panels


def chart(decisions: pd.DataFrame, title: str = "") -> Any:
    """The decision chart: rows model and tissue, columns labels per class; the method, and the points it lies behind the best.

    ``decisions``: rows of :func:`studies.comparisons.decision_chart`.
    """
    from matplotlib.patches import Rectangle

    rows = list(dict.fromkeys(zip(decisions["model"], decisions["tissue"], strict=True)))
    budgets = sorted(decisions["labels_per_class"].unique())
    ax = axes(2.6 + 1.35 * len(budgets), 0.9 + 0.62 * len(rows))
    for y, (model, tissue) in enumerate(rows):
        for x, budget in enumerate(budgets):
            own = decisions[
                (decisions["model"] == model)
                & (decisions["tissue"] == tissue)
                & (decisions["labels_per_class"] == budget)
            ]
            if own.empty:
                ax.text(x, y, "no set has\nso many", ha="center", va="center", fontsize=7.5, color="#777777")
                continue
            found = own.iloc[0]
            colour = GREY.get(found["method"]) or COLOURS.get(found["method"], "#888888")
            ax.add_patch(Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, facecolor=colour, alpha=0.32, lw=0))
            behind = 100 * found["behind"]
            small = "the best itself" if behind == 0 else f"{behind:.1f} points behind"
            if found["method"] == NO_ONE:
                small = f"best: {found['best']}"
            size = 9 if len(found["method"]) < 14 else 7.5
            ax.text(x, y - 0.08, found["method"], ha="center", va="center", fontsize=size, fontweight="bold")
            ax.text(x, y + 0.24, small, ha="center", va="center", fontsize=7)
    ax.set_xlim(-0.5, len(budgets) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xticks(range(len(budgets)), [f"{b:g}" for b in budgets])
    ax.set_xlabel("labels per class")
    ax.set_yticks(range(len(rows)), [f"{model}\ntissue {tissue}" for model, tissue in rows], fontsize=8.5)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title(title)
    return ax
