from __future__ import annotations

import pytest

from scfm import models
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
