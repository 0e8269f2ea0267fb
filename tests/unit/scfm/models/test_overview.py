from __future__ import annotations

from pathlib import Path

import pytest

from scfm import genes, models
from scfm.store import hub


def test_a_shape_is_the_catalogues_and_the_caller_may_change_it() -> None:
    shape = models.overview.architecture("geneformer-mini")
    shape["hidden_size"] = 0
    assert (
        models.overview.architecture("geneformer-mini") == hub.catalogue()["models"]["geneformer-mini"]["architecture"]
    )
    with pytest.raises(KeyError, match="no model 'geneformer-max'; it has geneformer-mini"):
        models.overview.architecture("geneformer-max")


def test_every_model_of_the_tables_says_where_it_was_published() -> None:
    fields, cells = models.overview.of_all_fields(), models.overview.of_cells()
    assert fields["doi"].str.startswith("10.").all()
    assert fields["foundation_model"].is_unique
    assert cells["model"].is_unique
    assert set(models.list_models().index[:1]) <= set(cells["model"])


def test_a_vocabulary_comes_without_its_weights() -> None:
    found = models.overview.vocabulary("geneformer-mini")
    assert found.name == models.load_model("geneformer-mini").vocabulary_name
    with pytest.raises(genes.VocabularyError):
        models.overview.vocabulary("tdc/scgpt")


def test_scgpts_own_vocabulary_is_read_where_it_lies_and_never_downloaded(empty_cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"not at hand \(dictionaries/scgpt"):
        genes.SymbolVocabulary.published()
    folder = empty_cache / "dictionaries" / "scgpt"
    folder.mkdir(parents=True)
    (folder / "default_census_vocab.json").write_text('{"CD3E": 0, "NKG7": 1}')
    assert len(genes.SymbolVocabulary.published()) == 2 + 3
