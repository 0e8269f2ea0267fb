"""Heads against their baselines on the same draws: same cells' kin, a new donor, a new technology, a type never labelled.

    python -m studies.headstudy --model scgpt-mini --dataset kang_ifnb_pbmc

computes one piece of data/results/heads.parquet (a minute or a few) and replaces that piece in it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import baselines, metrics, stats
from scfm.adaptation import adapters, openset
from scfm.baselines import celltypist_answers, gene_features
from scfm.embed import choose_dtype
from scfm.linear import linear_head
from scfm.store import cache
from studies import comparisons, sets
from studies.tables import RECIPE

if TYPE_CHECKING:
    import anndata
    import pandas as pd

    from scfm.models import Model
    from scfm.tokenized import TokenizedCells

# dataset → (what is new about the tested group, column of obs that says the group, rows that may be used)
SHIFTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "kang_ifnb_pbmc": ("donor", "donor", {"condition": "ctrl"}),
    "pancreas_baron_175": ("donor", "donor", {}),
    "kang_ifnb_muscat_1267genes": ("stimulation", "condition", {}),
    "lung_celllines_5batch": ("technology", "technology", {}),
    "pbmc_zheng_facs": ("", "", {}),
}
HEADS = ("pretrained", "warm start", "random twin")
RIVALS = ("logistic HVG", "logistic PCA", "kNN PCA", "CellTypist recipe")
ROLES = dict.fromkeys(("pretrained", "pretrained, kNN"), "model") | {
    "random twin": "twin",
    "warm start": "twin",
    "shuffled labels": "control",
}
ROLES |= dict.fromkeys(RIVALS, "baseline")
MOST_KEPT = 2**22  # bytes of an embedding on disk: eight thousand cells of a mini
COLUMNS = ["model", "method", "dataset", "setting", "group", "labels_per_class", "seed", "metric", "value"]


def cells_of(
    name: str, label: str | None = None, batch: str | None = None, seed: int = 0
) -> tuple[anndata.AnnData, dict[str, int]]:
    """A dataset's cells with a known, own label in a class of at least 20 cells; and the classes left out with their sizes."""
    from scfm import datasets

    adata = datasets.load_dataset(name, label=label, batch=batch, seed=seed)
    _, _, wanted = SHIFTS.get(name, ("", "", {}))
    sets.suitable(adata)
    return sets.counted(adata, wanted)


Embeddings = Mapping[
    str, np.ndarray | Sequence[np.ndarray]
]  # (cell, d); of several networks where the draws take them in turn


def frozen(model: Model, adata: anndata.AnnData, seed: int = 0) -> dict[str, Any]:
    """The embeddings that a head reads: of the pretrained network float32 (cell, d), and lists of its untrained rivals'.

    Its random twins, and where the model keeps one its warm start with random layers of other seeds: as many as
    :data:`scfm.stats.NETWORKS` says, so that an interval knows how much another one would differ.
    """
    from scfm import models

    name = model.source or model.name
    tokens = model.tokenize(adata)
    how: dict[str, Any] = {"pooling": "mean"} if "mean" in model.poolings else {}

    made: dict[str, Any] = {"pretrained": model.embed(tokens, dtype="float32", progress=False, **how)}
    for method, weights in (("warm start", "start"), ("random twin", "random")):
        if weights == "random" or models.has_warm_start(name):
            seeds = range(seed, seed + stats.NETWORKS[method])
            made[method] = [kept(models.load_model(name, weights=weights, seed=own), tokens, **how) for own in seeds]
    return made


def kept(network: Model, tokens: TokenizedCells, **how: Any) -> np.ndarray:
    """``network.embed(tokens, **how)``, kept on disk: twenty untrained rivals take a lesson longer than all else, and never change.

    The file's name is a hash of all weights, tokens and settings; ``embeddings`` in the writable cache may be deleted at any time.
    """
    import torch

    # "auto" is another precision on another machine, and a home can be shared by several
    precision = choose_dtype(how.get("dtype", "auto"), network.network.device)
    settings = f"{RECIPE} {torch.__version__} {precision} {sorted(how.items())}"
    digest = hashlib.sha256(f"{settings} {adapters.digest(network.network)}".encode())
    for array in (tokens.tokens, tokens.offsets, tokens.values):
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    path = cache.downloads() / "embeddings" / f"{digest.hexdigest()[:32]}.npy"
    if path.exists():
        return np.asarray(np.load(path))
    found = network.embed(tokens, progress=False, **how)
    if found.nbytes > MOST_KEPT:
        return found
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time, no result
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache.atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, found)
    return found


