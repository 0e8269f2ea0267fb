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
from scfm.adaptation.adapters import Adapted, count, digest, prepare
from scfm.adaptation.choices import Choices
from scfm.adaptation.features import Reader, kind_of, layers_of
from scfm.adaptation.fit import Fit, Report, check_cells, reader_of, resolve
from scfm.adaptation.heads import Head
from scfm.adaptation.loop import TOKENS_IN_TRAINING, Run, train
from scfm.adaptation.replay import Memory
from scfm.inside.meter import Meter, machine
from scfm.tokenized import TokenizedCells

__all__ = ["Choices", "Fit", "Report", "adapt"]


def adapt(
    model: Any,
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
    choices = resolve(model, Choices.from_options(method=method, seed=seed, **options))
    unwatched = []
    if choices.solved and choices.validation:
        # there is no step that could be one too many: cells kept aside would be labels lost
        choices = dataclasses.replace(choices, validation=0.0)
        unwatched = ["no validation cells: a linear head on the frozen network is solved for at once, from all labels"]
    _refuse_networks_with_batches(model.network)
    if embeddings is not None and choices.method != "head":
        raise ValueError(f"embeddings belong to method='head'; {choices.method} changes what the embeddings are.")
    if replay is not None and choices.method in ("head", "prefix", "prompt"):
        raise ValueError(
            f"method={choices.method!r} leaves the network as it is: nothing is forgotten, and there is nothing to replay."
        )
    if replay is None and choices.replay_weight != 1.0:
        raise ValueError("replay_weight has no effect without replay: give the cells to replay, or leave it out.")
    about = _about(cells if hasattr(cells, "obs") else data)
    if hasattr(cells, "obs"):
        labels, groups = _column(cells, labels), _column(cells, groups)
    cells = model.as_cells(cells)
    check_cells(model, cells, choices)
    remembered = replay if replay is None or isinstance(replay, Memory) else Memory(model, replay)
    of_genes = choices.level == "gene"
    if of_genes and groups is not None:
        raise ValueError("groups belong to cells; with level='gene' whole genes are kept aside. Leave groups out.")
    n_layers = len(layers_of(model.network)) + (choices.layer or 0)

    with Meter(model.network.device) as meter:
        adapted = prepare(model.network, choices, n_layers)
        reader = reader_of(model, adapted, choices)
        if of_genes:
            known, tokens = labelled.of_genes(labels, model.vocabulary, reader.cut(cells).tokens)
        else:
            known, tokens = labelled.of_cells(labels, len(cells)), np.empty(0, np.int64)
        learned, watched, notes = labelled.split(known, choices.validation, seed, groups)
        width = model.network.config.hidden_size
        head = Head(width, known.classes, choices.head, choices.head_dropout, seed).to(model.network.device)
        weights = tasks.class_weights(known, learned, choices.class_weight)
        source: Any = (
            tasks.GeneTasks(reader, cells, known, tokens, weights, seed)
            if of_genes
            else tasks.CellTasks(reader, cells, known, weights)
        )
        kept = None
        if choices.method == "head":  # run the network once, for the cells to watch too
            kept = _checked(embeddings, known, width)
            kept = source.start(np.arange(len(known.targets)), progress)[0] if kept is None else kept

        def begin() -> None:
            """Standardize; a linear head starts as (and on a frozen network is) logistic regression."""
            features = kept[learned] if kept is not None else source.start(learned, progress)[0]
            head.standardize(features, choices.scale)
            if choices.head == "linear" and (choices.method == "head" or choices.start == "probe"):
                head.fit(features, known.targets[learned], weights)

        base = {"name": model.name, "sha256": model.sha256, "weights": digest(model.network), "kind": kind_of(model.network)}  # fmt: skip
        if choices.solved:
            begin()
            head.eval()
            run = Run()
        else:
            if kept is not None:
                make = functools.partial(tasks.of_features, kept, known.targets, weights=weights, device=head.device)
                parts = [make(part) for part in (learned, watched)]
            else:
                parts = [source.of(learned), source.watch(watched)]
            fingerprint = _fingerprint(choices, base, cells, known, learned, tokens, remembered, embeddings)
            run = train(
                parts[0], parts[1] if len(parts[1].examples) else None, adapted, head, choices, n_layers, begin,
                None if work is None else Path(work), fingerprint, progress, _replayed(remembered, adapted, choices, reader),
            )  # fmt: skip
    report = _report(model, adapted, head, choices, reader, known, learned, watched, run, meter)
    if remembered is not None:
        notes = [*notes, f"replay of {len(remembered):,} cells with weight {choices.replay_weight:g}"]
    report.notes = [*known.notes, *unwatched, *notes, *report.notes]
    report.data = about | {
        "vocabulary": cells.vocabulary_name,
        "tokens": int(np.median(cells.lengths)),
        "overlap": cells.report.get("overlap", ""),
    }
    return Fit(model, adapted, head, choices, report, base)


# --- what is asked --------------------------------------------------------------------------------------


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


def _refuse_networks_with_batches(network: Any) -> None:
    config = network.config
    if kind_of(network) == "scgpt" and (
        config.batch_tokens or config.domain_norm.startswith("dsbn") or config.num_modalities
    ):
        raise ValueError(
            "This scGPT has batch or modality tokens, or normalizes by batch (DSBN): its cell embedding depends on which batch a "
            "cell is said to be of, and a new cell is of none. Adapt the checkpoint that it was fine-tuned from."
        )


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


def _fingerprint(
    choices: Choices, base: dict, cells: TokenizedCells, known: labelled.Labels, learned: np.ndarray, tokens: np.ndarray,
    remembered: Memory | None, embeddings: np.ndarray | None,
) -> str:  # fmt: skip
    """What a checkpoint must agree with: settings, base, cells, labels, split, replay and given embeddings, as 64 hex digits."""
    settings = {k: v for k, v in dataclasses.asdict(choices).items() if k not in ("checkpoint_every", "max_tokens")}
    found = hashlib.sha256(json.dumps([settings, base["weights"], known.classes], default=str, sort_keys=True).encode())
    for array in (cells.tokens, cells.offsets, cells.values, known.targets, learned, tokens):
        found.update(b"|" if array is None else np.ascontiguousarray(array).tobytes())
    if remembered is not None:
        found.update(remembered.digest().encode())
    if embeddings is not None:
        found.update(np.ascontiguousarray(embeddings, np.float32).tobytes())
    return found.hexdigest()


def _replayed(
    remembered: Memory | None, adapted: Adapted, choices: Choices, reader: Reader
) -> Callable[[int], Iterator[Any]] | None:
    """Step → the older task's losses on as many cells as a step has, drawn from (seed, step)."""
    if remembered is None:
        return None
    budget = choices.max_tokens or TOKENS_IN_TRAINING.get(adapted.network.device.type, 8_192)
    return lambda step: remembered.losses(
        adapted.network, np.random.default_rng([choices.seed, 17, step]), choices.minibatch, budget, reader.bf16
    )


# --- what it cost ---------------------------------------------------------------------------------------


def _report(
    model: Any, adapted: Adapted, head: Head, choices: Choices, reader: Reader, known: labelled.Labels,
    learned: np.ndarray, watched: np.ndarray, run: Run, meter: Meter,
) -> Report:  # fmt: skip
    in_head = count(head.parameters())
    whole = adapted.peft_model if adapted.peft_model is not None else adapted.network
    every = {id(p): p.numel() for p in (*adapted.network.parameters(), *whole.parameters())}
    return Report(
        model=model.name,
        method=choices.method,
        trained_parameters=count(adapted.trained().values()) + in_head,
        head_parameters=in_head,
        total_parameters=sum(every.values()) + in_head,
        **dataclasses.asdict(meter.cost),
        machine=machine(model.network.device),
        dtype=str(reader.dtype).removeprefix("torch."),
        n_cells=len(learned),
        n_validation=len(watched),
        cells_per_class=known.counts(learned),
        steps=run.steps,
        best_step=run.best_step,
        stopped_early=run.stopped_early,
        date=datetime.date.today().isoformat(),
        resumed_from=run.resumed_from,
        curve=run.log,
        notes=list(run.checkpoint_failures),
    )
