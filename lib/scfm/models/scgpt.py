"""scGPT: a transformer that reads a cell as genes with binned values, and predicts the values it does not see.

The network is in ``scgpt_network.py`` (a Hugging Face ``PreTrainedModel``); this class joins it to its vocabulary. Reading
checkpoints is in ``scgpt_files.py``. Cui et al. 2024 (10.1038/s41592-024-02201-0).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.genes import CLS, PAD, SymbolVocabulary, VocabularyError
from scfm.inside.rows import refuse_filtered
from scfm.models.scgpt_network import LORA_TARGETS, NotAvailableError, ScGPTConfig, ScGPTModel
from scfm.store import cache
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    import pandas as pd

__all__ = ["LORA_TARGETS", "NotAvailableError", "ScGPT", "ScGPTConfig", "ScGPTModel"]

GENE_MEANS = "gene_means.tsv.gz"
ABILITIES = ("embedding", "GEP", "GEPC", "generation", "classification", "adversarial")


class ScGPT:
    """An scGPT: network, vocabulary, and where both came from.

    Attributes
    ----------
    network
        :class:`ScGPTModel`, in float32 and eval mode; or what peft makes of it.
    name, sha256
        What was loaded, and the hash of its weights (None for random weights).
    source
        What ``load_model`` finds it by again, its twins too: a known name, or the folder; None for a network made by hand.
    """

    source: str | Path | None = None

    def __init__(
        self,
        network: ScGPTModel,
        vocabulary: SymbolVocabulary | None,
        name: str,
        sha256: str | None = None,
        vocabulary_missing: str = "",
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self.network = network
        self.name = name
        self.sha256 = sha256
        self._vocabulary = vocabulary
        self._vocabulary_missing = vocabulary_missing

    def __repr__(self) -> str:
        config = self.network.config
        missing = [ability for ability, reason in self.abilities.items() if reason and ability != "adversarial"]
        return (
            f"ScGPT({self.name!r}: {config.num_hidden_layers} layers, d = {config.hidden_size}, "
            f"{config.vocab_size:,} tokens, {self.network.num_parameters() / 1e6:.1f} M parameters, on {self.network.device}"
            + (f"; no {', no '.join(missing)})" if missing else ")")
        )

    @property
    def vocabulary(self) -> SymbolVocabulary:
        """Gene symbol → token id; VocabularyError with the reason where none came with the weights."""
        if self._vocabulary is None:
            raise VocabularyError(f"{self.name} has no vocabulary. {self._vocabulary_missing}")
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
        from scfm.embed import refuse_without_genes
        from scfm.models import scgpt_embed

        cells = self.as_cells(cells)
        self.check(cells)
        refuse_without_genes(self, cells)
        return scgpt_embed.embed(self.network, cells, batch_labels, normalize, dtype, max_tokens, progress)

    def as_cells(self, cells: Any) -> TokenizedCells:
        """TokenizedCells from whatever :meth:`embed` accepts, row i = cell i."""
        if isinstance(cells, TokenizedCells):
            return cells
        if hasattr(cells, "obs") and hasattr(cells, "X"):  # an AnnData
            refuse_filtered(cells.obs)
            return self.tokenize(cells)
        raise TypeError(
            f"TokenizedCells or an AnnData of raw counts was expected, not {type(cells).__name__}. Lists of token ids and of "
            "values become cells by TokenizedCells.from_lists(tokens, values)."
        )

    def check(self, cells: TokenizedCells) -> None:
        """Refuse cells that this model cannot read; ValueError says why."""
        from scfm.embed import check_vocabulary

        if cells.values is None:
            raise ValueError(
                "These cells have no values: they were rank-encoded for Geneformer. scGPT reads a value for each gene; "
                "tokenize the counts again with model.tokenize(adata)."
            )
        check_vocabulary(self, cells)
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

    # --- on disk ----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors and vocab.json into a new folder that ``load_model`` reads.

        Raises
        ------
        FileExistsError
            If ``folder`` exists and is not empty.
        """
        with cache.new_folder(folder) as whole:
            self.network.save_pretrained(whole)
            if self._vocabulary is not None:
                tokens = {**self._vocabulary.tokens, **self._vocabulary.special}
                (whole / "vocab.json").write_text(json.dumps(tokens, indent=0) + "\n")
        return Path(folder)
