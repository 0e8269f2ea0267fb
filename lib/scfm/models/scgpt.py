"""scGPT: a transformer that reads a cell as genes with binned values, and predicts the values it does not see.

The network is in ``scgpt_network.py`` (a Hugging Face ``PreTrainedModel``); this class joins it to its vocabulary. Reading
checkpoints is in ``scgpt_files.py``. Cui et al. 2024 (10.1038/s41592-024-02201-0).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from scfm.embed import refuse_without_genes
from scfm.genes import CLS, PAD, SymbolVocabulary
from scfm.models import scgpt_embed
from scfm.models.base import Model
from scfm.models.scgpt_network import LORA_TARGETS, NotAvailableError, ScGPTConfig, ScGPTModel
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    import pandas as pd

__all__ = ["LORA_TARGETS", "NotAvailableError", "ScGPT", "ScGPTConfig", "ScGPTModel"]

GENE_MEANS = "gene_means.tsv.gz"
ABILITIES = ("embedding", "GEP", "GEPC", "generation", "classification", "adversarial")


class ScGPT(Model):
    """An scGPT; ``network`` is a :class:`ScGPTModel`."""

    kind = "scgpt"
    places: ClassVar[dict[str, str]] = {
        "attention": r"transformer_encoder\.layers\.({n})\.self_attn\.(Wqkv|out_proj)",
        "feedforward": r"transformer_encoder\.layers\.({n})\.linear[12]",
        "all": r"transformer_encoder\.layers\.({n})\.(self_attn\.(Wqkv|out_proj)|linear[12])",
    }
    # IA3 rescales keys and values, and what enters the second feed-forward layer; queries share a matrix with them
    ia3 = (r"transformer_encoder\.layers\.({n})\.(self_attn\.Wqkv|linear2)", r".*\.linear2")
    norms = r"transformer_encoder\.layers\.({n})\.norm[12]"
    why_not: ClassVar[dict[str, str]] = {
        "qv": "scGPT keeps query, key and value in one matrix (Wqkv), so 'qv' cannot be told apart there. Use 'attention'.",
        "prompts": (
            "prefix and prompt tuning put learned positions before the cell's tokens. peft does that for networks that read token "
            "ids; scGPT reads genes with values, and a learned position has no value. Use lora, dora, ia3, ln or vera."
        ),
    }
    how_to_read = ("from scfm.models.scgpt import ScGPTModel", 'ScGPTModel.from_pretrained("this folder")')

    def __init__(
        self,
        network: ScGPTModel,
        vocabulary: SymbolVocabulary | None,
        name: str,
        sha256: str | None = None,
        vocabulary_missing: str = "",
        folder: Path | None = None,
    ) -> None:
        super().__init__(network, vocabulary, name, sha256, vocabulary_missing)
        self.folder = folder

    def __repr__(self) -> str:
        config = self.network.config
        missing = [ability for ability, reason in self.abilities.items() if reason and ability != "adversarial"]
        return (
            f"ScGPT({self.name!r}: {config.num_hidden_layers} layers, d = {config.hidden_size}, "
            f"{config.vocab_size:,} tokens, {self.network.num_parameters() / 1e6:.1f} M parameters, on {self.network.device}"
            + (f"; no {', no '.join(missing)})" if missing else ")")
        )

    @property
    def special(self) -> dict[str, int]:
        """Special token → token id."""
        if self._vocabulary is not None:
            return dict(self._vocabulary.special)
        config = self.network.config
        known = {PAD: config.pad_token_id, CLS: config.cls_token_id}
        return {name: token for name, token in known.items() if token is not None}

    @property
    def abilities(self) -> dict[str, str]:
        """Ability → why this checkpoint lacks it, or "" if it has it."""
        reasons = {}
        for ability in ABILITIES:
            try:
                self.network.require(ability)
                reasons[ability] = ""
            except NotAvailableError as error:
                reasons[ability] = str(error)
        return reasons

    @property
    def most_tokens(self) -> int:
        """The most tokens of a cell that it was trained on; scGPT has no positions that could run out."""
        return self.network.config.max_seq_len

    def require(self, ability: str) -> None:
        """Raise NotAvailableError, with the reason, if this checkpoint lacks one of :attr:`abilities`."""
        self.network.require(ability)

    def gene_means(self) -> pd.DataFrame:
        """What a guesser that looks at no cell knows of each gene: mean bin where expressed, share of asked genes that are on.

        Indexed by gene symbol, in the order of the tokens; only our own models keep it (see ``scfm.pretraining.scgpt_mini``).

        Raises
        ------
        FileNotFoundError
            The model came without it.
        """
        import pandas as pd

        path = None if self.folder is None else self.folder / GENE_MEANS
        if path is None or not path.exists():
            raise FileNotFoundError(
                f"{self.name} came without {GENE_MEANS}: its training cells' means are not known here."
            )
        return pd.read_csv(path, sep="\t", index_col=0, keep_default_na=False)

    # --- cells in, embeddings out -----------------------------------------------------------------

    def tokenize(
        self,
        adata: anndata.AnnData,
        max_len: int | None = None,
        seed: int | None = None,
        sample_seed: int = 0,
        **how: Any,
    ) -> TokenizedCells:
        """Bin-encode raw counts with this model's vocabulary: ``<cls>`` and the nonzero genes, each with its bin.

        max_len: the most tokens per cell, 1,200 (or what a smaller model was trained on) unless given; of longer cells a sample of genes
        is kept (``sample_seed``). seed: None for deterministic bins. Everything else as :func:`scfm.tokenize.bin_encode`.
        """
        from scfm.tokenize import bin_encode

        config = self.network.config
        how = {"n_bins": config.n_bins} | how
        return bin_encode(
            adata,
            self.vocabulary,
            seed=seed,
            max_len=max_len or min(config.max_seq_len, 1200),
            sample_seed=sample_seed,
            **how,
        )

    def embed(
        self,
        cells: Any,
        batch_labels: np.ndarray | None = None,
        normalize: bool = True,
        dtype: str = "auto",
        max_tokens: int | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """Cell embeddings as upstream's embedding task makes them: float32 (n_cells, d), row i = cell i.

        Parameters
        ----------
        cells
            TokenizedCells with values, ``<cls>`` first, or raw counts as AnnData. The value of ``<cls>`` is replaced by the
            padding value (-2), as upstream does for this task.
        batch_labels
            int (n_cells,), for networks with batch tokens or DSBN only.
        normalize
            Divide each embedding by its length.
        dtype
            ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 where the hardware has it.
        max_tokens
            Most tokens in a minibatch; it changes memory and speed, never the result.

        Raises
        ------
        ValueError
            Cells without values, without ``<cls>`` or without genes, or of another vocabulary; batch labels missing or useless.
        """
        cells = self.as_cells(cells)
        self.check(cells)
        refuse_without_genes(self, cells)
        return scgpt_embed.embed(self.network, cells, batch_labels, normalize, dtype, max_tokens, progress)

    def check(self, cells: TokenizedCells, pooling: str = "cls", layer: int = 0) -> None:
        """Refuse cells that this model cannot read; ValueError says why."""
        if cells.values is None:
            raise ValueError(
                "These cells have no values: they were rank-encoded for Geneformer. scGPT reads a value for each gene; "
                "tokenize the counts again with model.tokenize(adata)."
            )
        super().check(cells, pooling, layer)
        without = cells.lengths == 0
        if CLS in self.special:
            first = (
                cells.tokens[np.minimum(cells.offsets[:-1], max(len(cells.tokens) - 1, 0))] if len(cells.tokens) else 0
            )
            without = without | (first != self.special[CLS])
        if without.any():
            raise ValueError(
                f"{without.sum():,} of {len(cells):,} cells do not begin with <cls>, whose position is the cell embedding; the "
                f"first: {', '.join(cells.cell_ids[without][:3])}. model.tokenize(adata) puts it there."
            )

    def check_adaptable(self) -> None:
        """Refuse networks whose embedding depends on which batch a cell is said to be of."""
        config = self.network.config
        if config.batch_tokens or config.domain_norm.startswith("dsbn") or config.num_modalities:
            raise ValueError(
                "This scGPT has batch or modality tokens, or normalizes by batch (DSBN): its cell embedding depends on which "
                "batch a cell is said to be of, and a new cell is of none. Adapt the checkpoint that it was fine-tuned from."
            )

    # --- the network, layer by layer ----------------------------------------------------------------

    def layers(self) -> list[nn.Module]:
        """The transformer layers, from the input to the output."""
        return list(self.network.transformer_encoder.layers)

    def input_modules(self) -> list[nn.Module]:
        """Gene and value encoders, the flag's, and the norm of the input."""
        own = self.network
        found = [own.encoder, own.value_encoder, own.pert_encoder, own.dsbn, own.bn]
        return [module for module in found if module is not None]

    def input_vectors(self, cells: TokenizedCells) -> Tensor:
        """Gene + value of each token, (token, d); ``<cls>`` carries the padding value, as in :meth:`embed`."""
        device = self.network.device
        assert cells.values is not None
        values = cells.values.copy()
        values[cells.offsets[:-1]] = self.network.config.pad_value
        tokens = torch.from_numpy(cells.tokens).to(device, torch.int64)
        return scgpt_embed.input_tokens(self.network, tokens, torch.from_numpy(values).to(device), None)

    def run_layer(self, layer: nn.Module, x: Tensor, lengths: list[int]) -> Tensor:
        """One layer for cells that lie end to end, (token, d) → (token, d)."""
        return scgpt_embed.layer_of(layer, x, x, lengths)

    # --- for plain transformers ---------------------------------------------------------------------

    def classifier(self, names: list[str], level: str, pooling: str, head: str) -> tuple[Any, Any, Any]:
        """An :class:`ScGPTModel` whose ``cls_decoder`` is the linear head."""
        if head != "linear" or pooling != "cls" or level == "gene":
            raise ValueError("An ScGPTModel holds a linear head on <cls>: adapt with pooling='cls', head='linear'.")
        config = copy.deepcopy(self.network.config)
        config.num_classes, config.num_class_layers = len(names), 1
        config.id2label = dict(enumerate(names))
        made = ScGPTModel(config)
        made.load_state_dict(self.network.state_dict(), strict=False)
        assert made.cls_decoder is not None  # num_classes asks for it
        return made, None, made.cls_decoder.out_layer

    # --- on disk ------------------------------------------------------------------------------------

    def _save_vocabulary(self, folder: Path) -> None:
        if self._vocabulary is not None:
            tokens = {**self._vocabulary.tokens, **self._vocabulary.special}
            (folder / "vocab.json").write_text(json.dumps(tokens, indent=0) + "\n", encoding="utf-8")
