"""Two sets of golden files: the small one of the repository, always there, and the full one of a folder of SCFM_CACHE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scfm.genes import RankVocabulary, SymbolVocabulary

SMALL = Path(__file__).parents[1] / "golden"
DATASETS = {"pbmc3k": "pbmc3k", "kang_ifnb_pbmc": "kang_ifnb_pbmc", "lung_celllines": "lung_celllines_5batch"}


@dataclass(frozen=True)
class SmallSet:
    """``tests/golden``: a few cells with their counts, and the rows of the vocabularies that they need."""

    name: str = "small"

    def file(self, name: str) -> Path:
        assert (SMALL / name).exists(), f"tests/golden/{name} is part of the repository: git checkout tests/golden"
        return SMALL / name

    def cells(self, name: str, cell_ids: np.ndarray) -> anndata.AnnData:
        with np.load(self.file(f"cells/{name}.npz")) as file:
            var = pd.DataFrame({"ensembl_id": file["ensembl_id"], "gene_symbol": file["gene_symbol"]})
            var.index = var.index.astype(str)
            rows = (file["counts"].astype(np.float32), file["indices"], file["indptr"])
            matrix = sparse.csr_matrix(rows, shape=(len(file["cell_id"]), len(var)))
            obs = pd.DataFrame({"n_counts": matrix.sum(axis=1).A1}, index=file["cell_id"].tolist())
        return anndata.AnnData(matrix, obs, var)[cell_ids].copy()

    def ranks(self, version: str) -> RankVocabulary:
        return RankVocabulary.load(self.file(f"vocabularies/geneformer_{version.lower()}"))

    def symbols(self) -> SymbolVocabulary:
        return SymbolVocabulary.load(self.file("vocabularies/scgpt_vocab.json"))


@dataclass(frozen=True)
class FullSet:
    """``golden/`` in a folder of SCFM_CACHE, with the sets and the dictionaries beside it; what is missing is skipped."""

    shared: Callable[[str], Path]
    name: str = "full"

    def file(self, name: str) -> Path:
        if "geneformer" in name:
            self.shared("dictionaries/geneformer")  # tokens and weights are checked against the published vocabularies
        return self.shared(f"golden/{name}")

    def cells(self, name: str, cell_ids: np.ndarray) -> anndata.AnnData:
        return anndata.read_h5ad(self.shared(f"data/{DATASETS[name]}.h5ad"))[cell_ids].copy()

    def ranks(self, version: str) -> RankVocabulary:
        return RankVocabulary.published(version)

    def symbols(self) -> SymbolVocabulary:
        return SymbolVocabulary.load(self.shared("dictionaries/scgpt/default_census_vocab.json"))


@pytest.fixture(scope="session", params=["small", "full"])
def references(request: pytest.FixtureRequest, shared: Callable[[str], Path]) -> SmallSet | FullSet:
    """What the reference implementations answered: ``references.file("scgpt_plain")``."""
    return SmallSet() if request.param == "small" else FullSet(shared)
