"""The one face of all models: what the rest of the library may ask of one, whatever its kind.

A new kind of model is two files beside this one and a catalogue entry: ``NAME.py`` with a subclass of :class:`Model`,
``NAME_files.py`` with ``recognizes`` and ``load`` (see ``registry.py``). Nothing else asks which kind a model is.
"""

from __future__ import annotations

import copy
import functools
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scfm.embed import check_vocabulary
from scfm.genes import Vocabulary, VocabularyError
from scfm.inside.rows import refuse_filtered
from scfm.store import cache
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    import numpy as np

WEIGHTS = "model.safetensors"
START = "start.safetensors"  # what pretraining began with, where that was not random weights


class ModelError(ValueError):
    """A model's name is unknown, or its files do not make a model; the message says what to do."""


class Model(ABC):
    """A network, the vocabulary that it was trained with, and where both came from.

    Attributes
    ----------
    network
        A ``PreTrainedModel`` in float32 and eval mode; or what peft makes of it.
    name, sha256
        What was loaded, and the hash of its weights (None for random weights).
    source
        What ``load_model`` finds it by again, its twins too: a known name, or the folder; None for a network made by hand.
    """

    kind: ClassVar[str]  # as in data/models.toml
    poolings: ClassVar[tuple[str, ...]] = ("cls",)  # what embed can make of a cell
    frozen_layer: ClassVar[int] = 0  # what a head on the frozen network reads, as ``embed`` does: 0 the last layer
    # where peft puts what it adds: patterns of module names, {n} stands for the numbers of the layers
    places: ClassVar[dict[str, str]]  # LoRA and its relatives; "all" is one of them
    ia3: ClassVar[tuple[str, str]]  # rescaled outputs; rescaled inputs
    norms: ClassVar[str]
    why_not: ClassVar[dict[str, str]] = {}  # what this kind cannot ("qv", "prompts") → the reason, in a sentence

    source: str | Path | None = None

    def __init__(
        self,
        network: Any,
        vocabulary: Vocabulary | None,
        name: str,
        sha256: str | None = None,
        vocabulary_missing: str = "",
    ) -> None:
        self.network, self.name, self.sha256 = network, name, sha256
        self._vocabulary: Any = vocabulary  # of the kind that the model reads
        self._vocabulary_missing = vocabulary_missing

    # --- vocabulary ---------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Any:
        """Gene → token id; VocabularyError with the reason where none is at hand (random twins load without)."""
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
    @abstractmethod
    def special(self) -> dict[str, int]:
        """Special token → token id."""

    def column_tokens(self, adata: anndata.AnnData) -> np.ndarray:
        """Token of each gene of ``adata`` as :meth:`tokenize` reads them: int32 (gene,), -1 = none."""
        return self.vocabulary.column_tokens(adata.var)

    # --- cells in, numbers out ----------------------------------------------------------------------

    @property
    def most_tokens(self) -> int:
        """The most tokens of a cell that it was made for."""
        return self.network.config.max_position_embeddings

    @abstractmethod
    def tokenize(self, adata: anndata.AnnData, max_len: int | None = None) -> TokenizedCells:
        """Raw counts → tokens, row i = cell i; ``max_len``: the most tokens per cell."""

    @abstractmethod
    def embed(self, cells: Any, *args: Any, **how: Any) -> Any:
        """Cells → float32 (n_cells, d), row i = cell i."""

    def as_cells(self, cells: Any) -> TokenizedCells:
        """TokenizedCells from whatever :meth:`embed` accepts, row i = cell i."""
        if isinstance(cells, TokenizedCells):
            return cells
        if hasattr(cells, "obs") and hasattr(cells, "X"):  # an AnnData
            refuse_filtered(cells.obs)
            return self.tokenize(cells)
        return self._from_lists(cells)

    def _from_lists(self, cells: Any) -> TokenizedCells:
        raise TypeError(
            f"TokenizedCells or an AnnData of raw counts was expected, not {type(cells).__name__}. Lists of token ids and of "
            "values become cells by TokenizedCells.from_lists(tokens, values)."
        )

    def check(self, cells: TokenizedCells, pooling: str = "cls", layer: int = 0) -> None:
        """Refuse cells that this model cannot read, and questions that it cannot answer; ValueError says why."""
        check_vocabulary(self, cells)

    def check_adaptable(self) -> None:  # noqa: B027 - most kinds have nothing to refuse
        """Refuse a checkpoint that ``scfm.adapt`` cannot start from; ValueError says why."""

    @property
    def default_pooling(self) -> str:
        """What :meth:`embed` makes of a cell unless it is told."""
        return "cls"

    # --- the network, layer by layer ----------------------------------------------------------------

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """The transformer layers, from the input to the output."""

    @abstractmethod
    def input_modules(self) -> list[nn.Module]:
        """What turns tokens (and values) into vectors, before the first layer."""

    @abstractmethod
    def input_vectors(self, cells: TokenizedCells) -> Tensor:
        """What enters the first layer, (token, d), of cells that lie end to end."""

    @abstractmethod
    def run_layer(self, layer: nn.Module, x: Tensor, lengths: list[int]) -> Tensor:
        """One layer for cells that lie end to end, (token, d) → (token, d): each token attends to all of its own cell."""

    def hidden_states(self, cells: TokenizedCells, layer: int = 0, checkpointing: bool = False) -> Tensor:
        """Hidden states (token, d) of cells that lie end to end, after ``layer`` (0 the last, -1 the one before, ...).

        With gradients where they are enabled. ``checkpointing``: keep no activations within a layer, compute them again on the
        way back: less memory, a third more time. Attention dropout is left out: it would send attention down its slow path.
        """
        x, lengths, layers = self.input_vectors(cells), cells.lengths.tolist(), self.layers()
        for one in layers[: len(layers) + layer]:
            if checkpointing and torch.is_grad_enabled():
                x = checkpoint(self.run_layer, one, x, lengths, use_reentrant=False)
            else:
                x = self.run_layer(one, x, lengths)
        return x

    def with_network(self, network: Any, name: str | None = None) -> Self:
        """The same model around another network of the same kind, under a name of its own if it is given."""
        other = copy.copy(self)
        other.network = network
        if name is not None:
            other.name = name
        return other

    # --- for peft and plain transformers ------------------------------------------------------------

    def prompted_network(self) -> Any:
        """The module whose forward pass takes learned positions (prefix and prompt tuning); ValueError where there is none."""
        raise ValueError(self.why_not["prompts"])

    def classifier(self, names: list[str], level: str, pooling: str, head: str) -> tuple[Any, Any, Any]:
        """A plain network with room for a head, this network's weights in it: (network, first linear layer or None, last one).

        Raises
        ------
        ValueError
            There is no such network for a head of this form.
        """
        raise ValueError(
            f"A {self.kind} has no form that holds a classifier: fit.save keeps it, scfm.load_fit reads it."
        )

    how_to_read: ClassVar[tuple[str, ...]] = ()  # lines of Python that read a saved network without this library

    # --- on disk ------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors and the vocabulary into a new folder that ``load_model`` reads.

        Raises
        ------
        FileExistsError
            If ``folder`` exists and is not empty.
        """
        with cache.new_folder(folder) as whole:
            self.network.save_pretrained(whole)
            self._save_vocabulary(whole)
        return Path(folder)

    @abstractmethod
    def _save_vocabulary(self, folder: Path) -> None:
        """Write what the vocabulary needs beside the weights; nothing where there is none."""


def read_json(path: Path) -> Any:
    """A JSON file's content; ModelError if it is cut off or none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); it may be cut off.") from error
