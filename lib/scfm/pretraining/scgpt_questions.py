"""Values to be generated: what scGPT's pretraining asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm import objectives
from scfm.pretraining import scgpt_mini
from scfm.pretraining.corpus import Corpus
from scfm.pretraining.questions import Questions
from scfm.pretraining.value_minibatches import Minibatch, ValueCells

if TYPE_CHECKING:
    import anndata

    from scfm.models import Model
    from scfm.models.scgpt import ScGPT

PIECE = 8  # cells that go through the network together


class Asked(Questions):
    """GEP and GEPC with their zero probabilities, on a random half of the genes.

    Squared errors are in units of ten bins, as the minis were trained. Errors are GEP's: the mean squared error, in bins², of
    the hidden values that are not zero.
    """

    unit = "squared bins per hidden value"

    def __init__(self, model: ScGPT, adata: anndata.AnnData, max_len: int | None) -> None:
        self.model = model
        config = model.network.config
        settings = scgpt_mini.Settings(max_len=max_len or config.max_seq_len, n_bins=config.n_bins, minibatch=PIECE)
        # where the corpus's own frequencies are not known, zeros are drawn as often as these cells express a gene
        known = _gene_means(model)
        weight = None if known is None else known["share_on"].to_numpy() / known["share_on"].sum()
        self.values = ValueCells(_as_corpus(adata), model.vocabulary, settings, weight=weight)

    def __len__(self) -> int:
        return len(self.values.corpus)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that the questions depend on."""
        counts = self.values.corpus.counts
        return counts.data, counts.indices, counts.indptr

    def error(self, model: Model, seed: int) -> float:
        """Mean squared error, in bins², of the hidden values that are not zero."""
        errors = []
        was_training = model.network.training
        model.network.eval()
        with torch.inference_mode():
            for batch in self._fixed(seed):
                out, target = _generated(model.network, batch)
                errors.append(((out.generated - target)[target > 0] ** 2).cpu().numpy())
        model.network.train(was_training)
        return float(np.concatenate(errors).mean(dtype=np.float64))

    def guess(self, seed: int) -> float | None:
        """Of each gene's mean bin; None where the checkpoint came without these."""
        known = _gene_means(self.model)
        if known is None:
            return None
        mean = known["mean_bin"].to_numpy()
        errors = []
        for batch in self._fixed(seed):
            asked, values = (array[:, batch.n_perceived :] for array in (batch.genes, batch.values))
            errors.append((mean[asked] - values)[values > 0] ** 2)
        return float(np.concatenate(errors).mean())

    def pieces(self, chosen: np.ndarray, rng: np.random.Generator, max_tokens: int) -> list[tuple[Any, int]]:
        """Minibatches of a few cells; each counts the same."""
        return [(batch, 1) for batch in self._minibatches(chosen, rng, zeros_shown=(0.0, 0.25, 0.5))]

    def loss(self, model: Model, piece: Minibatch) -> torch.Tensor:
        """GEP + GEPC + their zero probabilities."""
        network = model.network
        out, target = _generated(network, piece)
        after = piece.n_perceived + 1  # GEPC answers for all genes: those asked for come last
        on = target > 0 if network.config.if_expressed else torch.ones_like(target)
        loss = objectives.gep_loss(out.generated, target, on)
        loss = (loss + objectives.gepc_loss(out.gepc[:, after:], target, on)) / scgpt_mini.SCALE**2
        if out.generated_zero_prob is not None:
            everywhere = torch.ones_like(target)
            loss = loss + objectives.zero_prob_loss(out.generated_zero_prob, target, everywhere)
            loss = loss + objectives.zero_prob_loss(out.gepc_zero_prob[:, after:], target, everywhere)
        return loss

    def _fixed(self, seed: int) -> list[Minibatch]:
        return self._minibatches(np.arange(len(self)), np.random.default_rng([seed, 4]))

    def _minibatches(
        self, chosen: np.ndarray, rng: np.random.Generator, zeros_shown: tuple[float, ...] = (0.0,)
    ) -> list[Minibatch]:
        # the last minibatch of a few cells would be left out: take pieces that the number of cells can fill
        cells, size = self.values, min(PIECE, len(chosen))
        cells.settings = replace(cells.settings, minibatch=size)
        batches = cells.minibatches(chosen, cells.corpus.counts[chosen], rng, (0.5,), zeros_shown)
        if not batches:
            raise ValueError("These cells express too few of the genes that the model knows to ask about them.")
        return batches


def _generated(network: Any, batch: Minibatch) -> tuple[Any, torch.Tensor]:
    """The network's answer, and the true bins of the asked genes (cell, asked)."""
    g, v = (torch.from_numpy(array).to(network.device) for array in (batch.genes, batch.values))
    n, config = batch.n_perceived, network.config
    cls = torch.full((len(g), 1), config.cls_token_id, device=g.device)
    no_value = torch.full((len(g), 1), float(config.pad_value), device=g.device)  # what <cls> carries
    out = network.generate_forward(torch.cat([cls, g[:, :n]], 1), torch.cat([no_value, v[:, :n]], 1), g[:, n:])
    return out, v[:, n:]


def _as_corpus(adata: anndata.AnnData) -> Corpus:
    dataset = adata.obs["dataset"].astype(str).to_numpy() if "dataset" in adata.obs else np.full(adata.n_obs, "cells")
    n_counts = adata.obs["n_counts"].to_numpy(dtype=np.float64)
    return Corpus(adata.X.tocsr(), n_counts, dataset, adata.var["ensembl_id"].astype(str).tolist(), {})


def _gene_means(model: ScGPT) -> Any:
    try:
        return model.gene_means()
    except FileNotFoundError:
        return None
