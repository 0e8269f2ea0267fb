"""The steps of generation: what the network has perceived so far, what it answers, and which answers it believes first.

``scfm.generate`` calls :func:`complete` for each minibatch. The paper (Cui et al. 2024, 10.1038/s41592-024-02201-0) says that
in each of K steps the most confident 1/K of the unknown genes become known; code for it was never published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfm.generation.answer import Answer, expected, odds_shift
from scfm.generation.confidence import CONFIDENCES, RANDOM, ThinnedNetworks

SCORES_AT_ONCE = 1 << 24  # numbers in one piece of the attention of generated genes (64 MB in float32)


# --- what was perceived -----------------------------------------------------------------------------


class Perceived:
    """Genes with values that the network has read: their keys and values in every layer (a KV cache).

    ``add`` reads a block of genes: they see each other and all that came before. Genes of earlier blocks do not look at it
    again. So one block is what the network was trained on, and several are the block-causal variant.
    """

    def __init__(self, network: Any, batch_labels: Tensor | None = None, cost: Counter | None = None) -> None:
        self.network, self.batch_labels = network, batch_labels
        self.keys: list[Tensor] = []  # per layer (cell, head, token, d / heads)
        self.values: list[Tensor] = []
        self.padding: Tensor | None = None  # bool (cell, token), True = padding
        self.cell: Tensor | None = None  # (cell, d), what stands at <cls> after the first block
        self.cost = Counter() if cost is None else cost

    def add(
        self,
        gene_ids: Tensor,
        values: Tensor,
        pad_mask: Tensor | None = None,
        cell_prompt: Tensor | None = None,
    ) -> Tensor:
        """Read a block, int64 and float (cell, token); returns its hidden states (cell, token, d).

        The first block begins with ``<cls>``, or ``cell_prompt`` (cell, d) in its place.
        """
        network = self.network
        x = network.normalize(network.tokens(network.encoder(gene_ids), values), self.batch_labels)
        if cell_prompt is not None:
            x = torch.cat([cell_prompt[:, None].to(x.dtype), x[:, 1:]], 1)
        first = not self.keys
        self._pad(gene_ids, pad_mask)
        visible = None if self.padding is None else ~self.padding[:, None, None, :]
        for number, layer in enumerate(network.transformer_encoder.layers):
            q, k, v = layer.self_attn.project(x)
            if first:
                self.keys.append(k)
                self.values.append(v)
            else:
                k = self.keys[number] = torch.cat([self.keys[number], k], 2)
                v = self.values[number] = torch.cat([self.values[number], v], 2)
            x = layer.finish(
                x, layer.self_attn.perceive(q, k, v, visible)
            )  # out_proj included, as perceived genes have
        if first:
            self.cell = x[:, 0]
        self.cost["tokens"] += gene_ids.numel()
        self.cost["looks"] += gene_ids.numel() * self.keys[0].shape[2]
        return x

    def ask(self, gene_ids: Tensor) -> Answer:
        """Values of unknown genes, int64 (cell, gene): each sees all perceived genes and itself."""
        n_keys = self.keys[0].shape[2]
        self.cost["tokens"] += gene_ids.numel()
        self.cost["looks"] += gene_ids.numel() * (n_keys + 1)
        # no generated gene sees another, so any number of them can be asked in pieces
        at_once = max(1, SCORES_AT_ONCE // (len(gene_ids) * self.keys[0].shape[1] * n_keys))
        pieces = [self._ask(piece) for piece in gene_ids.split(at_once, 1)]
        joined: list[Any] = [None if parts[0] is None else torch.cat(parts, 1) for parts in zip(*pieces, strict=True)]
        return Answer(*joined)

    def hidden(self, gene_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of unknown genes, and their gene embeddings, both (cell, gene, d)."""
        network = self.network
        genes = network.encoder(gene_ids)
        y = network.normalize(network.tokens(genes, None), self.batch_labels)
        visible = None if self.padding is None else ~self.padding[:, None, None, :]
        for layer, k, v in zip(network.transformer_encoder.layers, self.keys, self.values, strict=True):
            y = layer.finish(y, layer.self_attn.generate(layer.self_attn.project(y), k, v, visible))
        return y, genes

    def _ask(self, gene_ids: Tensor) -> tuple[Any, ...]:
        network = self.network
        y, genes = self.hidden(gene_ids)
        cell: Any = self.cell
        if network.batch_encoder is not None:
            beside = network.batch_encoder(self.batch_labels)  # (cell, d), which the decoders read too
            y = torch.cat([y, beside[:, None].expand(-1, y.shape[1], -1)], -1)
            cell = torch.cat([cell, beside], -1)
        value, nonzero = network.decoder(y)
        gepc = None
        if network.mvc_decoder is not None:
            says = network.mvc_decoder(cell, genes)
            gepc, _ = expected(says[0], says[1], network.config)
        value, if_on = expected(value, nonzero, network.config)
        return value, nonzero, if_on, gepc

    def _pad(self, gene_ids: Tensor, pad_mask: Tensor | None) -> None:
        if pad_mask is None and self.padding is None:
            return
        new = torch.zeros_like(gene_ids, dtype=torch.bool) if pad_mask is None else pad_mask
        if self.padding is None and self.keys:
            self.padding = new.new_zeros(len(new), self.keys[0].shape[2])
        self.padding = new if self.padding is None else torch.cat([self.padding, new], 1)

    def repeat(self, rows: Tensor) -> None:
        """Continue with these of the cells, int64 (row,), one of them several times for several samples of it."""
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]
        self.padding = None if self.padding is None else self.padding[rows]
        self.batch_labels = None if self.batch_labels is None else self.batch_labels[rows]
        self.cell = None if self.cell is None else self.cell[rows]


