"""The leaderboard for people: a page for the book (Markdown), its figure, and the tables behind them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coursekit.files import atomic_write, filled, write_text
from coursekit.rerun import board

if TYPE_CHECKING:
    import pandas as pd

PAGE = Path("runs") / "board"  # the book takes its pages from here (site.BOARD)
STORED = PAGE / "scores.parquet"  # in runs/: names of your own files are nothing for the repository
TEMPLATE = Path(__file__).with_name("board.md")
SIGN = {"better": "**yes**", "worse": "no: worse", "undecided": "undecided"}


def publish(root: Path, tidy: pd.DataFrame) -> Path:
    """Store the scores beside the page, and write it; returns it."""
    board.write_table(tidy, root / STORED)
    return write_page(root, tidy)


def write_page(root: Path, tidy: pd.DataFrame) -> Path:
    """Write runs/board: index.md, leaderboard.png, and the comparisons as comparisons.parquet; returns index.md."""
    table = board.compare(tidy)
    folder = root / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    board.write_table(table, folder / "comparisons.parquet")
    picture = folder / "leaderboard.png"
    figure = draw(table, picture) if len(table) and table["strongest"].any() else ""
    if not figure:
        picture.unlink(missing_ok=True)  # of an older board
    write_text(folder / "index.md", page(table, tidy, figure))
    return folder / "index.md"


def page(table: pd.DataFrame, tidy: pd.DataFrame, alt: str) -> str:
    """The page as Markdown: the answer in one sentence, the figure with its ``alt`` text, and the tables."""
    if not len(table):
        head = TEMPLATE.read_text(encoding="utf-8").split("<!-- strongest -->")[0]
        return f"{head}No lesson of the grids that were run compares a model with a baseline yet.\n"
    strongest = table[table["strongest"]]
    tables = {"RIVALS": _table(table, _RIVALS), "COST": _table(_costs(table, tidy), _COST)}
    if len(strongest):
        tables |= {"STRONGEST": _table(strongest, _STRONGEST), "ANSWER": _answer(strongest)}
        tables["DATASETS"] = _table(board.over_datasets(table), _DATASETS)
    text = filled(TEMPLATE, ALT=alt, **{name: "\n".join(lines) for name, lines in tables.items()})
    if not len(strongest):
        only = "No lesson of these grids has a baseline, only twins.\n\n"
        return re.sub(r"<!-- strongest -->.*<!-- /strongest -->\n", only, text, flags=re.S)
    return re.sub(r"<!-- /?strongest -->\n", "", text)


def _answer(strongest: pd.DataFrame) -> list[str]:
    said = []
    for (model, metric), part in strongest.groupby(["model", "metric"], sort=True):
        counts = part["verdict"].value_counts()
        tally = ", ".join(f"{word} in {counts[word]}" for word in ("better", "undecided", "worse") if word in counts)
        said.append(f"- **{_words(model)}**, {_words(metric)}: {tally} of {len(part)} comparisons.")
    return said


# what a table shows of a comparison: head → its words
_SHOWN: dict[str, Callable[[Any], str]] = {
    "lesson": lambda row: _lesson(row),
    "dataset": lambda row: _words(row.dataset),
    "labels": lambda row: str(row.labels_per_class or "none"),
    "metric": lambda row: _words(row.metric),
    "model": lambda row: _words(_name(row)),
    "model, its score": lambda row: f"{_words(_name(row))} {row.model_mean:.3f}",
    "strongest baseline": lambda row: f"{_words(row.rival)} {row.rival_mean:.3f}",
    "rival": lambda row: f"{_words(row.rival)} ({row.rival_role})",
    "gain": lambda row: f"{row.gain:+.3f}" + ("" if math.isnan(row.low) else f" [{row.low:+.3f}, {row.high:+.3f}]"),
    "p": lambda row: _p(row.p_holm if hasattr(row, "p_holm") else row.p),
    "model better?": lambda row: "undecided: too few draws" if row.too_few_draws else SIGN[row.verdict],
    "ms per cell": lambda row: f"{_ms(row.model_ms)} : {_ms(row.rival_ms)}",
    "seeds × draws": lambda row: f"{row.n_seeds} × {row.n_draws // row.n_seeds}",
    "better": lambda row: str(row.better),
    "undecided": lambda row: str(row.undecided),
    "worse": lambda row: str(row.worse),
    "sets": lambda row: str(row.n_datasets),
    "whole run": lambda row: f"{row.run_seconds / 60:.1f} min",
    "peak memory": lambda row: f"{row.run_memory_bytes / 2**30:.1f} GiB",
    "machine": lambda row: _words(row.device),
}
_STRONGEST = [
    "lesson",
    "dataset",
    "labels",
    "metric",
    "model, its score",
    "strongest baseline",
    "gain",
    "p",
    "model better?",
]
_STRONGEST += ["ms per cell", "seeds × draws"]
_DATASETS = ["lesson", "model", "labels", "metric", "sets", "better", "undecided", "worse", "gain", "p"]
_RIVALS = ["dataset", "labels", "metric", "model", "rival", "gain", "p", "model better?"]
_COST = ["lesson", "dataset", "model", "whole run", "peak memory", "ms per cell", "machine"]


def draw(table: pd.DataFrame, path: Path) -> str:
    """Draw the gains over the strongest baseline; returns the figure's alternative text."""
    from scfm import plots

    part = table[table["strongest"]].copy()
    labelled = part["labels_per_class"].map(lambda n: f", {n} labels" if n else "")
    part["question"] = part["dataset"].astype(str) + labelled
    part["mean"] = part["gain"]
    part["who"] = [_name(row) + (f" ({row.setting})" if row.setting else "") for row in _rows(part)]
    everybody = list(dict.fromkeys(part["who"]))  # one order for all panels, so that the last one's legend is all of it
    asked = list(dict.fromkeys(zip(part["lesson"], part["metric"], strict=True)))
    rows = max(part[(part["lesson"] == a) & (part["metric"] == b)]["question"].nunique() for a, b in asked)
    panels = plots.axes(4.6 * len(asked) + 1.5, 1.2 + 0.5 * rows, columns=len(asked))
    flat = [panels] if len(asked) == 1 else list(panels.flat)
    for ax, (lesson, metric) in zip(flat, asked, strict=True):
        own = part[(part["lesson"] == lesson) & (part["metric"] == metric)]
        plots.intervals(
            own,
            label="question",
            hue="who",
            reference=0,
            title=f"Lesson {lesson[:2]}: {metric.replace('_', ' ')}",
            xlabel="gain over the strongest baseline",
            ax=ax,
            hue_order=everybody,
        )
        if ax is not flat[-1] and ax.get_legend():
            ax.get_legend().remove()
    with atomic_write(path) as temporary:
        flat[0].figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    told = "; ".join(f"{row.question}, {row.metric}: {row.who} {row.verdict}" for row in _rows(part))
    return f"Gains of the models over the strongest baseline with 95 % intervals. {told}.".replace("_", " ")


