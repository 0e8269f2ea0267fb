"""Would more cells, or a larger network, change the verdict? The pretraining again, smaller.

    python -m studies.scale --plan      what is there, what is missing
    python -m studies.scale             go on with what is missing; a killed run goes on from its last checkpoint

The recipe of geneformer-mini with a third of its steps: on 1/16, 1/4 and all of the training cells, at two sizes of network,
and the full one with three seeds, which is what a difference has to exceed. Vocabulary and held-out cells are the same in all
runs of a seed. Each run ends with its loss on held-out cells and with probes on sets that no corpus holds, its own warm start
and random twin beside it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.pretraining import geneformer_mini
from scfm.store import cache
from studies import judging, sets
from studies.tables import COLUMNS, RECIPE, Growing

if TYPE_CHECKING:
    from scfm.pretraining.corpus import Corpus

SHARES = (1 / 16, 1 / 4, 1.0)
SIZES: dict[str, dict[str, Any]] = {"small": {"hidden": 64, "layers": 2, "heads": 2, "feed_forward": 256}, "mini": {}}
SEEDS = (0, 1, 2)
STEPS = 3500
DATASETS = ("pbmc_zheng_facs", "kang_ifnb_pbmc", "pancreas_baron_175")
METRICS = ("balanced_accuracy",)
LOSS = "held_out_loss"
HERE = "held-out cells of the corpus"  # the dataset of a loss


@dataclass(frozen=True)
class Run:
    """One pretraining: how large, on which share of the cells, with which seed."""

    size: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        """As in the column ``model``: scale-mini-1-0 is the mini on all cells with seed 0."""
        return f"scale-{self.size}-{self.share:g}-{self.seed}"

    def settings(self, steps: int = STEPS) -> geneformer_mini.Settings:
        """Of the pretraining."""
        own: dict[str, Any] = {"name": self.name, "steps": steps, "share_of_cells": self.share, "seed": self.seed}
        return replace(geneformer_mini.Settings(), **own, **SIZES[self.size])


def runs() -> list[Run]:
    """All runs, in the order in which they are best made: the spread of seeds first."""
    spread = [Run("mini", 1.0, seed) for seed in SEEDS]
    return spread + [
        Run(size, share, 0) for size, share in itertools.product(SIZES, SHARES) if (size, share) != ("mini", 1.0)
    ]


def pretrained(run: Run, corpus: Corpus, work: Path, steps: int = STEPS) -> Path:
    """The model folder of a run, trained or gone on with."""
    folder = work / run.name
    if not (folder / "model" / "training_log.json").exists():
        geneformer_mini.pretrain(corpus, run.settings(steps), folder, folder / "model")
    return folder / "model"


def measured(run: Run, folder: Path, datasets: tuple[str, ...] = DATASETS, n_draws: int = 20) -> list[tuple]:
    """Rows of the table: the loss on held-out cells, and probes on each set."""
    import json

    import scfm

    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    rows: list[tuple] = [(run.name, "pretrained", HERE, 0, run.seed, LOSS, log["log"][-1]["loss"])]
    model = scfm.load_model(folder)
    for dataset in datasets:
        found = judging.probes(model, sets.evaluation_set(dataset), n_draws)
        found = found[found["metric"].isin(METRICS) & found["labels_per_class"].isin([10, 100])]
        rows += [
            (run.name, r.method, dataset, r.labels_per_class, r.seed, r.metric, r.value) for r in found.itertuples()
        ]
    return rows


def work_through(corpus: Corpus, out: Path, work: Path, steps: int = STEPS) -> Iterator[str]:
    """Make the runs that are missing in the table at ``out``; yields a line about each."""
    table = Growing(out, ("model",), COLUMNS)
    for run in runs():
        stamp = {"recipe": RECIPE, "steps": steps, "corpus": sorted(str(v) for v in corpus.hashes.values())}
        if table.has((run.name,), stamp):
            continue
        table.put((run.name,), stamp, measured(run, pretrained(run, corpus, work, steps)))
        yield f"{run.name}: done"


def main() -> None:
    """What is missing, one after the other."""
    import tomllib

    from scfm.pretraining.corpus import read_corpus

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/scale"), help="checkpoints (default runs/scale)")
    parser.add_argument("--out", type=Path, default=cache.repo_data() / "results" / "scale.parquet")
    parser.add_argument("--plan", action="store_true", help="say what is there and what is missing, and stop")
    given = parser.parse_args()
    there = set(Growing(given.out, ("model",), COLUMNS).table["model"])
    for run in runs():
        print(f"{run.name}: {'there' if run.name in there else 'missing'}")
    if given.plan:
        return
    mini = tomllib.loads((cache.repo_data() / "corpora.toml").read_text(encoding="utf-8"))["mini"]
    for line in work_through(read_corpus(mini["train"], mini.get("left_out")), given.out, given.work):
        print(line, flush=True)


if __name__ == "__main__":
    main()