# --- K steps ----------------------------------------------------------------------------------------


@dataclass
class Start:
    """What a minibatch of cells begins with, and all its random numbers, drawn cell by cell."""

    genes: Tensor  # int64 (prompt, token), <cls> first
    values: Tensor  # float32 (prompt, token)
    pad_mask: Tensor | None  # bool (prompt, token), True = padding
    cell_prompt: Tensor | None  # (prompt, d)
    batch_labels: Tensor | None  # int64 (prompt,)
    of_cell: Tensor  # int64 (cell,) the prompt of each cell to be generated
    order: Tensor | None = None  # (cell, gene) the random order's numbers
    coin: Tensor | None = None  # (cell, gene) uniform numbers for sampling
    keep: np.ndarray | None = None  # bool (version, prompt, unit), for MC-dropout
    rate: float = 0.0
    share_on: Tensor | None = None  # (prompt,) share of the genes that is expected to be expressed

    def repeated(self) -> Start:
        """One prompt per cell."""

        def of(x: Tensor | None) -> Any:
            return None if x is None else x[self.of_cell]

        rows = torch.arange(len(self.of_cell), device=self.of_cell.device)
        keep = None if self.keep is None else self.keep[:, self.of_cell.cpu().numpy()]
        beginning = (of(self.genes), of(self.values), of(self.pad_mask), of(self.cell_prompt), of(self.batch_labels))
        return Start(*beginning, rows, self.order, self.coin, keep, self.rate, of(self.share_on))


@dataclass
class Finished:
    """Generated cells: each (cell, gene), as of the step in which the gene became known."""

    value: Tensor
    nonzero: Tensor | None
    confidence: Tensor
    known_at: Tensor  # int64, 1 .. K
    cost: Counter = field(default_factory=Counter)


def block_sizes(n_genes: int, steps: int) -> list[int]:
    """How many genes become known in each step: as equal as whole numbers can be."""
    edges = np.round(np.linspace(0, n_genes, steps + 1)).astype(int)
    return np.diff(edges).tolist()


class Readers:
    """The network and, for MC-dropout, its thinned versions, all of them reading the same genes."""

    def __init__(self, network: Any, start: Start, cost: Counter) -> None:
        self.network, self.cost = network, cost
        self.thinned = None if start.keep is None else ThinnedNetworks(network, start.keep, start.rate)
        self.each: list[Perceived] = []
        self.share_on = start.share_on
        self.shift: Tensor | None = None  # of the log odds, (cell, 1), as the first answers ask for
        self.read(start)

    def _each(self, do: Callable[[int], Any]) -> list[Any]:
        """``do(number)`` for each reader, with the network in the version that it reads with."""
        found = [do(0)]
        if self.thinned is not None:
            for number in range(len(self.thinned.keep)):
                with self.thinned.version(number):
                    found.append(do(number + 1))
        return found

    def read(self, start: Start, known: Tensor | None = None, values: Tensor | None = None) -> None:
        """Begin anew: the prompt and the genes known so far, int64 and float (cell, gene), as one block."""
        genes, shown, padding = start.genes, start.values, start.pad_mask
        if known is not None and values is not None:
            genes, shown = torch.cat([genes, known], 1), torch.cat([shown, values], 1)
            if padding is not None:
                padding = torch.cat([padding, torch.zeros_like(known, dtype=torch.bool)], 1)

        def begin(_: int) -> Perceived:
            reader = Perceived(self.network, start.batch_labels, self.cost)
            reader.add(genes, shown, padding, start.cell_prompt)
            return reader

        self.each = self._each(begin)

    def add(self, genes: Tensor, values: Tensor) -> None:
        """One more block."""
        self._each(lambda number: self.each[number].add(genes, values))

    def ask(self, genes: Tensor) -> Answer:
        """The whole network's answer, and the spread of the thinned ones'."""
        answer, *others = self._each(lambda number: self.each[number].ask(genes))
        if self.share_on is not None:
            if self.shift is None and answer.nonzero is not None:
                self.shift = odds_shift(answer.nonzero, self.share_on)
            answer, *others = (each.shifted(self.shift) for each in (answer, *others))
        if others:
            answer.spread = torch.stack([other.value for other in others]).std(0)
        return answer

    def repeat(self, rows: Tensor) -> None:
        """Continue with these of the cells, int64 (row,)."""
        for reader in self.each:
            reader.repeat(rows)
        self.shift = None if self.shift is None else self.shift[rows]
        if self.thinned is not None:
            self.thinned.repeat(rows)


