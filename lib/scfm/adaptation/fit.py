"""What :func:`scfm.adapt` returns: it answers, it embeds, it knows its price, and it goes to disk and back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm import embed
from scfm.adaptation.adapters import Adapted
from scfm.adaptation.choices import Choices
from scfm.adaptation.features import Reader, layers_of
from scfm.adaptation.heads import Head
from scfm.adaptation.labels import gene_names
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Report:
    """The price and the course of a fit. Memory in bytes, energy in joules (None where no counter can be read)."""

    model: str
    method: str
    trained_parameters: int
    head_parameters: int
    total_parameters: int
    seconds: float
    peak_memory: int
    peak_memory_gpu: int | None
    joules: float | None
    joules_from: str
    machine: str
    dtype: str
    n_cells: int
    n_validation: int
    cells_per_class: dict[str, dict[str, int]]
    steps: int
    best_step: int
    stopped_early: bool
    resumed_from: int
    date: str = ""
    data: dict[str, Any] = field(default_factory=dict)  # what the cells are, as far as they say
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def trained_share(self) -> float:
        """Trained parameters, the head's among them, as a share of all."""
        return self.trained_parameters / self.total_parameters

    def table(self) -> pd.DataFrame:
        """The learning curve: step, epoch, train_loss, seconds, and the validation scores where cells were kept aside."""
        import pandas as pd

        return pd.DataFrame(self.curve)

    def __str__(self) -> str:
        lines = [
            f"{self.method} on {self.model}",
            f"  trained    {self.trained_parameters:,} of {self.total_parameters:,} parameters ({self.trained_share:.2%}), "
            f"{self.head_parameters:,} of them in the head",
            f"  cells      {self.n_cells:,} to learn from, {self.n_validation:,} to watch",
            f"  time       {self.seconds:.1f} s, {self.steps} steps"
            + (f", best at step {self.best_step}" if self.best_step != self.steps else "")
            + (", stopped early" if self.stopped_early else "")
            + (f", resumed at step {self.resumed_from}" if self.resumed_from else ""),
            f"  memory     {self.peak_memory / 2**20:,.0f} MiB at most"
            + (f", {self.peak_memory_gpu / 2**20:,.0f} MiB on the GPU" if self.peak_memory_gpu else ""),
            f"  energy     {self.joules:,.0f} J ({self.joules_from})"
            if self.joules is not None
            else f"  energy     not told: {self.joules_from}",
            f"  machine    {self.machine}, {self.dtype}",
        ]
        if self.curve and "validation_loss" in self.curve[-1]:
            best = min(self.curve, key=lambda row: row["validation_loss"])
            lines.append(
                f"  validation loss {best['validation_loss']:.3f}, accuracy {best['validation_accuracy']:.1%}, balanced "
                f"{best['validation_balanced_accuracy']:.1%} at step {best['step']:.0f}"
            )
        return "\n".join([*lines, *(f"  note       {note}" for note in self.notes)])

    __repr__ = __str__


class Fit:
    """An adapted model.

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

    def __init__(self, model: Any, adapted: Adapted, head: Head, choices: Choices, report: Report, base: dict) -> None:
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
        other = copy.copy(self.model)
        other.network, other.name = self.network, f"{self.base['name']} + {self.choices.method}"
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
        table = pd.DataFrame(values, index=pd.Index(gene_names(self.model.vocabulary, ids), name="gene"))
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
        """A model whose weights hold the adapter: LoRA's product is added to each matrix, and nothing is left to compute
        beside it. The fit itself stays as it is."""
        if self.peft_model is None or not hasattr(self.peft_model, "merge_and_unload") or self._adapted.prompted:
            raise ValueError(f"method={self.choices.method!r} has nothing that could be merged into the weights.")
        if self.choices.quantize:
            raise ValueError("A quantized base cannot take up an adapter without losing precision; keep them apart.")
        other = copy.copy(self.model)
        other.network = copy.deepcopy(self.peft_model).merge_and_unload().eval()  # deep: merging writes into the base
        other.name, other.sha256 = f"{self.model.name} + {self.choices.method}, merged", None
        return other

    def _reader(self, dtype: str | None = None) -> Reader:
        return reader_of(self.model, self._adapted, self.choices, dtype)

    def to_transformers(self) -> Any:
        """The whole classifier as a network of plain transformers, where it has one; see :func:`scfm.adaptation.saving.to_transformers`."""
        from scfm.adaptation import saving

        return saving.to_transformers(self)

    # --- on disk ------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write a new folder that :func:`scfm.load_fit` reads; see :mod:`scfm.adaptation.saving`."""
        from scfm.adaptation import saving

        return saving.save(self, Path(folder))

    def card(self, **text: str) -> str:
        """The model card in the hub's format; see :func:`scfm.adaptation.modelcard.card`."""
        from scfm.adaptation import modelcard

        return modelcard.card(self, **text)

    def evaluate(
        self, cells: Any, labels: Any, batches: Sequence[str] | None = None, name: str = "test"
    ) -> pd.DataFrame:
        """Scores on cells that were not trained on; the card shows them. See :func:`scfm.adaptation.fitscores.evaluate`."""
        from scfm.adaptation import fitscores

        return fitscores.evaluate(self, cells, labels, batches, name)


def reader_of(model: Any, adapted: Adapted, choices: Choices, dtype: str | None = None) -> Reader:
    """The :class:`Reader` that these choices ask for, with the model's own pooling and layer where none are given."""
    return Reader(
        adapted.network,
        model.special,
        "gene" if choices.level == "gene" else choices.pooling or "mean",
        choices.layer or 0,
        embed.choose_dtype(dtype or choices.dtype, adapted.network.device),
        choices.checkpointing,
        adapted.prompted,
        adapted.n_virtual,
    )


def resolve(model: Any, choices: Choices) -> Choices:
    """The choices with the model's own pooling and layer written out."""
    pooling = choices.pooling or getattr(model, "default_pooling", "cls")
    layer = choices.layer
    if layer is None:
        frozen_geneformer = choices.method == "head" and hasattr(model.network, "bert")
        layer = -1 if frozen_geneformer else 0
    n_layers = len(layers_of(model.network))
    if not isinstance(layer, int) or not -n_layers <= layer <= 0:
        raise ValueError(f"layer is {layer!r}; this model has layers 0 (the last) to {-n_layers} (the input).")
    if layer == -n_layers and choices.method not in ("head", "full"):
        raise ValueError(f"layer={layer} reads the input: there is no layer below it for {choices.method} to train.")
    return dataclasses.replace(choices, pooling=pooling, layer=layer)


def check_cells(model: Any, cells: TokenizedCells, choices: Choices) -> None:
    """Refuse cells that this model cannot read, in the words of ``model.embed``."""
    if hasattr(model.network, "bert"):
        embed.check(model, cells, choices.pooling or "mean", choices.layer or 0)
    else:
        model.check(cells)
    embed.refuse_without_genes(model, cells)
