"""Whether a lesson can run on a set: said in words, before anything that takes time."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import scfm
from studies import ablation, headstudy, sets


@pytest.fixture(scope="module")
def base() -> anndata.AnnData:
    whole = scfm.load_dataset("pbmc68k")
    kinds = whole.obs["cell_type"].astype(str).to_numpy()
    return whole[np.isin(kinds, ["CD14+ Monocyte", "CD19+ B"])][:120].copy()


def own_file(base: anndata.AnnData, folder: Path, **columns: object) -> Path:
    """A file of one's own with these columns: symbols only, no column that the course would guess."""
    obs = pd.DataFrame(columns, index=base.obs_names)
    var = pd.DataFrame(index=base.var["gene_symbol"].to_numpy())
    path = folder / "mine.h5ad"
    anndata.AnnData(base.X.copy(), obs=obs, var=var).write_h5ad(path)
    return path


def test_without_a_label_the_columns_that_could_be_one_are_named(base: anndata.AnnData, tmp_path: Path) -> None:
    kinds = base.obs["cell_type"].astype(str).to_numpy()
    path = own_file(base, tmp_path, annotation=kinds, percent=np.linspace(0, 1, 120), barcode=base.obs_names.to_numpy())
    with pytest.raises(
        scfm.datasets.ColumnError, match=r"needs 2 cell types .*mine.*label=: annotation \(2 values\)\.$"
    ):
        sets.suitable(scfm.load_dataset(path))
    sets.suitable(scfm.load_dataset(path), types=0)
    sets.suitable(scfm.load_dataset(path, label="annotation"))
    with pytest.raises(scfm.datasets.ColumnError, match=r"'percent' has 0 of 20 cells or more.*annotation"):
        headstudy.cells_of(str(path), label="percent")  # numbers: each cell would be a type of its own


def test_one_type_is_not_enough(base: anndata.AnnData, tmp_path: Path) -> None:
    path = own_file(base, tmp_path, cell_type=["T"] * 110 + ["B"] * 10)
    with pytest.raises(scfm.datasets.ColumnError, match=r"'cell_type' has 1 of 20 cells or more.*none of its columns"):
        sets.suitable(scfm.load_dataset(path))
    sets.suitable(scfm.load_dataset(path), each=10)


def test_batches_must_be_there_and_share_a_type(base: anndata.AnnData, tmp_path: Path) -> None:
    kinds = base.obs["cell_type"].astype(str).to_numpy()
    path = str(own_file(base, tmp_path, types=kinds, run=np.arange(120) % 2, library=kinds + " library"))
    with pytest.raises(scfm.datasets.ColumnError, match=r"2 batches\. .*batch=: .*run \(2 values\), library"):
        ablation.load_study(path, label="types")
    with pytest.raises(scfm.datasets.ColumnError, match=r"cannot be told apart.*run"):
        ablation.load_study(path, label="types", batch="library")
    assert ablation.load_study(path, label="types", batch="run").obs["batch"].nunique() == 2


def test_where_no_column_can_be_a_batch_one_is_simulated_and_said(
    base: anndata.AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = own_file(base, tmp_path, types=base.obs["cell_type"].astype(str).to_numpy())
    adata = ablation.load_study(str(path), label="types")
    assert set(adata.obs["batch"]) == {"original", "simulated"}
    assert "mine has no column of batches: a second batch is simulated" in caplog.text


def test_too_few_cells(base: anndata.AnnData) -> None:
    with pytest.raises(scfm.datasets.DatasetError, match=r"pbmc68k has 120 cells; this lesson needs 1,000 or more"):
        sets.suitable(base, cells=1000)


def test_a_lesson_that_takes_one_kind_apart_says_which(base: anndata.AnnData) -> None:
    mini = scfm.load_model("scgpt-mini")
    sets.of_kind(mini, "scgpt")
    with pytest.raises(TypeError, match=r"scgpt-mini is a scgpt, .* a geneformer apart: model= geneformer-mini, "):
        sets.of_kind(mini, "geneformer")
    with pytest.raises(scfm.genes.VocabularyError, match="it is a scgpt"):
        scfm.models.overview.vocabulary("scgpt-mini")
