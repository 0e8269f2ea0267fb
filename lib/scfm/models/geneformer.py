"""Geneformer: a BERT that reads a cell as its genes, ranked by how much each exceeds its own median.

The network is transformers' ``BertForMaskedLM``; this class joins it to the vocabulary it was trained with.
Theodoris et al. 2023 (10.1038/s41586-023-06139-9), Chen et al. 2024 (10.1101/2024.08.16.608180).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.genes import RankVocabulary, VocabularyError
from scfm.inside.rows import refuse_filtered
from scfm.store import cache
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    from transformers import BertForMaskedLM

    from scfm.objectives import MaskedScore

# special tokens of the published vocabularies, for a random twin on a machine without the dictionaries
SPECIAL = {"V1": {"<pad>": 0, "<mask>": 1}, "V2": {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}}


class Geneformer:
    """A Geneformer-like model: network, vocabulary, and where both came from.

    Attributes
    ----------
    network
        transformers' ``BertForMaskedLM`` with SDPA attention, in float32 and eval mode.
    special
        Special token → token id; ``<cls>`` and ``<eos>`` are absent in V1.
    name, sha256
        What was loaded, and the hash of its weights (None for random weights).
    source
        What ``load_model`` finds it by again, its twins too: a known name, or the folder; None for a network made by hand.
    """

    source: str | Path | None = None

    def __init__(
        self,
        network: BertForMaskedLM,
        vocabulary: RankVocabulary | None,
        name: str,
        sha256: str | None = None,
        special: dict[str, int] | None = None,
        vocabulary_missing: str = "",
    ) -> None:
        self.network = network
        self.name = name
        self.sha256 = sha256
        self._vocabulary = vocabulary
        self._vocabulary_missing = vocabulary_missing
        self.special = dict(vocabulary.special if vocabulary is not None else special or {})

    def __repr__(self) -> str:
        config = self.network.config
        millions = self.network.num_parameters() / 1e6
        return (
            f"Geneformer({self.name!r}: {config.num_hidden_layers} layers, d = {config.hidden_size}, "
            f"{config.vocab_size:,} tokens, {millions:.1f} M parameters, on {self.network.device})"
        )

    @property
    def vocabulary(self) -> RankVocabulary:
        """Ensembl id → token id and median; an error if the dictionaries could not be had (random twins load without)."""
        if self._vocabulary is None:
            raise VocabularyError(f"{self.name} was made without its dictionaries. {self._vocabulary_missing}")
        return self._vocabulary

    @property
    def vocabulary_name(self) -> str:
        """Name of the vocabulary, as in ``TokenizedCells.vocabulary_name``; empty if it is not at hand."""
        return self._vocabulary.name if self._vocabulary is not None else ""

    @functools.cached_property
    def vocabulary_sha256(self) -> str:
        """Hash of the vocabulary, as in ``TokenizedCells.vocabulary_sha256``; empty if it is not at hand."""
        from scfm.tokenize import vocabulary_sha256

        return vocabulary_sha256(self._vocabulary) if self._vocabulary is not None else ""

    @property
    def default_pooling(self) -> str:
        """``"cls"`` for Geneformer V2, whose ``<cls>`` was trained at scale; ``"mean"`` for V1 and for our mini."""
        published_v2 = self.special == SPECIAL["V2"] and self.vocabulary_name in ("", "geneformer-v2")
        return "cls" if published_v2 else "mean"

    # --- cells in, numbers out --------------------------------------------------------------------

    def tokenize(self, adata: anndata.AnnData, max_len: int | None = None) -> TokenizedCells:
        """Rank-encode raw counts with this model's vocabulary; see :func:`scfm.tokenize.rank_encode`."""
        from scfm.tokenize import rank_encode

        positions = self.network.config.max_position_embeddings
        return rank_encode(adata, version=self.vocabulary, max_len=min(max_len or positions, positions))

    def medians(self, ensembl_ids: Iterable[str]) -> np.ndarray:
        """Nonzero median of each gene over the pretraining corpus, in counts per 10,000; float64, NaN for unknown genes."""
        tokens, medians = self.vocabulary.columns(ensembl_ids)
        return np.where(tokens >= 0, medians, np.nan)

    def embed(
        self,
        cells: Any,
        pooling: str | None = None,
        layer: int = -1,
        dtype: str = "auto",
        max_tokens: int | None = None,
        progress: bool = True,
    ) -> Any:
        """Embed cells: float32 (n_cells, d), row i = cell i; or genes, with ``pooling="gene"``, as a DataFrame.

        ``cells``: TokenizedCells, raw counts as AnnData, a list of token arrays, or a rectangle (cell, token) padded at the
        end. Everything else as in :func:`scfm.embed.embed`.
        """
        from scfm.embed import embed

        return embed(self, self.as_cells(cells), pooling or self.default_pooling, layer, dtype, max_tokens, progress)  # type: ignore[arg-type]

    def as_cells(self, cells: Any) -> TokenizedCells:
        """TokenizedCells from whatever :meth:`embed` accepts, row i = cell i."""
        if isinstance(cells, TokenizedCells):
            return cells
        if hasattr(cells, "obs") and hasattr(cells, "X"):  # an AnnData
            refuse_filtered(cells.obs)
            return self.tokenize(cells)
        if isinstance(cells, np.ndarray) and cells.ndim == 2:
            pad = self.special["<pad>"]
            lengths = cells.shape[1] - (cells[:, ::-1] != pad).argmax(1)  # the padding is at the end
            lengths[(cells == pad).all(1)] = 0
            cells = [row[:length] for row, length in zip(cells, lengths, strict=True)]
        elif isinstance(cells, np.ndarray) or (len(cells) and np.ndim(cells[0]) == 0):
            cells = [cells]  # one cell
        rows = [np.asarray(cell) for cell in cells]
        if any(row.dtype.kind not in "iu" and len(row) for row in rows):
            raise ValueError(
                "Token ids are whole numbers, but these cells hold others. If they are counts, give the AnnData: "
                "model.tokenize(adata) turns counts into tokens."
            )
        return TokenizedCells.from_lists([row.tolist() for row in rows])

    def predict_masked(
        self, tokens: Sequence[int], positions: Sequence[int], top: int = 10
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hide the tokens at ``positions`` of one cell and let the model guess.

        Returns
        -------
        token ids int64 (n_positions, top), best first, and their probabilities float32 (n_positions, top).

        Raises
        ------
        IndexError
            If a position lies outside the cell.
        """
        import torch

        from scfm import embed

        cell = np.array(tokens, dtype=np.int64)  # a copy: the caller keeps the answer
        where = np.asarray(positions, dtype=np.int64).reshape(-1)
        if len(where) == 0 or where.min() < 0 or where.max() >= len(cell):
            raise IndexError(f"positions must lie between 0 and {len(cell) - 1}, the last token of this cell")
        cell[where] = self.special["<mask>"]
        embed.check(self, TokenizedCells(cell, np.array([0, len(cell)])))
        embeddings, layers = embed.modules_in(self.network, self.network.config.num_hidden_layers, self.network.dtype)
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode():
                ids = torch.from_numpy(cell).to(self.network.device)
                x = embed.encode(embeddings, layers, ids, [len(cell)], first_only=False)  # (token, d)
                guesses = self.network.cls(x[torch.from_numpy(where).to(x.device)]).float().softmax(-1)
                best = guesses.topk(top, dim=-1)
        finally:
            self.network.train(was_training)
        return best.indices.cpu().numpy(), best.values.cpu().numpy()

    def masked_loss(self, cells: Any, mask_fraction: float = 0.15, seed: int = 0, **options: Any) -> MaskedScore:
        """Loss and accuracy on genes of held-out cells hidden at random; see :func:`scfm.objectives.masked_loss`."""
        from scfm.objectives import masked_loss

        return masked_loss(self, self.as_cells(cells), mask_fraction, seed, **options)

    # --- on disk ----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors and the vocabulary into a new folder that ``load_model`` reads.

        Raises
        ------
        FileExistsError
            If ``folder`` exists and is not empty.
        """
        with cache.new_folder(folder) as whole:
            self.network.save_pretrained(whole)
            if self._vocabulary is not None:
                self._vocabulary.save(whole)
            (whole / "scfm.json").write_text(json.dumps({"name": self.name, "special": self.special}, indent=1) + "\n")
        return Path(folder)
