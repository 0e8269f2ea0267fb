"""The adaptation ladder: one function, four rungs. How much of a model should be trained?

    fit = scfm.adapt(model, cells, labels, method="head")     # nothing but a head: the model is run once, frozen
    fit = scfm.adapt(model, cells, labels, method="lora")     # a few inserted weights (or dora, ia3, ln, vera, prefix, prompt)
    fit = scfm.adapt(model, cells, labels, method="partial")  # the last layers
    fit = scfm.adapt(model, cells, labels, method="full")     # all of it

Each rung starts where the one below ends: unless ``start="random"``, the head of a trained network begins as the logistic
regression on the untrained one (Kumar et al. 2022, arXiv:2202.10054), so that its first steps do not tear up what the
network knows. All settings are in ``scfm.adaptation.choices``, what is trained in ``scfm.adaptation.adapters``, the loop in ``scfm.adaptation.loop``.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scfm.adaptation import labels as labelled
from scfm.adaptation import tasks
from scfm.adaptation.adapters import count, digest, prepare
from scfm.adaptation.choices import Choices
from scfm.adaptation.fit import Fit
from scfm.adaptation.heads import Head
from scfm.adaptation.loop import TOKENS_IN_TRAINING, Run, Task, train
from scfm.adaptation.reading import check_cells, reader_of, resolve
from scfm.adaptation.replay import Memory
from scfm.adaptation.report import Report
from scfm.inside.meter import Meter, machine
from scfm.models.base import Model
from scfm.tokenized import TokenizedCells

__all__ = ["Choices", "Fit", "Report", "adapt"]


def adapt(
    model: Model,
    cells: Any,
    labels: Any,
    method: str = "head",
    *,
    seed: int = 0,
    groups: Sequence[str] | np.ndarray | str | None = None,
    embeddings: np.ndarray | None = None,
    replay: Any = None,
    work: str | Path | None = None,
    data: Any = None,
    progress: bool = True,
    **options: Any,
) -> Fit:
    """Teach a model to name cells (or genes). The model itself is never changed.

    Parameters
    ----------
    model
        What ``scfm.load_model`` gives: Geneformer or scGPT.
    cells
        TokenizedCells of ``model.tokenize``, or an AnnData of raw counts.
    labels
        One class name per cell; several columns (a dict of arrays, a DataFrame) for several heads on one encoder, where a
        missing label counts nothing; the name of a column of ``obs`` if ``cells`` is an AnnData; with ``level="gene"`` a
        dict of gene → class.
    method
        ``"head"``, ``"lora"``, ``"dora"``, ``"ia3"``, ``"ln"``, ``"vera"``, ``"prefix"``, ``"prompt"``, ``"partial"``, ``"full"``.
    groups
        Donor or batch of each cell: the validation cells are then whole groups. (A linear head on a frozen network is solved for
        at once, from all labelled cells: it has no steps to watch, and ``validation`` and ``groups`` change nothing.)
    embeddings
        For ``"head"``: float32 (n_cells, d), what ``fit.embed(cells)`` gave before, so that the network need not run again.
    replay
        Cells that resemble those of the pretraining: an AnnData of raw counts, or a :class:`scfm.adaptation.replay.Memory`. At every step
        the pretraining's own loss on some of them is added, so that the network does not forget what it was pretrained for.
    work
        A folder for checkpoints. A run that was killed goes on from the last one when it is called again in the same way,
        to the same numbers.
    data
        What the cells are, for the card: the AnnData they were tokenized from, or a dict (name, title, citation, ...). Not needed if
        ``cells`` is the AnnData.
    **options
        All others: see :class:`scfm.adaptation.choices.Choices`.

    Raises
    ------
    ValueError
        Labels, cells or options that do not fit, in a sentence that says what to do.

    Follows Geneformer's ``Classifier`` and scGPT's annotation recipe in what is trained; LoRA and its relatives are peft's.
    """
    choices, notes = _chosen(model, Choices.from_options(method=method, seed=seed, **options))
    _refuse(model, choices, groups, embeddings, replay)
    about = _about(cells if hasattr(cells, "obs") else data)
    if hasattr(cells, "obs"):
        labels, groups = _column(cells, labels), _column(cells, groups)
    cells = model.as_cells(cells)
    check_cells(model, cells, choices)
    remembered = replay if replay is None or isinstance(replay, Memory) else Memory(model, replay)
    if remembered is not None:
        notes.append(f"replay of {len(remembered):,} cells with weight {choices.replay_weight:g}")
    with Meter(model.network.device) as meter:
        own = Adaptation(model, cells, labels, groups, choices)
        own.look(embeddings, progress)
        run = own.learn(remembered, embeddings, None if work is None else Path(work), progress)
    report = own.report(run, meter)
    report.notes = [*own.known.notes, *notes, *own.notes, *report.notes]
    report.data = about | {
        "vocabulary": cells.vocabulary_name,
        "tokens": int(np.median(cells.lengths)),
        "overlap": cells.report.get("overlap", ""),
    }
    return Fit(model, own.adapted, own.head, choices, report, own.base)


class Adaptation:
    """One call of :func:`adapt`: prepare the network, read the labels, look at the cells, learn, report."""

    def __init__(self, model: Model, cells: TokenizedCells, labels: Any, groups: Any, choices: Choices) -> None:
        self.model, self.cells, self.choices = model, cells, choices
        self.n_layers = len(model.layers()) + (choices.layer or 0)
        self.adapted = prepare(model, choices, self.n_layers)
        self.reader = reader_of(self.adapted, choices)
        if choices.level == "gene":
            present = self.reader.cut(cells).tokens
            self.known, self.tokens = labelled.of_genes(labels, model.vocabulary, present)
        else:
            self.known, self.tokens = labelled.of_cells(labels, len(cells)), np.empty(0, np.int64)
        self.learned, self.watched, self.notes = labelled.split(self.known, choices.validation, choices.seed, groups)
        self.weights = tasks.class_weights(self.known, self.learned, choices.class_weight)
        head = Head(
            model.network.config.hidden_size, self.known.classes, choices.head, choices.head_dropout, choices.seed
        )
        self.head = head.to(model.network.device)
        self.source: tasks.GeneTasks | tasks.CellTasks = (
            tasks.GeneTasks(self.reader, cells, self.known, self.tokens, self.weights, choices.seed)
            if choices.level == "gene"
            else tasks.CellTasks(self.reader, cells, self.known, self.weights)
        )
        self.kept: np.ndarray | None = None  # what the head reads, of a frozen network
        self.base = {
            "name": model.name,
            "sha256": model.sha256,
            "weights": digest(model.network),
            "kind": model.kind,
        }

    def look(self, embeddings: Any, progress: bool) -> None:
        """Run a frozen network once, for the cells to watch too; or take what it gave before."""
        if self.choices.method != "head":
            return
        self.kept = _checked(embeddings, self.known, self.model.network.config.hidden_size)
        if self.kept is None:
            self.kept = self.source.start(np.arange(len(self.known.targets)), progress)[0]

    def begin(self, progress: bool) -> None:
        """Standardize; a linear head starts as (and on a frozen network is) logistic regression."""
        choices = self.choices
        features = self.kept[self.learned] if self.kept is not None else self.source.start(self.learned, progress)[0]
        targets = self.known.targets[self.learned]
        if choices.solved:
            self.head.solve(features, targets, self.weights, choices.scale)
        elif (
            choices.head == "linear" and choices.start == "probe"
        ):  # where training begins: no need to choose a strength
            self.head.solve(features, targets, self.weights, choices.scale or "common", strength=1.0)
        else:
            self.head.standardize(features, choices.scale or "common")

    def learn(self, remembered: Memory | None, embeddings: Any, work: Path | None, progress: bool) -> Run:
        """Solve for a linear head on a frozen network; train everything else."""
        if self.choices.solved:
            self.begin(progress)
            self.head.eval()
            return Run()
        task, watched = self._tasks()
        fingerprint = _fingerprint(self, remembered, embeddings)
        return train(
            task, watched if len(watched.examples) else None, self.adapted, self.head, self.choices, self.n_layers,
            functools.partial(self.begin, progress), work, fingerprint, progress, self._replay(remembered),
        )  # fmt: skip

    def _tasks(self) -> list[Task]:
        """To learn from, and to watch."""
        if self.kept is None:
            return [self.source.of(self.learned), self.source.watch(self.watched)]
        targets, device = self.known.targets, self.head.device
        return [
            tasks.of_features(self.kept, targets, part, self.weights, device) for part in (self.learned, self.watched)
        ]

    def _replay(self, remembered: Memory | None) -> Callable[[int], Iterator[Any]] | None:
        """Step → the older task's losses on as many cells as a step has, drawn from (seed, step)."""
        if remembered is None:
            return None
        choices, model = self.choices, self.adapted.model
        budget = choices.max_tokens or TOKENS_IN_TRAINING.get(model.network.device.type, 8_192)
        return lambda step: remembered.losses(
            model, np.random.default_rng([choices.seed, 17, step]), choices.minibatch, budget, self.reader.bf16
        )

    def report(self, run: Run, meter: Meter) -> Report:
        """The price and the course of it."""
        in_head, adapted = count(self.head.parameters()), self.adapted
        whole = adapted.peft_model if adapted.peft_model is not None else adapted.network
        every = {id(p): p.numel() for p in (*adapted.network.parameters(), *whole.parameters())}
        return Report(
            model=self.model.name,
            method=self.choices.method,
            trained_parameters=count(adapted.trained().values()) + in_head,
            head_parameters=in_head,
            total_parameters=sum(every.values()) + in_head,
            **dataclasses.asdict(meter.cost),
            machine=machine(self.model.network.device),
            dtype=str(self.reader.dtype).removeprefix("torch."),
            n_cells=len(self.learned),
            n_validation=len(self.watched),
            cells_per_class=self.known.counts(self.learned),
            steps=run.steps,
            best_step=run.best_step,
            stopped_early=run.stopped_early,
            date=datetime.date.today().isoformat(),
            resumed_from=run.resumed_from,
            curve=run.log,
            notes=list(run.checkpoint_failures),
        )


