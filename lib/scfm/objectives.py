"""What a model is trained for, and how well it does it: masked genes (Geneformer), and scGPT's objectives.

scGPT's are functions on torch tensors, each a scalar with a gradient; :class:`Weights` says which are on, :func:`combine`
adds them up. Cui et al. 2024 (10.1038/s41592-024-02201-0, Methods); upstream: scgpt/loss.py and the fine-tuning examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scfm import embed
from scfm.tokenized import TokenizedCells


@dataclass(frozen=True)
class MaskedScore:
    """How well a model guesses masked genes: mean cross-entropy in nats, and the shares of first and top-10 guesses right."""

    loss: float
    accuracy: float
    top10: float
    n_masked: int
    tokens: np.ndarray = field(repr=False)  # (masked,) the genes that were hidden
    losses: np.ndarray = field(repr=False)  # (masked,) nats, for intervals and for baselines on the same positions
    cells: np.ndarray = field(repr=False)  # (masked,) the cell each belongs to


def choose_masked(cells: TokenizedCells, special: dict[str, int], fraction: float = 0.15, seed: int = 0) -> np.ndarray:
    """Which tokens to hide: bool (n_tokens,), each gene with probability ``fraction``, special tokens never.

    The draw depends on ``seed`` and the cells' order only, so that models (and minibatches) can be compared on the same task.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; it must lie between 0 and 1 (Geneformer: 0.15)")
    drawn = np.random.default_rng(seed).random(len(cells.tokens)) < fraction
    return drawn & ~np.isin(cells.tokens, list(special.values()))


def masked_loss(
    model: embed.Reads,
    cells: TokenizedCells,
    mask_fraction: float = 0.15,
    seed: int = 0,
    dtype: str = "float32",
    max_tokens: int | None = None,
) -> MaskedScore:
    """Hide genes of held-out cells behind ``<mask>`` and score the model's guesses, at the hidden positions only.

    Every chosen gene becomes ``<mask>`` (in training a fifth is replaced or kept, so that the model does not rely on it;
    for a score that would only add noise).

    Raises
    ------
    ValueError
        If the cells do not fit the model, or nothing was masked.
    """
    embed.check(model, cells)
    network, device = model.network, model.network.device
    hidden = choose_masked(cells, model.special, mask_fraction, seed)
    if not hidden.any():
        raise ValueError("No gene was masked: there are too few tokens for this fraction.")
    question = TokenizedCells(np.where(hidden, model.special["<mask>"], cells.tokens), cells.offsets)
    of_cell = np.repeat(np.arange(len(cells)), cells.lengths)
    losses = np.empty(len(hidden), np.float32)
    ranks = np.empty(len(hidden), np.int64)

    was_training = network.training
    network.eval()
    try:
        kind = embed.choose_dtype(dtype, device)
        embeddings, layers = embed.modules_in(network, network.config.num_hidden_layers, kind)
        for indices in question.minibatches(max_tokens or embed.TOKENS_PER_MINIBATCH.get(device.type, 8_192)):
            part = question[indices]
            here = np.concatenate([np.arange(cells.offsets[i], cells.offsets[i + 1]) for i in indices])
            masked = hidden[here]  # (token,) of this minibatch
            if not masked.any():
                continue
            tokens = torch.from_numpy(part.tokens).to(device, torch.int64)
            with torch.inference_mode():
                x = embed.encode(embeddings, layers, tokens, part.lengths.tolist(), first_only=False)
                logits = network.cls(
                    x[torch.from_numpy(masked).to(device)].to(network.dtype)
                ).float()  # (masked, vocab)
                truth = torch.from_numpy(cells.tokens[here[masked]]).to(device, torch.int64)
                right = logits.gather(1, truth[:, None])
                losses[here[masked]] = (logits.logsumexp(1) - right[:, 0]).cpu().numpy()
                ranks[here[masked]] = (logits > right).sum(1).cpu().numpy()  # 0 = first guess
    finally:
        network.train(was_training)
    losses, ranks = losses[hidden], ranks[hidden]
    return MaskedScore(
        loss=float(losses.mean(dtype=np.float64)),
        accuracy=float((ranks == 0).mean()),
        top10=float((ranks < 10).mean()),
        n_masked=int(hidden.sum()),
        tokens=cells.tokens[hidden],
        losses=losses,
        cells=of_cell[hidden],
    )


