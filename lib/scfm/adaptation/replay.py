"""What a network still knows of its pretraining: questions of that pretraining, to measure forgetting and to replay.

A :class:`Memory` holds cells and asks about them what the pretraining asked: hidden genes (Geneformer, nats), values to be
generated (scGPT, squared bins). :meth:`Memory.error` measures on fixed questions; :meth:`Memory.losses` is the same as a loss
with a gradient, for continual learning: mixed into the minibatches of a new task, it keeps the old one alive (experience
replay: Rolnick et al. 2019, arXiv:1811.11682; forgetting: French 1999, 10.1016/S1364-6613(99)01294-2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import genes, objectives
from scfm.adaptation.features import cut_by_budget, hidden_states, kind_of
from scfm.pretraining import scgpt_mini
from scfm.pretraining.corpus import Corpus, read_corpus
from scfm.pretraining.value_minibatches import Minibatch, ValueCells
from scfm.store import cache
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    import torch

MASKED = 0.15  # Geneformer's share of hidden genes
PIECE = 8  # cells of scGPT's kind that go through the network together


class Memory:
    """Cells, and a model's own pretraining questions about them.

    Parameters
    ----------
    model
        Geneformer or scGPT: how cells become tokens, and which genes it knows.
    adata
        Raw counts in the course's schema; ``obs["dataset"]``, if it is there, says which cells come from one experiment (a gene
        is "off" in scGPT's questions only where its experiment measured it).
    max_len
        Tokens per cell, if fewer than the model reads.

    Attributes
    ----------
    unit
        Of :meth:`error`: ``"nats per hidden gene"`` or ``"squared bins per hidden value"``.
    """

    def __init__(self, model: Any, adata: anndata.AnnData, max_len: int | None = None) -> None:
        self.kind, self.model = kind_of(model.network), model
        self.tokens: Any = None  # TokenizedCells, of Geneformer's kind
        self.values: Any = None  # ValueCells, of scGPT's
        if self.kind == "geneformer":
            self.unit = "nats per hidden gene"
            self.tokens = model.tokenize(adata, max_len=max_len)
            if not (self.tokens.lengths > 2).any():
                raise ValueError(
                    "None of these cells has a gene that the model knows: nothing can be asked about them."
                )
            return
        self.unit = "squared bins per hidden value"
        config = model.network.config
        settings = scgpt_mini.Settings(max_len=max_len or config.max_seq_len, n_bins=config.n_bins, minibatch=PIECE)
        corpus = _as_corpus(adata)
        # where the corpus's own frequencies are not known, zeros are drawn as often as these cells express a gene
        known = _gene_means(model)
        weight = None if known is None else known["share_on"].to_numpy() / known["share_on"].sum()
        self.values = ValueCells(corpus, model.vocabulary, settings, weight=weight)

    def __len__(self) -> int:
        return len(self.tokens) if self.kind == "geneformer" else len(self.values.corpus)

    def digest(self) -> str:
        """SHA-256 of the cells: what a checkpoint of a run with replay must agree with."""
        held = self.tokens if self.kind == "geneformer" else self.values.corpus.counts
        arrays = (held.tokens, held.offsets) if self.kind == "geneformer" else (held.data, held.indices, held.indptr)
        found = hashlib.sha256()
        for array in arrays:
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    # --- measured -----------------------------------------------------------------------------------

    def error(self, model: Any = None, seed: int = 0) -> float:
        """Error of ``model`` (None = the one this memory was made for) on questions that depend on ``seed`` only.

        ``model`` may be ``fit.adapted``: the network as it is after adaptation, with the decoder it was pretrained with.
        Geneformer: mean cross-entropy of hidden genes, nats (as :func:`scfm.objectives.masked_loss`). scGPT: GEP, the mean squared
        error, in bins², of the hidden values that are not zero.
        """
        import torch

        model = model or self.model
        if self.kind == "geneformer":
            return objectives.masked_loss(model, self.tokens, MASKED, seed).loss
        errors = []
        was_training = model.network.training
        model.network.eval()
        with torch.inference_mode():
            for batch in self._questions(np.arange(len(self)), np.random.default_rng([seed, 4])):
                out, target = _generated(model.network, batch)
                errors.append(((out.generated - target)[target > 0] ** 2).cpu().numpy())
        model.network.train(was_training)
        return float(np.concatenate(errors).mean(dtype=np.float64))

    def guess(self, seed: int = 0) -> float | None:
        """Error, on the same questions, of a guesser that knows the corpus but looks at no cell: what could be forgotten at most.

        Geneformer: gene frequencies, the genes that the cell shows excluded. scGPT: each gene's mean bin. None where a checkpoint
        came without these.
        """
        if self.kind == "geneformer":
            if self.model.vocabulary.frequencies is None:
                return None
            share = self.model.vocabulary.frequency_of_tokens()
            hidden = objectives.choose_masked(self.tokens, self.model.special, MASKED, seed)
            losses = []
            for start, end in zip(self.tokens.offsets[:-1], self.tokens.offsets[1:], strict=True):
                own, asked = self.tokens.tokens[start:end], hidden[start:end]
                left = share.copy()
                left[own[~asked]] = 0
                losses.append(-np.log(left[own[asked]] / left.sum()))
            return float(np.concatenate(losses).mean())
        known = _gene_means(self.model)
        if known is None:
            return None
        mean = known["mean_bin"].to_numpy()
        errors = []
        for batch in self._questions(np.arange(len(self)), np.random.default_rng([seed, 4])):
            asked, values = (array[:, batch.n_perceived :] for array in (batch.genes, batch.values))
            errors.append((mean[asked] - values)[values > 0] ** 2)
        return float(np.concatenate(errors).mean())

    # --- replayed -----------------------------------------------------------------------------------

    def losses(
        self,
        network: Any,
        rng: np.random.Generator,
        n_cells: int = 32,
        max_tokens: int = 8_192,
        bf16: bool = False,
    ) -> Iterator[torch.Tensor]:
        """The pretraining's loss on ``n_cells`` cells drawn by ``rng``, in pieces whose sum is the loss: one backward pass each.

        Geneformer: masked genes, all behind ``<mask>``. scGPT: GEP and GEPC with their zero probabilities, on a random half of the
        genes; squared errors in units of ten bins, as the minis were trained. ``bf16``: under bfloat16 autocast.
        """
        import torch

        chosen = np.sort(rng.choice(len(self), min(n_cells, len(self)), replace=False))
        if self.kind == "geneformer":
            pieces: list[Any] = _masked_pieces(self.tokens[chosen], self.model.special, rng, max_tokens)
            loss_of: Any = _masked_loss
        else:
            pieces = self._questions(chosen, rng, zeros_shown=(0.0, 0.25, 0.5))
            loss_of = _value_loss
        # each piece counts by what it asks, so that the budget of tokens changes nothing
        asked = [len(piece[2]) if self.kind == "geneformer" else 1 for piece in pieces]
        for piece, n in zip(pieces, asked, strict=True):
            with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = loss_of(network, piece)
            yield loss * (n / sum(asked))

    def _questions(
        self, chosen: np.ndarray, rng: np.random.Generator, zeros_shown: tuple[float, ...] = (0.0,)
    ) -> list[Minibatch]:
        # the last minibatch of a few cells would be left out: take pieces that the number of cells can fill
        cells, size = self.values, min(PIECE, len(chosen))
        cells.settings = replace(cells.settings, minibatch=size)
        batches = cells.minibatches(chosen, cells.corpus.counts[chosen], rng, (0.5,), zeros_shown)
        if not batches:
            raise ValueError("These cells express too few of the genes that the model knows to ask about them.")
        return batches


def _masked_pieces(
    cells: TokenizedCells, special: dict[str, int], rng: np.random.Generator, max_tokens: int
) -> list[tuple[TokenizedCells, np.ndarray, np.ndarray]]:
    """Pieces of at most ``max_tokens`` tokens: the cells with genes hidden, where (token,), and which genes (hidden,)."""
    hidden = objectives.choose_masked(cells, special, MASKED, int(rng.integers(2**31)))
    question = TokenizedCells(np.where(hidden, special["<mask>"], cells.tokens), cells.offsets)
    pieces = []
    for piece in cut_by_budget(cells.lengths, max_tokens):
        here = np.concatenate([np.arange(cells.offsets[i], cells.offsets[i + 1]) for i in piece])
        if hidden[here].any():
            pieces.append((question[piece], hidden[here], cells.tokens[here[hidden[here]]]))
    return pieces


def _masked_loss(network: Any, piece: tuple[TokenizedCells, np.ndarray, np.ndarray]) -> torch.Tensor:
    import torch
    from torch.nn import functional as F

    cells, hidden, truth = piece
    x = hidden_states(network, cells)[torch.from_numpy(hidden).to(network.device)]  # (hidden, d)
    return F.cross_entropy(network.cls(x).float(), torch.from_numpy(truth).to(network.device, torch.int64))


def _generated(network: Any, batch: Minibatch) -> tuple[Any, torch.Tensor]:
    """The network's answer to a question of scGPT's kind, and the true bins of the asked genes (cell, asked)."""
    import torch

    g, v = (torch.from_numpy(array).to(network.device) for array in (batch.genes, batch.values))
    n, config = batch.n_perceived, network.config
    cls = torch.full((len(g), 1), config.cls_token_id, device=g.device)
    no_value = torch.full((len(g), 1), float(config.pad_value), device=g.device)  # what <cls> carries
    out = network.generate_forward(torch.cat([cls, g[:, :n]], 1), torch.cat([no_value, v[:, :n]], 1), g[:, n:])
    return out, v[:, n:]


def _value_loss(network: Any, batch: Minibatch) -> torch.Tensor:
    import torch

    out, target = _generated(network, batch)
    after = batch.n_perceived + 1  # GEPC answers for all genes: those asked for come last
    on = target > 0 if network.config.if_expressed else torch.ones_like(target)
    loss = objectives.gep_loss(out.generated, target, on)
    loss = (loss + objectives.gepc_loss(out.gepc[:, after:], target, on)) / scgpt_mini.SCALE**2
    if out.generated_zero_prob is not None:
        everywhere = torch.ones_like(target)
        loss = loss + objectives.zero_prob_loss(out.generated_zero_prob, target, everywhere)
        loss = loss + objectives.zero_prob_loss(out.gepc_zero_prob[:, after:], target, everywhere)
    return loss


# --- cells ----------------------------------------------------------------------------------------------


def _as_corpus(adata: anndata.AnnData) -> Corpus:
    dataset = adata.obs["dataset"].astype(str).to_numpy() if "dataset" in adata.obs else np.full(adata.n_obs, "cells")
    n_counts = adata.obs["n_counts"].to_numpy(dtype=np.float64)
    return Corpus(adata.X.tocsr(), n_counts, dataset, adata.var["ensembl_id"].astype(str).tolist(), {})


def _gene_means(model: Any) -> Any:
    try:
        return model.gene_means()
    except FileNotFoundError:
        return None


def of_corpus(
    model: Any, n_held_out: int = 200, n_replay: int = 800, seed: int = 0
) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Cells of a mini's own corpus: some that its pretraining kept aside, and some that it was trained on.

    The first are to measure forgetting, the second to replay: no cell is in both.

    Raises
    ------
    ValueError
        The model does not say what it was trained on (released checkpoints do not), or a set of the corpus is not in reach, or not
        as it was then.
    """
    import json

    from scfm.pretraining.training import Schedule, split

    log = cache.repo_data() / "models" / str(model.name) / "training_log.json"
    if not log.exists():
        raise ValueError(
            f"{model.name} does not say which cells it was pretrained on. Give Memory cells that resemble its corpus instead."
        )
    known = json.loads(log.read_text())
    settings = known["settings"]
    corpus = read_corpus(list(known["corpus"]))
    # which cells were held out goes by their place in the corpus: with other cells in it, they are not those that were
    if changed := [name for name, sha256 in known["corpus"].items() if corpus.hashes[name] != sha256]:
        raise ValueError(
            f"{model.name} was pretrained on another state of {', '.join(changed)} than what is loaded by that name here, so its "
            "held-out cells cannot be told from its training cells. Put the listed file into a folder of SCFM_CACHE "
            "(scfm.list_datasets()), or give Memory cells that resemble its corpus instead."
        )
    schedule = Schedule(seed=settings["seed"], held_out_cells=settings["held_out_cells"])
    rng = np.random.default_rng([seed, 8])
    train, held_out = (rng.permutation(part) for part in split(corpus, schedule))
    return _rows(corpus, np.sort(held_out[:n_held_out])), _rows(corpus, np.sort(train[:n_replay]))


def _rows(corpus: Corpus, rows: np.ndarray) -> anndata.AnnData:
    import anndata as ad
    import pandas as pd

    symbols = genes.ensembl_to_symbol()
    obs = pd.DataFrame(
        {"n_counts": corpus.n_counts[rows], "dataset": corpus.dataset[rows]}, index=[f"cell{i}" for i in rows]
    )
    var = pd.DataFrame({"ensembl_id": corpus.ensembl_ids}, index=corpus.ensembl_ids)
    var["gene_symbol"] = [symbols.get(gene, "") for gene in corpus.ensembl_ids]
    return ad.AnnData(corpus.counts[rows].astype(np.float32), obs=obs, var=var)
