"""Figures: they come back as Axes, say what they show, and hold what they were given."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from scfm import plots

TABLE = pd.DataFrame(
    {
        "method": ["PCA", "model"],
        "set": ["a", "a"],
        "mean": [0.5, 0.6],
        "low": [0.45, 0.5],
        "high": [0.55, 0.7],
        "x": [1, 10],
    }
)


def test_show_puts_the_alternative_text_into_the_output(capture_display) -> None:
    ax = plots.bars({"a": 1.0, "b": 2.0})
    plots.show(ax, alt="Two bars, the second twice as long as the first one.")
    (shown,) = capture_display
    assert shown["metadata"]["image/png"]["alt"].startswith("Two bars")
    assert shown["data"]["image/png"]
    with pytest.raises(ValueError, match="a sentence"):
        plots.show(ax, alt="bars")


@pytest.fixture
def capture_display(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What would be displayed in a notebook, as mime bundles with metadata."""
    import IPython.display

    shown: list[dict] = []

    def display(thing, metadata=None) -> None:
        data, own = thing._repr_mimebundle_()
        shown.append({"data": data, "metadata": own | (metadata or {})})

    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def test_intervals_draws_each_mean_between_its_whiskers_in_the_roles_colour() -> None:
    ax = plots.intervals(TABLE, roles={"PCA": "baseline", "model": "model"}, reference=0.5)
    assert isinstance(ax, Axes)
    whiskers = [line for line in ax.lines if len(line.get_xdata()) == 2 and list(line.get_xdata()) != [0, 1]]
    assert [list(w.get_xdata()) for w in whiskers[:2]] == [[0.45, 0.55], [0.5, 0.7]]
    assert to_hex(whiskers[1].get_color()) == plots.ROLE["model"].lower()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["PCA", "model"]


def test_intervals_name_every_hue_and_keep_its_colour_over_panels() -> None:
    """A hue without the first label has its place in the legend; one that another panel shows has it too."""
    rows = [("PCA", "a"), ("model", "a"), ("model", "b")]
    table = pd.DataFrame(rows, columns=["method", "set"]).assign(mean=0.5, low=0.4, high=0.6)
    one = plots.intervals(table, hue="set", hue_order=["a", "b", "c"])
    other = plots.intervals(table[table["set"] == "b"], hue="set", hue_order=["a", "b", "c"])
    colours = [{line.get_label(): line.get_color() for line in ax.get_legend().get_lines()} for ax in (one, other)]
    assert colours == [dict(zip("abc", plots.PALETTE, strict=False))] * 2
    dots = [line for line in other.lines if len(line.get_xdata()) == 1]
    assert [dot.get_color() for dot in dots] == [plots.PALETTE[1]]
    alone = plots.intervals(table, hue="set")
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["a", "b"]


def test_scatter_curves_and_heatmap_hold_what_they_were_given() -> None:
    ax = plots.scatter(np.random.default_rng(0).normal(size=(30, 2)), ["a"] * 20 + ["b"] * 10)
    assert [len(c.get_offsets()) for c in ax.collections] == [20, 10]
    ax = plots.curves(TABLE, x="x", hue="method", log_x=True)
    assert ax.get_xscale() == "log"
    ax = plots.heatmap(pd.DataFrame([[0.1, 0.2], [0.3, 0.4]], index=["r", "s"], columns=["c", "d"]))
    assert [t.get_text() for t in ax.texts] == ["0.10", "0.20", "0.30", "0.40"]


def test_the_palette_can_be_told_apart_with_every_kind_of_colour_vision() -> None:
    """Deuteranopia and protanopia simulated with the matrices of Viénot et al. 1999 (10.1002/(SICI)1520-6378(199908)24:4)."""
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in plots.PALETTE[:6]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen_as = {
        "deutan": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
        "protan": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    }
    for name, matrix in seen_as.items():
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(6, 1)]
        assert apart.min() > 0.08, name


def test_figures_do_not_stay_open() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.intervals(TABLE)
    plots.axes(columns=3)
    assert plt.get_fignums() == before


@pytest.mark.parametrize(("n", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (5, (3, 2))])
def test_panels_are_as_many_as_asked_for(n: int, shape: tuple[int, int]) -> None:
    made = plots.panels(n, 4.0, 2.0)
    assert len(made) == n
    figure = made[0].figure
    assert len(figure.axes) == n  # none is left empty
    assert made[0].get_gridspec().get_geometry() == shape
    assert figure.get_size_inches().tolist() == [4.0 * shape[1], 2.0 * shape[0] + 0.4]


@pytest.mark.parametrize("styled", [False, True])
def test_a_long_table_is_shown_behind_a_fold(styled: bool) -> None:
    table = pd.DataFrame({"method": ["a < b"] * 30, "value": range(30)})
    with mock.patch("IPython.display.display") as shown:
        plots.fold(table.style if styled else table, "all rows & more")
    (said,), how = shown.call_args
    assert how == {"raw": True}
    assert said["text/html"].startswith("<details><summary>all rows &amp; more</summary>")
    assert said["text/html"].endswith("</table>\n</details>" if styled else "</table></details>")
    assert said["text/html"].count("<tr") == 31
    assert "29" in said["text/plain"]
