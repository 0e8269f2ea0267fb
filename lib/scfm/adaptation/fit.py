"""What :func:`scfm.adapt` returns: it answers, it embeds, it knows its price, and it goes to disk and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.adaptation import fitscores, modelcard, saving
from scfm.adaptation.fitted import Fitted

if TYPE_CHECKING:
    import pandas as pd


class Fit(Fitted):
    """An adapted model, as :func:`scfm.adapt` returns it and :func:`scfm.load_fit` reads it; see :class:`Fitted`."""

    def to_transformers(self) -> Any:
        """The whole classifier as a network of plain transformers, where it has one; see :func:`scfm.adaptation.saving.to_transformers`."""
        return saving.to_transformers(self)

    # --- on disk ------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write a new folder that :func:`scfm.load_fit` reads; see :mod:`scfm.adaptation.saving`."""
        return saving.save(self, Path(folder))

    def card(self, **text: str) -> str:
        """The model card in the hub's format; see :func:`scfm.adaptation.modelcard.card`."""
        return modelcard.card(self, **text)

    def evaluate(
        self, cells: Any, labels: Any, batches: Sequence[str] | None = None, name: str = "test"
    ) -> pd.DataFrame:
        """Scores on cells that were not trained on; the card shows them. See :func:`scfm.adaptation.fitscores.evaluate`."""
        return fitscores.evaluate(self, cells, labels, batches, name)
