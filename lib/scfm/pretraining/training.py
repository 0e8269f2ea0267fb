"""The loop behind every pretraining run of the course: one pool of minibatches after another, resumable to the bit.

Every random draw comes from (seed, number of the pool or step), so a run that was killed goes on from its last checkpoint
exactly where an uninterrupted one would be. What is learned (network, loss, evaluation) is the recipe's own affair:
``geneformer_mini.py`` for masked genes in the way of Geneformer, ``scgpt_mini.py`` for generated values in the way of scGPT.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.store import cache

if TYPE_CHECKING:
    import torch

    from scfm.pretraining.corpus import Corpus

MOST_EMPTY = 20  # pools in a row without a minibatch, after which a run gives up


@dataclass(frozen=True)
class Schedule:
    """What decides how a run is made, whatever it learns; the recipes' settings add what decides the result."""

    name: str = "model"
    minibatch: int = 32
    pool: int = 50  # minibatches that are augmented and sorted by length together
    steps: int = 5250
    warmup: int = 300
    learning_rate: float = 1e-3
    slope_to: int = 7500  # the rate falls linearly as if to zero at this step ...
    cooldown: int = 1000  # ... and over the last steps of the run all the way to it
    weight_decay: float = 0.01
    thin_share: float = 0.7  # this share of the cells has its counts thinned to 20-100 %
    panel_share: float = 0.3  # this share keeps a random 5-100 % of its genes, as a small gene panel would
    held_out_cells: float = 0.05
    share_of_cells: float = (
        1.0  # of the training cells that are learned from; vocabulary and medians come from all of them
    )
    seed: int = 0


def learning_rate(step: int, settings: Schedule) -> float:
    """Linear warm-up, a slow linear fall, and a faster one to zero over the last steps."""
    slope_to, cooldown = max(settings.slope_to, settings.steps), min(settings.cooldown, settings.steps)
    warm, fall = (step + 1) / settings.warmup, 1 - step / slope_to
    return settings.learning_rate * min(warm, fall) * min(1.0, (settings.steps - step) / cooldown)


def split(corpus: Corpus, settings: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training cells and of the held-out ones.

    On average the same share of every dataset is held out, since each cell is drawn by itself.
    """
    rng = np.random.default_rng([settings.seed, 0])
    held_out = rng.random(len(corpus)) < settings.held_out_cells
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def learned_from(train: np.ndarray, settings: Schedule) -> np.ndarray:
    """Indices of the training cells that the network learns from: a random ``share_of_cells``, the smaller in the larger."""
    order = np.random.default_rng([settings.seed, 6]).permutation(train)
    return np.sort(order[: round(settings.share_of_cells * len(train))])


def check_held_out(minibatches: list, held_out: np.ndarray, size: int, settings: Schedule) -> None:
    """ValueError if the held-out cells give none of the ``minibatches`` that every checkpoint evaluates on."""
    if not minibatches:
        raise ValueError(
            f"The {len(held_out):,} held-out cells give no minibatch of {size} cells with enough genes to evaluate on. Take more "
            f"cells, or hold out a larger share of them (held_out_cells is {settings.held_out_cells})."
        )


def pools_of_cells(
    train: np.ndarray, settings: Schedule, pool: int
) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    """Cells of one pool after another without end, beginning with number ``pool``, each with the generator of its draws."""
    size = settings.pool * settings.minibatch
    per_epoch = max(len(train) // size, 1)
    while True:
        epoch, part = divmod(pool, per_epoch)
        order = np.random.default_rng([settings.seed, 1, epoch]).permutation(train)
        yield order[part * size : (part + 1) * size], np.random.default_rng([settings.seed, 2, pool])
        pool += 1


def on_device(network: torch.nn.Module, *arrays: np.ndarray) -> list[torch.Tensor]:
    """Arrays as tensors where the network is."""
    import torch

    device = next(network.parameters()).device
    return [torch.from_numpy(array).to(device) for array in arrays]


def run(
    network: torch.nn.Module,
    settings: Schedule,
    corpus: Corpus,
    pools: Callable[[int], Iterator[list]],
    loss_of: Callable[[Any, np.random.Generator], torch.Tensor],
    evaluate: Callable[[], dict[str, float]],
    work: Path,
    checkpoint_every: int = 250,
    keep: Callable[[], None] | None = None,
) -> dict:
    """Train ``network`` in place, or go on from ``work/checkpoint.pt``. Returns settings, corpus, seconds, device and log.

    ``pools(n)`` yields pools of minibatches from number n on; ``loss_of(minibatch, rng)`` is a scalar, computed under bfloat16
    autocast where the hardware has it; ``evaluate()`` is logged at every checkpoint, whose ``loss`` the bar shows; ``keep``
    is called after each.

    Raises
    ------
    ValueError
        If the checkpoint in ``work`` was made with other settings or another corpus; or if pool after pool gives no minibatch.
    """
    import torch
    from tqdm.auto import tqdm

    from scfm import embed

    work.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device).train()
    decay = [p for p in network.parameters() if p.ndim > 1]
    no_decay = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": settings.weight_decay}, {"params": no_decay, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    fingerprint = {"settings": asdict(settings), **corpus.identity}
    log: list[dict] = []
    pool, step, seconds = 0, 0, 0.0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if json.loads(state["fingerprint"]) != fingerprint:
            raise ValueError(
                f"{checkpoint} was made with other settings or another corpus. Delete {work} to start afresh, or give "
                "another --work folder."
            )
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        pool, step, seconds, log = state["pool"], state["step"], state["seconds"], json.loads(state["log"])

    def save() -> None:
        with cache.atomic_write(checkpoint) as path:
            torch.save(
                {
                    "fingerprint": json.dumps(fingerprint),
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "pool": pool,
                    "step": step,
                    "seconds": seconds,
                    "log": json.dumps(log),
                },
                path,
            )

    bf16 = embed.choose_dtype("auto", device) == torch.bfloat16
    first = time.monotonic() - seconds
    bar = tqdm(total=settings.steps, initial=step, desc=settings.name, unit="step")
    stream = pools(pool)
    recent: list[float] = []
    saved, empty = step, 0
    while step < settings.steps:
        minibatches = next(stream)
        empty = 0 if minibatches else empty + 1
        if empty == MOST_EMPTY:
            bar.close()
            raise ValueError(
                f"{empty} pools of cells in a row gave no minibatch: there are fewer than {settings.minibatch} training cells, or "
                "they have too few genes of the vocabulary. Take more cells, or smaller minibatches."
            )
        for minibatch in minibatches[: settings.steps - step]:
            rng = np.random.default_rng([settings.seed, 3, step])
            torch.manual_seed(settings.seed * 1_000_003 + step)
            rate = learning_rate(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                loss = loss_of(minibatch, rng)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recent.append(loss.item())
            step += 1
            bar.update()
        pool += 1
        # a pool is the unit that can be resumed: checkpoints fall on its end
        if step - saved >= checkpoint_every or step >= settings.steps:
            seconds, saved = time.monotonic() - first, step
            log.append({"step": step, "seconds": round(seconds), "train_loss": float(np.mean(recent)), "rate": rate})
            log[-1] |= evaluate()
            bar.set_postfix(train=f"{log[-1]['train_loss']:.3f}", held_out=f"{log[-1]['loss']:.3f}")
            recent = []
            save()
            if keep is not None:
                keep()
    bar.close()
    return {**fingerprint, "seconds": round(seconds), "device": device, "log": log}