def of_cells(embeddings: Embeddings, kept: np.ndarray) -> dict[str, Any]:
    """The rows ``kept`` of each embedding."""
    return {
        method: given[kept] if isinstance(given, np.ndarray) else [one[kept] for one in given]
        for method, given in embeddings.items()
    }


def compare(
    embeddings: Embeddings, adata: anndata.AnnData, per_class: int, n_draws: int, seed: int = 0,
    groups: np.ndarray | None = None, celltypist: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """All methods on the same draws of ``per_class`` labels a type. ``n_draws`` draws, or as many for each tested group.

    With ``groups``, labels come from all other groups, and so do the variable genes and components; cells of types that the
    others lack are not tested. Heads and logistic regressions are the same code on other features.

    Returns a long table: method, group, metric (balanced_accuracy, accuracy, seconds, parameters), seed (the draw), value.
    """
    import pandas as pd
    from sklearn.neighbors import KNeighborsClassifier

    names = adata.obs["cell_type"].astype(str).to_numpy()
    counts = baselines.log_normalize(adata)
    rows = []
    for draw, group, train, test in _draws(names, per_class, n_draws, seed, groups):
        genes = _genes(adata, groups, group)
        own = names[train]
        features = {method: metrics.of_draw(given, draw) for method, given in embeddings.items()}
        features |= {"logistic HVG": genes["HVG"], "logistic PCA": genes["PCA"]}
        answers = {}
        for method, x in features.items():
            begin = time.perf_counter()
            head = linear_head(x[train], own)
            answers[method] = (head.predict(x[test]), head.n_parameters, time.perf_counter() - begin)
        shuffled = np.random.default_rng([seed, draw]).permutation(own)
        pretrained = features["pretrained"]
        begin = time.perf_counter()
        head = linear_head(pretrained[train], shuffled)
        answers["shuffled labels"] = (head.predict(pretrained[test]), head.n_parameters, time.perf_counter() - begin)
        for method, x in (("kNN PCA", genes["PCA"]), ("pretrained, kNN", pretrained)):
            begin = time.perf_counter()
            found = KNeighborsClassifier(5).fit(x[train], own).predict(x[test])
            answers[method] = (found, 0, time.perf_counter() - begin)
        if celltypist:
            begin = time.perf_counter()
            found, size = celltypist_answers(counts, train, names, test)
            answers["CellTypist recipe"] = (found, size, time.perf_counter() - begin)
        for method, (answer, size, seconds) in answers.items():
            scores = {
                "balanced_accuracy": float(
                    np.mean([np.mean(answer[names[test] == c] == c) for c in np.unique(names[test])])
                ),
                "accuracy": float(np.mean(answer == names[test])),
                "seconds": seconds,
                "parameters": float(size),
            }
            rows += [(method, group, metric, draw, value) for metric, value in scores.items()]
    _genes_for.cache_clear()
    return pd.DataFrame(rows, columns=["method", "group", "metric", "seed", "value"])


def _draws(
    names: np.ndarray, per_class: int, n_draws: int, seed: int, groups: np.ndarray | None
) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """(draw, tested group, train, test): with groups, all draws of one group before those of the next."""
    if groups is None:
        for draw, (train, test) in enumerate(metrics.label_draws(names, per_class, n_draws, seed)):
            yield draw, "", train, test
        return
    found = list(metrics.label_draws(names, per_class, n_draws * len(set(groups)), seed, groups))
    kinds = np.unique(groups)
    for number, group in enumerate(kinds):
        for draw in range(n_draws):
            train, test = found[draw * len(kinds) + number]
            if len(set(names[train])) > 1 and len(test):
                yield draw, str(group), train, test


class _Hashed:
    """An AnnData as a key: itself, not its content."""

    def __init__(self, adata: Any) -> None:
        self.adata = adata

    def __hash__(self) -> int:
        return id(self.adata)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.adata is self.adata


def _genes(adata: anndata.AnnData, groups: np.ndarray | None, group: str) -> dict[str, np.ndarray]:
    learned = None if groups is None else tuple(np.flatnonzero(groups != group).tolist())
    return _genes_for(_Hashed(adata), learned)


@functools.lru_cache(maxsize=1)
def _genes_for(key: _Hashed, learned: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    return gene_features(key.adata, None if learned is None else np.array(learned))


def strangers(
    embeddings: Embeddings, adata: anndata.AnnData, per_class: int, n_draws: int, seed: int = 0
) -> pd.DataFrame:
    """:func:`scfm.adaptation.openset.hold_out` of the networks and of PCA, whose genes and components saw no tested cell."""
    names = adata.obs["cell_type"].astype(str).to_numpy()

    def features_of(learned: np.ndarray) -> dict[str, Any]:
        return dict(embeddings) | {"logistic PCA": gene_features(adata, learned)["PCA"]}

    return openset.hold_out(features_of, names, per_class, n_draws, seed)


def study(model: Model, name: str, per_class: int = 10, n_draws: int = 20, seed: int = 0) -> pd.DataFrame:
    """Everything of one model on one dataset, in the form of data/results/heads.parquet."""
    import pandas as pd

    adata, _ = cells_of(name, seed=seed)
    embeddings = frozen(model, adata, seed)
    parts = [compare(embeddings, adata, per_class, n_draws, seed).assign(setting="same")]
    what, column, _ = SHIFTS.get(name, ("", "", {}))
    if what:
        groups = adata.obs[column].astype(str).to_numpy()
        kept = np.isin(groups, [g for g in np.unique(groups) if (groups == g).sum() >= metrics.SMALLEST_CLASS])
        moved = compare(
            of_cells(embeddings, kept), adata[kept].copy(), per_class, max(n_draws // 2, 1), seed, groups[kept]
        )  # fmt: skip
        parts.append(moved.assign(setting=f"new {what}"))
    parts.append(strangers(embeddings, adata, per_class, max(n_draws // 4, 1), seed).assign(setting="unknown type"))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(model=model.name, dataset=name, labels_per_class=per_class)[COLUMNS]


def new_groups(table: pd.DataFrame, rivals: Sequence[str], metric: str = "balanced_accuracy") -> pd.DataFrame:
    """The pretrained head against each rival, in each setting of the stored table: over draws of the same cells, else over groups.

    Two groups say nothing of a third, so they decide nothing (:func:`scfm.stats.over_groups`).

    table: rows of data/results/heads.parquet. Settings with types that were never labelled ask another question and are left out.
    Columns model, dataset, setting, groups (their number), pretrained (its mean), rival, mean, low, high (of the difference), verdict.
    """
    import pandas as pd

    rows = []
    table = table[table["setting"] != "unknown type"]
    for (model, dataset, setting), part in table.groupby(["model", "dataset", "setting"]):
        own = stats.over_groups(part, "pretrained", metric).mean
        for rival in [rival for rival in rivals if rival in set(part["method"])]:
            gap = (
                stats.paired_difference(part, "pretrained", rival, metric)
                if setting == "same"
                else stats.over_groups(part, "pretrained", metric, rival)
            )
            n_groups = part["group"].nunique()
            rows.append((model, dataset, setting, n_groups, own, rival, gap.mean, gap.low, gap.high, gap.verdict()))
    columns = ["model", "dataset", "setting", "groups", "pretrained", "rival", "mean", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def main() -> None:
    """One piece."""
    from scfm import models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="geneformer-mini")
    parser.add_argument("--dataset", choices=list(SHIFTS), required=True)
    parser.add_argument("--draws", type=int, default=20)
    chosen = parser.parse_args()
    begin = time.perf_counter()
    found = study(models.load_model(chosen.model), chosen.dataset, n_draws=chosen.draws)
    table = comparisons.store(found, cache.repo_data() / "results" / "heads.parquet")
    print(f"{chosen.model} on {chosen.dataset}: {len(table):,} rows, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
