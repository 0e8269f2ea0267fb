"""What a model is trained for, and how well it does it: masked genes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

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
    model: embed.RankModel,
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
