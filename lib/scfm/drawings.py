"""Pictures of ideas, where ``plots`` draws numbers: boxes and arrows, networks as stacks of blocks, cells as sentences.

Same style and colours as :mod:`scfm.plots`; each function returns the Axes, and ``plots.show(ax, alt=...)`` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scfm.plots import PALETTE, ROLE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# what happens to a block of a network in training: colour, opacity, and what the legend says
STATES = {
    "trained": (ROLE["baseline"], 0.75, "trained"),
    "added": (PALETTE[2], 0.75, "new, trained"),
    "frozen": (ROLE["control"], 0.25, "frozen"),
}


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)


def boxes(
    places: Mapping[str, tuple[float, float, str, str]],
    arrows: Sequence[tuple[str, str]],
    width: float = 8.6,
    height: float = 3.2,
    title: str = "",
) -> Axes:
    """Boxes with text, joined by arrows.

    ``places``: name → (x, y, text, role), x and y the middle of the box in inches from the lower left, role a key of
    ``plots.ROLE``. ``arrows``: (from, to), drawn from edge to edge.
    """
    ax = axes(width, height)
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_aspect("equal")
    drawn = {}
    for name, (x, y, text, role) in places.items():
        style = {"boxstyle": "round,pad=0.5", "facecolor": ROLE[role], "alpha": 0.28, "lw": 0}
        drawn[name] = ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style, linespacing=1.35)
    for start, end in arrows:
        between = {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()}  # from edge to edge
        ax.annotate(
            "",
            xy=places[end][:2],
            xytext=places[start][:2],
            arrowprops={"arrowstyle": "-|>", "color": "#444444", "lw": 1.3, "shrinkA": 3, "shrinkB": 3, **between},
        )
    _bare(ax)
    ax.set_title(title)
    return ax


def stacks(columns: Mapping[str, Sequence[tuple[str, str]]], title: str = "") -> Axes:
    """Networks as stacks of blocks side by side, the input at the bottom.

    ``columns``: title → blocks from the bottom up, each (text, state); state "trained", "frozen", "added", or two of them
    joined by "+" for a block of which the right third is something else ("frozen+added": a frozen layer with an adapter).
    """
    from matplotlib.patches import Patch, Rectangle

    tallest = max(len(blocks) for blocks in columns.values())
    ax = axes(1.45 * len(columns) + 0.3, 0.36 * tallest + 1.0)
    used = []
    for x, blocks in enumerate(columns.values()):
        for y, (text, state) in enumerate(blocks):
            parts = state.split("+")
            left = 0.86 if len(parts) == 1 else 0.6
            for part, start, wide in zip(parts, (0.07, 0.07 + left), (left, 0.86 - left), strict=False):
                colour, alpha, _ = STATES[part]
                ax.add_patch(Rectangle((x + start, y + 0.07), wide, 0.86, facecolor=colour, alpha=alpha, lw=0))
                used.append(part)
            ax.text(x + 0.07 + left / 2, y + 0.5, text, ha="center", va="center", fontsize=8)
    ax.set_xlim(0, len(columns))
    ax.set_ylim(0, tallest)
    ax.xaxis.tick_top()
    _bare(ax)
    ax.set_xticks([x + 0.5 for x in range(len(columns))], list(columns), fontsize=9, fontweight="bold")
    ax.tick_params(length=0)
    handles = [Patch(facecolor=c, alpha=a, label=says) for state, (c, a, says) in STATES.items() if state in used]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(handles))
    ax.set_title(title)
    return ax


def sentence(words: Sequence[str], kinds: Mapping[str, str], per_line: int = 10, title: str = "") -> Axes:
    """A cell as a sentence: its genes in order, each on a strip, those in ``kinds`` (gene → kind) in the kind's colour.

    Reads like text: left to right, then the next line; small numbers give the places.
    """
    from matplotlib.patches import Patch, Rectangle

    lines = -(-len(words) // per_line)
    ax = axes(0.86 * per_line + 0.2, 0.46 * lines + 0.75)
    order = list(dict.fromkeys(kinds.values()))
    colours = {kind: PALETTE[(1, 0, 2, 3, 5)[i % 5]] for i, kind in enumerate(order)}
    for place, word in enumerate(words):
        x, y = place % per_line, lines - 1 - place // per_line
        colour = colours.get(kinds.get(word, ""), "#D9D9D9")
        ax.add_patch(Rectangle((x + 0.03, y + 0.08), 0.94, 0.84, facecolor=colour, alpha=0.45, lw=0))
        ax.text(x + 0.5, y + 0.46, word, ha="center", va="center", fontsize=7.5 if len(word) < 9 else 6)
        ax.text(x + 0.06, y + 0.87, str(place + 1), ha="left", va="top", fontsize=5.5, color="#555555")
    ax.set_xlim(0, per_line)
    ax.set_ylim(0, lines)
    _bare(ax)
    present = [kind for kind in order if any(kinds.get(word) == kind for word in words)]
    if present:
        handles = [Patch(facecolor=colours[kind], alpha=0.45, label=kind) for kind in present]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(handles), fontsize=8)
    ax.set_title(title)
    return ax


def guesses(
    panels: Mapping[str, tuple[Sequence[str], Sequence[float], str]], columns: int = 3, xlabel: str = "probability"
) -> object:
    """Ranked guesses as bars, one panel per question: title → (words, probabilities, the right word).

    The right word is drawn in the colour of newly trained blocks, with a check mark; all others in grey. Returns an array of Axes.
    """
    rows = -(-len(panels) // columns)
    made = axes(3.1 * columns, 1.9 * rows + 0.3, rows=rows, columns=columns) if len(panels) > 1 else axes(4.0, 2.4)
    flat = list(made.flat) if len(panels) > 1 else [made]
    for ax, (name, (words, values, truth)) in zip(flat, panels.items(), strict=False):
        right = [word == truth for word in words]
        ax.barh(range(len(words)), values, color=[PALETTE[2] if r else "#C4C4C4" for r in right], height=0.75)
        for y, value in enumerate(values):
            ax.text(value, y, f" {value:.1%}", va="center", fontsize=7)
        ax.set_yticks(range(len(words)), [f"✓ {w}" if r else w for w, r in zip(words, right, strict=True)], fontsize=8)
        ax.set_xlim(0, max(values) * 1.25)
        ax.invert_yaxis()
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
        ax.set_title(name, fontsize=9)
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    flat[0].figure.supxlabel(xlabel, fontsize=8)
    return made
