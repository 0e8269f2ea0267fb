"""Catastrophic forgetting, rung by rung: what a network loses of its pretraining while it learns to name cells.

    python -m studies.forgetting            the stored table of lesson 06: goes on with what is missing

For each draw of labels every rung is trained on the same cells and then asked its pretraining's own questions about cells
that the pretraining kept aside. ``lora, adapter off`` is the same fit with the adapter switched off: the network as it was.
``full, fast`` takes ten times the usual learning rate; ``+ replay`` mixes cells of the corpus into each step
(:mod:`scfm.adaptation.replay`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.adaptation.adapting import adapt
from scfm.adaptation.choices import Choices
from scfm.adaptation.replay import Memory, of_corpus
from scfm.store import cache
from studies import ladder
from studies.tables import RECIPE, Growing, weights_of

if TYPE_CHECKING:
    import pandas as pd

    from scfm.models import Model

RUNGS: dict[str, dict[str, Any]] = {
    "head": {"method": "head"},
    "lora": {"method": "lora"},
    "partial 1": {"method": "partial", "n_layers": 1},
    "partial 2": {"method": "partial", "n_layers": 2},
    "partial 3": {"method": "partial", "n_layers": 3},
    "full": {"method": "full"},
    "full + replay": {"method": "full", "replay": True},
    "full, fast": {"method": "full", "faster": 10.0},
    "full, fast + replay": {"method": "full", "faster": 10.0, "replay": True},
}
ADAPTER_OFF = "lora, adapter off"


@dataclass(frozen=True)
class Settings:
    """What decides the stored table. Smaller than the ladder's, so that ten runs fit into half an hour on one core."""

    labels_per_class: int = 30
    steps: int = 50
    minibatch: int = 16
    max_len: int = 128  # tokens of a cell
    test_cells: int = 20  # per class, at most
    held_out: int = 150  # cells of the corpus that were kept aside, to be asked about
    replayed: int = 800  # other cells of the corpus, to replay from
    dtype: str = "float32"


def climb(
    model: Model,
    cells: Any,
    kinds: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    held_out: Memory,
    replay: Memory | None = None,
    rungs: Sequence[str] = tuple(RUNGS),
    seed: int = 0,
    **how: Any,
) -> Iterator[tuple[str, dict[str, float], Any]]:
    """Each rung's name, scores and fit: balanced accuracy on ``test``, error on ``held_out``, share lost, price.

    ``lost``: (error after - before) / (error of a guesser that looks at no cell - before): 0 = all is kept, 1 = no better than
    somebody who never saw a cell; NaN where the checkpoint does not say what a guesser knows. ``how``: options of
    :func:`scfm.adapt` for all rungs that train the network.
    """
    before, guess = held_out.error(model, seed), held_out.guess(seed)
    usual = Choices(method="full").rate(model.network.config.hidden_size)
    for name in rungs:
        options = RUNGS[name] | (how if name != "head" else {k: v for k, v in how.items() if k == "dtype"})
        if options.pop("replay", False):
            if replay is None:
                continue
            options["replay"] = replay
        if faster := options.pop("faster", None):
            options["learning_rate"] = faster * usual
        started, cpu = time.monotonic(), time.process_time()
        fit = adapt(model, cells[train], kinds[train], seed=seed, validation=0.0, progress=False, **options)
        price = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        price["trained_parameters"] = float(fit.report.trained_parameters)
        said = fit.predict(cells[test], progress=False)
        scores = ladder.scores(kinds[test], said)
        yield name, scores | _lost(held_out, fit, before, guess, seed) | price, fit
        if name == "lora":
            with fit.peft_model.disable_adapter():
                yield ADAPTER_OFF, _lost(held_out, fit, before, guess, seed), fit


def _lost(held_out: Memory, fit: Any, before: float, guess: float | None, seed: int) -> dict[str, float]:
    after = held_out.error(fit.adapted, seed)
    share = float("nan") if guess is None else (after - before) / (guess - before)
    return {"error_before": before, "error": after, "guess": float("nan") if guess is None else guess, "lost": share}


def measure(
    stored: Path,
    models: Sequence[str] = ladder.MODELS,
    datasets: Sequence[str] = ("pbmc_zheng_facs",),
    seeds: Sequence[int] = range(5),
    settings: Settings | None = None,
    most: int | None = None,
) -> Generator[str, None, None]:
    """Add to ``stored`` what is missing: one model, dataset and seed after the other, each written as it ends; ``most`` of them.

    Columns as in the ladder's table. Yields a line about each.
    """
    from scfm.models import load_model
    from studies import sets

    settings = settings or Settings()
    table = Growing(stored, ("model", "dataset", "seed"))
    stamp = {"recipe": RECIPE, **asdict(settings)}
    stamps = {model: stamp | {"weights": weights_of(model)} for model in models}
    table.forget_others(lambda key: stamps.get(key[0]))
    wanted = [(m, d, s) for s in seeds for d in datasets for m in models if not table.has((m, d, s), stamps[m])]
    memories: dict[str, tuple] = {}
    for model_name, dataset, seed in wanted[:most]:
        began = time.monotonic()
        model = load_model(model_name)
        if not memories:
            memories["corpus"] = of_corpus(model, settings.held_out, settings.replayed)
        if model_name not in memories:
            memories[model_name] = tuple(Memory(model, part, settings.max_len) for part in memories["corpus"])
        held_out, replay = memories[model_name]
        adata = sets.evaluation_set(dataset)
        kinds = adata.obs["cell_type"].astype(str).to_numpy()
        train, test = ladder.draw(kinds, settings.labels_per_class, seed)
        rng = np.random.default_rng([seed, 21])
        few = [rng.permutation(test[kinds[test] == kind])[: settings.test_cells] for kind in np.unique(kinds)]
        how: dict[str, Any] = {
            "epochs": 10**6,
            "max_steps": settings.steps,
            "minibatch": settings.minibatch,
            "dtype": settings.dtype,
        }
        cells = model.tokenize(adata, max_len=settings.max_len)
        rows = [
            [model_name, name, dataset, settings.labels_per_class, seed, metric, value]
            for name, found, _ in climb(
                model, cells, kinds, train, np.concatenate(few), held_out, replay, seed=seed, **how
            )
            for metric, value in found.items()
        ]
        table.put((model_name, dataset, seed), stamps[model_name], rows)
        yield f"{model_name}, {dataset}, seed {seed}: {(time.monotonic() - began) / 60:.1f} min"


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The table with one row per fit: columns model, method, dataset, seed and one per metric."""
    keys = ["model", "method", "dataset", "labels_per_class", "seed"]
    return table.pivot_table(index=keys, columns="metric", values="value", sort=False).reset_index()


def main() -> None:
    import argparse

    import torch

    parser = argparse.ArgumentParser(prog="python -m studies.forgetting", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=list(ladder.MODELS))
    parser.add_argument("--datasets", nargs="*", default=["pbmc_zheng_facs"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=None, help="stop after so many (default: all that are missing)")
    parser.add_argument("--out", type=Path, default=None, help="default: data/results/forgetting.parquet")
    given = parser.parse_args()
    torch.set_num_threads(1)
    out = given.out or cache.repo_data() / "results" / "forgetting.parquet"
    with contextlib.closing(measure(out, given.models, given.datasets, range(given.seeds), most=given.most)) as lines:
        for line in lines:
            print(line, flush=True)
    print(f"settings: {asdict(Settings())}")


if __name__ == "__main__":
    main()
