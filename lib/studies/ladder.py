"""The figure of the course: every rung of the ladder, at every label budget, beside what needs no pretraining.

    make ladder                      go on with what is missing (JOBS=2: two shards at a time)
    python -m studies.ladder --plan     what is there, what is missing, and how long it will take

A shard is one model, one dataset and one draw of labels: all rungs and all budgets, one small Parquet file in
``data/results/ladder``. All methods see the same labelled cells and the same test cells. Every trained rung takes the same
number of steps, whatever the number of labels, and keeps no cell aside: what is asked is what a rung makes of these labels
and this time, not what a search over settings would find. The settings were chosen on pbmc3k, a set of the corpus.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import metrics
from scfm.store import cache
from scfm.store.results import results_path
from studies import comparisons
from studies.tables import COLUMNS, RECIPE, Growing, weights_of
from studies.tables import write as write_table

if TYPE_CHECKING:
    import anndata
    import pandas as pd

MODELS = ("geneformer-mini", "scgpt-mini")
BASELINES = "none"  # what stands in the model column of logistic regression
DATASETS = ("pbmc_zheng_facs", "kang_ifnb_pbmc", "pancreas_baron_175", "pbmc68k", "lung_celllines_5batch")
BUDGETS = (5, 10, 30, 100)
SEEDS = 5
STEPS = 80  # of the optimizer, for every trained rung
MINIBATCH = 32  # cells per step
TEST_CELLS = 50  # per class, at most: the same for all methods of a draw
TRAINED: dict[str, dict[str, Any]] = {"lora": {}, "partial": {"n_layers": 2}, "full": {}}
RUNGS = (
    "head", "twin head", "start head", "lora", "twin lora", "start lora", "partial", "full", "twin full", "start full",
)  # fmt: skip
FROM_SCRATCH = ("logistic HVG", "logistic PCA")
# what one method at one budget takes, prediction included: measured on one of two cores (AVX-512, bf16) at 256 tokens
SECONDS = {"head": 3.0, "trained": 25.0, "baseline": 1.0}


@dataclass(frozen=True)
class Shard:
    """One model (or none: the baselines), one dataset, one draw."""

    model: str
    dataset: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}_{self.dataset}_{self.seed}"

    @property
    def methods(self) -> tuple[str, ...]:
        return FROM_SCRATCH if self.model == BASELINES else RUNGS

    @property
    def minibatch(self) -> int:
        """Cells per step."""
        return MINIBATCH

    @property
    def max_len(self) -> int | None:
        """Tokens of a cell at most; None: as many as the model has positions for."""
        return None

    def budgets(self, kinds: np.ndarray) -> list[int]:
        """Labels per class, one after the other."""
        return budgets_of(kinds)

    def way(self, method: str) -> tuple[str, dict[str, Any]]:
        """What a method is: the weights it starts from ("pretrained", "random" or "start"), and the options of ``adapt``."""
        weights, rung = comparisons.arm_of(method)
        return weights, {"method": rung} | TRAINED.get(rung, {})

    def stamp(self, steps: int) -> dict[str, Any]:
        """What its numbers depend on, beside its name."""
        own = {"recipe": RECIPE, "steps": steps, "minibatch": self.minibatch, "test_cells": TEST_CELLS}
        return own | {
            "max_len": self.max_len,
            "dtype": "auto",
            "weights": "" if self.model == BASELINES else weights_of(self.model),
        }

    def path(self, out: Path) -> Path:
        return out / f"{self.name}.parquet"


def shards(models: Sequence[str] = MODELS, datasets: Sequence[str] = DATASETS, n_seeds: int = SEEDS) -> list[Shard]:
    """All shards, in the order in which they are best made: baselines, then model by model, each draw over all datasets."""
    return [
        Shard(model, dataset, seed) for model in (BASELINES, *models) for seed in range(n_seeds) for dataset in datasets
    ]


# --- one shard ------------------------------------------------------------------------------------------


def budgets_of(kinds: np.ndarray) -> list[int]:
    """The budgets that give more labels than the one before: no class ever gives over 60 % of its cells."""
    most = int(0.6 * np.unique(kinds, return_counts=True)[1].max())
    return [b for b, before in zip(BUDGETS, (0, *BUDGETS), strict=False) if before < most]


def draw(kinds: np.ndarray, budget: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labelled cells and test cells of one draw: the same for every model and method."""
    train, test = next(itertools.islice(metrics.label_draws(kinds, budget, seed + 1), seed, None))
    rng = np.random.default_rng([seed, budget, 13])
    chosen = [rng.permutation(test[kinds[test] == kind])[:TEST_CELLS] for kind in np.unique(kinds)]
    return train, np.sort(np.concatenate(chosen))