# --- what is asked --------------------------------------------------------------------------------------


def _chosen(model: Model, choices: Choices) -> tuple[Choices, list[str]]:
    """The choices with the model's own pooling and layer, and what has to be said about them."""
    choices = resolve(model, choices)
    if not (choices.solved and choices.validation):
        return choices, []
    # there is no step that could be one too many: cells kept aside would be labels lost
    note = "no validation cells: a linear head on the frozen network is solved for at once, from all labels"
    return dataclasses.replace(choices, validation=0.0), [note]


def _refuse(model: Model, choices: Choices, groups: Any, embeddings: Any, replay: Any) -> None:
    """ValueError for what does not go together."""
    model.check_adaptable()
    if embeddings is not None and choices.method != "head":
        raise ValueError(f"embeddings belong to method='head'; {choices.method} changes what the embeddings are.")
    if replay is not None and choices.method in ("head", "prefix", "prompt"):
        raise ValueError(
            f"method={choices.method!r} leaves the network as it is: nothing is forgotten, and there is nothing to replay."
        )
    if replay is None and choices.replay_weight != 1.0:
        raise ValueError("replay_weight has no effect without replay: give the cells to replay, or leave it out.")
    if choices.level == "gene" and groups is not None:
        raise ValueError("groups belong to cells; with level='gene' whole genes are kept aside. Leave groups out.")


