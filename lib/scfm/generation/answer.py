"""What a network says of the asked genes, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Answer:
    """What the network says about genes it does not know, each (cell, gene); None where it has no such part."""

    value: Tensor  # the expected bin, 0 .. n_bins - 1
    nonzero: Tensor | None = None  # P(value > 0)
    if_on: Tensor | None = None  # the bin of the gene if it is expressed; value = nonzero · if_on
    gepc: Tensor | None = None  # the expected bin once more, guessed from the cell embedding alone
    spread: Tensor | None = None  # standard deviation of ``value`` over thinned networks

    def shifted(self, by: Tensor | None) -> Answer:
        """The same with the log odds of "expressed" moved by ``by`` (cell, 1)."""
        if by is None or self.nonzero is None or self.if_on is None:
            return self
        nonzero = torch.special.logit(self.nonzero, 1e-6).add(by).sigmoid()
        return Answer(nonzero * self.if_on, nonzero, self.if_on, self.gepc, self.spread)


def expected(value: Tensor, nonzero: Tensor | None, config: Any) -> tuple[Tensor, Tensor | None]:
    """The expected bin and the bin if expressed, from what a decoder says, all (cell, gene).

    Decoders that learned of expressed genes only (``config.if_expressed``) give the second, those that saw zeros the first.
    """
    highest = config.n_bins - 1  # a bin cannot be more than this, nor that of an expressed gene less than 1
    if nonzero is None:
        return value.clamp(0, highest), None
    if config.if_expressed:
        return nonzero * value.clamp(1, highest), value.clamp(1, highest)
    value = value.clamp(0, highest)
    return value, (value / nonzero.clamp(min=1e-6)).clamp(1, highest)


def odds_shift(nonzero: Tensor, share: Tensor) -> Tensor:
    """How far all log odds of a cell have to move so that ``share`` (cell,) of its genes are expected to be expressed: (cell, 1).

    Pretraining asks for as many expressed genes as it likes, and P(nonzero) leans to that; in a real cell fewer are expressed.
    One number per cell corrects it (Saerens et al. 2002, 10.1162/089976602753284446).
    """
    odds = torch.special.logit(nonzero.double(), 1e-6)
    low, high = (torch.full((len(odds), 1), x, dtype=odds.dtype, device=odds.device) for x in (-30.0, 30.0))
    for _ in range(60):
        middle = (low + high) / 2
        too_many = (odds + middle).sigmoid().mean(1, keepdim=True) > share[:, None]
        low, high = torch.where(too_many, low, middle), torch.where(too_many, middle, high)
    return ((low + high) / 2).to(nonzero.dtype)