def complete(
    network: Any,
    start: Start,
    asked: Tensor,
    steps: int,
    confidence: str | Callable[[Answer], Tensor],
    exact: bool = True,
    sample: bool = False,
    feed: str = "expected",
) -> Finished:
    """Generate the genes ``asked``, int64 (gene,), of a minibatch in ``steps`` steps, in each the most confident ones.

    exact: in every step all genes known so far are read anew and see each other in both directions, as in training. Otherwise
    only the new ones are read (block-causal): earlier ones keep what they computed and never look at later ones.
    sample: a gene is expressed with its P(nonzero), and if so has the bin that is expected of it then; that is also perceived.
    feed: what is perceived of a gene whose point estimate became known: "expected", the expected bin; or "likely", 0 or its bin
    if expressed, whichever is the likelier.
    """
    in_advance = confidence == RANDOM  # the order is known, so only the genes of the next block are asked for
    if in_advance:
        start = start.repeated()  # samples of one prompt part in the first step, not after it
    readers = Readers(network, start, cost := Counter[str]())
    n_cells, n_genes, device = len(start.of_cell), len(asked), asked.device
    empty = torch.zeros(n_cells, n_genes, device=device)
    perceived = empty.clone()  # what the next steps see of the genes that are known
    done = Finished(
        empty, empty.clone() if network.config.zero_prob else None, empty.clone(), empty.to(torch.int64), cost
    )
    if in_advance:
        unknown = start.order.argsort(dim=1, descending=True, stable=True)  # type: ignore[union-attr]
    else:
        unknown = torch.arange(n_genes, device=device).expand(
            len(start.genes), -1
        )  # (prompt, left) columns of ``asked``
    for step, size in enumerate(block_sizes(n_genes, steps), start=1):
        # only a correction of the share of expressed genes has to see all of them once
        now = unknown[:, :size] if in_advance and (step > 1 or start.share_on is None) else unknown
        answer = readers.ask(asked[now])
        if step == 1 and not in_advance:  # until here the cells of one prompt were the same
            rows, start = start.of_cell, start.repeated()
            answer = Answer(*(None if x is None else x[rows] for x in vars(answer).values()))  # type: ignore[arg-type]
            unknown = now = now[rows]
            readers.repeat(rows)
        if in_advance:
            sure = start.order.gather(1, now)  # type: ignore[union-attr]
        else:
            measure = CONFIDENCES[confidence] if isinstance(confidence, str) else confidence
            # equal to five digits is equal: then the order of the genes decides, not the last bit of a sum
            sure = measure(answer).round(decimals=5)
        best = sure.argsort(dim=1, descending=True, stable=True)[:, :size]
        chosen = now.gather(1, best)  # (cell, size) columns of ``asked``
        value = fed = answer.value.gather(1, best)
        if answer.nonzero is not None and done.nonzero is not None:
            nonzero = answer.nonzero.gather(1, best)
            done.nonzero.scatter_(1, chosen, nonzero)
            if_on = answer.if_on.gather(1, best)  # type: ignore[union-attr]
            if sample:  # expressed or not, by the coin
                value = fed = torch.where(start.coin.gather(1, chosen) < nonzero, if_on, 0.0)  # type: ignore[union-attr]
            elif feed == "likely":  # a value that could have been measured, as all were in training
                fed = torch.where(nonzero > 0.5, if_on, 0.0)
        done.value.scatter_(1, chosen, value)
        perceived.scatter_(1, chosen, fed)
        done.confidence.scatter_(1, chosen, sure.gather(1, best).to(empty.dtype))
        done.known_at.scatter_(1, chosen, step)
        if step == steps:
            break
        unknown = (done.known_at == 0).nonzero()[:, 1].view(n_cells, -1) if not in_advance else unknown[:, size:]
        if exact:
            columns = (done.known_at > 0).nonzero()[:, 1].view(n_cells, -1)
            readers.read(start, asked[columns], perceived.gather(1, columns))
        else:
            readers.add(asked[chosen], fed)
    return done
