"""How sure is the network of a gene that it has not seen? Measures of confidence for K-step generation, all of them ours.

The paper (Cui et al. 2024, 10.1038/s41592-024-02201-0) lets the most confident genes become known first and says no more: its
decoder gives one number per gene and no doubt about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scfm.generation.answer import Answer


def dropout_confidence(answer: Answer) -> Tensor:
    """Ours. Minus the variance of the answers over thinned networks (MC-dropout, Gal & Ghahramani 2016, arXiv:1506.02142)."""
    return -answer.spread.square()  # type: ignore[union-attr]


def zero_prob_confidence(answer: Answer) -> Tensor:
    """Ours. Minus the entropy of "is it expressed at all?", in nats: 0 is sure, -0.69 is a coin. It needs P(nonzero)."""
    p = answer.nonzero
    return torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)  # type: ignore[arg-type, operator]


def variance_confidence(answer: Answer) -> Tensor:
    """Ours. Minus the variance, in bins², of a gene that is off, or has its bin b if on: b² P (1 - P).

    It is the squared error that the network itself expects from being off or on; needs P(nonzero).
    """
    p, b = answer.nonzero, answer.if_on
    return -b.square() * p * (1 - p)  # type: ignore[operator, union-attr]


def agreement_confidence(answer: Answer) -> Tensor:
    """Ours: minus the distance, in bins, between the two guesses that the network has.

    GEP's comes from the gene's own token, GEPC's from the cell embedding.
    """
    return -(answer.value - answer.gepc).abs()  # type: ignore[operator]


def largest_first(answer: Answer) -> Tensor:
    """Ours, and an order rather than a confidence: what is expected to be expressed most comes first."""
    return answer.value


CONFIDENCES: dict[str, Callable[[Answer], Tensor]] = {
    "dropout": dropout_confidence,
    "zero_prob": zero_prob_confidence,
    "variance": variance_confidence,
    "agreement": agreement_confidence,
    "largest": largest_first,
}
RANDOM = "random"  # the control: a seeded random order


class ThinnedNetworks:
    """Versions of a network, each with a random part of its units switched off: what MC-dropout averages over.

    A version switches off the same units for all genes of a cell (as ``keep`` (version, cell, unit) says), so that it is one
    network and not noise per token; and what a cell draws does not depend on the cells around it. Dropout acts where training
    had it: behind the value encoder, the attention and both halves of the feed-forward network; attention weights are kept.
    """

    def __init__(self, network: Any, keep: np.ndarray, rate: float) -> None:
        self.network = network
        scaled = torch.from_numpy(keep).to(network.device, network.dtype) / (1 - rate)
        self.keep = scaled[:, :, None, :]  # (version, cell, 1, unit)
        d, hidden = network.config.hidden_size, network.config.intermediate_size
        n_layers = network.config.num_hidden_layers
        self.parts = [d, *[d, hidden, d] * n_layers]  # units of each dropout, in the order of the forward pass

    @staticmethod
    def n_units(config: Any) -> int:
        """How many units ``keep`` needs for one cell of one version."""
        return config.hidden_size + config.num_hidden_layers * (2 * config.hidden_size + config.intermediate_size)

    def repeat(self, rows: Tensor) -> None:
        """From here on the cells are ``rows`` (int64) of the cells so far."""
        self.keep = self.keep[:, rows]

    @contextmanager
    def version(self, number: int) -> Iterator[None]:
        """Inside, the network is version ``number``."""
        value_mask, *masks = self.keep[number].split(self.parts, -1)
        hooks = [self.network.value_encoder.dropout.register_forward_hook(lambda m, i, out: out * value_mask)]
        for layer_number, layer in enumerate(self.network.transformer_encoder.layers):
            own = masks[3 * layer_number : 3 * layer_number + 3]
            hooks.append(layer.dropout.register_forward_hook(_in_turn(own)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _in_turn(masks: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A layer has one dropout module for its three places, which ``Layer.finish`` passes in this order."""
    calls = 0

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return output * masks[(calls - 1) % 3]

    return hook