def _column(adata: Any, given: Any) -> Any:
    """Labels or groups that are named by a column of ``obs``."""
    if not isinstance(given, str):
        return given
    if given not in adata.obs:
        raise ValueError(f"adata.obs has no column {given!r}; it has {', '.join(map(str, adata.obs.columns))}.")
    return adata.obs[given].to_numpy()


def _about(data: Any) -> dict[str, Any]:
    """Name, source and licence of a dataset, as ``scfm.load_dataset`` wrote them into ``uns``."""
    if hasattr(data, "uns"):
        data = data.uns.get("scfm", {})
    wanted = ("name", "title", "citation", "doi", "licence", "sha256", "organism", "tissue", "counts")
    return {key: str(data[key]) for key in wanted if data and data.get(key)}


def _checked(embeddings: Any, known: labelled.Labels, width: int) -> np.ndarray | None:
    if embeddings is None:
        return None
    array = np.asarray(embeddings, np.float32)
    if array.shape != (len(known.targets), width) or not np.isfinite(array).all():
        raise ValueError(
            f"embeddings has shape {array.shape}; finite numbers of shape ({len(known.targets)}, {width}) were expected, as "
            "fit.embed(cells) gives."
        )
    return array


def _fingerprint(own: Adaptation, remembered: Memory | None, embeddings: np.ndarray | None) -> str:
    """What a checkpoint must agree with: settings, base, cells, labels, split, replay and given embeddings, as 64 hex digits."""
    settings = {k: v for k, v in dataclasses.asdict(own.choices).items() if k not in ("checkpoint_every", "max_tokens")}
    said = json.dumps([settings, own.base["weights"], own.known.classes], default=str, sort_keys=True)
    found = hashlib.sha256(said.encode())
    cells = own.cells
    for array in (cells.tokens, cells.offsets, cells.values, own.known.targets, own.learned, own.tokens):
        found.update(b"|" if array is None else np.ascontiguousarray(array).tobytes())
    if remembered is not None:
        found.update(remembered.digest().encode())
    if embeddings is not None:
        found.update(np.ascontiguousarray(embeddings, np.float32).tobytes())
    return found.hexdigest()
