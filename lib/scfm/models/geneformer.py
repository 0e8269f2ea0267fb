"""Geneformer: a BERT that reads a cell as its genes, ranked by how much each exceeds its own median.

The network is transformers' ``BertForMaskedLM``; this class joins it to the vocabulary it was trained with.
Theodoris et al. 2023 (10.1038/s41586-023-06139-9), Chen et al. 2024 (10.1101/2024.08.16.608180).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from scfm import embed
from scfm.genes import RankVocabulary
from scfm.models.base import Model
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    from transformers import BertForMaskedLM

    from scfm.objectives import MaskedScore

# special tokens of the published vocabularies, for a random twin on a machine without the dictionaries
SPECIAL = {"V1": {"<pad>": 0, "<mask>": 1}, "V2": {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}}


class Geneformer(Model):
    """A Geneformer-like model; ``network`` is transformers' ``BertForMaskedLM`` with SDPA attention."""

    kind = "geneformer"
    poolings = ("cls", "mean", "gene")
    frozen_layer = -1  # the layer before the last, as upstream embeds
    places: ClassVar[dict[str, str]] = {
        "qv": r"bert\.encoder\.layer\.({n})\.attention\.self\.(query|value)",
        "attention": r"bert\.encoder\.layer\.({n})\.attention\.(self\.(query|key|value)|output\.dense)",
        "feedforward": r"bert\.encoder\.layer\.({n})\.(intermediate|output)\.dense",
        "all": r"bert\.encoder\.layer\.({n})\.(attention\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)",
    }
    # IA3 rescales keys and values, and what enters the second feed-forward layer
    ia3 = (
        r"bert\.encoder\.layer\.({n})\.(attention\.self\.(key|value)|output\.dense)",
        r".*layer\.\d+\.output\.dense",
    )
    norms = r"bert\.encoder\.layer\.({n})\..*LayerNorm"
    how_to_read = ("import transformers  # the encoder", 'transformers.AutoModel.from_pretrained("this folder")')

    network: BertForMaskedLM

    def __init__(
        self,
        network: BertForMaskedLM,
        vocabulary: RankVocabulary | None,
        name: str,
        sha256: str | None = None,
        special: dict[str, int] | None = None,
        vocabulary_missing: str = "",
    ) -> None:
        super().__init__(network, vocabulary, name, sha256, vocabulary_missing)
        self._special = dict(vocabulary.special if vocabulary is not None else special or {})

    def __repr__(self) -> str:
        config = self.network.config
        millions = self.network.num_parameters() / 1e6
        return (
            f"Geneformer({self.name!r}: {config.num_hidden_layers} layers, d = {config.hidden_size}, "
            f"{config.vocab_size:,} tokens, {millions:.1f} M parameters, on {self.network.device})"
        )

    @property
    def special(self) -> dict[str, int]:
        """Special token → token id; V1 has no ``<cls>`` and ``<eos>``."""
        return self._special

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
        asked: Any = pooling or self.default_pooling
        return embed.embed(self, self.as_cells(cells), asked, layer, dtype, max_tokens, progress)

    def _from_lists(self, cells: Any) -> TokenizedCells:
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

    def check(self, cells: TokenizedCells, pooling: str = "mean", layer: int = -1) -> None:
        """Refuse cells that this model cannot read, in the words of :meth:`embed`; see :func:`scfm.embed.check`."""
        embed.check(self, cells, pooling, layer)

    # --- the network, layer by layer ----------------------------------------------------------------

    def layers(self) -> list[nn.Module]:
        """The transformer layers, from the input to the output."""
        return list(self.network.bert.encoder.layer)

    def input_modules(self) -> list[nn.Module]:
        """Token and position embeddings."""
        return [self.network.bert.embeddings]

    def input_vectors(self, cells: TokenizedCells) -> Tensor:
        """Gene + rank of each token, (token, d)."""
        device = self.network.device
        tokens = torch.from_numpy(cells.tokens).to(device, torch.int64)
        positions = torch.cat([torch.arange(n, device=device) for n in cells.lengths.tolist()])
        return self.network.bert.embeddings(input_ids=tokens[None], position_ids=positions[None])[0]

    def run_layer(self, layer: nn.Module, x: Tensor, lengths: list[int]) -> Tensor:
        """One layer for cells that lie end to end, (token, d) → (token, d)."""
        return embed.bert_layer(layer, x, x, lengths)

    # --- for peft and plain transformers ------------------------------------------------------------

    def prompted_network(self) -> Any:
        """The encoder alone: the masked-LM head would answer for every position, and nobody asks it."""
        return self.network.bert

    def classifier(self, names: list[str], level: str, pooling: str, head: str) -> tuple[Any, Any, Any]:
        """``BertForSequenceClassification`` for cells, or ``BertForTokenClassification`` for genes with a linear head.

        The pooler and classifier of the former are the small network on ``<cls>``.
        """
        import transformers

        config = copy.deepcopy(self.network.config)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
        made: Any
        if level == "gene" and head == "linear":
            made = transformers.BertForTokenClassification(config)
            first = None
        elif level == "cell" and pooling == "cls" and head == "mlp":
            made = transformers.BertForSequenceClassification(config)
            first = made.bert.pooler.dense
        else:
            raise ValueError(
                "BERT's classifiers read <cls> through a small network (pooling='cls', head='mlp'), or each gene with a linear "
                f"head. This fit has pooling={pooling!r}, head={head!r}: save it, AutoModel reads the encoder and "
                "head.safetensors holds the rest."
            )
        made.bert.load_state_dict(self.network.bert.state_dict(), strict=False)
        return made, first, made.classifier

    # --- on disk ------------------------------------------------------------------------------------

    def _save_vocabulary(self, folder: Path) -> None:
        if self._vocabulary is not None:
            self._vocabulary.save(folder)
        (folder / "scfm.json").write_text(
            json.dumps({"name": self.name, "special": self.special}, indent=1) + "\n", encoding="utf-8"
        )
