"""Which of scGPT's objectives does what? Each left out in turn, on studies of two batches; lesson 07 shows the table.

    python -m studies.ablation scgpt-mini --seeds 20

A seed stands for a whole repetition: which fifth of the cells has labels, the new parts, the order of the cells and what is
hidden. Everything is scored on the other four fifths, PCA and Harmony beside it. Results are kept after each step, so a run
that was stopped goes on where it was; rows of other weights or settings are made again.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scfm
from scfm import baselines, datasets, metrics, stats
from scfm.integration.recipe import OBJECTIVES, finetune
from scfm.integration.study import prepare
from scfm.linear import linear_head
from scfm.models.scgpt import ScGPT
from scfm.objectives import Weights
from scfm.store import cache
from studies import sets, tables

if TYPE_CHECKING:
    import anndata
    import pandas as pd


log = logging.getLogger("scfm")

COLUMNS = [*tables.COLUMNS, "weights", "settings"]
ALL = "all five"
VARIANTS: dict[str, tuple[str, ...]] = {
    ALL: OBJECTIVES,
    **{f"without {name}": tuple(other for other in OBJECTIVES if other != name) for name in OBJECTIVES},
}
TWIN = "random twin, all five"
BALANCED = "all five, GEP and GEPC × 0.01"  # squared errors in tens of bins: small enough for the others to be heard
SAME_GENES = "zero-shot, same genes"  # what fine-tuning starts from: the same genes, zeros included
PCA_SAME_GENES = "HVG + PCA, same genes"
BASELINES = ("HVG + PCA", PCA_SAME_GENES, "HVG + PCA + Harmony", f"{PCA_SAME_GENES} + Harmony")
RIVALS = (*BASELINES, "random twin", "zero-shot", SAME_GENES, f"{SAME_GENES} + Harmony")


@dataclass(frozen=True)
class Settings:
    """How long, how fast and on how many genes the mini is fine-tuned.

    Genes and epochs are what two CPU cores allow. The learning rates 2e-4, 5e-4 and 1e-3 were tried for four epochs on two
    batches of pbmc_7batch, which is in the mini's corpus and no evaluation set, one run each: by the sum of probe, AvgBIO and
    iLISI they were close. For half of the epochs the middle one was taken, untested.
    """

    n_genes: int = 96
    epochs: int = 2
    minibatch: int = 32
    learning_rate: float = 5e-4
    labelled: float = 0.2

    def __str__(self) -> str:
        return f"{self.n_genes} genes, {self.epochs} epochs of {self.minibatch}, lr {self.learning_rate:g}, {self.labelled:.0%} labelled"


# --- studies of two batches -------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoBatches:
    """A dataset, its column of batches, which two of them (None: those it has), and how many cells of a type and batch at most."""

    dataset: str
    column: str = "batch"
    batches: tuple[str, str] | None = None
    most: int | None = None
    what: str = ""


STUDIES = {
    "pbmc68k-2batch": TwoBatches(
        "pbmc68k-2batch", what="simulated: half of the cells lost molecules and genes, as in a poorer experiment"
    ),
    "lung_celllines_2tech": TwoBatches(
        "lung_celllines_5batch",
        batches=("sc_celseq2", "sc_dropseq"),
        what="real: the same three cell lines by CEL-seq2 and by Drop-seq",
    ),
    "kang_ifnb_2cond": TwoBatches(
        "kang_ifnb_muscat_1267genes",
        "condition",
        most=60,
        what="real, but no accident: blood with and without interferon, which is what that study asked about",
    ),
}


def study_at_hand(name: str, instead: str = "lung_celllines_2tech") -> str:
    """The study's name, or that of another whose dataset can be had where its own cannot; a warning says so."""
    try:
        datasets.at_hand([STUDIES[name].dataset], exact=True)
    except datasets.DatasetError:
        log.warning("The cells of %s cannot be had here; %s is taken instead.", name, instead)
        return instead
    return name