# --- scGPT: genes and values ------------------------------------------------------------------------


def gep_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """GEP, gene expression prediction: the mean squared error at the masked positions.

        L = Σ m · (predicted - target)² / Σ m

    predicted, target: (cell, token), in bins. mask: bool or 0/1 (cell, token), 1 = the value was hidden. Without a masked
    position it is 0. Upstream: ``masked_mse_loss``.
    """
    m = mask.to(torch.float32)
    error = predicted.to(torch.float32) - target.to(torch.float32)
    return (error.square() * m).sum() / m.sum().clamp(min=1)


def gepc_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """GEPC, gene expression prediction from the cell (upstream: MVC): GEP's formula on what the cell embedding alone predicts.

        L = Σ m · (q_gene · W h_cell - target)² / Σ m,   q_gene = sigmoid(MLP(gene embedding))

    predicted: (cell, token), the network's ``gepc``. Token states have no part in it, so its whole gradient passes
    through ``<cls>``.
    """
    return gep_loss(predicted, target, mask)


def zero_prob_loss(probability_nonzero: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Zero or not: the negative log-likelihood of "this value is not zero" at the masked positions.

        L = - Σ m · log Bernoulli([target > 0]; p) / Σ m

    probability_nonzero: (cell, token) p = P(value > 0), which upstream calls ``*_zero_probs``. It can teach something only
    where zeros are among the targets. Upstream: ``criterion_neg_log_bernoulli``.
    """
    m = mask.to(torch.float32)
    p = probability_nonzero.to(torch.float32)
    tiny = torch.finfo(
        p.dtype
    ).eps  # as torch.distributions.Bernoulli: a sure prediction that is wrong costs 16 nats, not ∞
    p = p.clamp(tiny, 1 - tiny)
    log_likelihood = torch.where(target > 0, p.log(), (-p).log1p())
    return -(log_likelihood * m).sum() / m.sum().clamp(min=1)


# --- scGPT: cells -----------------------------------------------------------------------------------


def ecs_loss(cell_embedding: Tensor, threshold: float = 0.3) -> Tensor:
    """ECS, elastic cell similarity: cells that are alike are pulled together, others pushed apart, around ``threshold`` β.

        L = mean over all pairs of 1 - (relu(cos(h_i, h_j)) - β)²,   with cos(h_i, h_i) taken as 0

    cell_embedding: (cell, d), any length. Its slope along a cosine c is -2 (c - β) for c > 0: above β it pulls, the harder
    the more alike; between 0 and β it pushes, hardest just above 0; below 0 it does nothing. β itself is a peak, no place
    to stay. (The paper writes -(c - β)², without relu; this is the code's form, the one that was used.)
    """
    h = F.normalize(cell_embedding.to(torch.float32), dim=1)
    cosine = (h @ h.T).masked_fill(torch.eye(len(h), dtype=torch.bool, device=h.device), 0.0)  # (cell, cell)
    return (1 - (cosine.relu() - threshold).square()).mean()


def dar_loss(logits: Tensor, batch_labels: Tensor) -> Tensor:
    """DAR, domain adaptation by reversed gradient: the discriminator's cross-entropy on the batches of the study.

        L = - mean log softmax(discriminator(reversed h_cell))[batch]

    logits: (cell, batch), the network's ``dab``; batch_labels: int64 (cell,). The reversal sits before the discriminator
    (``scgpt_layers.reverse_gradient``): descending this one loss teaches it to tell batches apart and the encoder to hide them.
    """
    return F.cross_entropy(logits.to(torch.float32), batch_labels)


def cls_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """CLS, cell type classification: cross-entropy; the only one of the five that needs labels.

    logits: (cell, class), the network's ``cls``; labels: int64 (cell,), -100 = unknown, which counts for nothing.
    """
    if not (labels >= 0).any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits.to(torch.float32), labels, ignore_index=-100)


# --- scGPT: together --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """How much each objective counts; 0 = off. As in upstream's recipes where that objective is on.

    zero_prob counts for GEP and for GEPC, where these are on and the network has the twin decoders; threshold is ECS's β
    (0.3 in the paper, 0.8 in upstream's integration example).
    """

    gep: float = 1.0
    gepc: float = 1.0
    ecs: float = 10.0
    dar: float = 1.0
    cls: float = 1.0
    zero_prob: float = 1.0
    threshold: float = 0.3


def combine(
    output: Any,
    target: Tensor,
    mask: Tensor,
    batch_labels: Tensor | None = None,
    labels: Tensor | None = None,
    weights: Weights | None = None,
    if_expressed: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the objectives that are on, and each of them by name, unweighted.

    Parameters
    ----------
    output
        What ``ScGPTModel`` answered.
    target, mask
        True values and hidden positions, (cell, token).
    batch_labels, labels
        int64 (cell,), for DAR and CLS.
    weights
        All at upstream's weights unless given.
    if_expressed
        The squared errors of GEP and GEPC count genes only where they are expressed, for networks whose config says so:
        whether a gene is zero is then the twin decoders' affair. Upstream's fine-tuning counts all hidden positions.

    Raises
    ------
    ValueError
        An objective is on whose part of the network, or whose labels, are missing; or none is on.
    """
    w = weights or Weights()
    needs = {
        "GEP": (w.gep, {"expression decoder": output.expression}),
        "GEPC": (w.gepc, {"GEPC decoder (mvc)": output.gepc}),
        "ECS": (w.ecs, {"cell embedding": output.cell_embedding}),
        "DAR": (w.dar, {"discriminator (adversarial)": output.dab, "batch_labels": batch_labels}),
        "CLS": (w.cls, {"classifier (num_classes)": output.cls, "labels": labels}),
    }
    for name, (weight, parts) in needs.items():
        missing = [part for part, there in parts.items() if there is None]
        if weight and missing:
            raise ValueError(
                f"{name} has weight {weight:g}, but there is no {' and no '.join(missing)}: give it, or weight 0."
            )
    found: dict[str, Tensor] = {}
    of_values = mask.bool() & (target > 0) if if_expressed else mask
    if w.gep:
        found["GEP"] = gep_loss(output.expression, target, of_values)
    if w.gep and w.zero_prob and output.zero_prob is not None:
        found["GEP zeros"] = zero_prob_loss(output.zero_prob, target, mask)
    if w.gepc:
        found["GEPC"] = gepc_loss(output.gepc, target, of_values)
    if w.gepc and w.zero_prob and output.gepc_zero_prob is not None:
        found["GEPC zeros"] = zero_prob_loss(output.gepc_zero_prob, target, mask)
    if w.ecs:
        found["ECS"] = ecs_loss(output.cell_embedding, w.threshold)
    if w.dar:
        found["DAR"] = dar_loss(output.dab, batch_labels)  # type: ignore[arg-type]
    if w.cls:
        found["CLS"] = cls_loss(output.cls, labels)  # type: ignore[arg-type]
    if not found:
        raise ValueError("Every objective has weight 0: there is nothing to train on.")
    weight_of = {name: weight for name, (weight, _) in needs.items()}
    weight_of |= {"GEP zeros": w.zero_prob, "GEPC zeros": w.zero_prob}
    total = torch.stack([weight_of[name] * loss for name, loss in found.items()]).sum()
    return total, found
