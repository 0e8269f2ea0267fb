"""Every figure of the course: one style, a colour-blind-safe palette, alt text. Each function returns the Axes.

    ax = plots.intervals(table, metric="avg_bio")
    plots.show(ax, alt="AvgBIO of five embeddings ...")

``show`` puts the figure into the notebook together with a sentence for readers who cannot see it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from pandas.io.formats.style import Styler

# Okabe & Ito's eight colours, told apart with any kind of colour vision; black last
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")
# one colour for one kind of method in every lesson
ROLE = {"model": PALETTE[0], "twin": PALETTE[4], "baseline": PALETTE[1], "control": "#8C8C8C"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def style() -> Any:
    """Matplotlib settings of all figures."""
    return {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
    }


def axes(width: float = 6.0, height: float = 3.6, rows: int = 1, columns: int = 1, **more: Any) -> Any:
    """New Axes (an array of them for several rows or columns) in the course's style, not attached to any window."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(style())  # titles and legends that a lesson adds later read the settings only then
    figure, made = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **more)
    plt.close(figure)  # show() displays it; the notebook should not do so a second time
    return made[0, 0] if rows == columns == 1 else made


def panels(n: int, width: float, height: float, columns: int = 2) -> np.ndarray:
    """``n`` Axes of this size in inches, at most ``columns`` beside each other, in the course's style: an array (n,)."""
    columns = min(n, columns)
    rows = -(-n // columns)
    made = np.atleast_1d(axes(width * columns, height * rows + 0.4, rows, columns)).ravel()
    for unneeded in made[n:]:
        unneeded.remove()
    return made[:n]


def show(ax: Axes | np.ndarray, alt: str) -> None:
    """Display the figure of ``ax`` with its alternative text.

    Raises
    ------
    ValueError
        If ``alt`` says too little to stand for the figure.
    """
    if len(alt) < 30:
        raise ValueError("alt should say what the figure shows, for someone who cannot see it: a sentence, not a word.")
    figure: Any = (ax.flat[0] if isinstance(ax, np.ndarray) else ax).figure
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, bbox_inches="tight")
    from IPython.display import Image, display

    display(Image(png.getvalue(), alt=alt), metadata={"image/png": {"alt": alt}})


def fold(table: pd.DataFrame | Styler, words: str) -> None:
    """Display a long table behind a fold: the line ``words``, which a click or the keyboard opens. What matters stands outside of it."""
    from html import escape

    from IPython.display import display

    frame = getattr(table, "data", table)
    whole = f"<details><summary>{escape(words)}</summary>{table.to_html()}</details>"
    display({"text/html": whole, "text/plain": f"{words}\n{frame.to_string()}"}, raw=True)


def intervals(
    table: pd.DataFrame,
    value: str = "mean",
    label: str = "method",
    hue: str | None = None,
    roles: Mapping[str, str] | None = None,
    xlabel: str = "",
    title: str = "",
    reference: float | None = None,
    ax: Axes | None = None,
    hue_order: Sequence[str] | None = None,
) -> Axes:
    """Dots with their 95 % intervals, one row per ``label``; columns ``low`` and ``high`` give the whiskers.

    ``roles``: label → "model" | "twin" | "baseline" | "control" chooses the colour. ``hue``: a column whose values are
    drawn side by side, each with its own marker; ``hue_order`` are all of them, also those not in ``table``, so that several
    panels give each the same colour. ``reference`` draws a dashed line, for chance say.
    """
    labels = list(dict.fromkeys(table[label]))
    kinds = list(hue_order or dict.fromkeys(table[hue])) if hue else [None]
    if ax is None:  # long names must not take the room of what is drawn
        longest = max((len(line) for name in labels for line in str(name).split("\n")), default=0)
        width = max(6.4, 4.0 + 0.08 * longest + (1.4 if hue else 0.0))
        ax = axes(width, 0.9 + (0.34 if len(kinds) == 1 else 0.2 * len(kinds)) * len(labels))
    for number, kind in enumerate(kinds):
        part = table if hue is None else table[table[hue] == kind]
        part = part.drop_duplicates(label).set_index(label)
        shift = (number - (len(kinds) - 1) / 2) * 0.7 / max(len(kinds), 1)
        drawn = [(row, name) for row, name in enumerate(labels) if name in part.index]
        if not drawn:  # for the legend
            ax.plot([], [], MARKERS[number % 8], color=PALETTE[number % 7], ms=6, label=kind)
        for place, (row, name) in enumerate(drawn):
            at, low, high = (float(part.loc[name, column]) for column in (value, "low", "high"))
            colour = ROLE[roles[name]] if roles else PALETTE[number % 7]
            ax.plot([low, high], [row + shift] * 2, color=colour, lw=2.2, solid_capstyle="butt")
            ax.plot(at, row + shift, MARKERS[number % 8], color=colour, ms=6, label=kind if place == 0 else None)
    if reference is not None:
        ax.axvline(reference, color="#8C8C8C", lw=1, ls="--", zorder=0)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    ax.set_title(title)
    ax.grid(axis="x", color="#E5E5E5")
    if hue:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title=hue)
    return ax


def scatter(
    points: np.ndarray,
    labels: Sequence[str],
    title: str = "",
    legend: bool = True,
    ax: Axes | None = None,
    size: float = 6,
) -> Axes:
    """Cells in two dimensions, coloured by label; rare labels drawn last. A picture to look at, never to compute from."""
    import matplotlib.pyplot as plt

    ax = axes(5.2, 4.2) if ax is None else ax
    names = np.asarray(labels).astype(str)
    kinds, counts = np.unique(names, return_counts=True)
    colours = [*PALETTE[:6], PALETTE[7], *plt.get_cmap("tab20b")(np.arange(20))]
    for number in np.argsort(-counts):
        own = names == kinds[number]
        # colour and marker together tell more kinds apart than colour alone
        ax.scatter(
            points[own, 0],
            points[own, 1],
            s=size,
            color=colours[number % len(colours)],
            marker=MARKERS[number // 7 % 8],
            label=kinds[number],
            linewidths=0,
            alpha=0.8,
        )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2.5, fontsize=8)
    return ax


