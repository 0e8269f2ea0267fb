"""What was adapted, and its answers: embeddings, probabilities, classes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from scfm.adaptation.adapters import Adapted
from scfm.adaptation.choices import Choices
from scfm.adaptation.features import Reader
from scfm.adaptation.heads import Head
from scfm.adaptation.reading import check_cells, reader_of
from scfm.adaptation.report import Report
from scfm.models.base import Model


class Fitted:
    """An adapted model that answers; :class:`scfm.adaptation.fit.Fit` also writes, scores and describes itself.

    Attributes
    ----------
    model
        The base: what was given to ``adapt``, unchanged. (A partial or full fit that was loaded without its base has only the
        trained network to give here, under the name ``"BASE + METHOD"``.)
    classes
        The class names, in the order of ``predict_proba``'s columns; for several label columns a dict of them.
    report
        :class:`Report`: parameters, seconds, memory, energy, learning curve.
    choices
        All settings, :class:`scfm.adaptation.choices.Choices`.
    """

    def __init__(
        self, model: Model, adapted: Adapted, head: Head, choices: Choices, report: Report, base: dict
    ) -> None:
        self.model, self.choices, self.report, self.base = model, choices, report, base
        self._adapted, self.head = adapted, head
        self.evaluations: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        classes = ", ".join(f"{len(names)} classes of {column}" for column, names in self.head.classes.items())
        return f"Fit({self.choices.method!r} on {self.base['name']!r}: {classes})"

    @property
    def network(self) -> Any:
        """The adapted network: BertForMaskedLM or ScGPTModel, with peft's layers in it where the method has some."""
        return self._adapted.network

    @property
    def peft_model(self) -> Any:
        """peft's own object around the network; None for head, partial and full."""
        return self._adapted.peft_model

    @property
    def columns(self) -> list[str]:
        """The label columns; one, unless several were given."""
        return list(self.head.classes)

    @property
    def classes(self) -> Any:
        """See the class."""
        return self.head.classes if len(self.columns) > 1 else self.head.classes[self.columns[0]]

    @property
    def adapted(self) -> Any:
        """The adapted network as a model of its own: ``fit.adapted.embed(...)``, ``fit.adapted.masked_loss(...)``."""
        if self._adapted.prompted is not None:
            raise ValueError(
                f"The learned positions of {self.choices.method} tuning are not in the network but before the cell; only "
                "fit.embed and fit.predict put them there."
            )
        other = self.model.with_network(self.network, f"{self.base['name']} + {self.choices.method}")
        if self.choices.trains_network:
            other.sha256 = None  # these weights are those of no file
        return other

    # --- answers ----------------------------------------------------------------------------------

    def embed(self, cells: Any, max_tokens: int | None = None, dtype: str | None = None, progress: bool = True) -> Any:
        """What the head reads: float32 (n_cells, d), row i = cell i; for gene classification a DataFrame (gene, d).

        ``dtype`` "float32", "bfloat16" or None for that of the training.
        """
        cells = self.model.as_cells(cells)
        check_cells(self.model, cells, self.choices)
        reader = self._reader(dtype)
        if self.choices.level == "cell":
            return reader.all(cells, max_tokens, progress)
        import pandas as pd

        ids, values, n_cells = reader.all_genes(cells, max_tokens, progress)
        table = pd.DataFrame(values, index=pd.Index([self.model.vocabulary.gene(i) for i in ids], name="gene"))
        table.attrs["n_cells"] = n_cells.tolist()
        return table

    def predict_proba(
        self, cells: Any = None, *, embeddings: Any = None, max_tokens: int | None = None, dtype: str | None = None,
        progress: bool = True,
    ) -> Any:  # fmt: skip
        """Probabilities, float32 (n_cells, n_classes) in the order of ``classes``; a dict of them for several columns.

        ``embeddings``: what :meth:`embed` gave, if it is at hand: then the network need not run again.
        For gene classification a DataFrame (gene, class): the answer to the gene's mean vector over the cells that have it (with a
        linear head its logits are also the mean of those in single cells).
        """
        if (cells is None) == (embeddings is None):
            raise ValueError("Give cells, or the embeddings that fit.embed made of them.")
        features = embeddings if embeddings is not None else self.embed(cells, max_tokens, dtype, progress)
        array = np.asarray(features, np.float32)
        width = len(self.head.center)
        if array.ndim != 2 or array.shape[1] != width:
            raise ValueError(f"embeddings has shape {array.shape}; (cells, {width}) was expected, as fit.embed gives.")
        with torch.inference_mode():
            logits = self.head(torch.from_numpy(array).to(self.head.device))
        found: dict[str, Any] = {
            column: own.softmax(1).cpu().numpy() for column, own in zip(self.columns, logits, strict=True)
        }
        if self.choices.level == "gene":
            import pandas as pd

            found = {c: pd.DataFrame(p, index=features.index, columns=self.head.classes[c]) for c, p in found.items()}
        return found if len(self.columns) > 1 else found[self.columns[0]]

    def predict(self, cells: Any = None, **how: Any) -> Any:
        """The most probable class of each cell: str (n_cells,); a DataFrame for several columns; a Series per gene.

        Arguments as in :meth:`predict_proba`.
        """
        found = self.predict_proba(cells, **how)
        if self.choices.level == "gene":
            return found.idxmax(axis=1)
        if len(self.columns) == 1:
            return np.asarray(self.classes)[found.argmax(1)]
        import pandas as pd

        return pd.DataFrame({c: np.asarray(self.head.classes[c])[p.argmax(1)] for c, p in found.items()})

    # --- other forms --------------------------------------------------------------------------------

    def merged(self) -> Any:
        """A model whose weights hold the adapter: LoRA's product is added to each matrix.

        Nothing is left to compute beside it. The fit itself stays as it is.
        """
        if self.peft_model is None or not hasattr(self.peft_model, "merge_and_unload") or self._adapted.prompted:
            raise ValueError(f"method={self.choices.method!r} has nothing that could be merged into the weights.")
        if self.choices.quantize:
            raise ValueError("A quantized base cannot take up an adapter without losing precision; keep them apart.")
        merged = copy.deepcopy(self.peft_model).merge_and_unload().eval()  # deep: merging writes into the base
        other = self.model.with_network(merged, f"{self.model.name} + {self.choices.method}, merged")
        other.sha256 = None
        return other

    def _reader(self, dtype: str | None = None) -> Reader:
        return reader_of(self._adapted, self.choices, dtype)
