"""What the cards of all minis have in common: probes beside twins and PCA, tables, verdicts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scfm
from scfm import baselines, metrics, stats
from scfm.store import cache
from studies import headstudy

if TYPE_CHECKING:
    import anndata
    import pandas as pd

    from scfm.models import Model

TISSUES = {  # evaluation set → whether the corpus holds its tissue
    "pbmc_zheng_facs": "sorted blood cells, another donor's; the corpus holds blood",
    "kang_ifnb_pbmc": "blood cells of lupus patients, 94 % of them unstimulated; the corpus holds blood",
    "lung_celllines_5batch": "lung-cancer cell lines; the corpus holds no lung line, but other cancer lines and cells of lung tumours",
    "pancreas_baron_175": "pancreatic islets; the corpus holds no pancreas",
}
BUDGETS = (5, 10, 30, 100)


WORDS = {"better": "better than", "worse": "worse than", "undecided": "not told apart from"}


def twins(model: Model, folder: Path) -> dict[str, Model]:
    """The model, what it started from, and the same network with random weights."""
    found = {"pretrained": model}
    if (folder / "start.safetensors").exists():
        found["warm start"] = scfm.load_model(folder, weights="start")
    return found | {"random twin": scfm.load_model(folder, weights="random")}


def probes(model: Model, adata: anndata.AnnData, n_draws: int = 20) -> pd.DataFrame:
    """Label efficiency of a model, its untrained rivals (several of each) and PCA: :func:`scfm.metrics.probe` at each budget of the set."""
    import pandas as pd

    embeddings = headstudy.frozen(model, adata) | {"HVG + PCA": baselines.pca(adata)}
    kinds = adata.obs["cell_type"].astype(str).to_numpy()
    smallest = min(np.unique(kinds, return_counts=True)[1])
    # beyond 60 % of the smallest class the classes would be cut: no longer this budget
    budgets = [budget for budget in BUDGETS if budget <= BUDGETS[1] or budget <= 0.6 * smallest]
    return pd.concat([metrics.probe(embeddings, kinds, budget, n_draws) for budget in budgets], ignore_index=True)


def corpus_table(log: dict) -> str:
    """Rows of the card's table of training sets."""
    return "\n".join(f"| {name} | `{(digest or '')[:16]}` |" for name, digest in log["corpus"].items())


def held_out_names(log: dict) -> str:
    """The evaluation sets that belong to the corpus of a training log."""
    corpora = tomllib.loads((cache.repo_data() / "corpora.toml").read_text(encoding="utf-8")).values()
    return ", ".join(next((c["held_out"] for c in corpora if set(c["train"]) == set(log["corpus"])), ["not recorded"]))


def cell(row: Any, digits: int = 3) -> str:
    """A row of :func:`scfm.stats.summary` as text: mean [low, high]."""
    return f"{row['mean']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def markdown(wide: pd.DataFrame) -> str:
    """A table in Markdown, the index first."""
    head = ["", *map(str, wide.columns)]
    rows = [
        [str(name), *("" if v != v else str(v) for v in row)]
        for name, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return "\n".join("| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows])


def probe_table(table: pd.DataFrame) -> str:
    """Balanced accuracy of each method by dataset and labels, as Markdown."""
    part = table[table["metric"] == "balanced_accuracy"]
    found = stats.summary(part, by=("dataset", "labels_per_class", "method"))
    found["score"] = [cell(row) for _, row in found.iterrows()]
    found["at"] = found["dataset"] + ", " + found["labels_per_class"].astype(str) + " labels"
    order = list(dict.fromkeys(found["at"]))
    methods = list(dict.fromkeys(found["method"]))
    return markdown(found.pivot(index="at", columns="method", values="score").loc[order, methods])


def verdict(table: pd.DataFrame) -> str:
    """Whether the pretrained model beats its rivals, dataset by dataset, in words."""
    lines = []
    budgets = table[table["labels_per_class"] > 0].groupby("dataset")["labels_per_class"].max()
    chosen = table[(table["labels_per_class"] == 10) | (table["labels_per_class"] == table["dataset"].map(budgets))]
    for (name, budget), part in chosen.groupby(["dataset", "labels_per_class"], sort=False):
        said = []
        for rival in ("random twin", "warm start", "HVG + PCA"):
            if rival not in set(part["method"]):
                continue
            gap = stats.paired_difference(part, "pretrained", rival, "balanced_accuracy")
            outcome = WORDS[gap.verdict()]
            said.append(f"{outcome} {rival} ({gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}])")
        where = TISSUES.get(str(name), "your set")
        lines.append(f"- **{name}**, {budget} labels ({where}): {'; '.join(said)}.")
    return "\n".join(lines)
