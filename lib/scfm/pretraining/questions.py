"""What a pretraining asked about its cells, to be asked again: the part that each kind of model has for itself."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import anndata
    import torch

    from scfm.models.base import Model


class Questions(ABC):
    """Cells as a pretraining reads them, and its questions about them. ``unit``: of :meth:`error`."""

    unit: str

    @abstractmethod
    def __init__(self, model: Model, adata: anndata.AnnData, max_len: int | None) -> None: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that the questions depend on, as arrays."""

    @abstractmethod
    def error(self, model: Model, seed: int) -> float:
        """Error of ``model`` on questions that depend on ``seed`` only."""

    @abstractmethod
    def guess(self, seed: int) -> float | None:
        """The same of a guesser that knows the corpus but looks at no cell; None where the checkpoint came without it."""

    @abstractmethod
    def pieces(self, chosen: np.ndarray, rng: np.random.Generator, max_tokens: int) -> list[tuple[Any, int]]:
        """Questions about the ``chosen`` cells, in pieces for one forward pass each, and by how much each counts."""

    @abstractmethod
    def loss(self, model: Model, piece: Any) -> torch.Tensor:
        """The pretraining's loss on one piece, with a gradient."""


def questions_of(model: Model, adata: anndata.AnnData, max_len: int | None = None) -> Questions:
    """The questions of this model's kind: those of ``KIND_questions.py`` beside this file.

    Raises
    ------
    ValueError
        A kind of model without questions, or cells about which nothing can be asked.
    """
    try:
        module = importlib.import_module(f"scfm.pretraining.{model.kind}_questions")
    except ModuleNotFoundError as error:
        raise ValueError(f"What the pretraining of a {model.kind} asked is not known here.") from error
    return module.Asked(model, adata, max_len)
