"""The training loop: minibatches, gradient steps, early stopping, and checkpoints to resume from.

Why not Hugging Face's Trainer? Three things matter here that it does not give. A run that was killed must end at the very
numbers of an undisturbed one, so every random draw comes from (seed, step). A step is a number of *cells*, cut into pieces
by a budget of *tokens*: memory is bounded, and the result does not change. And the loop should be read in a lesson: the
gradients of a step's pieces add up, AdamW moves, the rate follows a schedule, now and then we look at the validation cells.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.adaptation.adapters import Adapted, optimizer_groups, prepare, stages, unfreeze
from scfm.adaptation.choices import Choices
from scfm.adaptation.heads import IGNORE, Head
from scfm.inside.seeded import seeded
from scfm.models.base import Model
from scfm.store import cache
from scfm.tokenized import cut_by_budget

TOKENS_IN_TRAINING = {"cpu": 8_192, "cuda": 32_768}  # activations are kept for the way back: fewer than for embedding


@dataclass
class Task:
    """Examples to learn from, or to watch. An example is a cell; its rows are what gets an answer: itself, or its tokens."""

    features: Callable[[np.ndarray], Tensor]  # examples → (row, d), what the head reads
    rows: Callable[[np.ndarray], np.ndarray]  # examples → int64 (row, column), class per label column; IGNORE = unknown
    examples: np.ndarray
    lengths: np.ndarray  # tokens of every example that there is
    weights: list[np.ndarray]  # per column, the weight of each class in the loss


@dataclass
class Run:
    """What the training loop leaves behind."""

    log: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    planned: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    stopped_early: bool = False
    resumed_from: int = 0
    seconds: float = 0.0
    checkpoint_failures: list[str] = field(default_factory=list)


def train(
    task: Task,
    watched: Task | None,
    adapted: Adapted,
    head: Head,
    choices: Choices,
    n_layers: int,
    begin: Callable[[], None],
    work: Path | None = None,
    fingerprint: str = "",
    progress: bool = True,
    replay: Callable[[int], Iterator[Tensor]] | None = None,
) -> Run:
    """Train ``head`` and what is trainable in ``adapted``, in place; go on from ``work/checkpoint.pt`` if it is there.

    ``begin`` prepares a fresh start (standardization, the head's first weights); a resumed run does not need it.
    ``replay``: step → losses of an older task whose gradients are added, weighted by ``choices.replay_weight``.

    Raises
    ------
    ValueError
        The checkpoint in ``work`` is of another run; a loss, or a weight at the end, is no number.
    """
    from tqdm.auto import tqdm

    device = head.device
    own = adapted.trained()
    by_stage = stages(adapted, n_layers) if own else []
    optimizer = torch.optim.AdamW(optimizer_groups(adapted, by_stage, head, choices))
    per_epoch = -(-len(task.examples) // choices.minibatch)
    run = Run(planned=min(choices.epochs * per_epoch, choices.max_steps or choices.epochs * per_epoch))
    best: dict[str, Tensor] = {}
    recent: list[float] = []
    state = _read_checkpoint(work, fingerprint, device)
    if state is None:
        begin()
    else:
        _put(state["weights"], own, head)
        optimizer.load_state_dict(state["optimizer"])
        best, recent, run = state["best"], json.loads(state["recent"]), Run(**json.loads(state["run"]))
        run.resumed_from = run.steps

    started = time.monotonic() - run.seconds
    bar = tqdm(
        total=run.planned, initial=run.steps, desc=choices.method, unit="step", disable=not progress, delay=1, leave=False
    )  # fmt: skip
    with seeded(choices.seed) as reseed:
        adapted.network.train()
        for module in adapted.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # its statistics are the base's; a minibatch of a few cells would spoil them
        head.train()
        while run.steps < run.planned and not run.stopped_early:
            if choices.gradual:
                unfreeze(by_stage, run.steps, run.planned)
            reseed(choices.seed * 1_000_003 + run.steps)
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * schedule(run.steps, run.planned, choices)
            old = () if replay is None else replay(run.steps)
            recent.append(_step(task, _members(task, choices, run.steps, per_epoch), head, optimizer, choices, old))
            run.steps += 1
            if not math.isfinite(recent[-1]):
                raise ValueError(f"The loss is no number at step {run.steps}: take a smaller learning_rate.")
            bar.update()
            if run.steps % (choices.evaluate_every or per_epoch) == 0 or run.steps == run.planned:
                row = {"step": run.steps, "epoch": run.steps / per_epoch, "train_loss": float(np.mean(recent))}
                recent = []
                if watched is not None:
                    row |= validate(watched, adapted.network, head)
                    if row["validation_loss"] < run.best_loss:
                        best, run.best_step, run.best_loss = _take(own, head), run.steps, row["validation_loss"]
                run.log.append(row | {"seconds": time.monotonic() - started})
                bar.set_postfix({key: f"{value:.3f}" for key, value in row.items() if key.endswith("loss")})
                run.stopped_early = watched is not None and _patience_is_over(run, choices)
            last = run.steps == run.planned or run.stopped_early
            if work is not None and (run.steps % choices.checkpoint_every == 0 or last):
                run.seconds = time.monotonic() - started
                _write_checkpoint(work, fingerprint, own, head, optimizer, best, recent, run)
    bar.close()
    if best:
        _put(best, own, head)
    else:
        run.best_step = run.steps
    ended = [*own.values(), *head.state_dict().values()]
    if not all(bool(value.isfinite().all()) for value in ended):  # no loss was taken after the last step
        raise ValueError(f"The weights are no numbers after step {run.best_step}: take a smaller learning_rate.")
    for parameter in own.values():
        parameter.requires_grad = True  # gradual unfreezing may have been stopped early
    run.seconds = time.monotonic() - started
    adapted.network.eval()
    head.eval()
    return run


# --- one step -------------------------------------------------------------------------------------------


def schedule(step: int, steps: int, choices: Choices) -> float:
    """Share of the learning rate: a linear warm-up, then a line or a cosine down to zero, or constant."""
    warm = round(choices.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    if choices.schedule == "constant":
        return 1.0
    return 1 - done if choices.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def _members(task: Task, choices: Choices, step: int, per_epoch: int) -> np.ndarray:
    """The examples of one step: each epoch has a new order, drawn from (seed, epoch)."""
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([choices.seed, 7, epoch]).permutation(task.examples)
    return order[place * choices.minibatch : (place + 1) * choices.minibatch]


def _step(
    task: Task, members: np.ndarray, head: Head, optimizer: torch.optim.Optimizer, choices: Choices,
    replay: Iterable[Tensor] = (),
) -> float:  # fmt: skip
    """One step of the optimizer; its loss on the labels.

    The gradients of the pieces add up to that of the whole, whatever the budget, and so do those of the older task.
    """
    budget = choices.max_tokens or TOKENS_IN_TRAINING.get(head.device.type, 8_192)
    pieces = [members[piece] for piece in cut_by_budget(task.lengths[members], budget)]
    rows = [task.rows(piece) for piece in pieces]
    weight = sum((_total_weight(part, task.weights) for part in rows), np.zeros(len(task.weights)))  # (column,)
    total = 0.0
    for piece, targets in zip(pieces, rows, strict=True):
        loss = (_losses(head(task.features(piece)), targets, task.weights) / _at_least(weight, head)).sum()
        loss.backward()
        total += loss.item()
    for loss in replay:
        (choices.replay_weight * loss).backward()
    moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    nn.utils.clip_grad_norm_(moved, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _losses(logits: list[Tensor], targets: np.ndarray, weights: list[np.ndarray]) -> Tensor:
    """Weighted cross-entropy, summed over rows, of each label column: (column,). Unknown answers count nothing."""
    return torch.stack(
        [
            F.cross_entropy(
                own,
                torch.from_numpy(targets[:, column]).to(own.device),
                torch.from_numpy(weights[column]).to(own.device, own.dtype),
                ignore_index=IGNORE,
                reduction="sum",
            )
            for column, own in enumerate(logits)
        ]
    )


def _total_weight(targets: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    known = targets != IGNORE
    return np.array([weights[c][targets[known[:, c], c]].sum() for c in range(len(weights))], dtype=np.float64)


def _at_least(weight: np.ndarray, head: Head) -> Tensor:
    return torch.from_numpy(np.maximum(weight, 1e-12)).to(head.device, torch.float32)


def validate(task: Task, network: Any, head: Head) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy on the examples of ``task``.

    The accuracies are means over the label columns of which some label is known there. At least one must be.
    """
    from sklearn.metrics import recall_score

    training = [module for module in [*network.modules(), *head.modules()] if module.training]
    network.eval()
    head.eval()
    budget = 2 * TOKENS_IN_TRAINING.get(head.device.type, 8_192)
    losses, weight = np.zeros(len(task.weights)), np.zeros(len(task.weights))
    truth, answers = [], []
    with torch.inference_mode():
        for piece in cut_by_budget(task.lengths[task.examples], budget):
            targets = task.rows(task.examples[piece])
            logits = head(task.features(task.examples[piece]))
            losses += _losses(logits, targets, task.weights).cpu().numpy()
            weight += _total_weight(targets, task.weights)
            truth.append(targets)
            answers.append(np.stack([own.argmax(1).cpu().numpy() for own in logits], 1))
    for module in training:
        module.training = True
    known, said = np.concatenate(truth), np.concatenate(answers)
    right, recall = [], []
    for column in range(len(task.weights)):
        true, answer = (part[known[:, column] != IGNORE, column] for part in (known, said))
        if len(true) == 0:  # none of these examples has a label of this column
            continue
        right.append(np.mean(true == answer))
        recall.append(recall_score(true, answer, labels=np.unique(true), average="macro", zero_division=0))
    return {
        "validation_loss": float((losses / np.maximum(weight, 1e-12)).sum()),
        "validation_accuracy": float(np.mean(right)),
        "validation_balanced_accuracy": float(np.mean(recall)),
    }


def _patience_is_over(run: Run, choices: Choices) -> bool:
    since_best = sum(row["step"] > run.best_step for row in run.log)
    return choices.patience is not None and since_best >= choices.patience


# --- checkpoints ----------------------------------------------------------------------------------------


def _take(own: dict[str, nn.Parameter], head: Head) -> dict[str, Tensor]:
    weights = {f"network.{name}": p for name, p in own.items()} | {f"head.{k}": v for k, v in head.state_dict().items()}
    return {name: value.detach().clone() for name, value in weights.items()}


@torch.no_grad()
def _put(weights: dict[str, Tensor], own: dict[str, nn.Parameter], head: Head) -> None:
    for name, parameter in own.items():
        parameter.copy_(weights[f"network.{name}"])
    head.load_state_dict({k.removeprefix("head."): v for k, v in weights.items() if k.startswith("head.")})


def _read_checkpoint(work: Path | None, fingerprint: str, device: torch.device) -> dict[str, Any] | None:
    if work is None or not (work / "checkpoint.pt").exists():
        return None
    state = torch.load(work / "checkpoint.pt", weights_only=True, map_location=device)
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"{work / 'checkpoint.pt'} belongs to a run with another model, other cells, labels or settings. Delete {work} "
            "to start afresh, or give another work folder."
        )
    return state