def load_study(name: str, label: str | None = None, batch: str | None = None, seed: int = 0) -> anndata.AnnData:
    """A study of two batches, by its name above or any dataset: types of at least 20 cells, labels of no classifier.

    ``label``, ``batch``: columns of a dataset's or file's ``obs``, as in ``load_dataset``. Where no column can hold batches, a
    second one is simulated, and a warning says so. Raises what ``sets.suitable`` raises.
    """
    study = STUDIES.get(name) or TwoBatches(name)
    adata = scfm.load_dataset(study.dataset, label=label, batch=batch, seed=seed)
    if name not in STUDIES:
        about = adata.uns["scfm"]
        if not about["batch"] and not set(sets.grouping_columns(adata)) - {about["label"], "cell_type"}:
            log.warning("%s has no column of batches: a second batch is simulated from its cells.", about["name"])
            adata = datasets.simulate_batch(adata, seed)
        sets.suitable(adata, batches=2)
    adata.obs["batch"] = adata.obs[study.column].astype(str)
    keep = np.ones(adata.n_obs, bool)
    if study.batches is not None:
        keep &= adata.obs["batch"].isin(study.batches).to_numpy()
    keep &= sets.own_labels(adata)
    if study.most is not None:
        place = np.random.default_rng(seed).permutation(adata.n_obs)
        kind = adata.obs["cell_type"].astype(str) + "|" + adata.obs["batch"]
        rank = kind.iloc[place].groupby(kind.iloc[place]).cumcount().iloc[np.argsort(place)]
        keep &= (rank < study.most).to_numpy()
    adata = adata[keep].copy()
    kept, _ = metrics.usable_cells(adata.obs["cell_type"])
    return adata[kept].copy()