# --- words ----------------------------------------------------------------------------------------------


def _rows(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples())


def _table(table: pd.DataFrame, shown: list[str]) -> list[str]:
    rows = [[_SHOWN[head](row) for head in shown] for row in _rows(table)]
    return [f"| {' | '.join(line)} |" for line in (shown, ["---"] * len(shown), *rows)]


def _costs(table: pd.DataFrame, tidy: pd.DataFrame) -> pd.DataFrame:
    """What each model cost beside its strongest baseline, with the machine."""
    devices = tidy.groupby("lesson")["device"].agg(lambda names: ", ".join(sorted(set(names))))
    found = table[table["strongest"]].drop_duplicates(["lesson", "setting", "dataset", "model"])
    return found.assign(device=found["lesson"].map(devices))


def _words(text: Any) -> str:
    """Text that may stand in a Markdown table."""
    found = str(text)
    for sign in ("\\", "|", "*", "_", "<", "[", "]"):
        found = found.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return found


def _lesson(row: Any) -> str:
    return row.lesson[:2] + (f" ({_words(row.setting)})" if row.setting else "")


def _name(row: Any) -> str:
    return row.model if row.method in ("pretrained", row.model) else f"{row.model}, {row.method}"


def _p(p: float) -> str:
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _ms(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"