def scores(truth: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    """Balanced accuracy, macro-F1 and accuracy (the last on test cells of which no class gives over ``TEST_CELLS``)."""
    from sklearn.metrics import balanced_accuracy_score, f1_score

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")  # scored are those that are tested
        return {
            "balanced_accuracy": float(balanced_accuracy_score(truth, answer)),
            "macro_f1": float(f1_score(truth, answer, average="macro", labels=np.unique(truth), zero_division=0)),
            "accuracy": float(np.mean(truth == answer)),
        }


def run(shard: Shard, work: Path, steps: int = STEPS, budgets: Sequence[int] | None = None, methods: Sequence[str] | None = None) -> pd.DataFrame:  # fmt: skip
    """All rungs and budgets of one shard; goes on from the rows in ``work`` if it was killed. Returns the long table."""
    from studies import sets

    adata = sets.evaluation_set(shard.dataset)
    kinds = adata.obs["cell_type"].astype(str).to_numpy()
    done = Growing(work / f"{shard.name}.part.parquet", ("method", "labels_per_class"))
    stamp = shard.stamp(steps) | {"cells": len(kinds)}
    done.forget_others(lambda _: stamp)
    contestants = Contestants(shard, adata, kinds, steps)
    for budget in budgets if budgets is not None else shard.budgets(kinds):
        train, test = draw(kinds, budget, shard.seed)
        for method in methods if methods is not None else shard.methods:
            if done.has((method, budget), stamp):
                continue
            found = contestants.score(method, train, test)
            found |= {"n_train": len(train), "n_test": len(test), "n_classes": len(np.unique(kinds))}
            rows = [[shard.model, method, shard.dataset, budget, shard.seed, m, v] for m, v in found.items()]
            done.put((method, budget), stamp, rows)
    return done.table


class Contestants:
    """The methods of one shard, all on the same cells; what budgets can share is made once."""

    def __init__(self, shard: Shard, adata: anndata.AnnData, kinds: np.ndarray, steps: int) -> None:
        self.shard, self.adata, self.kinds, self.steps = shard, adata, kinds, steps
        self._kept: dict[str, Any] = {}

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave before."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def model(self, weights: str) -> Any:
        """The pretrained model, or its random twin, or its warm start with random layers: another one for every draw."""
        from scfm.models import load_model

        return self.once(weights, lambda: load_model(self.shard.model, weights=weights, seed=self.shard.seed))

    def cells(self) -> Any:
        """All cells as tokens."""
        return self.once("cells", lambda: self.model("pretrained").tokenize(self.adata, max_len=self.shard.max_len))

    def score(self, method: str, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
        """Scores, trained parameters, and what it cost. Seconds are of learning alone; ``cpu_seconds`` do not count waiting."""
        if method in FROM_SCRATCH:
            return self._from_scratch(method, train, test)
        from scfm.adaptation.adapting import adapt

        weights, how = self.shard.way(method)
        model, cells = self.model(weights), self.cells()
        cpu = time.process_time()
        fit = adapt(
            model, cells[train], self.kinds[train], seed=self.shard.seed, validation=0.0, epochs=10**6,
            max_steps=self.steps, minibatch=self.shard.minibatch, progress=False, **how,
        )  # fmt: skip
        cpu = time.process_time() - cpu
        found = scores(self.kinds[test], fit.predict(cells[test], progress=False))
        return found | {
            "trained_parameters": float(fit.report.trained_parameters),
            "total_parameters": float(fit.report.total_parameters),
            "seconds": fit.report.seconds,
            "cpu_seconds": cpu,
            "peak_memory_mb": fit.report.peak_memory / 2**20,
            "steps": float(fit.report.steps),
        }

    def _from_scratch(self, method: str, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
        """Logistic regression on the genes, or on their principal components; both see all cells, but not their labels."""
        from scfm import baselines
        from scfm.linear import linear_head

        make = baselines.hvg_matrix if method == "logistic HVG" else baselines.pca
        matrix = self.once(method, lambda: make(self.adata))
        started, cpu = time.monotonic(), time.process_time()
        head = linear_head(matrix[train], self.kinds[train])
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        found = scores(self.kinds[test], head.predict(matrix[test]))
        n = float(head.n_parameters)
        return found | {"trained_parameters": n, "total_parameters": n, "seconds": seconds, "cpu_seconds": cpu}


# --- all shards -----------------------------------------------------------------------------------------


def work_through(wanted: Sequence[Shard], out: Path, work: Path, steps: int = STEPS) -> Iterator[str]:
    """Make the shards that are missing and that nobody else is at; yields a line about each.

    Raises ValueError where shards are there that were made with other settings or weights.
    """
    import filelock

    refuse_others(wanted, out, steps)
    for shard in wanted:
        path = shard.path(out)
        if path.exists():
            continue
        lock = filelock.FileLock(work / f"{shard.name}.lock", timeout=0)
        try:
            with lock:
                if path.exists():
                    continue
                began = time.monotonic()
                table = run(shard, work, steps)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_table(table, path, {"shard": shard.stamp(steps)})
                (work / f"{shard.name}.part.parquet").unlink(missing_ok=True)
                yield f"{shard.name}: {len(table)} rows in {(time.monotonic() - began) / 60:.1f} min"
        except filelock.Timeout:
            yield f"{shard.name}: another process is at it"


def refuse_others(wanted: Sequence[Shard], out: Path, steps: int) -> None:
    """Raise ValueError where a finished shard in ``out`` was made with other settings or weights: its name does not tell.

    Shards from before there were stamps say how many steps they took, and nothing else.
    """
    for shard in wanted:
        path = shard.path(out)
        if not path.exists():
            continue
        kept = Growing(path, ("method", "labels_per_class"))
        stamp, known = shard.stamp(steps), kept.stamps.get("shard")
        if known is None:
            taken = set(kept.table["value"][kept.table["metric"] == "steps"].astype(int)) - {0}  # a head takes none
            differs = (
                [f"{', '.join(map(str, sorted(taken)))} steps, and {steps} are asked for"] if taken - {steps} else []
            )
        else:
            differs = [f"{name} = {known.get(name)}, and {value} is asked for" for name, value in stamp.items() if known.get(name) != value]  # fmt: skip
        if differs:
            raise ValueError(
                f"{path} was made with {'; '.join(differs)}: one table would mix the two. Give these shards a folder of their "
                "own (--out), or delete those that are there."
            )


def possible(wanted: Sequence[Shard]) -> tuple[list[Shard], dict[str, str]]:
    """The shards whose model and dataset are here, and why the others are not."""
    from scfm.datasets import NOT_HERE, list_datasets
    from scfm.store import hub

    missing: dict[str, str] = {}
    models, known = hub.catalogue()["models"], list_datasets()["availability"]
    for model in {shard.model for shard in wanted} - {BASELINES}:
        entry = models.get(model, {})
        if not entry and not Path(model).is_dir():
            missing[model] = "no such model is in data/models.toml yet"
        elif "bundled" in entry and not all(
            (cache.repo_data() / entry["bundled"] / f).exists() for f in entry["files"]
        ):
            missing[model] = "its weights are not in data/models yet"
    for name in {shard.dataset for shard in wanted}:
        if known.get(name, NOT_HERE) == NOT_HERE:
            missing[name] = f"{known.get(name, 'no such dataset')}; is its folder in SCFM_CACHE?"
    return [s for s in wanted if s.model not in missing and s.dataset not in missing], missing


def collect(out: Path) -> pd.DataFrame:
    """One table of all shards that are there."""
    import pandas as pd

    files = sorted(out.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{out} holds no shard yet; `make ladder` makes them.")
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)[COLUMNS]


def complete(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The sets of which every model has all draws, and a line about each that is left out: its figure would mix draws."""
    draws = table.groupby(["dataset", "model"])["seed"].nunique().unstack("model", fill_value=0)
    full = draws.to_numpy().max()
    short = draws[(draws < full).any(axis=1)]
    lines = [f"{name}: not all draws are there yet ({', '.join(f'{m} {n} of {full}' for m, n in row.items())})" for name, row in short.iterrows()]  # fmt: skip
    return table[~table["dataset"].isin(short.index)].reset_index(drop=True), lines


def plan(wanted: Sequence[Shard], out: Path) -> str:
    """What is there, what is missing, and what that will cost on this kind of machine."""
    n_trained = sum(comparisons.arm_of(m)[1] in TRAINED for m in RUNGS)
    n_heads = len(RUNGS) - n_trained
    seconds = 0.0
    lines = []
    for model in dict.fromkeys(s.model for s in wanted):
        own = [s for s in wanted if s.model == model]
        left = [s for s in own if not s.path(out).exists()]
        each = len(BUDGETS) * (
            len(FROM_SCRATCH) * SECONDS["baseline"]
            if model == BASELINES
            else n_trained * SECONDS["trained"] + n_heads * SECONDS["head"]
        )
        seconds += each * len(left)
        lines.append(
            f"{model}: {len(own) - len(left)} of {len(own)} shards, about {each / 60:.0f} min each on one core"
        )
    lines.append(
        f"left: {seconds / 3600:.1f} hours on one core, {seconds / 7200:.1f} on two (as measured with AVX-512 and bf16)"
    )
    return "\n".join(lines)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m studies.ladder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)  # fmt: skip
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--datasets", nargs="*", default=list(DATASETS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=1, help="shards at a time, each on one core")
    parser.add_argument("--out", type=Path, default=None, help="default: data/results/ladder")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/ladder"), help="unfinished shards (default runs/ladder)"
    )
    parser.add_argument("--plan", action="store_true", help="say what is there and what is missing, and stop")
    parser.add_argument("--collect", action="store_true", help="write the table and the figure from the shards that are there, and stop")  # fmt: skip
    given = parser.parse_args()
    out = given.out or cache.repo_data() / "results" / "ladder"
    wanted, missing = possible(shards(given.models, given.datasets, given.seeds))
    for name, reason in missing.items():
        print(f"left out: {name} ({reason})")
    if given.plan:
        print(plan(wanted, out))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    if not given.collect:
        try:
            refuse_others(wanted, out, given.steps)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        if given.jobs > 1:
            _in_parallel(given.jobs)
        else:
            import torch

            torch.set_num_threads(1)  # a shard is one core's work, so its seconds mean the same everywhere
            for line in work_through(wanted, out, given.work, given.steps):
                print(line, flush=True)
    write(out)


def _in_parallel(jobs: int) -> None:
    """The same command ``jobs`` times, one core each; they share the shards by their locks."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    # the last word wins: a worker that read --jobs again would start as many more
    command = [sys.executable, "-m", "studies.ladder", *sys.argv[1:], "--jobs", "1"]
    workers = [subprocess.Popen(command, env=environment) for _ in range(jobs)]
    failed = [worker.wait() for worker in workers]
    if any(failed):
        raise SystemExit("A worker failed; its message is above. What is finished is kept: start again to go on.")


def left_out(name: str) -> dict[str, int]:
    """The types of a set that are too small to take part, with their cells. Raises what ``load_dataset`` raises."""
    from scfm import load_dataset
    from studies import sets

    return sets.counted(load_dataset(name))[1]


def types_left_out() -> dict[str, dict[str, int]]:
    """The types that are too small to take part in the stored table: set → type → cells."""
    path = results_path("ladder").with_name("ladder_left_out.json")
    found: dict[str, dict[str, int]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(out: Path) -> None:
    """``ladder.parquet``, ``ladder.png`` and ``ladder_left_out.json`` (set → types too small) beside the folder of shards."""
    from studies import ladder_figure

    table, lacking = complete(collect(out))
    for line in lacking:
        print(f"left out of the table: {line}")
    with cache.atomic_write(out.parent / "ladder.parquet") as path:
        table.to_parquet(path, index=False)
    if set(table["model"]) - {BASELINES}:
        panels = ladder_figure.figure(table)
        with cache.atomic_write(out.parent / "ladder.png") as path:
            np.asarray(panels, dtype=object).flat[0].figure.savefig(path, format="png", dpi=70, bbox_inches="tight")
    names = out.parent / "ladder_left_out.json"
    known = json.loads(names.read_text(encoding="utf-8")) if names.exists() else {}
    here, _ = possible([Shard(BASELINES, name, 0) for name in dict.fromkeys(table["dataset"])])
    known |= {shard.dataset: left_out(shard.dataset) for shard in here if shard.dataset not in known}
    with cache.atomic_write(names) as path:
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(f"{table['seed'].nunique()} draws, {len(table):,} rows in {out.parent / 'ladder.parquet'}")


if __name__ == "__main__":
    main()