def _write_checkpoint(
    work: Path, fingerprint: str, own: dict, head: Head, optimizer: Any, best: dict, recent: list[float], run: Run
) -> None:
    """Written whole or not at all. A full disk does not end the run: the last checkpoint stays, and a warning says so."""
    state = {
        "fingerprint": fingerprint,
        "weights": _take(own, head),
        "optimizer": optimizer.state_dict(),
        "best": best,
        "recent": json.dumps(recent),
        "run": json.dumps(asdict(run)),
    }
    try:
        with cache.atomic_write(work / "checkpoint.pt") as path:
            torch.save(state, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        run.checkpoint_failures.append(f"step {run.steps}: {error}")
        warnings.warn(
            f"The checkpoint of step {run.steps} could not be written to {work} ({error}). Training goes on; if it is killed "
            "now, it starts again at the last checkpoint that was written. Free some space.",
            stacklevel=2,
        )


def planned_rates(model: Model, choices: Choices, steps: int) -> Any:
    """Learning rate of each part of the network at each step, as :func:`train` will set it: a DataFrame (part, step), input first.

    ``model`` is not changed. A part that is frozen, or not yet unfrozen, has 0.
    """
    import pandas as pd

    n_layers = len(model.layers()) + (choices.layer or 0)
    adapted = prepare(model, choices, n_layers)
    by_stage = stages(adapted, n_layers) if adapted.trained() else []
    groups = optimizer_groups(adapted, by_stage, nn.Module(), choices)
    rate_of = {id(p): group["rate"] for group in groups for p in group["params"]}
    parts = {"input": [p for m in adapted.model.input_modules() for p in m.parameters()]}
    parts |= {f"layer {i + 1}": list(layer.parameters()) for i, layer in enumerate(adapted.model.layers())}
    found: dict[str, list[float]] = {name: [] for name in parts}
    for step in range(steps):
        if choices.gradual:
            unfreeze(by_stage, step, steps)
        now = schedule(step, steps, choices)
        for name, parameters in parts.items():
            found[name].append(max((rate_of.get(id(p), 0.0) * p.requires_grad * now for p in parameters), default=0.0))
    return pd.DataFrame(found).T
