"""A study as scGPT's fine-tuning reads it: variable genes, bins with zeros, numbered batches and labels, minibatches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfm import baselines, metrics
from scfm.models.scgpt import ScGPT

if TYPE_CHECKING:
    import anndata


@dataclass(frozen=True)
class Study:
    """The cells of a study as rectangles: every cell has the same genes, so no padding is needed."""

    gene_ids: np.ndarray  # int64 (1 + gene,), <cls> first
    values: np.ndarray  # float32 (cell, 1 + gene): bins, 0 = not seen
    genes: list[str]  # symbols, in the order of gene_ids[1:]
    batch: np.ndarray  # int64 (cell,)
    batches: list[str]
    label: np.ndarray  # int64 (cell,), -100 = unknown
    classes: list[str]

    def __len__(self) -> int:
        return len(self.values)


def prepare(
    model: ScGPT, adata: anndata.AnnData, n_genes: int = 1200, labels: Sequence[str] | np.ndarray | None = None
) -> Study:
    """Choose the variable genes that the model knows, and bin every cell over these, zeros included, as upstream does.

    Parameters
    ----------
    adata
        Raw counts; ``obs["batch"]``. Binning sees only the chosen genes.
    labels
        (cell,), "" or "unknown" where not known; ``obs["cell_type"]`` unless given.

    Raises
    ------
    ValueError
        Too many genes for the model, no batches, or labels that do not match the cells.
    """
    room = model.network.config.max_seq_len - 1
    if n_genes > room:
        raise ValueError(f"n_genes is {n_genes}, but this model reads at most {room} genes beside <cls>: take fewer.")
    known = adata[:, model.vocabulary.column_tokens(adata.var) >= 0]
    known = known[:, ~known.var["gene_symbol"].duplicated().to_numpy()]
    chosen = known[:, baselines.variable_genes(known, n_genes)]
    genes = chosen.var["gene_symbol"].astype(str).tolist()
    batches, batch = _numbered(adata.obs["batch"].astype(str).to_numpy() if "batch" in adata.obs else None, adata.n_obs)
    if labels is None:
        labels = adata.obs["cell_type"] if "cell_type" in adata.obs else [""] * adata.n_obs
    names = np.asarray(labels).astype(str)
    if len(names) != adata.n_obs:
        raise ValueError(f"{len(names):,} labels for {adata.n_obs:,} cells: one for each was expected.")
    classes = [name for name in np.unique(names).tolist() if name not in metrics.NO_LABEL]
    place = {name: number for number, name in enumerate(classes)}
    return Study(
        *_rectangle(model, chosen),
        genes=genes,
        batch=batch,
        batches=batches,
        label=np.asarray([place.get(name, -100) for name in names], np.int64),
        classes=classes,
    )


def _numbered(names: np.ndarray | None, n_cells: int) -> tuple[list[str], np.ndarray]:
    if names is None:
        return ["all"], np.zeros(n_cells, np.int64)
    unknown = np.isin(names, metrics.NO_LABEL)
    if unknown.any() and not unknown.all():
        raise ValueError(
            f"The batch of {unknown.sum():,} of {n_cells:,} cells is not known: leave these cells out, or give them a batch."
        )
    batches, batch = np.unique(names, return_inverse=True)
    return batches.tolist(), batch.astype(np.int64)


def _rectangle(model: ScGPT, adata: anndata.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (1 + gene,) and values (cell, 1 + gene); ``<cls>`` carries the padding value, as where embeddings are made.

    (Upstream trains with 0 there and embeds with -2; we use one value for both.)
    """
    cells = model.tokenize(adata, max_len=adata.n_vars + 1, include_zeros=True)
    if len(cells) != adata.n_obs:
        raise ValueError(
            f"obs['filter_pass'] leaves out {adata.n_obs - len(cells):,} of {adata.n_obs:,} cells: drop them before."
        )
    ids, values = cells.tokens.reshape(len(cells), -1), cells.values.reshape(len(cells), -1).copy()  # type: ignore[union-attr]
    values[:, 0] = model.network.config.pad_value
    return ids[0].astype(np.int64), values


def minibatches(
    study: Study, size: int, mask_fraction: float, seed: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Epochs of minibatches without end: (epoch, cells, hidden positions (cell, 1 + gene)); ``<cls>`` is never hidden."""
    n_tokens = study.values.shape[1]
    n_hidden = max(int(mask_fraction * (n_tokens - 1)), int(mask_fraction > 0))
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(study))
        for cells in np.array_split(order, math.ceil(len(study) / size)):  # equal parts: no minibatch of one cell
            mask = np.zeros((len(cells), n_tokens), bool)
            hidden = 1 + np.argsort(rng.random((len(cells), n_tokens - 1)), axis=1)[:, :n_hidden]
            np.put_along_axis(mask, hidden, True, axis=1)
            yield epoch, cells, mask
        epoch += 1


def check(study: Study, on: tuple[str, ...], batch_tokens: bool, domain_norm: str, from_obs: bool) -> None:
    """ValueError if the study has too few batches or types for what is asked of it."""
    if len(study.batches) < 2 and ("DAR" in on or batch_tokens or domain_norm.startswith("dsbn")):
        wants = [
            name
            for name, it in (("DAR", "DAR" in on), ("batch_tokens", batch_tokens), ("DSBN", "dsbn" in domain_norm))
            if it
        ]
        raise ValueError(
            f"There is one batch only ({study.batches[0]!r}), so there is nothing to tell apart for {', '.join(wants)}. Name "
            "the column of batches when loading (load_dataset(..., batch='donor')), or leave DAR out and set "
            "batch_tokens=False, domain_norm='none'."
        )
    if "CLS" in on and len(study.classes) < 2:
        where = "obs['cell_type'] holds" if from_obs else "labels hold"
        found = f"one class, {study.classes[0]!r}" if study.classes else "none that is known"
        raise ValueError(f"CLS needs labels of at least two classes; {where} {found}. Give labels=, or leave CLS out.")