def heatmap(
    table: pd.DataFrame,
    title: str = "",
    label: str = "",
    fmt: str = ".2f",
    ax: Axes | None = None,
    cmap: str = "cividis",
    limits: tuple[float, float] | None = None,
) -> Axes:
    """A table of numbers as colours, with the numbers in it; ``limits``: the values at both ends of the colours. The names of few columns stand level, those of many slant."""
    import seaborn as sns

    over, beside = (max((len(str(name)) for name in names), default=0) for names in (table.columns, table.index))
    level = table.shape[1] <= 6 and over <= 16
    if ax is None:
        width, height = max(0.85, 0.1 * over if level else 0.0), 0.9 + 0.36 * table.shape[0]
        wide = max(1.2 + 0.08 * beside + width * table.shape[1], 0.09 * len(title))
        ax = axes(wide, height if level else height + 0.06 * over)
    low, high = limits or (None, None)
    sns.heatmap(
        table, vmin=low, vmax=high, annot=True, fmt=fmt, cmap=cmap, ax=ax, cbar_kws={"label": label}, linewidths=0.5,
        annot_kws={"size": 8},
    )  # fmt: skip
    ax.set(title=title, xlabel="", ylabel="")
    ax.tick_params(left=False, bottom=False)
    ax.set_yticklabels(ax.get_yticklabels(), rotation=0)
    ax.set_xticklabels(ax.get_xticklabels(), **({"rotation": 0} if level else {"rotation": 40, "ha": "right"}))
    return ax


def curves(
    table: pd.DataFrame,
    x: str,
    hue: str,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    roles: Mapping[str, str] | None = None,
    log_x: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Lines of ``mean`` over ``x`` with the interval (``low``, ``high``, where given) as a band, one line per ``hue``."""
    ax = axes(6.4, 3.8) if ax is None else ax
    for number, name in enumerate(dict.fromkeys(table[hue])):
        part = table[table[hue] == name].sort_values(x)
        colour = ROLE[roles[str(name)]] if roles else PALETTE[number % 8]
        ax.plot(part[x], part["mean"], marker=MARKERS[number % 8], ms=5, color=colour, label=str(name), lw=1.8)
        if {"low", "high"} <= set(part):
            ax.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.18, lw=0)
    if log_x:
        ax.set_xscale("log")
        ticks = sorted(set(table[x]))
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(color="#E5E5E5")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def bars(
    values: Mapping[str, float],
    xlabel: str = "",
    title: str = "",
    colours: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Horizontal bars, the first on top, each with its number."""
    ax = axes(6.0, 0.9 + 0.3 * len(values)) if ax is None else ax
    names, heights = list(values), list(values.values())
    drawn = ax.barh(range(len(names)), heights, color=colours or PALETTE[0], height=0.7)
    ax.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, title=title)
    return ax


def slope(
    lists: Mapping[str, Sequence[str]], marked: Sequence[str] = (), title: str = "", ax: Axes | None = None
) -> Axes:
    """Lists of gene names side by side, the first gene on top; a line joins a gene to its place in the next list.

    ``marked`` genes are drawn in the baseline's colour, all others in the model's.
    """
    longest = max(len(names) for names in lists.values())
    ax = axes(2.1 * len(lists) + 0.6, 0.7 + 0.24 * longest) if ax is None else ax
    columns = list(lists.items())
    box = {"boxstyle": "round,pad=0.18", "lw": 0}
    for x, (_, names) in enumerate(columns):
        for y, name in enumerate(names):
            colour = ROLE["baseline" if name in marked else "model"]
            # light fill, dark text: readable for every eye, also in print
            ax.text(x, y, name, ha="center", va="center", fontsize=8.5, bbox=box | {"facecolor": colour, "alpha": 0.3})
            if x + 1 < len(columns) and name in columns[x + 1][1]:
                end = list(columns[x + 1][1]).index(name)
                ax.plot([x + 0.22, x + 0.78], [y, end], color=colour, lw=1.3)
    ax.set_xlim(-0.45, len(columns) - 0.55)
    ax.set_ylim(longest - 0.4, -0.6)
    ax.xaxis.tick_top()
    ax.set_xticks(range(len(columns)), [name for name, _ in columns])
    ax.set_yticks(range(longest), [str(y + 1) for y in range(longest)], fontsize=8)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title(title)
    return ax


def plane(
    table: pd.DataFrame, x: str, y: str, xlabel: str = "", ylabel: str = "", title: str = "", ax: Axes | None = None
) -> Axes:
    """Methods in the plane of two metrics, each with both intervals: rows of :func:`scfm.stats.summary`."""
    ax = axes(6.6, 4.2) if ax is None else ax
    for number, method in enumerate(dict.fromkeys(table["method"])):
        own = table[table["method"] == method].set_index("metric")
        mean, low, high = (own.loc[[x, y], column].to_numpy() for column in ("mean", "low", "high"))
        ax.errorbar(
            mean[0],
            mean[1],
            xerr=[[mean[0] - low[0]], [high[0] - mean[0]]],
            yerr=[[mean[1] - low[1]], [high[1] - mean[1]]],
            fmt=MARKERS[number % 8],
            color=PALETTE[number % 8],
            ms=8,
            label=method,
        )
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(color="#E5E5E5")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
