"""What a network still knows of its pretraining: questions of that pretraining, to measure forgetting and to replay.

A :class:`Memory` holds cells and asks about them what the pretraining asked: hidden genes (Geneformer, nats), values to be
generated (scGPT, squared bins). :meth:`Memory.error` measures on fixed questions; :meth:`Memory.losses` is the same as a loss
with a gradient, for continual learning: mixed into the minibatches of a new task, it keeps the old one alive (experience
replay: Rolnick et al. 2019, arXiv:1811.11682; forgetting: French 1999, 10.1016/S1364-6613(99)01294-2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from scfm import genes
from scfm.models.base import Model
from scfm.pretraining.corpus import Corpus, read_corpus
from scfm.pretraining.questions import questions_of
from scfm.pretraining.training import Schedule, split
from scfm.store import cache

if TYPE_CHECKING:
    import anndata


class Memory:
    """Cells, and a model's own pretraining questions about them.

    Parameters
    ----------
    model
        What ``scfm.load_model`` gives: how cells become tokens, and which genes it knows.
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

    def __init__(self, model: Model, adata: anndata.AnnData, max_len: int | None = None) -> None:
        self.model, self.questions = model, questions_of(model, adata, max_len)
        self.unit = self.questions.unit

    def __len__(self) -> int:
        return len(self.questions)

    def digest(self) -> str:
        """SHA-256 of the cells: what a checkpoint of a run with replay must agree with."""
        found = hashlib.sha256()
        for array in self.questions.arrays():
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def error(self, model: Model | None = None, seed: int = 0) -> float:
        """Error of ``model`` (None = the one this memory was made for) on questions that depend on ``seed`` only.

        ``model`` may be ``fit.adapted``: the network as it is after adaptation, with the decoder it was pretrained with.
        """
        return self.questions.error(model or self.model, seed)

    def guess(self, seed: int = 0) -> float | None:
        """Error, on the same questions, of a guesser that knows the corpus but looks at no cell: what could be forgotten at most.

        None where a checkpoint came without what such a guesser knows.
        """
        return self.questions.guess(seed)

    def losses(
        self,
        model: Model,
        rng: np.random.Generator,
        n_cells: int = 32,
        max_tokens: int = 8_192,
        bf16: bool = False,
    ) -> Iterator[torch.Tensor]:
        """The pretraining's loss on ``n_cells`` cells drawn by ``rng``, in pieces whose sum is the loss: one backward pass each.

        ``model``: whose network learns. ``bf16``: under bfloat16 autocast.
        """
        chosen = np.sort(rng.choice(len(self), min(n_cells, len(self)), replace=False))
        pieces = self.questions.pieces(chosen, rng, max_tokens)
        asked = sum(weight for _, weight in pieces)  # each piece counts by what it asks: the budget changes nothing
        for piece, weight in pieces:
            with torch.autocast(model.network.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = self.questions.loss(model, piece)
            yield loss * (weight / asked)


# --- cells ----------------------------------------------------------------------------------------------


def of_corpus(
    model: Model, n_held_out: int = 200, n_replay: int = 800, seed: int = 0
) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Cells of a mini's own corpus: some that its pretraining kept aside, and some that it was trained on.

    The first are to measure forgetting, the second to replay: no cell is in both.

    Raises
    ------
    ValueError
        The model does not say what it was trained on (released checkpoints do not), or a set of the corpus is not in reach, or not
        as it was then.
    """
    log = cache.repo_data() / "models" / str(model.name) / "training_log.json"
    if not log.exists():
        raise ValueError(
            f"{model.name} does not say which cells it was pretrained on. Give Memory cells that resemble its corpus instead."
        )
    known = json.loads(log.read_text(encoding="utf-8"))
    settings = known["settings"]
    corpus = read_corpus(list(known["corpus"]), known.get("left_out"))
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
