"""Pictures of generation: attention masks, a cell that becomes known step by step, and rows of cells side by side.

Same style and colours as :mod:`scfm.plots`; each function returns the Axes, and ``plots.show(ax, alt=...)`` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.plots import PALETTE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAY, ITSELF, NOT = PALETTE[0], PALETTE[1], "#ECECEC"
UNKNOWN = "#D0D0D0"


def mask(
    allowed: np.ndarray, blocks: Sequence[int], names: Sequence[str], title: str = "", ax: Axes | None = None
) -> Axes:
    """An attention mask as squares: row i may look at column j where filled; its diagonal in a second colour.

    allowed: bool (n, n). blocks, names: sizes of the groups of tokens, and what each is called.
    """
    from matplotlib.colors import ListedColormap

    n = len(allowed)
    ax = axes(4.2, 4.0) if ax is None else ax
    kinds = allowed.astype(int)
    np.fill_diagonal(kinds, 2 * allowed.diagonal())
    ax.imshow(kinds, cmap=ListedColormap([NOT, MAY, ITSELF]), vmin=0, vmax=2)
    edges = np.cumsum([0, *blocks])
    for at in range(n + 1):
        strong = at in edges
        ax.axhline(at - 0.5, color="white", lw=2.5 if strong else 0.6)
        ax.axvline(at - 0.5, color="white", lw=2.5 if strong else 0.6)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    ax.set_xticks(middles, names, fontsize=8)
    ax.set_yticks(middles, names, fontsize=8, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.set_xlabel("at whom")
    ax.set_ylabel("who looks")
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_title(title)
    return ax


def becoming_known(
    values: np.ndarray, known_at: np.ndarray, truth: np.ndarray, per_row: int = 20, highest: float = 50
) -> Any:
    """One cell, step by step: each gene a square, grey while unknown, framed in the step in which it becomes known.

    values, known_at, truth: (gene,) bins, steps from 1, bins. The last panel is the truth. Returns an array of Axes.
    """
    steps = int(known_at.max())
    rows = -(-len(values) // per_row)
    made = axes(2.35 * (steps + 1), 0.55 + 0.13 * rows, columns=steps + 1)

    def grid(flat: np.ndarray) -> np.ndarray:
        whole = np.full(rows * per_row, np.nan)
        whole[: len(flat)] = flat
        return whole.reshape(rows, per_row)

    for step, ax in enumerate(made.flat, start=1):
        last = step > steps
        shown = truth if last else np.where(known_at <= step, values, np.nan)
        ax.set_facecolor(UNKNOWN)
        image = ax.imshow(grid(shown), cmap="cividis", vmin=0, vmax=highest, aspect="equal")
        if not last:
            for place in np.flatnonzero(known_at == step):
                y, x = divmod(int(place), per_row)
                ax.add_patch(_frame(x, y))
        ax.set_xticks([])
        ax.set_yticks([])
        n_known = int((known_at <= step).sum())
        ax.set_title("truth" if last else f"step {step}: {n_known} known", fontsize=9)
    made.flat[0].figure.colorbar(image, ax=list(made.flat), shrink=0.8, pad=0.01, label="bin")
    return made


def _frame(x: int, y: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=PALETTE[3], lw=0.7)


def rows_of_cells(tables: Mapping[str, np.ndarray], highest: float = 50, xlabel: str = "genes") -> Any:
    """Cells as rows and genes as columns, one panel below the other: title → bins (cell, gene). Returns an array of Axes."""
    made = axes(8.4, 0.7 + 0.13 * sum(len(table) + 3 for table in tables.values()), rows=len(tables))
    flat = [made] if len(tables) == 1 else list(made.flat)
    for ax, (title, table) in zip(flat, tables.items(), strict=True):
        image = ax.imshow(table, cmap="cividis", vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    flat[-1].set_xlabel(xlabel)
    flat[0].figure.colorbar(image, ax=flat, shrink=0.8, pad=0.01, label="bin")
    return made