def some_labels(types: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which cells have a label, bool (cell,): ``share`` of each type, at least two."""
    rng = np.random.default_rng([seed, 7])
    chosen = np.zeros(len(types), bool)
    for kind in np.unique(types):
        own = np.flatnonzero(types == kind)
        chosen[rng.choice(own, max(2, round(share * len(own))), replace=False)] = True
    return chosen


# --- scores -----------------------------------------------------------------------------------------


def scores(
    embedding: np.ndarray, types: np.ndarray, batches: np.ndarray, labelled: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Probe, clusters and mixing of the cells without a label; the probe learns from those with one.

    ``batch_probe``: balanced accuracy of a classifier that reads the *batch* off the embedding (0.5 of two batches: hidden).
    """
    held = ~labelled
    found = {
        "probe": _read_off(embedding, types, labelled),
        "batch_probe": _read_off(embedding, batches, labelled),
        **metrics.clustering(embedding[held], types[held], seed=seed),
        "ilisi": metrics.ilisi(embedding[held], batches[held]),
    }
    return {name: found[name] for name in ("probe", "avg_bio", "nmi", "ari", "asw", "ilisi", "batch_probe")}


def _read_off(embedding: np.ndarray, names: np.ndarray, given: np.ndarray) -> float:
    """Balanced accuracy of a linear head from the cells ``given`` on all others."""
    from sklearn.metrics import balanced_accuracy_score

    answer = linear_head(embedding[given], names[given]).predict(embedding[~given])
    return float(balanced_accuracy_score(names[~given], answer))


# --- the table --------------------------------------------------------------------------------------


def embeddings(
    model: ScGPT, twin: ScGPT, adata: anndata.AnnData, labels: np.ndarray, seed: int, settings: Settings
) -> Iterator[tuple[str, Any]]:
    """Method → a function that makes its embedding of all cells; the random twin reads the same genes as what it is twin of."""
    batches = adata.obs["batch"].to_numpy()
    how: dict[str, Any] = {
        "n_genes": settings.n_genes,
        "epochs": settings.epochs,
        "minibatch": settings.minibatch,
        "learning_rate": settings.learning_rate,
        "seed": seed,
        "labels": labels,
        "progress": False,
    }
    untrained = {"max_steps": 0, "batch_tokens": False, "domain_norm": "none"}

    def tuned(network: ScGPT, objectives: tuple[str, ...], **more: Any) -> np.ndarray:
        return finetune(network, adata, objectives, **how | more).embed(adata)

    def same_genes() -> np.ndarray:
        return baselines.pca(with_genes(adata, prepare(model, adata, settings.n_genes).genes))

    yield "HVG + PCA", lambda: baselines.pca(adata)
    yield PCA_SAME_GENES, same_genes
    yield "HVG + PCA + Harmony", lambda: baselines.harmony(baselines.pca(adata), batches, seed=seed)
    yield f"{PCA_SAME_GENES} + Harmony", lambda: baselines.harmony(same_genes(), batches, seed=seed)
    yield "random twin", lambda: tuned(twin, ("GEP",), **untrained)
    yield "zero-shot", lambda: model.embed(adata, dtype="float32", progress=False)
    yield SAME_GENES, lambda: tuned(model, ("GEP",), **untrained)
    yield f"{SAME_GENES} + Harmony", lambda: baselines.harmony(tuned(model, ("GEP",), **untrained), batches, seed=seed)
    for method, objectives in VARIANTS.items():
        yield method, functools.partial(tuned, model, objectives)
    yield BALANCED, lambda: tuned(model, VARIANTS[ALL], weights=Weights(gep=0.01, gepc=0.01))
    yield TWIN, lambda: tuned(twin, VARIANTS[ALL])


def scgpt(name: str | Path, **how: Any) -> ScGPT:
    """An scGPT by its name or folder; TypeError for any other kind: its objectives are what this is about."""
    model = scfm.load_model(name, **how)
    if not isinstance(model, ScGPT):
        raise TypeError(f"{name} is a {model.kind}; the objectives that are left out here are scGPT's. Name an scGPT.")
    return model


def with_genes(adata: anndata.AnnData, genes: list[str]) -> anndata.AnnData:
    """The cells with these genes (symbols), as :func:`prepare` chose them; their totals stay those of the whole cell."""
    symbols = adata.var["gene_symbol"].astype(str)
    return adata[:, symbols.isin(genes) & ~symbols.duplicated()].copy()


def measure(
    name: str | Path,
    path: Path,
    studies: Mapping[str, anndata.AnnData],
    seeds: Iterable[int] = range(20),
    settings: Settings | None = None,
    minutes: float | None = None,
) -> pd.DataFrame:
    """Fill the table at ``path`` with what is missing, seed by seed; stop after ``minutes``. Returns the table.

    ``name``: of the model, or its folder. ``studies``: name → cells with types and batches (see :func:`load_study`).
    """
    settings = settings or Settings()
    model = scgpt(name)
    digest = (model.sha256 or "")[:12]
    table = tables.Growing(path, ("model", "dataset", "seed", "method"), COLUMNS)
    stamp = {"weights": digest, "settings": str(settings)}
    table.forget_others(lambda key: stamp if key[0] == model.name and key[1] in studies else None)
    begin = time.monotonic()
    for seed in seeds:
        twin = scgpt(name, weights="random", seed=seed)
        for study, adata in studies.items():
            types, batches = (adata.obs[c].astype(str).to_numpy() for c in ("cell_type", "batch"))
            labelled = some_labels(types, settings.labelled, seed)
            for method, make in embeddings(model, twin, adata, np.where(labelled, types, ""), seed, settings):
                if table.has((model.name, study, seed, method), stamp):
                    continue
                if minutes is not None and time.monotonic() - begin > 60 * minutes:
                    return table.table
                found = scores(make(), types, batches, labelled, seed)
                rows = [(model.name, method, study, 0, seed, k, v, digest, str(settings)) for k, v in found.items()]
                table.put((model.name, study, seed, method), stamp, rows)
            print(f"seed {seed}, {study}: {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)
    return table.table


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m studies.ablation", description=__doc__)
    parser.add_argument("model", nargs="?", default="scgpt-mini", help="a name or a folder")
    parser.add_argument("--studies", nargs="*", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time; run again to go on")
    parser.add_argument("--table", type=Path, default=cache.repo_data() / "results" / "scgpt_objectives.parquet")
    given = parser.parse_args()
    studies = {name: load_study(name) for name in given.studies}
    table = measure(given.model, given.table, studies, range(given.seeds), minutes=given.minutes)
    shown = stats.summary(table[table["metric"].isin(["probe", "avg_bio", "ilisi"])])
    print(shown.to_string(index=False))


if __name__ == "__main__":
    main()
